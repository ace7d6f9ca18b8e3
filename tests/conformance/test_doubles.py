"""Methods of other kinds than the papers that are there - trees, states, whole numbers, no gradient - pass as well."""

import pytest

from doubles import adan_step, fusemax_model, selective_scan
from workbench.conformance import CHECKS, run_check

DOUBLES = [adan_step.METHOD, fusemax_model.METHOD, selective_scan.METHOD]
QUICK = [check for check in CHECKS.values() if not check.costly and "cpu" in check.devices]


@pytest.mark.parametrize("check", QUICK, ids=lambda check: check.name)
@pytest.mark.parametrize("method", DOUBLES, ids=lambda method: method.name)
def test_a_double_passes(method, check):
    run_check(check, method)
