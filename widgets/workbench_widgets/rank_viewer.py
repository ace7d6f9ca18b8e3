"""Simulated ranks, step by step: what each holds, what is sent, and how many bytes every link has carried."""

from workbench import plots
from workbench.models.ranks import Run
from workbench_widgets.frames import Frames


class RankViewer(Frames):
    """Made by ``rank_viewer``: a slider over the steps of ``run``."""

    def __init__(self, run: Run) -> None:
        self.run = run
        first = min(1, run.steps)
        super().__init__(
            lambda step: plots.ranks_picture(run, step), range(run.steps + 1), what="step", first=first,
            shown=(first, run.steps),
        )  # fmt: skip


def rank_viewer(run: Run) -> RankViewer:
    """Look at what ``workbench.models.ranks.run`` simulated. What a rank said to hold (``rank.hold(keys="K2")``) stands
    in its box, what a message was called (``what=``) beside its arrow, with the bytes.

    Raises ``ValueError`` for more ranks than a ring can show.
    """
    return RankViewer(run)
