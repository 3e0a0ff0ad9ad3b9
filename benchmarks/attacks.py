"""Time of PGD-50-10 and AutoAttack here and in other libraries, on the same network and images.

    python benchmarks/attacks.py --weights relu.npz --data cifar10-jpeg.tar.gz --images 50
    python benchmarks/attacks.py --checkpoint runs/.../best.ckpt --data ... --device cuda --images 1000
    python benchmarks/attacks.py ... --attacks pgd --rivals art

The tables also show robust accuracies (worst case per image, measured by this script). The implementations take turns
in every round; before that, each attacks a few images as a warm-up. ``pip install torchattacks
adversarial-robustness-toolbox`` and ``pip install git+https://github.com/fra31/auto-attack`` install the other
libraries; missing ones are named and left out.
"""

import argparse
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import torch
from timing import keep_freed_memory, machine, seconds
from torch import Tensor, nn

from datamodules.image_files import WantedFormat, read_images
from kafnets.attacks import PGD, Attack, AutoAttack
from kafnets.backbones import load_thesis
from kafnets.fused import Fused
from kafnets.keyed_random import image_keys
from kafnets.logits import is_correct
from lightning_modules.load_classifier import load_classifier

EPS, STEP, STEPS, RESTARTS = 8 / 255, 2 / 255, 50, 10
Rival = Callable[[nn.Module, Tensor, Tensor], Tensor]


def ours(net: nn.Module, x: Tensor, y: Tensor, *, attack: Attack, batch: int) -> Tensor:
    """Attack the fused form of the network, as evaluations here do."""
    return plain(Fused(net), x, y, attack=attack, batch=batch)


def plain(net: nn.Module, x: Tensor, y: Tensor, *, attack: Attack, batch: int) -> Tensor:
    keys = image_keys(torch.arange(len(x), device=x.device), 0)
    parts = zip(x.split(batch), y.split(batch), keys.split(batch), strict=True)
    return torch.cat([attack(net, images, labels, keys=some) for images, labels, some in parts])


def compiled(net: nn.Module, x: Tensor, y: Tensor, *, attack: Attack, batch: int) -> Tensor:
    return plain(torch.compile(net, dynamic=True), x, y, attack=attack, batch=batch)  # compiled once, by the warm-up


def torchattacks_pgd(net: nn.Module, x: Tensor, y: Tensor, *, batch: int) -> Tensor:
    """Restarts as in its documentation: each attacks the images that are still classified correctly."""
    import torchattacks

    starts = [torchattacks.PGD(net, eps=EPS, alpha=STEP, steps=STEPS) for _ in range(RESTARTS)]
    attack = torchattacks.MultiAttack(starts)
    return torch.cat([attack(*part) for part in zip(x.split(batch), y.split(batch), strict=True)])


def torchattacks_pgd_in_a_loop(net: nn.Module, x: Tensor, y: Tensor, *, batch: int) -> Tensor:
    """Restarts that each attack every image."""
    import torchattacks

    attack, worst = torchattacks.PGD(net, eps=EPS, alpha=STEP, steps=STEPS), x.clone()
    for _ in range(RESTARTS):
        found = torch.cat([attack(*part) for part in zip(x.split(batch), y.split(batch), strict=True)])
        wrong = ~robust(net, found, x, y, batch)
        worst[wrong] = found[wrong]
    return worst


def art_pgd(net: nn.Module, x: Tensor, y: Tensor, *, batch: int) -> Tensor:
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        net,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="gpu" if x.is_cuda else "cpu",
    )
    attack = ProjectedGradientDescentPyTorch(
        classifier, eps=EPS, eps_step=STEP, max_iter=STEPS, num_random_init=RESTARTS, batch_size=batch, verbose=False
    )
    return torch.from_numpy(attack.generate(x.cpu().numpy(), y.cpu().numpy())).to(x.device)


def torchattacks_autoattack(net: nn.Module, x: Tensor, y: Tensor, *, batch: int) -> Tensor:
    import torchattacks

    # its own AutoAttack takes 10 steps where the original takes 100
    common = {"norm": "Linf", "eps": EPS, "seed": 0, "n_restarts": 1}
    attack = torchattacks.MultiAttack(
        [
            torchattacks.APGD(net, steps=100, loss="ce", **common),
            torchattacks.APGDT(net, steps=100, n_classes=10, **common),
            torchattacks.FAB(net, steps=100, multi_targeted=True, n_classes=10, **common),
            torchattacks.Square(net, n_queries=5000, **common),
        ]
    )
    return torch.cat([attack(*part) for part in zip(x.split(batch), y.split(batch), strict=True)])


def original_autoattack(net: nn.Module, x: Tensor, y: Tensor, *, batch: int) -> Tensor:
    import autoattack

    attack = autoattack.AutoAttack(
        net, norm="Linf", eps=EPS, version="standard", seed=0, verbose=False, device=x.device
    )
    return attack.run_standard_evaluation(x, y, bs=batch)


