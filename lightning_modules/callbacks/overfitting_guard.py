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
PROBE = 3  # what random numbers are drawn for, beside TRAIN, VAL and TEST of the classifier


class OverfittingGuard(Callback):
    """Compare a single step with PGD on held-out images; far more right answers under the single step are a collapse.

    Under catastrophic overfitting (Wong, Rice, Kolter 2020, section 5.4) a network trained with single steps learns to
    resist just these: within a few hundred steps its accuracy under FGSM rises and that under PGD falls towards zero.
    Every ``every`` steps, at the end of an epoch, and when the adversarial training accuracy has jumped, the first
    ``images`` validation images are attacked with FGSM and with PGD-10 in the threat model of the run. A gap of ``gap``
    or more is a collapse. The test split is never touched, and training is not changed by the probes.

    On a collapse the guard says so once. Then, as configured:

    - by default training goes on;
    - with ``stop=True`` training ends, and the best checkpoint so far is tested;
    - with ``fallback`` the network, the optimizer and an average of weights are taken back to the last probe without a
      collapse, and training goes on with the fallback objective, whose name is then part of the objective's name in
      every record.

    After training it says if robust accuracy fell slowly after its peak, which is robust overfitting (Rice, Wong,
    Kolter 2020) and no collapse. What it has said is kept in ``events``, for the record of the test.

    Args:
        every: steps between two probes, >= 1.
        images: validation images of a probe, >= 1.
        gap: difference of the two accuracies that counts as a collapse, in (0, 1). In the public logs of a benchmark
            of fast adversarial training, healthy runs stay below 0.19 and collapsed ones exceed 0.24.
        jump: rise of the mean training accuracy from one window of 50 steps to the next that is reason enough for a
            probe, in (0, 1).
        stop: True ends training on a collapse.
        fallback: an objective to go on with, such as :class:`~kafnets.objectives.NFGSM`; one without buffers or
            parameters, because checkpoints hold those of the run's own objective.
        decline: fall of the validation robust accuracy from its peak to the end that counts as robust overfitting, in
            (0, 1).

    Raises:
        ValueError: if a setting is out of its range, or both ``stop`` and ``fallback`` are given; when training begins,
            if there is no data module with a ``val_set``, or the resumed run went on with a fallback and none is given.
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
        self.events: list[dict[str, Any]] = []
        self.peak, self.last, self.peak_epoch = 0.0, 0.0, 0
        self._probed_at = 0
        self._good: dict[str, Any] | None = None
        self._window: list[Tensor] = []
        self._mean_before: float | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Take over the state of a resumed run; if it has collapsed before, with its objective."""
        self._window = [accuracy.to(pl_module.device) for accuracy in self._window]
        data = trainer.datamodule  # type: ignore[attr-defined]
        if pl_module.objective.single_step and getattr(data, "val_set", None) is None:
            raise ValueError("OverfittingGuard attacks the val_set of a data module: pass datamodule=... to fit")
        if self.collapsed_at is not None and self.fallback is not None:
            self._fall_back(pl_module)
        elif "objective" in pl_module.record:
            raise ValueError(
                f"the run went on as {pl_module.record['objective']} after a collapse; give OverfittingGuard this "
                "fallback again, or begin a new run"
            )

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Probe every ``every`` steps, at the end of an epoch, and after a jump of the training accuracy."""
        if self.collapsed_at is None and pl_module.objective.single_step:
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
        names = ("collapsed_at", "peak", "last", "peak_epoch", "events")
        window = {"good": self._good, "window": list(self._window), "mean_before": self._mean_before}
        return {name: getattr(self, name) for name in names} | window

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of the resumed run."""
        self._good, self._window = state_dict["good"], list(state_dict.get("window", ()))
        self._mean_before, self.events = state_dict.get("mean_before"), list(state_dict.get("events", ()))
        for name in ("collapsed_at", "peak", "last", "peak_epoch"):
            setattr(self, name, state_dict[name])

    def _has_jumped(self, trainer: Trainer, accuracy: Tensor) -> bool:
        """Whether a window of training accuracies is complete and its mean far above that of the one before."""
        self._window.append(accuracy)
        if len(self._window) < WINDOW:
            return False
        mean = float(trainer.strategy.reduce(torch.stack(self._window).mean(), reduce_op="mean"))
        before, self._mean_before, self._window = self._mean_before, mean, []
        return before is not None and mean - before >= self.jump

    def _probe(self, trainer: Trainer, module: Any) -> None:
        single, multi = self.accuracies(trainer, module)
        collapsed = single - multi >= self.gap
        log_events(trainer, single_step_accuracy=single, pgd_accuracy=multi, collapsed=collapsed)
        if not collapsed:
            if self.fallback is not None:
                self._good = _state(trainer, module)
            return
        self.collapsed_at = trainer.global_step
        then = self._act(trainer, module)
        images = min(self.images, len(trainer.datamodule.val_set))  # type: ignore[attr-defined]
        epoch = trainer.current_epoch + 1
        by_one, by_many = (attack.within(module.threat) for attack in (self.single, self.multi))
        text = (
            f"catastrophic overfitting at step {trainer.global_step} (epoch {epoch}): of "
            f"{images} validation images {single:.0%} resist {by_one} and {multi:.0%} resist {by_many}; {then}"
        )
        event = {"kind": "catastrophic overfitting", "step": trainer.global_step, "epoch": epoch, "text": text}
        self.events.append(event)
        rank_zero_warn(text)

    def accuracies(self, trainer: Trainer, module: Any) -> tuple[float, float]:
        """Return the robust accuracy of held-out images under the single step and under PGD, over all processes."""
        images = trainer.datamodule.val_set  # type: ignore[attr-defined]
        chosen = torch.arange(trainer.global_rank, min(self.images, len(images)), trainer.world_size)
        counters = [RobustAccuracy().to(module.device) for _ in range(2)]
        if len(chosen):
            x, y, index = (value.to(module.device) for value in images[chosen])
            x, keys = x.float() / 255, image_keys(index, module.seed, PROBE)
            with in_float32(module.device), preserve_state(module.net, eval_mode=True), torch.no_grad():
                clean = ask(module.net, x)
                for counter, attack in zip(counters, (self.single, self.multi), strict=True):
                    attacked = attack.within(module.threat)(module.net, x, y, keys=keys)
                    counter.update(clean, ask(module.net, attacked), y)
        single, multi = (float(counter.compute()["robust"]) for counter in counters)
        return single, multi

    def _act(self, trainer: Trainer, module: Any) -> str:
        if self.stop:
            trainer.should_stop = True
            return "training stops here"
        if self.fallback is None:
            return "robust accuracy can't be trusted to recover; see --config n_fgsm.yaml or the guard's settings"
        back = "the first step" if self._good is None else f"step {self._good['step']}"
        if self._good is not None:
            _restore(trainer, module, self._good)
        self._good = None
        self._fall_back(module)
        return f"back to the weights of {back}, and on with {self.fallback.label}"

    def _fall_back(self, module: Any) -> None:
        assert self.fallback is not None
        label = f"{module.objective.label}, from step {self.collapsed_at} {self.fallback.label}"
        module.objective = copy.deepcopy(self.fallback).to(module.device)
        module.record["objective"] = label


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
