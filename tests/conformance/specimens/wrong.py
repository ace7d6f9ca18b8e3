"""For every check a method that is wrong in the one way that this check must catch, or several.

``WRONG`` has, by the name of the check, the methods and a word of the message that they must meet.
"""

import functools
from dataclasses import fields, replace

import torch
from torch import Tensor, nn

from conformance.specimens.sound import ATTENTION, ROWS, RUNNING, attention, rows, running, softmax
from workbench.paper import Baseline, Cost, Method, Traits


class Careless(Method):
    """A method that checks nothing at a call."""

    def __call__(self, *inputs, implementation="auto", **options):
        return self.function("fast" if implementation == "auto" else implementation)(*inputs, **options)


def careless(method: Method, kind: type[Method] = Careless, **changes: object) -> Method:
    """The method as one of another class, with changes."""
    known = {each.name: getattr(method, each.name) for each in fields(Method)}
    return kind(**{**known, **changes})


# --- results ---------------------------------------------------------------------------------------------------------


def wrong_where_long(x, weight, **options):
    return rows(x, weight, **options) * (1 if len(x) < 100 else 1.01)


def wrong_gradient(x, weight, **options):
    return rows(x, weight.detach(), **options)


def wrong_dtype(x, weight, **options):
    return rows(x, weight, **options).double()


def forgetful(x, weight, **options):
    output = torch.empty_like(x)
    output[:, :-1] = rows(x, weight, **options)[:, :-1]
    return output


def wrong_where_odd(x, weight, **options):
    return rows(x, weight, **options) * (1 - x.shape[-1] % 2)


def deaf(x, weight, *, factor=1.0, sign="plus"):
    return rows(x, weight, factor=factor)


def reads_ahead(x, weight, **options):
    return rows(torch.as_strided(x, x.shape, (x.shape[-1], 1)), weight, **options)


def writes(x, weight, **options):
    x.data.mul_(0.5)
    return rows(2 * x, weight, **options)


def mixes(x, weight, **options):
    return rows(x, weight, **options) + 0 * x.sum()


def swallows(x, weight, **options):
    return rows(x.nan_to_num(), weight, **options)


def restless(x, weight, **options):
    return rows(x, weight, **options) * (1 + 1e-6 * torch.rand(()))


# --- numbers ---------------------------------------------------------------------------------------------------------


def overflows(x, weight, *, factor=1.0, sign="plus"):
    powers = (2 * x).exp()
    return (powers - 1) / (powers + 1) * weight * (factor if sign == "plus" else -factor)


def wrong_at_the_end(x, weight, *, factor=1.0, sign="plus"):
    return rows(x, weight, factor=min(factor, 3.9), sign=sign)


# --- arguments -------------------------------------------------------------------------------------------------------


class Swallowing(Careless):
    """Drops what it does not know."""

    def __call__(self, *inputs, implementation="auto", colour=None, **options):
        return super().__call__(*inputs, implementation=implementation, **options)

    def function(self, implementation):
        return super().function(implementation if implementation in self.implementations else "fast")


def unchecked(x, weight, *, factor=1.0, sign="plus"):
    return x.tanh() * weight[..., -1:] * (factor if sign == "plus" else -factor)


def other_default(x, weight, *, factor=2.0, sign="plus"):
    return rows(x, weight, factor=factor, sign=sign)


# --- derivatives -----------------------------------------------------------------------------------------------------


class OldStyle(torch.autograd.Function):
    """Forward with the context in it, as before PyTorch 2.0: torch.func cannot take it."""

    @staticmethod
    def forward(context, x, weight):
        context.save_for_backward(x, weight)
        return x.tanh() * weight

    @staticmethod
    def backward(context, above):
        x, weight = context.saved_tensors
        bounded = x.tanh()
        return above * weight * (1 - bounded**2), (above * bounded).sum(0)


class ConstantGradient(torch.autograd.Function):
    """A backward pass that autograd believes to be a constant."""

    @staticmethod
    def forward(x, weight):
        return x.tanh() * weight

    @staticmethod
    def setup_context(context, inputs, output):
        context.save_for_backward(*inputs)

    @staticmethod
    def backward(context, above):
        with torch.no_grad():
            x, weight = (each.detach() for each in context.saved_tensors)
            bounded = x.tanh()
            return (above * weight * (1 - bounded**2)).detach(), (above * bounded).sum(0).detach()


def by(function: type[torch.autograd.Function]):
    def run(x, weight, *, factor=1.0, sign="plus"):
        return function.apply(x, weight) * (factor if sign == "plus" else -factor)

    return run


def no_tangent(x, weight, **options):
    return rows(x.detach(), weight.detach(), **options) + 0 * (x.sum() + weight.sum())


# --- precision -------------------------------------------------------------------------------------------------------


def always_wide(x, weight, **options):
    wide = rows(x.float(), weight.float(), **options)
    return wide if torch.is_autocast_enabled("cpu") else wide.to(torch.promote_types(x.dtype, weight.dtype))


def own_dtype(x, weight, **options):
    return rows(x, weight, **options).to(x.dtype)


