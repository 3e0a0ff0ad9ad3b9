"""A learning-rate range test under the objective of a run."""

import math
import warnings
from collections import deque
from pathlib import Path
from typing import Any, ClassVar

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from kafnets.analysis.learning_rate_range import LearningRates, learning_rates
from kafnets.attacks.preserve_state import preserve_state
from kafnets.plots import plot_learning_rate_range
from kafnets.schedules import Exponential
from lightning_modules.callbacks.finite_loss import FiniteLoss
from lightning_modules.callbacks.history import History
from lightning_modules.callbacks.overfitting_guard import OverfittingGuard
from lightning_modules.callbacks.pictures import publish
from lightning_modules.callbacks.weight_average import estimate_statistics
from lightning_modules.files import write_json

DIVERGED = 4.0  # times the lowest loss
BATCHES = 5  # whose inputs estimate the statistics of batch norm


class LearningRateRange(Callback):
    """Measure loss and robust accuracy while the learning rate rises, and suggest its minimum and maximum.

    The range test of Smith (2017, "Cyclical learning rates", section 3.3) under adversarial training: the schedule
    :class:`~kafnets.schedules.Exponential` raises the learning rate at every step, from ``optimizer.lr`` times its
    ``low`` to ``optimizer.lr``. At ``points`` steps the mean training loss since the last point is kept, and the first
    ``images`` validation images are attacked with FGSM and with PGD-10 in the threat model of the run: the loss alone
    does not show a collapse. The statistics of batch norm are those of the last five batches, because running averages
    would lag behind in so short a run; training goes on with its own. The test split is not used. Training ends early
    where the loss exceeds four times its lowest value or is not finite.

    ``lr_range.png`` and ``lr_range.json`` go into the run folder; the suggestions
    (:func:`kafnets.analysis.learning_rate_range.learning_rates`) are printed. Give it with ``--config lr_range.yaml``,
    which also switches off validation, checkpoints and the final test.

    Args:
        points: how often to measure, >= 5.
        images: validation images attacked at each, >= 1.

    Raises:
        ValueError: if a setting is out of its range, if the schedule is not ``Exponential``, if the run has fewer steps
            than points, or if the loss does not fall at any learning rate.
    """

    # callbacks of the command line that are left out: a divergence is a result here, and no error
    replaces: ClassVar[tuple[type[Callback], ...]] = (FiniteLoss, History, OverfittingGuard)

    def __init__(self, *, points: int = 40, images: int = 200) -> None:
        if points < 5:
            raise ValueError(f"points must be >= 5, got {points}")
        self.points = points
        self._probe = OverfittingGuard(images=images)
        self.rows: list[dict[str, float]] = []
        self.diverged_at: float | None = None
        self._losses: list[float] = []  # of the steps since the last point
        self._parts: list[Tensor] = []  # of the loss of a step, one per accumulated batch
        self._inputs: deque[Tensor] = deque(maxlen=BATCHES)
        self._seen, self._steps = 0, 0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Check schedule and length of the run."""
        if not isinstance(pl_module.schedule, Exponential):
            raise ValueError(
                f"a range test needs the schedule Exponential, got {type(pl_module.schedule).__name__}; give "
                "--config lr_range.yaml after the other configs"
            )
        per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        self._steps = per_epoch * (trainer.max_epochs or 1)
        if self._steps < self.points and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise ValueError(
                f"a range test of {self.points} points needs as many steps, got {self._steps}; set "
                f"--trainer.max_epochs={math.ceil(self.points / per_epoch)} or more"
            )

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Keep the loss of a step; measure where a point is due."""
        self._inputs.append(pl_module.inputs.detach())
        self._parts.append(outputs["loss"].detach())
        if trainer.global_step == self._seen:
            return
        self._seen = trainer.global_step
        # Lightning divides the loss of a batch by the number of batches in its step, so the sum is their mean
        loss = torch.stack(self._parts).sum()
        self._parts.clear()
        self._losses.append(float(trainer.strategy.reduce(loss, reduce_op="mean")))
        lr = trainer.optimizers[0].param_groups[0]["lr"] / pl_module.lr_factor  # as the optimizer's lr is stated
        mean = sum(self._losses) / len(self._losses)
        finite = math.isfinite(mean) and all(bool(torch.isfinite(p).all()) for p in pl_module.parameters())
        if not finite or mean > DIVERGED * min((row["loss"] for row in self.rows), default=math.inf):
            self.diverged_at, trainer.should_stop = lr, True
        elif self._seen * self.points // self._steps > len(self.rows):
            single, multi = self._accuracies(trainer, pl_module)
            self.rows.append({"lr": lr, "loss": mean, "single_step_accuracy": single, "pgd_accuracy": multi})
            self._losses.clear()

    def _accuracies(self, trainer: Trainer, module: Any) -> tuple[float, float]:
        with preserve_state(module.net, eval_mode=False), warnings.catch_warnings():
            # a network that has collapsed is a result here
            warnings.filterwarnings("ignore", message=".*the gradient is exactly zero")
            estimate_statistics(module.net, list(self._inputs))
            return self._probe.accuracies(trainer, module, self._probe.images)

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write the files and print the suggestions."""
        folder = trainer.log_dir  # a collective call: every rank makes it
        if not (trainer.loggers and folder):
            return
        found, reason = None, None
        try:
            found = learning_rates(self.rows, chance=1 / pl_module.net.num_classes, diverged_at=self.diverged_at)
        except ValueError as error:
            reason = error
        objective = pl_module.objective.label
        publish(trainer, "lr_range", plot_learning_rate_range(self.rows, found, objective=objective))
        if trainer.is_global_zero:
            suggested = found._asdict() if found else dict.fromkeys(LearningRates._fields)
            ends = {"diverged_at": self.diverged_at, "images": self._probe.images}
            about = pl_module.labels() | {"optimizer": type(trainer.optimizers[0]).__name__}
            write_json(Path(folder) / "lr_range.json", suggested | ends | {"run": about, "points": self.rows})
        if reason is not None:
            raise reason
        if found is not None and trainer.is_global_zero:
            print("\n".join(suggestions(found)), flush=True)


def suggestions(found: LearningRates) -> list[str]:
    """The suggestions as flags, one per line.

    Example:
        >>> for line in suggestions(LearningRates(0.001, 0.2, 1.26)):
        ...     print(line)
        suggested maximum of the learning rate: 0.2 (--model.optimizer.lr=0.2); it collapses from 1.3 on
        suggested minimum of the learning rate: 0.001 (--model.schedule.low=0.005)
    """
    low, high = (float(f"{rate:.2g}") for rate in (found.minimum, found.maximum))
    collapse = f"it collapses from {found.collapse:.2g} on" if found.collapse else "no collapse was seen"
    return [
        f"suggested maximum of the learning rate: {high:g} (--model.optimizer.lr={high:g}); {collapse}",
        f"suggested minimum of the learning rate: {low:g} (--model.schedule.low={low / high:.2g})",
    ]
