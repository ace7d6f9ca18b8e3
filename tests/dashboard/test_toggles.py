"""The toggles, generated from the catalog."""

import pytest

from workbench import catalog
from workbench.dashboard.inspect import seeing
from workbench.dashboard.inspect.fitting import why_not
from workbench.dashboard.inspect.state import InspectState
from workbench.dashboard.shell import state, toggles
from workbench.dashboard.shell.toggles import NONE, Configuration

ALL = Configuration(
    {"attention": "flash_attention_2", "activation": "gelu", "hierarchy": NONE, "doubly_stochastic": NONE},
    {"attention": {"window_left": 4}},
)


def test_what_a_toggle_offers_is_what_the_catalog_has():
    for toggle in toggles.TOGGLES:
        assert set(toggles.methods(toggle)) == {m.name for m in catalog.methods().values() if m.toggle == toggle}


def test_empty_toggles_say_so_in_one_sentence():
    empty = [toggle for toggle in toggles.TOGGLES if not toggles.methods(toggle)]
    told = toggles.silent()
    assert (told == "") == (not empty)
    assert all(toggles.label(toggle).lower() in told.lower() for toggle in empty)
    assert toggles.silent(["attention"]) == ""


def test_a_card_shows_every_method_and_the_knobs_of_the_chosen_one():
    shown = InspectState()
    shown.turn("b", "attention", "flash_attention_2")
    fields = {field.name: field for field in shown.card("b")}
    assert {option.value for option in fields["attention"].options} == set(toggles.methods("attention"))
    assert {name for name in fields if name.startswith("attention.")} == {
        f"attention.{knob}" for knob in catalog.method("flash_attention_2").knobs
    }
    assert not any(name.startswith("activation.") for name in fields)
    shown.turn("b", "activation", "poly_norm")
    assert "activation.order" in {field.name for field in shown.card("b")}


def test_knobs_that_both_methods_have_survive_a_change():
    shown = InspectState()
    shown.turn("b", "attention", "flash_attention_2")
    shown.turn("b", "attention.window_left", 2)
    kept = shown.b.options("attention")["window_left"]
    shown.turn("b", "attention", "softmax_attention")
    assert shown.b.options("attention")["window_left"] == kept


def test_gated_activations_are_greyed_with_the_encoders_own_sentence():
    for name, method in toggles.methods("activation").items():
        assert bool(why_not("text", "activation", name)) == (method.branches > 1)
    assert "swiglu" in why_not("text", "activation", "swiglu")


def test_implementations_that_cannot_run_here_are_greyed():
    options = next(field for field in InspectState().card("b") if field.name == "implementation").options
    method = catalog.method(InspectState().b.methods["attention"])
    assert [option.value for option in options] == ["auto", *method.implementations]
    assert not options[0].why


def test_order_is_offered_for_polynomials_only():
    offered = {
        name for name, method in toggles.methods("activation").items() if seeing.knobs_of("activation", method)
    }
    assert offered == {"poly_relu", "poly_norm"}


def knobs_of(toggle, method):
    return dict(method.knobs)


def replacing():
    """(toggle, the first method that it offers) for each toggle that replaces the attention."""
    return [(toggle, next(iter(toggles.methods(toggle)))) for toggle in toggles.REPLACING if toggles.methods(toggle)]


def test_what_can_be_off_offers_none_first():
    for toggle in toggles.TOGGLES:
        assert (next(iter(toggles.choices(toggle)), "") == NONE) == (toggle in toggles.CAN_BE_OFF)


def test_a_toggle_that_is_off_has_no_method():
    assert not ALL.is_on("hierarchy") and not ALL.is_on("caching")
    assert (ALL.mixing, ALL.mixer.name, ALL.mixer_options) == ("attention", "flash_attention_2", {"window_left": 4})
    with pytest.raises(KeyError, match="Hierarchy is off"):
        ALL.method("hierarchy")
    assert Configuration({"attention": "flash_attention_2", "activation": "gelu"}, ALL.knobs) == ALL


def test_what_replaces_the_attention_becomes_the_mixer_and_greys_it_out():
    for toggle, name in replacing():
        chosen = ALL.choose(toggle, name)
        assert (chosen.mixing, chosen.mixer.name, chosen.mixer_options) == (toggle, name, {})
        reason = toggles.conflict(chosen, "attention", "softmax_attention")
        assert "replaces softmax attention" in reason and chosen.mixer.title in reason
        assert not toggles.conflict(chosen, "activation", "relu") and not toggles.conflict(chosen, toggle, NONE)
        assert chosen.choose(toggle, NONE) == ALL  # the attention comes back as it was


def test_hierarchy_and_doubly_stochastic_exclude_each_other():
    pairs = replacing()
    assert len(pairs) == 2
    for (first, name), (second, other) in (pairs, pairs[::-1]):
        chosen = ALL.choose(first, name)
        assert toggles.label(first) in toggles.conflict(chosen, second, other)
        with pytest.raises(ValueError, match="replaces softmax attention"):
            chosen.choose(second, other)
        assert chosen.choose(first, NONE).choose(second, other).mixer.name == other


def test_an_implementation_is_that_of_the_mixer():
    for toggle, name in replacing():
        chosen = ALL.run_as("flex_attention").choose(toggle, name)
        assert chosen.implementation == "auto"
        assert ALL.run_as("reference").choose(toggle, name).implementation == "reference"


def test_toggles_that_are_on_survive_a_link():
    for toggle, name in replacing():
        chosen = ALL.choose(toggle, name).run_as("reference")
        for knob in chosen.mixer.knobs.values():
            if knob.kind == "int":
                chosen = chosen.set(toggle, knob, int(knob.range.low))
        for default in (ALL, chosen, ALL.choose(toggle, name)):
            for goal in (ALL, chosen, chosen.choose(toggle, NONE), chosen.choose("attention", "softmax_attention")):
                link = state.join(toggles.encode("b", default, knobs_of, goal))
                assert toggles.decode("b", default, knobs_of, state.split(link)) == (goal, [])


def test_a_link_with_a_conflict_is_told_and_half_of_it_shown():
    pairs = replacing()
    assert len(pairs) == 2
    (first, name), (second, other) = pairs
    found, wrong = toggles.decode("b", ALL, knobs_of, {f"b.{first}": name, f"b.{second}": other})
    assert found == ALL.choose(first, name)
    assert len(wrong) == 1 and second in wrong[0] and "replaces softmax attention" in wrong[0]
