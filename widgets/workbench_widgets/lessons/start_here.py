"""The start page: the map of papers, and one question and one exercise to try the machinery on."""

from workbench import catalog
from workbench.models import pretrained
from workbench.tasks.sentences import EXAMPLES
from workbench_widgets.answers import close
from workbench_widgets.exercise import exercise
from workbench_widgets.predict import Prediction, predict

LAYER, HEAD = 3, 1
"""A head of the encoder that looks for what a pronoun stands for; found by trying all 72."""


def map_of_papers() -> str:
    """Every paper of the catalog as a table in Markdown, with links to its lesson."""
    rows = [
        f"| {paper.chapter} | [{paper.title.partition(':')[0]}]({paper.notebook.removeprefix('notebooks/')}) "
        f"| {paper.idea} | {len(paper.claims)} | [{paper.arxiv}]({paper.url}) |"
        for paper in catalog.papers()
    ]
    return "\n".join(["| chapter | lesson | idea | claims | paper |", "| --- | --- | --- | --- | --- |", *rows])


def looks_at(text: str, query: str, key: str) -> float:
    """How much ``query`` attends to ``key`` in that head."""
    seen = pretrained.load().inspect(text)
    return float(seen.maps[LAYER, HEAD, seen.tokens.index(query), seen.tokens.index(key)])


def one_word() -> Prediction:
    """A question to try the machinery on."""
    tired, wide = (looks_at(text, "it", "animal") for text in EXAMPLES[:2])
    return predict(
        "Now one word of the sentence changes: not too <i>tired</i>, but too <i>wide</i>. It is no longer the "
        "animal that “it” stands for. What does this head do?",
        ["nothing: it has learned positions", "“it” looks at “animal” less", "“it” looks at “animal” more"],
        "“it” looks at “animal” less" if wide < tired else "“it” looks at “animal” more",
        "A word that comes three tokens <i>later</i> changes where “it” looks. Nobody told the encoder about "
        "pronouns.",
        evidence=f"<p>The weight falls from {tired:.2f} to {wide:.2f}.</p>",
    )


@exercise(
    hint=(
        "Attention compares every token with every token, itself included.",
        "A map has a row for each of the 15 tokens, and a column for each.",
    ),
    solution=225,
    mistakes={"each pair once": 105, "the tokens": 15},
    right="15 · 15 = 225, for each of 72 heads. With 15,000 tokens it would be 225 million: hence the papers.",
)
def cells(answer):
    """How many cells has one attention map of this sentence?"""
    assert answer != 105, "a token also looks at itself, and A at B is another cell than B at A."
    close(answer, 225, 0, f"the sentence has 15 tokens with [CLS] and [SEP]; {answer} is not its number of pairs.")


EXERCISES = (cells,)
PREDICTIONS = (one_word,)
