"""The epochs of a run, kept in its checkpoints."""

from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_modules.files import write_csv


class History(Callback):
    """One row of metrics an epoch: ``rows``, saved with every checkpoint and written as ``history.csv``.

    Unlike a logger's file, the rows survive a stop: a resumed run starts with those of the epochs before it.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add this epoch's row."""
        row = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        self.rows.append({"epoch": trainer.current_epoch + 1} | row)
        folder = trainer.log_dir
        if trainer.is_global_zero and folder and trainer.loggers:
            write_csv(Path(folder) / "history.csv", self.rows)

    def state_dict(self) -> dict[str, Any]:
        """The rows."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the rows of the epochs before a resumed run."""
        self.rows = list(state_dict["rows"])
