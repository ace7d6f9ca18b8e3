"""Sinkhorn attention for any number of tokens: every half-step walks over the scores once more, tile by tile.

Scores are levelled: with m the maxima of the rows of S and n those of the columns of S - m 1^T, the largest number in
every row and column of L = S - m 1^T - 1 n^T is 0, and P = exp2(L + u 1^T + 1 v^T) in base 2. What is large about
scores is in m and n, which are scores themselves, so nothing of it is rounded, and how a score is computed is the same
to the last bit wherever it is (``levelled``): sums that are 1 in exact numbers are so here, however large the scores.

The first row and the first column step find m and n with a running maximum, as online softmax does. From then on none
is needed: after a column step the columns of P sum to 1, so its rows sum to between 1/T and T, and a row step is
u -= log2(row sums of P); and the other way round. Columns are rows with query and key exchanged, so one kernel serves
both.

Backward, undone half-step by half-step. Let W be the map right after a half-step. A row step u = -LSE(L + v) passes a
gradient du on: dS -= (du 1^T) * W and dv -= W^T du; a column step likewise. So each half-step costs one matrix-vector
product with tiles of W, computed again from u and v. Every W is the map P of a half-step near by with scaled rows and
columns, so it leaves one column in X and one in Y: dS = P_k * dO V^T + sum over P of P * X Y^T, made tile by tile for
dQ and once more for dK. A half-step scales by a factor up to T, and what P has lost, below 2^-126, must not come back:
half-steps in a row share a P (``attention.groups``) as long as they scale it by less than 2^91 together.
"""

try:
    import triton
    import triton.language as tl
except ImportError:  # macOS and Windows have no Triton; `attention.why_not` says so
    triton = None

