"""Components whose browser half asks something, and is always answered."""

from __future__ import annotations

from typing import Any

import panel as pn

from workbench.dashboard.shell.jobs import sentence


class Asking(pn.custom.JSComponent):
    """A component whose script sends its messages with ``Server.ask`` (static/server.js).

    ``hear`` deals with a message. Whatever becomes of that, the browser is told that it is over; when ``hear`` raised,
    with a sentence that the visitor is shown.
    """

    __abstract = True

    def hear(self, data: Any) -> None:
        """Deal with a message. Raises ``ValueError`` with a sentence when what it asks for cannot be."""
        raise NotImplementedError

    def _handle_msg(self, data: Any) -> None:
        question = data.get("question") if isinstance(data, dict) else None
        wrong = ""
        try:
            self.hear(data)
        except Exception as error:
            wrong = sentence(error)
        if isinstance(question, int):
            self._send_msg({"answer": question, "wrong": wrong})
