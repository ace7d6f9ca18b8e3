"""Tokens over an image, layer by layer: kept, merged into groups, or dropped; and which share of them is left."""

import base64
import io

import numpy as np
from PIL import Image

from workbench.plots import svg
from workbench.plots.looks import BLUE, ORANGE, PALETTE

DROPPED = -1
SIDE, CURVE_WIDTH, CURVE_HEIGHT = 300, 330, 180
COLORS = PALETTE[:6]  # its grey stands for what is dropped

STYLE = """<style>
.wb-group rect {stroke-opacity: 0} .wb-group:hover rect {fill-opacity: .85; stroke-opacity: 1}
</style>"""


def checked_flow(image: np.ndarray, grid: tuple[int, int], assignments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The image as bytes (height, width, 3) and the assignments as whole numbers (layers, tokens).

    ``image`` (height, width) or (height, width, 3) is uint8, or of floats from -1 (black) to 1. ``assignments``
    (layers, tokens): the group of each of the rows x columns tokens of the ``grid`` after each layer, any number from 0
    on, or -1 where it was dropped. Raises ``ValueError`` for anything else, and for a token that comes back.
    """
    image, flow = np.asarray(image), np.asarray(assignments)
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
        raise ValueError(f"An image is (height, width) or (height, width, 3), not {image.shape}.")
    if flow.ndim != 2 or not len(flow) or flow.shape[1] != grid[0] * grid[1]:
        tokens = grid[0] * grid[1]
        raise ValueError(f"{grid[0]} x {grid[1]} tokens need assignments (layers, {tokens}), not {flow.shape}.")
    if flow.dtype.kind not in "iu" or flow.min() < DROPPED:
        raise ValueError("A token is in a group, a whole number from 0 on, or dropped: -1.")
    if ((flow[:-1] == DROPPED) & (flow[1:] != DROPPED)).any():
        raise ValueError("A token that was dropped does not come back in a later layer.")
    if image.dtype != np.uint8:
        image = np.rint((np.clip(image.astype(float), -1, 1) + 1) * 127.5).astype(np.uint8)
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image, flow


def tokens_left(assignments: np.ndarray) -> np.ndarray:
    """How many tokens the network still computes with after each layer (layers,): groups, and those on their own."""
    return np.array([len(np.unique(layer[layer != DROPPED])) for layer in np.asarray(assignments)])


def token_flow_picture(image: np.ndarray, grid: tuple[int, int], assignments: np.ndarray, layer: int) -> str:
    """The tokens after ``layer`` (0: the first) over the image, and the share that is left after each, as HTML.

    Arguments and errors as ``checked_flow``.
    """
    image, flow = checked_flow(image, grid, assignments)
    words = in_sentence(flow, layer)
    sides = (_image(image, grid, flow[layer], words), _curve(tokens_left(flow), flow.shape[1], layer))
    columns = "".join(f'<div style="flex:0 1 {width + 20}px;min-width:0">{side}</div>' for side, width in
                      zip(sides, (SIDE, CURVE_WIDTH), strict=True))  # fmt: skip
    style = "display:flex;flex-wrap:wrap;gap:1em 2em;align-items:center;margin-bottom:1em"
    return f'{STYLE}<div style="margin:.6em 0 .4em">{words}</div><div style="{style}">{columns}</div>'


def in_sentence(flow: np.ndarray, layer: int) -> str:
    """How many tokens are left after a layer, and where the others went."""
    groups, counts = np.unique(flow[layer][flow[layer] != DROPPED], return_counts=True)
    count, left = flow.shape[1], len(groups)
    dropped, merged = int((flow[layer] == DROPPED).sum()), int((counts - 1).sum())
    return (
        f"After layer {layer + 1} of {len(flow)}: {left} of {count} tokens are left ({left / count:.0%}); "
        f"{merged} were merged into others, {dropped} dropped."
    )


def _image(image: np.ndarray, grid: tuple[int, int], groups: np.ndarray, words: str) -> str:
    rows, columns = grid
    height = SIDE * image.shape[0] / image.shape[1]
    wide, tall = SIDE / columns, height / rows
    written = io.BytesIO()
    Image.fromarray(image).save(written, "PNG")
    data = base64.b64encode(written.getvalue()).decode()
    drawn = [
        f'<image href="data:image/png;base64,{data}" width="{SIDE}" height="{height:.1f}" preserveAspectRatio="none" '
        'style="image-rendering:pixelated"/>'
    ]
    cells = groups.reshape(grid)
    for group, color in _colors(cells).items():
        places = np.argwhere(cells == group)
        dropped, alone = group == DROPPED, len(places) == 1
        fill, opacity = ("#6E6E6E", 0.88) if dropped else (color, 0.0 if alone else 0.6)
        rects = "".join(
            f'<rect x="{c * wide:.1f}" y="{r * tall:.1f}" width="{wide:.1f}" height="{tall:.1f}"/>' for r, c in places
        )
        merged = "a token on its own" if alone else f"{len(places)} tokens in one"
        said = f"{len(places)} dropped" if dropped else merged
        look = f'fill="{fill}" fill-opacity="{opacity}" stroke="{fill}" stroke-width="1.5"'
        strokes = "".join(f"M{c * wide:.1f} {(r + 1) * tall:.1f}l{wide:.1f} {-tall:.1f}" for r, c in places)
        struck = f'<path d="{strokes}" stroke="#FFFFFF" stroke-opacity=".55" stroke-width="1"/>' if dropped else ""
        drawn.append(f'<g class="wb-group" {look}><title>{said}</title>{rects}{struck}</g>')
    drawn.append(_borders(cells, wide, tall))
    return svg.picture(SIDE, height, drawn, words)


def _colors(cells: np.ndarray) -> dict[int, str]:
    """A colour for every group, another one than those of the groups beside it have where that is possible. It depends
    on the group's first token, so that most keep theirs from layer to layer."""
    rows, columns = cells.shape
    padded = np.full((rows + 2, columns + 2), DROPPED)
    padded[1:-1, 1:-1] = cells
    chosen: dict[int, str] = {}
    for first, group in sorted((int((cells == group).argmax()), int(group)) for group in np.unique(cells)):
        near = {int(other) for r, c in np.argwhere(cells == group) for other in padded[r : r + 3, c : c + 3].ravel()}
        taken = {chosen[other] for other in near if other in chosen}
        order = [COLORS[(first + shift) % len(COLORS)] for shift in range(len(COLORS))]
        chosen[group] = next((color for color in order if color not in taken), order[0])
    return chosen


def _borders(cells: np.ndarray, wide: float, tall: float) -> str:
    """Lines between cells of different groups, white on a dark seam: seen on any image."""
    across = [(r, c) for r, c in np.argwhere(cells[:, 1:] != cells[:, :-1])]
    down = [(r, c) for r, c in np.argwhere(cells[1:] != cells[:-1])]
    path = "".join(f"M{(c + 1) * wide:.1f} {r * tall:.1f}v{tall:.1f}" for r, c in across)
    path += "".join(f"M{c * wide:.1f} {(r + 1) * tall:.1f}h{wide:.1f}" for r, c in down)
    lines = (("#000000", 2.4, 0.45), ("#FFFFFF", 1, 0.9))
    return "".join(
        f'<path d="{path}" fill="none" stroke="{color}" stroke-width="{width}" stroke-opacity="{opacity}" '
        'pointer-events="none"/>'
        for color, width, opacity in lines
    )


def _curve(left: np.ndarray, tokens: int, layer: int) -> str:
    """The share of the tokens that is left after each layer, as steps; the one that is shown is marked."""
    start, top, bottom = 46, 36, CURVE_HEIGHT - 34
    step = (CURVE_WIDTH - start - 8) / len(left)
    heights = bottom - (bottom - top) * left / tokens
    drawn = [svg.text(0, 12, "share of the tokens that is left")]
    for share in (0, 0.5, 1):
        y = bottom - (bottom - top) * share
        drawn += [svg.text(start - 6, y + 4, f"{share:.0%}", "end", size=12)]
        drawn += [svg.line(start, y, CURVE_WIDTH - 8, y, opacity=0.25)]
    for index, y in enumerate(heights):
        x, now = start + index * step, index == layer
        drawn.append(svg.box(x + step * 0.1, y, step * 0.8, bottom - y, ORANGE if now else BLUE, 0.95 if now else 0.7))
        if len(left) <= 12 or now or index % 4 == 3:
            drawn.append(svg.text(x + step / 2, bottom + 15, index + 1, "middle", size=12))
    drawn.append(svg.text(start + (CURVE_WIDTH - start) / 2, bottom + 31, "layer", "middle", size=12))
    label = f"{left[layer] / tokens:.0%}"
    drawn.append(svg.text(start + (layer + 0.5) * step, heights[layer] - 4, label, "middle", size=12))
    return svg.picture(CURVE_WIDTH, CURVE_HEIGHT, drawn, f"After layer {layer + 1} {label} of the tokens are left")