def narrow_under_autocast(x, weight, **options):
    output = rows(x, weight, **options)
    return output.half().to(output.dtype) * 1.1 if torch.is_autocast_enabled("cpu") else output


# --- nothing ---------------------------------------------------------------------------------------------------------


def needs_a_row(x, weight, **options):
    return rows(x - 0 * x.amax(), weight, **options)


def needs_a_head(query, key, value, **options):
    return attention(query - 0 * query.amax(), key, value, **options)


def nothing_from_nothing(query, key, value, **options):
    return attention(query, key, value, **options) if key.shape[-2] else torch.zeros_like(query)


# --- graphs ----------------------------------------------------------------------------------------------------------


def looks_at_numbers(x, weight, **options):
    return rows(x, weight, **options) * (1.0 if x.sum().item() < 1e30 else 2.0)


def another_when_compiled(x, weight, **options):
    return rows(x, weight, **options) * (2 if torch.compiler.is_compiling() else 1)


def asks_a_number(x, weight, **options):
    return ["It takes numbers that are not too large."] if x.sum().item() > 1e30 else []


# --- attention -------------------------------------------------------------------------------------------------------


def not_linear(query, key, value, **options):
    return attention(query, key, value.tanh(), **options)


class Mapped(Method):
    """Shows the map of something that has none."""

    def attention_map(self, query, key, **options):
        return torch.eye(key.shape[-2])


def leaks(query, key, value, *, is_causal=False, scale=None):
    own = attention(query, key, value, is_causal=is_causal, scale=scale)
    return own + 1e-3 * attention(query, key, value, scale=scale) if is_causal else own


def always_causal(query, key, value, *, is_causal=False, scale=None):
    if is_causal:
        raise ValueError("It is not causal.")
    return attention(query, key, value, scale=scale)


class Maskless(Method):
    """Takes PyTorch's words, and drops a mask."""

    def __call__(self, query, key, value, *more, implementation="auto", **options):
        options = {name: options[name] for name in options.keys() & {"is_causal", "scale"}}
        return attention(query, key, value, **options)


def plain_scale(query, key, value, *, is_causal=False, scale=None):
    return attention(query, key, value, is_causal=is_causal, scale=scale.item() if torch.is_tensor(scale) else scale)


# --- states ----------------------------------------------------------------------------------------------------------


def starts_anew(x, *, state=None):
    return running(x)


def writes_its_state(x, *, state=None):
    output, last = running(x, state=state)
    return output, (last if state is None else state.copy_(last))


# --- objects ---------------------------------------------------------------------------------------------------------


@functools.cache
def ones(width: int, dtype: torch.dtype) -> Tensor:
    return torch.ones(width, dtype=dtype)


def keeps_a_table(x, weight, **options):
    return rows(x, weight, **options) * ones(x.shape[-1], torch.promote_types(x.dtype, weight.dtype))


