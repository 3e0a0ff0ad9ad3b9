"""Images that are decoded when they are needed: a dataset that is indexed by whole batches."""

import copy
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.checked_files import Checked
from datamodules.crops import CentreCrop, RandomCropFlip
from datamodules.decoding import decode_rgb
from datamodules.images import Batch


class FileImages(Dataset[Batch]):
    """Images in files, of which ``images[positions]`` decodes a whole batch; see :class:`~datamodules.images.Images`.

    Args:
        root: the folder below which the files lie.
        files: the files, all of which have been checked.
        rows: ``(N,)`` int64, the rows of the table that belong to this set, in its order.
        view: the part of each image that is shown.
    """

    def __init__(self, root: Path, files: Checked, rows: Tensor, view: CentreCrop | RandomCropFlip) -> None:
        self.root, self.files, self.rows, self.view = root, files, rows, view
        self.labels, self.class_names = files.table.labels[rows], files.class_names

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return 3, self.view.size, self.view.size

    @property
    def content_sha256(self) -> str:
        """A hash of all files in their order, their labels, the class names and, in evaluations, what is shown."""
        shown = None if isinstance(self.view, RandomCropFlip) else repr(self.view)
        found = hashlib.sha256(json.dumps([self.class_names, shown]).encode())
        for column in (self.files.table.hashes[self.rows], self.labels):
            found.update(column.numpy().tobytes())
        return found.hexdigest()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor | int | tuple[Tensor, int]) -> Batch:
        positions, epoch = index if isinstance(index, tuple) else (torch.as_tensor(index), 0)
        images = torch.empty(positions.numel(), *self.shape, dtype=torch.uint8)
        for image, position in zip(images, positions.flatten().tolist(), strict=True):
            image.copy_(self._pixels(position, epoch))
        return images.reshape(*positions.shape, *self.shape), self.labels[positions], positions

    def _pixels(self, position: int, epoch: int) -> Tensor:
        name = self.files.table.name(int(self.rows[position]))
        try:
            image = decode_rgb((self.root / name).read_bytes(), f"{self.root}: the image {name}")
        except (OSError, ValueError) as error:
            raise OSError(f"{error}; it has changed since it was checked, when this run began") from error
        return torch.from_numpy(np.array(self.view(image, position, epoch))).permute(2, 0, 1)

    def _with_view(self, view: CentreCrop | RandomCropFlip) -> "FileImages":
        other = copy.copy(self)
        other.view = view
        return other

    def resized(self, size: int) -> "FileImages":
        """Return the images seen at another size, of which the same part is shown."""
        if isinstance(self.view, RandomCropFlip):
            return self._with_view(RandomCropFlip(size, self.view.min_area, self.view.seed))
        return self._with_view(CentreCrop(size, round(self.view.shorter * size / self.view.size)))

    def in_training(self, size: int, *, min_area: float, seed: int) -> "FileImages":
        """Return the random views of training, which are indexed by ``(positions, epoch)``."""
        return self._with_view(RandomCropFlip(size, min_area, seed))

    def subset(self, positions: Tensor) -> "FileImages":
        """Return the images at ``positions`` ``(M,)`` int64, in that order."""
        return FileImages(self.root, self.files, self.rows[positions], self.view)
