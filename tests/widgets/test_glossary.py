"""The glossary."""

import pytest

from workbench_widgets import show_glossary
from workbench_widgets.glossary import TERMS


def test_terms_are_explained_in_alphabetical_order(displayed):
    show_glossary("warp", "kernel", {"Pauli string": "A product of <i>Pauli</i> matrices."})
    said = displayed.html
    assert said.index("kernel</dt>") < said.index("Pauli string</dt>") < said.index("warp</dt>")
    assert TERMS["warp"] in said and "<i>Pauli</i>" in said


@pytest.mark.parametrize("given, message", [
    (("wrap",), "'wrap' is not in the glossary"), (({"warp": "Again."},), "'warp' is explained already"),
    (("warp", "warp"), "'warp' is explained already"), (({"a": "b"}, {"a": "c"}), "'a' is explained already"),
])  # fmt: skip
def test_a_term_is_explained_once(given, message):
    with pytest.raises(ValueError, match=message):
        show_glossary(*given)


def test_terms_stand_in_order_and_are_sentences():
    assert list(TERMS) == sorted(TERMS, key=str.casefold)
    assert all(text.endswith(".") for text in TERMS.values())
