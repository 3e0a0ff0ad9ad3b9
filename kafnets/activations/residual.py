"""The sum of a known activation and a KAF."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from kafnets.activations.base import Activation
from kafnets.activations.derivative_bounds import Bounds, PiecewiseLinear
from kafnets.activations.kaf import KAF
from kafnets.activations.kernel_activation import KernelActivation

Built = TypeVar("Built", bound=Activation)


class Identity(Activation):
    """``x`` itself.

    Shapes:
        ``(N, C, *spatial)`` to the same, any floating dtype.

    Example:
        >>> Identity(2)(torch.tensor([[-1.0, 2.0]]))
        tensor([[-1.,  2.]])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, C, *spatial)`` as it is."""
        return self.check(x)

    def bounds(self) -> Bounds:
        """A slope of 1 everywhere."""
        return PiecewiseLinear(torch.zeros(self.num_channels, 0), torch.ones(self.num_channels, 1))


class ResidualKAF(Activation):
    """``f(x) = base(x) + KAF(x)``: far outside the dictionary, where a KAF alone is 0, it is the base.

    After batch norm, a randomly initialised KAF multiplies gradients by 1.4 to 1.8 per layer, which makes them explode
    in a deep network; added to x with small coefficients, it multiplies them by about 1 (see
    :attr:`~kafnets.activations.gaussian_moments.GaussianMoments.gradient_growth`). Peconi 2020 (the thesis), chapter 4,
    leaves open why deep KAF networks explode; the remedy follows He et al., "Deep residual learning", CVPR 2016.

    Args:
        num_channels: channels of the input.
        base: a factory of activations, called with ``num_channels``; None for :class:`Identity`.
        kaf: a factory of KAFs, called with ``num_channels``: :class:`KAF`, :class:`MultiKAF`, or one of them with its
            settings. With ``init=Normal(std=0)`` the layer starts as exactly its base.

    Shapes:
        ``(N, C, *spatial)`` to the same, any floating dtype.

    Raises:
        TypeError: if ``base`` or ``kaf`` builds something else.

    Example:
        >>> from functools import partial
        >>> from kafnets.activations import Normal, SiLU
        >>> ResidualKAF(2, base=SiLU, kaf=partial(KAF, init=Normal(std=0)))(torch.tensor([[-1.0, 2.0]])).detach()
        tensor([[-0.2689,  1.7616]])
    """

    def __init__(
        self,
        num_channels: int,
        *,
        base: Callable[[int], Activation] | None = None,
        kaf: Callable[[int], KernelActivation] = KAF,
    ) -> None:
        super().__init__(num_channels)
        self.base = _built("base", Identity if base is None else base, num_channels, Activation)
        self.kaf = _built("kaf", kaf, num_channels, KernelActivation)  # type: ignore[type-abstract]
        self.pointwise = self.base.pointwise

    @property
    def label(self) -> str:
        """The two labels: ``Identity+KAF``."""
        return f"{self.base.label}+{self.kaf.label}"

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(N, C, *spatial)``."""
        return self.base(x) + self.kaf(x)

    def bounds(self) -> Bounds:
        """Joint bounds for the identity; for another base the sum of both, which may be far above the truth."""
        if isinstance(self.base, Identity):
            return self.kaf.bounds(offset=1.0)
        return _SummedBounds(self.base.bounds(), self.kaf.bounds())


@dataclass(frozen=True)
class _SummedBounds:
    """The bounds of a sum by the triangle inequality."""

    first: Bounds
    second: Bounds

    def slope(self, low: float, high: float) -> Tensor:
        """At least ``sup |f'|``."""
        return self.first.slope(low, high) + self.second.slope(low, high)

    def curvature(self, low: float, high: float) -> Tensor:
        """At least ``sup |f''|``."""
        return self.first.curvature(low, high) + self.second.curvature(low, high)


def _built(name: str, factory: Callable[[int], Built], num_channels: int, kind: type[Built]) -> Built:
    """Call a factory, or raise an error if it is none or builds another kind of module."""
    found = None if isinstance(factory, nn.Module) or not callable(factory) else factory(num_channels)
    if not isinstance(found, kind):
        raise TypeError(
            f"{name} must be a factory that builds a {kind.__name__} when called with the number of channels, got "
            f"{factory!r}; pass a class, functools.partial(class, ...) with its settings, or from_module(module)"
        )
    return found