if triton is not None:
    from workbench_kernels.launch import prepared
    from workbench_kernels.sinkhorn.tiles import (
        add_product,
        levelled,
        own_tile,
        place,
        row_sums,
        tile,
        times_transposed,
        unit,
        whole,
    )

    # No weight is above 1, and below 6e-5 float16 loses digits: all are multiplied by 2^LIFT before they are rounded.
    LIFT = tl.constexpr(15.0)

    @prepared
    @triton.jit
    def first_step_kernel(
        query, key, query_unit, key_unit, other_level, bias, level, result, power, factor, tokens, heads, batches,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PARTS: tl.constexpr, HELD: tl.constexpr,
        OF_ROWS: tl.constexpr,
    ):  # fmt: skip
        """The first half-step of its kind, with a running maximum. OF_ROWS: m and u of S. Otherwise, with key and query
        exchanged: n and v of S - m 1^T and u."""
        start_m, batch, head, matrix = place(tokens, heads, BLOCK_M)
        rows = start_m + tl.arange(0, BLOCK_M)
        base = matrix * tokens
        power *= unit(query_unit, matrix, tokens, start_m, PARTS)
        q0, q1 = own_tile(query, batches, batch, head, start_m, tokens, BLOCK_M, BLOCK_D, PARTS, HELD)
        total = tl.zeros([BLOCK_M], tl.float32)
        maximum = tl.full([BLOCK_M], -float("inf"), tl.float32)
        for start_n in tl.range(0, tokens, BLOCK_N):
            columns = start_n + tl.arange(0, BLOCK_N)
            counts = power * unit(key_unit, matrix, tokens, start_n, PARTS)
            k0, k1 = tile(key, batches, batch, head, start_n, BLOCK_N, BLOCK_D, PARTS)
            product = times_transposed(q0, q1, k0, k1, PARTS, EXCHANGED=not OF_ROWS)
            if OF_ROWS:
                scores = product * counts + tl.where(columns < tokens, 0.0, -float("inf"))[None, :]
            else:
                taken = tl.load(other_level + base + columns, mask=columns < tokens, other=float("inf"))
                scores = product * counts - taken[None, :]
            larger = tl.maximum(maximum, tl.max(scores, 1))
            exponents = (scores - larger[:, None]) * factor
            if not OF_ROWS:
                exponents += tl.load(bias + base + columns, mask=columns < tokens, other=0.0)[None, :]
            total = total * tl.exp2((maximum - larger) * factor) + tl.sum(tl.exp2(exponents), 1)
            maximum = larger
        tl.store(level + base + rows, maximum, mask=rows < tokens)
        tl.store(result + base + rows, -tl.log2(total), mask=rows < tokens)

    @prepared
    @triton.jit
    def half_step_kernel(
        query, key, query_unit, key_unit, own_level, other_level, bias, previous, result, power, factor, tokens, heads,
        batches,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PARTS: tl.constexpr, HELD: tl.constexpr,
        OF_ROWS: tl.constexpr,
    ):  # fmt: skip
        """result_i = -log2 sum_j exp2(L_ij + bias_j), where exp2(L_ij + bias_j + previous_i) sums to 1 over i."""
        start_m, batch, head, matrix = place(tokens, heads, BLOCK_M)
        rows = start_m + tl.arange(0, BLOCK_M)
        base = matrix * tokens
        power *= unit(query_unit, matrix, tokens, start_m, PARTS)
        q0, q1 = own_tile(query, batches, batch, head, start_m, tokens, BLOCK_M, BLOCK_D, PARTS, HELD)
        own = tl.load(own_level + base + rows, mask=rows < tokens, other=0.0)
        shift = tl.load(previous + base + rows, mask=rows < tokens, other=0.0)
        sums = tl.zeros([BLOCK_M, 8], tl.float32)
        for start_n in tl.range(0, tokens, BLOCK_N):
            columns = start_n + tl.arange(0, BLOCK_N)
            taken = tl.load(other_level + base + columns, mask=columns < tokens, other=0.0)
            added = tl.load(bias + base + columns, mask=columns < tokens, other=-float("inf"))
            counts = power * unit(key_unit, matrix, tokens, start_n, PARTS)
            k0, k1 = tile(key, batches, batch, head, start_n, BLOCK_N, BLOCK_D, PARTS)
            product = times_transposed(q0, q1, k0, k1, PARTS, EXCHANGED=not OF_ROWS)
            scores = levelled(product, counts, own, taken, OF_ROWS)
            sums += row_sums(tl.exp2(scores * factor + (shift[:, None] + added[None, :])), BLOCK_M, BLOCK_N)
        tl.store(result + base + rows, shift - tl.log2(tl.sum(sums, 1)), mask=rows < tokens)

    @prepared
    @triton.jit
    def attend_kernel(
        query, key, value, output, query_unit, key_unit, value_unit, m, n, bias, previous, result, power, factor,
        tokens, heads, batches,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PARTS: tl.constexpr, HELD: tl.constexpr,
        SOFTMAX: tl.constexpr, NORMALISED: tl.constexpr,
    ):  # fmt: skip
        """The last pass. SOFTMAX: the only half-step, from nothing. Otherwise exp2(L + previous + bias) V, and with
        NORMALISED the last row step on top: divided by the row sums. Writes what the row step found, too: u, and in
        softmax m and n, which is 0."""
        start_m, batch, head, matrix = place(tokens, heads, BLOCK_M)
        rows = start_m + tl.arange(0, BLOCK_M)
        base = matrix * tokens
        power *= unit(query_unit, matrix, tokens, start_m, PARTS)
        q0, q1 = own_tile(query, batches, batch, head, start_m, tokens, BLOCK_M, BLOCK_D, PARTS, HELD)
        LIFTED: tl.constexpr = PARTS == 2 or not SOFTMAX
        lowered = tl.exp2(-LIFT) if LIFTED else 1.0
        total = tl.zeros([BLOCK_M], tl.float32)
        sums = tl.zeros([BLOCK_M, 8], tl.float32)
        own = tl.zeros([BLOCK_M], tl.float32)
        shift = tl.zeros([BLOCK_M], tl.float32)
        if not SOFTMAX:
            own = tl.load(m + base + rows, mask=rows < tokens, other=0.0)
            shift = tl.load(previous + base + rows, mask=rows < tokens, other=0.0)
        lifted_shift = shift + LIFT
        maximum = tl.full([BLOCK_M], -float("inf"), tl.float32)
        accumulator = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        for start_n in tl.range(0, tokens, BLOCK_N):
            columns = start_n + tl.arange(0, BLOCK_N)
            counts_key = power * unit(key_unit, matrix, tokens, start_n, PARTS)
            counts = lowered * unit(value_unit, matrix, tokens, start_n, PARTS)
            k0, k1 = tile(key, batches, batch, head, start_n, BLOCK_N, BLOCK_D, PARTS)
            product = times_transposed(q0, q1, k0, k1, PARTS)
            if SOFTMAX:
                scores = product * counts_key + tl.where(columns < tokens, 0.0, -float("inf"))[None, :]
                larger = tl.maximum(maximum, tl.max(scores, 1))
                rescale = tl.exp2((maximum - larger) * factor)
                weights = tl.exp2((scores - larger[:, None]) * factor)
                if LIFTED:
                    weights *= tl.exp2(LIFT)
                total = total * rescale + tl.sum(weights, 1)
                accumulator *= rescale[:, None]
                maximum = larger
            else:
                taken = tl.load(n + base + columns, mask=columns < tokens, other=0.0)
                added = tl.load(bias + base + columns, mask=columns < tokens, other=-float("inf"))
                scores = levelled(product, counts_key, own, taken, True)
                weights = tl.exp2(scores * factor + (lifted_shift[:, None] + added[None, :]))
                if NORMALISED:
                    sums += row_sums(weights, BLOCK_M, BLOCK_N)
            v0, v1 = tile(value, batches, batch, head, start_n, BLOCK_N, BLOCK_D, PARTS)
            accumulator = add_product(accumulator, weights, v0, v1, counts, PARTS)
        if PARTS == 1:
            accumulator *= lowered
        if NORMALISED:
            if SOFTMAX:
                tl.store(m + base + rows, maximum, mask=rows < tokens)
                tl.store(n + base + rows, tl.zeros([BLOCK_M], tl.float32), mask=rows < tokens)
            else:
                total = tl.sum(sums, 1)
            total *= lowered
            accumulator /= total[:, None]
            tl.store(result + base + rows, shift - tl.log2(total), mask=rows < tokens)
        output.store([batch, head, start_m, 0], accumulator.to(output.dtype).reshape(1, 1, BLOCK_M, BLOCK_D))

    @prepared
    @triton.jit
    def gather_value_kernel(
        query, key, value, grad, query_unit, key_unit, value_unit, grad_unit, m, n, u, v, row_dot, grad_value, grad_v,
        power, factor, tokens, heads, batches,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PARTS: tl.constexpr, HELD: tl.constexpr,
        ROWS_LAST: tl.constexpr,
    ):  # fmt: skip
        """A block of keys: dV = P^T dO and, with D = P * dO V^T, the gradient of v: the column sums of D, and where the
        last half-step was a row step (its du: ``row_dot``) minus P^T du. Scores stand transposed."""
        start_n, batch, head, matrix = place(tokens, heads, BLOCK_N)
        columns = start_n + tl.arange(0, BLOCK_N)
        base = matrix * tokens
        power *= unit(key_unit, matrix, tokens, start_n, PARTS)
        lowered = tl.exp2(-LIFT)
        k0, k1 = own_tile(key, batches, batch, head, start_n, tokens, BLOCK_N, BLOCK_D, PARTS, HELD)
        own = tl.load(n + base + columns, mask=columns < tokens, other=0.0)
        added = tl.load(v + base + columns, mask=columns < tokens, other=-float("inf")) + LIFT
        total = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
        passed = tl.zeros([BLOCK_N, 8], tl.float32)
        for start_m in tl.range(0, tokens, BLOCK_M):
            rows = start_m + tl.arange(0, BLOCK_M)
            taken = tl.load(m + base + rows, mask=rows < tokens, other=0.0)
            shift = tl.load(u + base + rows, mask=rows < tokens, other=-float("inf"))
            counts_query = power * unit(query_unit, matrix, tokens, start_m, PARTS)
            counts = lowered * unit(grad_unit, matrix, tokens, start_m, PARTS)
            q0, q1 = tile(query, batches, batch, head, start_m, BLOCK_M, BLOCK_D, PARTS)
            product = times_transposed(k0, k1, q0, q1, PARTS, EXCHANGED=True)
            scores = levelled(product, counts_query, own, taken, False)
            weights = tl.exp2(scores * factor + (added[:, None] + shift[None, :]))
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

    @prepared
    @triton.jit
    def pass_on_kernel(
        query, key, query_unit, key_unit, own_level, other_level, shift, bias, grad_bias, first, result, power, factor,
        tokens, heads, batches,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PARTS: tl.constexpr, HELD: tl.constexpr,
        OF_ROWS: tl.constexpr, ADDED: tl.constexpr,
    ):  # fmt: skip
        """result_i = first_i (with ADDED) - sum_j W_ij grad_bias_j for W = exp2(L_ij + shift_i + bias_j)."""
        start_m, batch, head, matrix = place(tokens, heads, BLOCK_M)
        rows = start_m + tl.arange(0, BLOCK_M)
        base = matrix * tokens
        power *= unit(query_unit, matrix, tokens, start_m, PARTS)
        q0, q1 = own_tile(query, batches, batch, head, start_m, tokens, BLOCK_M, BLOCK_D, PARTS, HELD)
        own = tl.load(own_level + base + rows, mask=rows < tokens, other=0.0)
        own_shift = tl.load(shift + base + rows, mask=rows < tokens, other=0.0)
        sums = tl.zeros([BLOCK_M, 8], tl.float32)
        for start_n in tl.range(0, tokens, BLOCK_N):
            columns = start_n + tl.arange(0, BLOCK_N)
            inside = columns < tokens
            taken = tl.load(other_level + base + columns, mask=inside, other=0.0)
            added = tl.load(bias + base + columns, mask=inside, other=-float("inf"))
            passed = tl.load(grad_bias + base + columns, mask=inside, other=0.0)
            counts = power * unit(key_unit, matrix, tokens, start_n, PARTS)
            k0, k1 = tile(key, batches, batch, head, start_n, BLOCK_N, BLOCK_D, PARTS)
            product = times_transposed(q0, q1, k0, k1, PARTS, EXCHANGED=not OF_ROWS)
            scores = levelled(product, counts, own, taken, OF_ROWS)
            weights = tl.exp2(scores * factor + (own_shift[:, None] + added[None, :]))
            sums += row_sums(weights * passed[None, :], BLOCK_M, BLOCK_N)
        total = -tl.sum(sums, 1)
        if ADDED:
            total += tl.load(first + base + rows, mask=rows < tokens, other=0.0)
        tl.store(result + base + rows, total, mask=rows < tokens)

    @prepared
    @triton.jit
    def coefficients_kernel(
        u, v, n, grad_u, grad_v, x, y, factor, tokens, iterations, stride, steps, shared,
        BLOCK: tl.constexpr,
    ):  # fmt: skip
        """X and Y (matrices, tokens, 16 * groups): 16 columns for each group of ``steps`` half-steps, one for each of
        them and zeros after them. The map that a group shares is that of its half-step ``shared``, or the last one.
        ``stride`` lies between the u (or v) of two row (or column) steps."""
        matrix = tl.program_id(1).to(tl.int64)
        group = tl.program_id(2)
        token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
        column = tl.arange(0, 16)[None, :]
        at = matrix * tokens + token
        half_step = group * steps + column
        shared = tl.minimum(group * steps + shared, iterations - 1)
        is_row = half_step % 2 == 0
        there = (token < tokens) & (column < steps) & (half_step < iterations)
        row_step = half_step // 2
        shared_u = tl.load(u + shared // 2 * stride + at, mask=token < tokens, other=0.0)
        row_factor = tl.exp2(tl.load(u + row_step * stride + at, mask=there, other=0.0) - shared_u)
        passed = tl.load(grad_u + row_step * stride + at, mask=there & is_row, other=1.0)
        out = at * (16 * tl.num_programs(2)) + group * 16 + column
        tl.store(x + out, tl.where(there, -row_factor * passed, 0.0), mask=token < tokens)
        # A row step used the v of the column step before it, a column step made its own. Before the first column step
        # nothing was added to columns, which is n on top of -n.
        start = tl.load(n + at, mask=token < tokens, other=0.0) * factor
        column_step = (half_step + 1) // 2 - 1
        own = tl.load(v + column_step * stride + at, mask=there & (column_step >= 0), other=0.0)
        own = tl.where(column_step >= 0, own, start)
        shared_step = (shared + 1) // 2 - 1
        shared_v = tl.load(v + shared_step * stride + at, mask=(token < tokens) & (shared_step >= 0), other=0.0)
        shared_v = tl.where(shared_step >= 0, shared_v, start)
        passed = tl.load(grad_v + row_step * stride + at, mask=there & (half_step % 2 == 1), other=1.0)
        tl.store(y + out, tl.where(there, tl.exp2(own - shared_v) * passed, 0.0), mask=token < tokens)

    @prepared
    @triton.jit
    def gather_scores_kernel(
        query, key, value, grad, query_unit, key_unit, value_unit, grad_unit, x, y, own_level, other_level, u, v,
        grad_query, scale, power, factor, tokens, heads, batches, stride, groups,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PARTS: tl.constexpr, HELD: tl.constexpr,
        OF_ROWS: tl.constexpr, GROUPED: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """dQ = dS K for dS = P * (dO V^T + X Y^T), u and v those of P. With query and key, grad and value, x and y, u
        and v exchanged: dK. GROUPED: dS = P * dO V^T + sum over groups of P_g * X_g Y_g^T; u and v of the groups
        follow, ``stride`` apart. ``scale`` is that of the natural exponential."""
        start_m, batch, head, matrix = place(tokens, heads, BLOCK_M)
        rows = start_m + tl.arange(0, BLOCK_M)
        base = matrix * tokens
        power *= unit(query_unit, matrix, tokens, start_m, PARTS)
        grad_scale = unit(grad_unit, matrix, tokens, start_m, PARTS)
        q0, q1 = own_tile(query, batches, batch, head, start_m, tokens, BLOCK_M, BLOCK_D, PARTS, HELD)
        g0, g1 = own_tile(grad, batches, batch, head, start_m, tokens, BLOCK_M, BLOCK_D, PARTS, HELD)
        own = tl.load(own_level + base + rows, mask=rows < tokens, other=0.0)
        shift = tl.load(u + base + rows, mask=rows < tokens, other=0.0)
        if not GROUPED:
            x_tile = x.load([batch, head, start_m, 0]).reshape(BLOCK_M, 16)
        total = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        for start_n in tl.range(0, tokens, BLOCK_N):
            columns = start_n + tl.arange(0, BLOCK_N)
            taken = tl.load(other_level + base + columns, mask=columns < tokens, other=0.0)
            added = tl.load(v + base + columns, mask=columns < tokens, other=-float("inf"))
            counts = unit(key_unit, matrix, tokens, start_n, PARTS)
            k0, k1 = tile(key, batches, batch, head, start_n, BLOCK_N, BLOCK_D, PARTS)
            product = times_transposed(q0, q1, k0, k1, PARTS, EXCHANGED=not OF_ROWS)
            v0, v1 = tile(value, batches, batch, head, start_n, BLOCK_N, BLOCK_D, PARTS)
            grad_weights = times_transposed(g0, g1, v0, v1, PARTS)
            if PARTS == 2:
                grad_weights *= grad_scale * unit(value_unit, matrix, tokens, start_n, PARTS)
            scores = levelled(product, power * counts, own, taken, OF_ROWS) * factor
            weights = tl.exp2(scores + (shift[:, None] + added[None, :]))
            if GROUPED:
                grad_scores = weights * grad_weights
                for group in tl.range(0, groups, num_stages=1):
                    x_part = x.load([batch, head, start_m, 16 * group]).reshape(BLOCK_M, 16)
                    y_part = y.load([batch, head, start_n, 16 * group]).reshape(BLOCK_N, 16)
                    at = base + (group + 1) * stride
                    group_shift = tl.load(u + at + rows, mask=rows < tokens, other=0.0)
                    group_added = tl.load(v + at + columns, mask=columns < tokens, other=-float("inf"))
                    weights = tl.exp2(scores + (group_shift[:, None] + group_added[None, :]))
                    grad_scores += weights * tl.dot(x_part, y_part.T, input_precision=PRECISION)
            else:
                y_tile = y.load([batch, head, start_n, 0]).reshape(BLOCK_N, 16)
                grad_scores = weights * tl.dot(x_tile, y_tile.T, grad_weights, input_precision=PRECISION)
            total = add_product(total, grad_scores, k0, k1, counts, PARTS, ANY_SIZE=True)
        total *= scale
        grad_query.store([batch, head, start_m, 0], total.to(grad_query.dtype).reshape(1, 1, BLOCK_M, BLOCK_D))
