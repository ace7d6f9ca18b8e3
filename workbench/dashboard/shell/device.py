"""The device on which this server computes, and what it is called."""

import functools
import os


@functools.cache
def device() -> str:
    """The device on which this server computes."""
    from workbench.measure import pick_device

    return pick_device("auto")


@functools.cache
def device_words() -> str:
    import torch

    if device() == "cuda":
        return torch.cuda.get_device_name()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"CPU, {cores} cores"