class Buffered(nn.Module):
    """Keeps more than weights."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return rows(x, self.weight)


def with_layer(layer: type[nn.Module]) -> Method:
    method = replace(ROWS)
    method.belong_to(__name__, layer)
    return method


# --- costs -----------------------------------------------------------------------------------------------------------


def dear(x, weight, **options):
    return Cost(1e9, 2 * x.nbytes + weight.nbytes, 1e9, 4 * x.nbytes)


def cheap_attention(query, key, value, **options):
    moved = 2 * query.nbytes + key.nbytes + value.nbytes
    return Cost(2 * query.numel() * key.shape[-2], moved, 1e6, 2 * moved)


def heavy(x, weight, **options):
    return Cost(3 * x.numel(), 9 * x.nbytes, 6 * x.numel(), 9 * x.nbytes)


def weightless(x, weight, **options):
    return Cost(3 * x.numel(), x.nbytes, 6 * x.numel(), 9 * x.nbytes)


# --- declaration -----------------------------------------------------------------------------------------------------


def seedless(size, *, device="cpu", dtype="float32", seed=0, hidden: int = 8):
    return ROWS.example(size, device=device, dtype=dtype, seed=0, hidden=hidden)


def always_float32(size, *, device="cpu", dtype="float32", seed=0, hidden: int = 8):
    return ROWS.example(size, device=device, seed=seed, hidden=hidden)


def fast(method: Method, function) -> Method:
    return replace(method, fast=function)


WRONG: dict[str, list[tuple[Method, str]]] = {
    "fast_equals_reference": [
        (fast(ROWS, wrong_where_long), "size 130"),
        (fast(ROWS, wrong_gradient), "gradient of weight"),
        (fast(ROWS, wrong_dtype), "float64"),
        (fast(ROWS, forgetful), "nan"),
    ],
    "every_shape": [(fast(ROWS, wrong_where_odd), "hidden = 1")],
    "every_option": [(fast(ROWS, deaf), "minus")],
    "inputs_may_lie_anyhow": [(fast(ROWS, reads_ahead), "strided")],
    "baselines_compute_the_same": [
        (replace(ROWS, baselines={"half": Baseline(lambda *inputs, **options: rows(*inputs, **options) / 2)}), "half")
    ],
    "inputs_stay_as_they_are": [(fast(ROWS, writes), "changed its x")],
    "rows_stay_apart": [
        (fast(ROWS, mixes), "changes other rows"),
        (fast(ROWS, swallows), "loses"),
        (replace(ROWS, traits=Traits(rows_apart=False)), "says that they mix"),
    ],
    "a_call_is_repeatable": [
        (fast(ROWS, restless), "differs between"),
        (replace(ROWS, traits=Traits(repeatable=False)), "and they are"),
    ],
    "large_and_tiny_numbers": [(fast(ROWS, overflows), "nan")],
    "knobs_at_their_ends": [(fast(ROWS, wrong_at_the_end), "factor = 4")],
    "knobs_are_validated": [(careless(ROWS), "")],
    "numbers_may_be_of_any_kind": [(careless(ROWS), "requires a gradient")],
    "an_unknown_option_is_refused": [(careless(ROWS, Swallowing), "colour")],
    "an_unknown_implementation_is_refused": [(careless(ROWS, Swallowing), "quick")],
    "an_implementation_runs_or_says_why_not": [
        (replace(ROWS, why_not_fast=lambda *inputs, **options: ["no"]), "no sentence")
    ],
    "wrong_inputs_are_refused": [(fast(ROWS, unchecked), "should be refused")],
    "other_dtypes_are_refused": [(careless(ROWS, traits=Traits(dtypes=("float64", "float32"))), "bfloat16")],
    "implementations_take_the_same": [(fast(ROWS, other_default), "by default")],
    "gradients_of_the_reference": [
        (replace(ROWS, reference=wrong_gradient), "Jacobian"),
        (careless(ROWS, traits=Traits(gradients=0)), "has no gradient"),
    ],
    "gradients_by_function": [(fast(ROWS, by(OldStyle)), "setup_context")],
    "forward_mode": [(careless(ROWS, fast=no_tangent), "tangent")],
    "second_derivatives": [
        (fast(ROWS, by(ConstantGradient)), "second derivative"),
        (replace(fast(ROWS, by(ConstantGradient)), traits=Traits(gradients=2)), "second derivative"),
    ],
    "autocast": [(fast(ROWS, narrow_under_autocast), "off"), (fast(ATTENTION, softmax), "differ in dtype")],
    "mixed_dtypes": [(fast(ROWS, own_dtype), "differ")],
    "no_rows": [(fast(ROWS, needs_a_row), "no rows")],
    "no_queries": [(fast(ATTENTION, needs_a_head), "no heads"), (fast(ATTENTION, nothing_from_nothing), "no keys")],
    "compiles_into_one_graph": [(fast(ROWS, looks_at_numbers), ""), (fast(ROWS, another_when_compiled), "off")],
    "a_kernel_can_be_asked_inside_of_a_graph": [(replace(ROWS, why_not_fast=asks_a_number), "")],
    "compiles_to_machine_code": [(fast(ROWS, another_when_compiled), "off")],
    "the_map_times_value_is_the_output": [(fast(ATTENTION, not_linear), "map @ value")],
    "only_attention_has_a_map": [(careless(ROWS, Mapped), "should be refused")],
    "causal_means_causal": [
        (fast(ATTENTION, leaks), "depends on tokens"),
        (replace(ATTENTION, reference=always_causal), "should be refused"),
    ],
    "takes_what_pytorchs_attention_takes": [(careless(ATTENTION, Maskless), "should be refused")],
    "scale_may_be_learned": [(fast(ATTENTION, plain_scale), "")],
    "pieces_equal_the_whole": [
        (fast(RUNNING, starts_anew), "off"),
        (fast(RUNNING, writes_its_state), "the state that went in"),
    ],
    "pickles_and_copies": [(replace(ROWS), "pickled")],
    "inference_then_training": [(fast(ROWS, keeps_a_table), "Inference tensors")],
    "the_layer_holds_weights_only": [(with_layer(Buffered), "more than weights")],
    "flops_agree_with_an_operator_count": [
        (replace(ROWS, cost=dear), "elementwise"),
        (replace(ATTENTION, cost=cheap_attention), "PyTorch counts"),
    ],
    "least_bytes": [
        (replace(ROWS, cost=heavy), "inputs and results"),
        (replace(ROWS, cost=weightless), "inputs and results"),
        (replace(ROWS, traits=Traits(reads_all=False)), "no less than all"),
    ],
    "workspace_bounds_the_peak": [
        (replace(ATTENTION, workspace=lambda *inputs, **options: 0), "too few"),
        (replace(ATTENTION, workspace=lambda *inputs, **options: 2**40), "refuse what fits"),
    ],
    "an_example_is_repeatable": [(replace(ROWS, example=seedless), "another seed"),
                                 (replace(ROWS, example=always_float32), "holds")],
    "it_is_complete": [(replace(ROWS, idea="none"), "no sentence"), (replace(ROWS, tolerance={}), "tolerance")],
}  # fmt: skip
