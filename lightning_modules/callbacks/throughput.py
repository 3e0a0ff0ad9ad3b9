"""Speed and peak memory of training."""

import resource
import sys
import time
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory since the start in MB (10^6 bytes): tensors on a GPU, or the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


class Throughput(Callback):
    """Log ``images_per_second`` (training only, all ranks), ``epoch_seconds`` (with validation), ``peak_memory_mb``."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clocks."""
        self._epoch_start = self._mark = time.perf_counter()
        self._train_seconds, self._images = 0.0, 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images of a batch."""
        self._images += len(batch[0])
        if batch_idx + 1 == trainer.num_training_batches and pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        # validation runs inside the epoch, so the training clock stops at its last batch, which may come early
        self._train_seconds = time.perf_counter() - self._mark

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the three values."""
        speed = self._images / max(self._train_seconds, 1e-9)
        pl_module.log("images_per_second", speed, sync_dist=True, reduce_fx="sum")
        pl_module.log("epoch_seconds", time.perf_counter() - self._epoch_start, sync_dist=True, reduce_fx="max")
        pl_module.log("peak_memory_mb", peak_memory_mb(pl_module.device), sync_dist=True, reduce_fx="max")
