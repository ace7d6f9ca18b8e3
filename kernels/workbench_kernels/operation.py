"""What a kernel is to PyTorch: one declaration, from which eager calls, autograd and ``torch.compile`` follow.

How to declare one. Write the forward and the backward function of each device as plain functions of tensors, first,
and options, after them; say what the forward's results are called; and what they look like (``fake``)::

    def forward_triton(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]: ...
    def backward_triton(grad: Tensor, x: Tensor, scales: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]: ...

    _norm = Operation(
        "norm",                                                        # the operator workbench::norm
        forward={"cuda": forward_triton, "cpu": forward_torch},        # or one function for every device
        backward={"cuda": backward_triton, "cpu": backward_torch},
        outputs=("y", "scales"),
        fake=lambda x, weight, eps: (x.new_empty(x.shape), x.new_empty(...)),
    )

    def norm(x, weight, eps=1e-6):
        return _norm(x, weight, eps)[0]

The names do the rest. Of the outputs the first (``results`` of them) carry gradients, the others are there for the
backward pass. It takes the gradients of the results, and then whatever inputs and outputs of the forward its parameters
name: those are kept, and nothing else. It returns the gradients of the forward's first tensors, of one at least; what
stands behind them, such as a table of places, has none. Neither direction may return one of its inputs, nor two views
of one tensor: ``torch.compile`` forbids it.

What follows from it:

- Called eagerly, without a gradient to be had, the forward function runs and nothing else; with one, an
  ``autograd.Function`` is around it. ``torch.func.grad`` and ``vmap`` (one call an element) are right.
- Under ``torch.compile``, with fake tensors, in ``make_fx`` and ``torch.jit.trace``, it is the operator
  ``workbench::name`` (and ``workbench::name_backward``).
- It is differentiable once. A second derivative and forward mode are refused in a sentence.
- Of no numbers it makes no numbers, and gradients of zero, without a launch.
"""

import inspect
import operator
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

Sides = Callable[..., Any] | Mapping[str, Callable[..., Any]]  # "cuda" and "cpu", or one function for both


