"""One row of a measurement, and what it would cost before it is made."""

import gc
from typing import Any

import torch

from workbench import controls
from workbench.measure.correctness import Check, Direction, backward_call, dtype_of, forward, leaves
from workbench.measure.memory import peak_bytes
from workbench.measure.roofline import ceilings
from workbench.measure.timing import Stop, stop_if, time_call
from workbench.paper import Example, Method
from workbench.writing import number


def measure(
    method: Method,
    implementation: str,
    example: Example,
    *,
    direction: Direction = "forward",
    budget_s: float = 0.3,
    check: bool | Check = True,
    replayed: bool = False,
    cancelled: Stop = None,
) -> dict[str, Any]:
    """One row: is the result right, how long does it take, how much memory, how far from the roofline.

    ``direction="backward"`` times the backward pass alone; its ``peak_bytes`` covers forward and backward together,
    since what the forward saves is part of the price. ``check=True`` compares with the reference on this very example;
    a ``Check`` of another (smaller) example stands in for it; ``False`` is for a result that was compared already.
    ``replayed`` times a CUDA graph of the call, as ``time_call`` does.

    ``status`` is ``"ok"``, ``"unavailable"``, ``"wrong"`` or ``"out of memory"``, with the ``reason`` as a sentence.
    Raises ``ValueError`` for a knob out of bounds or an unknown implementation, ``Cancelled`` when asked to stop.
    """
    controls.validate(method.reference, example.options)
    device = next(iter(example.inputs.values())).device.type
    example = leaves(example, dtype_of(example), gradients=direction == "backward")
    row = empty_row(method, implementation, example, direction=direction, device=device, replayed=replayed)
    method.function(implementation)
    if reasons := why_not(method, implementation, example, direction):
        return row | {"status": "unavailable", "reason": " ".join(reasons)}
    try:
        if check:
            stop_if(cancelled)
            check = Check(method, example, direction) if check is True else check
            row["error"], row["budget"] = check.error(implementation, cancelled)
            if not row["error"] <= row["budget"]:
                error, budget = (number(row[name], 2) for name in ("error", "budget"))
                reason = f"Differs from the reference by {error}; {budget} is allowed."
                return row | {"status": "wrong", "reason": reason}
        return row | _figures(method, implementation, example, direction, budget_s, replayed, cancelled)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    # Outside the handler: the traceback would keep the failed call's tensors alive.
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    return row | {"status": "out of memory", "reason": "The device ran out of memory in this call."}


def why_not(method: Method, implementation: str, example: Example, direction: Direction) -> list[str]:
    """Why this row cannot be measured, in sentences: the method's traits, or the implementation's own reasons."""
    if direction == "backward" and not method.traits.gradients:
        return [f"{method.title} has no backward pass."]
    return method.why_not(implementation, *example.inputs.values(), **example.options)


def estimate_bytes(method: Method, implementation: str, example: Example, direction: Direction = "forward") -> int:
    """The memory that a row needs, inputs included: an estimate from the method's own formulas. ``example`` may be on
    the meta device, where it takes no memory itself."""
    arguments = example.inputs.values()
    cost = method.cost(*arguments, **example.options)
    workspace = method.workspace(implementation, *arguments, **example.options)
    if direction == "forward":
        return int(cost.bytes + workspace)
    return int(cost.bytes + cost.backward_bytes + 2 * workspace)


def empty_row(
    method: Method, implementation: str, example: Example, *, direction: Direction, device: str, replayed: bool
) -> dict[str, Any]:
    """What is known before anything ran: names and settings."""
    dtype = str(dtype_of(example))[6:]
    knobs = {name: knob.default for name, knob in method.knobs.items()} | dict(example.options)
    names = {"method": method.name, "implementation": implementation, "direction": direction}
    names["replayed"] = replayed
    return {**names, "dtype": dtype, "device": device, **knobs, "status": "ok", "reason": ""}


def work(method: Method, example: Example, direction: Direction) -> tuple[float, float]:
    """(FLOPs, least bytes) of one call in this direction."""
    cost = method.cost(*example.inputs.values(), **example.options)
    return (cost.flops, cost.bytes) if direction == "forward" else (cost.backward_flops, cost.backward_bytes)


def is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _figures(
    method: Method,
    implementation: str,
    example: Example,
    direction: Direction,
    budget_s: float,
    replayed: bool,
    cancelled: Stop,
) -> dict[str, float]:
    dtype = dtype_of(example)
    device = next(iter(example.inputs.values())).device.type
    settings = {"budget_s": budget_s, "replayed": replayed, "cancelled": cancelled}

    def run_forward() -> None:
        with torch.no_grad():
            forward(method, implementation, example)

    def run_both() -> None:
        backward_call(method, implementation, example, rounded_to=dtype)()

    if direction == "forward":
        timing = time_call(run_forward, device, **settings)
        stop_if(cancelled)
        peak = peak_bytes(run_forward, device)
    else:
        stop_if(cancelled)
        backward = backward_call(method, implementation, example, rounded_to=dtype)
        timing = time_call(backward, device, **settings)
        del backward
        stop_if(cancelled)
        peak = peak_bytes(run_both, device)
    flops, moved = work(method, example, direction)
    floor = ceilings(device, str(dtype)[6:]).floor_ms(flops, moved)
    return {
        **vars(timing),
        "peak_bytes": peak,
        "flops": flops,
        "bytes": moved,
        "tflops_per_s": flops / timing.median_ms / 1e9,
        "gb_per_s": moved / timing.median_ms / 1e6,
        "floor_ms": floor,
        "roofline": floor / timing.median_ms,
    }
