"""Hierarchical attention on its way up and back down the balanced tree: the kernels of the forward pass.

What is known of the nodes above the leaves is one array of float32, ``tree``, part after part. A part has ``rows``
rows: for every matrix (a head of a batch element) the ``total`` nodes of all levels, one level after the other, the
root left out::

    MEANS        query, key and value of a node, the means over its leaves      3 parts of WIDTH columns, in the dtype
                 of the leaves, at the beginning of as much room as float32 takes
    GATHERED     what a node gets from its siblings                             WIDTH columns
    ENERGY       its log-partition function -phi                                one column, as those that follow
    KEPT         the share of its attention that stays inside
    MAXIMUM, NORMALISER   of its row of scores: weights are exp2(score - maximum - normaliser). Two numbers, since
                 their sum has no room for the second one where scores are large, and weights would not sum to 1

Behind them stand MAXIMUM and NORMALISER of the leaves, where their families are longer than a tile of the backward
pass. A node has ``span`` leaves below it, the last one of a level fewer. Logarithms are in base 2.
"""

try:
    import triton
    import triton.language as tl
except ImportError:  # macOS and Windows have no Triton; `heads.why_not` says so
    triton = None

if triton is not None:
    from workbench_kernels.launch import prepared

    # What a row sees of a column that is hidden from it. Finite: a row that sees nothing stays free of NaN, and a
    # family that is made of such rows has an energy that nobody keeps attention for. No score is lower.
    HIDDEN = tl.constexpr(-3.4028234663852886e38)
    LOG2_E = tl.constexpr(1.4426950408889634)

    GATHERED = tl.constexpr(3)
    ENERGY = tl.constexpr(0)
    KEPT = tl.constexpr(1)
    MAXIMUM = tl.constexpr(2)
    NORMALISER = tl.constexpr(3)

    # --- where things stand ------------------------------------------------------------------------------------------

    @triton.jit
    def nodes_above(leaves, block, LEVELS: tl.constexpr):
        """How many nodes all levels above the leaves have, the root left out."""
        nodes = leaves
        total = 0
        for _ in tl.static_range(LEVELS - 1):
            nodes = tl.cdiv(nodes, block)
            total += nodes
        return total

    @triton.jit
    def level_at(leaves, block, LEVEL: tl.constexpr):
        """Of a level, counted from the leaves: how many nodes it has, the leaves below a node, its first row."""
        nodes = leaves
        span = 1
        own = 0
        for level in tl.static_range(LEVEL):
            if level > 0:
                own += nodes
            nodes = tl.cdiv(nodes, block)
            span *= block
        return nodes, span, own

    @triton.jit
    def part_of(tree, rows, WIDTH: tl.constexpr, PART: tl.constexpr):
        """Where a part of numbers, one a row, begins in ``tree``."""
        return tree + rows * (4 * WIDTH + PART)

    @triton.jit
    def of_leaves(tree, rows, WIDTH: tl.constexpr):
        """Where maximum and normaliser of the leaves begin."""
        return tree + rows * (4 * WIDTH + 4)

    @triton.jit
    def load_rows(tensor, row, there, stride, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr):
        """Rows of ``WIDTH`` numbers as a tile of ``BLOCK_D`` columns; zeros where there is nothing."""
        column = tl.arange(0, BLOCK_D)
        mask = there[:, None]
        if WIDTH != BLOCK_D:
            mask = mask & (column < WIDTH)[None, :]
        return tl.load(tensor + row[:, None].to(tl.int64) * stride + column[None, :], mask=mask, other=0.0)

    @triton.jit
    def store_rows(tensor, x, row, there, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr):
        """The counterpart of ``load_rows`` for rows that stand side by side."""
        column = tl.arange(0, BLOCK_D)
        mask = there[:, None]
        if WIDTH != BLOCK_D:
            mask = mask & (column < WIDTH)[None, :]
        at = tensor + row[:, None].to(tl.int64) * WIDTH + column[None, :]
        tl.store(at, x.to(tensor.dtype.element_ty), mask=mask)

    @triton.jit
    def matrix_of(matrix, heads, stride_batch, stride_head):
        """Where a head of a batch element begins."""
        return (matrix // heads).to(tl.int64) * stride_batch + (matrix % heads).to(tl.int64) * stride_head

    @triton.jit
    def leaves_below(node, span, leaves):
        return tl.maximum(tl.minimum(span, leaves - node * span), 1).to(tl.float32)

    # --- families ----------------------------------------------------------------------------------------------------

    @triton.jit
    def visible(row, column, LEAF: tl.constexpr, SELF: tl.constexpr):
        """Who sees whom inside a family. Above the leaves nobody sees itself here: what a node keeps is its energy."""
        seen = column == column
        if not LEAF or not SELF:
            seen = column != row
        return seen

    @triton.jit
    def sum_of_families(x, FAMILIES: tl.constexpr, SIZE: tl.constexpr, BLOCK_D: tl.constexpr):
        """Rows (FAMILIES * SIZE, BLOCK_D) summed within each family."""
        return tl.sum(x.reshape(FAMILIES, SIZE, BLOCK_D), 1)

    @triton.jit
    def store_mean(
        means, x, share, first_family, families, span, leaves, first_row,
        FAMILIES: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, ONES: tl.constexpr,
    ):  # fmt: skip
        """The means over families of rows x (FAMILIES * SIZE, BLOCK_D), a row standing for ``share`` leaves; with ONES
        for one or none."""
        if ONES:
            # A product with ones: exact, and the rows stay in shared memory, where the other products read them.
            line = tl.arange(0, FAMILIES if FAMILIES > 16 else 16)
            belongs = (line[:, None] == tl.arange(0, FAMILIES * SIZE)[None, :] // SIZE) & (share > 0)[None, :]
            sums = tl.dot(belongs.to(tl.float32).to(x.dtype), x)
        else:
            line = tl.arange(0, FAMILIES)
            sums = sum_of_families(x.to(tl.float32) * share[:, None], FAMILIES, SIZE, BLOCK_D)
        family = first_family + line
        exists = (line < FAMILIES) & (family < families)
        mean = sums / leaves_below(family, span, leaves)[:, None]
        store_rows(means, mean, first_row + family, exists, WIDTH, BLOCK_D)

    @triton.jit
    def from_above(
        tree, matrix, rows, total, first, family, there, nodes, block,
        WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, LEVELS: tl.constexpr,
    ):  # fmt: skip
        """What a family's leaves get from outside it, (F, BLOCK_D), and the share (F,) that it has for itself.

        Level by level, ``LEVELS`` of them, the rest is scaled by what a node keeps and joined by what it gathers.
        """
        outside = tl.zeros([family.shape[0], BLOCK_D], tl.float32)
        share = tl.full([family.shape[0]], 1.0, tl.float32)
        gathered = tree + rows * (GATHERED * WIDTH)
        kept = part_of(tree, rows, WIDTH, KEPT)
        for _ in tl.static_range(LEVELS):
            row = matrix * total + first + family
            here = tl.load(kept + row, mask=there, other=0.0)
            outside = load_rows(gathered, row, there, WIDTH, WIDTH, BLOCK_D) + here[:, None] * outside
            share = share * here
            first += nodes
            nodes = tl.cdiv(nodes, block)
            family = family // block
        return outside, share

    @prepared
    @triton.jit
    def family_kernel(
        query, key, value, output, tree, scale, leaves, block, heads, matrices,
        query_batch, query_head, query_row, key_batch, key_head, key_row, value_batch, value_head, value_row,
        LEVEL: tl.constexpr, LEVELS: tl.constexpr, FAMILIES: tl.constexpr, SIZE: tl.constexpr, KEEP: tl.constexpr,
        WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, SELF: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """``FAMILIES`` whole families of a level: attention inside them, their means and energies. ``SIZE`` rows a
        family, some of them empty; of a leaf the output holds what it gets inside its family, of a node ``tree`` what
        it gathers there. With KEEP also maximum and normaliser of its row."""
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
        means = tl.cast(tree, query.dtype, bitcast=True)
        if LEAF:
            at = matrix * leaves + node
            query += matrix_of(matrix, heads, query_batch, query_head)
            key += matrix_of(matrix, heads, key_batch, key_head)
            value += matrix_of(matrix, heads, value_batch, value_head)
            q = load_rows(query, node, there, query_row, WIDTH, BLOCK_D)
            k = load_rows(key, node, there, key_row, WIDTH, BLOCK_D)
            v = load_rows(value, node, there, value_row, WIDTH, BLOCK_D)
        else:
            at = matrix * total + own + node
            q = load_rows(means, at, there, WIDTH, WIDTH, BLOCK_D)
            k = load_rows(means + rows * WIDTH, at, there, WIDTH, WIDTH, BLOCK_D)
            v = load_rows(means + rows * (2 * WIDTH), at, there, WIDTH, WIDTH, BLOCK_D)

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
            own_weight = tl.exp2(inside - maximum)
            normaliser += own_weight
            tl.store(part_of(tree, rows, WIDTH, KEPT) + at, own_weight / normaliser, mask=there)
        if KEEP:
            if LEAF:
                tokens = tl.cast(matrices, tl.int64) * leaves
                store_softmax(of_leaves(tree, rows, WIDTH), tokens, at, maximum, normaliser, there)
            else:
                store_softmax(part_of(tree, rows, WIDTH, MAXIMUM), rows, at, maximum, normaliser, there)
        attended = tl.dot(weights.to(v.dtype), v, input_precision=PRECISION) / normaliser[:, None]
        if LEAF:
            store_rows(output, attended, at, there, WIDTH, BLOCK_D)
        else:
            store_rows(tree + rows * (GATHERED * WIDTH), attended, at, there, WIDTH, BLOCK_D)

        if not ROOT:
            parent = matrix * total
            if not LEAF:
                parent += own + nodes
            family = first_family + tl.arange(0, FAMILIES)
            share = tl.where(there, count, 0.0)
            everyone = leaves_below(family, span * block, leaves)
            partition = maximum + tl.log2(normaliser)
            energy = tl.sum((share * partition).reshape(FAMILIES, SIZE), 1)
            to = part_of(tree, rows, WIDTH, ENERGY) + parent + family
            tl.store(to, energy / everyone, mask=family < families)
            ONES: tl.constexpr = LEAF and q.dtype.primitive_bitwidth == 16
            store_mean(
                means, q, share, first_family, families, span * block, leaves, parent,
                FAMILIES, SIZE, WIDTH, BLOCK_D, ONES,
            )  # fmt: skip
            store_mean(
                means + rows * WIDTH, k, share, first_family, families, span * block, leaves, parent,
                FAMILIES, SIZE, WIDTH, BLOCK_D, ONES,
            )  # fmt: skip
            store_mean(
                means + rows * (2 * WIDTH), v, share, first_family, families, span * block, leaves, parent,
                FAMILIES, SIZE, WIDTH, BLOCK_D, ONES,
            )  # fmt: skip

    @triton.jit
    def store_softmax(to, rows, at, maximum, normaliser, there):
        """What the weights of a row are made from again: its maximum and the logarithm of its normaliser."""
        tl.store(to + at, maximum, mask=there)
        tl.store(to + rows + at, tl.log2(normaliser), mask=there)

    # --- families longer than a tile ---------------------------------------------------------------------------------

    @triton.jit
    def _walk(
        q, key, value, inside, row, first, last, scale, span, leaves, key_row, value_row,
        BLOCK_N: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, LEAF: tl.constexpr, SELF: tl.constexpr,
        PRECISION: tl.constexpr,
    ):  # fmt: skip
        """The online softmax of some rows of a family over its columns [first, last): what they attend to, their
        maxima and normalisers."""
        # Above the leaves every row keeps its energy, which is where its softmax starts.
        maximum = inside
        normaliser = tl.full([row.shape[0]], 0.0 if LEAF else 1.0, tl.float32)
        accumulator = tl.zeros([row.shape[0], BLOCK_D], tl.float32)
        for start in range(first, last, BLOCK_N):
            column = start + tl.arange(0, BLOCK_N)
            there = column < last
            k = load_rows(key, column, there, key_row, WIDTH, BLOCK_D)
            scores = tl.dot(q, k.T, input_precision=PRECISION) * (scale * LOG2_E)
            if not LEAF:
                scores += tl.log2(leaves_below(column, span, leaves))[None, :]
            seen = visible(row[:, None], column[None, :], LEAF, SELF) & there[None, :]
            scores = tl.where(seen, scores, HIDDEN)
            new_maximum = tl.maximum(maximum, tl.max(scores, 1))
            weights = tl.exp2(scores - new_maximum[:, None])
            rescale = tl.exp2(maximum - new_maximum)
            normaliser = normaliser * rescale + tl.sum(weights, 1)
            v = load_rows(value, column, there, value_row, WIDTH, BLOCK_D)
            accumulator = tl.dot(weights.to(v.dtype), v, accumulator * rescale[:, None], input_precision=PRECISION)
            maximum = new_maximum
        return accumulator / normaliser[:, None], maximum, normaliser

    @prepared
    @triton.jit
    def long_family_kernel(
        query, key, value, output, tree, scale, leaves, block, heads, matrices,
        query_batch, query_head, query_row, key_batch, key_head, key_row, value_batch, value_head, value_row,
        LEVEL: tl.constexpr, LEVELS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, KEEP: tl.constexpr,
        WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, SELF: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """As ``family_kernel`` for families of more children than a tile. Below the root a program takes a family, tile
        after tile, so that it can sum; at the root, whose sums nobody needs, it takes a tile of rows."""
        LEAF: tl.constexpr = LEVEL == 0
        ROOT: tl.constexpr = LEVEL == LEVELS - 1
        nodes, span, own = level_at(leaves, block, LEVEL)
        total = nodes_above(leaves, block, LEVELS)
        rows = tl.cast(matrices, tl.int64) * total
        programs = tl.cdiv(nodes, BLOCK_M) if ROOT else tl.cdiv(nodes, block)
        matrix = (tl.program_id(0) // programs).to(tl.int64)
        family = tl.program_id(0) % programs
        first = 0 if ROOT else family * block
        last = nodes if ROOT else tl.minimum(first + block, nodes)
        start = family * BLOCK_M if ROOT else first
        stop = start + 1 if ROOT else last
        means = tl.cast(tree, query.dtype, bitcast=True)
        if LEAF:
            base = matrix * leaves
            of_query = query + matrix_of(matrix, heads, query_batch, query_head)
            of_key = key + matrix_of(matrix, heads, key_batch, key_head)
            of_value = value + matrix_of(matrix, heads, value_batch, value_head)
        else:
            base = matrix * total + own
            of_query = means + base * WIDTH
            of_key = of_query + rows * WIDTH
            of_value = of_key + rows * WIDTH
            query_row = WIDTH
            key_row = WIDTH
            value_row = WIDTH
        energy = tl.zeros([BLOCK_M], tl.float32)
        sum_query = tl.zeros([BLOCK_D], tl.float32)
        sum_key = tl.zeros([BLOCK_D], tl.float32)
        sum_value = tl.zeros([BLOCK_D], tl.float32)
        for tile in range(start, stop, BLOCK_M):
            row = tile + tl.arange(0, BLOCK_M)
            there = row < last
            q = load_rows(of_query, row, there, query_row, WIDTH, BLOCK_D)
            inside = tl.full([BLOCK_M], HIDDEN, tl.float32)
            if not LEAF:
                inside = tl.load(part_of(tree, rows, WIDTH, ENERGY) + base + row, mask=there, other=0.0)
            attended, maximum, normaliser = _walk(
                q, of_key, of_value, inside, row, first, last, scale, span, leaves, key_row, value_row,
                BLOCK_N, WIDTH, BLOCK_D, LEAF, SELF, PRECISION,
            )  # fmt: skip
            if LEAF:
                store_rows(output, attended, base + row, there, WIDTH, BLOCK_D)
            else:
                store_rows(tree + rows * (GATHERED * WIDTH), attended, base + row, there, WIDTH, BLOCK_D)
                kept = tl.exp2(inside - maximum) / normaliser
                tl.store(part_of(tree, rows, WIDTH, KEPT) + base + row, kept, mask=there)
            if KEEP:
                if LEAF:
                    tokens = tl.cast(matrices, tl.int64) * leaves
                    store_softmax(of_leaves(tree, rows, WIDTH), tokens, base + row, maximum, normaliser, there)
                else:
                    store_softmax(part_of(tree, rows, WIDTH, MAXIMUM), rows, base + row, maximum, normaliser, there)
            if not ROOT:
                share = tl.where(there, leaves_below(row, span, leaves), 0.0)
                k = load_rows(of_key, row, there, key_row, WIDTH, BLOCK_D)
                v = load_rows(of_value, row, there, value_row, WIDTH, BLOCK_D)
                energy += share * (maximum + tl.log2(normaliser))
                sum_query += tl.sum(q.to(tl.float32) * share[:, None], 0)
                sum_key += tl.sum(k.to(tl.float32) * share[:, None], 0)
                sum_value += tl.sum(v.to(tl.float32) * share[:, None], 0)
        if not ROOT:
            everyone = leaves_below(family, span * block, leaves)
            at = matrix * total + family
            if not LEAF:
                at += own + nodes
            tl.store(part_of(tree, rows, WIDTH, ENERGY) + at, tl.sum(energy, 0) / everyone)
            column = tl.arange(0, BLOCK_D)
            to = means + at * WIDTH + column
            dtype: tl.constexpr = means.dtype.element_ty
            tl.store(to, (sum_query / everyone).to(dtype), mask=column < WIDTH)
            tl.store(to + rows * WIDTH, (sum_key / everyone).to(dtype), mask=column < WIDTH)
            tl.store(to + rows * (2 * WIDTH), (sum_value / everyone).to(dtype), mask=column < WIDTH)

    # --- down --------------------------------------------------------------------------------------------------------

    @prepared
    @triton.jit
    def combine_kernel(
        output, tree, leaves, block, matrices,
        LEVELS: tl.constexpr, FAMILIES: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr,
    ):  # fmt: skip
        """What a leaf gets inside its family, scaled by the family's share and joined by what comes from outside."""
        families = tl.cdiv(leaves, block)
        total = nodes_above(leaves, block, LEVELS)
        rows = tl.cast(matrices, tl.int64) * total
        tiles = tl.cdiv(block, ROWS)
        groups = tl.cdiv(families, FAMILIES)
        matrix = (tl.program_id(0) // (groups * tiles)).to(tl.int64)
        group = tl.program_id(0) % (groups * tiles) // tiles
        family = group * FAMILIES + tl.arange(0, FAMILIES)
        outside, share = from_above(
            tree, matrix, rows, total, 0, family, family < families, families, block, WIDTH, BLOCK_D, LEVELS - 1
        )
        member = tl.program_id(0) % tiles * ROWS + tl.arange(0, ROWS)
        leaf = family[:, None] * block + member[None, :]
        column = tl.arange(0, BLOCK_D)
        mask = ((member < block)[None, :] & (leaf < leaves))[:, :, None] & (column < WIDTH)[None, None, :]
        at = output + (matrix * leaves + leaf)[:, :, None] * WIDTH + column[None, None, :]
        local = tl.load(at, mask=mask, other=0.0).to(tl.float32)
        tl.store(at, (outside[:, None, :] + share[:, None, None] * local).to(output.dtype.element_ty), mask=mask)
