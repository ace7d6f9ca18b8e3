"""Kernels that are launched at next to no cost to the host.

Triton finds out at every call which of a kernel's compiled forms the arguments need: 37 microseconds on an H200's host,
as long as a small kernel runs. ``prepared`` does it once for arguments of a kind and hands the rest to the driver::

    @prepared
    @triton.jit
    def _kernel(x, y, numbers, BLOCK: tl.constexpr): ...

    _kernel[(programs,)](x, y, numbers, BLOCK=1024, num_warps=4)

The call is written as Triton's: tensors and numbers by position, constants and options by name. It runs on the device
and the current stream of its tensors, whatever the current device is.
"""

import functools
import warnings
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    from triton import knobs
    from triton.runtime import JITFunction
    from triton.tools.tensor_descriptor import TensorDescriptor
except ImportError:  # `tiles.why_not` says so
    JITFunction = None

MOST_KEPT = 4096  # compiled forms of one kernel that are remembered

_current_device = getattr(torch._C, "_cuda_getDevice", None)
_current_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None)


def prepared(kernel: Any) -> Any:
    """``kernel``, launched without Triton's work at every call; in Triton's interpreter, the kernel itself."""
    return Prepared(kernel) if JITFunction is not None and isinstance(kernel, JITFunction) else kernel


class Prepared:
    """A Triton kernel and its compiled forms, by what Triton compiles for: types, alignment, some integers, constants.

    Ordinary launches are made where something listens to them (a profiler's hooks), for arguments that are no tensors,
    descriptors of tensors, plain numbers or tuples of these, and (with a warning) where this Triton launches in another
    way than the one this was written for.
    """

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.forms: dict[tuple, tuple] = {}

    def __getitem__(self, grid: tuple[int, ...]) -> "_OnGrid":
        return _OnGrid(self, grid)

    def launch(self, grid: tuple[int, ...], arguments: tuple, constants: dict[str, Any]) -> tuple | None:
        """What ``kernel[grid](*arguments, **constants)`` does; the compiled form, where it is known. Raises
        ``ValueError`` for tensors on several devices."""
        key, values = [], []
        device = _look(arguments, key, values, None)
        if device is None or device < 0:
            raise ValueError(f"The kernel runs on CUDA, and the tensors are on {_devices(arguments) or 'no device'}.")
        if device != _current_device():
            with torch.cuda.device(device):
                return self.launch(grid, arguments, constants)
        key = (device, *key, *constants, *constants.values())
        form = self.forms.get(key)
        if form is None or _somebody_listens():
            return self._launch_and_keep(key, grid, arguments, constants)
        run, function, packed, tail = form
        columns, rows, layers = (*grid, 1, 1)[:3]
        try:
            run(columns, rows, layers, _current_stream(device), function, packed, None, None, None, *values, *tail)
        except TypeError:  # the driver's launcher takes something else in this version of Triton
            self.kernel[grid](*arguments, **constants)
            _say_that_launches_are_ordinary()
        return form

    def _launch_and_keep(
        self, key: tuple, grid: tuple[int, ...], arguments: tuple, constants: dict[str, Any]
    ) -> tuple | None:
        compiled = self.kernel[grid](*arguments, **constants)
        known = all(hasattr(compiled, name) for name in ("run", "function", "packed_metadata"))
        if not known or _Unknown in key:
            return None
        if len(self.forms) >= MOST_KEPT:
            self.forms.clear()
        parameters = self.kernel.params[len(arguments) :]
        tail = tuple(constants.get(parameter.name, parameter.default) for parameter in parameters)
        self.forms[key] = (compiled.run, compiled.function, compiled.packed_metadata, tail)
        return self.forms[key]


class Operands:
    """Tensors that one launch after the other is given: what a launch must know of them is found out once."""

    __slots__ = ("device", "kind", "pointers", "tensors")

    def __init__(self, *tensors: Tensor) -> None:
        self.tensors = tensors
        self.pointers = [tensor.data_ptr() for tensor in tensors]
        self.device = tensors[0].get_device()
        kind = []
        for tensor, pointer in zip(tensors, self.pointers, strict=True):
            kind += (tensor.get_device(), tensor.dtype, pointer & 15 == 0)
        self.kind = tuple(kind)


