"""Decoded images in memory: a dataset that is indexed by whole batches."""

import copy

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from datamodules.images import Batch
from datamodules.transfer import to_device


class ImageTensors(Dataset[Batch]):
    """Images, labels and class names; ``images[indices]`` is a whole batch in one indexing operation.

    Args:
        images: ``(N, C, H, W)`` uint8.
        labels: ``(N,)`` int64 in ``[0, len(class_names))``.
        class_names: the name of each label.

    Indexing with a ``(B,)`` int64 tensor gives ``(images (B, C, H, W) uint8, labels (B,) int64, indices (B,) int64)``;
    with an integer the same three without the first dimension.

    Raises:
        ValueError: if a shape, a dtype or a label is not as described above, or if there is no image.

    Example:
        >>> data = ImageTensors(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0]), ("cat", "dog"))
        >>> [part.shape for part in data[torch.tensor([2, 1])]]
        [torch.Size([2, 1, 8, 8]), torch.Size([2]), torch.Size([2])]
    """

    def __init__(self, images: Tensor, labels: Tensor, class_names: tuple[str, ...]) -> None:
        if images.dim() != 4 or images.dtype != torch.uint8:
            raise ValueError(f"images must be uint8 (N, C, H, W), got {images.dtype} {tuple(images.shape)}")
        if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
            raise ValueError(
                f"labels must be int64 ({len(images)},), one per image, got {labels.dtype} {tuple(labels.shape)}"
            )
        if len(images) == 0:
            raise ValueError("there is no image; give at least one")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(class_names):
            raise ValueError(
                f"labels must lie in [0, {len(class_names)}) as there are class names, got {low} to {high}"
            )
        self.images, self.labels, self.class_names = images, labels, tuple(class_names)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor | int) -> Batch:
        index = to_device(torch.as_tensor(index), self.images.device)
        return self.images[index], self.labels[index], index

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    @property
    def content_sha256(self) -> None:
        """None: the images must be read to be hashed."""
        return None

    def to(self, device: torch.device) -> "ImageTensors":
        """Return a copy in the memory of ``device``; its batches are there too."""
        moved = copy.copy(self)
        moved.images, moved.labels = self.images.to(device), self.labels.to(device)
        return moved

    def resized(self, size: int) -> "ImageTensors":
        """Return the images resampled to ``size`` x ``size`` pixels (bilinear, antialiased, sides independently)."""
        if self.images.shape[2:] == (size, size):
            return self
        parts = [
            nn.functional.interpolate(part, (size, size), mode="bilinear", antialias=True)
            for part in self.images.split(1000)  # bounds the memory for intermediate results
        ]
        return ImageTensors(torch.cat(parts), self.labels, self.class_names)

    def subset(self, positions: Tensor) -> "ImageTensors":
        """Return a copy that holds the images at ``positions`` ``(M,)`` int64, in that order."""
        return ImageTensors(self.images[positions], self.labels[positions], self.class_names)
