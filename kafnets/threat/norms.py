"""Norms of perturbations: their balls of radius eps, and the directions in which a loss rises fastest."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from kafnets.keyed_random import image_keys, normal, uniform


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """One value per image, ``(N,)``, in the shape ``(N, 1, ...)`` that combines with images ``like``."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def widened(x: Tensor) -> Tensor:
    """``x`` in float32 or better: the difference of two half-precision images in [0, 1] is exact there."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def l2_norm(x: Tensor) -> Tensor:
    """L2 norm of each image: ``(N, ...)`` to ``(N, 1, ...)``, ready to divide by."""
    # sum() adds pairwise; norm() does not, and is off by 1e-4 on an ImageNet image
    return per_image(x.flatten(1).square().sum(1).sqrt(), x)


@lru_cache
def round_down(value: float, dtype: torch.dtype) -> float:
    """The largest number of ``dtype`` that does not exceed ``value``, >= 0.

    Example:
        >>> round_down(0.25, torch.float32), round_down(8 / 255, torch.float32) < 8 / 255
        (0.25, True)
    """
    nearest = torch.tensor(value, dtype=dtype, device="cpu")
    return (nearest if nearest.item() <= value else torch.nextafter(nearest, torch.zeros_like(nearest))).item()


def towards(x: Tensor, x_adv: Tensor, limit: Tensor | float) -> Tensor:
    """``x_adv``, one unit in the last place nearer to ``x`` where rounding took it further away than ``limit``."""
    # in float64: the difference itself would be rounded, in half precision by up to 5e-4 of the limit
    return torch.where((x_adv.double() - x.double()).abs() > limit, torch.nextafter(x_adv, x), x_adv)


class Norm(ABC):
    """A ball of radius eps around each image, in input units, within the box [0, 1]."""

    @abstractmethod
    def check_eps(self, eps: float) -> None:
        """Raise ``ValueError`` unless ``eps`` is a valid radius for this norm."""

    @abstractmethod
    def random_start(self, x: Tensor, eps: float, keys: Tensor) -> Tensor:
        """A point drawn uniformly from the ball around each image, clipped to [0, 1]."""

    @abstractmethod
    def direction(self, grad: Tensor) -> Tensor:
        """The step of size 1 in this norm along which the linearised loss rises fastest; zero where ``grad`` is NaN."""

    def step(self, x_adv: Tensor, grad: Tensor, length: Tensor | float) -> Tensor:
        """``x_adv`` after a step of that length along :meth:`direction`, not yet projected."""
        return (length * self.direction(grad)).add_(x_adv)

    @abstractmethod
    def project(self, x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
        """A point near ``x_adv`` that lies in the ball and in [0, 1], exactly so in the dtype of ``x``."""

    def projection(self, x: Tensor, eps: float) -> Callable[[Tensor], Tensor]:
        """:meth:`project` for a fixed ``x``: what does not depend on ``x_adv`` is computed once."""
        return lambda x_adv: self.project(x_adv, x, eps)

    @abstractmethod
    def size(self, delta: Tensor) -> Tensor:
        """The norm of each perturbation: ``(N, ...)`` to ``(N,)``, in float32 or better."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).items()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Linf(Norm):
    """max_i |delta_i| <= eps, the usual threat model on CIFAR-10 with eps = 8/255.

    Example:
        >>> ball = Linf()
        >>> ball.project(torch.tensor([[0.9, 0.2]]), torch.tensor([[0.5, 0.25]]), 0.25)
        tensor([[0.7500, 0.2000]])
    """

    def check_eps(self, eps: float) -> None:
        """Raise ``ValueError`` unless 0 <= eps <= 1."""
        if not 0 <= eps <= 1:
            hint = f"; for {eps:g} grey levels write {eps:g}/255" if 1 < eps <= 255 else ""
            raise ValueError(f"eps must lie in [0, 1] (images lie in [0, 1]), got {eps:g}{hint}")

    def random_start(self, x: Tensor, eps: float, keys: Tensor) -> Tensor:
        """``x + U(-eps, eps)``, clipped to [0, 1] (Wong, Rice, Kolter 2020, algorithm 3)."""
        return self.project(x + (uniform(keys, x.shape[1:]).to(x.dtype) * 2 - 1) * eps, x, eps)

    def direction(self, grad: Tensor) -> Tensor:
        """The sign of the gradient (Goodfellow, Shlens, Szegedy 2015, section 4)."""
        return grad.sign()

    def project(self, x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
        """Clip each pixel to [x - eps, x + eps] and to [0, 1]."""
        return self.projection(x, eps)(x_adv)

    def projection(self, x: Tensor, eps: float) -> Callable[[Tensor], Tensor]:
        """Clip to the smallest and the largest number of the ball and of [0, 1], computed once."""
        eps = round_down(eps, x.dtype)  # 8/255 in float32 is larger than 8/255
        low = towards(x, (x - eps).clamp_(min=0), eps)
        high = towards(x, (x + eps).clamp_(max=1), eps)
        return lambda x_adv: torch.clamp(x_adv, low, high)

    def size(self, delta: Tensor) -> Tensor:
        """Largest absolute entry of each perturbation."""
        return widened(delta).flatten(1).abs().amax(1)


class L2(Norm):
    """sqrt(sum_i delta_i^2) <= eps, as with eps = 0.5 on CIFAR-10.

    Example:
        >>> L2().project(torch.tensor([[0.5, 0.9]]), torch.tensor([[0.5, 0.5]]), 0.2)
        tensor([[0.5000, 0.7000]])
    """

    # allows for rounding in the norm, here and where the result is measured
    _INSIDE = 1 - 1e-5

    def check_eps(self, eps: float) -> None:
        """Raise ``ValueError`` unless eps >= 0 and finite (a ball may be larger than a pixel's range)."""
        if not 0 <= eps < float("inf"):
            raise ValueError(f"eps must be >= 0 and finite, got {eps:g}")

    def random_start(self, x: Tensor, eps: float, keys: Tensor) -> Tensor:
        """Uniform in the ball: a Gaussian direction times eps * u^(1/d), clipped to [0, 1]."""
        direction = self.direction(normal(keys, x.shape[1:]).to(x.dtype))
        radius = uniform(image_keys(keys, 1), ()).to(x.dtype) ** (1 / x[0].numel())
        return self.project(x + direction * per_image(radius, x) * eps, x, eps)

    def direction(self, grad: Tensor) -> Tensor:
        """The gradient divided by its norm; zero for an image whose gradient is zero or not finite."""
        # dividing by the largest entry first keeps the squares of tiny and of huge gradients representable
        largest = per_image(grad.flatten(1).abs().amax(1), grad)
        usable = (largest > 0) & torch.isfinite(largest)
        scaled = torch.where(usable, grad / largest, torch.zeros_like(grad))
        return scaled / l2_norm(scaled).clamp_min(1)

    def project(self, x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
        """Shrink the perturbation to length eps, then clip to [0, 1] (which only shortens it)."""
        start = widened(x)
        delta = widened(x_adv) - start
        length = l2_norm(delta)
        shrunk = torch.where(length > eps * self._INSIDE, delta * (eps * self._INSIDE / length), delta)
        # the sum is rounded: where many entries round away from x, or eps is small, it would leave the ball
        return towards(x, (start + shrunk).clamp(0, 1).to(x.dtype), shrunk.abs())

    def size(self, delta: Tensor) -> Tensor:
        """Euclidean length of each perturbation."""
        return l2_norm(widened(delta)).flatten()
