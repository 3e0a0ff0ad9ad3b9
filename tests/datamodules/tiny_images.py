"""Small data for these tests."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules import ImageDataModule, ImageTensors
from datamodules.image_files import WantedFormat, read_images

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
    compression = {".gz": "gz", ".tgz": "gz", ".xz": "xz", ".txz": "xz", ".bz2": "bz2"}.get(tar.suffix, "")
    with tarfile.open(tar, f"w:{compression}") as stream:
        for file in sorted(folder.rglob("*"), reverse=True):
            if file.is_file():
                info = tarfile.TarInfo(str(Path(top) / file.relative_to(folder)))
                info.size = file.stat().st_size
                stream.addfile(info, io.BytesIO(file.read_bytes()))
    return tar


def write_archive(folder: Path, archive: Path, *, top: str = "") -> Path:
    """Pack ``folder`` as a tar or a zip, as the suffix says."""
    if archive.suffix != ".zip":
        return write_tar(folder, archive, top=top)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as stream:
        for file in sorted(folder.rglob("*"), reverse=True):
            stream.write(file, Path(top) / file.relative_to(folder))
    return archive


def read(path: Path) -> dict[str, ImageTensors]:
    """Decode the images at ``path``."""
    return read_images(path, WantedFormat())


def same_images(first: dict[str, ImageTensors], second: dict[str, ImageTensors]) -> bool:
    """Whether two data sets hold the same images, labels and class names."""
    return all(
        torch.equal(first[split].images, second[split].images)
        and torch.equal(first[split].labels, second[split].labels)
        and first[split].class_names == second[split].class_names
        for split in ("train", "test")
    )
