"""N-FGSM: single-step training with strong noise and without a projection to the ball."""

from collections.abc import Callable

from torch import Tensor

from kafnets.attacks import FGSM
from kafnets.attacks.base import positive_and_finite
from kafnets.objectives.adversarial import Adversarial


class NFGSM(Adversarial):
    """The loss on ``x + eta + alpha eps sign(grad_x loss(x + eta, y))``, ``eta`` uniform in ``noise`` times the ball.

    De Jorge et al. 2022 (arXiv 2202.01181, equation 6). Both ``x + eta`` and the result are clipped to [0, 1] and to
    nothing else: training images lie up to ``noise + alpha`` times eps away. It prevents catastrophic overfitting at
    the price of FGSM. In L2 the ball is the Euclidean one and the step has length ``alpha eps``.

    Args:
        noise: radius of the noise as a multiple of eps, > 0; the authors use 2, and 3 on SVHN at 12/255, 4 for a
            WideResNet at 16/255.
        alpha: length of the step as a multiple of eps, > 0.
        eval_mode: see :class:`~kafnets.objectives.adversarial.Adversarial`.

    Raises:
        ValueError: if a setting is out of its range.

    Example:
        >>> print(NFGSM().label, NFGSM(noise=4.0).label)
        NFGSM NFGSM(noise=4)
    """

    headline = ()

    def __init__(self, *, noise: float = 2.0, alpha: float = 1.0, eval_mode: bool = False) -> None:
        super().__init__(attack=_Noisy(noise=noise, alpha=alpha), eval_mode=eval_mode)


class _Noisy(FGSM):
    """FGSM from a point in a larger ball, which may leave the ball of the threat model."""

    def __init__(self, *, noise: float, alpha: float) -> None:
        super().__init__(alpha=alpha)
        self.noise = positive_and_finite("noise", noise, "; the authors use 2")

    def start(self, x: Tensor, keys: Tensor) -> Tensor:
        return self.norm.random_start(x, self.noise * self.eps, keys)

    def projection(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda x_adv: x_adv.clamp(0, 1)
