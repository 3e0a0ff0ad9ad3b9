"""The predictions of a network."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_modules.files import write_csv


class Predictions(Callback):
    """Write ``predictions.csv`` after ``predict``: index, label, predicted, probability; a row per image, in order."""

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start with no rows."""
        self._rows: list[dict[str, float]] = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect a batch."""
        columns = {name: values.tolist() for name, values in outputs.items()}
        self._rows += [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the rows of all ranks and write them."""
        parts: list[Any] = [self._rows]
        if trainer.world_size > 1:
            parts = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, self._rows)
        folder = trainer.log_dir
        if trainer.is_global_zero and trainer.loggers and folder:
            rows = sorted((row for part in parts for row in part), key=lambda row: row["index"])
            path = Path(folder) / "predictions.csv"
            write_csv(path, rows)
            print(f"{len(rows)} predictions in {path}", flush=True)
