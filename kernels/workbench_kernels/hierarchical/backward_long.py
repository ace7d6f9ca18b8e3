"""The gradients of hierarchical attention for families of more children than a tile: a program takes ``BLOCK`` of them.

The derivation stands in ``backward``. Row by row the program walks over the family's columns for the gradient of the
queries, then column by column over its rows for those of keys and values.
"""

try:
    import triton
    import triton.language as tl
except ImportError:  # macOS and Windows have no Triton; `heads.why_not` says so
    triton = None

if triton is not None:
    from workbench_kernels.hierarchical.backward import DENSITIES, SLOPE, WORTH, of_leaves_in
    from workbench_kernels.hierarchical.forward import (
        GATHERED,
        HIDDEN,
        KEPT,
        LOG2_E,
        MAXIMUM,
        from_above,
        leaves_below,
        level_at,
        load_rows,
        matrix_of,
        nodes_above,
        of_leaves,
        part_of,
        store_rows,
        visible,
    )
    from workbench_kernels.launch import prepared

    @triton.jit
    def _weights(
        q, k, maximum, normaliser, row, column, rows_there, columns_there, scale, span, leaves,
        LEAF: tl.constexpr, SELF: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        scores = tl.dot(q, k.T, input_precision=PRECISION) * (scale * LOG2_E)
        if not LEAF:
            scores += tl.log2(leaves_below(column, span, leaves))[None, :]
        seen = visible(row[:, None], column[None, :], LEAF, SELF)
        seen = seen & columns_there[None, :] & rows_there[:, None]
        # No weight is above one: scores of some 1e9 may be rounded otherwise here than in the forward pass.
        logarithm = scores - maximum[:, None] - normaliser[:, None]
        logarithm = tl.where(logarithm > 0, 0.0, logarithm)  # and a NaN stays one
        return tl.exp2(tl.where(seen, logarithm, HIDDEN))

    @triton.jit
    def _row_tile(
        query, grad, worth, maximum, normaliser, row, there, outside, query_row, grad_row,
        WIDTH: tl.constexpr, BLOCK_D: tl.constexpr,
    ):  # fmt: skip
        """Queries, gradients, what the weights of each row bring, and of what these are made."""
        q = load_rows(query, row, there, query_row, WIDTH, BLOCK_D)
        g = load_rows(grad, row, there, grad_row, WIDTH, BLOCK_D)
        brings = tl.load(worth + row, mask=there, other=0.0) - tl.sum(g.to(tl.float32) * outside, 1)
        at_most = tl.load(maximum + row, mask=there, other=0.0)
        return q, g, brings, at_most, tl.load(normaliser + row, mask=there, other=0.0)

    @prepared
    @triton.jit
    def long_backward_kernel(
        query, key, value, grad, tree, work, grad_query, grad_key, grad_value, scale, leaves, block, heads, matrices,
        query_batch, query_head, query_row, key_batch, key_head, key_row, value_batch, value_head, value_row,
        grad_batch, grad_head, grad_row,
        LEVEL: tl.constexpr, LEVELS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr,
        SELF: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        LEAF: tl.constexpr = LEVEL == 0
        ROOT: tl.constexpr = LEVEL == LEVELS - 1
        nodes, span, own = level_at(leaves, block, LEVEL)
        total = nodes_above(leaves, block, LEVELS)
        rows = tl.cast(matrices, tl.int64) * total
        families = 1 if ROOT else tl.cdiv(nodes, block)
        size = nodes if ROOT else block
        tiles = tl.cdiv(size, BLOCK)
        matrix = (tl.program_id(0) // (families * tiles)).to(tl.int64)
        family = tl.program_id(0) // tiles % families
        first = family * size
        last = tl.minimum(first + size, nodes)
        start = first + tl.program_id(0) % tiles * BLOCK
        dtype: tl.constexpr = query.dtype.element_ty
        densities = work + rows * (DENSITIES * WIDTH)
        if LEAF:
            base = matrix * leaves
            query += matrix_of(matrix, heads, query_batch, query_head)
            key += matrix_of(matrix, heads, key_batch, key_head)
            value += matrix_of(matrix, heads, value_batch, value_head)
            grad += matrix_of(matrix, heads, grad_batch, grad_head)
            worth_of = of_leaves_in(work, rows, WIDTH) + base
            maximum_of = of_leaves(tree, rows, WIDTH) + base
            normaliser_of = maximum_of + tl.cast(matrices, tl.int64) * leaves
            to_query = grad_query
            to_key = grad_key
            to_value = grad_value
        else:
            base = matrix * total + own
            query = tl.cast(tree, query.dtype, bitcast=True) + base * WIDTH
            key = query + rows * WIDTH
            value = key + rows * WIDTH
            grad = work + base * WIDTH
            query_row = WIDTH
            key_row = WIDTH
            value_row = WIDTH
            grad_row = WIDTH
            worth_of = part_of(work, rows, WIDTH, WORTH) + base
            maximum_of = part_of(tree, rows, WIDTH, MAXIMUM) + base
            normaliser_of = maximum_of + rows
            to_query = densities
            to_key = densities + rows * WIDTH
            to_value = densities + rows * (2 * WIDTH)
        outside = tl.zeros([1, BLOCK_D], tl.float32)
        density_query = tl.zeros([1, BLOCK_D], tl.float32)
        density_key = tl.zeros([1, BLOCK_D], tl.float32)
        density_value = tl.zeros([1, BLOCK_D], tl.float32)
        share = 1.0
        slope = 0.0
        if not ROOT:
            one = family + tl.arange(0, 1)
            exists = one < families
            parent = own + nodes if LEVEL > 0 else 0
            outside, kept = from_above(
                tree, matrix, rows, total, parent, one, exists, families, block, WIDTH, BLOCK_D, LEVELS - 1 - LEVEL
            )
            share = tl.sum(kept, 0)
            above = matrix * total + parent + one
            slope = tl.load(part_of(work, rows, WIDTH, SLOPE) + matrix * total + parent + family)
            density_query = load_rows(densities, above, exists, WIDTH, WIDTH, BLOCK_D)
            density_key = load_rows(densities + rows * WIDTH, above, exists, WIDTH, WIDTH, BLOCK_D)
            density_value = load_rows(densities + rows * (2 * WIDTH), above, exists, WIDTH, WIDTH, BLOCK_D)

        here = start + tl.arange(0, BLOCK)
        here_there = here < last
        q, g, worth, maximum, normaliser = _row_tile(
            query, grad, worth_of, maximum_of, normaliser_of, here, here_there, outside, query_row, grad_row, WIDTH,
            BLOCK_D,
        )  # fmt: skip
        if not LEAF:
            found = load_rows(tree + rows * (GATHERED * WIDTH), base + here, here_there, WIDTH, WIDTH, BLOCK_D)
            own_share = tl.load(part_of(tree, rows, WIDTH, KEPT) + base + here, mask=here_there, other=0.0)
            from_below = worth - share * tl.sum(g.to(tl.float32) * found, 1) - own_share * (worth - slope)
            tl.store(part_of(work, rows, WIDTH, SLOPE) + base + here, from_below, mask=here_there)
        total_query = tl.zeros([BLOCK, BLOCK_D], tl.float32)
        for at in range(first, last, BLOCK):
            other = at + tl.arange(0, BLOCK)
            there = other < last
            k = load_rows(key, other, there, key_row, WIDTH, BLOCK_D)
            v = load_rows(value, other, there, value_row, WIDTH, BLOCK_D)
            weights = _weights(
                q, k, maximum, normaliser, here, other, here_there, there, scale, span, leaves, LEAF, SELF, PRECISION
            )
            grad_scores = tl.dot(g.to(dtype), v.T, input_precision=PRECISION) * share - (worth - slope)[:, None]
            total_query = tl.dot((weights * grad_scores).to(dtype), k, total_query, input_precision=PRECISION)
        store_rows(to_query, total_query * scale + density_query, base + here, here_there, WIDTH, BLOCK_D)

        own_key = load_rows(key, here, here_there, key_row, WIDTH, BLOCK_D)
        own_value = load_rows(value, here, here_there, value_row, WIDTH, BLOCK_D)
        total_key = tl.zeros([BLOCK, BLOCK_D], tl.float32)
        total_value = tl.zeros([BLOCK, BLOCK_D], tl.float32)
        for at in range(first, last, BLOCK):
            other = at + tl.arange(0, BLOCK)
            there = other < last
            q_other, g_other, worth_other, maximum_other, normaliser_other = _row_tile(
                query, grad, worth_of, maximum_of, normaliser_of, other, there, outside, query_row, grad_row,
                WIDTH, BLOCK_D,
            )  # fmt: skip
            weights = _weights(
                q_other, own_key, maximum_other, normaliser_other, other, here, there, here_there, scale, span, leaves,
                LEAF, SELF, PRECISION,
            )  # fmt: skip
            upstream = g_other.to(dtype)
            grad_scores = tl.dot(upstream, own_value.T, input_precision=PRECISION) * share
            grad_scores -= (worth_other - slope)[:, None]
            if not LEAF:
                weights *= (leaves_below(other, span, leaves) / span)[:, None]
            grad_scores = tl.trans(weights * grad_scores).to(dtype)
            total_key = tl.dot(grad_scores, q_other, total_key, input_precision=PRECISION)
            mixing = tl.trans(weights * share).to(dtype)
            total_value = tl.dot(mixing, upstream, total_value, input_precision=PRECISION)
        unit = tl.full([BLOCK], 1.0, tl.float32)
        if not LEAF:
            unit = span / leaves_below(here, span, leaves)
        store_rows(to_key, total_key * (scale * unit)[:, None] + density_key, base + here, here_there, WIDTH, BLOCK_D)
        store_rows(to_value, total_value * unit[:, None] + density_value, base + here, here_there, WIDTH, BLOCK_D)
