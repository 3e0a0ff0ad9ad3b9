"""Robust accuracy as a function of the radius of the ball, the steps and the restarts of the attack."""

from collections.abc import Callable, Iterator, Sequence
from functools import singledispatch
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from kafnets.attacks import APGD, L1, PGD, Attack, Norm
from kafnets.attacks.queries import ask
from kafnets.logits import is_correct

Net: TypeAlias = Callable[[Tensor], Tensor]
Value = TypeVar("Value", int, float)

# multiples of the attack's eps; after these comes a ball that contains every image
RADII = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0)
STEPS = (1, 2, 5, 10, 20, 50, 100)
RESTARTS = (1, 2, 5)


def radii_to_the_end(attack: Attack, x: Tensor, multiples: Sequence[float] = RADII) -> list[float]:
    """Radii for a curve: multiples of the attack's, and last one whose ball contains every image in [0, 1].

    Args:
        attack: its ``eps`` > 0 and ``norm``.
        x: images ``(N, C, H, W)``; only their shape is used.
        multiples: of eps, > 0.

    Example:
        >>> radii_to_the_end(PGD(eps=0.25), torch.zeros(1, 1, 2, 2), (1, 2, 8))
        [0.25, 0.5, 1.0]
    """
    largest = float(attack.norm.size(torch.ones_like(x[:1])))
    return [*sorted(attack.eps * m for m in multiples if attack.eps * m < largest), largest]


@singledispatch
def searching(norm: Norm, eps: float, steps: int, restarts: int) -> Attack:
    """The attack of the default curves: PGD with steps of eps / 4; in L1, where those change single pixels, APGD."""
    return PGD(eps=eps, step_size=eps / 4, steps=steps, restarts=restarts, norm=norm)


@searching.register
def _(norm: L1, eps: float, steps: int, restarts: int) -> Attack:
    return APGD(eps=eps, steps=steps, restarts=restarts, norm=norm)


def search_at_eps(attack: Attack) -> Callable[[float], Attack]:
    """The default attack of the curve over radii: 50 steps in the ball of ``attack``."""
    return lambda eps: searching(attack.norm, eps, 50, 1)


def search_at_steps(attack: Attack) -> Callable[[int], Attack]:
    """The default attack of the curve over steps, in the ball of ``attack``."""
    return lambda steps: searching(attack.norm, attack.eps, steps, 1)


def search_at_restarts(attack: Attack) -> Callable[[int], Attack]:
    """The default attack of the curve over restarts: 10 steps per start, in the ball of ``attack``."""
    return lambda restarts: searching(attack.norm, attack.eps, 10, restarts)


def withstood(net: Net, x: Tensor, y: Tensor, attack: Attack, keys: Tensor) -> Tensor:
    """Whether each image is classified correctly as it is and after the attack: bool ``(N,)``."""
    x_adv = attack(net, x, y, keys=keys)
    with torch.no_grad():
        return is_correct(ask(net, x), y) & is_correct(ask(net, x_adv), y)


def curve(
    net: Net, x: Tensor, y: Tensor, *, keys: Tensor, attack_at: Callable[[Value], Attack], values: Sequence[Value]
) -> Iterator[tuple[Value, Tensor]]:
    """Each value, and whether each image withstands the attack with it; every value is tried on every image.

    The runs are independent, so that an attack which gets weaker with more steps is noticed.

    Args:
        net: images to logits.
        x: images ``(N, C, H, W)`` in [0, 1].
        y: true classes, int64 ``(N,)``.
        keys: of the images, int64 ``(N,)``.
        attack_at: the attack with a value (steps, restarts).
        values: in the order of the curve.

    Yields:
        The value and bool ``(N,)``.

    Example:
        >>> net = lambda x: x.flatten(1) - torch.tensor([0.1, 0.0])  # wrong where the first pixel is the darker one
        >>> x, y, keys = torch.tensor([[[[0.9, 0.2]]]]), torch.tensor([0]), torch.tensor([7])
        >>> at = lambda steps: PGD(eps=0.6, step_size=0.2, steps=steps, random_start=False)
        >>> [(steps, right.item()) for steps, right in curve(net, x, y, keys=keys, attack_at=at, values=[1, 4])]
        [(1, True), (4, False)]
    """
    for value in values:
        yield value, withstood(net, x, y, attack_at(value), keys)


def nested_curve(
    net: Net, x: Tensor, y: Tensor, *, keys: Tensor, attack_at: Callable[[float], Attack], values: Sequence[float]
) -> Iterator[tuple[float, Tensor]]:
    """As :func:`curve` over ascending radii, each tried only on images that withstood the smaller ones.

    An adversarial image in a ball lies in every larger one.

    Raises:
        ValueError: if the radii do not ascend.

    Example:
        >>> net = lambda x: x.flatten(1) - torch.tensor([0.1, 0.0])  # wrong where the first pixel is the darker one
        >>> x, y, keys = torch.tensor([[[[0.9, 0.2]]]]), torch.tensor([0]), torch.tensor([7])
        >>> at = lambda eps: PGD(eps=eps, step_size=eps / 4, steps=20)
        >>> [(eps, right.item()) for eps, right in nested_curve(net, x, y, keys=keys, attack_at=at, values=[0.2, 1.0])]
        [(0.2, True), (1.0, False)]
    """
    if sorted(values) != list(values):
        raise ValueError(f"radii must ascend, got {list(values)}")
    with torch.no_grad():
        robust = is_correct(ask(net, x), y)
    for eps in values:
        left = robust.nonzero().flatten()
        if len(left):
            robust = robust.clone()
            robust[left] = withstood(net, x[left], y[left], attack_at(eps), keys[left])
        yield eps, robust
