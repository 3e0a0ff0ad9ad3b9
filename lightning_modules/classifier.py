"""What standard and adversarial training share: optimizer, schedule, evaluation, logging."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MeanMetric

from kafnets.attacks import PGD, Attack
from kafnets.attacks.noise import image_keys
from kafnets.backbones import Backbone, Fused
from kafnets.logits import check_logits, is_correct
from kafnets.losses import cross_entropy
from kafnets.metrics import RobustAccuracy
from kafnets.schedules import Constant, Schedule
from lightning_modules.weight_decay import all_parameters

Batch: TypeAlias = tuple[Tensor, Tensor, Tensor]

# what the random numbers of an image are for: part of its key
TRAIN, VAL, TEST = range(3)


class Evaluation(nn.Module):
    """The counters of one evaluation: loss and clean accuracy of every image, robust accuracy of the attacked ones."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = MeanMetric(nan_strategy="disable")
        self.clean = RobustAccuracy()
        self.robust = RobustAccuracy()

    def compute(self) -> dict[str, float]:
        """What was counted, over all processes; the counters stand at zero again afterwards."""
        clean, robust = self.clean.compute(), self.robust.compute()
        values = {"loss": self.loss.compute()}
        for name, counted in (("clean", clean), ("robust", robust)):
            values |= {f"{name}_accuracy{end}": counted[f"{name}{end}"] for end in ("", "_low", "_high")}
            values |= {f"{name}_images": counted["images"]}
        for counter in (self.loss, self.clean, self.robust):
            counter.reset()
        return {name: value.item() for name, value in values.items()}


