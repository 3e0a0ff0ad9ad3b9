"""The best checkpoint of a run and its continuations, and the last one."""

from pathlib import Path

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger
from torch.utils.data import DataLoader

from lightning_modules.callbacks import BestAndLast


class Scripted(LightningModule):
    """Logs a score given for every epoch."""

    def __init__(self, scores):
        super().__init__()
        self.scores, self.weight = scores, torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return self.weight + batch.sum()

    def validation_step(self, batch, batch_idx):
        self.log("score", self.scores[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def fit(folder, scores, resume=None, **settings):
    checkpoints = BestAndLast(
        monitor="score", mode="max", filename="best-{epoch}", save_last=True, save_on_train_epoch_end=True
    )
    trainer = Trainer(
        max_epochs=len(scores),
        accelerator="cpu",
        logger=CSVLogger(folder.parent, folder.name, 0),
        callbacks=[checkpoints],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    )
    loader = DataLoader(torch.zeros(2))
    trainer.fit(Scripted(scores), loader, loader, ckpt_path=resume)
    return checkpoints


def epoch_of(path):
    return torch.load(path, weights_only=True)["epoch"]


def names(checkpoints):
    return {path.name for path in Path(checkpoints.dirpath).iterdir()}


@pytest.mark.parametrize("scores, best", [([1, 2, 3], 2), ([3, 2, 1], 0), ([2, 2, 2], 0), ([1, 3, 2], 1)])
def test_the_last_epoch_is_kept_whatever_its_score(tmp_path, scores, best):
    checkpoints = fit(tmp_path / "run", scores)
    assert epoch_of(checkpoints.last_model_path) == 2
    assert epoch_of(checkpoints.best_model_path) == best
    assert names(checkpoints) == {"last.ckpt", f"best-epoch={best + 1}.ckpt"}


def test_a_resumed_run_that_does_not_improve_keeps_the_best_of_the_first(tmp_path):
    first = fit(tmp_path / "first", [1, 9])
    second = fit(tmp_path / "second", [1, 9, 3, 4], resume=first.last_model_path)
    assert second.best_model_path == first.best_model_path
    assert second.best_model_score == 9
    assert names(second) == {"last.ckpt"} and epoch_of(second.last_model_path) == 3
    assert names(first) == {"last.ckpt", "best-epoch=2.ckpt"}


def test_a_resumed_run_that_improves_saves_its_own_best_and_deletes_nothing(tmp_path):
    first = fit(tmp_path / "first", [1, 9])
    second = fit(tmp_path / "second", [1, 9, 3, 10], resume=first.last_model_path)
    assert names(second) == {"last.ckpt", "best-epoch=4.ckpt"}
    assert names(first) == {"last.ckpt", "best-epoch=2.ckpt"}


def test_a_resumed_run_whose_best_file_is_gone_finds_a_new_one(tmp_path):
    first = fit(tmp_path / "first", [1, 9])
    Path(first.best_model_path).unlink()
    second = fit(tmp_path / "second", [1, 9, 3, 4], resume=first.last_model_path)
    assert epoch_of(second.best_model_path) == 3


def test_a_fast_dev_run_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(tmp_path / "run", [1], fast_dev_run=True)
    assert not list(tmp_path.rglob("*.ckpt"))
