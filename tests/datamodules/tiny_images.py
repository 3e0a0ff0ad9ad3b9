"""Small data for these tests."""

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules import ImageDataModule, ImageTensors

CLASSES = ("cat", "dog", "eel")


def labelled(counts: list[int]) -> Tensor:
    """Labels sorted by class, as an image folder gives them."""
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


class Tiny(ImageDataModule):
    """Three classes of 4 x 4 grey images, 20 + 7 of each, sorted by class; pixel (0, 0) tells the images apart."""

    num_classes, in_channels, image_size = 3, 1, 4

    def load(self) -> tuple[ImageTensors, ImageTensors]:
        return _numbered(labelled([20] * 3)), _numbered(labelled([7] * 3))


def _numbered(labels: Tensor) -> ImageTensors:
    images = torch.full((len(labels), 1, 4, 4), 255, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(len(labels))
    return ImageTensors(images, labels, CLASSES)


def write_folder(root: Path, *, train: int = 4, test: int = 2, size: int = 6) -> Path:
    """PNG files of random colours, ``train`` + ``test`` of each of the three classes."""
    random = np.random.default_rng(0)
    for split, number in (("train", train), ("test", test)):
        for name in CLASSES:
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(number):
                Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return root


def write_tar(folder: Path, tar: Path, *, top: str = "") -> Path:
    """Pack ``folder``, under the folder ``top`` if given."""
    with tarfile.open(tar, "w:gz" if tar.suffix in (".gz", ".tgz") else "w") as stream:
        for file in sorted(folder.rglob("*"), reverse=True):
            if file.is_file():
                info = tarfile.TarInfo(str(Path(top) / file.relative_to(folder)))
                info.size = file.stat().st_size
                stream.addfile(info, io.BytesIO(file.read_bytes()))
    return tar
