"""The cell of a lesson that settles claims."""

import pytest

from toy import PAPER
from workbench import claims
from workbench_widgets import show_claims
from workbench_widgets.session import Session

HERE = Session(device="cpu", scale="ci")


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_RESULTS", str(tmp_path))


def test_claims_are_shown_with_both_machines(displayed):
    show_claims(PAPER, {"faster": 2.5, "exact": 1e-7}, HERE)
    for words in ("It is faster.", "2.5 x", "holds", "recorded on a GPU", "torch"):
        assert words in displayed.html


def test_what_must_hold_and_does_not_stops_the_lesson(displayed):
    with pytest.raises(claims.ClaimFailed, match="toy: exact must hold"):
        show_claims(PAPER, {"faster": 2.5, "exact": 1.0}, HERE)
