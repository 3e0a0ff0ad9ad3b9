"""Samplers of the batches of one process; each yields whole batches of positions.

They divide the images among processes, so Lightning must not (``Trainer(use_distributed_sampler=False)``).
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from datamodules.seeding import keyed_generator


class ShuffledBatches(Sampler[Tensor]):
    """Training batches: a permutation keyed by (seed, epoch), in full batches only.

    The permutation does not depend on the number of processes: step ``t`` of all processes together sees its images
    ``t * batch_size * world_size`` onwards, so two processes with batches of 64 train on the same images at each step
    as one with batches of 128. The incomplete last batch is left out; it holds other images in the next epoch.

    Args:
        num_images: images in the training set.
        batch_size: images per batch and process, >= 1.
        seed: seed of the permutations.
        rank, world_size: this process and their number.

    Yields:
        ``(batch_size,)`` int64 positions.

    Raises:
        ValueError: if the training set does not fill one batch on every process.
    """

    def __init__(self, num_images: int, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        if batch_size * world_size > num_images:
            processes = f" on each of {world_size} processes" if world_size > 1 else ""
            raise ValueError(
                f"batch_size={batch_size}{processes} is larger than the {num_images} training images; "
                f"use batch_size <= {num_images // world_size}"
            )
        self.num_images, self.batch_size, self.seed = num_images, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.start = 0  # batches that the next iteration leaves out; a run resumed within an epoch sets it

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation that the next iteration follows; Lightning calls this before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_images // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.randperm(self.num_images, generator=keyed_generator("order", self.seed, self.epoch))
        mine = order[: len(self) * self.batch_size * self.world_size][self.rank :: self.world_size]
        # A generator, because a DataLoader with workers makes two iterators and uses the second.
        start, self.start = self.start, 0
        yield from mine.split(self.batch_size)[start:]


class DatedBatches(ShuffledBatches):
    """:class:`ShuffledBatches` with the epoch beside the positions, for images that workers change at random.

    Yields:
        ``((batch_size,) int64 positions, epoch)``.
    """

    def __iter__(self) -> Iterator[Any]:
        for positions in super().__iter__():
            yield positions, self.epoch


class EvalBatches(Sampler[Tensor]):
    """Evaluation batches: every image exactly once over all processes, none repeated as padding.

    Process ``r`` of ``W`` gets positions ``r, r + W, ...``. All processes get the same number of batches (DDP
    synchronises buffers at every forward pass, so a process with one more batch would wait for ever); batch sizes
    within a process differ by one image at most.

    Args:
        num_images: images in the set.
        batch_size: largest number of images per batch and process, >= 1.
        rank, world_size: this process and their number.

    Yields:
        int64 positions, ascending, at most ``batch_size`` of them.

    Raises:
        ValueError: if some process would be left with an empty batch.
    """

    def __init__(self, num_images: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.num_batches = math.ceil(math.ceil(num_images / world_size) / batch_size)
        if num_images // world_size < self.num_batches:
            raise ValueError(
                f"{num_images} images cannot be spread over {world_size} processes in the same number of batches of "
                f"at most {batch_size} image(s) without an empty one; use fewer processes or a larger eval_batch_size"
            )
        self.positions = torch.arange(rank, num_images, world_size)

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.positions.tensor_split(self.num_batches))
