"""Time and memory of a KAF with each kernel, compared with SiLU, ReLU and the plain formula; also of whole networks.

python benchmarks/kaf.py                             # one CPU thread
python benchmarks/kaf.py --threads 2 --networks
python benchmarks/kaf.py --device cuda --networks    # also --dtype bfloat16
python benchmarks/kaf.py --figure docs/pictures/kaf_cost.png
"""

import argparse
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from timing import interleaved, keep_freed_memory, machine, peak_bytes
from torch import Tensor

from kafnets import functional, ops
from kafnets.activations import KAF, Activation, ReLU, kernels
from kafnets.activations.kernels import Kernel
from kafnets.backbones import Backbone, KafResNet, KafVGG

Function = Callable[[Tensor], Tensor]
SHAPE = (128, 32, 32, 32)
KERNELS = (
    kernels.Laplacian(),
    kernels.Matern32(),
    kernels.Matern52(),
    kernels.RationalQuadratic(),
    kernels.RationalQuadratic(2.5),
    kernels.Periodic(),
    kernels.TriangularKernel(),
)


class Kaf:
    """A KAF, computed by an engine or by the plain formula with ``(..., D)`` tensors."""

    def __init__(
        self, size: int, channels: int, device: str, *, kernel: Kernel | None = None, free: bool = False
    ) -> None:
        layer = KAF(channels, num_dict=size, kernel=kernel, free=free).to(device)
        self.kernel, self.alpha, self.grid = layer.kernel, layer.alpha, layer.grid
        self.small = layer.dictionary, layer.bandwidth

    def by(self, engine: str) -> Function:
        def function(x: Tensor) -> Tensor:
            with ops.force(engine):
                return self.kernel.expand(x, self.alpha, *self.small, self.grid)

        return function

    def literally(self, x: Tensor) -> Tensor:
        dictionary, bandwidth = self.small
        return functional.kaf(x.float(), self.alpha, dictionary, bandwidth).to(x.dtype)


def training(function: Function, x: Tensor, v: Tensor, engine: str | None) -> Callable[[], object]:
    """Forward and backward with respect to the input and the parameters."""

    def run() -> None:
        with ops.force(engine) if engine else nullcontext():
            function(x).backward(v)
        x.grad = None

    return run


def attack(function: Function, x: Tensor, v: Tensor, engine: str | None) -> Callable[[], object]:
    """Forward and backward with respect to the input only."""

    def run() -> None:
        with ops.force(engine) if engine else nullcontext():
            torch.autograd.grad(function(x), x, v)

    return run


def penalty(function: Function, x: Tensor, v: Tensor, engine: str | None) -> Callable[[], object]:
    """A gradient penalty: forward, backward, and backward through the backward pass."""

    def run() -> None:
        with ops.force(engine) if engine else nullcontext():
            (slope,) = torch.autograd.grad(function(x), x, v, create_graph=True)
            slope.backward(v)
        x.grad = None

    return run


def candidates(
    size: int, device: str, engines: list[str], others: Sequence[Kernel] = ()
) -> dict[str, tuple[Function, str | None]]:
    kaf, free = (Kaf(size, SHAPE[1], device, free=free) for free in (False, True))
    found: dict[str, tuple[Function, str | None]] = {
        "SiLU": (torch.nn.functional.silu, None),
        "ReLU": (torch.nn.functional.relu, None),
    }
    found |= {f"KAF, {engine}": (kaf.by(engine), engine) for engine in engines}
    found[f"KAF, free, {engines[0]}"] = (free.by(engines[0]), engines[0])
    for kernel in others:
        other = Kaf(size, SHAPE[1], device, kernel=kernel)
        found[f"KAF, {kernel!r}, {engines[0]}"] = (other.by(engines[0]), engines[0])
    found["KAF, broadcast formula"] = (kaf.literally, None)
    return found


def available(device: str, wanted: list[str]) -> list[str]:
    found = []
    for name in wanted:
        try:
            with ops.force(name):
                ops.engine_for(torch.device(device))
            found.append(name)
        except ValueError as reason:
            print(f"(left out: {reason})")
    return found


def inputs(device: str, dtype: torch.dtype, shape: tuple[int, ...] = SHAPE) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(shape, device=device).to(dtype).requires_grad_()
    return x, torch.randn(shape, device=device).to(dtype)


