"""The start page: its exercise, its question, its map of papers."""

import pytest

from workbench import catalog
from workbench.models import pretrained
from workbench_widgets.exercise import WrongAnswer
from workbench_widgets.lessons import start_here as lesson


def test_the_exercise():
    for exercise in lesson.EXERCISES:
        exercise(...)
        exercise(exercise.solution)
        for mistake in exercise.mistakes.values():
            with pytest.raises(WrongAnswer):
                exercise(mistake)


def test_the_question_about_one_word():
    if reasons := pretrained.why_not():
        pytest.skip(" ".join(reasons))
    assert lesson.one_word().answer == "“it” looks at “animal” less"


def test_the_map_names_every_paper():
    shown = lesson.map_of_papers()
    for paper in catalog.papers():
        assert f"]({paper.chapter}/{paper.slug}.ipynb)" in shown and paper.url in shown


def test_the_heads_that_the_text_names():
    if reasons := pretrained.why_not():
        pytest.skip(" ".join(reasons))
    maps = pretrained.load().inspect(lesson.EXAMPLES[0]).maps
    assert maps[0, 2].diagonal(-1).mean() > 0.99
    assert maps[1, 8].diagonal(1).mean() > 0.6
    assert maps[4, 5][:, 0].mean() > 0.85
