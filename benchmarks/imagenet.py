"""Images per second and memory of every stage of training on photographs, on a CPU.

    python benchmarks/imagenet.py --threads 1                               # photographs that it makes itself
    python benchmarks/imagenet.py --data imagenet --workers 1 2 4 8 16      # your own, and your own processor

``decode`` reads a JPEG and decodes it; ``decode and crop`` is what a worker process does for a training image;
``attack`` is one FGSM step from a random start, ``step`` a whole training step with it. They run on one thread and are
timed by the clock of the process, which other work on the machine hardly changes. ``loader`` is the data module's
loader with so many workers by the wall clock, so it needs idle cores. The loader's share is the time of a training
image in ``decode and crop`` over that time and that of ``step``: what a single core would spend on it.

A GPU takes the step; on it, ``python benchmarks/gpu.py --parts imagenet`` measures steps of a ResNet-50. The number of
workers that one GPU needs is its images per second over those of ``decode and crop``.
"""

import argparse
import io
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timing import interleaved, keep_freed_memory, machine, peak_bytes
from torch import nn

from datamodules import ImageNetFolder
from datamodules.crops import RandomCropFlip
from datamodules.decoding import decode_rgb
from kafnets.activations import KAF, Activation, ReLU, Ridge, SiLU
from kafnets.backbones import Backbone, ResNet18, ResNet50
from kafnets.keyed_random import image_keys
from kafnets.objectives import Adversarial, Batch
from kafnets.threat import ThreatModel

NETS: dict[str, type[Backbone]] = {"ResNet18": ResNet18, "ResNet50": ResNet50}


def silu_kaf(channels: int) -> Activation:
    """The KAF of ``kafresnet50_imagenet.yaml``."""
    return KAF(channels, init=Ridge(nn.functional.silu))


ACTIVATIONS: dict[str, Callable[[int], Activation]] = {"ReLU": ReLU, "SiLU": SiLU, "KAF": silu_kaf}


def write_photographs(root: Path, images: int) -> None:
    """Two classes of noise with the spectrum, the size (500 x 375) and about the bytes of ImageNet's files: 134 kB."""
    random = np.random.default_rng(0)
    y, x = np.meshgrid(np.fft.fftfreq(375), np.fft.fftfreq(500), indexing="ij")
    amplitude = 1 / np.maximum(np.hypot(y, x), 1 / 500)
    for i in range(images):
        noise = np.fft.ifft2(
            amplitude[..., None] * np.fft.fft2(random.normal(size=(375, 500, 3)), axes=(0, 1)), axes=(0, 1)
        )
        pixels = 128 + 50 * noise.real / noise.real.std()
        for split in ("train", "val"):
            folder = root / split / f"class{i % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            if split == "train" or i < 4:
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.JPEG", quality=92)


def decoding(files: list[bytes], size: int, rounds: int) -> dict[str, float]:
    """Images per second of one thread."""
    view = RandomCropFlip(size, 0.08, 0)

    def decode() -> None:
        for data in files:
            decode_rgb(data, "it")

    def crop() -> None:
        for i, data in enumerate(files):
            np.array(view(decode_rgb(data, "it"), i, 0))

    taken = interleaved({"decode": decode, "decode and crop": crop}, rounds, "cpu")
    return {name: len(files) / value for name, value in taken.items()}


def training(net: Backbone, size: int, batch_size: int, rounds: int) -> dict[str, dict[str, float]]:
    """Images per second of one FGSM step and of a training step, and the memory that they need per image."""
    objective, threat = Adversarial(), ThreatModel(eps=4 / 255)
    x, y = torch.rand(batch_size, 3, size, size), torch.arange(batch_size) % net.num_classes
    batch = Batch(x, y, image_keys(torch.arange(batch_size), 0), 0.0, threat)
    optimizer = torch.optim.SGD(net.train().parameters(), lr=0.01, momentum=0.9)

    def attack() -> None:
        objective.craft(net, batch)

    def step() -> None:
        optimizer.zero_grad()
        objective(net, batch).loss.backward()
        optimizer.step()

    runs: dict[str, Callable[[], object]] = {"attack": attack, "step": step}
    taken = interleaved(runs, rounds, "cpu")
    return {
        name: {"images_per_second": batch_size / taken[name], "mb": peak_bytes(run, "cpu") / batch_size / 1e6}
        for name, run in runs.items()
    }


def loading(data: ImageNetFolder, workers: int) -> float:
    """Images per second of the loader, from its second batch on, by the wall clock."""
    data.num_workers = workers
    batches = iter(data.train_dataloader())
    next(batches)
    start = time.perf_counter()
    images = sum(len(x) for x, _, _ in batches)
    return images / (time.perf_counter() - start)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with train/ and val/; photographs are made by default")
    parser.add_argument("--images", type=int, default=64, help="photographs that are made, or decoded in one thread")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 224, 288])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--net", choices=NETS, default="ResNet50")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    found: dict[str, object] = {"machine": machine(), "load": os.getloadavg()[0], "cores": os.cpu_count()}
    print(f"{found['machine']}; load {os.getloadavg()[0]:.1f} of {os.cpu_count()}")

    def tell(name: str, values: object) -> None:
        found[name] = values
        print(f"{name}: {json.dumps(values)}", flush=True)
        if options.out:
            options.out.write_text(json.dumps(found, indent=2) + "\n")

    with tempfile.TemporaryDirectory() as made:
        root = options.data or Path(made) / "photographs"
        if options.data is None:
            write_photographs(root, options.images)
        data = ImageNetFolder(root, batch_size=options.batch_size, cache=made)
        data.prepare_data()
        data.setup()
        names = [data.train_set.files.table.name(int(row)) for row in data.train_set.rows[: options.images]]
        files = [(root / name).read_bytes() for name in names]
        tell("kB per file", round(sum(map(len, files)) / len(files) / 1e3, 1))
        tell("pixels", list(Image.open(io.BytesIO(files[0])).size))
        rates = {size: decoding(files, size, options.rounds) for size in options.sizes}
        for size, rate in rates.items():
            tell(f"one thread, {size} px, images/s", {name: round(value, 1) for name, value in rate.items()})
        for workers in options.workers:
            tell(f"loader, {workers} workers, {data.image_size} px, images/s", round(loading(data, workers), 1))
    keep_freed_memory()
    for size in options.sizes:
        for name, activation in ACTIVATIONS.items():
            torch.manual_seed(0)
            net = NETS[options.net](activation=activation, image_size=max(size, 64))
            values = training(net, size, options.batch_size, options.rounds)
            crop, step = 1 / rates[size]["decode and crop"], 1 / values["step"]["images_per_second"]
            rounded = {stage: {key: round(v, 2) for key, v in each.items()} for stage, each in values.items()}
            tell(f"{options.net}, {name}, {size} px", rounded | {"loader_share": round(crop / (crop + step), 4)})


if __name__ == "__main__":
    main()
