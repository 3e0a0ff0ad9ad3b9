"""Detects catastrophic overfitting of single-step adversarial training, and acts on it."""

import copy
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from kafnets.attacks import FGSM, PGD
from kafnets.attacks.preserve_state import preserve_state
from kafnets.attacks.queries import ask
from kafnets.keyed_random import image_keys
from kafnets.metrics import RobustAccuracy
from kafnets.objectives import Objective
from lightning_modules.callbacks.guard_events import log_events
from lightning_modules.callbacks.weight_average import WeightAverage
from lightning_modules.measuring import in_float32

WINDOW = 50  # steps
CONFIRMED = 1000  # images; the standard error of a gap of 0.2 is 0.04 on 100 images and 0.013 on 1,000
PROBE = 3  # what random numbers are drawn for, beside TRAIN, VAL and TEST of the classifier


class OverfittingGuard(Callback):
    """Compare a single step with PGD on held-out images; far more right answers under the single step are a collapse.

    Under catastrophic overfitting (Wong, Rice, Kolter 2020, section 5.4) a network trained with single steps learns to
    resist just these: within a few hundred steps its accuracy under FGSM rises and that under PGD falls towards zero.
    Every ``every`` steps, at the end of an epoch, and when the adversarial training accuracy has jumped, the first
    ``images`` validation images are attacked with FGSM and with PGD-10 in the threat model of the run. If their gap is
    ``gap`` or more, the probe is repeated on the first 1,000 validation images, or on all if there are fewer; a gap of
    ``gap`` or more there too is a collapse. The test split is never touched, and training is not changed by the probes.

    On a collapse the guard says so once. Then, as configured:

    - by default training goes on;
    - with ``stop=True`` or a ``fallback`` the network, the optimizer and an average of weights are taken back to the
      last probe without a collapse, or to the start of training if there was none. With ``stop=True`` training ends
      there: this network is validated and saved. With ``fallback`` training goes on with the fallback objective, whose
      name is then part of the objective's name in every record of a later network. The guard watches a fallback that
      takes single steps too; if it collapses, the guard says so and training goes on.

    After training it says if robust accuracy fell slowly after its peak, which is robust overfitting (Rice, Wong,
    Kolter 2020) and no collapse. What it has said is kept in ``events``, for the record of the test.

    Args:
        every: steps between two probes, >= 1.
        images: validation images of a probe, >= 1.
        gap: difference of the two accuracies that counts as a collapse, in (0, 1). In the public logs of a benchmark
            of fast adversarial training, healthy runs stay below 0.16 on CIFAR-10 and below 0.19 on CIFAR-100, and
            collapsed ones exceed 0.24.
        jump: rise of the mean training accuracy from one window of 50 steps to the next that is reason enough for a
            probe, in (0, 1).
        stop: True ends training on a collapse. Such a run can be resumed with a ``fallback`` only.
        fallback: an objective to go on with, such as :class:`~kafnets.objectives.NFGSM`; one without buffers or
            parameters, because checkpoints hold those of the run's own objective, before and after a collapse.
        decline: fall of the validation robust accuracy from its peak to the end that counts as robust overfitting, in
            (0, 1).

    Raises:
        ValueError: if a setting is out of its range, or both ``stop`` and ``fallback`` are given; when training begins,
            if there is no data module with a ``val_set``, if ``stop`` meets a trainer with ``min_epochs`` or
            ``min_steps``, or if a resumed run has collapsed and can't go on with the settings of this guard.
    """

    def __init__(
        self,
        *,
        every: int = 250,
        images: int = 100,
        gap: float = 0.2,
        jump: float = 0.12,
        stop: bool = False,
        fallback: Objective | None = None,
        decline: float = 0.03,
    ) -> None:
        for name, count in (("every", every), ("images", images)):
            if count < 1:
                raise ValueError(f"{name} must be >= 1, got {count}")
        for name, share in (("gap", gap), ("jump", jump), ("decline", decline)):
            if not 0 < share < 1:
                raise ValueError(f"{name} must lie in (0, 1), got {share:g}")
        if stop and fallback is not None:
            raise ValueError("a collapse can't both stop training and go on with a fallback: give one of them")
        if fallback is not None and fallback.state_dict():
            raise ValueError(f"{fallback.label} has buffers or parameters, so it can't be a fallback; take another one")
        self.every, self.images, self.gap, self.jump = every, images, gap, jump
        self.stop, self.fallback, self.decline = stop, fallback, decline
        self.single, self.multi = FGSM(), PGD(steps=10)
        self.collapsed_at: int | None = None
        self.stopped = False  # by this guard, with the weights of before the collapse
        self.watching = True
        self.events: list[dict[str, Any]] = []
        self.peak, self.last, self.peak_epoch = 0.0, 0.0, 0
        self._probed_at = 0
        self._good: dict[str, Any] | None = None
        self._window: list[Tensor] = []
        self._mean_before: float | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Check that a resumed run can go on; if it has collapsed before, with its fallback."""
        self._window = [accuracy.to(pl_module.device) for accuracy in self._window]
        data = trainer.datamodule  # type: ignore[attr-defined]
        if pl_module.objective.single_step and getattr(data, "val_set", None) is None:
            raise ValueError("OverfittingGuard attacks the val_set of a data module: pass datamodule=... to fit")
        if self.stop and (trainer.min_epochs or trainer.min_steps):
            raise ValueError(
                "OverfittingGuard can't stop a run before trainer.min_epochs or min_steps; leave them out, or set stop "
                "to false"
            )
        self._check_resumed(pl_module)
        if self.collapsed_at is not None and self.fallback is not None:
            self.watching, self.stopped = self.watching or self.stopped, False
            self._fall_back(pl_module)

    def _check_resumed(self, module: Any) -> None:
        went_on = module.record.get("objective")
        if went_on is not None and went_on != self._label(module):
            raise ValueError(
                f"the run went on as {went_on} after a collapse; give OverfittingGuard this fallback again, or begin a "
                "new run"
            )
        if self.stopped and self.fallback is None:
            raise ValueError(
                f"OverfittingGuard stopped this run because it collapsed at step {self.collapsed_at}; to go on from "
                "its last good weights, give the guard a fallback (--trainer.callbacks+=OverfittingGuard "
                "--trainer.callbacks.fallback=NFGSM), or begin a new run with another objective"
            )
        acts = self.stop or self.fallback is not None
        if acts and self.collapsed_at is not None and not (went_on or self.stopped):
            raise ValueError(
                f"the run collapsed at step {self.collapsed_at} and trained on, so OverfittingGuard has no good "
                "weights to go back to; resume a checkpoint from before, or begin a new run"
            )

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Keep the state to go back to if the first probe finds a collapse."""
        if not self._goes_back():
            self._good = None  # of a run that was configured otherwise
        elif self._good is None:
            self._good = _state(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Probe every ``every`` steps, at the end of an epoch, and after a jump of the training accuracy."""
        if self.watching and pl_module.current_objective.single_step:
            due = trainer.global_step % self.every == 0 or batch_idx + 1 == trainer.num_training_batches
            due = due and trainer.global_step != self._probed_at  # a step may take several batches
            if self._has_jumped(trainer, pl_module.accuracy) or due:
                self._probed_at = trainer.global_step
                self._probe(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Keep the peak of the validation robust accuracy."""
        found = trainer.callback_metrics.get("val/robust_accuracy")
        if trainer.sanity_checking or found is None:
            return
        self.last = float(found)
        if self.last > self.peak:
            self.peak, self.peak_epoch = self.last, trainer.current_epoch + 1

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Say whether robust accuracy has declined after its peak."""
        if self.collapsed_at is None and self.peak - self.last >= self.decline and trainer.is_global_zero:
            log_events(trainer, robust_overfitting=self.peak - self.last)
            text = (
                f"robust overfitting: validation robust accuracy fell from {self.peak:.1%} in epoch {self.peak_epoch} "
                f"to {self.last:.1%} at the end, without a collapse"
            )
            self.events.append({"kind": "robust overfitting", "epoch": self.peak_epoch, "text": text})
            print(text, flush=True)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to act as this one."""
        names = ("collapsed_at", "stopped", "watching", "peak", "last", "peak_epoch", "events")
        window = {"good": self._good, "window": list(self._window), "mean_before": self._mean_before}
        return {name: getattr(self, name) for name in names} | window

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of the resumed run."""
        self._good, self._window = state_dict["good"], list(state_dict.get("window", ()))
        self._mean_before, self.events = state_dict.get("mean_before"), list(state_dict.get("events", ()))
        for name in ("collapsed_at", "peak", "last", "peak_epoch"):
            setattr(self, name, state_dict[name])
        self.stopped = state_dict.get("stopped", False)
        self.watching = state_dict.get("watching", self.collapsed_at is None)

    def _has_jumped(self, trainer: Trainer, accuracy: Tensor) -> bool:
        """Whether a window of training accuracies is complete and its mean far above that of the one before."""
        self._window.append(accuracy)
        if len(self._window) < WINDOW:
            return False
        mean = float(trainer.strategy.reduce(torch.stack(self._window).mean(), reduce_op="mean"))
        before, self._mean_before, self._window = self._mean_before, mean, []
        return before is not None and mean - before >= self.jump

    def _goes_back(self) -> bool:
        """Whether a collapse would take training back to an earlier state."""
        return self.collapsed_at is None and (self.stop or self.fallback is not None)

    def _probe(self, trainer: Trainer, module: Any) -> None:
        available = len(trainer.datamodule.val_set)  # type: ignore[attr-defined]
        images = min(self.images, available)
        single, multi = self.accuracies(trainer, module, images)
        if single - multi >= self.gap and images < (more := min(CONFIRMED, available)):
            images = more
            single, multi = self.accuracies(trainer, module, images)
        collapsed = single - multi >= self.gap
        log_events(trainer, single_step_accuracy=single, pgd_accuracy=multi, collapsed=collapsed)
        if not collapsed:
            if self._goes_back():
                self._good = _state(trainer, module)
            return
        epoch = trainer.current_epoch + 1
        by_one, by_many = (attack.within(module.threat) for attack in (self.single, self.multi))
        text = (
            f"catastrophic overfitting at step {trainer.global_step} (epoch {epoch}): of "
            f"{images} validation images {single:.0%} resist {by_one} and {multi:.0%} resist {by_many}; "
            f"{self._act(trainer, module)}"
        )
        event = {"kind": "catastrophic overfitting", "step": trainer.global_step, "epoch": epoch, "text": text}
        self.events.append(event)
        rank_zero_warn(text)

    def accuracies(self, trainer: Trainer, module: Any, images: int) -> tuple[float, float]:
        """Return the robust accuracy of so many held-out images under FGSM and under PGD, over all processes.

        They are the first ones; all, if there are fewer.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]
        share = torch.arange(min(images, len(data.val_set)))[trainer.global_rank :: trainer.world_size]
        counters = [RobustAccuracy().to(module.device) for _ in range(2)]
        with in_float32(module.device), preserve_state(module.net, eval_mode=True), torch.no_grad():
            for chosen in share.split(data.batch_size):  # as many as training has in memory at a time
                if len(chosen):
                    self._count(module, [value.to(module.device) for value in data.val_set[chosen]], counters)
        single, multi = (float(counter.compute()["robust"]) for counter in counters)
        return single, multi

    def _count(self, module: Any, batch: list[Tensor], counters: list[RobustAccuracy]) -> None:
        x, y, index = batch
        x, keys = x.float() / 255, image_keys(index, module.seed, PROBE)
        clean = ask(module.net, x)
        for counter, attack in zip(counters, (self.single, self.multi), strict=True):
            attacked = attack.within(module.threat)(module.net, x, y, keys=keys)
            counter.update(clean, ask(module.net, attacked), y)

    def _act(self, trainer: Trainer, module: Any) -> str:
        """Do what is configured after a collapse, and say it in words."""
        if module.fallback is not None:
            self.watching = False
            return f"the fallback {module.fallback.label} has collapsed too; training goes on, and is watched no more"
        self.collapsed_at = trainer.global_step
        if self._good is None:
            self.watching = False
            return "robust accuracy can't be trusted to recover; see --config n_fgsm.yaml or the guard's settings"
        back = f"back to the weights of step {self._good['step']}"
        _restore(trainer, module, self._good)
        self._good = None
        if self.fallback is None:
            self.watching, self.stopped, trainer.should_stop = False, True, True
            return f"{back}, and training stops here"
        self._fall_back(module)
        return f"{back}, and on with {self.fallback.label}"

    def _label(self, module: Any) -> str | None:
        """What the objective is called after the fallback, in records."""
        if self.collapsed_at is None or self.fallback is None:
            return None
        return f"{module.objective.label}, from step {self.collapsed_at} {self.fallback.label}"

    def _fall_back(self, module: Any) -> None:
        module.fallback = copy.deepcopy(self.fallback).to(module.device)  # type: ignore[union-attr]
        module.record["objective"] = self._label(module)


def _state(trainer: Trainer, module: Any) -> dict[str, Any]:
    """Copies of the state of network, optimizer and averages."""
    kept = {"net": module.net.state_dict(), "optimizer": trainer.optimizers[0].state_dict()}
    averages = [average.snapshot() for average in _averages(trainer)]
    return copy.deepcopy(kept) | {"averages": averages, "step": trainer.global_step}


def _restore(trainer: Trainer, module: Any, state: dict[str, Any]) -> None:
    module.net.load_state_dict(state["net"])
    trainer.optimizers[0].load_state_dict(state["optimizer"])
    for average, kept in zip(_averages(trainer), state["averages"], strict=True):
        average.go_back(kept)


def _averages(trainer: Trainer) -> list[WeightAverage]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [item for item in callbacks if isinstance(item, WeightAverage)]
