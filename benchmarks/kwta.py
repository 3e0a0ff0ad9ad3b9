"""Time of k-WTA, forward and backward, by every implementation and by the authors' code, compared with SiLU.

    python benchmarks/kwta.py                       # one thread, (128, 32, 32, 32) float32
    python benchmarks/kwta.py --threads 2 --dtype bfloat16
    python benchmarks/kwta.py --device cuda

On a CPU, times are processor time (of all threads together), on a GPU they are measured by its events. The functions
take turns, so that other load on the machine affects all of them; the first turns, which compile and allocate memory,
are not measured.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from statistics import median
from typing import Any

import torch
from timing import keep_freed_memory, machine
from torch import Tensor
from torch.nn.functional import silu

from kafnets.functional import winner_count
from kafnets.ops.kwta import Compiled, Eager, Native, SelectionPath, kwta_along

Function = Callable[[Tensor], Tensor]
WARM_UP = 3
PATHS: dict[str, SelectionPath] = {"unsorted topk (eager)": Eager(), "compiled": Compiled(), "native": Native()}


def authors(x: Tensor, ratio: float) -> Tensor:
    """As in the authors' code (github.com/a554b554/kWTA-Activation): a sorted topk, then a product with a mask."""
    rows = x.reshape(len(x), -1)
    smallest = rows.topk(winner_count(ratio, rows.shape[1]), dim=1).values[:, -1]
    return (x >= smallest.view(-1, *[1] * (x.dim() - 1))).to(x) * x


def functions_on(device: torch.device, ratio: float) -> Iterator[tuple[str, Function]]:
    """SiLU, the authors' code and every implementation that works on the device."""
    yield "SiLU", silu
    yield "authors' sorted topk", partial(authors, ratio=ratio)
    for name, path in PATHS.items():
        if name == "native" and device.type != "cpu":
            continue
        function: Function = partial(kwta_along, path, ratio=ratio)
        try:
            function(torch.zeros(1, 2, device=device))
        except Exception as error:  # a missing or broken compiler raises many types
            print(f"{name} is not available: {error}")
        else:
            yield name, function


def timed(function: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """The result of a function, and its time in seconds."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        result = function()
        end.record()
        torch.cuda.synchronize(device)
        return result, start.elapsed_time(end) / 1e3
    before = time.process_time()
    result = function()
    return result, time.process_time() - before


def saved_bytes(function: Function, x: Tensor) -> float:
    """Bytes per value that are saved for backward."""
    sizes: dict[int, int] = {}

    def note(t: Tensor) -> Tensor:
        sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    hooks: AbstractContextManager[None] = torch.autograd.graph.saved_tensors_hooks(note, lambda t: t)
    with hooks:
        function(x)
    return sum(sizes.values()) / x.numel()


def measure(functions: dict[str, Function], x: Tensor, cotangent: Tensor, turns: int) -> dict[str, list[list[float]]]:
    """The times of all turns in seconds, forward and backward."""
    times: dict[str, list[list[float]]] = {name: [[], []] for name in functions}
    for turn in range(WARM_UP + turns):
        for name, function in functions.items():
            y, forward = timed(partial(function, x), x.device)
            _, backward = timed(partial(torch.autograd.grad, y, x, cotangent), x.device)
            if turn >= WARM_UP:
                times[name][0].append(forward)
                times[name][1].append(backward)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs="+", default=[128, 32, 32, 32])
    parser.add_argument("--dtype", choices=["float32", "float64", "bfloat16", "float16"], default="float32")
    parser.add_argument("--ratio", type=float, default=0.2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    dtype = getattr(torch, options.dtype)
    x = torch.randn(options.shape).to(options.device, dtype).requires_grad_()
    functions = dict(functions_on(options.device, options.ratio))
    times = measure(functions, x, torch.randn_like(x), options.turns)
    print(f"{machine(options.device.type)}\n{tuple(options.shape)} {options.dtype}, ratio {options.ratio}, ", end="")
    print(f"medians of {options.turns} turns\n")
    print("| | forward ms | backward ms | both | times SiLU (median, worst) | saved for backward, bytes per value |")
    print("|---" * 6 + "|")
    turns = {name: [sum(pair) for pair in zip(*t, strict=True)] for name, t in times.items()}
    for name, (forward, backward) in times.items():
        ratios = [a / b for a, b in zip(turns[name], turns["SiLU"], strict=True)]
        cells = [f"{1e3 * median(seconds):.2f}" for seconds in (forward, backward, turns[name])]
        cells += [f"{median(ratios):.2f}, {max(ratios):.2f}", f"{saved_bytes(functions[name], x):.3g}"]
        print("| " + " | ".join([name, *cells]) + " |")


if __name__ == "__main__":
    main()
