"""Hierarchical attention differentiated, from the root down to the leaves.

Every gradient here is *per leaf*: that of a node is divided by the leaves below it, so that numbers keep their size
from level to level, and a mean passes its gradient on as it is. For a node x in the family A, with the gradient g (mean
of the output's over x's leaves), what x's leaves get from outside A and A's share c::

    worth     <g, output> (mean over leaves) - <g, outside>         all that x's row of weights brings; of a leaf whose
                                                                    row is at hand it is summed, c sum_y w_xy <g, v_y>,
                                                                    since the output has been rounded
    pull      worth - slope of A                                    what softmax's gradient subtracts
    dS_xy     w_xy (c <g, value_y> - pull)                          y a sibling, or a leaf itself
    slope     worth - c <g, gathered_x> - kept_x pull               gradient of x's energy, above the leaves

with which query, key and value get what attention's backward pass gives them, and what their family's means got.

What goes from launch to launch is one array of float32, ``work``, laid out as ``tree`` of the forward pass is: of the
nodes above the leaves ARRIVED (the mean gradient below a node) and DENSITIES (what the means of query, key and value
got), WIDTH columns each, WORTH and SLOPE; behind them, for families longer than a tile, <gradient, output> of the
leaves.
"""

try:
    import triton
    import triton.language as tl
except ImportError:  # macOS and Windows have no Triton; `heads.why_not` says so
    triton = None

