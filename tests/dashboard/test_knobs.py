"""Controls generated from signatures."""

from typing import Annotated, Literal

import pytest

from workbench import catalog, controls
from workbench.controls import Range
from workbench.dashboard.shell.knobs import Field, Form, Option, field_of, stops, value_of


def example(
    *,
    few: Annotated[int, Range(1, 8), "A few."] = 3,
    many: Annotated[int, Range(0, 1_000_000), "Many."] = 5,
    open: Annotated[int | None, Range(1, 4096), "Perhaps."] = None,
    real: Annotated[float, Range(0.0, 1.0), "A real number."] = 0.5,
    wide: Annotated[float, Range(1e-4, 1.0, log=True), "A scale."] = 0.01,
    pick: Annotated[Literal["none", "tanh"], "One of two."] = "none",
    on: Annotated[bool, "A switch."] = False,
): ...


KNOBS = controls.knobs(example)


def test_few_whole_numbers_stop_at_each():
    assert stops(KNOBS["few"]) == list(range(1, 9))


def test_many_whole_numbers_double_and_keep_the_value():
    at = stops(KNOBS["many"], 37)
    assert len(at) < 50 and {0, 1, 5, 37, 64, 1_000_000} <= set(at) and at == sorted(at)
    assert max(stops(KNOBS["many"], 5, limit=160)) == 160


def test_none_comes_first_where_it_is_allowed():
    assert stops(KNOBS["open"])[0] is None


@pytest.mark.parametrize("name", KNOBS)
def test_every_stop_is_allowed_and_comes_back(name):
    knob = KNOBS[name]
    field = field_of(knob, knob.default)
    assert field.label and field.help == knob.help
    given = {"slider": range(len(field.stops)), "choice": [o.value for o in field.options], "flag": [True, False]}
    for each in given[field.kind]:
        value = value_of(knob, knob.default, field.read(each))
        assert value == knob.check(value)
    assert value_of(knob, knob.default, field.value) == knob.default


def test_every_knob_of_the_catalog_has_a_control():
    for method in catalog.methods().values():
        for knob in [*method.knobs.values(), *method.shape_knobs.values()]:
            assert field_of(knob, knob.default).label


@pytest.mark.parametrize(
    ("field", "given"),
    [
        (Field("a", "A", "slider", 0, stops=("1", "2")), 2),
        (Field("a", "A", "slider", 0, stops=("1", "2")), "1"),
        (Field("a", "A", "choice", "x", (Option("x", "X"), Option("y", "Y", "It cannot be."))), "y"),
        (Field("a", "A", "many", (), (Option("x", "X"),)), ["x", "z"]),
        (Field("a", "A", "flag", False), 1),
        (Field("a", "A", "text", ""), None),
    ],
)
def test_what_was_never_offered_is_refused(field, given):
    with pytest.raises(ValueError):
        field.read(given)


def test_form_ignores_answers_to_controls_that_are_gone():
    heard = []
    form = Form(lambda name, value: heard.append((name, value)))
    form.show([Field("on", "On", "flag", False)])
    for message in ({"name": "off", "value": True}, {"name": "on", "value": 3}, "nonsense", {}, None):
        form._handle_msg(message)
    assert heard == []
    form._handle_msg({"name": "on", "value": True})
    assert heard == [("on", True)]


def answers(form, monkeypatch):
    """What the form's browser half is sent."""
    sent = []
    monkeypatch.setattr(form, "_send_msg", sent.append)
    return sent


def test_every_question_is_answered_and_what_cannot_be_gets_a_sentence(monkeypatch):
    form = Form(lambda name, value: 1 / 0 if value == "broken" else None)
    sent = answers(form, monkeypatch)
    options = (Option("x", "X"), Option("y", "Y", "It cannot be."), Option("broken", "Z"))
    form.show([Field("a", "A", "choice", "x", options), Field("go", "Go", "button", why="Choose something first.")])
    for question, message in enumerate([
        {"name": "a", "value": "x"},
        {"name": "a", "value": "y"},
        {"name": "a", "value": "never offered"},
        {"name": "a", "value": "broken"},
        {"name": "gone", "value": 1},
        {"name": "go", "value": ""},
    ]):  # fmt: skip
        form._handle_msg({**message, "question": question})
    assert [each["answer"] for each in sent] == list(range(6))
    told = [each["wrong"] for each in sent]
    assert told[0] == "" and all(each.endswith(".") for each in told[1:])
    assert told[1] == "It cannot be." and told[5] == "Choose something first." and "ZeroDivisionError" in told[3]


def test_the_second_of_two_clicks_does_not_press_the_button_that_took_the_first_ones_place(monkeypatch):
    heard = []

    def pressed(name, value):
        heard.append(name)
        form.show([Field("run", "Stop", "button", sends="stop")])

    form = Form(pressed)
    sent = answers(form, monkeypatch)
    form.show([Field("run", "Train", "button", sends="start")])
    for question in range(2):
        form._handle_msg({"name": "run", "value": "start", "question": question})
    assert heard == ["run"] and [each["wrong"] for each in sent] == ["", ""]
    form._handle_msg({"name": "run", "value": "stop"})
    assert heard == ["run", "run"]
