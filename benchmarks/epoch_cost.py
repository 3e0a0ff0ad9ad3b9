"""Seconds per epoch of CIFAR-10 by network, activation and objective, and how the three multiply.

    python benchmarks/epoch_cost.py --threads 1 --nets KafVGG KafResNet20 --out epoch_cost.json
    python benchmarks/epoch_cost.py --device cuda --nets PreActResNet18

Times training steps on a batch of 128 random images, in bfloat16 autocast and channels_last as ``cpu_bf16.yaml`` and
``gpu.yaml`` do; the objectives of one network and activation take turns, and the figures are medians over the rounds,
for an epoch of 45,000 images. Loader, augmentation and callbacks are not included: see ``between steps`` in
``training.py``. An objective with several steps per batch (``Free``) counts all of them. On one thread the clock is
that of the process, which other work on the machine hardly changes.
"""

import argparse
import json
import os
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
from timing import interleaved, keep_freed_memory, machine
from torch import Tensor, nn

from kafnets.activations import KAF, Activation, ReLU, Ridge, SiLU
from kafnets.attacks import PGD
from kafnets.backbones import Backbone, KafResNet, KafVGG, PreActResNet18
from kafnets.keyed_random import image_keys
from kafnets.objectives import AWP, ELLE, MART, NFGSM, TRADES, Adversarial, Batch, Clean, Free, GradAlign, Objective
from kafnets.threat import ThreatModel

EPOCH, BATCH = 45_000, 128


def elu_kaf(channels: int) -> Activation:
    """The KAF of ``kafvgg_elu.yaml``."""
    return KAF(channels, init=Ridge(nn.functional.elu))


NETS: dict[str, Callable[[Callable[[int], Activation]], Backbone]] = {
    "KafVGG": lambda activation: KafVGG(activation=activation, head_norm=True),
    "KafResNet20": lambda activation: KafResNet(depth=20, activation=activation),
    "PreActResNet18": lambda activation: PreActResNet18(activation=activation),
}
ACTIVATIONS: dict[str, Callable[[int], Activation]] = {"ReLU": ReLU, "SiLU": SiLU, "KAF": elu_kaf}
OBJECTIVES: dict[str, Objective] = {
    "standard": Clean(),
    "fast_at": Adversarial(),
    "n_fgsm": NFGSM(),
    "free_at": Free(),
    "grad_align": GradAlign(),
    "elle": ELLE(),
    "pgd_at": Adversarial(attack=PGD(steps=7)),
    "trades": TRADES(),
    "mart": MART(),
    "awp": AWP(objective=Adversarial(attack=PGD(steps=7))),
}


def training_step(net: Backbone, objective: Objective, x: Tensor, y: Tensor) -> Callable[[], None]:
    """All that ``fit`` does with one batch."""
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)

    def run() -> None:
        for replay in range(objective.replays):
            batch = Batch(x, y, image_keys(torch.arange(len(x), device=x.device), replay), 0.5, ThreatModel())
            optimizer.zero_grad()
            with torch.autocast(x.device.type, torch.bfloat16):
                terms = objective(net, batch)
            terms.loss.backward()
            objective.after_backward(batch, terms)
            optimizer.step()

    return run


def table(net: str, seconds: dict[str, dict[str, float]]) -> str:
    """Seconds per epoch, and in brackets the multiple of FGSM training with ReLU."""
    unit = seconds["ReLU"]["fast_at"]
    lines = [f"| {net} | {' | '.join(seconds)} |", "|---" * (1 + len(seconds)) + "|"]
    for name in OBJECTIVES:
        cells = [f"{row[name]:.0f} s ({row[name] / unit:.1f})" for row in seconds.values()]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=["KafVGG", "KafResNet20"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.device == "cpu":
        keep_freed_memory()
    torch.manual_seed(0)
    x = torch.rand(BATCH, 3, 32, 32, device=options.device)
    y = torch.randint(10, (BATCH,), device=options.device)
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in options.nets}
    for net_name, activation in product(options.nets, ACTIVATIONS):
        net = NETS[net_name](ACTIVATIONS[activation]).to(options.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        steps = {name: training_step(net, objective, x, y) for name, objective in OBJECTIVES.items()}
        taken = interleaved(steps, options.rounds, options.device)
        found[net_name][activation] = {name: value * EPOCH / BATCH for name, value in taken.items()}
        print(f"{net_name}, {activation}: measured", flush=True)
    print(machine(options.device))
    print("\n\n".join(table(name, seconds) for name, seconds in found.items()))
    if options.out:
        record = {"machine": machine(options.device), "images": EPOCH, "batch_size": BATCH, "seconds_per_epoch": found}
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
