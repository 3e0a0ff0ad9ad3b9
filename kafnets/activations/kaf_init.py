"""How the mixing coefficients of a KAF begin."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from kafnets.functional import ridge


class KAFInit(ABC):
    """Gives the first mixing coefficients of a :class:`~kafnets.activations.KAF`; subclass it for another rule."""

    @abstractmethod
    def __call__(self, dictionary: Tensor, bandwidth: Tensor, num_channels: int) -> Tensor:
        """Return alpha ``(num_channels, D)`` for a dictionary ``(D,)`` and a bandwidth ``()``."""


class Normal(KAFInit):
    """``alpha ~ N(0, std^2)``, independently. Scardapane et al. 2019 (arXiv 1707.04035), section 3.

    Args:
        std: standard deviation, >= 0. Their own code uses 0.8; 0.05 is Keras's ``random_normal``.

    Raises:
        ValueError: if ``std`` is negative.

    Example:
        >>> Normal(std=0.05)(torch.linspace(-1, 1, 3), torch.tensor(1.0), 8).shape
        torch.Size([8, 3])
    """

    def __init__(self, std: float = 0.05) -> None:
        if not 0 <= std < float("inf"):
            raise ValueError(f"std must be >= 0 and finite, got {std!r}; the default is 0.05")
        self.std = std

    def __call__(self, dictionary: Tensor, bandwidth: Tensor, num_channels: int) -> Tensor:
        """Draw alpha ``(num_channels, D)`` from PyTorch's global generator."""
        shape = (num_channels, dictionary.shape[-1])
        return self.std * torch.randn(shape, dtype=dictionary.dtype, device=dictionary.device)

    def __repr__(self) -> str:
        return f"Normal(std={self.std})"


class Ridge(KAFInit):
    """Coefficients with which every channel begins as a given function, ``alpha = (K + eps I)^-1 t``.

    Scardapane et al. 2019 (arXiv 1707.04035), section 3; see :func:`kafnets.functional.ridge`. The fit holds inside the
    dictionary's range; outside, a KAF falls to zero whatever the target does. Coefficients can be as large as 70.

    Args:
        target: the function to begin as, elementwise, e.g. ``torch.nn.functional.elu``.
        eps: ridge, > 0.

    Raises:
        ValueError: if ``eps`` is not positive.
        TypeError: if ``target`` is not callable.

    Example:
        >>> points = torch.linspace(-3, 3, 20)
        >>> Ridge(torch.nn.functional.elu)(points, torch.tensor(1.67), 8).shape
        torch.Size([8, 20])
    """

    def __init__(self, target: Callable[[Tensor], Tensor], eps: float = 1e-6) -> None:
        if not callable(target):
            raise TypeError(f"target must be a function such as torch.nn.functional.elu, got {target!r}")
        if not eps > 0:
            raise ValueError(f"eps must be > 0, got {eps!r}; the default is 1e-6")
        self.target, self.eps = target, eps

    def __call__(self, dictionary: Tensor, bandwidth: Tensor, num_channels: int) -> Tensor:
        """Solve once and give every channel a copy, ``(num_channels, D)``."""
        alpha = ridge(dictionary, bandwidth, self.target(dictionary), self.eps)
        return alpha.expand(num_channels, -1).clone()

    def __repr__(self) -> str:
        return f"Ridge({getattr(self.target, '__name__', self.target)}, eps={self.eps})"
