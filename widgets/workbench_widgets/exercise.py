"""Exercises that check themselves.

In a notebook an exercise is a cell that hands an answer to a check: a number, a choice, or a function whose body is to
be filled in. ``...`` stands for "not answered yet" and passes; a wrong answer raises an ``AssertionError`` that helps.
The check, one solution and typical mistakes stand together in ``workbench_widgets/lessons/<slug>/``, where a test
runs them all.
"""

import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from workbench_widgets import page
from workbench_widgets.answers import Unanswered, number, numbers, watched
from workbench_widgets.source import code_html

Check = Callable[[Any], None]


class WrongAnswer(AssertionError):
    """An answer that does not hold. The learner reads its sentence in a box: a traceback would show our own code."""

    def _render_traceback_(self) -> list[str]:
        return ["Not yet: the sentence above says why."]


class Exercise:
    """A check with a hint in two stages, a solution and typical mistakes; made by the decorator ``exercise``."""

    def __init__(self, check: Check, hint: tuple[str, str], solution: Any, mistakes: Mapping[str, Any], right: str):
        self.check, self.hint, self.solution, self.mistakes, self.right = check, hint, solution, mistakes, right
        self.name = check.__name__
        self.__doc__ = check.__doc__

    def __call__(self, answer: Any = ...) -> None:
        """Check ``answer``. ``...`` passes; a wrong one raises ``WrongAnswer``; a right one says so. The hints stand
        folded under everything but a right answer."""
        try:
            self._judge(answer)
        except Unanswered:
            return self._say("<b>Not answered yet.</b>", "wb-open")
        except AssertionError as wrong:
            reason = str(wrong) or "that is not it."
            self._say(f"<b>Not yet:</b> {page.escape(reason)}", "wb-open")
            raise WrongAnswer(reason) from wrong.__cause__
        return page.show_html(f'<div class="wb-box wb-right"><b>Right.</b> {self.right}</div>')

    def solution_html(self) -> str:
        """One solution, as HTML."""
        if callable(self.solution):
            return code_html(textwrap.dedent(inspect.getsource(self.solution)).rstrip(), "one solution")
        return f"<p><code>{page.escape(self.solution)}</code></p>"

    def _judge(self, answer: Any) -> None:
        taken = self._taken(answer)
        try:
            self.check(taken)
        except (AssertionError, Unanswered):
            raise
        except Exception as error:
            what = "what your function returns" if callable(answer) else repr(answer)
            raise WrongAnswer(f"{what} cannot be checked: {type(error).__name__}: {error}") from error

    def _taken(self, answer: Any) -> Any:
        """The answer as the check takes it: of the kind that the solution is."""
        if answer is ...:
            raise Unanswered
        if callable(self.solution):
            assert callable(answer), f"a function is needed, not {answer!r}."
            return _named_errors(watched(answer))
        if isinstance(self.solution, tuple):
            return numbers(answer, _shape_of(self.solution))
        return answer if isinstance(self.solution, str) else number(answer)

    def _say(self, text: str, kind: str) -> None:
        first, second = self.hint
        inner = f"<details><summary>A second hint</summary><p>{second}</p></details>"
        hints = f"<details><summary>A hint</summary><p>{first}</p>{inner}</details>"
        page.show_html(f'<div class="wb-box {kind}">{text}{hints}</div>')


def exercise(
    *, hint: tuple[str, str], solution: Any, mistakes: Mapping[str, Any], right: str = ""
) -> Callable[[Check], Exercise]:
    """Make an ``Exercise`` of a check: a function of the answer whose ``assert`` statements say what is wrong.

    ``hint`` is a first nudge and nearly the answer, both of which may hold HTML; ``mistakes`` are wrong answers by what
    is wrong with them; ``right`` is said after a right answer. The ``solution`` says what kind of answer is taken: a
    number, (nested) tuples of numbers of its shape, a string, or a function, whose arguments are watched.
    Raises ``ValueError`` for a hint that has not two stages.
    """
    if isinstance(hint, str) or len(hint) != 2:
        raise ValueError("a hint has two stages: hint=('a first nudge', 'nearly the answer').")
    return lambda check: Exercise(check, tuple(hint), solution, mistakes, right)


def _named_errors(function: Callable) -> Callable:
    """``function``, whose own errors are a wrong answer."""

    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except (AssertionError, Unanswered):
            raise
        except Exception as error:
            raise WrongAnswer(f"your function stopped with {type(error).__name__}: {error}") from error

    return call


def _shape_of(solution: Any) -> tuple[int, ...]:
    return (len(solution), *_shape_of(solution[0])) if isinstance(solution, tuple) else ()
