"""The figures of one epoch."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer


class ThisEpoch(Callback):
    """The base of callbacks that tell the figures of every epoch.

    Lightning keeps the last value of every figure, so in an epoch without a validation those of an earlier one are
    still there.
    """

    _validated = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an epoch."""
        self._validated = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember that this epoch was validated."""
        self._validated = not trainer.sanity_checking

    def figures(self, trainer: Trainer) -> dict[str, Any]:
        """Return what was measured in this epoch, by name."""
        measured = trainer.callback_metrics
        return {name: value for name, value in measured.items() if self._validated or not name.startswith("val/")}
