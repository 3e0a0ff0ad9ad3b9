"""Time and memory of an attack step through ``Fused(net)``, compared with ``net`` itself.

    python benchmarks/fused.py
    python benchmarks/fused.py --batch 8 --threads 2
    python benchmarks/fused.py --batch 4 --rounds 1 --networks "KafVGG, ReLU"  # takes seconds

A step computes logits and the gradient of the cross-entropy with respect to the images; a query computes logits alone.
Networks are untrained, in evaluation mode: the times do not depend on the weights. Memory is the most that a step needs
in addition to the memory in use before it.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from timing import interleaved, keep_freed_memory, machine, peak_bytes
from torch import Tensor, nn

from kafnets.activations import KAF, KWTA, ReLU, SiLU
from kafnets.backbones import KafResNet, KafVGG, PreActResNet18
from kafnets.fused import Fused

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "KafResNet20, ReLU": partial(KafResNet, activation=ReLU),
    "KafResNet20, KAF": partial(KafResNet, activation=KAF),
    "KafVGG, ReLU": partial(KafVGG, activation=ReLU),
    "KafVGG, SiLU": partial(KafVGG, activation=SiLU),
    "KafVGG, KAF": partial(KafVGG, activation=KAF),
    "KafVGG, k-WTA": partial(KafVGG, activation=KWTA),
    "PreActResNet18, ReLU": partial(PreActResNet18, activation=ReLU),
}


def step(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_(True)
    return torch.autograd.grad(F.cross_entropy(net(x), y, reduction="sum"), x)[0]


@torch.no_grad()
def query(net: nn.Module, x: Tensor) -> Tensor:
    return net(x)


def row(name: str, net: nn.Module, options: argparse.Namespace) -> str:
    x, y = torch.rand(options.batch, 3, 32, 32), torch.randint(10, (options.batch,))
    forms = {"plain": net, "fused": Fused(net)}
    cells = [name]
    for work in (lambda form: step(form, x, y), lambda form: query(form, x)):
        runs = {which: partial(work, form) for which, form in forms.items()}
        taken = {which: 1e3 * value / len(x) for which, value in interleaved(runs, options.rounds, "cpu").items()}
        ratio = taken["plain"] / taken["fused"]
        cells.append(f"{taken['plain']:.2f} -> {taken['fused']:.2f} (x {ratio:.2f})")
    peaks = [peak_bytes(partial(step, form, x, y), "cpu") / len(x) / 2**20 for form in forms.values()]
    return f"| {' | '.join([*cells, f'{peaks[0]:.2f} -> {peaks[1]:.2f}'])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    print(f"{machine()}, batch {options.batch}\n")
    print("| network | attack step, ms per image | query, ms per image | memory of a step, MB per image |")
    print("|---" * 4 + "|")
    for name in options.networks:
        print(row(name, NETWORKS[name]().eval(), options), flush=True)


if __name__ == "__main__":
    main()
