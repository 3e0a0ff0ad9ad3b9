"""What every set of images can do, whether it is decoded in memory or lies in files."""

from typing import Protocol, TypeAlias

from torch import Tensor

Batch: TypeAlias = tuple[Tensor, Tensor, Tensor]


class Images(Protocol):
    """A split: ``images[positions]`` is a whole batch.

    Indexing with a ``(B,)`` int64 tensor gives ``(images (B, C, H, W) uint8, labels (B,) int64, positions (B,) int64)``
    and gives the same values every time: random changes belong to training alone.
    """

    labels: Tensor  # (N,) int64 in [0, len(class_names))
    class_names: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""

    @property
    def content_sha256(self) -> str | None:
        """A hash of all images in their order, where it is known without decoding them; None otherwise."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor) -> Batch: ...

    def resized(self, size: int) -> "Images":
        """Return the images at ``size`` x ``size`` pixels."""

    def subset(self, positions: Tensor) -> "Images":
        """Return the images at ``positions`` ``(M,)`` int64, in that order."""