def table(options: argparse.Namespace, engines: list[str]) -> None:
    print(f"\n(128, 32, 32, 32) {options.dtype}, D = 20; milliseconds (times SiLU); memory in tensors of that size\n")
    print("| activation | forward + backward | attack step | gradient penalty | peak memory |")
    print("|---|---|---|---|---|")
    x, v = inputs(options.device, getattr(torch, options.dtype))
    found = candidates(20, options.device, engines, KERNELS)
    columns = []
    for kind in (training, attack, penalty):
        runs = {name: kind(function, x, v, engine) for name, (function, engine) in found.items()}
        columns.append(interleaved(runs, options.rounds, options.device))
    for name, (function, engine) in found.items():
        cells = [f"{1e3 * column[name]:.1f} (x {column[name] / column['SiLU']:.1f})" for column in columns]
        peak = peak_bytes(training(function, x, v, engine), options.device)
        print(f"| {name} | {' | '.join(cells)} | {peak / x.numel() / x.element_size():.1f} |", flush=True)


def step(net: Backbone, images: Tensor, labels: Tensor) -> Callable[[], object]:
    def run() -> None:
        net.zero_grad()
        torch.nn.functional.cross_entropy(net(images), labels).backward()

    return run


def networks(options: argparse.Namespace, engines: list[str]) -> None:
    def forced(run: Callable[[], object], engine: str) -> Callable[[], object]:
        def inside() -> None:
            with ops.force(engine):
                run()

        return inside

    size = options.batch_size
    images, labels = (
        torch.rand(size, 3, 32, 32, device=options.device),
        torch.randint(10, (size,), device=options.device),
    )
    print(f"\nTraining step of a network, batch {size}: milliseconds (times the same network with ReLU)\n")
    print("| network | " + " | ".join(["ReLU", *(f"KAF, {engine}" for engine in engines)]) + " |")
    print("|---|" + "---|" * (1 + len(engines)))
    builders: dict[str, Callable[[Callable[[int], Activation]], Backbone]] = {
        "KafVGG": lambda activation: KafVGG(activation=activation),
        "KafResNet20": lambda activation: KafResNet(depth=20, activation=activation),
    }
    for name, build in builders.items():
        twin, kaf = (build(activation).to(options.device) for activation in (ReLU, KAF))
        runs = {"ReLU": step(twin, images, labels)}
        runs |= {engine: forced(step(kaf, images, labels), engine) for engine in engines}
        taken = interleaved(runs, max(3, options.rounds // 3), options.device)
        cells = [f"{1e3 * value:.0f} (x {value / taken['ReLU']:.2f})" for value in taken.values()]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def figure(options: argparse.Namespace, engines: list[str]) -> None:
    """Time and memory against D."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sizes = [2, 4, 8, 12, 16, 20, 24, 32, 40, 48, 64]
    x, v = inputs(options.device, getattr(torch, options.dtype), (32, 32, 32, 32))
    times: dict[str, list[float]] = {}
    memory: dict[str, list[float]] = {}
    for size in sizes:
        found = candidates(size, options.device, engines)
        runs = {name: training(function, x, v, engine) for name, (function, engine) in found.items()}
        taken = interleaved(runs, options.rounds, options.device)
        for name, (function, engine) in found.items():
            times.setdefault(name, []).append(taken[name] / taken["SiLU"])
            peak = peak_bytes(training(function, x, v, engine), options.device)
            memory.setdefault(name, []).append(peak / x.numel() / x.element_size())
        print(size, {name: f"x {values[-1]:.1f}, {memory[name][-1]:.1f}" for name, values in times.items()}, flush=True)
    drawing, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    titles = ("forward + backward, times SiLU", "peak memory, tensors of the input's size")
    for axis, title, values in zip(axes, titles, (times, memory), strict=True):
        for name, line in values.items():
            axis.plot(sizes, line, marker=".", label=name, color="0.6" if name in ("SiLU", "ReLU") else None)
        axis.set(title=title, xlabel="dictionary size D", yscale="log", xlim=(0, 66))
        axis.grid(alpha=0.3, which="both")
    axes[1].legend(fontsize="small", loc="center right")
    drawing.suptitle(machine(options.device), fontsize="small")
    drawing.savefig(options.figure, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--engines", nargs="+", help="default: those available on the device")
    parser.add_argument("--networks", action="store_true", help="time whole networks too")
    parser.add_argument("--only_networks", action="store_true")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--figure", type=Path, help="draw time and memory against D into this file instead")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    wanted = options.engines or ["native" if options.device == "cpu" else "triton", "eager"]
    engines = available(options.device, wanted)
    print(machine(options.device))
    if options.figure:
        return figure(options, engines)
    if not options.only_networks:
        table(options, engines)
    if options.networks or options.only_networks:
        networks(options, engines)


if __name__ == "__main__":
    main()
