"""The cell of a lesson that settles the paper's claims."""

from collections.abc import Mapping

from workbench import claims
from workbench.paper import Paper
from workbench_widgets import page
from workbench_widgets.session import Session

HEADINGS = ("claim", "the paper", "here", "recorded on a GPU", "verdict here")


def show_claims(paper: Paper, measured: Mapping[str, float], session: Session) -> None:
    """Judge the claims by the numbers ``measured`` here (``claims.settle``) and show them beside what was recorded on a
    GPU: a reader without one sees what came out there.

    Raises ``claims.ClaimFailed``, the table in its message, when a claim that must hold here does not.
    """
    settled = claims.settle(paper, measured, scale=session.scale, device=session.device)
    rows = []
    for row in settled.frame.itertuples():
        words = [page.escape(cell) for cell in (row.statement, row.paper, row.here, row.recorded, row.verdict)]
        if row.caveat:
            words[0] += f'<div class="wb-caveat">{page.escape(row.caveat)}</div>'
        rows.append(words)
    page.show_html(page.table_html(HEADINGS, rows, page.escape(settled.machines), left=True))
