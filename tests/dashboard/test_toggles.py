"""The toggles, generated from the catalog."""

from workbench import catalog
from workbench.dashboard import inspecting, toggles
from workbench.dashboard.inspect_page import InspectState, why_not


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
        assert bool(why_not("activation", name)) == (method.branches > 1)
    assert "swiglu" in why_not("activation", "swiglu")


def test_implementations_that_cannot_run_here_are_greyed():
    options = next(field for field in InspectState().card("b") if field.name == "implementation").options
    method = catalog.method(InspectState().b.methods["attention"])
    assert [option.value for option in options] == ["auto", *method.implementations]
    assert not options[0].why


def test_order_is_offered_for_polynomials_only():
    offered = {
        name for name, method in toggles.methods("activation").items() if inspecting.knobs_of("activation", method)
    }
    assert offered == {"poly_relu", "poly_norm"}
