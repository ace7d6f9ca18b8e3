"""Measurement: honest or absent."""

import json
import math
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from toy import METHOD, example
from workbench import measure
from workbench.measure import memory, sweeps
from workbench.paper import Example

MIB = 2**20
QUICK = 0.01


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    """The reference may take its time: the tests share the machine, and its speed today is none of their matter."""
    monkeypatch.setattr(sweeps, "SMALL_MS", math.inf)


def quiet_sweep(*choices, sizes=(8,), **settings):
    settings = {"device": "cpu", "budget_s": QUICK} | settings
    return measure.sweep([(METHOD, name) for name in choices], sizes, **settings)


# --- devices ---------------------------------------------------------------------------------------------------------


def test_automatic_device_is_one_that_is_there():
    assert measure.pick_device() == ("cuda" if torch.cuda.is_available() else "cpu")
    assert measure.pick_device("cpu") == "cpu"


@pytest.mark.parametrize("name", ["tpu", "CPU", "", "cuda:17"])
def test_absent_device_is_refused_with_what_there_is(name):
    with pytest.raises(ValueError, match="choose auto or .*cpu"):
        measure.pick_device(name)


def test_memory_limit_is_less_than_there_is():
    assert 0 < measure.memory_limit("cpu") < 2**50


# --- time ------------------------------------------------------------------------------------------------------------


def test_time_of_a_call_of_known_length():
    start = time.perf_counter()
    timing = measure.time_call(lambda: time.sleep(0.003), "cpu", budget_s=0.05)
    whole_ms = 1000 * (time.perf_counter() - start)
    assert 3 <= timing.median_ms <= whole_ms / (timing.repeats / 2)  # half of the calls took that long, or longer
    assert timing.low_ms <= timing.median_ms <= timing.high_ms
    assert timing.repeats >= 3


def test_slow_call_is_still_repeated_three_times():
    calls = []
    timing = measure.time_call(lambda: (calls.append(1), time.sleep(0.02)), "cpu", budget_s=0.001)
    assert 3 <= timing.repeats <= len(calls) <= 10


def test_only_cuda_replays():
    with pytest.raises(ValueError, match="Only calls on CUDA can be replayed from a CUDA graph, not on 'cpu'"):
        measure.time_call(lambda: pytest.fail("was called"), "cpu", replayed=True)


def test_cancel_stops_between_repetitions():
    calls = []
    with pytest.raises(measure.Cancelled):
        measure.time_call(lambda: calls.append(time.sleep(0.001)), "cpu", budget_s=5, cancelled=lambda: len(calls) > 5)
    assert 5 < len(calls) < 100


def test_cancelled_before_it_starts_calls_nothing():
    with pytest.raises(measure.Cancelled):
        measure.time_call(lambda: pytest.fail("was called"), "cpu", cancelled=lambda: True)


# --- memory ----------------------------------------------------------------------------------------------------------


SCALARS = 64  # a Python number in an expression becomes a tensor of a few bytes


def peak(call):
    return measure.peak_bytes(call, "cpu")


def test_peak_of_a_matmul_chain():
    a = torch.ones(512, 512)  # 1 MiB, lived before

    def chain():
        b = a @ a  # 1 live
        c = b @ a  # 2
        del b  # 1
        d = c @ a  # 2
        del c
        return d @ a

    assert peak(chain) == 2 * MIB


def test_temporaries_of_one_expression_count_together():
    a = torch.ones(512, 512)
    assert peak(lambda: (a + 1) * (a + 2)) == pytest.approx(3 * MIB, abs=SCALARS)
    assert peak(lambda: [a + 1 for _ in range(5)]) == pytest.approx(5 * MIB, abs=SCALARS)
    assert peak(lambda: a.double()) == 2 * MIB


def test_in_place_operations_and_views_take_nothing():
    a = torch.ones(512, 512)
    assert peak(lambda: a.mul_(1).add_(0)) <= SCALARS
    assert peak(lambda: (a.t(), a[:3], a.view(-1), a.expand(4, 512, 512), a.detach())) == 0
    assert peak(lambda: torch.neg(a, out=a)) == 0

    def own():
        b = a.neg()
        return b.view(-1)[5:].neg_(), b[0]  # two views keep all of b alive, once

    assert peak(own) == MIB


def test_a_view_keeps_its_whole_storage_alive():
    a = torch.ones(512, 512)

    def hold():
        row = a.neg()[0]
        return row, a.neg()

    assert peak(hold) == 2 * MIB


def test_a_tensor_that_grows_counts_what_it_became():
    assert peak(lambda: torch.empty(0).resize_(512, 512)) == MIB


