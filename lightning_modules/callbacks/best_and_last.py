"""The checkpoints of a run."""

import sys
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor


class BestAndLast(ModelCheckpoint):
    """Keep the best epoch, and with ``save_last`` always the last one.

    Lightning's ModelCheckpoint (2.6) writes ``last.ckpt`` only in epochs that also improve the monitored value, and a
    run resumed into another folder loses the best value so far. Here ``last.ckpt`` is written every epoch, and a
    resumed run starts with the best value of the run it continues (whose files it does not change). In names of files,
    epochs count from 1, as everywhere else.

    When a signal stops a run, ``last.ckpt`` is also written in the middle of an epoch, between two steps, and one line
    says how to go on. Gradients that are being accumulated are not part of a checkpoint: such runs keep the last
    finished epoch.
    """

    def _monitor_candidates(self, trainer: Trainer) -> dict[str, Tensor]:
        return super()._monitor_candidates(trainer) | {"epoch": torch.tensor(trainer.current_epoch + 1)}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save ``last.ckpt``, and the best checkpoint if this epoch is the best."""
        super().on_train_epoch_end(trainer, pl_module)
        if not self._should_skip_saving_checkpoint(trainer) and self._should_save_on_train_epoch_end(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """After a signal, save the state between two steps and print how to resume."""
        if not isinstance(exception, KeyboardInterrupt | SIGTERMException) or trainer.state.fn != "fit":
            return
        # an interrupt comes at any place within a step; a validation would have to begin anew
        between_steps = isinstance(exception, SIGTERMException) and trainer.training
        accumulating = (trainer.fit_loop.batch_idx + 1) % trainer.accumulate_grad_batches
        if between_steps and not accumulating and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        if trainer.is_global_zero:
            last = self.last_model_path
            onward = f"resume with --ckpt_path {last}" if last else "no epoch was finished, so there is no checkpoint"
            place = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            print(f"stopped in {place}; {onward}", file=sys.stderr, flush=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do nothing: all is saved by now, and Lightning's method would write a file even in a ``fast_dev_run``."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best checkpoint of the resumed run, unless its file is gone."""
        if Path(state_dict["best_model_path"]).is_file():
            super().load_state_dict(state_dict | {"dirpath": self.dirpath})
