"""The first steps of deep networks with the thesis's activation, with today's, and with ReLU: losses and gradients.

    python benchmarks/deep_training.py --data cifar10-jpeg.tar.gz --run KAF KafResNet 56 --out results/deep/kaf56.json

One run trains by Lightning's ``Trainer`` as ``fit`` does with ``short.yaml``: SGD with Nesterov momentum, a triangular
cycle from 0 to ``--lr`` and back over all steps, weight decay of 0.0005 on the kernels, random crop and flip. The JSON
file has the loss of every step, and the norms of every layer at every tenth. A run whose loss is not finite ends there.
"""

import argparse
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, Trainer, seed_everything
from timing import machine

from datamodules import CropFlip, ImageFolder
from kafnets.activations import KAF, LimitedGrowth, ReLU, ResidualKAF, Ridge, SiLU
from kafnets.backbones import KafResNet, ResNet
from kafnets.parameter_filters import kernels
from kafnets.schedules import Triangular
from lightning_modules import AdversarialTraining, StandardTraining
from lightning_modules.callbacks import GradientNorms
from lightning_modules.callbacks.gradient_norms import finite
from lightning_modules.files import write_json

ACTIVATIONS: dict[str, Any] = {
    "ReLU": ReLU,
    "SiLU": SiLU,
    "KAF": KAF,
    "KAF_ELU": partial(KAF, init=Ridge(F.elu)),
    "KAF_limited": partial(KAF, init=LimitedGrowth()),
    "ResidualKAF": ResidualKAF,
    "ResidualKAF_SiLU": partial(ResidualKAF, base=SiLU),
}
NETWORKS = {"KafResNet": KafResNet, "ResNet": ResNet}


class Losses(Callback):
    """Keep the loss of every step, and end where it is not finite."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.values.append(float(outputs["loss"]))
        trainer.should_stop = not math.isfinite(self.values[-1])


def train(options: argparse.Namespace) -> dict[str, Any]:
    """Train one network and return what was measured."""
    activation, network, depth = options.run
    data = ImageFolder(
        options.data, batch_size=options.batch, image_size=options.size, augment=CropFlip(padding=options.size // 8)
    )
    data.prepare_data()
    data.setup()
    seed_everything(0)
    net = NETWORKS[network](depth=int(depth), activation=ACTIVATIONS[activation], image_size=options.size)
    losses, norms = Losses(), GradientNorms(every=10)
    trainer = Trainer(
        max_epochs=1,
        limit_train_batches=options.steps,
        limit_val_batches=0,
        accelerator="cpu",
        precision=options.precision,
        callbacks=[losses, norms],
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=options.clip,
    )
    sgd = lambda groups: torch.optim.SGD(groups, lr=options.lr, momentum=0.9, nesterov=True, weight_decay=5e-4)  # noqa: E731
    kind = AdversarialTraining if options.adversarial else StandardTraining
    module = kind(
        net=net, optimizer=sgd, schedule=Triangular(low=0.0), decay_filter=kernels,
        channels_last=options.precision != "32-true",
    )  # fmt: skip
    start = time.time()
    trainer.fit(module, data)
    about = {"network": network, "depth": int(depth), "activation": activation, "machine": machine()}
    about |= {"adversarial": options.adversarial, "precision": options.precision, "clip": options.clip}
    about |= {"batch": options.batch, "size": options.size, "lr": options.lr, "steps": options.steps}
    about |= {"seconds_per_step": round((time.time() - start) / len(losses.values), 2)}
    return about | {"losses": [float(f"{value:.5g}") for value in losses.values], "rows": _short(norms.rows)}


def _short(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with three digits."""
    return [
        {
            key: {n: float(f"{v:.3g}") for n, v in value.items()} if isinstance(value, dict) else value
            for key, value in row.items()
        }
        for row in rows
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 as image files, a folder or tar")
    parser.add_argument("--run", nargs=3, metavar=("ACTIVATION", "NETWORK", "DEPTH"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--adversarial", action="store_true", help="FGSM-RS at eps 8/255")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--clip", type=float, help="largest norm of the gradient of all weights together")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=32, help="height and width of the images")
    parser.add_argument("--lr", type=float, default=0.02)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = train(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, finite(found))
    last = found["losses"][-50:]
    print(
        f"{' '.join(options.run)}: {len(found['losses'])} steps, mean loss of the last 50: {sum(last) / len(last):.3f}"
    )


if __name__ == "__main__":
    main()