class Classifier(LightningModule):
    """A backbone in training: subclasses say on which images it is trained (:meth:`training_inputs`).

    Batches are ``(x, y, index)``: images float32 ``(N, C, H, W)`` in [0, 1], true classes int64 ``(N,)``, and the
    number of each image within its split, int64 ``(N,)``. Random numbers of an attack belong to (seed, epoch, image),
    those of dropout to (seed, epoch, batch, rank), so a run that is stopped and resumed goes on exactly as it would
    have.

    Validation and test measure in float32, whatever the precision of training: clean accuracy on every image, robust
    accuracy on the images whose index is below ``val_images`` or ``test_images`` (data modules order evaluation sets
    so that any beginning of one is a balanced sample).

    Args:
        net: the backbone.
        optimizer: builds the optimizer from parameter groups; its ``lr`` is the schedule's 1, its ``weight_decay``
            applies to ``decayed`` alone.
        schedule: fractional epoch to multiplier of the learning rate.
        decayed: which parameters are decayed, a function of the network.
        val_attack: the attack behind ``val/robust_accuracy``, run every epoch; cheap.
        val_images: number of validation images attacked, >= 1.
        test_attack: the attack of the final test.
        test_images: number of test images attacked, >= 1; None for all.
        seed: the seed of everything random.

    Raises:
        ValueError: if a number of images is below 1, if the trainer counts no epochs, or if its precision is not
            32-true, 64-true, 16-mixed or bf16-mixed.
    """

    def __init__(
        self,
        *,
        net: Backbone,
        optimizer: OptimizerCallable = torch.optim.SGD,
        schedule: Schedule | None = None,
        decayed: Callable[[nn.Module], Iterable[Tensor]] = all_parameters,
        val_attack: Attack | None = None,
        val_images: int = 500,
        test_attack: Attack | None = None,
        test_images: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, images in (("val_images", val_images), ("test_images", test_images)):
            if images is not None and images < 1:
                raise ValueError(f"{name} must be >= 1, got {images}")
        self.net = net
        self.optimizer = optimizer
        self.schedule = schedule or Constant()
        self.decayed = decayed
        self.val_attack = val_attack or PGD(steps=10)
        self.val_images = val_images
        self.test_attack = test_attack or PGD(steps=50)
        self.test_images = test_images
        self.seed = seed
        self.val, self.test = Evaluation(), Evaluation()
        self.inputs: Tensor | None = None
        self.test_results: dict[str, float] = {}
        self._peak_lrs: list[float] = []
        self._fused: list[Fused] = []

    # --- what is trained ---------------------------------------------------------------------------------------------

    @abstractmethod
    def training_inputs(self, x: Tensor, y: Tensor, keys: Tensor) -> Tensor:
        """The images to train on in place of ``x``; ``keys`` are this epoch's keys of the images."""

    def training_labels(self) -> dict[str, Any]:
        """``attack`` and ``eps`` of the training, for tables and dashboards."""
        return {"attack": "none", "eps": 0.0}

    def labels(self) -> dict[str, Any]:
        """The scalars that runs are compared by: activation, backbone, attack, eps, seed."""
        return {"activation": self.net.activation_label, "backbone": self.net.label} | (
            self.training_labels() | {"seed": self.seed}
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean cross-entropy on the training inputs."""
        x, y, index = batch
        # kept for the report if this step's loss turns out not to be finite
        self.inputs = self.training_inputs(x, y, image_keys(index, self.seed, TRAIN, self.current_epoch))
        logits = self.net(self.inputs)
        check_logits(logits, y)
        loss = cross_entropy(logits, y).mean()
        accuracy = is_correct(logits.detach(), y).float().mean()
        values = {"train/loss": loss.detach(), "train/accuracy": accuracy}
        self.log_dict(values, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(x))
        return loss

    # --- how it is optimised -----------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Two parameter groups: decayed as the optimizer says, and not at all."""
        decayed = list(self.decayed(self.net))
        chosen = {id(parameter) for parameter in decayed}
        rest = [parameter for parameter in self.net.parameters() if id(parameter) not in chosen]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": rest, "weight_decay": 0.0}]
        optimizer = self.optimizer([group for group in groups if group["params"]])
        # kept here, not in the optimizer, whose state a resumed run replaces by the checkpoint's
        self._peak_lrs = [group["lr"] for group in optimizer.param_groups]
        return optimizer

    def setup(self, stage: str) -> None:
        """Refuse what could not be scheduled or measured, before any work."""
        self.check_trainer(self.trainer, fitting=stage == "fit")

    @staticmethod
    def check_trainer(trainer: Trainer, *, fitting: bool) -> None:
        """Raise ``ValueError`` if the trainer counts no epochs or has a precision that can't be measured in."""
        if fitting and (trainer.max_epochs or 0) < 1:
            raise ValueError(f"schedules count epochs: set trainer.max_epochs >= 1, got {trainer.max_epochs}")
        if trainer.precision not in ("32-true", "64-true", "16-mixed", "bf16-mixed"):
            raise ValueError(
                f"trainer.precision={trainer.precision} keeps the weights themselves in half precision, in which "
                "robust accuracy cannot be measured; use 32-true, 16-mixed or bf16-mixed"
            )

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set this step's learning rate, and the random state of what draws from torch's own generator (dropout)."""
        epoch = self.current_epoch + batch_idx / self.trainer.num_training_batches
        multiplier = self.schedule(epoch, self.trainer.max_epochs or 1)
        groups = self.optimizers().param_groups  # type: ignore[union-attr]
        for group, peak in zip(groups, self._peak_lrs, strict=True):
            group["lr"] = peak * multiplier
        torch.manual_seed(image_keys(torch.tensor(batch_idx), self.seed, self.current_epoch, self.global_rank).item())

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log the learning rate an epoch ends with."""
        if batch_idx + 1 == self.trainer.num_training_batches:
            lr = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
            self.log("lr", lr, on_step=False, on_epoch=True, sync_dist=True)

    # --- how it is measured ------------------------------------------------------------------------------------------

    @property
    def attacked(self) -> Fused:
        """The network as evaluations attack it; what is found is judged by the network itself."""
        if not self._fused or self._fused[0].net is not self.net:
            self._fused = [Fused(self.net)]  # in a list, which is none of submodules: checkpoints hold the network once
        return self._fused[0]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count a batch of the validation split."""
        self._count(batch, self.val, self.val_attack, self.val_images, VAL)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count a batch of the test split."""
        self._count(batch, self.test, self.test_attack, self.test_images, TEST)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Index, true class, predicted class and its probability, each ``(N,)``."""
        x, y, index = batch
        with torch.autocast(x.device.type, enabled=False):
            probability, predicted = self.net(x).softmax(1).max(1)
        return {"index": index, "label": y, "predicted": predicted, "probability": probability}

    def on_validation_epoch_end(self) -> None:
        """Log ``val/loss``, ``val/clean_accuracy`` and ``val/robust_accuracy``."""
        self._log_counted("val", self.val.compute())

    def on_test_epoch_end(self) -> None:
        """Log the same of the test split; everything counted stays in ``test_results``."""
        self.test_results = self.test.compute()
        self._log_counted("test", self.test_results)

    def _count(self, batch: Batch, counters: Evaluation, attack: Attack, images: int | None, use: int) -> None:
        x, y, index = batch
        with torch.autocast(x.device.type, enabled=False):
            logits = self.net(x)
            check_logits(logits, y)
            counters.loss.update(cross_entropy(logits, y))
            counters.clean.update(logits, logits, y)  # no attack: the clean images once more
            chosen = slice(None) if images is None else index < images
            x, y, index = x[chosen], y[chosen], index[chosen]
            if len(x):
                x_adv = attack(self.attacked, x, y, keys=image_keys(index, self.seed, use))
                counters.robust.update(logits[chosen], self.net(x_adv), y)

    def _log_counted(self, stage: str, values: dict[str, float]) -> None:
        # every rank holds the same values here; the mean over ranks only tells Lightning so
        names = ("loss", "clean_accuracy", "robust_accuracy")
        self.log_dict({f"{stage}/{name}": values[name] for name in names}, sync_dist=True)
