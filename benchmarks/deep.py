"""How gradients grow in deep networks at initialisation: measured, predicted, and with each remedy.

    python benchmarks/deep.py measure --data cifar10-jpeg.tar.gz       # writes results/deep/growth.json
    python benchmarks/deep.py tables                                   # the tables of docs/deep.md
    python benchmarks/deep.py draw --out docs/pictures                 # its pictures; needs deep_training.py's results

Every network is measured once, with seed 0, in training mode, on the same batch of training images resampled to
``--size`` pixels. The thesis's form is :class:`KafResNet` (Glorot), He's is :class:`ResNet` (option A, He-normal).
What the file has already is not measured again.
Without batch norm or skips they are replaced by the identity and by zeros. ``wide`` has a quarter of the default
bandwidth; ``slope 1`` has its coefficients scaled until the bound of the slope is 1.
"""

import argparse
import json
import math
import os
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from deep_pictures import draw_growth, draw_losses, draw_norms
from timing import machine
from torch import Tensor, nn

from datamodules import ImageFolder
from kafnets import activations as act
from kafnets.activations import KAF, LimitedGrowth, ResidualKAF, Ridge
from kafnets.activations.base import Activation
from kafnets.analysis.gradient_growth import (
    Moments,
    gradient_growth,
    growth_of_blocks_without_norm,
    growth_of_chain,
    growth_of_he_blocks,
    growth_of_kaf_blocks,
    growth_without_norm,
    he_moments,
)
from kafnets.backbones import Backbone, KafResNet, ResNet
from kafnets.backbones.kafresnet import KafBlock
from kafnets.backbones.resnet import BasicBlock
from lightning_modules.files import write_json

RESULTS = Path("results/deep/growth.json")
FORMS: dict[str, Callable[..., Backbone]] = {"thesis": KafResNet, "He": ResNet}
GAINS = {"thesis": 1.0, "He": 2.0}
DEPTHS = (20, 56, 110)
QUARTER = KAF(1).bandwidth.item() / 4


def ridge(target: Callable[[Tensor], Tensor], **settings: Any) -> Callable[[int], Activation]:
    return partial(KAF, init=Ridge(target), **settings)


def slope_of_one(channels: int) -> KAF:
    """A random KAF whose slope is nowhere steeper than 1."""
    layer = KAF(channels)
    with torch.no_grad():
        layer.alpha /= layer.lipschitz()[:, None].to(layer.alpha)
    return layer


ACTIVATIONS: dict[str, Callable[[int], Activation]] = {
    "ReLU": act.ReLU,
    "SiLU": act.SiLU,
    "ELU": act.ELU,
    "KAF": KAF,
    "KAF ridge ELU": ridge(F.elu),
    "KAF ridge SiLU": ridge(F.silu),
    "KAF LimitedGrowth": partial(KAF, init=LimitedGrowth()),
    "ResidualKAF": ResidualKAF,
    "GELU": act.GELU,
    "Softplus": act.Softplus,
    "Tanh": act.from_module(nn.Tanh()),
    "Mish": act.from_module(nn.Mish()),
    "MultiKAF": act.MultiKAF,
    "Rational": act.Rational,
    "PSSiLU": act.PSSiLU,
    "PSoftplus": act.PSoftplus,
    "LeakyReLU": act.LeakyReLU,
    "PReLU": act.PReLU,
    "SReLU": act.SReLU,
    "APL": act.APL,
    "Spline": act.Spline,
    "LipschitzSpline": act.LipschitzSpline,
    "Maxout": act.Maxout,
    "KWTA": act.KWTA,
}
# activation, and settings of the thesis's form
REMEDIES: dict[str, tuple[Callable[[int], Activation], dict[str, Any]]] = {
    "KAF, as the thesis had it": (KAF, {}),
    "slope 1": (slope_of_one, {}),
    "wide": (partial(KAF, bandwidth=QUARTER), {}),
    "zero_last": (KAF, {"zero_last": True}),
    "ridge SiLU": (ridge(F.silu), {}),
    "ridge SiLU, boundary 5": (ridge(F.silu, boundary=5.0), {}),
    "ridge ELU": (ridge(F.elu), {}),
    "ridge ELU, boundary 5": (ridge(F.elu, boundary=5.0), {}),
    "ridge ELU, zero_last": (ridge(F.elu), {"zero_last": True}),
    "LimitedGrowth": (partial(KAF, init=LimitedGrowth()), {}),
    "LimitedGrowth of ridge ELU": (partial(KAF, init=LimitedGrowth(Ridge(F.elu))), {}),
    "LimitedGrowth, boundary 5": (partial(KAF, init=LimitedGrowth(), boundary=5.0), {}),
    "ResidualKAF": (ResidualKAF, {}),
    "ResidualKAF, base SiLU": (partial(ResidualKAF, base=act.SiLU), {}),
    "ResidualKAF, wide": (partial(ResidualKAF, kaf=partial(KAF, bandwidth=QUARTER)), {}),
    "ResidualKAF, zero_last": (ResidualKAF, {"zero_last": True}),
}


