"""The pictures of a run."""

import copy
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from kafnets.activations import Activation
from kafnets.analysis import activation_shapes
from kafnets.analysis.activation_shapes import ActivationShape, curves_on, trainable_activations
from kafnets.plots import plot_activations, plot_curves
from lightning_modules.callbacks.history import History
from lightning_modules.files import write_figure, write_json

LAYERS, CHANNELS, POINTS = 8, 8, 41  # the most that are kept of each in activations.json


class Pictures(Callback):
    """Draw ``curves.png`` after training and, if activations are trainable, ``activations.png`` after a test.

    The second shows the tested weights: the learned shapes of each layer over the density of its pre-activations on
    some test images. Both go into the run folder and to every logger that takes images (W&B). ``activations.json`` has
    some of the shapes as numbers, beside those with which training began.

    Args:
        images: number of test images on which the densities are measured, >= 1.
    """

    def __init__(self, *, images: int = 256) -> None:
        if images < 1:
            raise ValueError(f"images must be >= 1, got {images}")
        self.images = images
        self._sample: Tensor | None = None
        self._start: dict[str, Activation] = {}

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Keep the activations as they were built, before the weights of a checkpoint are loaded."""
        if stage == "fit":
            self._start = copy.deepcopy(trainable_activations(pl_module.net))

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Draw the curves."""
        histories = [item for item in trainer.callbacks if isinstance(item, History)]  # type: ignore[attr-defined]
        if histories and histories[0].rows:
            publish(trainer, "curves", plot_curves(histories[0].rows, objective=pl_module.labels()["objective"]))

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
            folder = trainer.log_dir
            if trainer.is_global_zero and trainer.loggers and folder:
                finite = [shape for shape in shapes if bool(shape.curves.isfinite().all())]
                kept = [_numbers(shape, self._start.get(shape.name)) for shape in _some(finite, LAYERS)]
                write_json(Path(folder) / "activations.json", kept)


def _some(items: Any, most: int) -> list[Any]:
    """At most so many of them, evenly spread, with the first and the last."""
    chosen = torch.linspace(0, len(items) - 1, min(most, len(items))).round().long()
    return [items[i] for i in chosen.tolist()]


def _numbers(shape: ActivationShape, start: Activation | None) -> dict[str, Any]:
    """Return ``layer``, the points ``x``, ``y`` for each of some channels, and ``start``, as ``y``, before training."""
    step = (len(shape.grid) - 1) // (POINTS - 1)
    x, y = shape.grid[::step], shape.curves[:, ::step]
    before = None if start is None else _rounded(_some(curves_on(start.eval(), x), CHANNELS))
    return {"layer": shape.name, "x": _rounded(x), "y": _rounded(_some(y, CHANNELS)), "start": before}


def _rounded(values: Any) -> list[Any]:
    """A tensor of one dimension, or a list of some, as numbers of four digits."""
    if isinstance(values, list):
        return [_rounded(row) for row in values]
    return [float(f"{value:.4g}") for value in values.tolist()]


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
