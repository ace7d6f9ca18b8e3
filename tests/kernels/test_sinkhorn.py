"""The Triton kernels of Sinkhorn attention: in the interpreter at small sizes, on a GPU at real ones."""

import pytest
import torch

from comparison import assert_close
from workbench.attention.quantum_doubly_stochastic import potentials, sinkhorn
from workbench_kernels import sinkhorn as kernels
from workbench_kernels.sinkhorn import sinkhorn_attention, why_not

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FLOAT32 = 5e-6
DTYPES = [torch.float32, torch.float16, torch.bfloat16]

CASES = {
    "one token": dict(tokens=1),
    "one tile, odd": dict(tokens=13, batch=2),
    "several tiles, odd": dict(tokens=171),
    "narrow head": dict(tokens=65, head_dim=20, heads=3),
    "wide head": dict(tokens=70, head_dim=256, heads=1),
    "head_dim that is no power of two": dict(tokens=40, head_dim=80),
}


@pytest.fixture(params=["registers", "streaming"])
def path(request, monkeypatch):
    """Both ways for any number of tokens that both can take."""
    if request.param == "streaming":
        monkeypatch.setattr(kernels, "MOST_IN_REGISTERS", 0)
    return request.param


def tensors(tokens, heads=2, head_dim=32, batch=1, dtype=torch.float32):
    return [torch.randn(batch, heads, tokens, head_dim, device=DEVICE).to(dtype) for _ in range(4)]


def plain(query, key, value, iterations, scale):
    return sinkhorn(scale * query @ key.mT, iterations) @ value


def gradients(function, inputs, upstream):
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    output = function(*inputs)
    return [output, *torch.autograd.grad(output, inputs, upstream)]


def check(inputs, iterations, scale):
    *inputs, upstream = inputs
    options = {"iterations": iterations, "scale": scale}
    ours = gradients(lambda *qkv: sinkhorn_attention(*qkv, **options), inputs, upstream)
    truth = gradients(lambda *qkv: plain(*qkv, **options), [each.double() for each in inputs], upstream.double())
    low = upstream.dtype != torch.float32
    ordinary = gradients(lambda *qkv: plain(*qkv, **options), inputs, upstream) if low else [None] * 4
    largest = max(tensor.abs().max().item() for tensor in truth)
    for name, got, expected, other in zip(("output", "dq", "dk", "dv"), ours, truth, ordinary, strict=True):
        scale = largest if expected.abs().max() < 1e-9 * largest else None
        assert got.is_contiguous()
        assert_close(got, expected, ordinary=other, tolerance=0 if low else FLOAT32, scale=scale, name=name)


@pytest.mark.parametrize("iterations", [1, 2, 5, 6])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case, dtype, iterations, path, poisoned_memory):
    shape = CASES[case]
    check(tensors(**shape, dtype=dtype), iterations, shape.get("head_dim", 32) ** -0.5)
