"""The base class of all activations, which are built with their number of channels."""

import torch
from torch import Tensor, nn

from kafnets.activations.curves import Curve, curve
from kafnets.activations.derivative_bounds import EVERYWHERE, Bounds, Interval, certain, check_interval
from kafnets.activations.gaussian_moments import GaussianMoments, gaussian_moments


class Activation(nn.Module):
    """A channelwise activation, built as ``Activation(num_channels)``.

    Backbones take a factory ``Callable[[int], Activation]`` and call it once per activation with the number of
    channels there, so that trainable activations own parameters of the right size; fixed ones ignore the number.

    A subclass defines :meth:`forward`. :meth:`lipschitz` and :meth:`curvature` need :meth:`bounds` too;
    :meth:`gaussian_moments` and :meth:`plot` do not.

    Shapes:
        input and output ``(N, C)`` or ``(N, C, *spatial)`` with ``C = num_channels``, floating point.

    Args:
        num_channels: channels of the input, >= 1.

    Attributes:
        pointwise: whether each output value depends on one input value only. If not, :meth:`lipschitz`,
            :meth:`curvature`, :meth:`gaussian_moments` and :meth:`plot` raise a ``TypeError``.

    Raises:
        ValueError: if ``num_channels`` is not a positive integer, or (from :meth:`check`) if an input has another
            shape.
        TypeError: (from :meth:`check`) if an input is not floating point.

    Example:
        >>> class Cube(Activation):
        ...     def forward(self, x):
        ...         return self.check(x) ** 3
        >>> Cube(1).plot((0.0, 2.0), points=3).slopes
        tensor([[ 0.,  3., 12.]], dtype=torch.float64)
    """

    pointwise = True

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        if not isinstance(num_channels, int) or isinstance(num_channels, bool) or num_channels < 1:
            raise ValueError(f"num_channels must be an integer >= 1, got {num_channels!r}")
        self.num_channels = num_channels

    def extra_repr(self) -> str:
        """Name the settings; subclasses add theirs."""
        return str(self.num_channels)

    @property
    def label(self) -> str:
        """The name of this activation in tables and dashboards; variants of one class have different names."""
        return type(self).__name__

    def check(self, x: Tensor) -> Tensor:
        """Return ``x``, or raise an error if its shape or dtype is wrong."""
        if x.dim() < 2:
            raise ValueError(f"{type(self).__name__} takes (N, C) or (N, C, *spatial), got shape {tuple(x.shape)}")
        if x.shape[1] != self.num_channels:
            raise ValueError(
                f"{type(self).__name__}({self.num_channels}) got {x.shape[1]} channels in shape {tuple(x.shape)}; "
                f"build it with num_channels={x.shape[1]}"
            )
        if not x.is_floating_point():
            raise TypeError(f"{type(self).__name__} takes a floating point tensor, got {x.dtype}")
        return x

    @property
    def num_parameters(self) -> int:
        """How many trainable numbers this activation has."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def bounds(self) -> Bounds:
        """Bounds on the derivatives, for :meth:`lipschitz` and :meth:`curvature`.

        Raises:
            NotImplementedError: if the class does not define it.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not bound its derivatives; define bounds() and return "
            "kafnets.activations.derivative_bounds.PiecewiseLinear, Turning, or an object with their two methods"
        )

    @torch.no_grad()
    def lipschitz(self, interval: Interval = EVERYWHERE) -> Tensor:
        """An upper bound of ``sup |f_c'|`` over an interval, per channel: how much f can stretch a perturbation.

        Never below the supremum of the formula at the stored parameters, except that the even dictionary of a KAF is
        taken as exactly even, as the engines do (rounding errors of a forward pass are not included): where the bound
        itself is rounded, a relative slack of 1e-6 is added. Usually within about 1 %.

        Args:
            interval: ``(low, high)`` in units of x, low < high, infinite by default.

        Returns:
            ``(C,)``, float64 on the CPU, without a gradient; infinite where f jumps, its slope is unbounded, or no
            bound is known (a parameter is NaN).

        Raises:
            ValueError: if ``interval`` is not two numbers with low < high.
            NotImplementedError: if the class does not define :meth:`bounds`.
            TypeError: if the activation is not pointwise.
        """
        self._must_be_pointwise("lipschitz")
        with torch.device("cpu"):
            return certain(self.bounds().slope(*check_interval(interval)))

    @torch.no_grad()
    def curvature(self, interval: Interval = EVERYWHERE) -> Tensor:
        """An upper bound of ``sup |f_c''|`` over an interval, per channel: how fast the slope can change.

        Never below the supremum, with the slack of :meth:`lipschitz`. A recent study finds the best robustness where
        max|f''| lies between 4 and 10 (arXiv 2603.23860).

        Args:
            interval: ``(low, high)`` in units of x, low < high, infinite by default.

        Returns:
            ``(C,)``, float64 on the CPU, without a gradient; infinite where f' jumps inside the interval.

        Raises:
            ValueError: if ``interval`` is not two numbers with low < high.
            NotImplementedError: if the class does not define :meth:`bounds`.
            TypeError: if the activation is not pointwise.
        """
        self._must_be_pointwise("curvature")
        with torch.device("cpu"):
            return certain(self.bounds().curvature(*check_interval(interval)))

    def gaussian_moments(self, mean: float = 0.0, std: float = 1.0) -> GaussianMoments:
        """``E f(Z)``, ``Var f(Z)`` and ``E f'(Z)^2`` for ``Z ~ N(mean, std^2)``, per channel.

        Outputs of batch norm are about ``N(0, 1)``; see :attr:`GaussianMoments.gradient_growth`. Computed in float64 on
        the CPU, by the midpoint rule on 20,000 cells of std / 1000: exact to 1e-7 for smooth functions and for a kink
        at the mean; a jump of f'^2 by J elsewhere costs at most 2e-4 J.

        Args:
            mean: in units of x, finite.
            std: in units of x, > 0.

        Returns:
            :class:`GaussianMoments`, each ``(C,)``.

        Raises:
            ValueError: if ``mean`` is not finite or ``std`` is not positive.
            TypeError: if the activation is not pointwise.
        """
        self._must_be_pointwise("gaussian_moments")
        with torch.device("cpu"):
            return gaussian_moments(self, self.num_channels, mean, std)

    def plot(self, interval: Interval = (-4.0, 4.0), points: int = 401) -> Curve:
        """The data of a plot of ``f_c`` and its slope; draws nothing.

        Args:
            interval: finite ``(low, high)`` in units of x, low < high.
            points: evenly spaced points M, >= 2, both ends included.

        Returns:
            :class:`Curve` with x ``(M,)``, values ``(C, M)`` and slopes ``(C, M)``, float64 on the CPU.

        Raises:
            ValueError: if ``interval`` is not two finite numbers with low < high, or ``points`` < 2.
            TypeError: if the activation is not pointwise.
        """
        self._must_be_pointwise("plot")
        low, high = check_interval(interval)
        if not (-float("inf") < low and high < float("inf")):
            raise ValueError(f"interval must be finite for a plot, got {interval!r}; the default is (-4, 4)")
        if not isinstance(points, int) or isinstance(points, bool) or points < 2:
            raise ValueError(f"points must be an integer >= 2, got {points!r}; the default is 401")
        with torch.device("cpu"):
            return curve(self, self.num_channels, torch.linspace(low, high, points, dtype=torch.float64))

    def _must_be_pointwise(self, method: str) -> None:
        if not self.pointwise:
            raise TypeError(
                f"{method}() is for activations of one value, but each output of {type(self).__name__} depends on many"
            )
