"""The contract every attack keeps, and the loop over restarts that keeps it."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeAlias

import torch
from torch import Tensor

from kafnets.attacks.noise import image_keys
from kafnets.attacks.norms import Linf, Norm
from kafnets.attacks.undisturbed import undisturbed
from kafnets.logits import check_logits, is_correct
from kafnets.losses import cross_entropy

Net: TypeAlias = Callable[[Tensor], Tensor]
Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


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
    """Write a size in input units as people do: ``8/255`` where it is one, the plain number otherwise.

    Example:
        >>> show_units(8 / 255), show_units(0.031), show_units(1.0)
        ('8/255', '0.031', '1')
    """
    levels = Fraction(value * 255).limit_denominator(10)
    is_levels = value < 1 and levels and abs(float(levels) / 255 - value) < 1e-12
    return f"{float(levels):g}/255" if is_levels else f"{value:g}"


def at_least_one(name: str, value: int) -> int:
    """Return ``value``, a count; raise ``ValueError`` below 1."""
    if value < 1:
        raise ValueError(f"{name} must be >= 1, got {value}")
    return value


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
    ) -> None:
        self.norm = norm or Linf()
        self.eps = in_input_units("eps", eps)
        self.norm.check_eps(self.eps)
        self.restarts = at_least_one("restarts", restarts)
        self.early_stop = early_stop
        self.eval_mode = eval_mode
        self.loss = loss

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
        self._check(x, y)
        if keys is None:
            keys = torch.randint(2**62, (len(x),)).to(x.device)
        elif keys.shape != y.shape:
            raise ValueError(f"keys must be one an image, shape ({len(x)},), got {tuple(keys.shape)}")
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
        x_adv = x_adv.detach().requires_grad_(True)
        logits = net(x_adv)
        check_logits(logits, y)
        # with respect to the images alone: parameters keep their .grad, and DDP's hooks stay quiet
        (grad,) = torch.autograd.grad(self.loss(logits, y).sum(), x_adv)
        # a network that answers but can't be followed would pass for robust; in training the loss itself is watched
        if self._compares and not bool(torch.isfinite(grad[is_correct(logits, y)]).all()):
            raise ValueError(f"{self}: the gradient of the network is not finite, so no attack can follow it")
        return grad, logits.detach()

    def settings(self) -> dict[str, Any]:
        """What a report must say of this attack: JSON-ready names and values."""
        public = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        described = {"norm": type(self.norm).__name__, "loss": getattr(self.loss, "__name__", repr(self.loss))}
        return {"attack": type(self).__name__, **public, **described}

    def __str__(self) -> str:
        return f"{type(self).__name__} {type(self.norm).__name__} eps {show_units(self.eps)}"

    def _worst_of_restarts(self, net: Net, x: Tensor, y: Tensor, keys: Tensor) -> Tensor:
        worst = x.clone()
        robust, worst_loss = self._judge(net, worst, y)
        for restart in range(self.restarts):
            left = robust.nonzero().flatten() if self.early_stop else torch.arange(len(x), device=x.device)
            if len(left) == 0:
                break
            found = self.run(net, x[left], y[left], image_keys(keys[left], restart))
            if not bool(torch.isfinite(found).all()):
                raise ValueError(f"{self}: an attempt returned images that are not finite")
            correct, loss = self._judge(net, found, y[left])
            # first what fools the network, then what has the larger loss
            better = torch.where(correct == robust[left], loss > worst_loss[left], ~correct)
            where = left[better]
            worst[where], worst_loss[where], robust[where] = found[better], loss[better], correct[better]
        return worst

    def _judge(self, net: Net, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Which images are classified correctly, and each one's loss."""
        with torch.no_grad():
            logits = net(x)
            check_logits(logits, y)
            return is_correct(logits, y), self.loss(logits, y)

    def _check(self, x: Tensor, y: Tensor) -> None:
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
