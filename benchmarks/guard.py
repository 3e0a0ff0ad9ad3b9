"""What the overfitting guard does at eps 16/255, and what it costs.

    python benchmarks/guard.py train --data cifar10-jpeg.tar.gz --runs runs/guard    # two trainings of three epochs
    python benchmarks/guard.py draw --runs runs/guard --out docs/pictures/guard.png
    python benchmarks/guard.py cost --data cifar10-jpeg.tar.gz --threads 1

``train`` trains the VGG with ReLU by FGSM from the image itself, once with the guard as it is by default, which only
speaks, and once with ``fallback=NFGSM``. (FGSM from a random start did not collapse with this network.) ``draw`` shows
the accuracy of validation images under FGSM and under PGD-10 over the steps. ``cost`` is the time of a probe as a share
of the time of the 250 steps between two probes; on one thread, the clock is that of the process.
"""

import argparse
import csv
import os
from pathlib import Path
from statistics import median
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pytorch_lightning import Trainer
from timing import keep_freed_memory, machine
from training import fit, now, vgg

import cli
from datamodules import CropFlip, ImageFolder
from kafnets.activations import ReLU
from lightning_modules.callbacks import OverfittingGuard

RUNS = {"watched": [], "fallback": ["--trainer.callbacks+=OverfittingGuard", "--trainer.callbacks.fallback=NFGSM"]}
NAMES = {"watched": "the guard only speaks", "fallback": "the guard goes back, and on with N-FGSM"}
EVERY, STEPS = 10, 20  # steps between two probes whose time is taken, and timed steps


def train(options: argparse.Namespace) -> None:
    """Train with the guard as it is, and with a fallback."""
    configs = ["vgg_relu", "fast_at", "short", "base/vgg_short", "cpu_bf16", "cifar10_jpeg"]
    flags = [
        "--model.threat.eps=16/255",
        "--run.test=false",
        f"--run.dir={options.runs}",
        f"--data.path={options.data}",
    ]
    flags += [
        "--model.objective.attack.random_start=false",
        "--model.objective.attack.alpha=1",
        "--model.optimizer.lr=0.2",
    ]
    flags += [f"--trainer.max_epochs={options.epochs}", *options.flags]
    for name, guard in RUNS.items():
        cli.main(
            ["fit", *(part for config in configs for part in ("--config", config)), *flags, *guard, "--run.name", name]
        )


def _rows(run: Path, key: str) -> list[dict[str, str]]:
    return [row for row in csv.DictReader((run / "metrics.csv").open()) if row.get(key)]


def _draw_run(axes: Axes, run: Path, title: str) -> None:
    probes = _rows(run, "guard/pgd_accuracy")
    steps = [int(row["step"]) for row in probes]
    for key, label, style in (
        ("guard/single_step_accuracy", "images of the guard, FGSM", {"color": "#0072B2", "linestyle": "--"}),
        ("guard/pgd_accuracy", "images of the guard, PGD-10", {"color": "#D55E00"}),
    ):
        axes.plot(steps, [100 * float(row[key]) for row in probes], label=label, marker=".", linewidth=1.2, **style)  # type: ignore[arg-type]
    epochs = _rows(run, "val/robust_accuracy")
    at, robust = [int(row["step"]) + 1 for row in epochs], [100 * float(row["val/robust_accuracy"]) for row in epochs]
    axes.plot(at, robust, "o-", color="black", linewidth=1.2, label="validation images, PGD-10")
    collapsed = [int(row["step"]) for row in probes if float(row["guard/collapsed"])]
    axes.axvline(collapsed[0], color="grey", linestyle=":", label="the guard reports a collapse")
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("step")
    axes.grid(alpha=0.25)


def draw(options: argparse.Namespace) -> None:
    """Draw the newest run of each name."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True, sharex=True)
    for axes, (name, title) in zip(panels, NAMES.items(), strict=True):
        run = max((options.runs / name).glob("version_*"), key=lambda path: path.stat().st_mtime)
        _draw_run(axes, run, title)
    panels[0].set_ylabel("accuracy, %")
    panels[0].set_ylim(bottom=0)
    panels[0].set_xlim(left=0)
    panels[0].legend(fontsize=8, frameon=False, loc="center right")
    figure.savefig(options.out, dpi=100)


class TimedGuard(OverfittingGuard):
    """A guard that keeps the seconds of its probes, and works outside ``cli.py`` too."""

    def __init__(self) -> None:
        super().__init__(every=EVERY)
        self.seconds: list[float] = []

    def accuracies(self, trainer: Trainer, module: Any, images: int) -> tuple[float, float]:
        start = now()
        found = super().accuracies(trainer, module, images)
        self.seconds.append(now() - start)
        return found


def cost(options: argparse.Namespace) -> None:
    """Print the share of the guard's probes."""
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    data = ImageFolder(options.data, batch_size=128, augment=CropFlip())
    data.prepare_data()
    data.setup()
    print(machine())
    every = OverfittingGuard().every
    for kind, half in (("float32", False), ("bfloat16", True)):
        guard = TimedGuard()
        step = data.batch_size / fit(vgg(ReLU, data), data, STEPS, half=half).rate
        fit(vgg(ReLU, data), data, STEPS, half=half, callbacks=[guard])
        probe = median(guard.seconds)
        print(
            f"{kind}: a step {step:.2f} s, a probe {probe:.2f} s: {probe / (every * step):.1%} at every {every} steps"
        )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    for run in (train, draw, cost):
        part = parts.add_parser(run.__name__, help=run.__doc__)
        part.set_defaults(run=run)
        if run is not draw:
            part.add_argument("--data", type=Path, required=True, help="CIFAR-10 as image files, a folder or tar")
        if run is not cost:
            part.add_argument("--runs", type=Path, default=Path("runs/guard"))
    parts.choices["train"].add_argument("--epochs", type=int, default=3)
    parts.choices["train"].add_argument("flags", nargs="*", help="further flags of fit, after --")
    parts.choices["draw"].add_argument("--out", type=Path, required=True)
    parts.choices["cost"].add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args(arguments)
    options.run(options)


if __name__ == "__main__":
    main()
