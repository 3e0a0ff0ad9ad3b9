"""The fast gradient sign method."""

from typing import ClassVar

from kafnets.attacks.base import Loss, positive_and_finite
from kafnets.attacks.pgd import PGD
from kafnets.losses import cross_entropy
from kafnets.threat import Norm


class FGSM(PGD):
    """One step of ``alpha * eps`` from a random start: PGD with a single, long step.

    With ``alpha = 1.25`` and a random start it is the attack of fast adversarial training (Wong, Rice, Kolter 2020,
    algorithm 3); with ``alpha = 1, random_start=False`` the original (Goodfellow, Shlens, Szegedy 2015).

    Args:
        eps: radius of the ball in input units, a number or ``"8/255"``.
        alpha: length of the step as a multiple of eps, > 0.
        random_start, restarts, norm, loss: see :class:`~kafnets.attacks.pgd.PGD`.

    Example:
        >>> import torch
        >>> x, y = torch.full((1, 2), 0.5), torch.tensor([0])
        >>> net = lambda x: x @ torch.tensor([[1.0, -1.0], [-1.0, 0.0]])
        >>> FGSM(eps=0.1, alpha=1.0, random_start=False)(net, x, y)
        tensor([[0.4000, 0.6000]])
    """

    headline: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        *,
        eps: float | str | None = None,
        alpha: float = 1.25,
        random_start: bool = True,
        restarts: int = 1,
        norm: Norm | None = None,
        loss: Loss = cross_entropy,
    ) -> None:
        super().__init__(eps=eps, steps=1, restarts=restarts, random_start=random_start, norm=norm, loss=loss)
        self.alpha = positive_and_finite("alpha", alpha)

    @property
    def step_size(self) -> float:
        """Length of the step, in input units."""
        return self.alpha * self.eps
