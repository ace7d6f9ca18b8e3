"""Knobs: read from a signature, checked and parsed at every edge."""

import math
import re
from typing import Annotated, Literal

import numpy as np
import pytest
import torch

from workbench.controls import Knob, Range, knobs, signature, validate


def method(
    x,
    *,
    count: Annotated[int, Range(1, 8), "How often."] = 2,
    limit: Annotated[int | None, Range(0, 1_000_000), "None: no limit."] = None,
    rate: Annotated[float, Range(0.0, 1.0, step=0.1), "How much."] = 0.5,
    causal: Annotated[bool, "Only backwards."] = False,
    mode: Annotated[Literal["fast", "exact"], "Which way."] = "fast",
    order: Annotated[Literal[2, 3], "Degree."] = 3,
    seed: int = 0,
):
    return x


KNOBS = knobs(method)


def test_knobs_are_the_annotated_keywords_in_order():
    assert list(KNOBS) == ["count", "limit", "rate", "causal", "mode", "order"]
    assert [knob.kind for knob in KNOBS.values()] == ["int", "int", "float", "flag", "choice", "choice"]
    assert [knob.default for knob in KNOBS.values()] == [2, None, 0.5, False, "fast", 3]
    assert KNOBS["count"].help == "How often." and KNOBS["count"].range == Range(1, 8)
    assert KNOBS["rate"].range.step == 0.1
    assert KNOBS["mode"].choices == ("fast", "exact")
    assert [knob.optional for knob in KNOBS.values()] == [False, True, False, False, False, False]


def test_knobs_are_read_once_and_cannot_be_changed():
    assert knobs(method) is KNOBS
    with pytest.raises(TypeError):
        KNOBS["count"] = None


def test_label_is_for_people():
    assert Knob(name="window_left", kind="flag", default=False).label == "window left"


@pytest.mark.parametrize(
    ("name", "value", "seen"),
    [
        ("count", 1, 1),
        ("count", 8, 8),
        ("count", 3.0, 3),
        ("limit", None, None),
        ("limit", 0, 0),
        ("rate", 0, 0.0),
        ("rate", 1, 1.0),
        ("rate", np.float64(0.25), 0.25),
        ("causal", True, True),
        ("mode", "exact", "exact"),
        ("order", 2, 2),
    ],
)
def test_what_is_allowed_passes_in_the_knobs_own_type(name, value, seen):
    checked = KNOBS[name].check(value)
    assert checked == seen and type(checked) is type(seen)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", 0),
        ("count", 9),
        ("count", 2.5),
        ("count", True),  # bool is no int
        ("count", "3"),
        ("count", None),
        ("count", math.nan),
        ("count", math.inf),
        ("count", 10**400),  # no float is that large
        ("count", [1]),
        ("limit", -1),
        ("limit", False),
        ("rate", -1e-9),
        ("rate", 1 + 1e-9),
        ("rate", math.nan),
        ("rate", -math.inf),
        ("rate", True),
        ("rate", 1j),
        ("causal", 1),  # int is no bool
        ("causal", None),
        ("causal", "True"),
        ("mode", "slow"),
        ("mode", None),
        ("mode", ["fast"]),
        ("order", 3.0),
        ("order", True),
        ("order", "3"),
    ],
)
def test_what_is_not_allowed_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"^{name} = .* is not allowed: choose "):
        KNOBS[name].check(value)


def test_true_does_not_pass_for_the_choice_1():
    knob = Knob(name="order", kind="choice", default=1, choices=(1, 2))
    assert knob.check(1) == 1
    with pytest.raises(ValueError):
        knob.check(True)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("count", "4", 4),
        ("count", "4.0", 4),
        ("count", "+4", 4),
        ("limit", "1e6", 1_000_000),
        ("limit", "", None),
        ("limit", "None", None),
        ("limit", "none", None),
        ("rate", ".5", 0.5),
        ("causal", "true", True),
        ("causal", "0", False),
        ("causal", "FALSE", False),
        ("mode", "exact", "exact"),
        ("order", "2", 2),
    ],
)
def test_text_becomes_a_value(name, text, value):
    parsed = KNOBS[name].parse(text)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("count", ""),
        ("count", "none"),
        ("count", "nan"),
        ("count", "inf"),
        ("count", "four"),
        ("count", "4.5"),
        ("count", "99"),
        ("count", "9" * 5000),
        ("rate", "1,5"),
        ("causal", "yes"),
        ("causal", ""),
        ("mode", "FAST"),
        ("mode", "None"),
        ("order", "4"),
    ],
)
def test_other_text_is_refused_and_a_long_one_not_repeated(name, text):
    with pytest.raises(ValueError, match=rf"^{name} = ") as caught:
        KNOBS[name].parse(text)
    assert len(str(caught.value)) < 200


