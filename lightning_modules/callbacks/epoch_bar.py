"""A progress bar within each epoch and each test."""

import sys
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ProgressBar, TQDMProgressBar


class EpochBar(TQDMProgressBar):
    """Lightning's bar with the accuracies of the last validation; shown on a terminal only.

    Args:
        refresh_rate: training batches between two updates, >= 1.
    """

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate=refresh_rate if sys.stdout and sys.stdout.isatty() else 0)

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        """Name the epoch, counted from 1; Lightning counts from 0."""
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(f"Epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

    def get_metrics(self, trainer: Trainer, model: Any) -> dict[str, Any]:
        """Return the accuracies shown after the bar."""
        shown = {"clean": "val/clean_accuracy", "robust": "val/robust_accuracy"}
        metrics = trainer.callback_metrics
        return {name: f"{float(metrics[key]):.1%}" for name, key in shown.items() if key in metrics}

    def init_test_tqdm(self) -> Any:
        """A line without a bar: the test's batches are few, and the rest is told by :meth:`show`."""
        bar = super().init_test_tqdm()
        bar.bar_format = "test, batch {n_fmt}/{total_fmt}{postfix}"
        bar.leave = False
        return bar

    def on_test_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, *_: Any):
        """Count every batch of a test."""
        self.test_progress_bar.n = batch_idx + 1
        self.test_progress_bar.refresh()

    def show(self, text: str) -> None:
        """Show the state of a test."""
        self.test_progress_bar.set_postfix_str(text)


def has_bar(trainer: Trainer) -> bool:
    """Whether a progress bar, this one or another, is shown."""
    bar = trainer.progress_bar_callback
    return isinstance(bar, ProgressBar) and getattr(bar, "is_enabled", True)
