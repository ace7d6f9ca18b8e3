"""The lesson on FlashAttention-2: inputs that show the idea, counts, tables, measurements."""

import math

import torch
from bokeh.model import Model
from torch import Tensor

from workbench import measure, plots
from workbench.attention import flash_attention_2 as paper
from workbench.attention.standard import direct
from workbench.paper import Example
from workbench.plots import svg
from workbench.writing import vector
from workbench_kernels.attention.flash_attention import flash_attention
from workbench_widgets.lessons.flash_attention_2.counting import Arithmetic
from workbench_widgets.page import table_html

# --- inputs and pictures ---------------------------------------------------------------------------------------------


def related_tokens(
    tokens: int, head_dim: int = 8, *, heads: int = 1, sharpness: float = 1.8, seed: int = 0
) -> dict[str, Tensor]:
    """Query, key and value (1, heads, tokens, head_dim), float64, of tokens that drift: neighbours resemble each other.

    So the attention map has a visible band, and the maximum of a row grows as the blocks come nearer to it.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(tokens, heads, head_dim, generator=generator, dtype=torch.float64)
    state, drift = torch.zeros(heads, head_dim, dtype=torch.float64), []
    for step in noise:
        state = 0.9 * state + 0.436 * step
        drift.append(state)
    position = torch.stack(drift, dim=1)[None] * sharpness
    value = torch.randn(1, heads, tokens, head_dim, generator=generator, dtype=torch.float64)
    return {"query": position, "key": position, "value": value}


def map_with_blocks(example: Example) -> Model:
    """The attention map with the blocks that are walked over: white full, orange masked inside, crossed skipped."""
    query, key = example.inputs["query"], example.inputs["key"]
    options = dict(example.options)
    weights = paper.flash_attention_2.attention_map(query[:1, :1], key[:1, :1], **options)[0, 0].cpu().numpy()
    sides = [options.get(name) or paper.DEFAULT_BLOCK for name in ("block_rows", "block_columns")]
    kinds = paper.block_kinds(query.shape[2], key.shape[2], **{k: v for k, v in options.items() if k != "scale"})
    tokens = [str(index) for index in range(query.shape[2])]
    visited, masked = (kinds > 0).sum(), (kinds == 1).sum()
    title = f"{visited} of {kinds.size} blocks visited ({visited / kinds.size:.0%}), {masked} with a mask inside"
    figure = plots.attention_map(weights, tokens, tokens, title=title, overlay=(kinds, *sides))
    figure.max_width = 620
    return figure


# --- numbers ---------------------------------------------------------------------------------------------------------


def memory_table(lengths: list[int]) -> str:
    """Bytes beside input and output for one head of 128 in bfloat16, by the methods' own formulas."""
    rows = []
    for tokens in lengths:
        inputs = paper.flash_attention_2.example(tokens, device="meta", dtype="bfloat16", heads=1, head_dim=128).inputs
        matrix = tokens * tokens * 2
        logsumexp = paper.flash_attention_2.workspace("fast", *inputs.values())
        rows.append((f"{tokens:,}", _bytes(4 * tokens * 128 * 2), _bytes(matrix), _bytes(logsumexp)))
    heads = ("tokens", "Q, K, V and O", "the score matrix S", "what FlashAttention-2 keeps instead")
    return table_html(heads, rows, "One head of width 128 in bfloat16. The last column is one float32 a row.")


def _bytes(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:,.4g} {unit}"
        count /= 1024
    raise AssertionError


def by_hand(scores: Tensor, value: Tensor, block: int) -> str:
    """The online softmax of one row, block by block, every number shown. scores (keys,), value (keys, d)."""
    maximum, normaliser = torch.tensor(-torch.inf, dtype=scores.dtype), torch.zeros((), dtype=scores.dtype)
    accumulator, rows = value.new_zeros(value.shape[1]), []
    for start in range(0, len(scores), block):
        part = scores[start : start + block]
        maximum, normaliser, accumulator, rescale = paper.online_softmax_step(
            part, value[start : start + block], maximum, normaliser, accumulator
        )
        shown = [vector(part), vector((part - maximum).exp()), f"{rescale:.4f}", f"{maximum:.0f}", f"{normaliser:.4f}"]
        rows.append((f"keys {start} to {start + len(part) - 1}", *shown, vector(accumulator)))
    output, logsumexp = paper.finish(maximum, normaliser, accumulator)
    rows.append(("at the end", "", "", "", "", "", f"O = {vector(output)}"))
    direct = scores.softmax(0) @ value
    difference = float((output - direct).abs().max())
    caption = f"softmax(S) V at once: {vector(direct)}; difference {difference:.1e}. L = {float(logsumexp):.4f}."
    heads = ("block", "scores S", "P̃ = exp(S − m)", "a", "m", "ℓ", "accumulator Õ")
    return table_html(heads, rows, caption)


