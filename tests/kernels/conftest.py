"""Kernels run in a complete interpreter here."""

from interpreter import complete_interpreter  # noqa: F401 (a fixture)
