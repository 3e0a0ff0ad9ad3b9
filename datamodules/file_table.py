"""The files of a large data set as a few tensors: what was found in the folders, and what is known of each file."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.layouts import ImageFile

UNCHECKED = 0


class FileTable(NamedTuple):
    """Files below a folder.

    Tensors instead of a list of names: a million Python objects would be copied into every worker process, one memory
    page after the other, as soon as their reference counts change.

    Args:
        names: ``(N, W)`` uint8, the names below the folder in the encoding of the file system, padded with zeros.
        labels: ``(N,)`` int64, the class of each.
        is_test: ``(N,)`` bool, whether it belongs to the test set.
        sizes, times: ``(N,)`` int64, bytes and time of the last change in nanoseconds.
        hashes: ``(N,)`` int64, a hash of the content; ``UNCHECKED`` where the file has not been read.
    """

    names: Tensor
    labels: Tensor
    is_test: Tensor
    sizes: Tensor
    times: Tensor
    hashes: Tensor

    def name(self, row: int) -> str:
        """Return the name of a file."""
        return os.fsdecode(self.names[row].numpy().tobytes().rstrip(b"\0"))

    @property
    def is_checked(self) -> bool:
        """Whether all files have been read."""
        return bool((self.hashes != UNCHECKED).all())

    def equals(self, other: "FileTable") -> bool:
        """Whether the other table says the same of the same files in the same order."""
        return all(torch.equal(mine, its) for mine, its in zip(self, other, strict=True))

    def with_known(self, known: "FileTable") -> "FileTable":
        """Return the table with the hashes of those files that ``known`` holds in the same size and time."""
        names, old = _as_bytes(self.names), _as_bytes(known.names)
        order = np.argsort(old)
        place = order[np.searchsorted(old, names, sorter=order).clip(max=len(old) - 1)]
        row = torch.from_numpy(place)
        same = torch.from_numpy(old[place] == names)
        same &= (known.sizes[row] == self.sizes) & (known.times[row] == self.times)
        return self._replace(hashes=torch.where(same, known.hashes[row], self.hashes))


def tabulate(train: Sequence[ImageFile], test: Sequence[ImageFile], class_names: Sequence[str]) -> FileTable:
    """Return the files of both splits, with their sizes and times, in their order."""
    number = {name: i for i, name in enumerate(class_names)}
    files = [*train, *test]
    encoded = np.array([os.fsencode(file.name) for file in files], dtype=np.bytes_)
    states = [os.stat(file.content) for file in files if isinstance(file.content, Path)]
    return FileTable(
        names=torch.from_numpy(encoded.view(np.uint8).reshape(len(files), encoded.itemsize).copy()),
        labels=torch.tensor([number[file.class_name] for file in files]),
        is_test=torch.arange(len(files)) >= len(train),
        sizes=torch.tensor([state.st_size for state in states]),
        times=torch.tensor([state.st_mtime_ns for state in states]),
        hashes=torch.full((len(files),), UNCHECKED),
    )


def _as_bytes(names: Tensor) -> np.ndarray:
    return np.ascontiguousarray(names.numpy()).view(f"S{names.shape[1]}").ravel()
