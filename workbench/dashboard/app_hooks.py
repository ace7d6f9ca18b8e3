"""What the server does once, before anybody comes: it fetches what is slow to fetch, beside its own start."""

import threading
from typing import Any


def on_server_loaded(server_context: Any) -> None:
    """Called by the server (see Bokeh's lifecycle hooks)."""
    threading.Thread(target=_warm, name="workbench-warm", daemon=True).start()


def _warm() -> None:
    from workbench.dashboard import shell

    shell.warm()
