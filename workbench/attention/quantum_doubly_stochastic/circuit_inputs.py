"""What QontOT attention takes: how large a circuit, its parameters, an example, cost and memory."""

from typing import Annotated

import torch
from torch import Tensor

from workbench.attention.inputs import cost, example
from workbench.attention.quantum_doubly_stochastic.circuit import (
    draw_parameters,
    gates,
    parameter_count,
    register_qubits,
)
from workbench.controls import Range
from workbench.paper import Cost, Example, kernel_or_cpu

MOST_TOKENS = 64  # the circuit then needs 4096 angles, and so 74 layers
LARGEST_EXAMPLE = 16  # beyond, the equations keep too much for the backward pass

Layers = Annotated[int, Range(1, 64), "Layers of the circuit, at least; more where a score would have no angle."]
Auxiliary = Annotated[int, Range(0, 5), "Auxiliary qubits; each quadruples the work."]


def circuit_of(tokens: int, layers: int, auxiliary: int) -> dict[str, int]:
    """The circuit for that many tokens: ``tokens`` padded to a power of two, ``layers``, ``auxiliary_qubits``.

    A circuit needs an angle for every score, or scores would be ignored: layers are added until it has.
    Raises ``ValueError`` for more than 64 tokens.
    """
    if tokens > MOST_TOKENS:
        raise ValueError(
            f"A circuit for {tokens} tokens needs {tokens}^2 angles; at most {MOST_TOKENS} tokens are simulated."
        )
    padded = max(2, 1 << (tokens - 1).bit_length())
    qubits = register_qubits(padded, auxiliary)
    fewest = -(-(padded**2 - 3 * qubits) // (8 * (qubits - 1)))
    return {"tokens": padded, "layers": max(layers, fewest), "auxiliary_qubits": auxiliary}


def parameters_of(tokens: int, layers: int, auxiliary: int, seed: int) -> Tensor:
    """The angles' parameters theta ~ U(-1, 1) of the circuit for that many tokens, float64 on the CPU."""
    return _drawn(parameter_count(**circuit_of(tokens, layers, auxiliary)), seed)


@torch.compiler.assume_constant_result
def _drawn(count: int, seed: int) -> Tensor:
    return draw_parameters(count, seed=seed)


def padded_scores(scores: Tensor, tokens: int) -> Tensor:
    """Scores with rows and columns of zeros, up to that many tokens."""
    missing = tokens - scores.shape[-1]
    return torch.nn.functional.pad(scores, (0, missing, 0, missing))


def why_not_qontot(query: Tensor, key: Tensor, value: Tensor, **options: object) -> list[str]:
    """Why the simulation cannot run on these inputs, in sentences."""
    from workbench_kernels import tiles

    return kernel_or_cpu(query, tiles.why_not, query.dtype)


def qontot_example(
    tokens: int,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    seed: int = 0,
    batch: Annotated[int, Range(1, 64, log=True), "Sequences in a batch."] = 1,
    heads: Annotated[int, Range(1, 128, log=True), "Query heads."] = 2,
    kv_heads: Annotated[int | None, Range(1, 128, log=True), "Key/value heads; None: as many as query heads."] = None,
    head_dim: Annotated[int, Range(1, 256, log=True), "Width of a head."] = 64,
) -> Example:
    """Standard-normal query, key, value of ``tokens`` tokens."""
    shape = {"batch": batch, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
    return example(tokens, device=device, dtype=dtype, seed=seed, **shape)


def _settings(tokens: int, options: dict) -> tuple[int, int, int]:
    """(states N, turns, blocks) of the circuit that a call with these options simulates."""
    circuit = circuit_of(tokens, options.get("layers", 2), options.get("auxiliary", 1))
    qubits = register_qubits(circuit["tokens"], circuit["auxiliary_qubits"])
    kinds = [gate.kind for gate in gates(qubits, circuit["layers"], "parted")]
    return 2**qubits, kinds.count("turn"), kinds.count("block")


def qontot_cost(query: Tensor, key: Tensor, value: Tensor, **options: object) -> Cost:
    """The equations as they stand: Q K^T and P V; a gate is a matrix of 2 x 2 or 4 x 4 complex numbers, applied to N^2
    amplitudes; U2 U1^T. A complex multiply-add counts 8."""
    products = cost(query, key, value)
    batch, heads, tokens, _ = query.shape
    states, turns, blocks = _settings(tokens, options)
    circuit = batch * heads * (states**2 * (16 * turns + 32 * blocks) + 8 * states**3)
    return Cost(
        products.flops + circuit, products.bytes, products.backward_flops + 2 * circuit, products.backward_bytes
    )


def qontot_workspace(implementation: str, query: Tensor, key: Tensor, value: Tensor, **options: object) -> int:
    """Bytes held at the forward's peak beside inputs and output: a few W (N, N) of all heads, or of a few at a time."""
    batch, heads, tokens, _ = query.shape
    states, turns, blocks = _settings(tokens, options)
    size = 8 if query.dtype == torch.float64 else 4
    angles = 4 * size * batch * heads * (3 * turns + 4 * blocks)
    together = batch * heads if implementation == "reference" else min(batch * heads, max(1, 2**18 // states**2))
    return angles + 5 * 2 * size * states**2 * together
