"""Random perturbations, a baseline for attacks."""

from torch import Tensor

from kafnets.attacks.base import Attack, Loss, Net, positive_and_finite
from kafnets.keyed_random import normal
from kafnets.losses import cross_entropy
from kafnets.threat import Norm, in_input_units


class UniformNoise(Attack):
    """A point drawn uniformly from the ball, the worst of ``restarts``; see :meth:`Norm.random_start`.

    Example:
        >>> import torch
        >>> x, y = torch.full((1, 2), 0.5), torch.tensor([0])
        >>> x_adv = UniformNoise(eps=0.1, restarts=20)(lambda x: x - 0.41, x, y)
        >>> bool(((x_adv - x).abs() <= 0.1).all())
        True
    """

    def run(self, net: Net, x: Tensor, y: Tensor, keys: Tensor, *, early_stop: bool) -> Tensor:
        """One draw."""
        return self.norm.random_start(x, self.eps, keys)


class SphereNoise(Attack):
    """A point at distance eps in a random direction, the worst of ``restarts``.

    ``project(x + eps direction(N(0, 1)))``: for Linf a random corner of the cube, every pixel up or down by eps; for L2
    uniform on the sphere; for L1 one random pixel. Stronger than :class:`UniformNoise`.

    Example:
        >>> import torch
        >>> x_adv = SphereNoise(eps=0.1).craft(lambda x: x, torch.full((1, 4), 0.5), torch.tensor([0]))
        >>> (x_adv - 0.5).abs()
        tensor([[0.1000, 0.1000, 0.1000, 0.1000]])
    """

    def run(self, net: Net, x: Tensor, y: Tensor, keys: Tensor, *, early_stop: bool) -> Tensor:
        """One draw."""
        direction = self.norm.direction(normal(keys, x.shape[1:]).to(x.dtype))
        return self.norm.project(x + self.eps * direction, x, self.eps)


class GaussianNoise(Attack):
    """``project(x + sigma N(0, 1))``, the worst of ``restarts``.

    Args:
        eps: radius of the ball in input units, a number or ``"8/255"``.
        sigma: standard deviation in input units, > 0, a number or ``"4/255"``; None for eps.
        restarts: draws per image, >= 1.
        norm, loss: see :class:`~kafnets.attacks.base.Attack`.

    Raises:
        ValueError: if a setting is out of its range.

    Example:
        >>> import torch
        >>> x_adv = GaussianNoise(eps=0.1, sigma=1e-3)(lambda x: x, torch.full((1, 4), 0.5), torch.tensor([0]))
        >>> bool((x_adv - 0.5).abs().max() < 0.01)
        True
    """

    def __init__(
        self,
        *,
        eps: float | str | None = None,
        sigma: float | str | None = None,
        restarts: int = 1,
        norm: Norm | None = None,
        loss: Loss = cross_entropy,
    ) -> None:
        super().__init__(eps=eps, norm=norm, restarts=restarts, loss=loss)
        self._own_sigma = None if sigma is None else in_input_units("sigma", sigma)
        if self._own_sigma is not None:
            positive_and_finite("sigma", self._own_sigma, "; the default is eps")

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise, in input units."""
        return self.eps if self._own_sigma is None else self._own_sigma

    def run(self, net: Net, x: Tensor, y: Tensor, keys: Tensor, *, early_stop: bool) -> Tensor:
        """One draw."""
        return self.norm.project(x + self.sigma * normal(keys, x.shape[1:]).to(x.dtype), x, self.eps)