def test_gradients_count():
    a = torch.ones(512, 512, requires_grad=True)
    # exp (saved), the ones, the gradient
    assert peak(lambda: torch.autograd.grad(a.exp(), a, torch.ones(512, 512))) == 3 * MIB


def test_memory_inside_one_operator_counts():
    a = torch.ones(512, 512)
    table, indices = MIB, 2 * MIB
    assert peak(lambda: a.sort(-1)) >= table + indices
    assert peak(lambda: torch.linalg.matrix_exp(a)) > 3 * MIB


def test_compiled_code_is_watched_as_it_runs():
    @torch.compile(fullgraph=True, dynamic=False)
    def fused(a):
        return (a * 2 + 1).relu().sum(-1)

    a = torch.ones(512, 512)
    try:
        fused(a)
    except torch._inductor.exc.InductorError as error:
        pytest.skip(f"torch.compile does not work here: {error}")
    assert peak(lambda: fused(a)) < 0.1 * MIB
    assert peak(lambda: (a * 2 + 1).relu().sum(-1)) >= 2 * MIB


def test_watching_ends_when_the_call_fails():
    with pytest.raises(ZeroDivisionError):
        peak(lambda: 1 / 0)
    assert peak(lambda: torch.ones(512, 512)) == MIB


def test_bytes_in_words():
    assert memory.in_words(12) == "12 bytes"
    assert memory.in_words(1.5 * 2**30) == "1.5 GiB"
    assert memory.in_words(2**53) == "8,192 TiB"


# --- ceilings --------------------------------------------------------------------------------------------------------


def test_ceilings_are_measured_once_and_bound_from_below():
    first = measure.ceilings("cpu", "float32")
    assert measure.ceilings("cpu", "float32") is first
    assert first.bytes_per_s > 1e8 and first.flops_per_s > 1e8
    assert first.floor_ms(first.flops_per_s, 0) == pytest.approx(1000)
    assert first.floor_ms(0, first.bytes_per_s * 2) == pytest.approx(2000)


# --- error -----------------------------------------------------------------------------------------------------------


def test_relative_error():
    assert measure.relative_error(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0])) == pytest.approx(0.1)
    assert measure.relative_error(torch.zeros(3), torch.zeros(3)) == 0
    assert measure.relative_error(torch.full((3,), 2.0), torch.zeros(3)) > 1
    assert math.isnan(measure.relative_error(torch.tensor([torch.nan]), torch.tensor([1.0])))


# --- one row ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_a_row_carries_everything(direction, dtype):
    row = measure.measure(METHOD, "fast", example(300, dtype=dtype, batch=2), direction=direction, budget_s=QUICK)
    assert row["status"] == "ok" and row["reason"] == ""
    assert (row["method"], row["implementation"], row["direction"]) == ("toy", "fast", direction)
    assert (row["dtype"], row["device"], row["factor"], row["sign"]) == (dtype, "cpu", 1.0, "plus")
    assert row["flops"] == 2 * 300**2 * (2 if direction == "forward" else 4)
    assert row["error"] <= row["budget"] < 0.1
    assert row["low_ms"] <= row["median_ms"] <= row["high_ms"]
    assert row["tflops_per_s"] == pytest.approx(row["flops"] / row["median_ms"] / 1e9)
    assert row["gb_per_s"] == pytest.approx(row["bytes"] / row["median_ms"] / 1e6)
    assert row["roofline"] == pytest.approx(row["floor_ms"] / row["median_ms"])


def test_peak_bytes_of_a_row():
    forward = measure.measure(METHOD, "reference", example(512), budget_s=QUICK)
    assert forward["peak_bytes"] == MIB + 512 * 4  # the table and its sum


def test_backward_memory_includes_what_the_forward_saved():
    rows = {
        name: measure.measure(METHOD, name, example(512), direction="backward", budget_s=QUICK)
        for name in ("reference", "fast")
    }
    assert rows["reference"]["peak_bytes"] > MIB > rows["fast"]["peak_bytes"]


def test_a_wrong_result_gets_no_time():
    for name in ("wrong", "not_a_number"):
        row = measure.measure(METHOD, name, example(16), budget_s=QUICK)
        assert row["status"] == "wrong" and "median_ms" not in row
        assert "Differs from the reference by" in row["reason"]


