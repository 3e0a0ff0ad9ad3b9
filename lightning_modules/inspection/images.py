"""The images of an inspection."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from pytorch_lightning import LightningDataModule
from torch import Tensor

from kafnets.attacks.identity import digest
from lightning_modules.load_classifier import build


@dataclass(frozen=True)
class Images:
    """The first test images: ``x`` in [0, 1], classes ``y``, numbers ``index``, and what tells them from others."""

    x: Tensor
    y: Tensor
    index: Tensor
    about: dict[str, Any]


def data_settings(settings: Mapping[str, Any], flags: Sequence[str]) -> dict[str, Any]:
    """The settings of the data module of a checkpoint, with ``--data.NAME=VALUE`` over them.

    Raises:
        ValueError: if a flag is about something else than data.

    Example:
        >>> data_settings({"data": {"class_path": "datamodules.Digits", "batch_size": 8}}, ["--data.batch_size=4"])
        {'class_path': 'datamodules.Digits', 'batch_size': 4}
    """
    found = dict(settings.get("data") or {})
    for flag in flags:
        name, _, value = flag.partition("=")
        if not name.startswith("--data."):
            raise ValueError(f"inspect takes no {name}; it takes the network as it was trained, and --data.path")
        found[name.removeprefix("--data.")] = yaml.safe_load(value)
    if "class_path" not in found:
        raise ValueError("the checkpoint does not say which data it was trained on; give one saved by cli.py")
    return found


def load_images(settings: Mapping[str, Any], count: int, sizes: Mapping[str, int]) -> Images:
    """Load the first test images, which are a fair sample of all.

    Args:
        settings: as :func:`data_settings` returns them.
        count: how many.
        sizes: ``num_classes``, ``in_channels`` and ``image_size`` that the networks are built for.

    Raises:
        ValueError: if there are fewer, or they do not fit the networks.
    """
    data = build(LightningDataModule, dict(settings))
    for name, size in sizes.items():
        if (found := getattr(data, name, size)) != size:
            raise ValueError(
                f"{type(data).__name__} has {name}={found}, and the networks are built for {size}; give --data.path "
                "of the data they were trained on"
            )
    data.prepare_data()
    data.setup("test")
    batches: list[Any] = []
    total = 0
    for batch in data.test_dataloader():
        batches.append(data.on_after_batch_transfer(batch, 0))
        total += len(batches[-1][0])
        if total >= count:
            break
    if total < count:
        raise ValueError(f"--images={count}, but there are only {total} test images; ask for at most {total}")
    x, y, index = (torch.cat(parts)[:count] for parts in zip(*batches, strict=True))
    about = {"data": type(data).__name__, "images": count, "images_sha256": digest(x) + digest(y)}
    return Images(x, y, index, about)
