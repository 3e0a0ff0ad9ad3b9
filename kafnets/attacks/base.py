"""The base class of attacks, with the loop over restarts."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from kafnets.attacks.gradient_estimators import Autograd, Estimate, GradientEstimator, Loss, Net
from kafnets.attacks.preserve_state import preserve_state
from kafnets.attacks.queries import EvaluatedNet, TrainedNet
from kafnets.attacks.worst_case import WorstCase
from kafnets.described import Described, arguments_of, in_words
from kafnets.device_reads import Later
from kafnets.keyed_random import image_keys, keys_for
from kafnets.logits import is_correct
from kafnets.losses import cross_entropy
from kafnets.threat import Norm, ThreatModel

__all__ = [
    "Attack",
    "Loss",
    "Net",
    "at_least_one",
    "check_classes",
    "check_images",
    "is_sync_due",
    "positive_and_finite",
]


def at_least_one(name: str, value: int) -> int:
    """Return ``value``, a count; raise ``ValueError`` below 1."""
    if value < 1:
        raise ValueError(f"{name} must be >= 1, got {value}")
    return value


def positive_and_finite(name: str, value: float, hint: str = "") -> float:
    """Return ``value``; raise ``ValueError`` unless it is > 0 and finite."""
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be > 0 and finite, got {value:g}{hint}")
    return value


# Reading a value from a GPU makes the CPU wait until all queued operations are done.
STEPS_BETWEEN_SYNCS = {"cuda": 8}


def is_sync_due(step: int, device: torch.device) -> bool:
    """Whether an attack should read from the device, at this step from 0, which images are still classified correctly.

    At every step on a CPU; at every eighth on a GPU.

    Example:
        >>> [step for step in range(17) if is_sync_due(step, torch.device("cuda"))]
        [0, 8, 16]
    """
    return step % STEPS_BETWEEN_SYNCS.get(device.type, 1) == 0


class Attack(Described, ABC):
    """Search for an image within eps that a classifier gets wrong.

    There are two ways to use an attack, and the caller chooses by the call, not by a setting:

    - ``attack(net, x, y)`` evaluates. The network is attacked in evaluation mode. Each image keeps the worst result of
      all restarts: a misclassified one if there was any, otherwise the one of the largest loss. An image leaves the
      search once it is misclassified; one that is misclassified without a perturbation is returned as it is. More
      restarts never find fewer errors.
    - ``attack.craft(net, x, y)`` makes images to train on: one start per image, and by default every image takes every
      step.

    Both return images in the eps-ball around ``x`` and in [0, 1] exactly, in the dtype of ``x``; ``y`` are the true
    classes; the network is unchanged afterwards: modes, buffers, ``.grad`` and ``requires_grad``.

    A subclass implements :meth:`run`, one attempt from one start.

    Args:
        eps: radius of the ball in input units, a number or ``"8/255"``; None for that of the threat model of the run
            (:meth:`within`), or 8/255 outside a run.
        norm: norm of the ball; None for that of the threat model of the run, or :class:`~kafnets.threat.Linf` outside.
        restarts: attempts per image, >= 1.
        loss: what to maximise, ``(logits (N, classes), y (N,)) -> (N,)``. It is summed over the batch, never averaged.
        estimator: how gradients are computed; exactly by default.

    Raises:
        ValueError: if a setting is out of its range, or (when called) if images are not finite or leave [0, 1], if
            labels or keys do not fit, if ``net`` does not return ``(N, classes)``, or if, in evaluation, the gradient
            at an image that is classified correctly is not finite.
    """

    default_threat: ClassVar[ThreatModel] = ThreatModel()
    soft_targets: ClassVar[bool] = False  # whether craft() also takes targets (N, classes)
    unsaid: ClassVar[tuple[str, ...]] = ("eps", "norm")  # the name contains the threat model in any case

    threat: ThreatModel
    estimator: GradientEstimator

    def __init__(
        self,
        *,
        eps: float | str | None = None,
        norm: Norm | None = None,
        restarts: int = 1,
        loss: Loss = cross_entropy,
        estimator: GradientEstimator | None = None,
    ) -> None:
        self._own_eps, self._own_norm = eps, norm
        self.restarts = at_least_one("restarts", restarts)
        self.loss = loss
        self._estimator = estimator or Autograd()
        self._set_threat(self._filled(self.default_threat))

    @property
    def norm(self) -> Norm:
        """The norm of the threat model."""
        return self.threat.norm

    @property
    def eps(self) -> float:
        """The radius of the threat model, in input units."""
        return self.threat.eps

    def within(self, threat: ThreatModel) -> Self:
        """A copy of this attack in the threat model of a run, which fills in norm and eps where none was given.

        Raises:
            ValueError: if the attack is not defined for such a ball.

        Example:
            >>> from kafnets.attacks import PGD
            >>> print(PGD(steps=5).within(ThreatModel(eps="4/255")))
            PGD-5-1 Linf eps 4/255
        """
        bound = copy.copy(self)
        bound._set_threat(self._filled(threat))
        return bound

    def _filled(self, threat: ThreatModel) -> ThreatModel:
        eps = threat.eps if self._own_eps is None else self._own_eps
        return ThreatModel(threat.norm if self._own_norm is None else self._own_norm, eps)

    def _set_threat(self, threat: ThreatModel) -> None:
        """Set the threat model and all that follows from it."""
        self.threat = threat
        self.estimator = self._estimator.within(threat)

    def __call__(self, net: Net, x: Tensor, y: Tensor, *, keys: Tensor | None = None) -> Tensor:
        """Attack a batch to measure how robust a network is.

        Args:
            net: images to logits; a module, or any callable.
            x: images ``(N, C, H, W)``, floating point, in [0, 1].
            y: true classes, int64 ``(N,)``.
            keys: int64 ``(N,)`` from :func:`kafnets.keyed_random.image_keys`, the seed of each image's random numbers.
                None for seeds that follow ``torch.manual_seed``.

        Returns:
            ``x_adv``, of the shape, dtype and device of ``x``.
        """
        check_images(x)
        check_classes(x, y)
        keys = keys_for(x, keys)
        if len(x) == 0:
            return x.clone()
        with preserve_state(net, eval_mode=True):
            x, y, keys = x.detach().clone(), y.clone(), keys.clone()  # inference tensors can't be differentiated
            return self._worst_of_restarts(EvaluatedNet(net, y, str(self)), x, y, keys)

    def craft(
        self,
        net: Net,
        x: Tensor,
        target: Tensor,
        *,
        keys: Tensor | None = None,
        eval_mode: bool = False,
        stop_when_fooled: bool = False,
    ) -> Tensor:
        """Perturb a batch to train on it: one start per image, and by default every image takes every step.

        Args:
            net, x, keys: as when called.
            target: true classes, int64 ``(N,)``; if the attack has ``soft_targets``, also any other targets of its
                loss, floating point ``(N, classes)``.
            eval_mode: True attacks the network in evaluation mode. False leaves every module in the mode it is in: in
                a training step, batch norm uses the statistics of the batch and dropout is active. Running statistics
                are restored afterwards in either case.
            stop_when_fooled: True leaves an image at the first iterate that is misclassified. ``target`` must be
                classes.

        Returns:
            Images of the shape, dtype and device of ``x``.

        Raises:
            ValueError: as when called; also for more than one restart.
        """
        if self.restarts > 1:
            raise ValueError(f"{self}: training takes one start per image, got restarts={self.restarts}; leave it out")
        check_floating(x)
        # read at the end, when the device has work to do meanwhile
        in_range = Later(_in_range(x)) if len(x) else None
        soft = target.is_floating_point() and target.dim() == 2 and len(target) == len(x)
        if not (soft and self.soft_targets) or stop_when_fooled:
            check_classes(x, target)
        keys = keys_for(x, keys)
        if len(x) == 0:
            return x.clone()
        with preserve_state(net, eval_mode=eval_mode):
            images, target, keys = x.detach().clone(), target.detach().clone(), keys.clone()
            view = TrainedNet(net, target)
            found = self.run(view, images, target, image_keys(keys, 0), early_stop=stop_when_fooled)
        if in_range is not None and in_range.read() == [0]:
            check_images(x)
        return found

    @abstractmethod
    def run(self, net: Net, x: Tensor, y: Tensor, keys: Tensor, *, early_stop: bool) -> Tensor:
        """One attempt: returns an image in the ball around each of ``x``; arguments as in :meth:`__call__`.

        ``early_stop``: images leave the search once they are misclassified.
        """

    def estimate(
        self,
        net: Net,
        loss: Loss,
        x_adv: Tensor,
        labels: tuple[Tensor, ...],
        keys: Tensor | None = None,
        step: int = 0,
    ) -> Estimate:
        """Gradient, logits and loss at ``x_adv``; the first of ``labels`` are the true classes.

        Arguments as in :class:`~kafnets.attacks.gradient_estimators.Autograd`.
        """
        found = self.estimator(net, loss, x_adv, labels, keys, step)
        if isinstance(net, EvaluatedNet):
            net.watch(found.grad, found.logits, labels[0], refuse_now=is_sync_due(step, x_adv.device))
        return found

    def for_classes(self, classes: int) -> Self:
        """This attack for a network with so many classes, with no more targets than there are wrong classes.

        Raises:
            ValueError: if the loss needs more classes.
        """
        needed = max(getattr(loss, "fewest_classes", 2) for loss in self._losses())
        if classes < needed:
            raise ValueError(
                f"{self} needs {needed} classes or more, the network has {classes}; maximise the margin instead"
            )
        return self

    def _losses(self) -> tuple[Callable[..., Tensor], ...]:
        return (self.loss,)

    def passes(self) -> int:
        """Roughly the most forward and backward passes per image, a backward pass counted as two."""
        return self.estimator.passes(1) * self.restarts

    def settings(self) -> dict[str, Any]:
        """The settings for a report: names and values that JSON can store."""
        names = [name for name in arguments_of(type(self)) if name not in ("eps", "norm")]
        values = {name: _json_ready(getattr(self, name)) for name in names if hasattr(self, name)}
        return {"attack": type(self).__name__, "norm": type(self.norm).__name__, "eps": self.eps, **values}

    def __str__(self) -> str:
        rest = ", ".join(self.other_settings())
        return f"{self.short_label} {self.threat}" + (f" ({rest})" if rest else "")

    @property
    def label(self) -> str:
        """The same as ``str(attack)``."""
        return str(self)

    def _worst_of_restarts(self, net: EvaluatedNet, x: Tensor, y: Tensor, keys: Tensor) -> Tensor:
        worst, restart = WorstCase(x, *self._judge(net, x, y)), 0
        while restart < self.restarts:
            left = worst.still_correct()
            if len(left) == 0:
                break
            attempts = range(restart, min(restart + self._attempts_at_once(len(x), len(left)), self.restarts))
            again = left.repeat(len(attempts))
            starts = torch.cat([image_keys(keys[left], attempt) for attempt in attempts])
            found = self.run(net, x[again], y[again], starts, early_stop=True)
            net.refuse_unusable()
            if not bool(torch.isfinite(found).all()):
                raise ValueError(f"{self}: an attempt returned images that are not finite")
            judged = (found, *self._judge(net, found, y[again]))
            for attempt in zip(*(rows.split(len(left)) for rows in judged), strict=True):
                # in order: an image that one attempt has fooled takes no part in the next
                open_rows = worst.correct[left].nonzero().flatten()
                worst.update(left[open_rows], *(rows[open_rows] for rows in attempt))
            restart = attempts.stop
        net.warn_if_flat()
        return worst.images

    def _attempts_at_once(self, batch_size: int, images: int) -> int:
        """How many attempts on some images fit into one batch: small batches leave the device idle."""
        return max(batch_size // images, 1)

    def _judge(self, net: Net, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Whether each image is classified correctly, and its loss."""
        logits = self._answers(net, x)
        return is_correct(logits, y), self.loss(logits, y)

    def _answers(self, net: Net, x: Tensor) -> Tensor:
        """The logits by which images are judged."""
        with torch.no_grad():
            return self.estimator.logits(net, x)


def _json_ready(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return {name: _json_ready(item) for name, item in value.items()} if isinstance(value, dict) else in_words(value)


def check_images(x: Tensor) -> None:
    """Raise ``ValueError`` unless images are floating point, finite and in [0, 1]."""
    check_floating(x)
    if len(x) and not bool(_in_range(x)):
        low, high = (v.item() for v in torch.aminmax(x))
        raise ValueError(
            f"images must be finite and in [0, 1], got values from {low:g} to {high:g}; "
            "normalisation belongs inside the network"
        )


def check_floating(x: Tensor) -> None:
    """Raise ``ValueError`` unless images are floating point."""
    if not x.is_floating_point():
        raise ValueError(f"images must be floating point in [0, 1], got {x.dtype}; divide uint8 by 255")


def _in_range(x: Tensor) -> Tensor:
    low, high = torch.aminmax(x)
    return (low >= 0) & (high <= 1)  # False for NaN


def check_classes(x: Tensor, y: Tensor) -> None:
    """Raise ``ValueError`` unless ``y`` has one int64 class for each image."""
    if y.shape != x.shape[:1] or y.dtype != torch.int64:
        raise ValueError(f"labels must be int64 of shape ({len(x)},), got {y.dtype} of shape {tuple(y.shape)}")
