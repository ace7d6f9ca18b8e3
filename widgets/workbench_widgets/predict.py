"""A question whose answer the reader commits to before it is shown."""

from collections.abc import Callable, Mapping, Sequence

import ipywidgets

from workbench_widgets import page


class Prediction(page.WithStill):
    """Made by ``predict``. ``taken`` is the reader's choice, or the right answer while nobody has ``committed``."""

    def __init__(self, question: str, choices: Sequence[str], answer: str, explanation: str, evidence: str) -> None:
        self.question, self.choices, self.answer = question, list(choices), answer
        self.taken, self.committed = answer, False
        self._after = evidence + f"<p>{explanation}</p>"
        listed = "".join(f"<li>{choice}</li>" for choice in self.choices)
        self.still = (
            f'<div class="wb-box wb-open"><p><b>Predict.</b> {question}</p><ul>{listed}</ul>'
            f"<details><summary>Commit to an answer, then open this</summary>"
            f"<p>It is <b>{answer}</b>.</p>{self._after}</details></div>"
        )
        self._buttons = ipywidgets.RadioButtons(
            options=[(_plain(choice), choice) for choice in self.choices], value=None, layout={"width": "max-content"}
        )
        self._commit = ipywidgets.Button(description="Commit", button_style="primary", disabled=True)
        self._reveal = ipywidgets.HTMLMath()
        self._buttons.observe(lambda change: setattr(self._commit, "disabled", change.new is None), "value")
        self._commit.on_click(lambda _: self.commit(self._buttons.value))
        asked = ipywidgets.HTMLMath(f"<p><b>Predict.</b> {question}</p>")
        self.live = ipywidgets.VBox([asked, self._buttons, self._commit, self._reveal])
        self.live.add_class("wb-box").add_class("wb-open")

    def commit(self, choice: str) -> None:
        """What the button does: take the choice, and show the answer and why."""
        if choice not in self.choices:
            raise ValueError(f"{choice!r} is no choice: {', '.join(self.choices)}.")
        self.taken, self.committed = choice, True
        self._buttons.disabled = self._commit.disabled = True
        self._commit.layout.display = "none"
        verdict = "As you said" if choice == self.answer else f"You said <i>{choice}</i>. It is not"
        self._reveal.value = f"<p>{verdict}: it is <b>{self.answer}</b>.</p>{self._after}"
        self.live.remove_class("wb-open").add_class("wb-right" if choice == self.answer else "wb-open")


def predict(
    question: str,
    choices: Sequence[str],
    answer: str,
    explanation: str | Mapping[str, str],
    *,
    evidence: str | Callable[[], str] = "",
) -> Prediction:
    """Ask; show the answer, the evidence and the explanation once the reader has committed.

    ``answer`` should come out of a computation in the same cell, so that text and fact cannot part. Where it may differ
    from machine to machine, ``explanation`` has a text for each choice that can win, and the one that follows what was
    measured is shown. Without a reader the answer is taken itself, and an exported page folds it away. Texts may hold
    HTML and LaTeX; ``evidence`` (HTML, or a function that makes it) is what was measured. Raises ``ValueError`` when
    the answer is none of the choices, or when no text explains it.
    """
    if answer not in choices:
        raise ValueError(f"The answer {answer!r} is none of the choices {list(choices)}.")
    explained = {answer: explanation} if isinstance(explanation, str) else explanation
    if strangers := sorted(set(explained) - set(choices)):
        raise ValueError(f"{strangers[0]!r} is explained and is none of the choices {list(choices)}.")
    if answer not in explained:
        raise ValueError(f"The answer {answer!r} has no explanation: there are some for {list(explained)}.")
    return Prediction(question, choices, answer, explained[answer], evidence() if callable(evidence) else evidence)


def _plain(choice: str) -> str:
    """A choice as a button shows it: buttons know no HTML."""
    for mark, text in {"<b>": "", "</b>": "", "<i>": "", "</i>": "", "<code>": "", "</code>": "", "&lt;": "<"}.items():
        choice = choice.replace(mark, text)
    return choice
