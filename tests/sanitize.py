"""Every kernel under NVIDIA's compute-sanitizer: ``python -m tests.sanitize`` (or ``make sanitize``), on a CUDA device.

memcheck looks for reads and writes outside of what was allocated, racecheck for threads that meet in shared memory
without a barrier between them: a matrix product of eight warps may still read the tile that the next step overwrites.
Small cases of the kernels' own tests run, and a kernel that none of them launched is a failure, too.

    python -m tests.sanitize                      both tools, about five minutes
    python -m tests.sanitize racecheck -k sinkhorn   one tool, and pytest's own options
"""

import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOLS = ("memcheck", "racecheck")
FOUND = 99  # the sanitizer's exit code when it found something

# Test functions of tests/kernels, or single cases where the others are large or many.
CASES = {
    "test_activations": (
        "test_layouts",
        "test_poly_norm_shapes_of_a_program",
        "test_poly_norm_reads_long_rows_twice[3]",
        "test_relu_squared",
        "test_sum_of_many_partials",
    ),
    "test_gated_norm": ("test_layouts", "test_more_programs_than_a_tile_of_sums"),
    "test_layer_norm": ("test_layouts",),
    "test_circuit": ("test_the_same_bits_twice", "test_kernel[3-8-3-True-10]"),
    "test_orthogonal": ("test_kernel", "test_a_part_of_a_larger_tensor"),
    "test_flash_attention": (
        "test_any_strides",
        "test_values_and_gradients[several tiles, odd-float16-deterministic]",
        "test_values_and_gradients[several tiles, odd-bfloat16-atomic]",
        "test_values_and_gradients[window-float32-deterministic]",
        "test_values_and_gradients[grouped heads-bfloat16-atomic]",
        "test_values_and_gradients[wide head-float16-deterministic]",
        "test_eight_warps",
    ),
    "test_split_keys": ("test_any_strides", "test_how_the_keys_are_split_changes_rounding_only"),
    "test_hierarchical": ("test_any_strides", "test_families_longer_than_a_tile", "test_kernels"),
    "test_sinkhorn": (
        "test_any_strides",
        "test_many_half_steps",
        "test_float32_is_split_into_two_parts",
        "test_values_and_gradients[registers-wide head-float16-1]",
        "test_values_and_gradients[streaming-several tiles, odd-bfloat16-5]",
        "test_values_and_gradients[streaming-several tiles, odd-float32-5]",
    ),
    "test_forecast": (
        "test_forecast_modules_takes_views",
        "test_refresh_of_one_module_leaves_the_others_alone",
        "test_add_gated",
        "test_error_sums",
    ),
    "test_forecast_ahead": ("test_the_same_input_gives_the_same_bits", "test_a_rate_of_zero_begins_a_stack"),
    "test_forecast_step": ("test_update_images", "test_embed_patches[added-guided-large patches-float32]"),
    "test_forecast_trajectory": ("test_seen", "test_gate"),
}


def nodes() -> list[str]:
    """The cases as pytest names them, seen from the root."""
    return [f"tests/kernels/{file}.py::{case}" for file, cases in CASES.items() for case in cases]


def main(arguments: Sequence[str]) -> int:
    """0 when nothing was found, 1 when something was or a test failed, 2 when this machine cannot do it."""
    tools = [name for name in TOOLS if name in arguments] or list(TOOLS)
    options = [word for word in arguments if word not in TOOLS]
    if reason := why_not():
        print(reason, file=sys.stderr)
        return 2
    status = 0
    for tool in tools:
        print(f"{tool}:", flush=True)
        # Without PyTorch's pool every tensor is an allocation of its own, with its own end.
        environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        command = [sanitizer(), "--tool", tool, "--error-exitcode", str(FOUND), "--print-limit", "20"]
        command += [sys.executable, "-m", "tests.sanitize", "--cases", *options]
        ended = subprocess.run(command, cwd=ROOT, env=environment)
        said = {0: "nothing found", FOUND: "something found, see above"}
        print(f"{tool}: {said.get(ended.returncode, 'a test failed, or a kernel was not launched, see above')}\n")
        status |= ended.returncode != 0
    return status


def why_not() -> str:
    """Why the sanitizer cannot run here, in a sentence; empty: it can."""
    import torch

    if not torch.cuda.is_available():
        return "compute-sanitizer watches a GPU, and there is no CUDA device here."
    if not sanitizer():
        return "compute-sanitizer is not on the PATH: it comes with NVIDIA's CUDA toolkit."
    return ""


def sanitizer() -> str | None:
    """Where the program is, if anywhere."""
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=str(toolkit / "bin"))


def run_cases(options: Sequence[str]) -> int:
    """What runs under the sanitizer: the tests, and then a look at what they launched."""
    import pytest

    status = pytest.main(["-q", "-p", "no:cacheprovider", "-o", "timeout=0", *options, *nodes()])
    missing = [] if options else not_launched()
    if missing:
        print(f"No case launches {', '.join(missing)}: add one to {Path(__file__).name}.")
    return int(status) or bool(missing)


def not_launched() -> list[str]:
    """The kernels of ``workbench_kernels`` that have not been launched in this process."""
    import workbench_kernels
    from workbench_kernels.launch import Prepared

    kernels: dict[str, Prepared] = {}
    for module in pkgutil.walk_packages(workbench_kernels.__path__, "workbench_kernels."):
        found = vars(importlib.import_module(module.name)).items()
        kernels |= {f"{module.name}.{name}": value for name, value in found if isinstance(value, Prepared)}
    launched = {id(kernel) for kernel in kernels.values() if kernel.forms}
    return sorted(name for name, kernel in kernels.items() if id(kernel) not in launched)


if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(run_cases(words[1:]) if words[:1] == ["--cases"] else main(words))
