"""The rule by which a test here calls two results equal; it lives with the conformance suite."""

from workbench.conformance.closeness import assert_close

__all__ = ["assert_close"]
