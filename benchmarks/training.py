"""Images per second of ``fit``, against the published loop of fast adversarial training, and what bfloat16 changes.

    python benchmarks/training.py --data cifar10-jpeg.tar.gz                 # all cores, by the wall clock
    python benchmarks/training.py --data cifar10-jpeg.tar.gz --threads 1     # one core, by the time of the process

The same VGG with ReLU and with KAF, batch 128, is trained by the public loop (``public_loop.py``: torchvision's
transforms in a DataLoader with two workers) and by Lightning's ``Trainer`` as ``fit`` does, in float32 and in bfloat16
autocast with channels_last memory. All of them take turns; the figures are medians over the rounds. On one thread the
clock is that of the process, which other work on the machine hardly changes; the two workers of the public loop are
then not counted. ``between steps`` is the share of the time from the end of a step to the start of the next: loader,
augmentation and callbacks. Last, at the weights just trained, the signs of the input gradients are compared with those
of float32.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import public_loop
import torch
from pytorch_lightning import Callback, Trainer
from timing import keep_freed_memory, machine
from torch import Tensor, nn

from datamodules import CropFlip, Digits, ImageDataModule, ImageFolder
from kafnets.activations import KAF, Activation, ReLU, Ridge
from kafnets.backbones import KafVGG
from kafnets.losses import cross_entropy
from lightning_modules import AdversarialTraining
from lightning_modules.callbacks import FiniteLoss, Throughput

WARM_UP = 2  # steps before the clock starts


def now() -> float:
    """Seconds of the process on one thread, of the wall clock on several."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


class Speed(NamedTuple):
    """Images per second, and the share of the time that passed between steps."""

    rate: float
    between: float = float("nan")


class Clock(Callback):
    """The time within and between the steps of one ``fit``."""

    def __init__(self) -> None:
        self.starts: list[float] = []
        self.ends: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.starts.append(now())

    def on_train_batch_end(self, *_: Any) -> None:
        self.ends.append(now())

    def speed(self, batch_size: int) -> Speed:
        ends, starts = self.ends[WARM_UP - 1 :], self.starts[WARM_UP:]
        taken = ends[-1] - ends[0]
        between = sum(start - end for start, end in zip(starts, ends, strict=False))
        return Speed(batch_size * len(starts) / taken, between / taken)


def elu_kaf(channels: int) -> Activation:
    """The KAF of ``kafvgg_elu.yaml``."""
    return KAF(channels, init=Ridge(nn.functional.elu))


def vgg(activation: Callable[[int], Activation], data: ImageDataModule) -> KafVGG:
    """The network of the short recipes."""
    size = {"image_size": data.image_size, "in_channels": data.in_channels, "num_classes": data.num_classes}
    return KafVGG(activation=activation, dropout=(0.1, 0.1, 0.1, 0.2), bn_momentum=0.1, **size)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    """The optimizer of all that is compared."""
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)


def fit(net: KafVGG, data: ImageDataModule, steps: int, *, half: bool, callbacks: Sequence[Callback] = ()) -> Speed:
    """Train for some steps as ``fit`` does."""
    clock = Clock()
    trainer = Trainer(
        max_epochs=1,
        limit_train_batches=WARM_UP + steps,
        limit_val_batches=0,
        accelerator="cpu",
        precision="bf16-mixed" if half else "32-true",
        callbacks=[*callbacks, clock, Throughput(), FiniteLoss()],
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(AdversarialTraining(net=net, optimizer=sgd, channels_last=half), data)
    return clock.speed(data.batch_size)


def published(net: KafVGG, data: ImageDataModule, steps: int) -> Speed:
    """Train for some steps by the public loop."""
    train = data.train_set
    loop = public_loop.steps(net, sgd(net.parameters()), train.images, train.labels, data.batch_size, "cpu")
    list(islice(loop, WARM_UP))
    start = now()
    images = sum(islice(loop, steps))
    return Speed(images / (now() - start))


def input_gradient(net: nn.Module, x: Tensor, y: Tensor, *, half: bool) -> Tensor:
    """The gradient that an attack in evaluation mode steps along."""
    net = net.to(memory_format=torch.channels_last if half else torch.contiguous_format).eval()
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = cross_entropy(net(x), y).sum()
    return torch.autograd.grad(loss, x)[0]


def equal_signs(net: nn.Module, data: ImageDataModule) -> float:
    """The share of pixels at which bfloat16 and float32 agree on the sign of the input gradient."""
    images = data.val_set
    x, y = images.images[:500].float() / 255, images.labels[:500]
    whole, half = (input_gradient(net, x, y, half=half).sign() for half in (False, True))
    return (whole == half).float().mean().item()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="CIFAR-10 as image files, a folder or tar; digits by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="timed steps per round")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    data: ImageDataModule = Digits(batch_size=128, augment=CropFlip(padding=1))
    if options.data is not None:
        data = ImageFolder(options.data, batch_size=128, augment=CropFlip())
    data.prepare_data()
    data.setup()
    torch.manual_seed(0)
    nets: dict[str, tuple[KafVGG, Callable[[KafVGG], Speed]]] = {}
    for name, activation in (("ReLU", ReLU), ("KAF", elu_kaf)):
        if name == "ReLU":
            nets["public loop, ReLU"] = vgg(activation, data), lambda net: published(net, data, options.steps)
        for kind, half in (("float32", False), ("bfloat16, channels_last", True)):
            run = lambda net, half=half: fit(net, data, options.steps, half=half)  # noqa: E731
            nets[f"fit, {name}, {kind}"] = vgg(activation, data), run
    taken: dict[str, list[Speed]] = {name: [] for name in nets}
    for _ in range(options.rounds):
        for name, (net, run) in nets.items():
            taken[name].append(run(net))
    print(f"{machine()}; load {os.getloadavg()[0]:.1f} of {os.cpu_count()}")
    print("| training | images/s | times the public loop | between steps |\n|---|---|---|---|")
    public = median(speed.rate for speed in taken["public loop, ReLU"])
    for name, speeds in taken.items():
        rate, between = median(speed.rate for speed in speeds), median(speed.between for speed in speeds)
        share = "-" if between != between else f"{between:.1%}"
        print(f"| {name} | {rate:.0f} | {rate / public:.2f} | {share} |")
    for name, (net, _) in nets.items():
        if "float32" in name:
            print(f"{name}: {equal_signs(net, data):.2%} of the signs of input gradients are equal in bfloat16")


if __name__ == "__main__":
    main()
