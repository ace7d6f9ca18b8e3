"""The two activations as modules that hold their coefficients, and nothing else."""

import torch
from torch import nn

from workbench.feedforward.polycom.inputs import MAX_ORDER, Rows
from workbench.feedforward.polycom.methods import poly_norm, poly_relu


class _Polynomial(nn.Module):
    """Coefficients of one layer, all powers alike at the start as in the paper: 1/order each, and no bias."""

    def __init__(self, order: int = 3, implementation: str = "auto") -> None:
        super().__init__()
        if not 1 <= order <= MAX_ORDER:
            raise ValueError(f"order = {order} is not allowed: choose a whole number from 1 to {MAX_ORDER}.")
        self.weight = nn.Parameter(torch.full((order,), 1 / order))
        self.bias = nn.Parameter(torch.zeros(1))
        self.implementation = implementation

    def extra_repr(self) -> str:
        return f"order={len(self.weight)}, implementation={self.implementation!r}"


class PolyNorm(_Polynomial):
    """PolyNorm with its coefficients: (..., hidden) to (..., hidden). ``order`` 1 to 4; ``eps`` as in ``poly_norm``."""

    def __init__(self, order: int = 3, eps: float = 1e-6, implementation: str = "auto") -> None:
        super().__init__(order, implementation)
        self.eps = eps

    def forward(self, x: Rows) -> Rows:
        return poly_norm(x, self.weight, self.bias, eps=self.eps, implementation=self.implementation)


class PolyReLU(_Polynomial):
    """PolyReLU with its coefficients: (..., hidden) to (..., hidden). ``order`` is 1 to 4."""

    def forward(self, x: Rows) -> Rows:
        return poly_relu(x, self.weight, self.bias, implementation=self.implementation)
