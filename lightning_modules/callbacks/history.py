"""The metrics of every epoch of a run, kept in its checkpoints."""

from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer

from lightning_modules.callbacks.this_epoch import ThisEpoch
from lightning_modules.files import write_csv


class History(ThisEpoch):
    """Keep one row of metrics per epoch in ``rows``, saved with every checkpoint and written to ``history.csv``.

    Unlike a logger's file, the rows survive an interruption: a resumed run starts with the rows of earlier epochs.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the rows of a resumed run, which may have no epoch left."""
        if self.rows:
            self._write(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add this epoch's row."""
        row = {name: float(value) for name, value in sorted(self.figures(trainer).items())}
        self.rows.append({"epoch": trainer.current_epoch + 1} | {k: v for k, v in row.items() if k != "epoch"})
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        folder = trainer.log_dir  # a collective call: every rank makes it
        if trainer.is_global_zero and folder and trainer.loggers:
            write_csv(Path(folder) / "history.csv", self.rows)

    def state_dict(self) -> dict[str, Any]:
        """Return the rows."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rows of earlier epochs."""
        self.rows = list(state_dict["rows"])
