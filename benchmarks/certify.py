"""Certificates of small networks with KAF and with ReLU, and the layers where a Lipschitz bound is loose.

    python benchmarks/certify.py digits --out results/certify/digits.json
    python benchmarks/certify.py jpeg --data cifar10-jpeg.tar.gz --out results/certify/jpeg.json
    python benchmarks/certify.py draw --results results/certify --out docs/pictures/lipschitz_gap.png

``digits`` trains a small convolutional network by IBP and by PGD-7 (Linf), by the Lipschitz margin (L2) and with
Gaussian noise, and measures on the 359 test digits what is certified beside the accuracy under PGD-50. ``jpeg`` trains
a narrow VGG with Gaussian noise on CIFAR-10 (JPEG copy) and certifies the smoothed network; it also bounds the network
layer by layer.
Each part is one process on one thread; records are written after every network, and a second call leaves out those
that are there.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from datamodules import Digits, ImageDataModule, ImageFolder
from kafnets.activations import KAF, Activation, LipschitzSpline, ReLU, Ridge, SiLU, SlopeBoundedKAF
from kafnets.analysis.robustness_record import counted
from kafnets.attacks import PGD
from kafnets.backbones import KafVGG
from kafnets.certify import IntervalBounds, LinearBounds, Smoothing, layer_gaps, lipschitz_bound
from kafnets.keyed_random import image_keys
from kafnets.objectives import IBP, Adversarial, Batch, GaussianAugmentation, LipschitzMargin, Objective
from kafnets.threat import L2, ThreatModel
from lightning_modules.files import write_json
from lightning_modules.provenance import code_version

ACTIVATIONS: dict[str, Callable[[int], Activation]] = {
    "ReLU": ReLU,
    "SiLU": SiLU,
    "KAF": partial(KAF, init=Ridge(F.elu)),
    "LipschitzSpline": LipschitzSpline,
    "SlopeBoundedKAF": partial(SlopeBoundedKAF, init=Ridge(F.elu)),
}
IBP_EPS, MARGIN_EPS, SIGMA = (0.02, 0.05, 0.1, 0.15), (0.1, 0.25, 0.5), 0.25
RADII = (0.0, 0.1, 0.25, 0.5)


def small_net(activation: Callable[[int], Activation]) -> nn.Sequential:
    """Two convolutions and two dense layers for digits, about the `small` network of Gowal et al. (2018)."""
    convs = [nn.Conv2d(1, 16, 3, padding=1), activation(16), nn.Conv2d(16, 32, 4, stride=2, padding=1), activation(32)]
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(512, 64), activation(64), nn.Linear(64, 10))


def train(net: nn.Module, objective: Objective, data: ImageDataModule, threat: ThreatModel, options: Any) -> float:
    """Adam with a falling rate; eps rises in the first half. Returns the seconds of the process."""
    begun, size = time.process_time(), options.batch
    per_epoch = len(data.train_set) // size
    steps = options.steps or options.epochs * per_epoch
    optimizer = torch.optim.Adam(net.parameters(), lr=options.lr)
    for step in range(steps):
        if step % per_epoch == 0:
            generator = torch.Generator().manual_seed(1000 * options.seed + step)
            order = torch.randperm(len(data.train_set), generator=generator)
        done = step / steps
        for group in optimizer.param_groups:
            group["lr"] = options.lr * min(1.0, 2 * (1 - done))
        rows = order[step % per_epoch * size :][:size]
        x, y, index = data.train_set[rows]
        x = x.float() / 255
        now = ThreatModel(threat.norm, threat.eps * min(1.0, 2 * done))
        batch = Batch(x, y, image_keys(index, options.seed, step), epoch=step / per_epoch, threat=now)
        optimizer.zero_grad()
        terms = objective(net, batch)
        terms.loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        optimizer.step()
    net.eval()
    return time.process_time() - begun


def under_attack(net: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
    """Which images are classified correctly under PGD-50."""
    x_adv = PGD(steps=50).within(threat)(net, x, y, keys=image_keys(torch.arange(len(x)), 0))
    with torch.no_grad():
        return net(x_adv).argmax(1) == y


def beside(certified: Tensor, attacked: Tensor) -> dict[str, Any]:
    """Both accuracies; an image that is certified and falls is an error of this project."""
    if bool((certified & ~attacked).any()):
        raise ValueError(f"{int((certified & ~attacked).sum())} images are certified, and an attack fools them")
    return {"certified": counted(certified.double()), "attacked": counted(attacked.double())}


def certificates(net: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> dict[str, Any]:
    """Intervals in Linf and the Lipschitz margin in L2, each beside PGD; linear relaxation after Linf training."""
    shape = (x.shape[1], x.shape[2], x.shape[3])
    with torch.no_grad():
        clean = net(x)
    margin = lipschitz_bound(net, shape)
    radius = margin.radius(clean, y)
    found: dict[str, Any] = {"clean": counted((clean.argmax(1) == y).double()), "lipschitz_bound": margin.total}
    attacked = {eps: under_attack(net, x, y, ThreatModel(eps=eps)) for eps in IBP_EPS}
    kinds = {"interval": IntervalBounds, "linear": LinearBounds}
    for name in kinds if threat == ThreatModel(eps=threat.eps) else ["interval"]:
        bounds = kinds[name](net)
        begun = time.process_time()
        certified = {
            eps: torch.cat([bounds.certified(x[rows], y[rows], eps) for rows in torch.arange(len(x)).split(40)])
            for eps in IBP_EPS
        }
        found[f"{name}_seconds"] = round(time.process_time() - begun, 1)
        found[name] = {str(eps): beside(certified[eps], attacked[eps]) for eps in IBP_EPS}
    found["lipschitz"] = {
        str(eps): beside(radius >= eps, under_attack(net, x, y, ThreatModel(L2(), eps))) for eps in MARGIN_EPS
    }
    return found


def smoothed(net: nn.Module, x: Tensor, y: Tensor, options: Any) -> dict[str, Any]:
    """The certified accuracy of the smoothed network at several radii."""
    begun = time.process_time()
    found = Smoothing(sigma=SIGMA, n=options.n).certify(net, x, image_keys(torch.arange(len(x)), 1))
    right = found.classes == y
    return {
        "sigma": SIGMA, "n0": 100, "n": options.n, "alpha": 0.001, "abstained": int((found.classes < 0).sum()),
        "radii": {str(r): counted((right & (found.radius >= r) & (found.radius > 0)).double()) for r in RADII},
        "seconds": round(time.process_time() - begun, 1),
    }  # fmt: skip


def once(options: Any, name: str, measure: Callable[[], dict[str, Any]]) -> None:
    """Measure and write one record, unless it is there or not asked for."""
    known = json.loads(options.out.read_text()) if options.out.exists() else {}
    if name in known or options.only not in name:
        return
    settings = {k: v for k, v in vars(options).items() if isinstance(v, int | float)}
    known[name] = measure() | {"settings": settings, "torch": torch.__version__, "code": code_version()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, known)
    print(name, json.dumps(known[name])[:600], flush=True)


def digits(options: argparse.Namespace) -> None:
    """IBP, Lipschitz margin and noise on the digits."""
    data = Digits()
    data.setup()
    x, y, _ = data.test_set[torch.arange(len(data.test_set))]
    x = x.float() / 255
    trainings: dict[str, tuple[Objective, ThreatModel]] = {
        "IBP": (IBP(ramp=options.epochs / 2), ThreatModel(eps=0.1)),
        "PGD": (Adversarial(attack=PGD(steps=7)), ThreatModel(eps=0.1)),
        "LipschitzMargin": (LipschitzMargin(), ThreatModel(L2(), 0.25)),
        "GaussianAugmentation": (GaussianAugmentation(sigma=SIGMA), ThreatModel()),
    }
    for training, (objective, threat) in trainings.items():
        for name in ("ReLU", "KAF") if training == "GaussianAugmentation" else ACTIVATIONS:

            def measure(name: str = name, objective: Objective = objective, threat: ThreatModel = threat) -> Any:
                torch.manual_seed(options.seed)
                net = small_net(ACTIVATIONS[name])
                seconds = train(net, objective, data, threat, options)
                if isinstance(objective, GaussianAugmentation):
                    with torch.no_grad():
                        clean = counted((net(x).argmax(1) == y).double())
                    return {"clean": clean, "smoothing": smoothed(net, x, y, options), "train_seconds": seconds}
                return certificates(net, x, y, threat) | {"train_seconds": seconds}

            once(options, f"{training} {name}", measure)


def jpeg(options: argparse.Namespace) -> None:
    """Noise on CIFAR-10 (JPEG copy): the smoothed network, and the bounds layer by layer."""
    data = ImageFolder(options.data)
    data.prepare_data()
    data.setup()
    x, y, _ = data.test_set[torch.arange(options.images)]
    x = x.float() / 255
    for name in ("ReLU", "KAF"):

        def measure(name: str = name) -> Any:
            torch.manual_seed(options.seed)
            build = partial(
                KafVGG, width=options.width, hidden=64, head_norm=True, dropout=(0, 0, 0, 0), bn_momentum=0.1
            )
            net = build(activation=ACTIVATIONS[name])
            seconds = train(net, GaussianAugmentation(sigma=SIGMA), data, ThreatModel(), options)
            with torch.no_grad():
                clean = counted((net(x).argmax(1) == y).double())
            gaps = [
                gap.layer.__dict__ | {"lower": gap.lower, "ratio": gap.ratio}
                for gap in layer_gaps(net, x[:4], rounds=6)
            ]
            found = {"clean": clean, "layers": gaps, "train_seconds": seconds}
            return found | {"smoothing": smoothed(net, x, y, options)}

        once(options, name, measure)


def draw(options: argparse.Namespace) -> None:
    """Upper and lower bound from the images up to each layer."""
    record = json.loads((options.results / "jpeg.json").read_text())
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, name in zip(panels, ("ReLU", "KAF"), strict=True):
        rows = [
            row for row in record[name]["layers"] if row["kind"] not in ("Flatten", "Dropout", "Identity", "Normalize")
        ]
        at = range(len(rows))
        axes.semilogy(at, [row["upper"] for row in rows], "o-", color="#D55E00", label="upper bound")
        axes.semilogy(at, [row["lower"] for row in rows], "s--", color="#0072B2", label="found (4 images)")
        axes.set_xticks(at, [row["name"] for row in rows], rotation=60, ha="right", fontsize=8)
        axes.set_title(f"KafVGG with {name}", fontsize=10)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("Lipschitz constant up to the layer, L2")
    panels[0].legend(fontsize=8, frameon=False)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=100)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    for run in (digits, jpeg, draw):
        part = parts.add_parser(run.__name__, help=run.__doc__)
        part.set_defaults(run=run)
        part.add_argument("--out", type=Path, required=True)
        if run is draw:
            part.add_argument("--results", type=Path, default=Path("results/certify"))
            continue
        part.add_argument("--only", default="", help="only the networks whose name contains this, such as 'IBP KAF'")
        part.add_argument("--seed", type=int, default=0)
        part.add_argument("--epochs", type=int, default=60 if run is digits else 2)
        part.add_argument("--steps", type=int, default=0, help="number of steps; 0: those of the epochs")
        part.add_argument("--batch", type=int, default=128)
        part.add_argument("--lr", type=float, default=0.002)
        part.add_argument("--n", type=int, default=1000, help="noisy copies per image that bound the probability")
    parts.choices["jpeg"].add_argument("--data", type=Path, required=True, help="CIFAR-10 as image files")
    parts.choices["jpeg"].add_argument("--images", type=int, default=100)
    parts.choices["jpeg"].add_argument("--width", type=int, default=16)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.run(options)


if __name__ == "__main__":
    main()
