"""Exercises that check themselves.

In a notebook an exercise is a cell that hands an answer to a check: a number, a choice, or a function whose body is to
be filled in. ``...`` stands for "not answered yet" and passes; a wrong answer raises an ``AssertionError`` that helps.
The check, one solution and typical mistakes stand together in ``workbench_widgets/lessons/<slug>/``, where a test
runs them all.
"""

import inspect
import textwrap
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from workbench_widgets import page
from workbench_widgets.source import code_html


class Unanswered(Exception):
    """A function that was to be filled in still returns ``...``."""


class WrongAnswer(AssertionError):
    """An answer that does not hold; shown to the learner without a traceback, which would only show our own code."""

    def _render_traceback_(self) -> list[str]:
        return [f"Not yet: {self}"]


class Exercise:
    """A check with a hint, a solution and typical mistakes; made by the decorator ``exercise``."""

    def __init__(self, check: Callable[[Any], None], hint: str, solution: Any, mistakes: Mapping[str, Any], right: str):
        self.check, self.hint, self.solution, self.mistakes, self.right = check, hint, solution, mistakes, right
        self.name = check.__name__
        self.__doc__ = check.__doc__

    def __call__(self, answer: Any = ...) -> None:
        """Check ``answer``. ``...`` passes with a hint; a wrong one raises ``WrongAnswer``; a right one says so."""
        try:
            if answer is ...:
                raise Unanswered
            self.check(_watched(answer) if callable(answer) else _plain(answer))
        except Unanswered:
            return _say(f"<b>Not answered yet.</b> Hint: {self.hint}", "wb-open")
        except AssertionError as wrong:
            raise WrongAnswer(str(wrong) or self.hint) from None
        except Exception as error:
            if not callable(answer):
                raise WrongAnswer(f"{answer!r} is not an answer that can be checked. {_words(error)}") from error
            raise WrongAnswer(f"your function stopped with {_words(error)}") from error
        return _say(f"<b>Right.</b> {self.right}", "wb-right")

    def show_solution(self) -> None:
        """One solution, folded away."""
        if callable(self.solution):
            shown = code_html(textwrap.dedent(inspect.getsource(self.solution)).rstrip(), "one solution")
        else:
            shown = f"<p><code>{page.escape(self.solution)}</code></p>"
        page.show_html(f"<details><summary>Show a solution</summary>{shown}</details>")


def exercise(
    *, hint: str, solution: Any, mistakes: Mapping[str, Any], right: str = ""
) -> Callable[[Callable[[Any], None]], Exercise]:
    """Make an ``Exercise`` of a check: a function of the answer whose ``assert``\\ s say what is wrong.

    ``mistakes`` are wrong answers by what is wrong with them; ``right`` is said after a right answer.
    """
    return lambda check: Exercise(check, hint, solution, mistakes, right)


def close(got: Any, expected: float, tolerance: float, message: str) -> None:
    """Assert that ``got`` is a number within ``tolerance`` (relative) of ``expected``."""
    assert isinstance(got, (int, float)) and not isinstance(got, bool), f"a number is needed, not {got!r}."
    assert abs(got - expected) <= tolerance * abs(expected), message


def _plain(answer: Any) -> Any:
    """A number in whatever form (NumPy's, a tensor or array without dimensions, a fraction) as Python's own, in tuples
    and lists too; anything else as it is."""
    if isinstance(answer, (tuple, list)):
        return type(answer)(map(_plain, answer)) if type(answer) in (tuple, list) else answer
    if getattr(answer, "ndim", None) == 0 and hasattr(answer, "item"):
        return answer.item()
    return float(answer) if isinstance(answer, Fraction) else answer


def _watched(function: Callable) -> Callable:
    def call(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options)
        parts = result if isinstance(result, tuple) else (result,)
        if any(part is ... for part in parts):
            raise Unanswered
        assert result is not None, "your function returns nothing: it needs a return."
        return result

    return call


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _say(text: str, kind: str) -> None:
    page.show_html(f'<div class="wb-box {kind}">{text}</div>')
