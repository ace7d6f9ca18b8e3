"""What the server does once, before anybody comes: it fetches what is slow to fetch, beside its own start."""

import sys
import threading
from typing import Any

from panel.io.server import RootHandler
from tornado.web import RequestHandler

STOP_S = 10.0  # so long the server waits at its end for the step of a job


def _to_the_dashboard(handler: RequestHandler, url: str, *arguments: Any, **options: Any) -> None:
    """Panel's redirect to the one application, with what the link asks for, and from wherever the server is mounted:
    "./dashboard" leads from /lab/x/ to /lab/x/dashboard, but from /lab/x to /lab/dashboard."""
    path, query = handler.request.path, handler.request.query
    if url.startswith("./") and not path.endswith("/"):
        url = f"./{path.rpartition('/')[2]}/{url.removeprefix('./')}"
    RequestHandler.redirect(handler, f"{url}?{query}" if query and "?" not in url else url, *arguments, **options)


# A link to the server alone opens its view, too, which Panel has no setting for.
RootHandler.redirect = _to_the_dashboard


def on_server_loaded(server_context: Any) -> None:
    """Called by the server (see Bokeh's lifecycle hooks)."""
    # A sweep of small calls asks for the interpreter all the time, and the event loop stands in line for it after every
    # little thing that it does: at Python's usual 5 ms a turn a click would take a second.
    sys.setswitchinterval(0.0005)
    threading.Thread(target=_warm, name="workbench-warm", daemon=True).start()


def on_server_unloaded(server_context: Any) -> None:
    """Nothing is computed any more when Python takes its modules apart."""
    from workbench.dashboard.shell import figures
    from workbench.dashboard.shell import frame as shell

    figures.stop()
    shell.worker().stop(STOP_S)


def _warm() -> None:
    from workbench.dashboard.shell import frame as shell
    from workbench.dashboard.shell import garbage

    shell.warm()
    garbage.keeper.keep()
