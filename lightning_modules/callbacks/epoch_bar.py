"""A progress bar within each epoch."""

import sys
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import TQDMProgressBar


class EpochBar(TQDMProgressBar):
    """Lightning's bar with the accuracies of the last validation; shown on a terminal only.

    Args:
        refresh_rate: batches between two updates, >= 1.
    """

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate=refresh_rate if sys.stderr.isatty() else 0)

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        """Name the epoch, counted from 1; Lightning counts from 0."""
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(f"Epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

    def get_metrics(self, trainer: Trainer, model: Any) -> dict[str, Any]:
        """Return the accuracies shown after the bar."""
        shown = {"clean": "val/clean_accuracy", "robust": "val/robust_accuracy"}
        metrics = trainer.callback_metrics
        return {name: f"{float(metrics[key]):.1%}" for name, key in shown.items() if key in metrics}
