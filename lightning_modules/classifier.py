"""What standard and adversarial training share: optimizer, schedule, evaluation, logging."""

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MeanMetric

from kafnets import objectives
from kafnets.attacks import PGD, Attack
from kafnets.attacks.base import Loss
from kafnets.attacks.queries import ask
from kafnets.backbones import Backbone
from kafnets.described import in_words
from kafnets.keyed_random import image_keys
from kafnets.logits import LabelRange, check_logits, check_shape, is_correct
from kafnets.losses import LabelSmoothing, cross_entropy
from kafnets.metrics import RobustAccuracy
from kafnets.objectives import Objective, Terms
from kafnets.parameter_filters import all_parameters, chosen
from kafnets.schedules import Constant, Schedule
from kafnets.threat import ThreatModel
from lightning_modules.finished_epoch import finish_epoch
from lightning_modules.measuring import in_float32

Batch: TypeAlias = tuple[Tensor, Tensor, Tensor]

# what random numbers are drawn for; part of the key of an image
TRAIN, VAL, TEST = range(3)


class Evaluation(nn.Module):
    """The counters of one evaluation: loss and clean accuracy of every image, both again of the attacked ones."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = MeanMetric(nan_strategy="disable")
        self.robust_loss = MeanMetric(nan_strategy="disable")
        self.clean = RobustAccuracy()
        self.robust = RobustAccuracy()

    def compute(self) -> dict[str, float]:
        """Return the values over all processes, and reset the counters."""
        clean, robust = self.clean.compute(), self.robust.compute()
        values = {"loss": self.loss.compute(), "robust_loss": self.robust_loss.compute()}
        for name, counted in (("clean", clean), ("robust", robust)):
            values |= {f"{name}_accuracy{end}": counted[f"{name}{end}"] for end in ("", "_low", "_high")}
            values |= {f"{name}_images": counted["images"]}
        for counter in (self.loss, self.robust_loss, self.clean, self.robust):
            counter.reset()
        return {name: value.item() for name, value in values.items()}


class Classifier(LightningModule):
    """Train a backbone on an objective, and measure its clean and robust accuracy.

    Batches are ``(x, y, index)``: images float32 ``(N, C, H, W)`` in [0, 1], true classes int64 ``(N,)``, and the
    number of each image within its split, int64 ``(N,)``. Random numbers of an attack are drawn from (seed, epoch,
    image), those of dropout from (seed, epoch, batch, rank), so a resumed run equals an uninterrupted one: bit for bit
    on a CPU; on a GPU up to rounding, because cuDNN may add gradients in any order unless ``trainer.deterministic`` is
    set.

    Validation and test measure in float32, whatever the precision of training: clean accuracy on every image, robust
    accuracy on the images whose index is below ``val_images`` or ``test_images`` (data modules order evaluation sets
    so that the first images are always a balanced sample).

    Args:
        net: the backbone.
        objective: the loss of a training step.
        threat: the threat model of the run: norm and eps of every attack that does not state its own.
        optimizer: builds the optimizer from parameter groups; the schedule multiplies its ``lr``, and its
            ``weight_decay`` applies only to the parameters that ``decay_filter`` returns.
        schedule: maps the fractional epoch to a multiplier of the learning rate.
        lr_images: the number of images per step, over all processes, for which the optimizer's ``lr`` is stated: the
            learning rate of a step is proportional to its images (Goyal et al. 2017, arXiv 1706.02677, section 2.1).
            None takes ``lr`` as it is, whatever the batch size.
        loss: the classification loss that the objective minimises, ``(logits (N, classes), y (N,)) -> (N,)``; the
            cross-entropy by default. Evaluations always report the cross-entropy.
        eps_schedule: maps the fractional epoch to a multiplier of the threat model's eps in training steps, such as
            :class:`~kafnets.schedules.WarmUp`. Attacks that state their own eps do not follow it.
        decay_filter: a function of the network that returns the parameters to decay.
        val_attack: the attack of ``val/robust_accuracy``; it runs every epoch, so it should be cheap.
        val_images: number of validation images attacked, >= 1.
        test_attack: the attack of the final test.
        test_images: number of test images attacked, >= 1; None for all.
        attack_view: builds a faster form of the network, equal up to rounding, such as :class:`kafnets.fused.Fused`.
            Evaluations attack that form; the network itself classifies the images found. None: they attack the network.
        channels_last: hold the weights, and thereby all activations, in channels_last memory, which the tensor cores of
            GPUs prefer.
        compile_backend: train the network through ``torch.compile`` with this backend, such as ``inductor``; None does
            not compile. Evaluations never do: an attack's batches shrink, and each size would be compiled anew.
        seed: the seed of all random numbers.

    Raises:
        ValueError: if a number of images is below 1, if an attack that measures states another norm or eps than
            ``threat``, if ``trainer.max_epochs`` is below 1, or if its precision is not 32-true, 64-true, 16-mixed or
            bf16-mixed.
    """

    def __init__(
        self,
        *,
        net: Backbone,
        objective: Objective,
        threat: ThreatModel | None = None,
        optimizer: OptimizerCallable = torch.optim.SGD,
        schedule: Schedule | None = None,
        lr_images: int | None = None,
        loss: Loss | LabelSmoothing = cross_entropy,
        eps_schedule: Schedule | None = None,
        decay_filter: Callable[[nn.Module], Iterable[Tensor]] = all_parameters,
        val_attack: Attack | None = None,
        val_images: int = 500,
        test_attack: Attack | None = None,
        test_images: int | None = None,
        attack_view: Callable[[nn.Module], nn.Module] | None = None,
        channels_last: bool = False,
        compile_backend: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, images in (("val_images", val_images), ("test_images", test_images), ("lr_images", lr_images)):
            if images is not None and images < 1:
                raise ValueError(f"{name} must be >= 1, got {images}")
        self.net = net
        self.objective = objective
        self.fallback: Objective | None = None  # set by a guard; has no state, so the run's own can be restored
        self.threat = threat or ThreatModel()
        self.optimizer = optimizer
        self.schedule = schedule or Constant()
        self.lr_images, self.lr_factor = lr_images, 1.0
        self.loss = loss
        self.eps_schedule = eps_schedule or Constant()
        self.decay_filter = decay_filter
        self.val_attack = self._measuring("val_attack", val_attack or PGD(steps=10))
        self.val_images = val_images
        self.test_attack = self._measuring("test_attack", test_attack or PGD(steps=50))
        self.test_images = test_images
        self.attack_view = attack_view
        self.channels_last = channels_last
        self.compile_backend = compile_backend
        if compile_backend is not None and compile_backend not in (known := torch.compiler.list_backends(())):
            raise ValueError(f"compile_backend must be one of {', '.join(known)}, got {compile_backend!r}")
        self._compiled: tuple[Callable[[Tensor], Tensor], ...] = ()  # a tuple, so that it is not registered and saved
        self.seed = seed
        self.val, self.test = Evaluation(), Evaluation()
        self.inputs: Tensor | None = None
        self.accuracy: Tensor | None = None  # of the last training step
        self._step: tuple[objectives.Batch, Terms, LabelRange] | None = None
        self._replay = 0
        self.test_results: dict[str, float] = {}
        self._peak_lrs: list[float] = []
        self._view: tuple[nn.Module, nn.Module] | None = None
        self.record: dict[str, str] = {}

    def _measuring(self, name: str, attack: Attack) -> Attack:
        bound = attack.within(self.threat)
        if bound.threat != self.threat:
            raise ValueError(
                f"{name} states {bound.threat}, the run {self.threat}; leave eps and norm out of {name}, or set "
                "--model.threat.eps and --model.threat.norm"
            )
        return bound

    # --- training ----------------------------------------------------------------------------------------------------

    @property
    def current_objective(self) -> Objective:
        """The objective of the next step: the fallback if a guard has set one, otherwise the run's own."""
        return self.fallback or self.objective

    def labels(self) -> dict[str, Any]:
        """Return the scalars by which runs are compared: network, objective, loss, weights, threat model, seed.

        ``record`` holds what callbacks have noted: an objective that changed on the way, weights that are an average.
        """
        net, threat = self.net, self.threat
        names = {"activation": net.activation_label, "backbone": net.label, "objective": self.objective.label}
        names |= {"loss": in_words(self.loss), "weights": "of the last step", "norm": type(threat.norm).__name__}
        return names | self.record | {"eps": threat.eps, "seed": self.seed}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save what callbacks have noted about the training, and about the weights of this checkpoint."""
        checkpoint["record"] = self.record | checkpoint.get("record", {})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the notes of the training, and let a finished epoch be finished."""
        finish_epoch(checkpoint)
        record = checkpoint.get("record", {})
        if not (isinstance(record, dict) and all(isinstance(text, str) for text in record.values())):
            raise ValueError(f"the record of a checkpoint must be texts by name, got {record!r}")
        self.record = {name: record[name] for name in ("objective", "weights") if name in record}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, and log it."""
        x, y, index = batch
        keys = image_keys(index, self.seed, TRAIN, self.current_epoch)
        if self._replay:
            keys = image_keys(keys, self._replay)
        epoch = self._fractional_epoch(batch_idx)
        known = objectives.Batch(x, y, keys, epoch, self._threat_at(epoch), self.loss)
        labels = LabelRange(y)
        terms = self.current_objective(self._compiled[0] if self._compiled else self.net, known)
        check_shape(terms.logits, len(y))
        self.inputs = terms.inputs  # FiniteLoss needs them if the loss is not finite
        self._step = known, terms, labels
        self.accuracy = is_correct(terms.logits.detach(), y).float().mean()
        values = {"loss": terms.loss.detach(), "accuracy": self.accuracy} | terms.log
        values = {f"train/{name}": value for name, value in values.items()}
        self.log_dict(values, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(x))
        return terms.loss * self._share_of_step(batch_idx)

    def _share_of_step(self, batch_idx: int) -> float:
        """Return the factor of a batch's loss that makes the gradient of a step the mean over its batches.

        Lightning divides by ``accumulate_grad_batches``, also where fewer batches are left in the epoch.
        """
        return self.trainer.accumulate_grad_batches / self._together(batch_idx)

    def _together(self, batch_idx: int) -> int:
        """Return the number of batches in the step of a batch."""
        together = self.trainer.accumulate_grad_batches
        return min(together, int(self.trainer.num_training_batches) - batch_idx // together * together)

    def _threat_at(self, epoch: float) -> ThreatModel:
        return ThreatModel(self.threat.norm, self.threat.eps * self.eps_schedule(epoch, self.trainer.max_epochs or 1))

    def on_after_backward(self) -> None:
        """Check the labels, which a device has read by now, and call the objective's ``after_backward``."""
        if self._step is not None:
            batch, terms, labels = self._step
            labels.check(terms.logits.shape[1])
            self.current_objective.after_backward(batch, terms)
            self._step = None  # frees the graph

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take one step of the optimizer per replay of the batch; Lightning's ``global_step`` counts batches."""
        for replay in range(self.current_objective.replays):
            self._replay = replay
            super().optimizer_step(*args, **kwargs)
        self._replay = 0

    def _fractional_epoch(self, batch_idx: int) -> float:
        done = batch_idx + self._replay / self.current_objective.replays
        return self.current_epoch + done / self.trainer.num_training_batches

    # --- optimisation ------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return an optimizer with two parameter groups: one with its weight decay, one without."""
        decayed = chosen(self.decay_filter, self.net)
        known = {id(parameter) for parameter in decayed}
        rest = [parameter for parameter in self.net.parameters() if id(parameter) not in known]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": rest, "weight_decay": 0.0}]
        optimizer = self.optimizer([group for group in groups if group["params"]])
        # kept here, because a resumed run replaces the optimizer's state by the checkpoint's
        self._peak_lrs = [group["lr"] for group in optimizer.param_groups]
        return optimizer

    def setup(self, stage: str) -> None:
        """Check the trainer before any work; lay out and compile the network."""
        self.check_trainer(self.trainer, fitting=stage == "fit")
        if self.channels_last:
            self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.compile_backend is not None and stage == "fit":
            self._compiled = (torch.compile(self.net, backend=self.compile_backend),)

    def check_trainer(self, trainer: Trainer, *, fitting: bool) -> None:
        """Raise ``ValueError`` if schedule, objective or evaluation can't work with the trainer's settings."""
        if fitting:
            self.objective.check_threat(self.threat)
        accumulated = trainer.accumulate_grad_batches
        if fitting and self.objective.replays > 1 and accumulated > 1:
            raise ValueError(
                f"{self.objective.label} steps {self.objective.replays} times on each batch, which can't be combined "
                f"with trainer.accumulate_grad_batches={accumulated}; set it to 1"
            )
        if fitting and (trainer.max_epochs or 0) < 1:
            raise ValueError(f"schedules count epochs: set trainer.max_epochs >= 1, got {trainer.max_epochs}")
        if trainer.precision not in ("32-true", "64-true", "16-mixed", "bf16-mixed"):
            raise ValueError(
                f"trainer.precision={trainer.precision} keeps the weights themselves in half precision, in which "
                "robust accuracy cannot be measured; use 32-true, 16-mixed or bf16-mixed"
            )

    def on_train_start(self) -> None:
        """Let callbacks begin an epoch that a resumed run begins in the middle, which Lightning does not tell them."""
        if self.trainer.fit_loop.restarted_mid_epoch:
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
                callback.on_train_epoch_start(self.trainer, self)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rate of this step, and seed torch's own generator (used by dropout)."""
        multiplier = self.schedule(self._fractional_epoch(batch_idx), self.trainer.max_epochs or 1)
        if self.lr_images is not None:
            self.lr_factor = len(batch[0]) * self.trainer.world_size * self._together(batch_idx) / self.lr_images
            multiplier *= self.lr_factor
        groups = self.optimizers().param_groups  # type: ignore[union-attr]
        for group, peak in zip(groups, self._peak_lrs, strict=True):
            group["lr"] = peak * multiplier
        torch.manual_seed(image_keys(torch.tensor(batch_idx), self.seed, self.current_epoch, self.global_rank).item())

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log the learning rate and the epoch, counted from 1, at the end of an epoch."""
        if batch_idx + 1 == self.trainer.num_training_batches:
            lr = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
            ended = {"lr": lr, "epoch": self.current_epoch + 1.0}
            self.log_dict(ended, on_step=False, on_epoch=True, sync_dist=True)

    # --- evaluation -------------------------------------------------------------------------------------------------

    @property
    def attacked(self) -> nn.Module:
        """The form of the network that evaluations attack; the network itself classifies the images found."""
        if self.attack_view is None:
            return self.net
        if self._view is None or self._view[0] is not self.net:
            self._view = (self.net, self.attack_view(self.net))  # in a tuple, so that it is not registered and saved
        return self._view[1]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count a batch of the validation split."""
        self.count(batch, self.val, self.val_attack, self.val_images, VAL)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count a batch of the test split."""
        self.count(batch, self.test, self.test_attack, self.test_images, TEST)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return index, true class, predicted class and its probability, each ``(N,)``."""
        x, y, index = batch
        with in_float32(x.device):
            probability, predicted = self.net(x).softmax(1).max(1)
        return {"index": index, "label": y, "predicted": predicted, "probability": probability}

    def on_validation_epoch_end(self) -> None:
        """Log ``val/loss``, ``val/clean_accuracy`` and the same of attacked images, with the epoch counted from 1."""
        self._log_counted("val", self.val.compute())
        if self.trainer.state.fn == "fit":
            self.log("epoch", self.current_epoch + 1.0, sync_dist=True)

    def on_test_epoch_end(self) -> None:
        """Log the same for the test split, and keep all values in ``test_results``."""
        self.test_results = self.test.compute()
        self._log_counted("test", self.test_results)

    def count(
        self,
        batch: Batch,
        counters: Evaluation,
        attack: Attack,
        images: int | None,
        use: int,
        nets: tuple[nn.Module, nn.Module] | None = None,
    ) -> None:
        """Count a batch of an evaluation.

        Args:
            batch, counters, attack: what is counted, where, and under which attack.
            images: number of the first images that are attacked; None for all.
            use: ``VAL`` or ``TEST``, part of the key of an image's random numbers.
            nets: the network, and the form of it that is attacked; by default those of this module.
        """
        x, y, index = batch
        net, attacked = nets or (self.net, self.attacked)
        with in_float32(x.device):
            logits = ask(net, x)
            check_logits(logits, y)
            counters.loss.update(cross_entropy(logits, y))
            counters.clean.update(logits, logits, y)  # clean accuracy: no attack, so the clean logits twice
            chosen = slice(None) if images is None else index < images
            x, y, index = x[chosen], y[chosen], index[chosen]
            if len(x):
                x_adv = attack(attacked, x, y, keys=image_keys(index, self.seed, use))
                attacked_logits = net(x_adv)
                counters.robust_loss.update(cross_entropy(attacked_logits, y))
                counters.robust.update(logits[chosen], attacked_logits, y)

    def _log_counted(self, stage: str, values: dict[str, float]) -> None:
        # the values are equal on all ranks; sync_dist only tells Lightning that they are
        names = ("loss", "robust_loss", "clean_accuracy", "robust_accuracy")
        self.log_dict({f"{stage}/{name}": values[name] for name in names}, sync_dist=True)
