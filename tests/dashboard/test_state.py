"""Links: what a view writes it reads again; what is wrong with a link is a sentence and the nearest that works."""

import pytest

from workbench.dashboard.inspect import fitting
from workbench.dashboard.inspect.state import InspectState
from workbench.dashboard.measure.page import MeasureState
from workbench.dashboard.papers.page import PapersState
from workbench.dashboard.shell import state, toggles


def test_default_views_have_short_links():
    assert InspectState().written() == {}
    assert MeasureState("cpu").written() == {}


def test_inspect_view_survives_its_link():
    shown = InspectState(
        text="Äpfel & Birnen = 50 %?", others=("a b", "c"), layer=5, head=0, scales="own", difference=True
    )
    shown.turn("b", "attention", "softmax_attention")
    shown.turn("b", "attention.is_causal", True)
    shown.turn("a", "attention", "flash_attention_2")
    shown.turn("a", "attention.window_left", 3)
    shown.turn("a", "implementation", "reference")
    shown.turn("a", "activation", "poly_norm")
    shown.turn("a", "activation.order", 0)
    link = state.join({"page": "inspect", **shown.written()})
    opened = InspectState()
    assert opened.read(state.split(link)) == []
    assert opened.request == shown.request
    assert (opened.layer, opened.head, opened.scales, opened.difference) == (5, 0, "own", True)
    assert opened.a.options("activation") == {"order": 2}


def test_measure_view_survives_its_link():
    shown = MeasureState("cpu")
    shown.turn("what", "activation")
    shown.turn("run.poly_norm", ("reference", "fast"))
    shown.turn("run.gelu", ("fast",))
    shown.turn("from", 2)
    shown.turn("to", 4)
    shown.turn("dtype", "float64")
    shown.turn("directions", ("forward", "backward"))
    shown.turn("shape.hidden", 3)
    opened = MeasureState("cpu")
    assert opened.read(state.split(state.join(shown.written()))) == []
    assert opened.request == shown.request


BROKEN = [
    "?page=nowhere",
    "?layer=99&head=-1",
    "?layer=one",
    "?a.attention=nothing&b.activation=swiglu&b.attention.window_left=minus",
    "?a.implementation=magic",
    "?b.activation.order=17",
    "?difference=perhaps&scales=both",
    "?%ff%fe=%00&&&===",
    "?text=" + "x" * 20_000,
    "?what=nothing&run=a:b,c&from=7&to=1e9&dtype=int4&direction=sideways&shape.batch=0&option.is_causal=2",
    "?run=flash_attention_2:fast:extra",
    "?" + "&".join(f"a.attention.window_left={n}" for n in range(1000)),
]


@pytest.mark.parametrize("link", BROKEN)
@pytest.mark.parametrize("make", [InspectState, lambda: MeasureState("cpu")])
def test_a_broken_link_never_raises(make, link):
    wrong = make().read(state.split(link))
    assert all("\n" not in phrase for phrase in wrong)


def test_what_is_wrong_is_named_with_what_is_allowed():
    shown = InspectState()
    wrong = shown.read(state.split("?layer=99&b.attention=nothing&head=4"))
    assert "b.attention = 'nothing'" in wrong[1] and len(wrong) == 2
    assert "layer = '99'" in wrong[0] and "0 to 5" in wrong[0]
    assert shown.layer == 5 and shown.head == 4 and shown.b == InspectState().b


def test_long_values_are_shortened_in_the_complaint():
    _, [told] = state.decode([state.Entry("layer", 0, state.number(0, 5))], {"layer": "9" * 4000})
    assert len(told) < 250


def test_unknown_paper_in_a_link():
    shown = PapersState()
    wrong = shown.read({"slug": "no_such_paper"})
    assert shown.slug == "" and "polycom" in wrong[0]


def test_an_activation_that_the_weights_cannot_take_is_told_and_another_shown():
    shown = InspectState()
    [told] = shown.read({"b.activation": "swiglu", "b.attention": "softmax_attention"})
    assert "SwiGLU" in told and "it is GELU" in told
    assert shown.b.methods["activation"] == "gelu" and shown.b.methods["attention"] == "softmax_attention"


def test_an_implementation_that_a_knob_rules_out_is_told_and_the_knob_kept(monkeypatch):
    def why_not(source, what, name, implementation="auto", options=()):
        return "It takes no windows." if implementation == "sdpa_math" and options else ""

    monkeypatch.setattr(fitting, "why_not", why_not)
    shown = InspectState()
    shown.turn("b", "attention", "flash_attention_2")
    shown.change(b=toggles.Configuration(shown.b.methods))
    assert shown.turn("b", "implementation", "sdpa_math") == []
    told = shown.turn("b", "attention.window_left", 1)
    assert shown.b.implementation == "auto" and shown.b.options("attention")["window_left"] == 0
    assert len(told) == 1 and "Run as: sdpa math cannot be here" in told[0]


def test_configuration_is_hashable_and_equal_by_content():
    one = toggles.Configuration({"attention": "a", "activation": "b"}, {"attention": {"w": 1}})
    two = toggles.Configuration({"activation": "b", "attention": "a"}, {"attention": {"w": 1}, "activation": {}})
    assert one == two and hash(one) == hash(two) and one != one.run_as("fast")
