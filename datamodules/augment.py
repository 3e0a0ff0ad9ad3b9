"""Random changes to training images, on the whole batch at once and on its own device."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from datamodules.transfer import to_device


class Augment(ABC):
    """A random change of images: ``(B, C, H, W)`` in [0, 1] to the same shape, dtype, device and range.

    Random numbers are drawn per image from a CPU generator and then moved, so that CPU and GPU get the same ones.
    """

    @abstractmethod
    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """Return the changed images; ``x`` itself is not changed."""


class RandomCrop(Augment):
    """Pad with zeros on every side, then crop each image to its original size at its own random position.

    Args:
        padding: pixels added on each side, >= 0; images move by up to this many pixels each way.

    Raises:
        ValueError: if ``padding`` is negative.
    """

    def __init__(self, *, padding: int = 4) -> None:
        if padding < 0:
            raise ValueError(f"padding must be >= 0 pixels, got {padding}")
        self.padding = padding

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """See :class:`Augment`."""
        batch, channels, height, width = x.shape
        drawn = torch.randint(2 * self.padding + 1, (2, batch, 1), generator=generator)
        top, left = to_device(drawn, x.device)
        rows = top + torch.arange(height, device=x.device)
        columns = left + torch.arange(width, device=x.device)
        padded = nn.functional.pad(x, [self.padding] * 4)
        image = torch.arange(batch, device=x.device)[:, None, None, None]
        channel = torch.arange(channels, device=x.device)[:, None, None]
        return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


class RandomFlip(Augment):
    """Mirror each image left to right with probability ``p``.

    Args:
        p: in [0, 1].

    Raises:
        ValueError: if ``p`` is out of its range.
    """

    def __init__(self, *, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"p must lie in [0, 1], got {p}")
        self.p = p

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """See :class:`Augment`."""
        flipped = torch.rand(len(x), generator=generator) < self.p
        return torch.where(to_device(flipped, x.device)[:, None, None, None], x.flip(-1), x)


class Chain(Augment):
    """One augmentation after the other, drawing from the same generator.

    Args:
        augments: in the order in which they are applied.
    """

    def __init__(self, augments: Sequence[Augment]) -> None:
        self.augments = list(augments)

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """See :class:`Augment`."""
        for augment in self.augments:
            x = augment(x, generator)
        return x


class CropFlip(Chain):
    """Random crop, then random flip: the usual augmentation of CIFAR.

    Args:
        padding: see :class:`RandomCrop`.
        p: see :class:`RandomFlip`.
    """

    def __init__(self, *, padding: int = 4, p: float = 0.5) -> None:
        super().__init__([RandomCrop(padding=padding), RandomFlip(p=p)])
