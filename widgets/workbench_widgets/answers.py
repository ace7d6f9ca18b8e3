"""What a learner's answer may look like, and how it is compared: numbers in any form, functions that are watched.

A check asks ``close`` (a number) or ``same`` (a tensor); both say shape and dtype when they do not fit. ``numbers`` and
``watched`` stand between the learner and the check: ``Exercise`` uses them, a check never has to.
"""

import inspect
from collections.abc import Callable, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

CLOSENESS = {torch.float64: 1e-9, torch.float32: 1e-5}
"""How near a right result comes to the expected one, relative to the largest expected number, by its dtype."""


class Unanswered(Exception):
    """An answer that still holds the ``...`` which were to be replaced."""


# --- numbers ---------------------------------------------------------------------------------------------------------


def number(answer: Any) -> int | float:
    """``answer`` as Python's own number: from NumPy, a tensor or an array without dimensions, a fraction, a decimal."""
    plain = _plain(answer)
    assert not isinstance(plain, tuple), f"one number is needed, not {_counted(_shape(plain))}."
    return plain


def numbers(answer: Any, shape: tuple[int, ...]) -> Any:
    """``answer`` as nested tuples of Python's numbers: from tuples, lists, arrays and tensors of ``shape``."""
    plain = _plain(answer)
    found = _shape(plain)
    assert found == shape, f"{_counted(shape)} are needed, not {_counted(found)}."
    return plain


def truths(got: Any, count: int) -> tuple[bool, ...]:
    """``got`` as so many of Python's booleans: from a list, a tuple, an array or a tensor of them, or of tensors."""
    found = got.tolist() if isinstance(got, (Tensor, np.ndarray)) else got
    needed = f"{count} times True or False is needed, not"
    assert isinstance(found, (tuple, list)), f"{needed} {got!r}."
    found = tuple(each.tolist() if isinstance(each, (Tensor, np.ndarray, np.generic)) else each for each in found)
    assert len(found) == count and all(isinstance(each, bool) for each in found), f"{needed} {found}."
    return found


def close(got: Any, expected: float, tolerance: float, message: str) -> None:
    """Assert that ``got`` is a number, in whatever form, within ``tolerance`` (relative) of ``expected``."""
    assert abs(number(got) - expected) <= tolerance * abs(expected), message


def _plain(answer: Any) -> Any:
    if isinstance(answer, (Tensor, np.ndarray, np.generic)):
        answer = answer.tolist()
    if isinstance(answer, (tuple, list)):
        return tuple(map(_plain, answer))
    if answer is ...:
        raise Unanswered
    assert isinstance(answer, (Real, Decimal)) and not isinstance(answer, bool), f"a number is needed, not {answer!r}."
    return answer if isinstance(answer, int) else float(answer)


def _shape(plain: Any) -> tuple[int, ...]:
    """The shape of nested tuples; rows of different lengths are refused."""
    if not isinstance(plain, tuple):
        return ()
    inner = {_shape(part) for part in plain} or {()}
    assert len(inner) == 1, "its rows are of different lengths."
    return (len(plain), *inner.pop())


def _counted(shape: Sequence[int]) -> str:
    """A shape in words: "one number", "4 numbers", "2 rows of 3 numbers"."""
    match shape:
        case ():
            return "one number"
        case (count,):
            return f"{count} number{'s' * (count != 1)}"
        case (rows, columns):
            return f"{rows} row{'s' * (rows != 1)} of {_counted((columns,))}"
    return f"numbers of shape {tuple(shape)}"


# --- tensors ---------------------------------------------------------------------------------------------------------


def same(
    got: Any, expected: Tensor, message: str, *, what: str = "the result", tolerance: float | None = None
) -> Tensor:
    """Assert that ``got`` is ``expected`` and return it as float64.

    It may be a tensor, an array, a number or a list of numbers, in float64 or float32; shape, dtype and numbers that
    are not finite are named. ``message`` follows how far it is off; ``what`` is what the sentence speaks of.
    ``tolerance``, relative to the largest expected number, is that of ``CLOSENESS`` unless given.
    """
    found = shaped(got, tuple(expected.shape), what=what)
    allowed = CLOSENESS[found.dtype] if tolerance is None else tolerance
    largest = expected.double().abs().amax().item() if expected.numel() else 0.0
    off = (found - expected).double().abs().amax().item() if expected.numel() else 0.0
    assert off <= allowed * largest, f"{what} is off by up to {off:.2g}. {message}"
    return found.double()


def shaped(got: Any, shape: tuple[int, ...], *, what: str = "the result") -> Tensor:
    """``got`` as a finite tensor of float64 or float32, once its shape has been found to be ``shape``."""
    if isinstance(got, (Tensor, np.ndarray, np.generic)):
        found = torch.as_tensor(got).detach().cpu()
    else:
        plain = _plain(got)
        found = torch.tensor(plain, dtype=torch.float64).reshape(_shape(plain))
    assert found.shape == shape, f"{what} must be of shape {shape}, not {tuple(found.shape)}."
    assert found.dtype in CLOSENESS, f"{what} must be float64 or float32, not {str(found.dtype).partition('.')[2]}."
    assert found.isfinite().all(), f"{what} holds inf or NaN."
    return found


def parts(got: Any, *names: str) -> tuple[Any, ...]:
    """The results of a function that returns several, once there are as many as ``names``."""
    listed = ", ".join(names)
    assert isinstance(got, (tuple, list)), f"{len(names)} results are needed ({listed}), not one {type(got).__name__}."
    assert len(got) == len(names), f"{len(names)} results are needed ({listed}), not {len(got)}."
    return tuple(got)


# --- functions -------------------------------------------------------------------------------------------------------


def watched(function: Callable) -> Callable:
    """``function`` as a check calls it: with arguments that are its own, and refused when it changes them in place.

    Raises ``Unanswered`` when it returns ``...``, an ``AssertionError`` when it returns nothing.
    """

    def call(*given: Any, **options: Any) -> Any:
        arguments, keywords = _cloned(given), {name: _cloned(value) for name, value in options.items()}
        result = function(*arguments, **keywords)
        if any(part is ... for part in (result if isinstance(result, (tuple, list)) else (result,))):
            raise Unanswered
        assert result is not None, "your function returns nothing: it needs a return."
        names, used_ones = (*_names(function, given), *options), (*arguments, *keywords.values())
        for name, used, before in zip(names, used_ones, (*given, *options.values()), strict=True):
            assert _unchanged(used, before), (
                f"your function changes its argument {name} in place: whoever calls it still needs that. Work on a "
                "copy, or write x = x + 1 instead of x += 1."
            )
        return result

    return call


def _names(function: Callable, given: Sequence[Any]) -> list[str]:
    """What the learner calls the arguments."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        names = []
    return [names[place] if place < len(names) else f"number {place + 1}" for place in range(len(given))]


def _cloned(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    return type(value)(map(_cloned, value)) if type(value) in (tuple, list) else value


def _unchanged(used: Any, before: Any) -> bool:
    if isinstance(before, (Tensor, np.ndarray)):
        pair = torch.as_tensor(used), torch.as_tensor(before)
        alike = pair[0].shape == pair[1].shape and pair[0].dtype == pair[1].dtype
        return alike and torch.allclose(*pair, rtol=0, atol=0, equal_nan=True)
    if type(before) in (tuple, list):
        return len(used) == len(before) and all(map(_unchanged, used, before))
    return used is before or bool(used == before)