def any_order(scores: Tensor, value: Tensor, block: int = 2) -> str:
    """What one row has summed after all of its blocks, whatever their order: m, ℓ, Õ for three orders."""
    starts, rows = list(range(0, len(scores), block)), []
    for order in (starts, starts[::-1], starts[1:] + starts[:1]):
        state = [scores.new_tensor(-torch.inf), scores.new_zeros(()), value.new_zeros(value.shape[1])]
        for start in order:
            part = slice(start, start + block)
            *state, _ = paper.online_softmax_step(scores[part], value[part], *state)
        maximum, normaliser, accumulator = state
        names = ", ".join(f"{start} and {start + block - 1}" for start in order)
        rows.append((f"keys {names}", f"{maximum:.0f}", f"{normaliser:.6f}", vector(accumulator)))
    return table_html(("order", "m", "ℓ", "Õ"), rows)


def printed_formula(scores: Tensor, value: Tensor, block: int) -> Tensor:
    """One row as Algorithm 1 is *printed*, with the inverse factor: right only while the maximum does not grow."""
    maximum, normaliser = torch.tensor(-torch.inf, dtype=scores.dtype), torch.zeros((), dtype=scores.dtype)
    accumulator = value.new_zeros(value.shape[1])
    for start in range(0, len(scores), block):
        part = scores[start : start + block]
        larger = torch.maximum(maximum, part.max())
        weights = (part - larger).exp()
        rescale = 1.0 if start == 0 else 1 / (maximum - larger).exp()
        normaliser = rescale * normaliser + weights.sum()
        accumulator = rescale * accumulator + weights @ value[start : start + block]
        maximum = larger
    return accumulator / normaliser


def traffic(tokens: int, head_dim: int = 64, rows: int = 128, size: int = 2) -> dict[str, float]:
    """MiB that one head moves between memory and chip, forward: every S and P out and in, against none of them.

    FlashAttention reads K and V once for each block of ``rows`` queries (from cache, when they fit there).
    """
    tensor, matrix = tokens * head_dim * size, tokens * tokens * size
    return {
        "direct: Q, K, V, O": 4 * tensor / 2**20,
        "direct: S and P, out and in": 4 * matrix / 2**20,
        "FlashAttention-2: Q, O, L": (2 * tensor + 4 * tokens) / 2**20,
        "FlashAttention-2: K, V for every row block": 2 * tensor * math.ceil(tokens / rows) / 2**20,
    }


def who_computes(rows: int = 6, columns: int = 6) -> str:
    """Two block grids as SVG: which program computes which block, forward (a row each) and backward (a column each)."""
    side, gap, drawn = 26, 130, []
    ways = (("forward: a program a row block", True), ("backward: one a column block", False))
    for place, (title, by_row) in enumerate(ways):
        left = place * (columns * side + gap)
        drawn.append(svg.text(left, 14, title))
        for row in range(rows):
            for column in range(columns):
                program = row if by_row else column
                x, y, color = left + column * side, 24 + row * side, plots.PALETTE[program % len(plots.PALETTE)]
                drawn.append(svg.box(x, y, side - 3, side - 3, color, 0.5))
                drawn.append(svg.text(x + side / 2 - 1.5, y + side / 2 + 3, program, "middle", size=12))
    size = (2 * columns * side + gap + 60, 30 + rows * side)
    return svg.picture(*size, drawn, f"{ways[0][0]}; {ways[1][0]}")


def occupied(heads: int, tokens: int, *, by_rows: bool = False, block: int = 128, slots: int = 132) -> float:
    """How much of a GPU with ``slots`` places is busy: with one program a head, or ``by_rows`` one a block of rows."""
    return paper.wave_efficiency(heads * math.ceil(tokens / block) if by_rows else heads, slots)


def occupancy_table(tokens: int = 16384, block: int = 128) -> str:
    """How full a GPU of 132 multiprocessors (H100, H200) is with one program a head, and with one a row block."""
    rows = []
    for heads in (1, 4, 16, 64, 256):
        by_head, by_rows = (f"{occupied(heads, tokens, by_rows=by_rows):.1%}" for by_rows in (False, True))
        rows.append((str(heads), by_head, f"{heads * math.ceil(tokens / block):,}", by_rows))
    heads = ("batch × heads", "version 1: one program a head", "programs in version 2", "one program a row block")
    caption = f"{tokens:,} tokens, row blocks of {block}, 132 places."
    return table_html(heads, rows, caption)


# --- measurements for the claims -------------------------------------------------------------------------------------