def test_every_default_survives_being_written_and_read():
    for knob in KNOBS.values():
        assert knob.parse(str(knob.default)) == knob.default


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("count", "a whole number from 1 to 8"),
        ("limit", "a whole number from 0 to 1000000 (or None)"),
        ("rate", "a number from 0 to 1"),
        ("causal", "True or False"),
        ("mode", "one of 'fast', 'exact'"),
        ("order", "one of 2, 3"),
    ],
)
def test_what_may_be_given_in_words(name, words):
    assert KNOBS[name].allowed == words


def test_validate_checks_knobs_and_lets_other_parameters_through():
    assert validate(method, {"count": 3.0, "seed": "anything"}) == {"count": 3, "seed": "anything"}
    assert validate(method, {}) == {}
    with pytest.raises(ValueError, match="count = 100"):
        validate(method, {"count": 100})


def test_validate_refuses_an_unknown_option_and_names_the_knobs():
    with pytest.raises(TypeError, match="method has no option 'counts': its knobs are count, limit, rate"):
        validate(method, {"counts": 1})
    with pytest.raises(TypeError, match="its knobs are none"):
        validate(lambda x: x, {"counts": 1})


def test_a_knob_without_bounds_is_a_mistake_in_the_method():
    def unbounded(*, count: Annotated[int, "How often."] = 1): ...

    def strange(*, names: Annotated[list, Range(0, 1), "What."] = ()): ...

    for function in (unbounded, strange):
        with pytest.raises(TypeError, match="a knob is Annotated"):
            knobs(function)


@pytest.mark.parametrize(
    ("name", "value", "seen"),
    [
        ("count", np.int64(4), 4),
        ("count", np.array(4), 4),
        ("count", torch.tensor(4), 4),
        ("count", torch.tensor(4.0), 4),
        ("limit", np.uint8(200), 200),
        ("rate", np.float16(0.25), 0.25),
        ("rate", torch.tensor(0.25), 0.25),
        ("causal", np.True_, True),
        ("causal", torch.tensor(False), False),
        ("mode", np.str_("exact"), "exact"),
        ("order", np.int32(2), 2),
    ],
)
def test_numbers_of_numpy_and_torch_are_taken_for_what_they_hold(name, value, seen):
    checked = KNOBS[name].check(value)
    assert checked == seen and type(checked) is type(seen)
    assert validate(method, {name: value}) == {name: seen}


@pytest.mark.parametrize("value", [np.array([4]), torch.tensor([4]), np.int64(9), torch.tensor(1, device="meta")])
def test_other_arrays_are_refused(value):
    with pytest.raises(ValueError, match="^count = .* is not allowed: choose "):
        KNOBS["count"].check(value)


def test_no_gradient_goes_through_a_knob():
    rate = torch.tensor(0.3, requires_grad=True)
    with pytest.raises(ValueError, match="^rate is a tensor that requires a gradient, .* choose a number from 0 to 1"):
        KNOBS["rate"].check(rate)
    assert KNOBS["rate"].check(rate.detach()) == pytest.approx(0.3)


def test_the_quick_check_is_the_check():
    values = [0, 1, 8, 9, 0.5, 2.0, True, False, None, "fast", "slow", np.int64(3), math.nan, 10**400]
    for knob in KNOBS.values():
        quick = knob.quick_check()
        for value in values:
            try:
                expected = knob.check(value)
            except ValueError as error:
                with pytest.raises(ValueError, match=re.escape(str(error))):
                    quick(value)
            else:
                found = quick(value)
                assert found == expected and type(found) is type(expected)


def attend(query, key, value, bias=None, lengths=None, *, count: Annotated[int, Range(1, 8), "How often."] = 2):
    return query


CALL = signature(attend, "attention")


def test_a_call_is_bound_by_place():
    assert CALL.inputs == ("query", "key", "value", "bias", "lengths") and CALL.required == 3
    assert CALL.bind((1, 2, 3), {}) == ((1, 2, 3), {})
    assert CALL.bind((1, 2), {"value": 3, "count": np.int64(4)}) == ((1, 2, 3), {"count": 4})
    assert CALL.bind((), {"key": 2, "value": 3, "query": 1}) == ((1, 2, 3), {})
    assert CALL.bind((1, 2, 3), {"lengths": 5}) == ((1, 2, 3, None, 5), {})


@pytest.mark.parametrize(
    ("inputs", "options", "words"),
    [
        ((1, 2), {}, "attention needs value too: it takes query, key, value, bias, lengths"),
        ((), {"query": 1}, "attention needs key, value too"),
        ((1, 2, 3, 4, 5, 6), {}, "attention takes query, key, value, bias, lengths by place .* 6 were given"),
        ((1, 2, 3), {"key": 2}, "attention was given key twice"),
        ((1, 2, 3), {"colour": 1}, "attention has no option 'colour': its knobs are count"),
    ],
)
def test_a_call_that_does_not_fit_is_refused_in_the_methods_name(inputs, options, words):
    with pytest.raises(TypeError, match=words):
        CALL.bind(inputs, options)
