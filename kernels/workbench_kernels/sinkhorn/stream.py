"""Sinkhorn attention for any number of tokens: every half-step walks over the scores once more, tile by tile.

State is u and v, in base 2 here: P = exp2(S + u 1^T + 1 v^T). The first row and the first column step keep a running
maximum, as online softmax does. From then on none is needed: after a column step the columns of P sum to 1, so its
rows sum to between 1/T and T, and a row step is u -= log2(row sums of P); and the other way round. Columns are rows
with query and key exchanged, so one kernel serves both.

Backward, undone half-step by half-step. Let W be the map right after a half-step. A row step u = -LSE(S + v) passes a
gradient du on: dS -= (du 1^T) * W and dv -= W^T du; a column step likewise. So each half-step costs one matrix-vector
product with tiles of W, computed again from u and v, and since every W is the final P with scaled rows and columns, it
leaves one column in X and one in Y: dS = P * (dO V^T + X Y^T), made tile by tile for dQ and once more for dK.
"""

try:
    import triton
    import triton.language as tl
except ImportError:  # macOS and Windows have no Triton; `sinkhorn.why_not` says so
    triton = None

if triton is not None:
    from workbench_kernels.sinkhorn.tiles import (
        add_product,
        own_tile,
        place,
        row_sums,
        tile,
        times_transposed,
        unit,
        weights_of,
        whole,
    )

    # No weight is above 1, and below 6e-5 float16 loses digits: all are multiplied by 2^LIFT before they are rounded.
    LIFT = tl.constexpr(15.0)
    # Factors between the maps of two half-steps are held below 2^FACTOR_LIMIT, so that no product of two overflows.
    FACTOR_LIMIT = tl.constexpr(50.0)

    @triton.jit
    def half_step_kernel(
        query, key, query_unit, key_unit, bias, previous, result, scale, tokens, heads, batches,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PARTS: tl.constexpr, HELD: tl.constexpr,
        BIASED: tl.constexpr, BOUNDED: tl.constexpr,
    ):  # fmt: skip
        """result_i = -log2 sum_j exp2(S_ij + bias_j). BOUNDED: exp2(S_ij + bias_j + previous_i) sums to 1 over i."""
        start_m, batch, head, matrix = place(tokens, heads, BLOCK_M)
        rows = start_m + tl.arange(0, BLOCK_M)
        base = matrix * tokens
        scale *= unit(query_unit, matrix, tokens, start_m, PARTS)
        q0, q1 = own_tile(query, batches, batch, head, start_m, tokens, BLOCK_M, BLOCK_D, PARTS, HELD)
        total = tl.zeros([BLOCK_M], tl.float32)
        sums = tl.zeros([BLOCK_M, 8], tl.float32)
        shift = tl.zeros([BLOCK_M], tl.float32)
        if BOUNDED:
            shift = tl.load(previous + base + rows, mask=rows < tokens, other=0.0)
        maximum = tl.full([BLOCK_M], -float("inf"), tl.float32)
        for start_n in tl.range(0, tokens, BLOCK_N):
            columns = start_n + tl.arange(0, BLOCK_N)
            if BIASED:
                added = tl.load(bias + base + columns, mask=columns < tokens, other=-float("inf"))
            else:
                added = tl.where(columns < tokens, 0.0, -float("inf"))
            factor = scale * unit(key_unit, matrix, tokens, start_n, PARTS)
            k0, k1 = tile(key, batches, batch, head, start_n, BLOCK_N, BLOCK_D, PARTS)
            scores = times_transposed(q0, q1, k0, k1, PARTS) * factor + added[None, :]
            if BOUNDED:
                sums += row_sums(tl.exp2(scores + shift[:, None]), BLOCK_M, BLOCK_N)
            else:
                larger = tl.maximum(maximum, tl.max(scores, 1))
                total = total * tl.exp2(maximum - larger) + tl.sum(tl.exp2(scores - larger[:, None]), 1)
                maximum = larger
        if BOUNDED:
            total = tl.sum(sums, 1)
        else:
            shift = -maximum
        tl.store(result + base + rows, shift - tl.log2(total), mask=rows < tokens)

    @triton.jit
    def attend_kernel(
        query, key, value, output, query_unit, key_unit, value_unit, bias, previous, result, scale, tokens, heads,
        batches,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PARTS: tl.constexpr, HELD: tl.constexpr,
        SOFTMAX: tl.constexpr, NORMALISED: tl.constexpr,
    ):  # fmt: skip
        """The last pass. SOFTMAX: the only half-step, from nothing. Otherwise exp2(S + previous + bias) V, and with
        NORMALISED the last row step on top: divided by the row sums. Writes the final u, too, unless it was given."""
        start_m, batch, head, matrix = place(tokens, heads, BLOCK_M)
        rows = start_m + tl.arange(0, BLOCK_M)
        base = matrix * tokens
        scale *= unit(query_unit, matrix, tokens, start_m, PARTS)
        q0, q1 = own_tile(query, batches, batch, head, start_m, tokens, BLOCK_M, BLOCK_D, PARTS, HELD)
        LIFTED: tl.constexpr = PARTS == 2 or not SOFTMAX
        lowered = tl.exp2(-LIFT) if LIFTED else 1.0
        total = tl.zeros([BLOCK_M], tl.float32)
        sums = tl.zeros([BLOCK_M, 8], tl.float32)
        shift = tl.zeros([BLOCK_M], tl.float32)
        if not SOFTMAX:
            shift = tl.load(previous + base + rows, mask=rows < tokens, other=0.0)
        lifted_shift = shift + LIFT
        maximum = tl.full([BLOCK_M], -float("inf"), tl.float32)
        accumulator = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        for start_n in tl.range(0, tokens, BLOCK_N):
            columns = start_n + tl.arange(0, BLOCK_N)
            if SOFTMAX:
                added = tl.where(columns < tokens, 0.0, -float("inf"))
            else:
                added = tl.load(bias + base + columns, mask=columns < tokens, other=-float("inf"))
            factor = scale * unit(key_unit, matrix, tokens, start_n, PARTS)
            counts = lowered * unit(value_unit, matrix, tokens, start_n, PARTS)
            k0, k1 = tile(key, batches, batch, head, start_n, BLOCK_N, BLOCK_D, PARTS)
            scores = times_transposed(q0, q1, k0, k1, PARTS) * factor + added[None, :]
            if SOFTMAX:
                larger = tl.maximum(maximum, tl.max(scores, 1))
                rescale = tl.exp2(maximum - larger)
                weights = tl.exp2(scores - larger[:, None])
                if LIFTED:
                    weights *= tl.exp2(LIFT)
                total = total * rescale + tl.sum(weights, 1)
                accumulator *= rescale[:, None]
                maximum = larger
            else:
                weights = weights_of(scores + lifted_shift[:, None], LIFT, k0)
                if NORMALISED:
                    sums += row_sums(weights, BLOCK_M, BLOCK_N)
            v0, v1 = tile(value, batches, batch, head, start_n, BLOCK_N, BLOCK_D, PARTS)
            accumulator = add_product(accumulator, weights, v0, v1, counts, PARTS)
        if PARTS == 1:
            accumulator *= lowered
        if NORMALISED:
            if SOFTMAX:
                shift = -maximum
            else:
                total = tl.sum(sums, 1)
            total *= lowered
            accumulator /= total[:, None]
            tl.store(result + base + rows, shift - tl.log2(total), mask=rows < tokens)
        output.store([batch, head, start_m, 0], accumulator.to(output.dtype).reshape(1, 1, BLOCK_M, BLOCK_D))

    @triton.jit
    def gather_value_kernel(
        query, key, value, grad, query_unit, key_unit, value_unit, grad_unit, u, v, row_dot, grad_value, grad_v, scale,
        tokens, heads, batches,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PARTS: tl.constexpr, HELD: tl.constexpr,
        ROWS_LAST: tl.constexpr,
    ):  # fmt: skip
        """A block of keys: dV = P^T dO and, with D = P * dO V^T, the gradient of v: the column sums of D, and where the
        last half-step was a row step (its du: ``row_dot``) minus P^T du. Scores stand transposed."""
        start_n, batch, head, matrix = place(tokens, heads, BLOCK_N)
        columns = start_n + tl.arange(0, BLOCK_N)
        base = matrix * tokens
        scale *= unit(key_unit, matrix, tokens, start_n, PARTS)
        lowered = tl.exp2(-LIFT)
        k0, k1 = own_tile(key, batches, batch, head, start_n, tokens, BLOCK_N, BLOCK_D, PARTS, HELD)
        added = tl.load(v + base + columns, mask=columns < tokens, other=-float("inf")) + LIFT
        total = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
        passed = tl.zeros([BLOCK_N, 8], tl.float32)
        for start_m in tl.range(0, tokens, BLOCK_M):
            rows = start_m + tl.arange(0, BLOCK_M)
            shift = tl.load(u + base + rows, mask=rows < tokens, other=-float("inf"))
            factor = scale * unit(query_unit, matrix, tokens, start_m, PARTS)
            counts = lowered * unit(grad_unit, matrix, tokens, start_m, PARTS)
            q0, q1 = tile(query, batches, batch, head, start_m, BLOCK_M, BLOCK_D, PARTS)
            scores = times_transposed(k0, k1, q0, q1, PARTS) * factor + shift[None, :]
            weights = weights_of(scores + added[:, None], LIFT, k0)
            if ROWS_LAST:
                grad_u = tl.load(row_dot + base + rows, mask=rows < tokens, other=0.0)
                passed += row_sums(weights * grad_u[None, :], BLOCK_N, BLOCK_M)
            g0, g1 = tile(grad, batches, batch, head, start_m, BLOCK_M, BLOCK_D, PARTS)
            total = add_product(total, weights, g0, g1, counts, PARTS)
        if PARTS == 1:
            total *= lowered
        v0, v1 = tile(value, batches, batch, head, start_n, BLOCK_N, BLOCK_D, PARTS)
        column_dot = tl.sum(total * whole(v0, v1, PARTS), 1) * unit(value_unit, matrix, tokens, start_n, PARTS)
        tl.store(grad_v + base + columns, column_dot - tl.sum(passed, 1) * lowered, mask=columns < tokens)
        grad_value.store([batch, head, start_n, 0], total.to(grad_value.dtype).reshape(1, 1, BLOCK_N, BLOCK_D))

    @triton.jit
    def pass_on_kernel(
        query, key, query_unit, key_unit, shift, bias, grad_bias, first, result, scale, tokens, heads, batches,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PARTS: tl.constexpr, HELD: tl.constexpr,
        ADDED: tl.constexpr,
    ):  # fmt: skip
        """result_i = first_i (with ADDED) - sum_j W_ij grad_bias_j for W = exp2(S_ij + shift_i + bias_j)."""
        start_m, batch, head, matrix = place(tokens, heads, BLOCK_M)
        rows = start_m + tl.arange(0, BLOCK_M)
        base = matrix * tokens
        scale *= unit(query_unit, matrix, tokens, start_m, PARTS)
        q0, q1 = own_tile(query, batches, batch, head, start_m, tokens, BLOCK_M, BLOCK_D, PARTS, HELD)
        own = tl.load(shift + base + rows, mask=rows < tokens, other=0.0)
        sums = tl.zeros([BLOCK_M, 8], tl.float32)
        for start_n in tl.range(0, tokens, BLOCK_N):
            columns = start_n + tl.arange(0, BLOCK_N)
            inside = columns < tokens
            added = tl.load(bias + base + columns, mask=inside, other=-float("inf"))
            passed = tl.load(grad_bias + base + columns, mask=inside, other=0.0)
            factor = scale * unit(key_unit, matrix, tokens, start_n, PARTS)
            k0, k1 = tile(key, batches, batch, head, start_n, BLOCK_N, BLOCK_D, PARTS)
            scores = times_transposed(q0, q1, k0, k1, PARTS) * factor + added[None, :]
            sums += row_sums(tl.exp2(scores + own[:, None]) * passed[None, :], BLOCK_M, BLOCK_N)
        total = -tl.sum(sums, 1)
        if ADDED:
            total += tl.load(first + base + rows, mask=rows < tokens, other=0.0)
        tl.store(result + base + rows, total, mask=rows < tokens)

    @triton.jit
    def coefficients_kernel(
        u, v, grad_u, grad_v, x, y, tokens, iterations, stride,
        BLOCK: tl.constexpr, WIDTH: tl.constexpr,
    ):  # fmt: skip
        """X and Y (matrices, tokens, WIDTH), a column for each half-step and zeros after them; ``stride`` lies
        between the u (or v) of two row (or column) steps."""
        matrix = tl.program_id(1).to(tl.int64)
        token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
        half_step = tl.arange(0, WIDTH)[None, :]
        at = matrix * tokens + token
        is_row = half_step % 2 == 0
        there = (token < tokens) & (half_step < iterations)
        row_step = half_step // 2
        final_u = tl.load(u + (iterations - 1) // 2 * stride + at, mask=token < tokens, other=0.0)
        factor = tl.exp2(tl.minimum(tl.load(u + row_step * stride + at, mask=there, other=0.0) - final_u, FACTOR_LIMIT))
        passed = tl.load(grad_u + row_step * stride + at, mask=there & is_row, other=1.0)
        out = (matrix * tokens + token) * WIDTH + half_step
        tl.store(x + out, tl.where(there, -factor * passed, 0.0), mask=token < tokens)
        # A row step used the v of the column step before it, the first one v = 0; a column step made its own.
        column_step = (half_step + 1) // 2 - 1
        final_v = tl.load(v + (iterations // 2 - 1) * stride + at, mask=(token < tokens) & (iterations > 1), other=0.0)
        own = tl.load(v + column_step * stride + at, mask=there & (column_step >= 0), other=0.0)
        factor = tl.exp2(tl.minimum(own - final_v, FACTOR_LIMIT))
        passed = tl.load(grad_v + row_step * stride + at, mask=there & (half_step % 2 == 1), other=1.0)
        tl.store(y + out, tl.where(there, factor * passed, 0.0), mask=token < tokens)

    @triton.jit
    def gather_scores_kernel(
        query, key, value, grad, query_unit, key_unit, value_unit, grad_unit, x, y, u, v, grad_query, scale, tokens,
        heads, batches,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PARTS: tl.constexpr, HELD: tl.constexpr,
        WIDTH: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """dQ = dS K for dS = P * (dO V^T + X Y^T). With query and key, grad and value, x and y, u and v exchanged: dK.
        ``scale`` is that of the natural exponential."""
        start_m, batch, head, matrix = place(tokens, heads, BLOCK_M)
        rows = start_m + tl.arange(0, BLOCK_M)
        base = matrix * tokens
        score_scale = scale * 1.4426950408889634 * unit(query_unit, matrix, tokens, start_m, PARTS)
        grad_scale = unit(grad_unit, matrix, tokens, start_m, PARTS)
        q0, q1 = own_tile(query, batches, batch, head, start_m, tokens, BLOCK_M, BLOCK_D, PARTS, HELD)
        g0, g1 = own_tile(grad, batches, batch, head, start_m, tokens, BLOCK_M, BLOCK_D, PARTS, HELD)
        shift = tl.load(u + base + rows, mask=rows < tokens, other=0.0)
        if WIDTH == 16:
            x_tile = x.load([batch, head, start_m, 0]).reshape(BLOCK_M, 16)
        total = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        for start_n in tl.range(0, tokens, BLOCK_N):
            columns = start_n + tl.arange(0, BLOCK_N)
            added = tl.load(v + base + columns, mask=columns < tokens, other=-float("inf"))
            counts = unit(key_unit, matrix, tokens, start_n, PARTS)
            k0, k1 = tile(key, batches, batch, head, start_n, BLOCK_N, BLOCK_D, PARTS)
            scores = times_transposed(q0, q1, k0, k1, PARTS)
            v0, v1 = tile(value, batches, batch, head, start_n, BLOCK_N, BLOCK_D, PARTS)
            grad_weights = times_transposed(g0, g1, v0, v1, PARTS)
            if PARTS == 2:
                grad_weights *= grad_scale * unit(value_unit, matrix, tokens, start_n, PARTS)
            if WIDTH == 16:
                y_tile = y.load([batch, head, start_n, 0]).reshape(BLOCK_N, 16)
                grad_weights = tl.dot(x_tile, y_tile.T, grad_weights, input_precision=PRECISION)
            else:
                for part in tl.range(0, WIDTH, 16, num_stages=1):
                    x_part = x.load([batch, head, start_m, part]).reshape(BLOCK_M, 16)
                    y_part = y.load([batch, head, start_n, part]).reshape(BLOCK_N, 16)
                    grad_weights = tl.dot(x_part, y_part.T, grad_weights, input_precision=PRECISION)
            scores = scores * (score_scale * counts) + added[None, :]
            grad_scores = tl.exp2(scores + shift[:, None]) * grad_weights
            total = add_product(total, grad_scores, k0, k1, counts, PARTS, ANY_SIZE=True)
        total *= scale
        grad_query.store([batch, head, start_m, 0], total.to(grad_query.dtype).reshape(1, 1, BLOCK_M, BLOCK_D))