def gradient_error(seed: int = 0) -> float:
    """Algorithm 2 against autograd of the direct formula, float64, grouped heads, a causal mask, odd lengths."""
    example = paper.flash_attention_2.example(45, dtype="float64", heads=4, kv_heads=2, head_dim=16, seed=seed)
    inputs = [tensor.requires_grad_() for tensor in example.inputs.values()]
    options = {"is_causal": True, "block_rows": 16, "block_columns": 8}
    grad = torch.randn_like(inputs[0])
    truth = torch.autograd.grad(direct(*inputs, is_causal=True), inputs, grad)
    with torch.no_grad():
        output, logsumexp = paper.forward(*inputs, **options)
        ours = paper.backward(*inputs, output, logsumexp, grad, **options)
    return max(measure.relative_error(a, b) for a, b in zip(ours, truth, strict=True))


def row_dots(seed: int = 0) -> float:
    """How far rowsum(dO * O) is from rowsum(P * dP), which needs the matrix of weights: largest difference, float64."""
    query, key, value = (tensor[0, 0] for tensor in related_tokens(24, seed=seed).values())
    grad_output = torch.randn(value.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weights = (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1)
    return float(((grad_output * (weights @ value)).sum(-1) - (weights * (grad_output @ value.mT)).sum(-1)).abs().max())


def on_a_gpu(device: str) -> dict[str, float]:
    """The claims that only a GPU can settle, bfloat16, 16 384 tokens in all, width 2048 (the paper's setting)."""
    method = paper.flash_attention_2

    def row(implementation: str, tokens: int, direction: str = "forward", head_dim: int = 64, **options) -> dict:
        shape = {"batch": 16384 // tokens, "heads": 2048 // head_dim, "head_dim": head_dim}
        rows = measure.sweep(
            [(method, implementation)], [tokens], device=device, dtype="bfloat16", shape=shape, options=options,
            directions=[direction],
        )  # fmt: skip
        return next(rows)

    full, causal = row("fast", 8192), row("fast", 8192, is_causal=True)
    wide = row("fast", 8192, head_dim=128)
    forward, backward = row("fast", 4096), row("fast", 4096, "backward")
    return {
        "faster_than_standard": row("softmax_attention", 2048)["median_ms"] / row("fast", 2048)["median_ms"],
        "causal_speedup": full["median_ms"] / causal["median_ms"],
        "backward_rate": backward["tflops_per_s"] / forward["tflops_per_s"],
        "sequence_parallelism": sequence_speedup(device),
        "fraction_of_peak": 100 * wide["tflops_per_s"] * 1e12 / measure.ceilings(device, "bfloat16").flops_per_s,
    }


def sequence_speedup(device: str, tokens: int = 16384, rows: int = 64) -> float:
    """One head: time of all row blocks one after the other over time of all at once, both as CUDA graphs.

    The blocks are those of the kernel, 64 rows where heads are 64 wide, and each is the work of one program.
    """
    query, key, value = paper.flash_attention_2.example(
        tokens, device=device, dtype="bfloat16", heads=1
    ).inputs.values()

    def attend(part: Tensor) -> Tensor:
        return flash_attention(part, key, value, scale=part.shape[-1] ** -0.5, split=False)[0]

    def one_after_the_other() -> None:
        for part in query.split(rows, dim=2):
            attend(part)

    serial = measure.time_call(one_after_the_other, device, replayed=True)
    return serial.median_ms / measure.time_call(lambda: attend(query), device, replayed=True).median_ms


def growth(device: str, tokens: int = 2048) -> float:
    """The exponent with which the bytes beside inputs and output grow when the tokens double, in float32: of the kernel
    on a GPU, where so many heads keep it busy that no keys are split, of Algorithm 1 as it stands for one head on a
    CPU, where ``fast`` is PyTorch's."""
    method, implementation, heads = paper.flash_attention_2, "reference", 1
    if device == "cuda":
        implementation, heads = "fast", 32

    def beside(tokens: int) -> int:
        inputs = method.example(tokens, device=device, heads=heads).inputs
        peak = measure.peak_bytes(lambda: method(*inputs.values(), implementation=implementation), device)
        return peak - inputs["query"].nbytes  # of which the output has as many

    if device == "cuda":
        beside(tokens)  # compiles
    return math.log2(beside(2 * tokens) / beside(tokens))


def normalisations_saved(tokens: int = 1024, head_dim: int = 64, block: int = 64) -> float:
    """How many numbers PyTorch divides while it runs the update of version 1, over those of Algorithm 1."""
    inputs = related_tokens(tokens, head_dim).values()
    blocks = {"block_rows": block, "block_columns": block}
    with Arithmetic() as first:
        paper.trace(*(tensor[0, 0] for tensor in inputs), **blocks, update="v1")
    with Arithmetic() as second:
        paper.forward(*inputs, **blocks)
    return first.counts["divisions"] / second.counts["divisions"]
