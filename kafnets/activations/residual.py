"""A known activation and a KAF that learns what to add to it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from kafnets.activations.base import Activation
from kafnets.activations.kaf import KAF
from kafnets.activations.kernel_activation import KernelActivation
from kafnets.activations.reports import Bounds, PiecewiseLinear

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
    """``f(x) = base(x) + KAF(x)``: outside its dictionary it is the base, where a KAF alone is 0.

    At initialisation a random KAF multiplies gradients by 1.4 to 1.8 a layer behind batch norm, which a deep network
    does not survive; added to x with small coefficients it multiplies them by about 1 (see
    :attr:`~kafnets.activations.reports.GaussianMoments.gradient_growth`). Peconi 2020 (the thesis), chapter 4, leaves
    open why deep KAF networks explode; He et al., "Deep residual learning", CVPR 2016, is the idea of the remedy.

    Args:
        num_channels: channels of the input.
        base: a factory of activations, called with ``num_channels``; None for :class:`Identity`.
        kaf: a factory of KAFs, called with ``num_channels``: :class:`KAF`, :class:`MultiKAF`, or one of them with its
            settings. With ``init=Normal(std=0)`` the layer begins as exactly its base.

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
        """Joint bounds for the identity; for another base the sum of both, which may be above the truth by far."""
        if isinstance(self.base, Identity):
            return self.kaf.bounds(offset=1.0)
        return _Sum(self.base.bounds(), self.kaf.bounds())


@dataclass(frozen=True)
class _Sum:
    """The triangle inequality."""

    first: Bounds
    second: Bounds

    def slope(self, low: float, high: float) -> Tensor:
        """At least ``sup |f'|``."""
        return self.first.slope(low, high) + self.second.slope(low, high)

    def curvature(self, low: float, high: float) -> Tensor:
        """At least ``sup |f''|``."""
        return self.first.curvature(low, high) + self.second.curvature(low, high)


def _built(name: str, factory: Callable[[int], Built], num_channels: int, kind: type[Built]) -> Built:
    """What a factory builds, or what is wrong with it."""
    found = None if isinstance(factory, nn.Module) or not callable(factory) else factory(num_channels)
    if not isinstance(found, kind):
        raise TypeError(
            f"{name} must be a factory that builds a {kind.__name__} when called with the number of channels, got "
            f"{factory!r}; pass a class, or functools.partial(class, ...) with its settings"
        )
    return found
