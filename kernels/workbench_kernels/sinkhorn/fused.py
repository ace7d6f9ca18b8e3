"""Sinkhorn attention for few tokens: one program a head, the whole map in registers for all half-steps.

The first row step and the first column step are taken in the log domain. What they leave has columns that sum to 1, and
from then on a half-step divides by row or column sums, which lie between 1/T and T: no exponential, no memory.
"""

try:
    import triton
    import triton.language as tl
except ImportError:  # macOS and Windows have no Triton; `sinkhorn.why_not` says so
    triton = None

if triton is not None:
    from workbench_kernels.sinkhorn.stream import FACTOR_LIMIT, LIFT
    from workbench_kernels.sinkhorn.tiles import add_product, tile, times_transposed, unit, weights_of

    @triton.jit
    def fused_forward_kernel(
        query, key, value, output, query_unit, key_unit, value_unit, u, v, scale, tokens, heads, batches, stride, pairs,
        BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, PARTS: tl.constexpr, ROWS_LAST: tl.constexpr,
    ):  # fmt: skip
        """``pairs`` of row and column steps, and with ROWS_LAST one row step more. u and v (half-steps of that kind,
        matrices, tokens) in base 2; ``stride`` lies between two half-steps."""
        matrix = tl.program_id(0).to(tl.int64)
        batch, head = tl.program_id(0) // heads, tl.program_id(0) % heads
        place = tl.arange(0, BLOCK)
        inside = place < tokens
        at = matrix * tokens + place
        q0, q1 = tile(query, batches, batch, head, 0, BLOCK, BLOCK_D, PARTS)
        k0, k1 = tile(key, batches, batch, head, 0, BLOCK, BLOCK_D, PARTS)
        scale *= unit(query_unit, matrix, tokens, 0, PARTS) * unit(key_unit, matrix, tokens, 0, PARTS)
        scores = times_transposed(q0, q1, k0, k1, PARTS) * scale
        scores = tl.where(inside[None, :], scores, -float("inf"))
        maximum = tl.max(scores, 1)
        own_u = -maximum - tl.log2(tl.sum(tl.exp2(scores - maximum[:, None]), 1))
        own_u = tl.where(inside, own_u, -float("inf"))
        tl.store(u + at, own_u, mask=inside)
        if pairs > 0:
            scores += own_u[:, None]
            maximum = tl.where(inside, tl.max(scores, 0), 0.0)
            own_v = -maximum - tl.log2(tl.sum(tl.exp2(scores - maximum[None, :]), 0))
            own_v = tl.where(inside, own_v, 0.0)
            tl.store(v + at, own_v, mask=inside)
            map = weights_of(scores + own_v[None, :], 0.0, k0)
            for pair in range(1, pairs):
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
            map = weights_of(scores + own_u[:, None], 0.0, k0)
        v0, v1 = tile(value, batches, batch, head, 0, BLOCK, BLOCK_D, PARTS)
        counts = tl.exp2(-LIFT) * unit(value_unit, matrix, tokens, 0, PARTS)
        accumulator = tl.zeros([BLOCK, BLOCK_D], tl.float32)
        accumulator = add_product(accumulator, map * tl.exp2(LIFT), v0, v1, counts, PARTS)
        if PARTS == 1:
            accumulator *= counts
        output.store([batch, head, 0, 0], accumulator.to(output.dtype).reshape(1, 1, BLOCK, BLOCK_D))

    @triton.jit
    def fused_backward_kernel(
        query, key, value, grad, query_unit, key_unit, value_unit, grad_unit, u, v, grad_query, grad_key, grad_value,
        scale, tokens, heads, batches, stride, pairs,
        BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, PARTS: tl.constexpr, ROWS_LAST: tl.constexpr,
    ):  # fmt: skip
        """All gradients of a head; the derivation is that of ``sinkhorn_stream``. ``scale`` is that of exp."""
        matrix = tl.program_id(0).to(tl.int64)
        batch, head = tl.program_id(0) // heads, tl.program_id(0) % heads
        place = tl.arange(0, BLOCK)
        inside = place < tokens
        at = matrix * tokens + place
        final_u = tl.load(u + (pairs - 1 + ROWS_LAST) * stride + at, mask=inside, other=-float("inf"))
        final_v = tl.load(v + (pairs - 1) * stride + at, mask=inside & (pairs > 0), other=0.0)
        q0, q1 = tile(query, batches, batch, head, 0, BLOCK, BLOCK_D, PARTS)
        k0, k1 = tile(key, batches, batch, head, 0, BLOCK, BLOCK_D, PARTS)
        counts_query = unit(query_unit, matrix, tokens, 0, PARTS)
        counts_key = unit(key_unit, matrix, tokens, 0, PARTS)
        scores = times_transposed(q0, q1, k0, k1, PARTS) * (scale * 1.4426950408889634 * counts_query * counts_key)
        scores += tl.where(inside, final_v, -float("inf"))[None, :]
        map = weights_of(scores + final_u[:, None], 0.0, k0)

        g0, g1 = tile(grad, batches, batch, head, 0, BLOCK, BLOCK_D, PARTS)
        total = tl.zeros([BLOCK, BLOCK_D], tl.float32)
        counts_grad = unit(grad_unit, matrix, tokens, 0, PARTS)
        total = add_product(total, tl.trans(map) * tl.exp2(LIFT), g0, g1, counts_grad * tl.exp2(-LIFT), PARTS)
        if PARTS == 1:
            total *= tl.exp2(-LIFT)
        grad_value.store([batch, head, 0, 0], total.to(grad_value.dtype).reshape(1, 1, BLOCK, BLOCK_D))
        v0, v1 = tile(value, batches, batch, head, 0, BLOCK, BLOCK_D, PARTS)
        grad_map = times_transposed(g0, g1, v0, v1, PARTS)
        if PARTS == 2:
            grad_map *= counts_grad * unit(value_unit, matrix, tokens, 0, PARTS)

        grad_u = tl.sum(map * grad_map, 1)
        grad_v = tl.sum(map * grad_map, 0)
        if ROWS_LAST:
            grad_v -= tl.sum(map * grad_u[:, None], 0)
            grad_map -= grad_u[:, None]
            grad_u = tl.zeros([BLOCK], tl.float32)
        for back in range(pairs):
            step = pairs - 1 - back
            own_u = tl.load(u + step * stride + at, mask=inside, other=0.0)
            row_factor = tl.exp2(tl.minimum(own_u - tl.where(inside, final_u, 0.0), FACTOR_LIMIT))
            own_v = tl.load(v + step * stride + at, mask=inside, other=0.0)
            passed = tl.exp2(tl.minimum(own_v - final_v, FACTOR_LIMIT)) * grad_v
            grad_u -= row_factor * tl.sum(map * passed[None, :], 1)
            grad_map -= row_factor[:, None] * passed[None, :]
            own_v = tl.load(v + (step - 1) * stride + at, mask=inside & (step > 0), other=0.0)
            column_factor = tl.exp2(tl.minimum(own_v - final_v, FACTOR_LIMIT))
            passed = row_factor * grad_u
            grad_v = -column_factor * tl.sum(map * passed[:, None], 0)
            grad_map -= passed[:, None] * column_factor[None, :]
            grad_u = tl.zeros([BLOCK], tl.float32)
        grad_scores = map * grad_map * scale
        total = tl.zeros([BLOCK, BLOCK_D], tl.float32)
        total = add_product(total, grad_scores, k0, k1, counts_key, PARTS, ANY_SIZE=True)
        grad_query.store([batch, head, 0, 0], total.to(grad_query.dtype).reshape(1, 1, BLOCK, BLOCK_D))
        total = tl.zeros([BLOCK, BLOCK_D], tl.float32)
        total = add_product(total, tl.trans(grad_scores), q0, q1, counts_query, PARTS, ANY_SIZE=True)
        grad_key.store([batch, head, 0, 0], total.to(grad_key.dtype).reshape(1, 1, BLOCK, BLOCK_D))
