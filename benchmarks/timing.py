"""Helpers of the benchmarks: clocks, interleaved runs, peak memory and the name of the machine."""

import ctypes
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def machine(device: str = "cpu") -> str:
    if device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        name = f"{names[0] if names else platform.processor()}, {torch.backends.cpu.get_cpu_capability()}"
        name += f", {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"
    return f"{name}; torch {torch.__version__}, Python {platform.python_version()}"


def keep_freed_memory(size: int = 2**30) -> None:
    """Keep ``size`` bytes for tensors to reuse: page faults cost more time than an activation."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # never
        torch.ones(size, dtype=torch.uint8)


def seconds(run: Callable[[], object], device: str) -> float:
    """Time of one run; on one CPU thread the process's own time, which other work on the machine hardly changes."""
    if device == "cuda":
        torch.cuda.synchronize()
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def interleaved(runs: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, float]:
    """Median time of each in seconds. Every round runs all of them in turn; the first round is a warm-up."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for at in range(rounds + 1):
        for name, run in runs.items():
            value = seconds(run, device)
            if at:
                taken[name].append(value)
    return {name: median(values) for name, values in taken.items()}


def peak_bytes(run: Callable[[], object], device: str) -> int:
    """The most memory that one run needs in addition to the memory in use before it."""
    run()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 65536)  # freed memory goes back to the system
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _kilobytes("VmRSS")
    run()
    peak = _kilobytes("VmHWM")
    keep_freed_memory()
    return 1024 * (peak - before)


def _kilobytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
