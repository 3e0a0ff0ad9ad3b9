"""What one reads while it trains."""

import math
import sys
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import TQDMProgressBar


def epoch_line(epoch: int, max_epochs: int, metrics: dict[str, Any]) -> str:
    """One line for one epoch.

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
        "lr": "lr {:.3g}",
        "images_per_second": "{:.0f} images/s",
        "epoch_seconds": "{:.1f} s",
    }
    for name, form in formats.items():
        if not math.isnan(value.get(name, math.nan)):
            parts.append(form.format(value[name]).replace("%", " %"))
    return " | ".join(parts)


class EpochLines(TQDMProgressBar):
    """A bar within each epoch on a terminal, and one line an epoch with clean and robust accuracy anywhere."""

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate=refresh_rate if sys.stderr.isatty() else 0)

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Say what is about to be trained, on what, and where it is kept."""
        folder = trainer.log_dir  # asks all ranks
        if not trainer.is_global_zero:
            return
        names, data = pl_module.labels(), trainer.datamodule  # type: ignore[attr-defined]
        size = sum(parameter.numel() for parameter in pl_module.net.parameters())
        sizes = ", ".join(f"{len(getattr(data, f'{split}_set'))} {split}" for split in ("train", "val", "test"))
        print(f"{names['backbone']} {names['activation']}, {size} parameters, objective {names['objective']}")
        attacked = min(pl_module.val_images, len(data.val_set))
        print(f"{type(data).__name__}: {sizes} images; robust: {pl_module.val_attack} on {attacked} of val")
        print(f"run folder: {folder if trainer.loggers else 'none (fast_dev_run)'}", flush=True)

    def get_metrics(self, trainer: Trainer, model: Any) -> dict[str, Any]:
        """The last validation's accuracies, behind the bar."""
        shown = {"clean": "val/clean_accuracy", "robust": "val/robust_accuracy"}
        metrics = trainer.callback_metrics
        return {name: f"{float(metrics[key]):.1%}" for name, key in shown.items() if key in metrics}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Print the line."""
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.is_global_zero:
            line = epoch_line(trainer.current_epoch + 1, trainer.max_epochs or 0, trainer.callback_metrics)
            print(line, flush=True)
