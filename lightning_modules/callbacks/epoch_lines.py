"""The progress of training as lines of text."""

import math
import time
from typing import Any

from pytorch_lightning import Trainer

from lightning_modules.callbacks.epoch_bar import has_bar
from lightning_modules.callbacks.this_epoch import ThisEpoch


def epoch_line(epoch: int, max_epochs: int, metrics: dict[str, Any]) -> str:
    """Return the line that is printed after an epoch.

    Example:
        >>> epoch_line(3, 60, {"train/loss": 1.5, "val/clean_accuracy": 0.5, "val/robust_accuracy": 0.3, "lr": 0.1})
        'epoch   3/60 | loss 1.5000 | clean 50.00 % | robust 30.00 % | lr 0.1'
    """
    value = {name: float(number) for name, number in metrics.items()}
    parts = [f"epoch {epoch:3d}/{max_epochs}"]
    formats = {
        "train/loss": "loss {:.4f}",
        "val/clean_accuracy": "clean {:.2%}",
        "val/robust_accuracy": "robust {:.2%}",
        "val/average_robust_accuracy": "robust average {:.2%}",
        "lr": "lr {:.3g}",
        "images_per_second": "{:.0f} images/s",
        "epoch_seconds": "{:.1f} s",
    }
    for name, form in formats.items():
        if not math.isnan(value.get(name, math.nan)):
            parts.append(form.format(value[name]).replace("%", " %"))
    return " | ".join(parts)


class EpochLines(ThisEpoch):
    """Print what is trained, one line per epoch with clean and robust accuracy, and the progress of long epochs.

    Args:
        every: seconds between two lines within an epoch, > 0; a progress bar replaces these lines.
    """

    def __init__(self, every: float = 60.0) -> None:
        if not every > 0:
            raise ValueError(f"every must be > 0 seconds, got {every}")
        self.every = every

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Print the network, the data and the run folder."""
        folder = trainer.log_dir  # a collective call: every rank makes it
        if not trainer.is_global_zero:
            return
        names, data = pl_module.labels(), trainer.datamodule  # type: ignore[attr-defined]
        size = sum(parameter.numel() for parameter in pl_module.net.parameters())
        sizes = ", ".join(f"{len(getattr(data, f'{split}_set'))} {split}" for split in ("train", "val", "test"))
        print(f"{names['backbone']} {names['activation']}, {size} parameters, objective {names['objective']}")
        attacked = min(pl_module.val_images, len(data.val_set))
        print(f"{type(data).__name__}: {sizes} images; robust accuracy: {pl_module.val_attack}, {attacked} val images")
        print(f"run folder: {folder if trainer.loggers else 'none (fast_dev_run)'}", flush=True)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start the clock."""
        super().on_train_epoch_start(trainer, pl_module)
        self._started = self._printed = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Print the progress of a long epoch, unless a bar shows it."""
        now, batches = time.monotonic(), trainer.num_training_batches
        if trainer.is_global_zero and now - self._printed >= self.every and not has_bar(trainer):
            self._printed = now
            left = (now - self._started) / (batch_idx + 1) * (batches - batch_idx - 1)
            print(
                f"epoch {trainer.current_epoch + 1:3d}/{trainer.max_epochs} | batch {batch_idx + 1}/{batches} | "
                f"about {left / 60:.1f} min left in this epoch",
                flush=True,
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Print the line of the epoch."""
        if trainer.is_global_zero:
            line = epoch_line(trainer.current_epoch + 1, trainer.max_epochs or 0, self.figures(trainer))
            print(line, flush=True)
