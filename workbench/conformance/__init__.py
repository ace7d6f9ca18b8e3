"""Conformance: what every method must do, whatever paper it comes from.

The checks are listed in ``CHECKS``, one function each; its docstring is the contract, as a method's author reads it
(``workbench check --explain``). ``conform(method)`` runs them all, and so does ``workbench check module:name`` on a
method of one's own. The tests run them over the catalog.
"""

from workbench.conformance import (
    arguments,  # noqa: F401  (importing a topic enters its checks)
    attention,  # noqa: F401
    costs,  # noqa: F401
    declaration,  # noqa: F401
    derivatives,  # noqa: F401
    empties,  # noqa: F401
    graphs,  # noqa: F401
    numbers,  # noqa: F401
    objects,  # noqa: F401
    precision,  # noqa: F401
    results,  # noqa: F401
    states,  # noqa: F401
)
from workbench.conformance.checks import (
    CHECKS,
    CannotRunHere,
    Check,
    Context,
    DoesNotApply,
    Outcome,
    conform,
    run_check,
)
from workbench.conformance.closeness import assert_close, compare
from workbench.conformance.poison import poisoned_memory

__all__ = [
    "CHECKS",
    "CannotRunHere",
    "Check",
    "Context",
    "DoesNotApply",
    "Outcome",
    "assert_close",
    "compare",
    "conform",
    "poisoned_memory",
    "run_check",
]