def fused(net: nn.Module, x: Tensor, y: Tensor, *, rival: Rival, batch: int) -> Tensor:
    return rival(Fused(net), x, y, batch=batch)


PGD_50_10 = PGD(eps=EPS, step_size=STEP, steps=STEPS, restarts=RESTARTS)
STANDARD = AutoAttack("standard", eps=EPS, batch_size=None)


# every title starts with the name of the package
RIVALS: dict[str, dict[str, Rival]] = {
    "pgd": {
        "kafnets": partial(ours, attack=PGD_50_10),
        "kafnets, network as it is": partial(plain, attack=PGD_50_10),
        "kafnets, compiled network": partial(compiled, attack=PGD_50_10),
        "torchattacks, MultiAttack": torchattacks_pgd,
        "torchattacks, MultiAttack, fused network": partial(fused, rival=torchattacks_pgd),
        "torchattacks, PGD in a loop over restarts": torchattacks_pgd_in_a_loop,
        "art": art_pgd,
    },
    "autoattack": {
        "kafnets": partial(ours, attack=STANDARD),
        "kafnets, network as it is": partial(plain, attack=STANDARD),
        "kafnets, compiled network": partial(compiled, attack=STANDARD),
        "torchattacks": torchattacks_autoattack,
        "torchattacks, fused network": partial(fused, rival=torchattacks_autoattack),
        "autoattack": original_autoattack,
    },
}
TITLES = {"pgd": f"PGD-{STEPS}-{RESTARTS}", "autoattack": "AutoAttack standard"}


def network(options: argparse.Namespace) -> nn.Module:
    net = load_thesis(options.weights) if options.weights else load_classifier(options.checkpoint)
    return net.to(options.device).eval()  # its parameters keep requires_grad, as in any network


def images(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Test images evenly spread over the split, and so over the classes."""
    split = read_images(options.data, WantedFormat(channels=3, size=32))["test"]
    x, y, _ = split[torch.arange(options.images) * len(split) // options.images]
    return (x / 255).to(options.device), y.to(options.device)


def robust(net: nn.Module, found: Tensor, x: Tensor, y: Tensor, batch: int) -> Tensor:
    """Which images are still classified correctly; a perturbation outside the ball counts as no success."""
    inside = (found - x).flatten(1).abs().amax(1) <= EPS * (1 + 1e-5)
    with torch.no_grad():
        right = [is_correct(net(part), labels) for part, labels in zip(found.split(batch), y.split(batch), strict=True)]
    return torch.cat(right) | ~inside


def compare(name: str, net: nn.Module, x: Tensor, y: Tensor, options: argparse.Namespace) -> None:
    runs = {title: partial(run, batch=options.batch) for title, run in RIVALS[name].items()}
    for title in list(runs):
        package = title.partition(",")[0]
        missing = package != "kafnets" and find_spec(package) is None
        if missing or title not in ("kafnets", *options.rivals):
            print(f"{TITLES[name]} of {title}: {'not installed' if missing else 'not selected'}")
            del runs[title]
    for run in runs.values():
        run(net, x[: options.warm_up], y[: options.warm_up])
    taken: dict[str, list[float]] = {title: [] for title in runs}
    left: dict[str, Tensor] = {}
    for _ in range(options.rounds):
        for title, run in runs.items():
            found: list[Tensor] = []
            taken[title].append(seconds(lambda run=run, found=found: found.append(run(net, x, y)), options.device))
            left[title] = robust(net, found[0], x, y, options.batch)
    print(f"\n| {TITLES[name]} | seconds | times ours | robust accuracy, % | images that differ from ours |")
    print("|---" * 5 + "|")
    for title, times in taken.items():
        ratio = median(times) / median(taken["kafnets"])
        share, differ = 100 * left[title].float().mean().item(), int((left[title] != left["kafnets"]).sum())
        print(f"| {title} | {median(times):.1f} | {ratio:.2f} | {share:.1f} | {differ} |", flush=True)


def main() -> None:
    rivals = list(dict.fromkeys(title for attack in RIVALS.values() for title in attack if title != "kafnets"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--weights", type=Path, help="a thesis ResNet20, .npz")
    source.add_argument("--checkpoint", type=Path, help="a checkpoint of ours")
    parser.add_argument("--data", type=Path, required=True, help="folder or tar of images, {train,test}/<class>/*.jpg")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--attacks", nargs="+", choices=RIVALS, default=list(RIVALS))
    parser.add_argument("--rivals", nargs="+", default=rivals, choices=rivals)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--warm_up", type=int, default=2, help="number of images of the warm-up, >= 1")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    net, (x, y) = network(options), images(options)
    clean = robust(net, x, x, y, options.batch).float().mean().item()
    source = options.weights or options.checkpoint
    print(f"{machine(options.device)}\n{source.name}, {len(x)} images, clean accuracy {100 * clean:.1f} %")
    for name in options.attacks:
        compare(name, net, x, y, options)


if __name__ == "__main__":
    main()
