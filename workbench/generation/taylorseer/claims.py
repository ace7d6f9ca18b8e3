"""What the paper on TaylorSeer claims, how it is settled here, and what is recorded for it on a GPU."""

from workbench.paper import Claim, Recording, SamplingRun

DIT_XL_2 = {"batch": 2, "width": 1152}

CLAIMS = (
    Claim(
        name="forecast_gain",
        statement="Forecasting beats reusing by far at the same number of network calls.",
        where="abstract; table for DiT-XL/2",
        reported="FID 2.65 at 4.53 x fewer FLOPs, 3.41 below the best cache before it",
        unit="dB, order 1 minus order 0, every 4th step computed",
        how="PSNR of digits to the uncached sampler's from the same noise, 50 Euler steps",
        low=5.0,
        must_hold=("cpu", "gpu"),
        caveat="Digits of a small trained DiT; ImageNet's FID needs the full model and its data.",
    ),
    Claim(
        name="fewer_steps",
        statement="Forecasting beats a sampler that simply takes as few steps.",
        where="the comparison that decides whether a cache is worth having",
        reported="not reported in the abstract",
        unit="dB, TaylorSeer every 5th step (11 calls, order 2) minus an 11-step sampler",
        how="PSNR of digits to the uncached sampler's from the same noise, 50 Euler steps",
        low=3.0,
        must_hold=("cpu", "gpu"),
    ),
    Claim(
        name="first_order",
        statement="Order 1 brings most of what forecasting gains over reuse.",
        where="ablation of the order",
        reported="near-lossless with order 1 on FLUX",
        unit="gain of order 1 / gain of the best order, in dB over order 0, every 4th step computed",
        how="PSNR of digits to the uncached sampler's from the same noise, 50 Euler steps, orders 1, 2 and 4",
        low=0.5,
        must_hold=("cpu", "gpu"),
    ),
    Claim(
        name="higher_orders",
        statement="Orders beyond 2 add little.",
        where="ablation of the order",
        reported="near-lossless with order 1 on FLUX",
        unit="dB, order 4 minus order 2, every 4th step computed",
        how="PSNR of digits to the uncached sampler's from the same noise, 50 Euler steps",
        low=-1.0,
        high=1.0,
        must_hold=("cpu", "gpu"),
    ),
    Claim(
        name="frechet_order",
        statement="Forecasts keep the distribution of the samples closer to the real one than reuse does.",
        where="table for DiT-XL/2",
        reported="FID 2.34 at N = 3, 2.32 uncached",
        unit="Fréchet distance of reuse / of order 1, every 10th step computed",
        how="Fréchet distance in the features of a small digit classifier, equal numbers of samples",
        low=1.1,
        must_hold=("cpu", "gpu"),
        caveat="A classifier of digits, not Inception: only the order of the two can be compared.",
    ),
    Claim(
        name="speed",
        statement="The time falls nearly as much as the number of network calls.",
        where="tables for FLUX and HunyuanVideo",
        reported="3.53 x of 4.99 x (FLUX), 4.65 x of 5.00 x (HunyuanVideo)",
        unit="speed-up / (steps / full steps), DiT-XL/2, every 3rd step computed",
        how="whole sampling runs in CUDA graphs, batch 2, bfloat16, order 1",
        low=0.9,
        must_hold=("gpu",),
        caveat="Weights are random: times do not depend on them, and nothing is said about quality.",
    ),
    Claim(
        name="accuracy_is_blind",
        statement="Whether samples are recognised as their label does not tell a good cache from a bad one.",
        where="not in the paper: why PSNR is used here",
        reported="not reported",
        unit="accuracy of reuse every 10th step minus accuracy uncached",
        how="a small digit classifier on the samples",
        low=-0.05,
        high=0.05,
        must_hold=("cpu", "gpu"),
    ),
    Claim(
        name="fid",
        statement="FID on ImageNet 256 x 256 stays at 2.34 with 2.77 times fewer FLOPs.",
        where="table for DiT-XL/2",
        reported="2.34 (2.32 uncached)",
        unit="FID",
        how="not measured",
        caveat="Needs DiT-XL/2's trained weights and ImageNet.",
    ),
)

RECORDINGS = (
    Recording(
        group="all modules of DiT-XL/2, order 4",
        methods=("forecast_modules",),
        sizes=(256, 1024),
        shape={**DIT_XL_2, "modules": 56, "order": 4},
        directions=("forward",),
    ),
    Recording(
        group="all modules of DiT-XL/2, order 1",
        methods=("forecast_modules",),
        sizes=(256, 1024),
        shape={**DIT_XL_2, "modules": 56, "order": 1},
        directions=("forward",),
    ),
    Recording(
        group="one module of DiT-XL/2, order 4",
        methods=("refresh_derivatives",),
        sizes=(256, 1024, 4096),
        shape={**DIT_XL_2, "order": 4},
        directions=("forward",),
    ),
    Recording(
        group="a trajectory, order 2",
        methods=("taylorseer", "feature_reuse"),
        sizes=(50,),
        shape={"batch": 8, "tokens": 256, "width": 1152},
        directions=("forward",),
    ),
)

SAMPLING = (
    *(SamplingRun(caching="feature_reuse", options={"interval": interval, "first_full": 2}) for interval in (3, 5)),
    *(
        SamplingRun(caching="taylorseer", options={"interval": interval, "order": order})
        for interval, order in ((3, 1), (4, 1), (5, 1), (6, 1), (3, 3), (5, 4))
    ),
)
