"""What the paper on confidence-gated Taylor claims, how it is settled, and what is recorded for it on a GPU."""

from workbench.paper import Claim, Recording, SamplingRun

DIGITS = "PSNR of digits to the uncached sampler's from the same noise, 50 Euler steps"

CLAIMS = (
    Claim(
        name="last_block_quality",
        statement="Forecasting the last block's output alone keeps the quality of forecasting every module.",
        where="abstract; Last Block Forecast",
        reported="quality kept",
        unit="dB, last block minus all modules, order 1, mean over every 3rd, 4th and 5th step",
        how=DIGITS,
        low=-1.0,
        must_hold=("cpu", "gpu"),
    ),
    Claim(
        name="last_block_memory",
        statement="It keeps one trajectory instead of one for every module.",
        where="abstract; Last Block Forecast",
        reported="far less memory",
        unit="cache of all modules / cache of the last block, DiT of 6 blocks, equal order",
        how="cache_bytes of two sampling runs",
        low=11.99,
        high=12.01,
        must_hold=("cpu", "gpu"),
        caveat="2 L times less: 56 times for DiT-XL/2.",
    ),
    Claim(
        name="first_predicts_last",
        statement="The error of the first block's forecast tells that of the last block's.",
        where="motivation; Prediction Confidence Gating",
        reported="strongly correlated (figure)",
        unit="Spearman's rank correlation, forecast steps of a fixed schedule",
        how="forecast_errors of recorded trajectories, every 4th step computed, order 1",
        low=0.8,
        must_hold=("cpu", "gpu"),
        caveat="Part of it is trivial: both errors grow with the age of the cache.",
    ),
    Claim(
        name="threshold_alone",
        statement="The threshold alone trades speed for quality: more of it, fewer full steps, further away.",
        where="ablation of the threshold",
        reported="monotone",
        unit="pairs of neighbouring thresholds out of order, of 5",
        how=f"full steps and {DIGITS}, thresholds 0.01 to 0.2",
        high=0.0,
        must_hold=("cpu", "gpu"),
    ),
    Claim(
        name="gate_beats_schedule",
        statement="Where the trajectory has a kink, the gate beats a fixed schedule at as many full steps.",
        where="the paper's argument: predictability varies in time",
        reported="better at equal speed on FLUX and Wan Video",
        unit="dB, gate minus the fixed schedule with at least as many full steps",
        how=f"the label changes at step 26 of 50; {DIGITS} with the same change",
        low=3.0,
        must_hold=("cpu", "gpu"),
    ),
    Claim(
        name="gate_without_kink",
        statement="On an undisturbed trajectory, too, the gate beats a fixed schedule at as many full steps.",
        where="tables for DiT, FLUX and Wan Video",
        reported="better at equal speed",
        unit="dB, gate minus the fixed schedule with at least as many full steps",
        how=DIGITS,
        low=0.0,
        caveat="Not reproduced here: the digits' trajectories are so smooth that there is nothing to adapt to.",
    ),
    Claim(
        name="speed",
        statement="DiT-XL/2 samples 2.36 times faster with a negligible drop of quality.",
        where="abstract",
        reported="2.36 x on DiT, 3.17 x on FLUX, 4.14 x on Wan Video",
        unit="speed-up / (steps / full steps), DiT-XL/2 with random weights",
        how="whole sampling runs in CUDA graphs, batch 2, bfloat16",
        low=0.75,
        must_hold=("gpu",),
        caveat="The weights are random, so the threshold is set for as many full steps, not for quality.",
    ),
)

RECORDINGS = (
    Recording(
        group="first block of DiT-XL/2, order 3",
        methods=("gate_error",),
        sizes=(256, 1024, 4096),
        shape={"batch": 2, "width": 1152, "order": 3},
        directions=("forward",),
    ),
    Recording(
        group="a trajectory",
        methods=("confidence_gated_taylor", "first_block_cache"),
        sizes=(50,),
        shape={"batch": 4, "tokens": 256, "width": 1152},
        directions=("forward",),
    ),
)

SAMPLING = (
    *(SamplingRun(caching="last_block_forecast", options={"interval": interval}) for interval in (3, 5)),
    *(SamplingRun(caching="confidence_gated_taylor", options={"order_first": 3}, full=full) for full in (18, 11)),
    SamplingRun(caching="first_block_cache", full=18),
)
