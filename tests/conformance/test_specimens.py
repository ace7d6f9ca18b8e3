"""The checks themselves: each lets what is right pass, and catches what it is there to catch."""

import pytest

from conformance.specimens.sound import SOUND
from conformance.specimens.wrong import WRONG
from workbench.conformance import CHECKS, run_check
from workbench.conformance.checks import in_a_sentence

QUICK = [check for check in CHECKS.values() if not check.costly and "cpu" in check.devices]
CAUGHT = [
    pytest.param(CHECKS[name], method, word, id=f"{name}-{number}")
    for name, found in WRONG.items()
    for number, (method, word) in enumerate(found)
    if name in CHECKS
]


def test_every_check_has_a_specimen():
    assert set(WRONG) == set(CHECKS)


@pytest.mark.parametrize("check", QUICK, ids=lambda check: check.name)
@pytest.mark.parametrize("name", SOUND)
def test_what_is_right_passes(name, check):
    run_check(check, SOUND[name])


@pytest.mark.parametrize(("check", "method", "word"), CAUGHT)
def test_what_is_wrong_is_caught(check, method, word):
    with pytest.raises(Exception) as caught:
        run_check(check, method)
    assert word in in_a_sentence(caught.value)
