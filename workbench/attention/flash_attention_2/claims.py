"""What the paper claims, and how it is settled here; the figures that it is shown with."""

from workbench.paper import Claim, Recording

CLAIMS = (
    Claim(
        name="gradients_exact",
        statement="The blockwise backward pass gives the gradients of standard attention.",
        where="Sec. 3.1, Algorithm 2",
        reported="exact",
        unit="relative error",
        how="Algorithm 2 against autograd of the direct formula, float64",
        high=1e-10,
        must_hold=("cpu", "gpu"),
    ),
    Claim(
        name="normalisations_saved",
        statement="Version 2 divides the output once; version 1 divided it after every column block.",
        where="Sec. 3.1.1",
        reported="fewer non-matmul FLOPs",
        unit="v1 divisions / v2 divisions",
        how="numbers that PyTorch divides while it runs both updates, 1024 tokens in blocks of 64: 16 column blocks",
        low=16,
        high=16,
        must_hold=("cpu", "gpu"),
    ),
    Claim(
        name="causal_blocks_visited",
        statement="With a causal mask about half of the blocks are skipped.",
        where="Sec. 3.1.1",
        reported="about 1/2",
        unit="fraction of blocks visited",
        how="blocks counted at 1024 tokens in blocks of 64; (1 + 1/16) / 2 is expected",
        low=0.53125,
        high=0.53125,
        must_hold=("cpu", "gpu"),
    ),
    Claim(
        name="memory_growth",
        statement="Memory beside input and output grows linearly with the number of tokens, not quadratically.",
        where="Sec. 2.3, Sec. 3.1",
        reported="O(N)",
        unit="exponent when tokens double",
        how="peak bytes less the output at 2048 and 4096 tokens, log2 of their ratio: of Algorithm 1 on a CPU, "
        "of the kernel on a GPU",
        low=0.5,
        high=1.1,
        must_hold=("cpu", "gpu"),
        caveat="Beside what grows there is one block of scores, whatever the length: so a little less than 1 on a CPU.",
    ),
    Claim(
        name="faster_than_standard",
        statement="Several times faster than attention that writes the score matrix.",
        where="Sec. 4.1, Fig. 4-6",
        reported="3-10 x on an A100",
        unit="x",
        how="time of the direct formula over time of fast, forward, at 2048 tokens or more",
        low=3,
        must_hold=("gpu",),
        caveat="On a CPU the gap is smaller: matrix products are slower there, so traffic matters less.",
    ),
    Claim(
        name="causal_speedup",
        statement="A causal mask makes it faster, since blocks above the diagonal are skipped.",
        where="Sec. 3.1.1",
        reported="1.7-1.8 x on an A100",
        unit="x",
        how="time of full over time of causal attention, forward, at 8192 tokens or more",
        low=1.6,
        high=2.05,
        must_hold=("gpu",),
    ),
    Claim(
        name="backward_rate",
        statement="The backward pass runs at a lower rate than the forward pass.",
        where="Sec. 4.1, Fig. 5",
        reported="about 0.7 to 0.9",
        unit="backward TFLOP/s / forward TFLOP/s",
        how="both measured on the same inputs, the paper's FLOP formula",
        high=1.0,
        must_hold=("gpu",),
    ),
    Claim(
        name="sequence_parallelism",
        statement="With few heads, parallelism over the sequence is what fills the GPU.",
        where="Sec. 3.2",
        reported="speed-up grows with sequence length",
        unit="x",
        how="one head, 16384 tokens, as CUDA graphs: 256 row blocks one after the other, as in version 1, over all at "
        "once; 256 would be all of them in the time of one",
        low=10,
        high=256,
        must_hold=("gpu",),
        caveat="Needs a GPU: a CPU with few cores is full with one head.",
    ),
    Claim(
        name="fraction_of_peak",
        statement="Reaches a large part of the matrix rate of the GPU.",
        where="Sec. 4.1",
        reported="73 % of the A100's peak",
        unit="% of the measured matrix rate",
        how="forward rate at head_dim 128 over the rate of a large matrix product on the same GPU",
        caveat="A Triton kernel on Hopper does not reach the fraction that CUDA code reached on an A100.",
    ),
)

RECORDINGS = tuple(
    Recording(
        group=f"{mask}, head_dim {head_dim}",
        methods=("flash_attention_2",),
        sizes=sizes,
        shape={"batch": 2, "heads": 2048 // head_dim, "head_dim": head_dim},
        options={"is_causal": mask == "causal"},
        implementations=implementations,
    )
    for head_dim in (64, 128)
    for mask in ("full", "causal")
    for sizes, implementations in (
        ((512, 1024, 2048, 4096, 8192, 16384), ("fast", "softmax_attention", "sdpa_flash", "sdpa_cudnn")),
        ((8192,), ("flex_attention",)),  # compiles for a while at every size
    )
)
