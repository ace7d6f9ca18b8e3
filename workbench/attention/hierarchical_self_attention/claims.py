"""What the paper claims and how it is settled here, and what is recorded on a GPU."""

from workbench.paper import Claim, Recording

CLAIMS = (
    Claim(
        name="optimality",
        statement="Among all attention maps with the tree's ties, this one is closest to softmax attention.",
        where="Theorem 3.2",
        reported="exact minimiser",
        unit="largest difference of a weight",
        how="against direct constrained minimisation of the sum of KL divergences, 11 tokens, float64",
        high=1e-7,
        must_hold=("cpu", "gpu"),
    ),
    Claim(
        name="flat_is_softmax",
        statement="On a tree of one level it is softmax attention.",
        where="Sec. 3.3",
        reported="exact",
        unit="relative error of the output",
        how="reference on a flat tree against softmax attention, float64",
        high=1e-12,
        must_hold=("cpu", "gpu"),
    ),
    Claim(
        name="cost_exponent",
        statement="With families of a fixed size the cost grows linearly with the number of tokens, not quadratically.",
        where="Sec. 3.4",
        reported="O(M b^2), M families of b children",
        unit="exponent of the operations when tokens grow",
        how="operations that PyTorch's counter sees while fast runs on the tree, from 4096 to 65536 tokens in families "
        "of 16 and as many levels as it takes; slope in log-log",
        low=0.95,
        high=1.05,
        must_hold=("cpu", "gpu"),
    ),
    Claim(
        name="time_exponent",
        statement="Where its work dominates, the time of two levels with the best group size grows like N^(4/3).",
        where="Sec. 3.4, our choice of group size",
        reported="O(M b^2), so N^(4/3) with families of (2 N)^(1/3)",
        unit="exponent of the measured time when tokens grow",
        how="time of fast, one head of 64, at lengths whose best group is a power of two: from 1M to 64M tokens on a "
        "GPU, as a CUDA graph, from 16k to 128k on a CPU; slope in log-log",
        low=1.2,
        high=1.45,
        caveat="At shorter lengths launches dominate, then the bytes that must move: those grow like N. On a CPU the "
        "weights of all families stand in memory, and leave its caches as the sequence grows.",
    ),
    Claim(
        name="faster_than_softmax",
        statement="From a few thousand tokens on it is faster than the fastest exact softmax attention.",
        where="Sec. 3.4",
        reported="98 % fewer FLOPs on IMDB",
        unit="x, the least",
        how="time of the fastest softmax attention over time of fast, forward, at every length of the lesson from 4096 "
        "tokens on",
        low=1.0,
        must_hold=("gpu",),
        caveat="On a CPU the lengths are short; the crossover lies where the lesson's curves meet.",
    ),
    Claim(
        name="later_layers_are_safer",
        statement="In a trained model swapping a later layer for hierarchical attention costs less than an early one.",
        where="Sec. 4.3, RoBERTa layers 7, 9, 11",
        reported="IMDB 0.9558 to 0.9494, SST-2 0.9403 to 0.9025",
        unit="cosine lost in layers 1 to 3 / cosine lost in layers 4 to 6",
        how="packaged MiniLM, one layer swapped at a time, tree of words and clauses; mean loss of sentence cosine",
        low=1.0,
        caveat="Another model, and sentence vectors, which nothing after the last layer can repair, in place of the "
        "paper's classification tasks.",
    ),
    Claim(
        name="trained_from_scratch",
        statement="Trained from scratch on nested data it is at least as good as softmax attention.",
        where="Sec. 4.1",
        reported="IMDB 0.6739 to 0.7469, Elec 0.7182 to 0.7549",
        unit="accuracy, hierarchical - softmax",
        how="digits as 16 patches in groups of 4, small ViT, mean over seeds",
        low=0.0,
        caveat="Small images and a few hundred steps; seeds differ by a point or two. The paper's data sets are not "
        "shipped.",
    ),
)

_LENGTHS = (1024, 2048, 4096, 8192, 16384, 65536, 262144)
_SHAPE = {"batch": 1, "heads": 16, "head_dim": 64}

RECORDINGS = (
    Recording(
        group="groups of 64, three levels",
        methods=("hierarchical_attention",),
        sizes=_LENGTHS,
        shape=_SHAPE,
        options={"block": 64, "levels": 3},
        implementations=("fast", "batched_products"),
    ),
    Recording(
        group="groups of 32, two levels",
        methods=("hierarchical_attention",),
        sizes=_LENGTHS,
        shape=_SHAPE,
        options={"block": 32, "levels": 2},
        implementations=("fast",),
    ),
    Recording(
        group="softmax attention, to compare with",
        methods=("flash_attention_2",),
        sizes=_LENGTHS[:-1],
        shape=_SHAPE,
        implementations=("fast", "sdpa_flash", "sdpa_cudnn"),
    ),
    *(
        Recording(
            group=group,
            methods=(method,),
            sizes=(512, 1024, 2048, 4096, 8192, 16384),
            shape=_SHAPE,
            options=options,
            implementations=implementations,
            directions=("forward",),
            replayed=True,
        )
        for group, method, options, implementations in (
            ("groups of 64, three levels, as a graph", "hierarchical_attention", {"block": 64, "levels": 3}, ("fast",)),
            ("softmax attention, as a graph", "flash_attention_2", {}, ("fast", "sdpa_flash", "sdpa_cudnn")),
        )
    ),
    Recording(
        group="the equations, family by family",
        methods=("hierarchical_attention",),
        sizes=(1024, 16384),
        shape=_SHAPE,
        options={"block": 64, "levels": 3},
        implementations=("reference", "fast"),
    ),
)
