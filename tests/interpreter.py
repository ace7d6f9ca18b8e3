"""Triton's interpreter lacks three things that our kernels use and the GPU has; without CUDA they are added here. And
half of its time it does again what it has done: it looks for functions of the language that it has long replaced, makes
a table of types for every number, and guards sums of integers, which no test here makes that large."""

import dataclasses
import functools
import inspect

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def complete_interpreter():
    """For folders whose tests run kernels: their ``conftest.py`` imports it."""
    if torch.cuda.is_available():
        yield
        return
    pytest.importorskip("triton", reason="Triton is not installed: it comes for Linux only.")
    import triton.language as tl
    from triton.runtime import interpreter
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    dot = InterpreterBuilder.create_dot

    def widened(handle: TensorHandle) -> TensorHandle:
        """bfloat16 is held as its 16 bits; they are the upper half of the float32 of the same value."""
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def doubled(handle: TensorHandle) -> TensorHandle:
        return TensorHandle(handle.data.astype(np.float64), tl.float64)

    def create_dot(self, a, b, total, *rest):
        """With bfloat16, and rounded once: as on tensor cores, a b^T is to the last bit the transpose of b a^T. Sums
        that BLAS makes in float32 depend on which operand comes first, in a way that differs between processors."""
        product = dot(self, doubled(widened(a)), doubled(widened(b)), TensorHandle(np.float64(0), tl.float64), *rest)
        return TensorHandle(product.data.astype(total.data.dtype) + total.data, total.dtype.scalar)

    def create_descriptor_reduce(self, kind, descriptor, value, indices):
        pointers, mask = descriptor.materialize_pointers(indices)
        old = self.create_masked_load(
            pointers,
            TensorHandle(mask, tl.int1),
            TensorHandle(np.zeros_like(value.data), value.dtype),
            None,
            None,
            False,
        )
        return self.create_masked_store(
            pointers, TensorHandle(old.data + value.data, value.dtype), TensorHandle(mask, tl.int1), None, None
        )

    @functools.cache
    def builtins(package) -> list[str]:
        return [name for name, member in inspect.getmembers(package) if tl.core.is_builtin(member)]

    def patch_builtin(package, *rest):
        """Asked for at every launch: `inspect.getmembers` is made once a package."""
        for name in builtins(package):
            member = getattr(package, name)
            if tl.core.is_builtin(member):  # not yet replaced
                interpreter._patch_attr(package, name, member, *rest)

    numpy_type, scalar_type = interpreter._get_np_dtype, functools.cache(interpreter._get_np_dtype)

    def kept_numpy_type(kind):
        """Asked for wherever numbers are made; only scalars can be keys."""
        return scalar_type(kind.scalar) if kind.scalar.is_floating() or kind.scalar.is_int() else numpy_type(kind)

    replace_language = interpreter._patch_lang

    @functools.cache
    def languages(function) -> list:
        return [value for value in function.__globals__.values() if value is tl or value is tl.core]

    def patch_lang(function):
        """Asked for at every call of a function of a kernel, too, when nearly always all has been replaced."""
        replaced = not any(tl.core.is_builtin(language.load) for language in languages(function))
        return interpreter._LangPatchScope() if replaced else replace_language(function)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_builtin", patch_builtin)
        patch.setattr(interpreter, "_patch_lang", patch_lang)
        patch.setattr(interpreter, "_get_np_dtype", kept_numpy_type)
        unguarded = dataclasses.replace(interpreter.interpreter_builder.options, sanitize_overflow=False)
        patch.setattr(interpreter.interpreter_builder, "options", unguarded)
        patch.setattr(InterpreterBuilder, "create_dot", create_dot)
        patch.setattr(InterpreterBuilder, "create_descriptor_reduce", create_descriptor_reduce, raising=False)
        yield