def test_a_wrong_gradient_gets_no_time():
    class WrongGradient(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x * x.sum(-1, keepdim=True)

        @staticmethod
        def backward(context, gradient):
            return gradient

    method = replace(METHOD, fast=lambda x, **options: WrongGradient.apply(x))
    assert measure.measure(method, "fast", example(16), budget_s=QUICK)["status"] == "ok"
    assert measure.measure(method, "fast", example(16), direction="backward", budget_s=QUICK)["status"] == "wrong"


def test_low_precision_budget_is_derived_and_stated_tolerance_holds_otherwise():
    single = measure.Check(METHOD, example(64))
    assert single.error("fast")[1] == 1e-5
    half = measure.Check(METHOD, example(64, dtype="bfloat16"))
    ordinary, budget = half.error("reference")
    assert budget == pytest.approx(2 * ordinary + 2**-7)


def test_unavailable_says_why_and_runs_nothing():
    row = measure.measure(METHOD, "absent", example(16))
    assert (row["status"], row["reason"]) == ("unavailable", "It is not installed. It needs a GPU.")


def test_out_of_memory_is_survived_and_a_bug_is_not_hidden():
    row = measure.measure(METHOD, "greedy", example(16))
    assert row["status"] == "out of memory" and row["reason"].endswith(".")
    with pytest.raises(RuntimeError, match="a bug"):
        measure.measure(METHOD, "buggy", example(16))


def test_bad_settings_of_a_row():
    x = example(16).inputs
    with pytest.raises(ValueError, match="factor = 9"):
        measure.measure(METHOD, "fast", Example(x, {"factor": 9}))
    with pytest.raises(ValueError, match="no implementation 'quick'"):
        measure.measure(METHOD, "quick", Example(x))


def test_the_callers_tensors_stay_as_they_were():
    given = example(16)
    measure.measure(METHOD, "fast", given, direction="backward", budget_s=QUICK)
    assert not given.inputs["x"].requires_grad and given.inputs["x"].grad is None


# --- sweeps ----------------------------------------------------------------------------------------------------------


def test_sweep_goes_side_by_side_and_yields_as_it_runs():
    rows = quiet_sweep("reference", "fast", sizes=(8, 16), directions=("forward", "backward"), shape={"batch": 3})
    first = next(rows)
    assert (first["size"], first["batch"], first["status"]) == (8, 3, "ok")
    order = [(row["size"], row["direction"], row["implementation"]) for row in [first, *rows]]
    assert order == [
        (size, direction, name)
        for size in (8, 16)
        for direction in ("forward", "backward")
        for name in ("reference", "fast")
    ]


def test_sweep_survives_what_cannot_run():
    statuses = [row["status"] for row in quiet_sweep("absent", "greedy", "wrong", "fast")]
    assert statuses == ["unavailable", "out of memory", "wrong", "ok"]


def test_too_large_for_memory_is_not_run_and_says_what_would_fit():
    (reference, fast) = quiet_sweep("reference", "fast", sizes=(1024,), memory_limit=MIB)
    assert reference["status"] == "too large" and "median_ms" not in reference
    assert reference["reason"] == "Needs about 4.01 MiB (estimate); 1 MiB are allowed. Size 256 would fit."
    assert fast["status"] == "ok"
    assert fast["reason"].startswith("Checked at size 256")


def test_memory_of_autograd_through_the_reference_is_foreseen():
    rows = list(quiet_sweep("reference", sizes=(64, 512), directions=("backward",), memory_limit=3 * MIB))
    assert [row["status"] for row in rows] == ["ok", "too large"]


def test_too_slow_is_predicted_from_the_previous_size():
    rows = list(quiet_sweep("reference", sizes=(1000, 50_000), time_limit_s=0.1, memory_limit=2**50))
    assert [row["status"] for row in rows] == ["ok", "too large"]
    assert "One call would take about" in rows[1]["reason"] and "0.1 s are allowed" in rows[1]["reason"]


def test_a_reference_that_runs_out_of_memory_is_checked_at_a_smaller_size():
    def needs_much(x, *, factor=1.0, sign="plus"):
        if x.dtype == torch.float64 and x.shape[-1] > 100:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return METHOD.fast(x, factor=factor, sign=sign)

    method = replace(METHOD, reference=needs_much)
    (row,) = measure.sweep([(method, "fast")], [512], device="cpu", budget_s=QUICK)
    assert (row["status"], row["reason"].split(":")[0]) == ("ok", "Checked at size 64")


@pytest.mark.parametrize(
    ("known", "predicted"),
    [
        ([], 100),
        ([(1, 3)], 300),
        ([(1, 3), (2, 4)], 102),  # 2 ms of overhead
        ([(1, 3), (2, 3)], 3),
        ([(9, 9), (1, 3), (2, 4)], 102),
        ([(8, 9), (4, 5)], 125),  # sizes that shrank tell no overhead
    ],
)
def test_prediction_tells_overhead_from_work(known, predicted):
    assert sweeps._predicted(known, 100) == pytest.approx(predicted)


def test_the_check_is_made_where_the_reference_can_be_afforded(monkeypatch):
    monkeypatch.setattr(sweeps, "SMALL_MS", 1e-6)
    monkeypatch.setattr(sweeps, "CHECK_LIMIT_S", 0.02)
    (row,) = quiet_sweep("fast", sizes=(2**16,))
    assert row["status"] == "ok"
    checked = int(row["reason"].split()[3].rstrip(":"))
    assert checked < 2**16 and row["error"] <= row["budget"]


def test_sizes_may_come_in_any_order():
    rows = list(quiet_sweep("fast", sizes=(512, 8, 64)))
    assert [(row["size"], row["status"], row["reason"]) for row in rows] == [(n, "ok", "") for n in (512, 8, 64)]


def test_wrong_at_the_affordable_size_is_wrong_at_the_large_one():
    (row,) = quiet_sweep("wrong", sizes=(2**17,), memory_limit=8 * MIB)
    assert row["status"] == "wrong"


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_no_call_is_begun_of_which_it_is_not_known_that_it_may_be(monkeypatch, direction):
    """Where nothing smaller was timed, calls of growing size are made until one says that the next would take long."""
    now, made = [0.0], []

    def slow(x, *, factor=1.0, sign="plus"):
        made.append(x.shape[-1])
        now[0] += 1e-3 * x.shape[-1]  # a second a thousand
        return METHOD.fast(x, factor=factor, sign=sign)

    monkeypatch.setattr(sweeps, "SMALL_MS", 0.1)
    monkeypatch.setattr(sweeps, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(sweeps._Plan, "floor_ms", lambda plan, method, size, direction: 1e-3 * size)
    settings = {"device": "cpu", "budget_s": QUICK, "directions": (direction,), "time_limit_s": 0.5}
    method = replace(METHOD, fast=slow)
    (row,) = measure.sweep([(method, "fast")], [2**16], **settings)
    assert row["status"] == "too large" and "One call would take about 66 s" in row["reason"]
    assert 64 <= max(made) <= 500
    (row,) = measure.sweep([(method, "fast")], [2**8], **settings)
    assert row["status"] == "ok"


def test_cancelled_is_asked_between_all_calls_of_a_row(monkeypatch):
    since, most = [0], [0]

    def counted(function):
        def call(x, **options):
            since[0] += 1
            most[0] = max(most[0], since[0])
            return function(x, **options)

        return call

    def asked():
        since[0] = 0
        return False

    monkeypatch.setattr(measure.rows, "time_call", lambda call, *rest, **options: measure.Timing(1.0, 1.0, 1.0, 3))
    method = replace(METHOD, reference=counted(METHOD.reference), fast=counted(METHOD.fast))
    directions = ("forward", "backward")
    rows = list(measure.sweep([(method, "fast")], [8, 64], device="cpu", directions=directions, cancelled=asked))
    assert [row["status"] for row in rows] == 4 * ["ok"]
    assert most == [1]


def test_sweep_can_be_cancelled_between_rows_and_within():
    got = []
    rows = quiet_sweep("fast", sizes=range(1, 1000), cancelled=lambda: len(got) >= 2)
    with pytest.raises(measure.Cancelled):
        for row in rows:
            got.append(row)
    assert len(got) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": (0,)}, "whole numbers"),
        ({"sizes": (2.5,)}, "whole numbers"),
        ({"sizes": (True,)}, "whole numbers"),
        ({"options": {"factor": 5.0}}, "factor = 5.0"),
        ({"options": {"colour": 1}}, "No option colour in toy: there is factor, sign"),
        ({"shape": {"batch": 0}}, "batch = 0"),
        ({"shape": {"width": 1}}, "No shape width in toy: there is batch"),
    ],
)
def test_sweep_refuses_bad_settings_before_it_runs(settings, message):
    with pytest.raises(ValueError, match=message):
        quiet_sweep("fast", **settings)
    with pytest.raises(ValueError, match="no implementation"):
        quiet_sweep("quick")


