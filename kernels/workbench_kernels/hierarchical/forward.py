"""Hierarchical attention on its way up and back down the balanced tree: the kernels of the forward pass.

Nodes of the levels above the leaves stand one level after the other in one array of ``total`` rows a matrix (a head of
a batch element): ``own`` is where a level's nodes begin, ``parent`` where their families do. A node has ``span`` leaves
below it, the last one of a level fewer. Logarithms are in base 2.
"""

try:
    import triton
    import triton.language as tl
except ImportError:  # macOS and Windows have no Triton; `hierarchical.why_not` says so
    triton = None

if triton is not None:
    # What a row sees of a column that is hidden from it. Finite: a row that sees nothing stays free of NaN, and a
    # family that is made of such rows has an energy that nobody keeps attention for.
    HIDDEN = tl.constexpr(-1.0e30)

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

    @triton.jit
    def visible(row, column, LEAF: tl.constexpr, CAUSAL: tl.constexpr, SELF: tl.constexpr):
        """Who sees whom inside a family. Above the leaves nobody sees itself here: what a node keeps is its energy."""
        seen = column == column
        if CAUSAL:
            seen = seen & (column <= row)
        if not LEAF or not SELF:
            seen = seen & (column != row)
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
        gathered, kept, matrix, total, first, family, there, nodes, size,
        WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, LEVELS: tl.constexpr,
    ):  # fmt: skip
        """What a family's leaves get from outside it, (F, BLOCK_D), and the share (F,) that it has for itself.

        Level by level the rest is scaled by what a node keeps and joined by what it gathers.
        """
        outside = tl.zeros([family.shape[0], BLOCK_D], tl.float32)
        share = tl.full([family.shape[0]], 1.0, tl.float32)
        for _ in tl.static_range(LEVELS):
            row = matrix * total + first + family
            here = tl.load(kept + row, mask=there, other=0.0)
            outside = load_rows(gathered, row, there, WIDTH, WIDTH, BLOCK_D) + here[:, None] * outside
            share = share * here
            first += nodes
            nodes = tl.cdiv(nodes, size)
            family = family // size
        return outside, share

    @triton.jit
    def family_kernel(
        query, key, value, output, logsumexp, means, statistics, scale,
        nodes, size, families, span, leaves, own, parent, total, heads, matrices,
        query_batch, query_head, query_row, key_batch, key_head, key_row, value_batch, value_head, value_row,
        FAMILIES: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, LEAF: tl.constexpr,
        ROOT: tl.constexpr, CAUSAL: tl.constexpr, SELF: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """``FAMILIES`` whole families: attention inside them, their means and energies. ``SIZE`` rows a family, some of
        them empty; of a leaf the output holds what it gets inside its family, of a node what it gathers there."""
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
        count = leaves_below(node, span, leaves)
        at = matrix * leaves + node
        if not LEAF:
            at = matrix * total + own + node

        scores = tl.dot(q, k.T, input_precision=PRECISION) * scale
        if not LEAF:
            scores += tl.log2(count)[None, :]
        seen = visible(place[:, None], place[None, :], LEAF, CAUSAL, SELF) & there[None, :]
        if FAMILIES > 1:
            seen = seen & (place[:, None] // SIZE == place[None, :] // SIZE)
        scores = tl.where(seen, scores, HIDDEN)
        maximum = tl.max(scores, 1)
        inside = maximum
        if not LEAF:
            inside = tl.load(statistics + at, mask=there, other=0.0)
            maximum = tl.maximum(maximum, inside)
        weights = tl.exp2(scores - maximum[:, None])
        normaliser = tl.sum(weights, 1)
        if not LEAF:
            own_weight = tl.exp2(inside - maximum)
            normaliser += own_weight
            tl.store(statistics + matrices * total + at, own_weight / normaliser, mask=there)
        partition = maximum + tl.log2(normaliser)
        tl.store(logsumexp + at, partition, mask=there)
        attended = tl.dot(weights.to(v.dtype), v, input_precision=PRECISION) / normaliser[:, None]
        store_rows(output, attended, at, there, WIDTH, BLOCK_D)

        if not ROOT:
            family = first_family + tl.arange(0, FAMILIES)
            exists = family < families
            share = tl.where(there, count, 0.0)
            everyone = leaves_below(family, span * size, leaves)
            at = matrix * total + parent + family
            energy = tl.sum((share * partition).reshape(FAMILIES, SIZE), 1)
            tl.store(statistics + at, energy / everyone, mask=exists)
            kind = matrices * total * WIDTH
            # Zero times NaN is NaN: where a family must not see the next one, they must not meet in a product.
            ONES: tl.constexpr = LEAF and q.dtype.primitive_bitwidth == 16 and (FAMILIES == 1 or not CAUSAL)
            store_mean(
                means, q, share, first_family, families, span * size, leaves, matrix * total + parent,
                FAMILIES, SIZE, WIDTH, BLOCK_D, ONES,
            )  # fmt: skip
            store_mean(
                means + kind, k, share, first_family, families, span * size, leaves, matrix * total + parent,
                FAMILIES, SIZE, WIDTH, BLOCK_D, ONES,
            )  # fmt: skip
            store_mean(
                means + 2 * kind, v, share, first_family, families, span * size, leaves, matrix * total + parent,
                FAMILIES, SIZE, WIDTH, BLOCK_D, ONES,
            )  # fmt: skip

    @triton.jit
    def _walk(
        q, key, value, inside, row, first, last, scale, span, leaves, key_row, value_row,
        BLOCK_N: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, LEAF: tl.constexpr, CAUSAL: tl.constexpr,
        SELF: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """The online softmax of some rows of a family over its columns [first, last): (attended, partition, kept)."""
        # Above the leaves every row keeps its energy, which is where its softmax starts.
        maximum = inside
        normaliser = tl.full([row.shape[0]], 0.0 if LEAF else 1.0, tl.float32)
        accumulator = tl.zeros([row.shape[0], BLOCK_D], tl.float32)
        for start in range(first, last, BLOCK_N):
            column = start + tl.arange(0, BLOCK_N)
            there = column < last
            k = load_rows(key, column, there, key_row, WIDTH, BLOCK_D)
            scores = tl.dot(q, k.T, input_precision=PRECISION) * scale
            if not LEAF:
                scores += tl.log2(leaves_below(column, span, leaves))[None, :]
            seen = visible(row[:, None], column[None, :], LEAF, CAUSAL, SELF) & there[None, :]
            scores = tl.where(seen, scores, HIDDEN)
            new_maximum = tl.maximum(maximum, tl.max(scores, 1))
            weights = tl.exp2(scores - new_maximum[:, None])
            rescale = tl.exp2(maximum - new_maximum)
            normaliser = normaliser * rescale + tl.sum(weights, 1)
            v = load_rows(value, column, there, value_row, WIDTH, BLOCK_D)
            accumulator = tl.dot(weights.to(v.dtype), v, accumulator * rescale[:, None], input_precision=PRECISION)
            maximum = new_maximum
        kept = tl.exp2(inside - maximum) / normaliser
        return accumulator / normaliser[:, None], maximum + tl.log2(normaliser), kept

    @triton.jit
    def long_family_kernel(
        query, key, value, output, logsumexp, means, statistics, scale,
        nodes, size, families, span, leaves, own, parent, total, heads, matrices,
        query_batch, query_head, query_row, key_batch, key_head, key_row, value_batch, value_head, value_row,
        BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, LEAF: tl.constexpr,
        ROOT: tl.constexpr, CAUSAL: tl.constexpr, SELF: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """As ``family_kernel`` for families of more children than a tile. Below the root a program takes a family, tile
        after tile, so that it can sum; at the root, whose sums nobody needs, it takes a tile of rows."""
        programs = tl.cdiv(nodes, BLOCK_M) if ROOT else families
        matrix = (tl.program_id(0) // programs).to(tl.int64)
        family = tl.program_id(0) % programs
        first = 0 if ROOT else family * size
        last = nodes if ROOT else tl.minimum(first + size, nodes)
        start = family * BLOCK_M if ROOT else first
        stop = start + 1 if ROOT else last
        query += matrix_of(matrix, heads, query_batch, query_head)
        key += matrix_of(matrix, heads, key_batch, key_head)
        value += matrix_of(matrix, heads, value_batch, value_head)
        base = matrix * leaves
        if not LEAF:
            base = matrix * total + own
        energy = tl.zeros([BLOCK_M], tl.float32)
        sum_query = tl.zeros([BLOCK_D], tl.float32)
        sum_key = tl.zeros([BLOCK_D], tl.float32)
        sum_value = tl.zeros([BLOCK_D], tl.float32)
        for tile in range(start, stop, BLOCK_M):
            row = tile + tl.arange(0, BLOCK_M)
            there = row < last
            q = load_rows(query, row, there, query_row, WIDTH, BLOCK_D)
            inside = tl.full([BLOCK_M], HIDDEN, tl.float32)
            if not LEAF:
                inside = tl.load(statistics + base + row, mask=there, other=0.0)
            end = last
            if CAUSAL:
                end = tl.minimum(last, tile + BLOCK_M)
            attended, partition, kept = _walk(
                q, key, value, inside, row, first, end, scale, span, leaves, key_row, value_row,
                BLOCK_N, WIDTH, BLOCK_D, LEAF, CAUSAL, SELF, PRECISION,
            )  # fmt: skip
            store_rows(output, attended, base + row, there, WIDTH, BLOCK_D)
            tl.store(logsumexp + base + row, partition, mask=there)
            if not LEAF:
                tl.store(statistics + matrices * total + base + row, kept, mask=there)
            if not ROOT:
                share = tl.where(there, leaves_below(row, span, leaves), 0.0)
                k = load_rows(key, row, there, key_row, WIDTH, BLOCK_D)
                v = load_rows(value, row, there, value_row, WIDTH, BLOCK_D)
                energy += share * partition
                sum_query += tl.sum(q.to(tl.float32) * share[:, None], 0)
                sum_key += tl.sum(k.to(tl.float32) * share[:, None], 0)
                sum_value += tl.sum(v.to(tl.float32) * share[:, None], 0)
        if not ROOT:
            everyone = leaves_below(family, span * size, leaves)
            at = matrix * total + parent + family
            tl.store(statistics + at, tl.sum(energy, 0) / everyone)
            column = tl.arange(0, BLOCK_D)
            kind = matrices * total * WIDTH
            to = means + at * WIDTH + column
            tl.store(to, (sum_query / everyone).to(means.dtype.element_ty), mask=column < WIDTH)
            tl.store(to + kind, (sum_key / everyone).to(means.dtype.element_ty), mask=column < WIDTH)
            tl.store(to + 2 * kind, (sum_value / everyone).to(means.dtype.element_ty), mask=column < WIDTH)

    @triton.jit
    def combine_kernel(
        output, gathered, kept, leaves, size, families, total,
        FAMILIES: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, LEVELS: tl.constexpr,
    ):  # fmt: skip
        """What a leaf gets inside its family, scaled by the family's share and joined by what comes from outside."""
        tiles = tl.cdiv(size, ROWS)
        groups = tl.cdiv(families, FAMILIES)
        matrix = (tl.program_id(0) // (groups * tiles)).to(tl.int64)
        group = tl.program_id(0) % (groups * tiles) // tiles
        family = group * FAMILIES + tl.arange(0, FAMILIES)
        outside, share = from_above(
            gathered, kept, matrix, total, 0, family, family < families, families, size, WIDTH, BLOCK_D, LEVELS
        )
        member = tl.program_id(0) % tiles * ROWS + tl.arange(0, ROWS)
        leaf = family[:, None] * size + member[None, :]
        column = tl.arange(0, BLOCK_D)
        mask = ((member < size)[None, :] & (leaf < leaves))[:, :, None] & (column < WIDTH)[None, None, :]
        at = output + (matrix * leaves + leaf)[:, :, None] * WIDTH + column[None, None, :]
        local = tl.load(at, mask=mask, other=0.0).to(tl.float32)
        tl.store(at, (outside[:, None, :] + share[:, None, None] * local).to(output.dtype.element_ty), mask=mask)