class Operation:
    """A function of tensors with at most one derivative, on CUDA and on a CPU; see above.

    name, forward, backward, outputs, results, fake   as above; without ``backward`` there is no derivative
    fake_backward   what the gradients look like; without it, each like the input of that name

    Raises ``TypeError`` where the functions' parameters do not fit together.
    """

    def __init__(
        self,
        name: str,
        *,
        forward: Sides,
        fake: Callable[..., Any],
        backward: Sides | None = None,
        fake_backward: Callable[..., Any] | None = None,
        outputs: Sequence[str] = ("output",),
        results: int = 1,
    ) -> None:
        sides = dict.fromkeys(("cuda", "cpu"), forward) if callable(forward) else forward
        self._cuda, self._cpu, self._fake = sides["cuda"], sides["cpu"], fake
        self._results = results
        names, self._tensors = _parameters(self._cuda)
        self._derivative = None
        self.refusal = f"{name} has no derivative."
        if backward is not None:
            one_side = backward if callable(backward) else backward["cpu"]
            fake_backward = fake_backward or _like(names[: self._tensors], one_side, results)
            self._derivative = _Gradient(f"{name}_backward", forward=backward, fake=fake_backward)
            self._derivative.refusal = (
                f"{name} can be differentiated once: where its second derivative is needed, "
                "ask for implementation='reference'."
            )
            self._kept, self._kept_tensors = _kept(self._derivative, results, (*names, *outputs))
        self.operator = self._register(name)
        self._function = self._autograd_function(name)
        # `Function.apply` without its provisions for torch.func, which take longer than all the rest.
        self._apply = super(torch.autograd.Function, self._function).apply

    def __call__(self, *inputs: Any) -> Any:
        if torch.compiler.is_compiling():
            return self.operator(*inputs)
        if torch._C._are_functorch_transforms_active():
            return self._function.apply(*inputs)
        if torch._C._len_torch_dispatch_stack() or torch._C._is_tracing():
            return self.operator(*inputs)
        wanted = False
        for tensor in inputs[: self._tensors]:
            if type(tensor) is not Tensor and type(tensor) is not Parameter and tensor is not None:
                return self.operator(*inputs)
            wanted = wanted or (tensor is not None and tensor.requires_grad)
        if (wanted and torch.is_grad_enabled()) or forward_ad._current_level >= 0:
            return self._apply(*inputs)
        return self.run(*inputs)

    def run(self, *inputs: Any) -> Any:
        """The function itself on the device of the first tensor, whoever may want a gradient."""
        first = inputs[0]
        if not first.numel() and (empty := self._of_nothing(*inputs)) is not None:
            return empty
        if first.is_cuda:
            return self._cuda(*inputs)
        return self._cpu(*inputs) if first.is_cpu else self.operator(*inputs)

    def _of_nothing(self, *inputs: Any) -> Any:
        """The outputs where the results have no numbers; None where they have some, though the first input has not."""
        outputs = self._fake(*inputs)
        first = outputs if isinstance(outputs, Tensor) else outputs[0]
        return None if first.numel() else outputs

    def _register(self, name: str) -> Callable[..., Any]:
        """The operator ``workbench::name``, its schema read from the annotations of the function for CUDA.

        What ``torch.library.custom_op`` does, without its checks on every call, 0.15 to 0.3 ms on an H200's host.
        """
        qualified = f"workbench::{name}"
        torch.library.define(qualified, torch.library.infer_schema(self._cuda, mutates_args=()))
        torch.library.impl(qualified, ("cuda", "cpu"), self.run)
        torch.library.register_fake(qualified, self._fake)
        torch.library.register_autograd(qualified, self._differentiate, setup_context=self._keep)
        return getattr(torch.ops.workbench, name).default

    def _autograd_function(self, name: str) -> type[torch.autograd.Function]:
        def forward(*inputs: Any) -> Any:
            # Beneath torch.func's transforms there may be a tracer, too.
            return self.operator(*inputs) if torch._C._len_torch_dispatch_stack() else self.run(*inputs)

        def refuse_forward_mode(ctx: Any, *tangents: Any) -> None:
            raise NotImplementedError(
                f"{name} has no forward-mode derivative (dual tensors, torch.func.jvp, jacfwd, hessian): "
                "ask for implementation='reference'."
            )

        functions = {
            "forward": forward,
            "setup_context": self._keep,
            "backward": self._differentiate,
            "jvp": refuse_forward_mode,
            "vmap": self._one_by_one,
        }
        title = "".join(part.title() for part in name.split("_"))
        return type(title, (torch.autograd.Function,), {key: staticmethod(value) for key, value in functions.items()})

    def _keep(self, ctx: Any, inputs: tuple, output: Any) -> None:
        """What autograd calls after the forward function."""
        outputs = (output,) if isinstance(output, Tensor) else output
        ctx.set_materialize_grads(self._results > 1)
        ctx.mark_non_differentiable(*outputs[self._results :])
        if self._derivative is not None:
            kept = self._kept((*inputs, *outputs))
            ctx.save_for_backward(*kept[: self._kept_tensors])
            ctx.options = kept[self._kept_tensors :]
        ctx.count = len(inputs)

    def _differentiate(self, ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """What autograd calls for the gradients of the inputs."""
        if self._derivative is None:
            raise NotImplementedError(self.refusal)
        if grads[0] is None:  # nobody asked for it
            return (None,) * ctx.count
        found = self._derivative(*grads[: self._results], *ctx.saved_tensors, *ctx.options)
        found = (found,) if isinstance(found, Tensor) else found
        return (*found, *(None,) * (ctx.count - len(found)))

    def _one_by_one(self, info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
        """What ``torch.func.vmap`` calls: the elements one after the other, stacked."""
        if not info.batch_size:
            raise ValueError("torch.func.vmap over a batch of none: there is nothing to tell the result's shape.")
        calls = [
            self(*(each if dim is None else each.select(dim, i) for each, dim in zip(inputs, in_dims, strict=True)))
            for i in range(info.batch_size)
        ]
        if isinstance(calls[0], Tensor):
            return torch.stack(calls), 0
        return tuple(map(torch.stack, zip(*calls, strict=True))), (0,) * len(calls[0])


class _Gradient(Operation):
    """The backward function of an operation, itself an operation without a derivative."""

    def _of_nothing(self, *inputs: Any) -> Any:
        """Gradients of what an empty result came from."""
        gradients = self._fake(*inputs)
        return gradients.zero_() if isinstance(gradients, Tensor) else tuple(each.zero_() for each in gradients)


def _parameters(function: Callable[..., Any]) -> tuple[tuple[str, ...], int]:
    """The names of its parameters, and how many tensors there are: they come first."""
    hints = typing.get_type_hints(function)
    names = tuple(inspect.signature(function).parameters)
    tensors = [hints[name] in (Tensor, Tensor | None) for name in names]
    if sorted(tensors, reverse=True) != tensors:
        raise TypeError(f"{function.__name__}: tensors come before options, not {', '.join(names)}.")
    return names, sum(tensors)


def _kept(gradient: Operation, results: int, known: tuple[str, ...]) -> tuple[Callable[[tuple], tuple], int]:
    """What picks the arguments of the backward function, after the gradients, from inputs and outputs; and how many of
    them are tensors."""
    names, tensors = _parameters(gradient._cuda)
    if unknown := [name for name in names[results:] if name not in known]:
        raise TypeError(f"{gradient._cuda.__name__} takes {', '.join(unknown)}, and there are {', '.join(known)}.")
    places = [known.index(name) for name in names[results:]]
    pick = operator.itemgetter(*places) if len(places) > 1 else lambda values: tuple(values[place] for place in places)
    return pick, tensors - results


def _like(names: tuple[str, ...], backward: Callable[..., Any], results: int) -> Callable[..., Any]:
    """A fake backward function: each gradient is like the input of that name."""
    parameters = tuple(inspect.signature(backward).parameters)
    if missing := set(names) - set(parameters[results:]):
        raise TypeError(f"{backward.__name__} does not take {', '.join(sorted(missing))}: fake_backward is needed.")
    places = [parameters.index(name) for name in names]

    def fake(*inputs: Any) -> Any:
        found = tuple(torch.empty_like(inputs[place], memory_format=torch.contiguous_format) for place in places)
        return found if len(found) > 1 else found[0]

    return fake