# --- records ---------------------------------------------------------------------------------------------------------


def test_rows_make_a_tidy_table():
    rows = [*quiet_sweep("fast", options={"factor": 2.0}), {"method": "other", "status": "unavailable", "depth": 3}]
    table = measure.frame(rows)
    assert tuple(table.columns[: len(measure.COLUMNS)]) == measure.COLUMNS
    assert list(table.columns[len(measure.COLUMNS) :]) == ["factor", "sign", "batch", "depth"]
    assert list(measure.frame([]).columns) == list(measure.COLUMNS)


def test_written_and_read_again(tmp_path):
    rows = list(quiet_sweep("fast", "wrong", "not_a_number", sizes=(8, 16)))
    measure.save(rows, tmp_path / "deep" / "rows.json", "cpu")
    text = (tmp_path / "deep" / "rows.json").read_text()
    assert "NaN" not in text and len(json.loads(text)["rows"]) == 6
    table = measure.load(tmp_path / "deep" / "rows.json")
    assert table.attrs["provenance"]["torch"] == torch.__version__
    assert list(table["median_ms"].dropna()) == [row["median_ms"] for row in rows if row["status"] == "ok"]


def test_recorded_is_none_where_nothing_was_recorded():
    assert measure.recorded("no_such_paper") is None