if triton is not None:
    from workbench_kernels.hierarchical.forward import (
        ENERGY,
        GATHERED,
        HIDDEN,
        KEPT,
        LOG2_E,
        from_above,
        leaves_below,
        level_at,
        load_rows,
        matrix_of,
        nodes_above,
        part_of,
        store_rows,
        sum_of_families,
        visible,
    )
    from workbench_kernels.launch import prepared

    DENSITIES = tl.constexpr(1)
    WORTH = tl.constexpr(0)
    SLOPE = tl.constexpr(1)

    @prepared
    @triton.jit
    def mean_kernel(
        grad, output, work, leaves, block, heads, matrices, grad_batch, grad_head, grad_row,
        LEVEL: tl.constexpr, LEVELS: tl.constexpr, FAMILIES: tl.constexpr, ROWS: tl.constexpr, KEEP: tl.constexpr,
        WIDTH: tl.constexpr, BLOCK_D: tl.constexpr,
    ):  # fmt: skip
        """Of every family the means over its leaves of the gradient and of <gradient, output>; with KEEP the latter of
        each leaf, too. A family of more than ``ROWS`` children is taken in turns."""
        LEAF: tl.constexpr = LEVEL == 0
        ROOT: tl.constexpr = LEVEL == LEVELS - 1
        nodes, span, own = level_at(leaves, block, LEVEL)
        total = nodes_above(leaves, block, LEVELS)
        rows = tl.cast(matrices, tl.int64) * total
        families = 1 if ROOT else tl.cdiv(nodes, block)
        size = nodes if ROOT else block
        groups = tl.cdiv(families, FAMILIES)
        matrix = (tl.program_id(0) // groups).to(tl.int64)
        family = tl.program_id(0) % groups * FAMILIES + tl.arange(0, FAMILIES)
        place = tl.arange(0, FAMILIES * ROWS)
        total_grad = tl.zeros([FAMILIES, BLOCK_D], tl.float32)
        total_dot = tl.zeros([FAMILIES], tl.float32)
        for start in range(0, size, ROWS):
            member = start + place % ROWS
            node = (tl.program_id(0) % groups * FAMILIES + place // ROWS) * size + member
            there = (member < size) & (node < nodes)
            if LEAF:
                from_matrix = grad + matrix_of(matrix, heads, grad_batch, grad_head)
                g = load_rows(from_matrix, node, there, grad_row, WIDTH, BLOCK_D).to(tl.float32)
                out = load_rows(output, matrix * leaves + node, there, WIDTH, WIDTH, BLOCK_D).to(tl.float32)
                dot = tl.sum(g * out, 1)
                if KEEP:
                    tl.store(of_leaves_in(work, rows, WIDTH) + matrix * leaves + node, dot, mask=there)
            else:
                count = tl.where(there, leaves_below(node, span, leaves), 0.0)
                at = matrix * total + own + node
                g = load_rows(work, at, there, WIDTH, WIDTH, BLOCK_D) * count[:, None]
                dot = tl.load(part_of(work, rows, WIDTH, WORTH) + at, mask=there, other=0.0) * count
            if not ROOT:
                total_grad += sum_of_families(g, FAMILIES, ROWS, BLOCK_D)
                total_dot += tl.sum(dot.reshape(FAMILIES, ROWS), 1)
        if not ROOT:
            everyone = leaves_below(family, span * block, leaves)
            at = matrix * total + family
            if not LEAF:
                at += own + nodes
            store_rows(work, total_grad / everyone[:, None], at, family < families, WIDTH, BLOCK_D)
            tl.store(part_of(work, rows, WIDTH, WORTH) + at, total_dot / everyone, mask=family < families)

    @triton.jit
    def of_leaves_in(work, rows, WIDTH: tl.constexpr):
        """Where <gradient, output> of the leaves begins."""
        return work + rows * (4 * WIDTH + 2)

    @triton.jit
    def _spread(x, FAMILIES: tl.constexpr, SIZE: tl.constexpr):
        """What a family has (FAMILIES, columns), once for each of its rows."""
        return tl.broadcast_to(x[:, None, :], (FAMILIES, SIZE, x.shape[1])).reshape(FAMILIES * SIZE, x.shape[1])

    @triton.jit
    def _spread_numbers(x, FAMILIES: tl.constexpr, SIZE: tl.constexpr):
        return tl.broadcast_to(x[:, None], (FAMILIES, SIZE)).reshape(FAMILIES * SIZE)

    @prepared
    @triton.jit
    def backward_kernel(
        query, key, value, grad, tree, work, grad_query, grad_key, grad_value, scale, leaves, block, heads, matrices,
        query_batch, query_head, query_row, key_batch, key_head, key_row, value_batch, value_head, value_row,
        grad_batch, grad_head, grad_row,
        LEVEL: tl.constexpr, LEVELS: tl.constexpr, FAMILIES: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr,
        BLOCK_D: tl.constexpr, SELF: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """``FAMILIES`` whole families of a level. A row's softmax is calculated again from its scores, all of which are
        here; the results of a level above the leaves are the DENSITIES of its nodes."""
        LEAF: tl.constexpr = LEVEL == 0
        ROOT: tl.constexpr = LEVEL == LEVELS - 1
        nodes, span, own = level_at(leaves, block, LEVEL)
        total = nodes_above(leaves, block, LEVELS)
        rows = tl.cast(matrices, tl.int64) * total
        families = 1 if ROOT else tl.cdiv(nodes, block)
        size = nodes if ROOT else block
        groups = tl.cdiv(families, FAMILIES)
        matrix = (tl.program_id(0) // groups).to(tl.int64)
        first_family = tl.program_id(0) % groups * FAMILIES
        place = tl.arange(0, FAMILIES * SIZE)
        member = place % SIZE
        node = (first_family + place // SIZE) * size + member
        there = (member < size) & (node < nodes)
        count = leaves_below(node, span, leaves)
        dtype: tl.constexpr = query.dtype.element_ty
        densities = work + rows * (DENSITIES * WIDTH)
        if LEAF:
            at = matrix * leaves + node
            query += matrix_of(matrix, heads, query_batch, query_head)
            key += matrix_of(matrix, heads, key_batch, key_head)
            value += matrix_of(matrix, heads, value_batch, value_head)
            grad += matrix_of(matrix, heads, grad_batch, grad_head)
            q = load_rows(query, node, there, query_row, WIDTH, BLOCK_D)
            k = load_rows(key, node, there, key_row, WIDTH, BLOCK_D)
            v = load_rows(value, node, there, value_row, WIDTH, BLOCK_D)
            g = load_rows(grad, node, there, grad_row, WIDTH, BLOCK_D)
        else:
            at = matrix * total + own + node
            means = tl.cast(tree, query.dtype, bitcast=True)
            q = load_rows(means, at, there, WIDTH, WIDTH, BLOCK_D)
            k = load_rows(means + rows * WIDTH, at, there, WIDTH, WIDTH, BLOCK_D)
            v = load_rows(means + rows * (2 * WIDTH), at, there, WIDTH, WIDTH, BLOCK_D)
            g = load_rows(work, at, there, WIDTH, WIDTH, BLOCK_D)
            worth = tl.load(part_of(work, rows, WIDTH, WORTH) + at, mask=there, other=0.0)
        share = tl.full([FAMILIES * SIZE], 1.0, tl.float32)
        if not ROOT:
            family = first_family + tl.arange(0, FAMILIES)
            exists = family < families
            parent = own + nodes if LEVEL > 0 else 0
            above = matrix * total + parent + family
            outside, kept = from_above(
                tree, matrix, rows, total, parent, family, exists, families, block, WIDTH, BLOCK_D, LEVELS - 1 - LEVEL
            )
            share = _spread_numbers(kept, FAMILIES, SIZE)
            if not LEAF:
                worth -= tl.sum(g.to(tl.float32) * _spread(outside, FAMILIES, SIZE), 1)

        scores = tl.dot(q, k.T, input_precision=PRECISION) * (scale * LOG2_E)
        if not LEAF:
            scores += tl.log2(count)[None, :]
        seen = visible(place[:, None], place[None, :], LEAF, SELF) & there[None, :]
        if FAMILIES > 1:
            seen = seen & (place[:, None] // SIZE == place[None, :] // SIZE)
        scores = tl.where(seen, scores, HIDDEN)
        maximum = tl.max(scores, 1)
        if not LEAF:
            inside = tl.load(part_of(tree, rows, WIDTH, ENERGY) + at, mask=there, other=0.0)
            maximum = tl.maximum(maximum, inside)
        weights = tl.exp2(scores - maximum[:, None])
        normaliser = tl.sum(weights, 1)
        if not LEAF:
            normaliser += tl.exp2(inside - maximum)
        weights = tl.where(seen & there[:, None], weights / normaliser[:, None], 0.0)
        grad_weights = tl.dot(g.to(dtype), v.T, input_precision=PRECISION) * share[:, None]
        if LEAF:
            worth = tl.sum(weights * grad_weights, 1)
        pull = worth
        if not ROOT:
            slope = tl.load(part_of(work, rows, WIDTH, SLOPE) + above, mask=exists, other=0.0)
            pull -= _spread_numbers(slope, FAMILIES, SIZE)
        if not LEAF:
            found = load_rows(tree + rows * (GATHERED * WIDTH), at, there, WIDTH, WIDTH, BLOCK_D)
            own_share = tl.load(part_of(tree, rows, WIDTH, KEPT) + at, mask=there, other=0.0)
            from_below = worth - share * tl.sum(g.to(tl.float32) * found, 1) - own_share * pull
            tl.store(part_of(work, rows, WIDTH, SLOPE) + at, from_below, mask=there)

        g = g.to(dtype)
        grad_scores = weights * (grad_weights - pull[:, None])
        # A row stands for as many leaves as it has, and a column's gradient is per leaf of the column.
        mixing = weights * share[:, None]
        of_query = tl.dot(grad_scores.to(dtype), k, input_precision=PRECISION) * scale
        unit = tl.full([FAMILIES * SIZE], 1.0, tl.float32)
        if not LEAF:
            grad_scores *= (count / span)[:, None]
            mixing *= (count / span)[:, None]
            unit = span / count
        of_key = tl.dot(tl.trans(grad_scores).to(dtype), q, input_precision=PRECISION) * (scale * unit)[:, None]
        of_value = tl.dot(tl.trans(mixing).to(dtype), g, input_precision=PRECISION) * unit[:, None]
        if not ROOT:
            density = load_rows(densities, above, exists, WIDTH, WIDTH, BLOCK_D)
            of_query += _spread(density, FAMILIES, SIZE)
            density = load_rows(densities + rows * WIDTH, above, exists, WIDTH, WIDTH, BLOCK_D)
            of_key += _spread(density, FAMILIES, SIZE)
            density = load_rows(densities + rows * (2 * WIDTH), above, exists, WIDTH, WIDTH, BLOCK_D)
            of_value += _spread(density, FAMILIES, SIZE)
        if LEAF:
            store_rows(grad_query, of_query, at, there, WIDTH, BLOCK_D)
            store_rows(grad_key, of_key, at, there, WIDTH, BLOCK_D)
            store_rows(grad_value, of_value, at, there, WIDTH, BLOCK_D)
        else:
            store_rows(densities, of_query, at, there, WIDTH, BLOCK_D)
            store_rows(densities + rows * WIDTH, of_key, at, there, WIDTH, BLOCK_D)
            store_rows(densities + rows * (2 * WIDTH), of_value, at, there, WIDTH, BLOCK_D)
