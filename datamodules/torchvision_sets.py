"""The data sets that torchvision downloads: CIFAR-10, CIFAR-100, SVHN, MNIST and FashionMNIST."""

import gzip
import zlib
from abc import abstractmethod
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchvision import datasets

from datamodules.base import ImageDataModule
from datamodules.image_tensors import ImageTensors

# Errors that torchvision's readers raise for missing, truncated or foreign files, or without a network (URLError and
# the errors of gzip are OSErrors).
_READ_ERRORS = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    AssertionError,
    KeyError,
    IndexError,
    UnpicklingError,
    zlib.error,
)

_MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


class TorchvisionDataModule(ImageDataModule):
    """A data set that torchvision knows how to download and read.

    Args:
        root: folder of the files; downloads go there too.
        download: download files that are missing in ``root``; needs a network only if any are.
        **kwargs: see :class:`~datamodules.base.ImageDataModule`.

    Raises:
        FileNotFoundError: from :meth:`prepare_data` and :meth:`setup`, if the files are absent and cannot be fetched.
        OSError: likewise, if the files are there but incomplete or corrupt.
    """

    stored_in: ClassVar[tuple[str, ...]]

    def __init__(self, *, root: str | Path = "data", download: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root, self.download = Path(root).expanduser(), download

    @abstractmethod
    def torchvision_set(self, *, train: bool, download: bool) -> Any:
        """Return torchvision's data set."""

    @abstractmethod
    def convert(self, source: Any) -> ImageTensors:
        """Convert torchvision's data set."""

    def prepare_data(self) -> None:
        """Download missing files if ``download`` is set."""
        if self.download:
            for train in (True, False):
                self._read(train=train, download=True)

    def load(self) -> tuple[ImageTensors, ImageTensors]:
        """Read the training and the test images."""
        return self._read(train=True, download=False), self._read(train=False, download=False)

    def _read(self, *, train: bool, download: bool) -> ImageTensors:
        try:
            return self.convert(self.torchvision_set(train=train, download=download))
        except _READ_ERRORS as error:
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> OSError:
        name = type(self).__name__
        root = self.root.resolve()
        missing = [file for file in self.stored_in if not (root / file).exists()]
        reason = " ".join(str(error).split()) or type(error).__name__
        advice = (
            f"run once with download=True on a machine with a network and copy {root} here, or train on a folder or "
            "archive of images with the data module ImageFolder (path=...)"
        )
        if missing:
            return FileNotFoundError(f"{name} is not in {root}, which has no {missing[0]} ({reason}): {advice}")
        return OSError(
            f"{name} in {root} is incomplete or corrupt ({reason}): delete {self.stored_in[0]}, then {advice}"
        )


class CIFAR10(TorchvisionDataModule):
    """CIFAR-10: 50,000 + 10,000 colour images of 32 x 32 pixels in 10 classes."""

    num_classes, in_channels, image_size = 10, 3, 32
    stored_in = ("cifar-10-batches-py",)
    source: ClassVar[type] = datasets.CIFAR10

    def torchvision_set(self, *, train: bool, download: bool) -> Any:
        """Return torchvision's data set."""
        return self.source(self.root, train=train, download=download)

    def convert(self, source: Any) -> ImageTensors:
        """Return its images, stored (N, H, W, C)."""
        images = torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous()
        return ImageTensors(images, torch.tensor(source.targets), tuple(source.classes))


class CIFAR100(CIFAR10):
    """CIFAR-100: 50,000 + 10,000 colour images of 32 x 32 pixels in 100 classes."""

    num_classes = 100
    stored_in = ("cifar-100-python",)
    source = datasets.CIFAR100


class SVHN(TorchvisionDataModule):
    """Street View House Numbers: 73,257 + 26,032 colour images of 32 x 32 pixels, digits 0 to 9."""

    num_classes, in_channels, image_size = 10, 3, 32
    stored_in = ("train_32x32.mat", "test_32x32.mat")

    def torchvision_set(self, *, train: bool, download: bool) -> Any:
        """Return torchvision's data set."""
        return datasets.SVHN(str(self.root), split="train" if train else "test", download=download)

    def convert(self, source: Any) -> ImageTensors:
        """Return its images, stored (N, C, H, W)."""
        images = torch.from_numpy(source.data).contiguous()
        return ImageTensors(images, torch.from_numpy(source.labels).long(), tuple("0123456789"))


class MNIST(TorchvisionDataModule):
    """MNIST: 60,000 + 10,000 grey images of 28 x 28 pixels, digits 0 to 9."""

    num_classes, in_channels, image_size = 10, 1, 28
    stored_in = tuple(f"MNIST/raw/{name}" for name in _MNIST_FILES)
    source: ClassVar[type] = datasets.MNIST

    def torchvision_set(self, *, train: bool, download: bool) -> Any:
        """Return torchvision's data set.

        Raises:
            ValueError: if a file differs from the compressed one beside it.
        """
        source = self.source(self.root, train=train, download=download)
        for file in (self.root / name for name in (self.stored_in[:2] if train else self.stored_in[2:])):
            # The files as they are read have no checksum; the compressed ones, which torchvision keeps, have one.
            packed = file.with_name(f"{file.name}.gz")
            if packed.exists() and gzip.decompress(packed.read_bytes()) != file.read_bytes():
                raise ValueError(f"{file} is not the content of {packed}")
        return source

    def convert(self, source: Any) -> ImageTensors:
        """Return its images, stored (N, H, W)."""
        images: Tensor = source.data.unsqueeze(1)
        return ImageTensors(images, source.targets.long(), tuple(source.classes))


class FashionMNIST(MNIST):
    """FashionMNIST: 60,000 + 10,000 grey images of 28 x 28 pixels, 10 kinds of clothing."""

    stored_in = tuple(f"FashionMNIST/raw/{name}" for name in _MNIST_FILES)
    source = datasets.FashionMNIST
