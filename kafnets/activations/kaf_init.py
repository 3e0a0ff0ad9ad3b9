"""Initialisation of the mixing coefficients of a KAF."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from kafnets import functional
from kafnets.activations.checks import MOST, named, positive, sampled, within
from kafnets.activations.kernels import Kernel

FIT_POINTS = 1001


@dataclass(frozen=True)
class RidgeFit:
    """A sum over kernels that is fitted to a function, and its errors.

    Attributes:
        alpha: the coefficients, ``(D,)``.
        max_error: the largest ``|f - target|`` inside the dictionary's range, on 1001 evenly spaced points.
        rms_error: the root mean square of ``f - target`` there.
        outside: the target's values of largest size left and right of the dictionary, up to half its range away, ends
            included; there a KAF falls to 0 unless its kernel is periodic.
    """

    alpha: Tensor
    max_error: float
    rms_error: float
    outside: tuple[float, float]

    def __repr__(self) -> str:
        return f"RidgeFit(max_error={self.max_error:.2g}, rms_error={self.rms_error:.2g})"


class KAFInit(ABC):
    """Gives the initial mixing coefficients of a :class:`~kafnets.activations.KAF`; subclass it for another rule."""

    @abstractmethod
    def __call__(self, dictionary: Tensor, bandwidth: Tensor, num_sets: int, kernel: Kernel) -> Tensor:
        """Return alpha ``(num_sets, D)`` for a dictionary ``(D,)`` and a kernel with its bandwidth."""

    def fit(self, dictionary: Tensor, bandwidth: Tensor, kernel: Kernel) -> RidgeFit | None:
        """The fit to the target; None without a target or on the meta device."""
        return None

    @property
    def label(self) -> str:
        """The part of the layer's label about the initialisation, with a leading ``_``; may be empty."""
        return ""


def check_init(init: KAFInit) -> KAFInit:
    """Return ``init``, or raise an error if it is no :class:`KAFInit`.

    Raises:
        TypeError: if ``init`` is no :class:`KAFInit`, e.g. a function that should be the target of a :class:`Ridge`.
    """
    if not isinstance(init, KAFInit):
        raise TypeError(
            f"init must be a KAFInit such as Ridge(torch.nn.functional.elu), got {init!r}; the default is Normal()"
        )
    return init


class Normal(KAFInit):
    """``alpha ~ N(0, std^2)``, independently. Scardapane et al. 2019 (arXiv 1707.04035), section 3.

    Args:
        std: standard deviation, from 0 to 1e6. The authors' code uses 0.8; 0.05 is Keras's ``random_normal``.

    Raises:
        ValueError: if ``std`` is out of its range.

    Example:
        >>> from kafnets.activations.kernels import Gaussian
        >>> Normal(std=0.05)(torch.linspace(-1, 1, 3), torch.tensor(1.0), 8, Gaussian()).shape
        torch.Size([8, 3])
    """

    def __init__(self, std: float = 0.05) -> None:
        if not 0 <= std < inf:
            raise ValueError(f"std must be >= 0 and finite, got {std!r}; the default is 0.05")
        self.std = within("std", std, 0.05, 0, MOST)

    def __call__(self, dictionary: Tensor, bandwidth: Tensor, num_sets: int, kernel: Kernel) -> Tensor:
        """Draw alpha ``(num_sets, D)`` from PyTorch's global generator."""
        shape = (num_sets, dictionary.shape[-1])
        return self.std * torch.randn(shape, dtype=dictionary.dtype, device=dictionary.device)

    def __repr__(self) -> str:
        return f"Normal(std={self.std})"


class Ridge(KAFInit):
    """Coefficients that make every channel start as a given function, ``alpha = (K + eps I)^-1 t``.

    Scardapane et al. 2019 (arXiv 1707.04035), section 3; see :func:`kafnets.functional.ridge`. The fit holds inside the
    dictionary's range; outside, a KAF falls to zero whatever the target does (``RidgeFit.outside``), so its inputs
    should lie inside: :func:`kafnets.analysis.collapse.outside_dictionary` measures that. Coefficients can
    be as large as 70.

    Args:
        target: the elementwise function to start as, e.g. ``torch.nn.functional.elu``.
        eps: ridge, from 1e-15 to 1e6.

    Raises:
        ValueError: if ``eps`` is out of its range, or (when called) if the values of ``target`` are not finite or their
            shape is wrong.
        TypeError: if ``target`` is not callable.

    Example:
        >>> from kafnets.activations.kernels import Gaussian
        >>> Ridge(lambda x: x * torch.exp(-(x**2))).fit(torch.linspace(-3, 3, 20), torch.tensor(1.67), Gaussian())
        RidgeFit(max_error=2.8e-07, rms_error=1.1e-07)
    """

    def __init__(self, target: Callable[[Tensor], Tensor], eps: float = 1e-6) -> None:
        if not callable(target):
            raise TypeError(f"target must be a function such as torch.nn.functional.elu, got {target!r}")
        self.target, self.eps = target, positive("eps", eps, 1e-6, least=1e-15)

    @property
    def name(self) -> str:
        """The target's name."""
        return named(self.target)

    @property
    def label(self) -> str:
        """``_elu`` and the like."""
        return f"_{self.name}"

    def __call__(self, dictionary: Tensor, bandwidth: Tensor, num_sets: int, kernel: Kernel) -> Tensor:
        """Solve once and copy alpha to every set, ``(num_sets, D)``."""
        if dictionary.is_meta:
            return dictionary.new_empty(num_sets, len(dictionary))
        fit = self._solved(dictionary, bandwidth, kernel)
        return fit.alpha.expand(num_sets, -1).clone()

    def fit(self, dictionary: Tensor, bandwidth: Tensor, kernel: Kernel) -> RidgeFit | None:
        """Solve for a dictionary ``(D,)`` and a kernel with its bandwidth, and measure the errors."""
        return None if dictionary.is_meta else self._solved(dictionary, bandwidth, kernel)

    def _solved(self, dictionary: Tensor, bandwidth: Tensor, kernel: Kernel) -> RidgeFit:
        alpha = functional.ridge(
            dictionary, bandwidth, sampled(self.target, dictionary, name="target"), self.eps, kernel
        )
        low, high = float(dictionary[0]), float(dictionary[-1])
        points, beyond = torch.linspace(low, high, FIT_POINTS), torch.linspace(0, (high - low) / 2, FIT_POINTS)
        points, beyond = (t.to(dictionary) for t in (points, beyond))
        reached = kernel(points.double()[:, None] - dictionary.double(), bandwidth.double()) @ alpha.double()
        error = reached - sampled(self.target, points, name="target")
        left, right = (self._largest(side) for side in (low - beyond, high + beyond))
        return RidgeFit(alpha, float(error.abs().max()), float(error.square().mean().sqrt()), (left, right))

    def _largest(self, points: Tensor) -> float:
        """The target's value of largest size, which need not be finite outside the dictionary."""
        with torch.no_grad():
            values = self.target(points)
        return float(values[values.abs().argmax()])

    def __repr__(self) -> str:
        return f"Ridge({self.name}, eps={self.eps})"
