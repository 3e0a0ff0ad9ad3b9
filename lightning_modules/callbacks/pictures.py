"""The pictures of a run."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from kafnets.analysis import activation_shapes
from kafnets.plots import plot_activations, plot_curves
from lightning_modules.callbacks.history import History
from lightning_modules.files import write_figure


class Pictures(Callback):
    """Draw ``curves.png`` after training and, if activations are trainable, ``activations.png`` after a test.

    The second shows the tested weights: the learned shapes of each layer over the density of its pre-activations on
    some test images. Both go into the run folder and to every logger that takes images (W&B).

    Args:
        images: number of test images on which the densities are measured, >= 1.
    """

    def __init__(self, *, images: int = 256) -> None:
        if images < 1:
            raise ValueError(f"images must be >= 1, got {images}")
        self.images = images
        self._sample: Tensor | None = None

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Draw the curves."""
        histories = [item for item in trainer.callbacks if isinstance(item, History)]  # type: ignore[attr-defined]
        if histories and histories[0].rows:
            publish(trainer, "curves", plot_curves(histories[0].rows, objective=pl_module.objective.label))

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep some images of the first batch."""
        if batch_idx == 0:
            self._sample = batch[0][: self.images]

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Draw the activations."""
        if self._sample is None:
            return
        shapes = activation_shapes(pl_module.net, self._sample)
        if shapes:
            publish(trainer, "activations", plot_activations(shapes))


def publish(trainer: Trainer, name: str, figure: Figure) -> None:
    """Write a figure into the run folder and to every logger that takes images; all ranks must call it."""
    folder = trainer.log_dir  # a collective call: every rank makes it
    if not (trainer.is_global_zero and trainer.loggers and folder):
        return
    path = Path(folder) / f"{name}.png"
    write_figure(path, figure)
    for logger in trainer.loggers:
        if hasattr(logger, "log_image"):
            logger.log_image(key=name, images=[str(path)])
