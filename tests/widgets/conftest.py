"""What the widgets put on the page, without a page."""

import pytest

from workbench_widgets import page


class Displayed(list):
    """Everything that was displayed; ``html`` is the HTML of it."""

    def __call__(self, *things, **options):
        self.extend(things)

    @property
    def html(self) -> str:
        return "".join(thing.data for thing in self if hasattr(thing, "data"))


@pytest.fixture
def displayed(monkeypatch) -> Displayed:
    seen = Displayed()
    monkeypatch.setattr(page, "display", seen)
    return seen