def test_calls_are_timed_in_turns_and_the_order_turns_round():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    rounds = list(measure.time_in_turns(calls, "cpu", budget_s=0.02))
    assert set(rounds[-1]) == {"a", "b"} and len(rounds) >= 4
    assert all(each.low_ms <= each.median_ms <= each.high_ms for each in rounds[-1].values())
    turns = [name for place, name in enumerate(order) if place == 0 or order[place - 1] != name]
    assert "".join(turns).startswith("abab") and turns.count("a") >= 3


def test_times_in_turns_stop_when_told_to_and_go_on_only_so_long():
    with pytest.raises(measure.Cancelled):
        list(measure.time_in_turns({"a": lambda: None}, "cpu", cancelled=lambda: True))
    uneven = {"a": lambda: time.sleep(0.001 * (1 + (time.time() * 1e4 % 7)))}
    assert len(list(measure.time_in_turns(uneven, "cpu", budget_s=0.02, most_s=0.04))) >= 1


@pytest.mark.parametrize(("a", "b", "same", "said"), [
    ((10, 9, 11), (5, 4, 6), False, "faster"),
    ((5, 4, 6), (10, 9, 11), False, "slower"),
    ((13.6, 12, 15), (12.1, 11, 14), False, "within the noise"),
    ((10, 9, 11), (12, 11, 13), False, "within the noise"),  # the bands touch
    ((10, 9, 11), (5, 4, 6), True, "same configuration"),
])  # fmt: skip
def test_a_verdict_only_where_the_spread_allows_one(a, b, same, said):
    assert measure.verdict(measure.Timing(*a, 9), measure.Timing(*b, 9), same=same) == said


def test_every_recorded_row_says_where_and_when(tmp_path):
    measure.save([{"method": "toy", "size": 1}], tmp_path / "toy.json", "cpu")
    table = measure.load(tmp_path / "toy.json")
    made = measure.machine("cpu")
    assert (table["machine"][0], table["date"][0]) == (made["device"], made["date"])


@pytest.mark.parametrize("provenance", [{}, {"device": "NVIDIA H200"}, {"device": "", "date": "2026-01-01"}])
def test_a_recording_without_a_machine_or_a_date_is_refused(tmp_path, provenance):
    (tmp_path / "toy.json").write_text(json.dumps({"provenance": provenance, "rows": []}))
    with pytest.raises(ValueError, match=r"toy.json does not say its (device|date)"):
        measure.load(tmp_path / "toy.json")


def test_machine_is_named_in_words():
    found = measure.machine("cpu")
    assert {"device", "cores", "torch", "triton", "python", "platform", "date"} <= set(found)
    assert all(isinstance(value, str) for value in found.values())
    line = measure.machine_line(found)
    assert found["device"] in line and found["torch"] in line and found["date"] in line


@pytest.mark.gpu
def test_row_and_memory_on_a_gpu():
    rows = list(
        measure.sweep(
            [(METHOD, "reference"), (METHOD, "fast")], (1024, 4096), device="cuda", directions=("forward", "backward")
        )
    )
    assert {row["status"] for row in rows} == {"ok"}
    table = next(row for row in rows if row["implementation"] == "reference" and row["size"] == 4096)
    assert table["peak_bytes"] >= 4096**2 * 4


@pytest.mark.gpu
def test_a_replay_is_not_bound_by_launching():
    def some_launches():
        for _ in range(50):
            small.mul_(1.0)

    small = torch.ones(16, device="cuda")
    replayed = measure.time_call(some_launches, "cuda", replayed=True)
    assert replayed.median_ms < 0.8 * measure.time_call(some_launches, "cuda").median_ms
    assert small.eq(1).all()
