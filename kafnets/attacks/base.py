"""The contract every attack keeps, and the loop over restarts that keeps it."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from kafnets.attacks.gradients import Autograd, Estimate, GradientEstimator, Loss, Net
from kafnets.attacks.noise import image_keys
from kafnets.attacks.norms import Linf, Norm
from kafnets.attacks.undisturbed import undisturbed
from kafnets.attacks.worst import Worst
from kafnets.logits import check_logits, check_shape, is_correct
from kafnets.losses import cross_entropy

__all__ = ["Attack", "Loss", "Net", "at_least_one", "in_input_units", "is_look_due", "show_units"]


def in_input_units(name: str, value: float | str) -> float:
    """Read a size in input units, a number or a fraction such as ``"8/255"``.

    Raises:
        ValueError: if ``value`` is neither.

    Example:
        >>> in_input_units("eps", "8/255") == 8 / 255
        True
    """
    if isinstance(value, str):
        numerator, _, denominator = value.partition("/")
        try:
            return float(numerator) / float(denominator or 1)
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"{name} must be a number or a fraction such as 8/255, got {value!r}") from None
    return float(value)


def show_units(value: float) -> str:
    """Write a size in input units as people do: as grey levels, ``8/255``, or as a plain number where that is shorter.

    Example:
        >>> show_units(8 / 255), show_units(0.031), show_units(0.05), show_units(1.0)
        ('8/255', '0.031', '0.05', '1')
    """
    levels, plain = Fraction(value * 255).limit_denominator(10), f"{value:g}"
    if not levels or abs(float(levels) / 255 - value) >= 1e-12:
        return plain
    return min(plain, f"{float(levels):g}/255", key=len)


def at_least_one(name: str, value: int) -> int:
    """Return ``value``, a count; raise ``ValueError`` below 1."""
    if value < 1:
        raise ValueError(f"{name} must be >= 1, got {value}")
    return value


# On a GPU the processor runs ahead, and reading a value there makes it wait for all it has asked for.
STEPS_BETWEEN_LOOKS = {"cuda": 8}


def is_look_due(step: int, device: torch.device) -> bool:
    """Whether a step of an attack, counted from 0, is one at which to read which images are left.

    Every step, where that costs nothing; every eighth on a GPU.

    Example:
        >>> [step for step in range(17) if is_look_due(step, torch.device("cuda"))]
        [0, 8, 16]
    """
    return step % STEPS_BETWEEN_LOOKS.get(device.type, 1) == 0


def _in_words(value: Any) -> Any:
    """A setting as JSON has it: objects by their name, or by what says how they were made."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return type(value).__name__ if isinstance(value, Norm) else getattr(value, "__name__", repr(value))


def _checked(net: Net, y: Tensor | None) -> Net:
    """The network, its logits checked: the shape at every call, and at the first the labels, where there are any."""
    unchecked = [] if y is None else [y]

    def answer(x: Tensor) -> Tensor:
        logits = net(x)
        if unchecked:  # reading labels waits for the device
            check_logits(logits, unchecked.pop())
        else:
            check_shape(logits, len(x))
        return logits

    return answer


