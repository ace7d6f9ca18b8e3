"""The catalog finds every paper by its slug, and says what it has when asked for another."""

import subprocess
import sys

import pytest

from workbench import catalog
from workbench.paper import Claim, Method, Paper


def test_slugs_come_in_reading_order_and_import_nothing():
    code = "import sys; from workbench import catalog; print(*catalog.slugs()); assert 'torch' not in sys.modules"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert printed == list(catalog.slugs())
    order = [catalog.CHAPTERS.index(chapter) for chapter in catalog.slugs().values()]
    assert order == sorted(order)
    assert {"flash_attention_2", "polycom"} <= set(printed)
    assert not any(slug.startswith("_") for slug in printed)


def test_a_paper_knows_its_place():
    for slug, chapter in catalog.slugs().items():
        paper = catalog.paper(slug)
        assert isinstance(paper, Paper) and (paper.slug, paper.chapter) == (slug, chapter)
        assert catalog.paper(slug) is paper
        assert paper.notebook == f"notebooks/{chapter}/{slug}.ipynb"
        assert paper.url == f"https://arxiv.org/abs/{paper.arxiv}"
    assert [paper.slug for paper in catalog.papers()] == list(catalog.slugs())


def test_an_unknown_slug_is_answered_with_the_nearest():
    with pytest.raises(KeyError, match=r"No paper is called 'flash_atention'\. Did you mean flash_attention_2\?"):
        catalog.paper("flash_atention")
    with pytest.raises(KeyError, match="Did you mean .*polycom"):
        catalog.paper("zzzzzz")


def test_methods_are_found_by_name_and_by_toggle():
    every = catalog.methods()
    assert all(isinstance(method, Method) and method.name == name for name, method in every.items())
    assert len(every) == sum(len(paper.methods) for paper in catalog.papers()), "two methods share a name"
    assert {"softmax_attention", "flash_attention_2"} <= set(catalog.methods("attention"))
    assert {"gelu", "poly_norm"} <= set(catalog.methods("activation"))
    assert not set(catalog.methods("attention")) & set(catalog.methods("activation"))
    assert catalog.method("gelu") is every["gelu"]


def test_an_unknown_method_is_answered_with_the_nearest():
    with pytest.raises(KeyError, match=r"No method is called 'polynorm'\. Did you mean .*poly_norm"):
        catalog.method("polynorm")


def test_a_paper_says_which_methods_it_has():
    paper = catalog.paper("flash_attention_2")
    assert paper.method("flash_attention_2").name == "flash_attention_2"
    with pytest.raises(KeyError, match="flash_attention_2 has no method 'gelu': it has softmax_attention"):
        paper.method("gelu")


@pytest.mark.parametrize(
    ("low", "high", "value", "holds"),
    [
        (1, 2, 1.5, True),
        (1, 2, 1, True),
        (1, 2, 2, True),
        (1, 2, 0.999, False),
        (1, 2, 2.001, False),
        (None, 2, -1e9, True),
        (1, None, 1e9, True),
        (None, None, 0, True),
        (None, None, float("nan"), False),
        (1, None, float("nan"), False),
        (1, None, float("inf"), True),
    ],
)
def test_a_claim_holds_inside_its_interval(low, high, value, holds):
    words = dict.fromkeys(("name", "statement", "where", "reported", "unit", "how"), "")
    assert Claim(**words, low=low, high=high).holds(value) is holds
