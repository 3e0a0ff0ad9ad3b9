"""The kernels that kernel activation functions sum over."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from kafnets import functional, ops
from kafnets.activations import checks


@dataclass(frozen=True)
class KernelShape:
    """Bounds on the derivatives of a kernel at one bandwidth; bounds on slope and curvature of a layer use them.

    Attributes:
        third: an upper bound of ``|k'''|`` over all t where it exists, in 1 / (units of x)^3.
        fourth: an upper bound of ``|k''''|`` likewise, in 1 / (units of x)^4.
        falling: the distance, in units of x, beyond which ``|k'|`` and ``|k''|`` never grow; infinite if there is none.
        breaks: the distances at which some derivative up to the fourth jumps.
        kinks: whether ``k'`` itself jumps there.
    """

    third: float
    fourth: float
    falling: float
    breaks: tuple[float, ...] = ()
    kinks: bool = False


class Kernel(ABC):
    """An even function ``k(t)`` of the distance ``t = x - d``, under a bandwidth gamma > 0 in 1 / (units of x)^2.

    The Gaussian is ``exp(-gamma t^2)``; the others have the length ``l = 1 / sqrt(2 gamma)``, so that kernels with the
    same gamma have a similar reach. Your own kernel is a subclass that defines :meth:`__call__`; if it defines
    :meth:`shape` too, its layers can bound their slope and curvature.

    Attributes:
        period: of ``k``, in units of x; infinite if ``k`` is not periodic; ``k`` must then fall to 0 far away.
        steps: the default length l, in steps of the dictionary. The Gaussian's sqrt(3) is Scardapane et al.'s rule
            (2019, arXiv 1707.04035, section 3). Rougher kernels have a longer one, with which ridge regression fits the
            default KAF to ELU with the same error of about 0.013; at the same length the error is up to 0.11.

    Example:
        >>> import torch
        >>> class Cauchy(Kernel):
        ...     def __call__(self, t, bandwidth):
        ...         return 1 / (1 + bandwidth * t**2)
        >>> from kafnets.activations import KAF
        >>> KAF(2, kernel=Cauchy())(torch.zeros(1, 2)).shape
        torch.Size([1, 2])
    """

    period = math.inf
    steps = math.sqrt(3)

    @abstractmethod
    def __call__(self, t: Tensor, bandwidth: Tensor) -> Tensor:
        """``k(t)``, elementwise, for distances of any shape and a bandwidth that broadcasts with them.

        Made of PyTorch's differentiable operations; a layer has as many correct orders of derivatives as this method.
        """

    def rule(self, step: float) -> float:
        """The bandwidth for a dictionary of spacing ``step``: ``1 / (2 l^2)`` with ``l = steps step``."""
        return 1 / (2 * (self.steps * step) ** 2)

    def expand(
        self, x: Tensor, alpha: Tensor, dictionary: Tensor, bandwidth: Tensor, grid: ops.Grid | None = None
    ) -> Tensor:
        """``sum_i alpha[c, i] k(x - d_i)`` for x ``(N, C, *spatial)``; see :func:`kafnets.ops.kernel_sum`.

        Args:
            x: any floating dtype.
            alpha: ``(C, D)``.
            dictionary: ``(D,)`` or ``(C, D)``.
            bandwidth: ``()`` or ``(C,)``.
            grid: describes dictionary and bandwidth if both are fixed and even; kernels may use it to be faster.
        """
        return ops.terms(x, alpha, dictionary, bandwidth, self)

    def centres(self, dictionary: Tensor, grid: ops.Grid | None) -> Tensor:
        """Where :meth:`expand` puts the kernels if it is given this dictionary and this grid; for sound bounds."""
        return dictionary

    def shape(self, bandwidth: float) -> KernelShape:
        """Bounds on the derivatives at a bandwidth.

        Raises:
            NotImplementedError: if the class does not define it.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not bound its derivatives, so slope and curvature can't be reported; "
            "define shape(bandwidth) and return a kafnets.activations.kernels.KernelShape"
        )

    @property
    def label(self) -> str:
        """The name in tables; kernels of one class with different settings have different names."""
        return type(self).__name__

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class _Named(Kernel):
    """A kernel of :mod:`kafnets.functional`, which an engine may have built in."""

    @abstractmethod
    def formula(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The function of :mod:`kafnets.functional`, with this kernel's setting."""

    def __call__(self, t: Tensor, bandwidth: Tensor) -> Tensor:
        """``k(t)`` by :meth:`formula`."""
        return self.formula()(t, bandwidth)

    def expand(
        self, x: Tensor, alpha: Tensor, dictionary: Tensor, bandwidth: Tensor, grid: ops.Grid | None = None
    ) -> Tensor:
        """See :meth:`Kernel.expand`; by the engine's own code where it has this kernel."""
        if self._is_gaussian():
            return ops.kaf(x, alpha, dictionary, bandwidth, grid=grid)
        return ops.terms(x, alpha, dictionary, bandwidth, self.formula() if self._is_named() else self)

    def centres(self, dictionary: Tensor, grid: ops.Grid | None) -> Tensor:
        """See :meth:`Kernel.centres`; only the Gaussian is computed on the grid."""
        return grid.points() if grid and self._is_gaussian() else dictionary

    def _is_named(self) -> bool:
        """Whether this is the kernel of its formula: a subclass may have another one."""
        return type(self).__call__ is _Named.__call__

    def _is_gaussian(self) -> bool:
        return self._is_named() and self.formula() is functional.gaussian


def check_kernel(kernel: Kernel) -> Kernel:
    """Return ``kernel``, or raise an error if it is no :class:`Kernel`.

    Raises:
        TypeError: if ``kernel`` is no :class:`Kernel`, e.g. a class instead of an instance.
    """
    if not isinstance(kernel, Kernel):
        raise TypeError(f"kernel must be a Kernel such as Matern32(), got {kernel!r}; the default is Gaussian()")
    return kernel


def _length(bandwidth: float) -> float:
    return 1 / math.sqrt(2 * bandwidth)


def _smooth(second: float, fourth: float, falling: float) -> KernelShape:
    """The shape of a positive definite kernel with four derivatives, from ``|k''(0)|`` and ``k''''(0)``.

    ``k`` is then the mean of ``cos(w t)`` over some density of w (Bochner; Rasmussen and Williams 2006, theorem 4.1),
    so that ``|k''''| <= E w^4 = k''''(0)`` and ``|k'''| <= E |w|^3 <= sqrt(E w^2 E w^4)``.
    """
    return KernelShape(math.sqrt(second * fourth), fourth, falling)


class Gaussian(_Named):
    """``exp(-gamma t^2)``, the kernel of the KAF, infinitely differentiable. Rasmussen and Williams 2006, eq. 4.9.

    Example:
        >>> import torch
        >>> Gaussian()(torch.tensor([0.0, 1.0]), torch.tensor(math.log(2.0)))
        tensor([1.0000, 0.5000])
    """

    def formula(self) -> Callable[[Tensor, Tensor], Tensor]:
        """:func:`kafnets.functional.gaussian`."""
        return functional.gaussian

    def shape(self, bandwidth: float) -> KernelShape:
        """``|k'|`` falls from l on, ``|k''|`` from sqrt(3) l."""
        return _smooth(2 * bandwidth, 12 * bandwidth**2, math.sqrt(3) * _length(bandwidth))


class Laplacian(_Named):
    """``exp(-|t| / l)``: a kink at every dictionary point, where the derivative is the mean of both sides.

    Rasmussen and Williams 2006, eq. 4.18 with exponent 1.

    Example:
        >>> import torch
        >>> Laplacian()(torch.tensor([0.0, math.log(2.0)]), torch.tensor(0.5))
        tensor([1.0000, 0.5000])
    """

    steps = 5.0

    def formula(self) -> Callable[[Tensor, Tensor], Tensor]:
        """:func:`kafnets.functional.laplacian`."""
        return functional.laplacian

    def shape(self, bandwidth: float) -> KernelShape:
        """In size, every derivative is the kernel divided by a power of l."""
        length = _length(bandwidth)
        return KernelShape(length**-3, length**-4, 0.0, (0.0,), kinks=True)


class Matern32(_Named):
    """``(1 + r) exp(-r)`` with ``r = sqrt(3) |t| / l``: two continuous derivatives.

    Rasmussen and Williams 2006, eq. 4.17.

    Example:
        >>> import torch
        >>> Matern32()(torch.tensor([0.0, 1.0]), torch.tensor(1 / 6))
        tensor([1.0000, 0.7358])
    """

    steps = 8.0

    def formula(self) -> Callable[[Tensor, Tensor], Tensor]:
        """:func:`kafnets.functional.matern32`."""
        return functional.matern32

    def shape(self, bandwidth: float) -> KernelShape:
        """In r: ``k'' = (r - 1) exp(-r)`` is largest in size at 0 and turns at 2; ``k'''`` is 2, ``k''''`` 3 at 0."""
        rate = math.sqrt(3) / _length(bandwidth)
        return KernelShape(2 * rate**3, 3 * rate**4, 2 / rate, (0.0,))


class Matern52(_Named):
    """``(1 + r + r^2 / 3) exp(-r)`` with ``r = sqrt(5) |t| / l``: four continuous derivatives.

    Rasmussen and Williams 2006, eq. 4.17.

    Example:
        >>> import torch
        >>> Matern52()(torch.tensor([0.0, 1.0]), torch.tensor(1 / 10))
        tensor([1.0000, 0.8584])
    """

    steps = 5.0

    def formula(self) -> Callable[[Tensor, Tensor], Tensor]:
        """:func:`kafnets.functional.matern52`."""
        return functional.matern52

    def shape(self, bandwidth: float) -> KernelShape:
        """In r: ``k''' = r (3 - r) exp(-r) / 3`` turns at ``(5 - sqrt(13)) / 2`` and is 0 at 3; ``k''''`` is 1 at 0."""
        rate, turn = math.sqrt(5) / _length(bandwidth), (5 - math.sqrt(13)) / 2
        return KernelShape(turn * (3 - turn) / 3 * math.exp(-turn) * rate**3, rate**4, 3 / rate)


class RationalQuadratic(_Named):
    """``(1 + gamma t^2 / mixture)^(-mixture)``, a mixture of Gaussians of many bandwidths, infinitely differentiable.

    Rasmussen and Williams 2006, eq. 4.19.

    Args:
        mixture: from 1e-6 to 1e3; the tails fall like ``|t|^(-2 mixture)``, and infinity is the Gaussian.

    Raises:
        ValueError: if ``mixture`` is out of its range.

    Example:
        >>> import torch
        >>> RationalQuadratic()(torch.tensor([0.0, 1.0]), torch.tensor(1.0))
        tensor([1.0000, 0.5000])
    """

    steps = 3.0

    def __init__(self, mixture: float = 1.0) -> None:
        self.mixture = checks.positive("mixture", mixture, 1.0, most=1e3)

    def formula(self) -> Callable[[Tensor, Tensor], Tensor]:
        """:func:`kafnets.functional.rational_quadratic`."""
        return partial(functional.rational_quadratic, mixture=self.mixture)

    def shape(self, bandwidth: float) -> KernelShape:
        """``|k''|`` turns last where ``t^2 = 6 a / (2 a + 1) l^2``, a the mixture."""
        a = self.mixture
        turn = math.sqrt(6 * a / (2 * a + 1)) * _length(bandwidth)
        return _smooth(2 * bandwidth, 12 * (1 + 1 / a) * bandwidth**2, turn)

    @property
    def label(self) -> str:
        """``RationalQuadratic``, with the mixture where it is not 1."""
        return "RationalQuadratic" + ("" if self.mixture == 1 else f"{self.mixture:g}")

    def __repr__(self) -> str:
        return f"RationalQuadratic(mixture={self.mixture:g})"


class Periodic(_Named):
    """``exp(-gamma (period / pi)^2 sin^2(pi t / period))``: a Gaussian of the distance on a circle.

    MacKay, "Introduction to Gaussian processes", 1998, section 5; Rasmussen and Williams 2006, eq. 4.31. A KAF with
    this kernel is periodic instead of falling to 0. Infinitely differentiable.

    Args:
        period: from 1e-6 to 1e6, in units of x. The default is about one step longer than the default dictionary of a
            KAF.

    Raises:
        ValueError: if ``period`` is out of its range.

    Example:
        >>> import torch
        >>> Periodic()(torch.tensor([0.0, math.pi, 2 * math.pi]), torch.tensor(math.log(2.0) / 4))
        tensor([1.0000, 0.5000, 1.0000])
    """

    def __init__(self, period: float = 2 * math.pi) -> None:
        self.period = checks.positive("period", period, 2 * math.pi)

    def formula(self) -> Callable[[Tensor, Tensor], Tensor]:
        """:func:`kafnets.functional.periodic`."""
        return partial(functional.periodic, period=self.period)

    def shape(self, bandwidth: float) -> KernelShape:
        """From ``(period / pi)^2 sin^2(pi t / period) = t^2 - (pi / period)^2 t^4 / 3 + ...``."""
        fourth = 12 * bandwidth**2 + 8 * bandwidth * (math.pi / self.period) ** 2
        return _smooth(2 * bandwidth, fourth, math.inf)

    @property
    def label(self) -> str:
        """``Periodic``, with the period where it is not 2 pi."""
        return "Periodic" + ("" if self.period == 2 * math.pi else f"{self.period:g}")

    def __repr__(self) -> str:
        return f"Periodic(period={self.period:g})"


class TriangularKernel(_Named):
    """``max(0, 1 - |t| / l)``, the linear B-spline: with ``l = step``, f interpolates its coefficients linearly.

    Rasmussen and Williams 2006, eq. 4.21 (D = 1, q = 0). The derivative at a knot is the mean of both sides.

    Rounding can leave knots that should coincide an ulp apart, with another slope between them. Bounds on the slope
    include it and can be up to twice what a plot shows; if ``step`` and ``l`` are powers of 2, they are exact.

    Example:
        >>> import torch
        >>> TriangularKernel()(torch.tensor([0.0, 0.5, 2.0]), torch.tensor(0.5))
        tensor([1.0000, 0.5000, 0.0000])
    """

    steps = 1.0

    def formula(self) -> Callable[[Tensor, Tensor], Tensor]:
        """:func:`kafnets.functional.triangular`."""
        return functional.triangular

    def shape(self, bandwidth: float) -> KernelShape:
        """Straight lines between kinks."""
        length = _length(bandwidth)
        return KernelShape(0.0, 0.0, length, (0.0, length), kinks=True)
