"""The feed-forward block of a Transformer, with any activation, and coefficients with which one imitates another."""

import functools

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.paper import Method

Rows = Float[Tensor, "*rows hidden"]


def equal_parameter_hidden(hidden: int, branches_from: int, branches_to: int) -> int:
    """The hidden size that keeps a feed-forward block's parameters when its activation takes other branches.

    A block has ``branches + 1`` matrices of ``width * hidden``: SwiGLU's 5504 (two branches) becomes PolyNorm's 8256.
    """
    return round(hidden * (branches_from + 1) / (branches_to + 1))


class FeedForward(nn.Module):
    """``down(activation(up(x)))``: (..., width) to (..., width).

    hidden          width of the activation's output; a gated activation's up-projection is twice as wide, in one matrix
    activation      a method of the toggle "activation"
    implementation  "auto", "reference", "fast" or one of the activation's baselines
    order           of the polynomial, where the activation is one
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        activation: Method,
        implementation: str = "auto",
        order: int = 3,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.up = nn.Linear(width, activation.branches * hidden, bias=bias)
        self.activation = (
            activation.layer(hidden, order=order, implementation=implementation)
            if activation.layer
            else functools.partial(activation, implementation=implementation)
        )
        self.down = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        return self.down(self.activation(self.up(x)))


@torch.no_grad()
def fit_coefficients(method: Method, x: Rows, target: Rows, *, order: int = 3) -> tuple[Tensor, Tensor]:
    """The coefficients with which ``method`` comes closest to ``target`` on ``x``: least squares, in closed form.

    For activations that are linear in their (weight, bias), such as polynomials: their value with one coefficient 1 and
    the others 0 is one column of a least-squares problem, solved in float64. x and target (..., hidden) alike. Returns
    weight (order,) and bias (1,) on x's device, float64 for float64 x and float32 otherwise.
    Raises ``ValueError`` for another shape of target. O(order^2) operations and 8 (order + 1) bytes a number of x.
    """
    if target.shape != x.shape:
        raise ValueError(f"The target must have the shape of x, {tuple(x.shape)}, not {tuple(target.shape)}.")
    inputs = x.double().cpu()
    unit = torch.eye(order + 1, dtype=torch.float64)
    columns = [method.reference(inputs, row[:-1], row[-1:]).flatten() for row in unit]
    # The driver that finds the shortest solution: x may be such that columns coincide (all negative, all equal).
    wanted = target.double().cpu().flatten()[:, None]
    solution = torch.linalg.lstsq(torch.stack(columns, 1), wanted, driver="gelsd").solution
    solution = solution.flatten().to(x.device, torch.float64 if x.dtype == torch.float64 else torch.float32)
    return solution[:-1], solution[-1:]
