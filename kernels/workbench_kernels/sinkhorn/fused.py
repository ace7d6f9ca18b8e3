"""Sinkhorn attention for few tokens: one program a head, the whole map in registers for all half-steps.

The first row step and the first column step level the scores (``stream``). What they leave has columns that
sum to 1, and from then on a half-step divides by row or column sums, which lie between 1/T and T: no exponential, no
memory. In 6 such pairs an entry grows at most by T^12, which is 2^84 for 128 tokens, so what was too small for float32
is still below 2^-42; then the map is computed again from the scores. Backward the map goes the same way back.
"""

try:
    import triton
    import triton.language as tl
except ImportError:  # macOS and Windows have no Triton; `attention.why_not` says so
    triton = None

MOST_PAIRS = 6  # pairs of a row and a column step between two maps that are computed from the scores

if triton is not None:
    from workbench_kernels.launch import prepared
    from workbench_kernels.sinkhorn.stream import LIFT
    from workbench_kernels.sinkhorn.tiles import add_product, levelled, tile, times_transposed, unit

    @triton.jit
    def computed(q0, q1, k0, k1, power, factor, m, n, u, v, PARTS: tl.constexpr):
        """The map of the potentials u and v, from the scores."""
        scores = levelled(times_transposed(q0, q1, k0, k1, PARTS), power, m, n, True)
        return tl.exp2(scores * factor + (u[:, None] + v[None, :]))

    @triton.jit
    def renewed(map, due, q0, q1, k0, k1, power, factor, m, n, u, v, PARTS: tl.constexpr):
        """The map as it was carried along, or where that is due computed again."""
        if due:
            map = computed(q0, q1, k0, k1, power, factor, m, n, u, v, PARTS)
        return map

    @prepared
    @triton.jit
    def fused_forward_kernel(
        query, key, value, output, query_unit, key_unit, value_unit, u, v, m, n, power, factor, tokens, heads, batches,
        stride, pairs,
        BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, PARTS: tl.constexpr, ROWS_LAST: tl.constexpr,
        SPAN: tl.constexpr,
    ):  # fmt: skip
        """``pairs`` of row and column steps, and with ROWS_LAST one row step more. u and v (half-steps of that kind,
        matrices, tokens) in base 2; ``stride`` lies between two half-steps. After every SPAN pairs the map is computed
        from the scores again; 0: never."""
        matrix = tl.program_id(0).to(tl.int64)
        batch, head = tl.program_id(0) // heads, tl.program_id(0) % heads
        place = tl.arange(0, BLOCK)
        inside = place < tokens
        at = matrix * tokens + place
        q0, q1 = tile(query, batches, batch, head, 0, BLOCK, BLOCK_D, PARTS)
        k0, k1 = tile(key, batches, batch, head, 0, BLOCK, BLOCK_D, PARTS)
        power *= unit(query_unit, matrix, tokens, 0, PARTS) * unit(key_unit, matrix, tokens, 0, PARTS)
        scores = times_transposed(q0, q1, k0, k1, PARTS) * power
        scores = tl.where(inside[None, :], scores, -float("inf"))
        own_m = tl.max(scores, 1)
        scores -= own_m[:, None]
        own_u = tl.where(inside, -tl.log2(tl.sum(tl.exp2(scores * factor), 1)), -float("inf"))
        tl.store(m + at, own_m, mask=inside)
        tl.store(u + at, own_u, mask=inside)
        own_n = tl.zeros([BLOCK], tl.float32)
        if pairs > 0:
            own_n = tl.max(tl.where(inside[:, None], scores, -float("inf")), 0)
            own_n = tl.where(inside, own_n, 0.0)
            scores -= own_n[None, :]
            map = tl.exp2(scores * factor + own_u[:, None])
            total = tl.where(inside, tl.sum(map, 0), 1.0)
            map /= total[None, :]
            own_v = tl.where(inside, -tl.log2(total), -float("inf"))
            tl.store(v + at, own_v, mask=inside)
            for pair in range(1, pairs):
                if SPAN:
                    due = pair % SPAN == 0
                    map = renewed(map, due, q0, q1, k0, k1, power, factor, own_m, own_n, own_u, own_v, PARTS)
                total = tl.where(inside, tl.sum(map, 1), 1.0)
                map /= total[:, None]
                own_u -= tl.log2(total)
                tl.store(u + pair * stride + at, own_u, mask=inside)
                total = tl.where(inside, tl.sum(map, 0), 1.0)
                map /= total[None, :]
                own_v -= tl.log2(total)
                tl.store(v + pair * stride + at, own_v, mask=inside)
            if ROWS_LAST:
                total = tl.where(inside, tl.sum(map, 1), 1.0)
                map /= total[:, None]
                tl.store(u + pairs * stride + at, own_u - tl.log2(total), mask=inside)
        else:
            map = tl.exp2(scores * factor + own_u[:, None])
        tl.store(n + at, own_n, mask=inside)
        v0, v1 = tile(value, batches, batch, head, 0, BLOCK, BLOCK_D, PARTS)
        counts = tl.exp2(-LIFT) * unit(value_unit, matrix, tokens, 0, PARTS)
        accumulator = tl.zeros([BLOCK, BLOCK_D], tl.float32)
        accumulator = add_product(accumulator, map * tl.exp2(LIFT), v0, v1, counts, PARTS)
        if PARTS == 1:
            accumulator *= counts
        output.store([batch, head, 0, 0], accumulator.to(output.dtype).reshape(1, 1, BLOCK, BLOCK_D))

    @prepared
    @triton.jit
    def fused_backward_kernel(
        query, key, value, grad, query_unit, key_unit, value_unit, grad_unit, u, v, m, n, grad_query, grad_key,
        grad_value, scale, power, factor, tokens, heads, batches, stride, pairs,
        BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, PARTS: tl.constexpr, ROWS_LAST: tl.constexpr,
        SPAN: tl.constexpr,
    ):  # fmt: skip
        """All gradients of a head; the derivation is that of ``stream``."""
        matrix = tl.program_id(0).to(tl.int64)
        batch, head = tl.program_id(0) // heads, tl.program_id(0) % heads
        place = tl.arange(0, BLOCK)
        inside = place < tokens
        at = matrix * tokens + place
        own_m = tl.load(m + at, mask=inside, other=0.0)
        own_n = tl.load(n + at, mask=inside, other=0.0)
        own_u = tl.load(u + (pairs - 1 + ROWS_LAST) * stride + at, mask=inside, other=-float("inf"))
        own_v = tl.load(v + (pairs - 1) * stride + at, mask=inside & (pairs > 0), other=0.0)
        own_v = tl.where(inside, own_v, -float("inf"))
        q0, q1 = tile(query, batches, batch, head, 0, BLOCK, BLOCK_D, PARTS)
        k0, k1 = tile(key, batches, batch, head, 0, BLOCK, BLOCK_D, PARTS)
        counts_query = unit(query_unit, matrix, tokens, 0, PARTS)
        counts_key = unit(key_unit, matrix, tokens, 0, PARTS)
        power *= counts_query * counts_key
        map = computed(q0, q1, k0, k1, power, factor, own_m, own_n, own_u, own_v, PARTS)

        g0, g1 = tile(grad, batches, batch, head, 0, BLOCK, BLOCK_D, PARTS)
        total = tl.zeros([BLOCK, BLOCK_D], tl.float32)
        counts_grad = unit(grad_unit, matrix, tokens, 0, PARTS)
        total = add_product(total, tl.trans(map) * tl.exp2(LIFT), g0, g1, counts_grad * tl.exp2(-LIFT), PARTS)
        if PARTS == 1:
            total *= tl.exp2(-LIFT)
        grad_value.store([batch, head, 0, 0], total.to(grad_value.dtype).reshape(1, 1, BLOCK, BLOCK_D))
        v0, v1 = tile(value, batches, batch, head, 0, BLOCK, BLOCK_D, PARTS)
        grad_scores = times_transposed(g0, g1, v0, v1, PARTS)
        if PARTS == 2:
            grad_scores *= counts_grad * unit(value_unit, matrix, tokens, 0, PARTS)
        grad_scores *= map

        grad_u = tl.sum(grad_scores, 1)
        grad_v = tl.sum(grad_scores, 0)
        if ROWS_LAST:
            passed = map * grad_u[:, None]
            grad_v -= tl.sum(passed, 0)
            grad_scores -= passed
            grad_u = tl.zeros([BLOCK], tl.float32)
            before = tl.load(u + (pairs - 1) * stride + at, mask=inside & (pairs > 0), other=0.0)
            map *= tl.exp2(before - tl.where(inside, own_u, 0.0))[:, None]
            own_u = tl.where(inside, before, -float("inf"))
        for back in range(pairs):
            step = pairs - 1 - back
            passed = map * grad_v[None, :]
            grad_u -= tl.sum(passed, 1)
            grad_scores -= passed
            # Before the first column step nothing was added to columns, which is n on top of -n.
            before = tl.load(v + (step - 1) * stride + at, mask=inside & (step > 0), other=0.0)
            before = tl.where(step > 0, before, own_n * factor)
            map *= tl.exp2(before - tl.where(inside, own_v, 0.0))[None, :]
            own_v = tl.where(inside, before, -float("inf"))
            if SPAN:
                due = back % SPAN == SPAN - 1
                map = renewed(map, due, q0, q1, k0, k1, power, factor, own_m, own_n, own_u, own_v, PARTS)
            passed = map * grad_u[:, None]
            grad_v = -tl.sum(passed, 0)
            grad_scores -= passed
            grad_u = tl.zeros([BLOCK], tl.float32)
            before = tl.load(u + (step - 1) * stride + at, mask=inside & (step > 0), other=0.0)
            map *= tl.exp2(before - tl.where(inside, own_u, 0.0))[:, None]
            own_u = tl.where(inside, before, -float("inf"))
        grad_scores *= scale
        total = tl.zeros([BLOCK, BLOCK_D], tl.float32)
        total = add_product(total, grad_scores, k0, k1, counts_key, PARTS, ANY_SIZE=True)
        grad_query.store([batch, head, 0, 0], total.to(grad_query.dtype).reshape(1, 1, BLOCK, BLOCK_D))
        total = tl.zeros([BLOCK, BLOCK_D], tl.float32)
        total = add_product(total, tl.trans(grad_scores), q0, q1, counts_query, PARTS, ANY_SIZE=True)
        grad_key.store([batch, head, 0, 0], total.to(grad_key.dtype).reshape(1, 1, BLOCK, BLOCK_D))
