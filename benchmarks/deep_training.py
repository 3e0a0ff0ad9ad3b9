"""The first steps of deep networks with the thesis's activation, with today's, and with ReLU: losses and gradients.

    python benchmarks/deep_training.py --data cifar10-jpeg.tar.gz                    # all runs
    python benchmarks/deep_training.py --data cifar10-jpeg.tar.gz --names ReLU-56 ResidualKAF-56 --size 32

Every run trains a KafResNet by Lightning's ``Trainer`` as ``fit`` does with ``short.yaml``: SGD with Nesterov momentum,
a triangular cycle from 0 to ``--lr`` and back over all steps, weight decay of 0.0005 on the kernels, random crop and
flip. Images are resampled to ``--size`` pixels, so that a few hundred steps of 56 layers take minutes on one core. One
JSON file per run has the loss of every step, and the norms of every layer at every tenth; a run that has its file is
not repeated. A run whose loss is not finite ends there.
"""

import argparse
import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, Trainer, seed_everything
from timing import machine

from datamodules import CropFlip, ImageFolder
from kafnets.activations import KAF, ReLU, ResidualKAF, Ridge, SiLU
from kafnets.backbones import KafResNet
from kafnets.parameter_filters import kernels
from kafnets.schedules import Triangular
from lightning_modules import AdversarialTraining, StandardTraining
from lightning_modules.callbacks import GradientNorms
from lightning_modules.files import finite, write_json

ACTIVATIONS: dict[str, Any] = {
    "ReLU": ReLU,
    "SiLU": SiLU,
    "KAF": KAF,
    "KAF_ELU": partial(KAF, init=Ridge(F.elu)),
    "ResidualKAF": ResidualKAF,
}
STANDARD, BF16, FAST_AT = {}, {"precision": "bf16-mixed"}, {"adversarial": True}
# activation, depth, how, share of the steps
RUNS: dict[str, tuple[str, int, dict[str, Any], float]] = {
    "ResidualKAF-56": ("ResidualKAF", 56, STANDARD, 1),
    "ReLU-56": ("ReLU", 56, STANDARD, 1),
    "KAF-56": ("KAF", 56, STANDARD, 0.2),
    "ResidualKAF-56-bf16": ("ResidualKAF", 56, BF16, 1),
    "ReLU-56-bf16": ("ReLU", 56, BF16, 1),
    "ResidualKAF-56-fast_at": ("ResidualKAF", 56, FAST_AT, 1),
    "ReLU-56-fast_at": ("ReLU", 56, FAST_AT, 1),
    "ResidualKAF-110": ("ResidualKAF", 110, STANDARD, 1),
    "ReLU-110": ("ReLU", 110, STANDARD, 1),
    "ResidualKAF-110-fast_at": ("ResidualKAF", 110, FAST_AT, 1),
    "ReLU-110-fast_at": ("ReLU", 110, FAST_AT, 1),
    "KAF-110": ("KAF", 110, STANDARD, 0.1),
    "ResidualKAF-56-bf16-fast_at": ("ResidualKAF", 56, BF16 | FAST_AT, 1),
    "ResidualKAF-110-bf16-fast_at": ("ResidualKAF", 110, BF16 | FAST_AT, 1),
    "SiLU-56": ("SiLU", 56, STANDARD, 1),
    "KAF_ELU-56": ("KAF_ELU", 56, STANDARD, 1),
    "ResidualKAF-20": ("ResidualKAF", 20, STANDARD, 1),
    "ReLU-20": ("ReLU", 20, STANDARD, 1),
    "KAF-20": ("KAF", 20, STANDARD, 1),
}


class Losses(Callback):
    """Keep the loss of every step, and end where it is not finite."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.values.append(float(outputs["loss"]))
        trainer.should_stop = not math.isfinite(self.values[-1])


def train(name: str, data: ImageFolder, options: argparse.Namespace) -> dict[str, Any]:
    """Train one network and return what was measured."""
    activation, depth, how, share = RUNS[name]
    seed_everything(0)
    net = KafResNet(depth=depth, activation=ACTIVATIONS[activation], image_size=data.image_size)
    losses, norms = Losses(), GradientNorms(every=10)
    precision = how.get("precision", "32-true")
    trainer = Trainer(
        max_epochs=1,
        limit_train_batches=round(share * options.steps),
        limit_val_batches=0,
        accelerator="cpu",
        precision=precision,
        callbacks=[losses, norms],
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    sgd = lambda groups: torch.optim.SGD(groups, lr=options.lr, momentum=0.9, nesterov=True, weight_decay=5e-4)  # noqa: E731
    settings = {"optimizer": sgd, "schedule": Triangular(low=0.0), "decay_filter": kernels}
    kind = AdversarialTraining if how.get("adversarial") else StandardTraining
    trainer.fit(kind(net=net, channels_last=precision != "32-true", **settings), data)
    about = {"activation": activation, "depth": depth, "objective": kind.__name__, "precision": precision}
    about |= {"batch": data.batch_size, "size": data.image_size, "lr": options.lr, "machine": machine()}
    rows = [row | {key: rounded(row[key]) for key in ("gradients", "activations")} for row in norms.rows]
    return about | {"losses": [float(f"{value:.5g}") for value in losses.values], "rows": rows}


def rounded(norms: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.3g}") for name, value in norms.items()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 as image files, a folder or tar")
    parser.add_argument("--names", nargs="+", choices=RUNS, default=list(RUNS), metavar="NAME", help=", ".join(RUNS))
    parser.add_argument("--out", type=Path, default=Path("results/deep"))
    parser.add_argument("--steps", type=int, default=300, help="of most runs; the slow ones take a share of them")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=16, help="height and width of the images")
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    augment = CropFlip(padding=options.size // 8)
    data = ImageFolder(options.data, batch_size=options.batch, image_size=options.size, augment=augment)
    data.prepare_data()
    data.setup()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names:
        file = options.out / f"{name}.json"
        if file.exists():
            continue
        found = train(name, data, options)
        write_json(file, finite(found))
        last = found["losses"][-50:]
        print(
            f"{name}: {len(found['losses'])} steps, mean loss of the last 50: {sum(last) / len(last):.3f}", flush=True
        )


if __name__ == "__main__":
    main()
