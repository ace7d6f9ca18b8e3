"""What the server does before anybody comes: as much for a paper more as for the one before."""

from types import SimpleNamespace

import pytest

from workbench.dashboard.inspect import work as inspecting
from workbench.dashboard.shell import toggles
from workbench.models import pretrained


@pytest.mark.parametrize("count", [4, 40])
def test_every_method_is_run_once_and_not_every_pair(monkeypatch, count):
    ran = []
    methods = {toggle: {f"{toggle}_{number}": None for number in range(count)} for toggle in toggles.TOGGLES}
    encoder = SimpleNamespace(why_not=lambda **options: [], encode=lambda text, **options: ran.append(options))
    monkeypatch.setattr(toggles, "methods", methods.__getitem__)
    monkeypatch.setattr(pretrained, "why_not", lambda: [])
    monkeypatch.setattr(pretrained, "load", lambda device: encoder)
    list(inspecting.warm("cpu")(lambda: False))
    used = [toggle for toggle in toggles.TOGGLES if toggle != "caching"]
    assert len(ran) == len(used) * count
    known = {name for options in ran for name in options.values()}
    assert known >= {name for toggle in used for name in methods[toggle]}
