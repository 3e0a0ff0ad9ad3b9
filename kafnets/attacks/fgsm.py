"""The fast gradient sign method."""

from kafnets.attacks.base import Loss, in_input_units
from kafnets.attacks.norms import Norm
from kafnets.attacks.pgd import PGD
from kafnets.losses import cross_entropy


class FGSM(PGD):
    """One step of ``alpha * eps`` from a random start: PGD with a single, long step.

    With ``alpha = 1.25`` and a random start it is the attack of fast adversarial training (Wong, Rice, Kolter 2020,
    algorithm 3); with ``alpha = 1, random_start=False`` the original (Goodfellow, Shlens, Szegedy 2015).

    Args:
        eps: radius of the ball in input units, a number or ``"8/255"``.
        alpha: length of the step as a multiple of eps, > 0.
        random_start, restarts, norm, early_stop, eval_mode, loss: see :class:`~kafnets.attacks.pgd.PGD`.

    Example:
        >>> import torch
        >>> x, y = torch.full((1, 2), 0.5), torch.tensor([0])
        >>> net = lambda x: x @ torch.tensor([[1.0, -1.0], [-1.0, 0.0]])
        >>> FGSM(eps=0.1, alpha=1.0, random_start=False)(net, x, y)
        tensor([[0.4000, 0.6000]])
    """

    def __init__(
        self,
        *,
        eps: float | str = 8 / 255,
        alpha: float = 1.25,
        random_start: bool = True,
        restarts: int = 1,
        norm: Norm | None = None,
        early_stop: bool = True,
        eval_mode: bool = True,
        loss: Loss = cross_entropy,
    ) -> None:
        if not 0 < alpha < float("inf"):
            raise ValueError(f"alpha must be > 0 and finite, got {alpha:g}")
        eps = in_input_units("eps", eps)
        super().__init__(
            eps=eps,
            step_size=alpha * eps or alpha,  # eps = 0 leaves nothing to step in, but a step must have a length
            steps=1,
            restarts=restarts,
            random_start=random_start,
            norm=norm,
            early_stop=early_stop,
            eval_mode=eval_mode,
            loss=loss,
        )
        self.alpha = alpha

    def __str__(self) -> str:
        return super().__str__().replace("PGD-1-", "FGSM-")
