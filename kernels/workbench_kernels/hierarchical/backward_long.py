"""The gradients of hierarchical attention for families of more children than a tile: a program takes ``BLOCK`` of them.

The derivation stands in ``hierarchical_backward``. Row by row the program walks over the family's columns for the
gradient of the queries, then column by column over its rows for those of keys and values.
"""

try:
    import triton
    import triton.language as tl
except ImportError:  # macOS and Windows have no Triton; `hierarchical.why_not` says so
    triton = None

if triton is not None:
    from workbench_kernels.hierarchical.forward import (
        HIDDEN,
        from_above,
        leaves_below,
        load_rows,
        matrix_of,
        store_rows,
        visible,
    )

    @triton.jit
    def _weights(
        q, k, log_sum, row, column, rows_there, columns_there, scale, span, leaves,
        LEAF: tl.constexpr, CAUSAL: tl.constexpr, SELF: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        scores = tl.dot(q, k.T, input_precision=PRECISION) * (scale * 1.4426950408889634)
        if not LEAF:
            scores += tl.log2(leaves_below(column, span, leaves))[None, :]
        seen = visible(row[:, None], column[None, :], LEAF, CAUSAL, SELF)
        seen = seen & columns_there[None, :] & rows_there[:, None]
        return tl.exp2(tl.where(seen, scores - log_sum[:, None], HIDDEN))

    @triton.jit
    def _row_tile(
        query, grad, row_dot, logsumexp, base, row, there, outside, query_row, grad_row,
        WIDTH: tl.constexpr, BLOCK_D: tl.constexpr,
    ):  # fmt: skip
        """Queries, gradients, what the weights of each row bring, and its logsumexp."""
        q = load_rows(query, row, there, query_row, WIDTH, BLOCK_D)
        g = load_rows(grad, row, there, grad_row, WIDTH, BLOCK_D)
        worth = tl.load(row_dot + base + row, mask=there, other=0.0) - tl.sum(g.to(tl.float32) * outside, 1)
        return q, g, worth, tl.load(logsumexp + base + row, mask=there, other=float("inf"))

    @triton.jit
    def long_backward_kernel(
        query, key, value, grad, row_dot, logsumexp, gathered, statistics, slopes, densities,
        grad_query, grad_key, grad_value, scale,
        nodes, size, families, span, leaves, own, parent, total, heads, matrices,
        query_batch, query_head, query_row, key_batch, key_head, key_row, value_batch, value_head, value_row,
        grad_batch, grad_head, grad_row,
        BLOCK: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, LEAF: tl.constexpr, ROOT: tl.constexpr,
        CAUSAL: tl.constexpr, SELF: tl.constexpr, LEVELS: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        tiles = tl.cdiv(size, BLOCK)
        matrix = (tl.program_id(0) // (families * tiles)).to(tl.int64)
        family = tl.program_id(0) // tiles % families
        first = family * size
        last = tl.minimum(first + size, nodes)
        start = first + tl.program_id(0) % tiles * BLOCK
        query += matrix_of(matrix, heads, query_batch, query_head)
        key += matrix_of(matrix, heads, key_batch, key_head)
        value += matrix_of(matrix, heads, value_batch, value_head)
        grad += matrix_of(matrix, heads, grad_batch, grad_head)
        base = matrix * leaves
        if not LEAF:
            base = matrix * total + own
        outside = tl.zeros([1, BLOCK_D], tl.float32)
        density_query = tl.zeros([1, BLOCK_D], tl.float32)
        density_key = tl.zeros([1, BLOCK_D], tl.float32)
        density_value = tl.zeros([1, BLOCK_D], tl.float32)
        share = 1.0
        slope = 0.0
        if not ROOT:
            one = family + tl.arange(0, 1)
            exists = one < families
            outside, kept = from_above(
                gathered, statistics + matrices * total, matrix, total, parent, one, exists, families, size,
                WIDTH, BLOCK_D, LEVELS,
            )  # fmt: skip
            share = tl.sum(kept, 0)
            above = matrix * total + parent + one
            slope = tl.load(slopes + matrix * total + parent + family)
            kind = matrices * total * WIDTH
            density_query = load_rows(densities, above, exists, WIDTH, WIDTH, BLOCK_D)
            density_key = load_rows(densities + kind, above, exists, WIDTH, WIDTH, BLOCK_D)
            density_value = load_rows(densities + 2 * kind, above, exists, WIDTH, WIDTH, BLOCK_D)

        here = start + tl.arange(0, BLOCK)
        here_there = here < last
        q, g, worth, log_sum = _row_tile(
            query, grad, row_dot, logsumexp, base, here, here_there, outside, query_row, grad_row, WIDTH, BLOCK_D
        )
        if not LEAF:
            found = load_rows(gathered, base + here, here_there, WIDTH, WIDTH, BLOCK_D)
            own_share = tl.load(statistics + matrices * total + base + here, mask=here_there, other=0.0)
            from_below = worth - share * tl.sum(g.to(tl.float32) * found, 1) - own_share * (worth - slope)
            tl.store(slopes + base + here, from_below, mask=here_there)
        total_query = tl.zeros([BLOCK, BLOCK_D], tl.float32)
        end = last
        if CAUSAL:
            end = tl.minimum(last, start + BLOCK)
        for at in range(first, end, BLOCK):
            other = at + tl.arange(0, BLOCK)
            there = other < last
            k = load_rows(key, other, there, key_row, WIDTH, BLOCK_D)
            v = load_rows(value, other, there, value_row, WIDTH, BLOCK_D)
            weights = _weights(
                q, k, log_sum, here, other, here_there, there, scale, span, leaves, LEAF, CAUSAL, SELF, PRECISION
            )
            grad_scores = tl.dot(g.to(v.dtype), v.T, input_precision=PRECISION) * share - (worth - slope)[:, None]
            total_query = tl.dot((weights * grad_scores).to(k.dtype), k, total_query, input_precision=PRECISION)
        store_rows(grad_query, total_query * scale + density_query, base + here, here_there, WIDTH, BLOCK_D)

        own_key = load_rows(key, here, here_there, key_row, WIDTH, BLOCK_D)
        own_value = load_rows(value, here, here_there, value_row, WIDTH, BLOCK_D)
        total_key = tl.zeros([BLOCK, BLOCK_D], tl.float32)
        total_value = tl.zeros([BLOCK, BLOCK_D], tl.float32)
        begin = first
        if CAUSAL:
            begin = start
        for at in range(begin, last, BLOCK):
            other = at + tl.arange(0, BLOCK)
            there = other < last
            q_other, g_other, worth_other, log_sum_other = _row_tile(
                query, grad, row_dot, logsumexp, base, other, there, outside, query_row, grad_row, WIDTH, BLOCK_D
            )
            weights = _weights(
                q_other, own_key, log_sum_other, other, here, there, here_there, scale, span, leaves,
                LEAF, CAUSAL, SELF, PRECISION,
            )  # fmt: skip
            upstream = g_other.to(own_value.dtype)
            grad_scores = tl.dot(upstream, own_value.T, input_precision=PRECISION) * share
            grad_scores -= (worth_other - slope)[:, None]
            if not LEAF:
                weights *= (leaves_below(other, span, leaves) / span)[:, None]
            grad_scores = tl.trans(weights * grad_scores).to(q_other.dtype)
            total_key = tl.dot(grad_scores, q_other, total_key, input_precision=PRECISION)
            mixing = tl.trans(weights * share).to(upstream.dtype)
            total_value = tl.dot(mixing, upstream, total_value, input_precision=PRECISION)
        unit = tl.full([BLOCK], 1.0, tl.float32)
        if not LEAF:
            unit = span / leaves_below(here, span, leaves)
        total_key = total_key * (scale * unit)[:, None] + density_key
        total_value = total_value * unit[:, None] + density_value
        store_rows(grad_key, total_key, base + here, here_there, WIDTH, BLOCK_D)
        store_rows(grad_value, total_value, base + here, here_there, WIDTH, BLOCK_D)
