"""Tokens over an image, layer by layer: which are kept, merged and dropped, and what share of them is left."""

import numpy as np

from workbench import plots
from workbench_widgets.frames import Frames


class TokenFlow(Frames):
    """Made by ``token_flow``: a slider over the layers."""

    def __init__(self, image: np.ndarray, grid: tuple[int, int], assignments: np.ndarray, first: int) -> None:
        layers = len(assignments)
        super().__init__(
            lambda layer: plots.token_flow_picture(image, grid, assignments, layer - 1), range(1, layers + 1),
            what="layer", first=first, shown=sorted({1, (layers + 1) // 2, layers}),
        )  # fmt: skip


def token_flow(
    image: np.ndarray, assignments: np.ndarray, *, grid: tuple[int, int] | None = None, layer: int | None = None
) -> TokenFlow:
    """What a network does with the patches of ``image`` (height, width) or (height, width, 3): uint8, or -1 to 1.

    ``assignments`` (layers, tokens): the group in which each token is after each layer - equal numbers from 0 on were
    merged into one token, -1 was dropped. A class token is left out. ``grid`` is the (rows, columns) of the patches
    (default: a square); ``layer``, from 1, is shown first (default: the last). Hovering over a group shows all of it.
    Raises ``ValueError`` for what does not fit together, and for tokens that come back.
    """
    flow = np.asarray(assignments)
    if grid is None:
        side = round(flow.shape[-1] ** 0.5) if flow.ndim else 0
        grid = (side, side)
    plots.checked_flow(image, grid, flow)
    return TokenFlow(image, grid, flow, len(flow) if layer is None else layer)