class Zero(nn.Module):
    """No skip."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(())


def without(net: nn.Module, *, norm: bool, skips: bool) -> nn.Module:
    """Remove batch norm or skips from a network, in place."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if norm and isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
        if skips and isinstance(module, KafBlock):
            module.conv_skip = Zero()
        if skips and isinstance(module, BasicBlock):
            module.shortcut = Zero()
    return net


def predictions(form: str, moments: list[Moments], norm: bool, skips: bool) -> float:
    """The growth that the moments predict for a network."""
    if not norm:
        rule = growth_of_blocks_without_norm if skips else growth_without_norm
        return rule(moments, GAINS[form])
    if not skips:
        return growth_of_chain(moments)
    return {"thesis": growth_of_kaf_blocks, "He": growth_of_he_blocks}[form](moments)


@cache
def normal_moments(activation: Callable[[int], Activation], form: str, skips: bool) -> list[Moments] | None:
    """The moments of all layers of the deepest network for inputs that batch norm would make normal."""
    torch.manual_seed(0)
    layer = activation(16)
    if not layer.pointwise:
        return None
    blocks = (max(DEPTHS) - 2) // 2
    return he_moments(layer, blocks) if form == "He" and skips else [Moments.of(layer)] * (2 * blocks + 1)


def row(form: str, activation: Any, depth: int, batch: tuple[Tensor, Tensor], norm: bool, skips: bool, **settings: Any):
    """Measure one network."""
    torch.manual_seed(0)
    net = FORMS[form](depth=depth, activation=activation, image_size=batch[0].shape[-1], **settings)
    found = gradient_growth(without(net, norm=not norm, skips=not skips), *batch)
    pointwise = all(signal.moments is not None for signal in found.activations)
    predicted = predictions(form, found.moments, norm, skips) if pointwise else None
    normal = None
    if norm and not settings and (expected := normal_moments(activation, form, skips)):
        normal = predictions(form, expected[: depth - 1], norm, skips)
    values = {"growth": found.per_layer, "first": found.kernels["conv1"], "predicted": predicted, "normal": normal}
    values["aligned"] = predicted * found.alignment if predicted else None
    about = {"form": form, "depth": depth, "norm": norm, "skips": skips}
    return about | {name: short(value) for name, value in values.items()}


def short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")


def measure(options: argparse.Namespace) -> None:
    """Measure all networks."""
    torch.set_num_threads(options.threads)
    data = ImageFolder(options.data, batch_size=options.batch, image_size=options.size)
    data.prepare_data()
    data.setup()
    chosen = torch.randperm(len(data.train_set.labels), generator=torch.Generator().manual_seed(0))[: options.batch]
    batch = data.train_set.images[chosen].float() / 255, data.train_set.labels[chosen]
    found: dict[str, Any] = {"machine": machine(), "batch": options.batch, "size": options.size, "activations": {}}
    found |= json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if "remedies" not in found:
        found["remedies"] = {
            name: [row("thesis", activation, depth, batch, True, True, **settings) for depth in DEPTHS]
            for name, (activation, settings) in REMEDIES.items()
        }
        write_json(RESULTS, found)
    for name, activation in ACTIVATIONS.items():
        if name in found["activations"]:
            continue
        found["activations"][name] = [
            row(form, activation, depth, batch, norm, skips)
            for depth in DEPTHS
            for form in FORMS
            for norm in (True, False)
            for skips in (True, False)
            if depth < max(DEPTHS) or (norm and skips)  # the slowest only as they are
        ]
        write_json(RESULTS, found)
        print(name, flush=True)


