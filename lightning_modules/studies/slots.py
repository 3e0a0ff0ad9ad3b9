"""The slots of a study: what each of several members at once gets of the machine."""

import os

import torch


def slots(jobs: int) -> list[dict[str, str]]:
    """Return one environment per slot: an equal share of the GPUs, where there are any, and of the cores.

    More members than GPUs share them in turn. An ``OMP_NUM_THREADS`` that is set already is kept.

    Raises:
        ValueError: if there is less than one job, or no GPU and more jobs than cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = _gpus()
    if jobs < 1 or (not gpus and jobs > cores):
        raise ValueError(f"--jobs must lie in [1, {cores}], the cores of this machine, got {jobs}")
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // jobs))
    found = [{"OMP_NUM_THREADS": threads} for _ in range(jobs)]
    if not gpus:
        return found
    share = max(1, len(gpus) // jobs)  # a member may use several
    theirs = [[gpus[(k * share + i) % len(gpus)] for i in range(share)] for k in range(jobs)]
    return [slot | {"CUDA_VISIBLE_DEVICES": ",".join(mine)} for slot, mine in zip(found, theirs, strict=True)]


def _gpus() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES takes."""
    count = torch.cuda.device_count()  # does not create a context
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (visible.split(",") if visible else [str(k) for k in range(count)])[:count]
