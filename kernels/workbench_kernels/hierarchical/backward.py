"""Hierarchical attention differentiated, from the root down to the leaves.

Every gradient here is *per leaf*: that of a node is divided by the leaves below it, so that numbers keep their size
from level to level, and a mean passes its gradient on as it is. For a node x in the family A, with the gradient g (mean
of the output's over x's leaves), what x's leaves get from outside A and A's share c::

    worth     <g, output> (mean over leaves) - <g, outside>         all that x's row of weights brings
    pull      worth - slope of A                                    what softmax's gradient subtracts
    dS_xy     w_xy (c <g, value_y> - pull)                          y a sibling, or a leaf itself
    slope     worth - c <g, gathered_x> - kept_x pull               gradient of x's energy, above the leaves

with which query, key and value get what attention's backward pass gives them, and what their family's means got.
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
        sum_of_families,
        visible,
    )

    @triton.jit
    def mean_kernel(
        grad, output, row_dot, arrived, worth, nodes, size, families, span, leaves, own, parent, total, heads,
        grad_batch, grad_head, grad_row,
        FAMILIES: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, LEAF: tl.constexpr,
        ROOT: tl.constexpr,
    ):  # fmt: skip
        """Of every family the means over its leaves of the gradient and of <gradient, output>; of each leaf the latter.
        A family of more than ``ROWS`` children is taken in turns."""
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
                tl.store(row_dot + matrix * leaves + node, dot, mask=there)
            else:
                count = tl.where(there, leaves_below(node, span, leaves), 0.0)
                at = matrix * total + own + node
                g = load_rows(arrived, at, there, WIDTH, WIDTH, BLOCK_D) * count[:, None]
                dot = tl.load(worth + at, mask=there, other=0.0) * count
            if not ROOT:
                total_grad += sum_of_families(g, FAMILIES, ROWS, BLOCK_D)
                total_dot += tl.sum(dot.reshape(FAMILIES, ROWS), 1)
        if not ROOT:
            everyone = leaves_below(family, span * size, leaves)
            at = matrix * total + parent + family
            store_rows(arrived, total_grad / everyone[:, None], at, family < families, WIDTH, BLOCK_D)
            tl.store(worth + at, total_dot / everyone, mask=family < families)

    @triton.jit
    def _spread(x, FAMILIES: tl.constexpr, SIZE: tl.constexpr):
        """What a family has (FAMILIES, columns), once for each of its rows."""
        return tl.broadcast_to(x[:, None, :], (FAMILIES, SIZE, x.shape[1])).reshape(FAMILIES * SIZE, x.shape[1])

    @triton.jit
    def _spread_numbers(x, FAMILIES: tl.constexpr, SIZE: tl.constexpr):
        return tl.broadcast_to(x[:, None], (FAMILIES, SIZE)).reshape(FAMILIES * SIZE)

    @triton.jit
    def backward_kernel(
        query, key, value, grad, row_dot, logsumexp, gathered, statistics, slopes, densities,
        grad_query, grad_key, grad_value, scale,
        nodes, size, families, span, leaves, own, parent, total, heads, matrices,
        query_batch, query_head, query_row, key_batch, key_head, key_row, value_batch, value_head, value_row,
        grad_batch, grad_head, grad_row,
        FAMILIES: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, LEAF: tl.constexpr,
        ROOT: tl.constexpr, CAUSAL: tl.constexpr, SELF: tl.constexpr, LEVELS: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """``FAMILIES`` whole families. ``densities`` are what their means got, (3, matrices, total, WIDTH); the results
        of a level above the leaves are written there, too."""
        groups = tl.cdiv(families, FAMILIES)
        matrix = (tl.program_id(0) // groups).to(tl.int64)
        first_family = tl.program_id(0) % groups * FAMILIES
        place = tl.arange(0, FAMILIES * SIZE)
        member = place % SIZE
        node = (first_family + place // SIZE) * size + member
        there = (member < size) & (node < nodes)
        q = load_rows(query + matrix_of(matrix, heads, query_batch, query_head), node, there, query_row, WIDTH, BLOCK_D)
        k = load_rows(key + matrix_of(matrix, heads, key_batch, key_head), node, there, key_row, WIDTH, BLOCK_D)
        v = load_rows(value + matrix_of(matrix, heads, value_batch, value_head), node, there, value_row, WIDTH, BLOCK_D)
        g = load_rows(grad + matrix_of(matrix, heads, grad_batch, grad_head), node, there, grad_row, WIDTH, BLOCK_D)
        count = leaves_below(node, span, leaves)
        at = matrix * leaves + node
        if not LEAF:
            at = matrix * total + own + node
        worth = tl.load(row_dot + at, mask=there, other=0.0)
        log_sum = tl.load(logsumexp + at, mask=there, other=float("inf"))
        pull = worth
        share = tl.full([FAMILIES * SIZE], 1.0, tl.float32)
        kind = matrices * total * WIDTH
        if not ROOT:
            family = first_family + tl.arange(0, FAMILIES)
            exists = family < families
            outside, kept = from_above(
                gathered, statistics + matrices * total, matrix, total, parent, family, exists, families, size,
                WIDTH, BLOCK_D, LEVELS,
            )  # fmt: skip
            share = _spread_numbers(kept, FAMILIES, SIZE)
            worth -= tl.sum(g.to(tl.float32) * _spread(outside, FAMILIES, SIZE), 1)
            above = matrix * total + parent + family
            pull = worth - _spread_numbers(tl.load(slopes + above, mask=exists, other=0.0), FAMILIES, SIZE)
        if not LEAF:
            found = load_rows(gathered, at, there, WIDTH, WIDTH, BLOCK_D)
            own_share = tl.load(statistics + matrices * total + at, mask=there, other=0.0)
            slope = worth - share * tl.sum(g.to(tl.float32) * found, 1) - own_share * pull
            tl.store(slopes + at, slope, mask=there)

        scores = tl.dot(q, k.T, input_precision=PRECISION) * (scale * 1.4426950408889634)
        if not LEAF:
            scores += tl.log2(count)[None, :]
        seen = visible(place[:, None], place[None, :], LEAF, CAUSAL, SELF) & there[None, :] & there[:, None]
        if FAMILIES > 1:
            seen = seen & (place[:, None] // SIZE == place[None, :] // SIZE)
        weights = tl.exp2(tl.where(seen, scores - log_sum[:, None], HIDDEN))
        g = g.to(v.dtype)
        grad_scores = tl.dot(g, v.T, input_precision=PRECISION) * share[:, None] - pull[:, None]
        grad_scores *= weights
        result = tl.dot(grad_scores.to(k.dtype), k, input_precision=PRECISION) * scale
        if not ROOT:
            result += _spread(load_rows(densities, above, exists, WIDTH, WIDTH, BLOCK_D), FAMILIES, SIZE)
        store_rows(grad_query, result, at, there, WIDTH, BLOCK_D)
        # A row stands for as many leaves as it has, and a column's gradient is per leaf of the column.
        mixing = weights * share[:, None]
        unit = tl.full([FAMILIES * SIZE], 1.0, tl.float32)
        if not LEAF:
            grad_scores *= (count / span)[:, None]
            mixing *= (count / span)[:, None]
            unit = span / count
        result = tl.dot(tl.trans(grad_scores).to(q.dtype), q, input_precision=PRECISION) * (scale * unit)[:, None]
        if not ROOT:
            result += _spread(load_rows(densities + kind, above, exists, WIDTH, WIDTH, BLOCK_D), FAMILIES, SIZE)
        store_rows(grad_key, result, at, there, WIDTH, BLOCK_D)
        result = tl.dot(tl.trans(mixing).to(g.dtype), g, input_precision=PRECISION) * unit[:, None]
        if not ROOT:
            result += _spread(load_rows(densities + 2 * kind, above, exists, WIDTH, WIDTH, BLOCK_D), FAMILIES, SIZE)
        store_rows(grad_value, result, at, there, WIDTH, BLOCK_D)