def tables(options: argparse.Namespace) -> None:
    """Print the tables of docs/deep.md."""
    found = json.loads(RESULTS.read_text())
    print("| variant | 20 layers | 56 | 110 |\n|---|---|---|---|")
    for name, rows in found["remedies"].items():
        print(f"| {name} | " + " | ".join(f"{r['first'] or math.inf:.2g} / {r['growth']:.2f}" for r in rows) + " |")
    print("\n| activation | " + " | ".join(COLUMNS) + " |\n|---|" + "---|" * len(COLUMNS))
    for name, rows in found["activations"].items():
        known = {(r["form"], r["norm"], r["skips"], r["depth"]): r for r in rows}
        print(f"| {name} | " + " | ".join(cell(known, kind) for kind in COLUMNS.values()) + " |")
    for name, (error, worst, count) in errors(found).items():
        print(f"{name}: median error {error:.1%}, largest {worst:.1%}, {count} networks")


# columns of the table of activations: form, batch norm, skips
COLUMNS = {
    "chain": ("thesis", True, False),
    "thesis's blocks": ("thesis", True, True),
    "He's blocks": ("He", True, True),
    "no BN": ("thesis", False, True),
    "no BN, no skips": ("thesis", False, False),
    "He, no BN": ("He", False, True),
    "He, no BN, no skips": ("He", False, False),
}


def cell(known: dict[Any, dict[str, Any]], kind: tuple[str, bool, bool]) -> str:
    """The growth measured at each depth and, in brackets, predicted for 56 layers and normal inputs."""
    rows = [known[*kind, depth] for depth in DEPTHS if (*kind, depth) in known]
    values = ", ".join("-" if r["growth"] is None else f"{r['growth']:.2f}" for r in rows)
    normal = known[*kind, 56]["normal"]
    return values if normal is None else f"{values} ({normal:.2f})"


def heading(norm: bool, skips: bool, form: str) -> str:
    return f"{form}{'' if norm else ', no BN'}{'' if skips else ', no skips'}"


def errors(found: dict[str, Any]) -> dict[str, tuple[float, float, int]]:
    """Median and largest relative error of the predictions, by kind of network."""
    rows = [r for rows in found["activations"].values() for r in rows if r["growth"]]
    result = {}
    for key in ("normal", "predicted", "aligned"):
        for norm in (True, False):
            for skips in (True, False):
                for form in FORMS:
                    these = [r for r in rows if (r["norm"], r["skips"], r["form"]) == (norm, skips, form) and r[key]]
                    if these:
                        wrong = sorted(abs(r[key] / r["growth"] - 1) for r in these)
                        name = f"{key}, {heading(norm, skips, form)}"
                        result[name] = wrong[len(wrong) // 2], wrong[-1], len(wrong)
    return result


def draw(options: argparse.Namespace) -> None:
    """Draw the pictures."""
    found = json.loads(RESULTS.read_text())
    runs = {p.stem: json.loads(p.read_text()) for p in RESULTS.parent.glob("*.json") if p != RESULTS}
    draw_growth([r | {"activation": n} for n, rows in found["activations"].items() for r in rows]).savefig(
        options.out / "deep_growth.png", dpi=90
    )
    draw_losses(runs).savefig(options.out / "deep_losses.png", dpi=90)
    for name, figure in draw_norms(runs).items():
        figure.savefig(options.out / f"deep_norms_{name}.png", dpi=90)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    for run in (measure, tables, draw):
        part = parts.add_parser(run.__name__, help=run.__doc__)
        part.set_defaults(run=run)
        if run is measure:
            part.add_argument("--data", type=Path, required=True, help="CIFAR-10 as image files, a folder or tar")
            part.add_argument("--threads", type=int, default=os.cpu_count())
            part.add_argument("--batch", type=int, default=16)
            part.add_argument("--size", type=int, default=16, help="height and width of the images")
    parts.choices["draw"].add_argument("--out", type=Path, default=Path("docs/pictures"))
    options = parser.parse_args(arguments)
    options.run(options)


if __name__ == "__main__":
    main()
