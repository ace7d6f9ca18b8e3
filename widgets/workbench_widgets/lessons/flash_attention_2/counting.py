"""The arithmetic of attention, counted as PyTorch runs it: on the direct formula and on Algorithm 1 alike."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from workbench.attention import flash_attention_2 as paper
from workbench_widgets.page import table_html

TENSOR_CORE_RATIO = 16
"""What a FLOP outside the matrix units costs on an A100, in FLOPs inside them (Sec. 3.1: 312 against 19.5 TFLOP/s)."""

_BY_RESULT = {
    "exp": "exponentials, logarithms",
    "log": "exponentials, logarithms",
    "mul": "multiplications",
    "sub": "additions, subtractions",
    "add": "additions, subtractions",
    "maximum": "comparisons for a maximum",
    "div": "divisions",
}
_BY_INPUT = {"sum": "additions, subtractions", "amax": "comparisons for a maximum"}
KINDS = ("matrix products (FLOPs)", *dict.fromkeys((*_BY_RESULT.values(), *_BY_INPUT.values())))


class Arithmetic(TorchDispatchMode):
    """While it is on, ``counts`` grows by kind of operation: one for each number that is calculated, two for each
    multiply-add of a matrix product. What only moves, compares with infinity or selects numbers is not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = dict.fromkeys(KINDS, 0)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__.rstrip("_")
        if name in ("mm", "bmm"):
            self.counts[KINDS[0]] += 2 * args[0].shape[-1] * result.numel()
        elif name in _BY_RESULT:
            self.counts[_BY_RESULT[name]] += result.numel()
        elif name in _BY_INPUT:
            self.counts[_BY_INPUT[name]] += args[0].numel()
        return result

    @property
    def outside(self) -> int:
        """Operations that no matrix unit can do."""
        return sum(count for kind, count in self.counts.items() if kind != KINDS[0])

    @property
    def total(self) -> int:
        """All of it, every operation counted once."""
        return self.counts[KINDS[0]] + self.outside


def direct_formula(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V, one step after the other, with the row's maximum subtracted as every library does."""
    scores = query @ key.mT * query.shape[-1] ** -0.5
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    return weights / weights.sum(-1, keepdim=True) @ value


def count_all(blocks: Sequence[int], tokens: int = 1024, head_dim: int = 64) -> dict[str, Arithmetic]:
    """The arithmetic of one head without a mask: of the direct formula, and of Algorithm 1 with ``blocks`` keys in a
    block. How many queries a block has changes nothing: every row is on its own."""
    inputs = torch.randn(3, 1, 1, tokens, head_dim, generator=torch.Generator().manual_seed(0)).unbind()
    found = {"direct formula": Arithmetic()}
    with found["direct formula"]:
        direct_formula(*inputs)
    for block in blocks:
        counted = found[f"{block} keys a block"] = Arithmetic()
        with counted:
            paper.forward(*inputs, block_rows=tokens, block_columns=block)
    return found


def arithmetic_table(counted: Mapping[str, Arithmetic]) -> str:
    """The counts side by side, in millions, and the totals over the first one's."""
    first = next(iter(counted.values()))
    rows = [(kind, *(f"{each.counts[kind] / 1e6:,.2f}" for each in counted.values())) for kind in KINDS]
    rows.append(("all but matrix products", *(f"{each.outside / 1e6:,.2f}" for each in counted.values())))
    shares = (f"{each.total / first.total:.1%}" for each in counted.values())
    rows.append(("everything, over the direct formula", *shares))
    return table_html(("millions of operations", *counted), rows, "Counted while PyTorch ran them.")


# --- the two updates -------------------------------------------------------------------------------------------------


def count_updates(tokens: int = 1024, head_dim: int = 64, block: int = 64) -> dict[str, paper.Operations]:
    """The operations of both updates, version 1 and version 2, on one head without a mask."""
    inputs = torch.randn(3, tokens, head_dim, generator=torch.Generator().manual_seed(0)).unbind()
    blocks = {"block_rows": block, "block_columns": block}
    return {update: paper.trace(*inputs, **blocks, update=update).operations for update in ("v1", "v2")}


def weighted(operations: paper.Operations) -> int:
    """Matrix products, exponentials, corrections and divisions, in units of a FLOP in the matrix units."""
    rest = operations.exponentials + operations.rescale_multiplications + operations.divisions
    return operations.matmul_flops + TENSOR_CORE_RATIO * rest


def operations_table(counted: Mapping[str, paper.Operations]) -> str:
    """The counts side by side, with the time that they take in units of a matrix FLOP."""
    labels = {
        "matmul_flops": "matrix-product FLOPs",
        "exponentials": "exponentials",
        "rescale_multiplications": "rescale multiplications",
        "divisions": "divisions",
    }
    rows = [(label, *(f"{getattr(each, name):,}" for each in counted.values())) for name, label in labels.items()]
    totals = (f"{weighted(each):,}" for each in counted.values())
    rows.append((f"matrix FLOPs + {TENSOR_CORE_RATIO} × the rest", *totals))
    return table_html(("", *(f"update {name}" for name in counted)), rows)