class Bound:
    """A launch whose grid, numbers and constants stay, made again and again on other tensors, which come first::

        step = Bound(_kernel, (programs,), (numbers, 0.5), {"BLOCK": 1024})
        step(Operands(x, y))            # _kernel[(programs,)](x, y, numbers, 0.5, BLOCK=1024)

    It costs the host what looking at the tensors does, however many numbers there are.
    """

    __slots__ = ("constants", "forms", "grid", "kernel", "numbers")

    def __init__(self, kernel: Any, grid: tuple[int, ...], numbers: tuple, constants: dict[str, Any]) -> None:
        self.kernel, self.grid, self.numbers, self.constants = kernel, grid, numbers, constants
        self.forms: dict[tuple, tuple] = {}

    def __call__(self, operands: Operands) -> None:
        form = self.forms.get(operands.kind)
        if form is None or operands.device != _current_device() or _somebody_listens():
            return self._launch_and_keep(operands)
        columns, rows, layers, run, function, packed, tail = form
        stream = _current_stream(operands.device)
        try:
            run(columns, rows, layers, stream, function, packed, None, None, None, *operands.pointers, *tail)
        except TypeError:  # as above
            self.kernel.kernel[self.grid](*operands.tensors, *self.numbers, **self.constants)
            _say_that_launches_are_ordinary()
        return None

    def _launch_and_keep(self, operands: Operands) -> None:
        if not isinstance(self.kernel, Prepared):  # in Triton's interpreter
            self.kernel[self.grid](*operands.tensors, *self.numbers, **self.constants)
            return
        form = self.kernel.launch(self.grid, (*operands.tensors, *self.numbers), self.constants)
        if form is not None:
            run, function, packed, tail = form
            self.forms[operands.kind] = (*(*self.grid, 1, 1)[:3], run, function, packed, (*self.numbers, *tail))


class _OnGrid:
    """What ``kernel[grid]`` is."""

    __slots__ = ("_grid", "_prepared")

    def __init__(self, prepared: Prepared, grid: tuple[int, ...]) -> None:
        self._prepared, self._grid = prepared, grid

    def __call__(self, *arguments: Any, **constants: Any) -> None:
        self._prepared.launch(self._grid, arguments, constants)


class _Unknown:
    """Stands in a key for an argument that only Triton can judge."""


def _look(arguments: tuple, key: list, values: list, device: int | None) -> int | None:
    """Appends what Triton compiles for to ``key``, and to ``values`` what the driver takes; the tensors' device."""
    for argument in arguments:
        kind = type(argument)
        if kind is int:
            values.append(argument)
            # Triton makes a constant of 1, knows multiples of 16, and takes 64 bits where 32 do not do.
            wide = 0 if -0x80000000 <= argument < 0x80000000 else 2 if argument < 1 << 63 else 4
            key.append(-1 if argument == 1 else wide + (argument & 15 == 0))
        elif isinstance(argument, Tensor) or kind is TensorDescriptor:
            described = kind is TensorDescriptor
            tensor = argument.base if described else argument
            at = tensor.get_device()
            if device is None:
                device = at
            elif at != device:
                raise ValueError(f"The tensors of a call must be on one device, not on {_devices(arguments)}.")
            key.append(tensor.dtype)
            if described:  # its address, shape and strides are told to the copy engine at every launch
                values.append(argument)
                key.extend(argument.block_shape)
            else:
                pointer = tensor.data_ptr()
                values.append(pointer)
                key.append(pointer & 15 == 0)
        elif kind is tuple:
            inside: list = []
            key.append(len(argument))
            device = _look(argument, key, inside, device)
            values.append(tuple(inside))
        else:
            values.append(argument)
            key.append(kind if kind in (float, bool) else None if argument is None else _Unknown)
    return device


@functools.cache
def _say_that_launches_are_ordinary() -> None:
    """Once a process."""
    warnings.warn(
        f"Triton {triton.__version__} launches kernels in another way than workbench_kernels.launch knows: results "
        "are right, and every launch takes the host longer than it could.",
        RuntimeWarning,
        stacklevel=3,
    )


def _somebody_listens() -> bool:
    """Whether a hook is set that an ordinary launch would call."""
    enter, leave = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
    return bool((enter and getattr(enter, "calls", True)) or (leave and getattr(leave, "calls", True)))


def _devices(arguments: tuple) -> str:
    tensors = (getattr(argument, "base", argument) for argument in arguments)
    return " and ".join(sorted({str(tensor.device) for tensor in tensors if isinstance(tensor, Tensor)}))