class Attack(ABC):
    """Search for the image within eps that a classifier gets wrong: ``attack(net, x, y) -> x_adv``.

    The contract: ``x_adv`` lies in the eps-ball around ``x`` and in [0, 1] exactly, in the dtype of ``x``. ``y`` are
    the true classes. Each image keeps the worst it met over all restarts: a misclassified one if there was any,
    otherwise the one of the largest loss. An image that is misclassified without a perturbation counts as found. The
    network comes back as it was: modes, buffers, ``.grad`` and ``requires_grad``. More restarts never find less.

    A subclass implements :meth:`run`, one attempt from one start.

    Args:
        eps: radius of the ball in input units, a number or ``"8/255"``.
        norm: the ball.
        restarts: attempts an image, >= 1.
        early_stop: True, for evaluation: images leave the search once misclassified. False, for training: every image
            goes through every step, and with one restart :meth:`run`'s last iterate is returned without a further
            forward pass.
        eval_mode: True attacks the network in evaluation mode. False takes every module as it is found: in a training
            step, batch norm normalises by the batch and dropout drops; running statistics are put back afterwards.
        loss: what to maximise, ``(logits (N, classes), y (N,)) -> (N,)``. It is summed over the batch, never averaged.
        estimator: where gradients come from; exact ones by default.

    Raises:
        ValueError: if a setting is out of its range, or (when called) if images are not finite or leave [0, 1], if
            labels or keys do not fit, if ``net`` does not return ``(N, classes)``, or if, in evaluation, the gradient
            at an image it still gets right is not finite.
    """

    def __init__(
        self,
        *,
        eps: float | str = 8 / 255,
        norm: Norm | None = None,
        restarts: int = 1,
        early_stop: bool = True,
        eval_mode: bool = True,
        loss: Loss = cross_entropy,
        estimator: GradientEstimator | None = None,
    ) -> None:
        self.norm = norm or Linf()
        self.eps = in_input_units("eps", eps)
        self.norm.check_eps(self.eps)
        self.restarts = at_least_one("restarts", restarts)
        self.early_stop = early_stop
        self.eval_mode = eval_mode
        self.loss = loss
        self.estimator = estimator or Autograd()
        self._unusable: Tensor | None = None  # whether a gradient was met that can't be followed; read now and then

    def __call__(self, net: Net, x: Tensor, y: Tensor, *, keys: Tensor | None = None) -> Tensor:
        """Attack a batch.

        Args:
            net: images to logits; a module, or any callable.
            x: images ``(N, C, H, W)``, floating point, in [0, 1].
            y: true classes, int64 ``(N,)``.
            keys: int64 ``(N,)`` from :func:`kafnets.attacks.noise.image_keys`; what the random numbers of each image
                are drawn from. Without them they follow ``torch.manual_seed``.

        Returns:
            ``x_adv``, of the shape, dtype and device of ``x``.
        """
        self._check(x, y, keys)
        keys = torch.randint(2**62, (len(x),)).to(x.device) if keys is None else keys
        if len(x) == 0:
            return x.clone()
        with undisturbed(net, eval_mode=self.eval_mode):
            x, y, keys = x.detach().clone(), y.clone(), keys.clone()  # inference tensors can't be differentiated
            if not self._compares:
                return self.run(net, x, y, image_keys(keys, 0))
            return self._worst_of_restarts(net, x, y, keys)

    @abstractmethod
    def run(self, net: Net, x: Tensor, y: Tensor, keys: Tensor) -> Tensor:
        """One attempt: images of the ball around ``x``, one an image; arguments as in :meth:`__call__`."""

    @property
    def _compares(self) -> bool:
        """Whether images are judged and compared, as for evaluation, or one start's last is taken, as for training."""
        return self.early_stop or self.restarts > 1

    def gradient(self, net: Net, x_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of the summed loss at ``x_adv`` (its shape), and the logits ``(N, classes)`` there."""
        grad, logits, _ = self.estimate(net, self.loss, x_adv, (y,))
        return grad, logits

    def estimate(
        self,
        net: Net,
        loss: Loss,
        x_adv: Tensor,
        labels: tuple[Tensor, ...],
        keys: Tensor | None = None,
        step: int = 0,
    ) -> Estimate:
        """Gradient, logits and loss at ``x_adv``; arguments as in :class:`~kafnets.attacks.gradients.Autograd`.

        The first of ``labels`` are the true classes.
        """
        known = self._compares or step > 0  # where images are compared, they were judged before the first step
        found = self.estimator(_checked(net, None if known else labels[0]), loss, x_adv, labels, keys, step)
        if self._compares:
            # a network that answers but can't be followed would pass for robust; in training the loss is watched
            grad = found.grad.flatten(1)
            finite = torch.isfinite(grad.amax(1)) & torch.isfinite(grad.amin(1))
            unusable = (~finite & is_correct(found.logits, labels[0])).any()
            self._unusable = unusable if self._unusable is None else self._unusable | unusable
            if is_look_due(step, x_adv.device):
                self._refuse_unusable()
        return found

    def _refuse_unusable(self) -> None:
        unusable, self._unusable = self._unusable, None
        if unusable is not None and bool(unusable):
            raise ValueError(f"{self}: the gradient of the network is not finite, so no attack can follow it")

    def check_classes(self, classes: int) -> None:
        """Raise ``ValueError`` if the loss needs more classes than the network has."""
        needed = max(getattr(loss, "fewest_classes", 2) for loss in self._losses())
        if classes < needed:
            raise ValueError(
                f"{self} needs {needed} classes or more, the network has {classes}; leave it out, and take APGD with "
                "loss=margin"
            )

    def _losses(self) -> tuple[Callable[..., Tensor], ...]:
        return (self.loss,)

    def passes(self) -> int:
        """Forward and backward passes that an image takes at most, roughly, a backward one for two: for estimates."""
        return 3 * self.restarts

    def settings(self) -> dict[str, Any]:
        """What a report must say of this attack: JSON-ready names and values."""
        public = {name: _in_words(value) for name, value in vars(self).items() if not name.startswith("_")}
        return {"attack": type(self).__name__, **public}

    def __str__(self) -> str:
        return f"{type(self).__name__} {type(self.norm).__name__} eps {show_units(self.eps)}"

    def _worst_of_restarts(self, net: Net, x: Tensor, y: Tensor, keys: Tensor) -> Tensor:
        worst, restart = Worst(x, *self._judge(net, x, y)), 0
        while restart < self.restarts:
            left = worst.standing() if self.early_stop else torch.arange(len(x), device=x.device)
            if len(left) == 0:
                break
            attempts = range(restart, min(restart + self._together(len(x), len(left)), self.restarts))
            again = left.repeat(len(attempts))
            starts = torch.cat([image_keys(keys[left], attempt) for attempt in attempts])
            found = self.run(net, x[again], y[again], starts)
            self._refuse_unusable()
            if not bool(torch.isfinite(found).all()):
                raise ValueError(f"{self}: an attempt returned images that are not finite")
            judged = (found, *self._judge(net, found, y[again], known=True))
            for attempt in zip(*(rows.split(len(left)) for rows in judged), strict=True):
                # in turn: an image that the attempt before has fooled would not have met this one
                open_rows = worst.correct[left].nonzero().flatten() if self.early_stop else slice(None)
                worst.update(left[open_rows], *(rows[open_rows] for rows in attempt))
            restart = attempts.stop
        return worst.images

    def _together(self, room: int, images: int) -> int:
        """How many attempts of some images fill a batch: small ones leave the device idle."""
        # as found, batch norm may look at the whole batch: then images must not meet themselves in it
        return max(room // images, 1) if self.eval_mode else 1

    def _judge(self, net: Net, x: Tensor, y: Tensor, *, known: bool = False) -> tuple[Tensor, Tensor]:
        """Which images are classified correctly, and each one's loss; ``known``: the labels have been checked."""
        logits = self._answers(net, x, y, known=known)
        return is_correct(logits, y), self.loss(logits, y)

    def _answers(self, net: Net, x: Tensor, y: Tensor, *, known: bool = False) -> Tensor:
        """The logits by which images are judged."""
        with torch.no_grad():
            return self.estimator.logits(_checked(net, None if known else y), x)

    def _check(self, x: Tensor, y: Tensor, keys: Tensor | None = None) -> None:
        if not x.is_floating_point():
            raise ValueError(f"images must be floating point in [0, 1], got {x.dtype}; divide uint8 by 255")
        if y.shape != x.shape[:1] or y.dtype != torch.int64:
            raise ValueError(f"labels must be int64 of shape ({len(x)},), got {y.dtype} of shape {tuple(y.shape)}")
        if len(x):
            low, high = (v.item() for v in torch.aminmax(x))
            if not (low >= 0 and high <= 1):  # written so that NaN fails too
                raise ValueError(
                    f"images must be finite and in [0, 1], got values from {low:g} to {high:g}; "
                    "normalisation belongs inside the network"
                )
        if keys is not None and keys.shape != y.shape:
            raise ValueError(f"keys must be one an image, shape ({len(x)},), got {tuple(keys.shape)}")
