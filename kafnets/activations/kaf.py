"""Kernel activation functions as a layer."""

from typing import Any

import torch
from torch import Tensor, nn

from kafnets import ops
from kafnets.activations.base import Activation
from kafnets.activations.kaf_init import KAFInit, Normal


class KAF(Activation):
    """``f_c(x) = sum_i alpha[c, i] exp(-gamma (x - d_i)^2)``: each channel learns its shape as a sum of Gaussians.

    Scardapane, Van Vaerenbergh, Totaro, Uncini, "Kafnets: kernel-based non-parametric activation functions for neural
    networks", Neural Networks 110, 2019 (arXiv 1707.04035), section 3. The dictionary d is ``num_dict`` even steps
    Delta from ``-boundary`` to ``boundary``; the rule for the bandwidth is ``gamma = 1 / (6 Delta^2)``.

    Args:
        num_channels: channels of the input.
        num_dict: number of dictionary points D, >= 2.
        boundary: the dictionary's half width, > 0, in units of x.
        bandwidth: gamma > 0 in 1 / (units of x)^2; None for the rule.
        init: gives the first ``alpha``: :class:`Normal`, or :class:`Ridge` to begin as a known activation.
        free: train dictionary and bandwidth too, both per channel. The bandwidth is a plain parameter and must stay
            positive: Gaussians that grow outwards overflow. A sensible learning rate keeps it there; nothing else does.

    Shapes:
        ``(N, C, *spatial)`` to the same, any floating dtype; arithmetic in float32 at least, also under autocast.
        Parameter ``alpha`` ``(C, D)``. ``dictionary`` and ``bandwidth``: buffers ``(D,)`` and ``()``, or with ``free``
        parameters ``(C, D)`` and ``(C,)``. Change the buffers by ``load_state_dict`` only (a fast path is prepared
        for them).

    Raises:
        ValueError: if ``num_dict``, ``boundary`` or ``bandwidth`` is out of its range.

    Example:
        >>> from kafnets.activations import Ridge
        >>> layer = KAF(2, init=Ridge(torch.nn.functional.elu))
        >>> layer(torch.tensor([[-1.0, 2.0]])).detach().round(decimals=2)
        tensor([[-0.6300,  2.0000]])
    """

    def __init__(
        self,
        num_channels: int,
        *,
        num_dict: int = 20,
        boundary: float = 3.0,
        bandwidth: float | None = None,
        init: KAFInit | None = None,
        free: bool = False,
    ) -> None:
        super().__init__(num_channels)
        if not isinstance(num_dict, int) or isinstance(num_dict, bool) or num_dict < 2:
            raise ValueError(f"num_dict must be an integer >= 2, got {num_dict!r}; the default is 20")
        if not 0 < boundary < float("inf"):
            raise ValueError(f"boundary must be > 0 and finite, got {boundary!r}; the default is 3.0")
        if bandwidth is not None and not 0 < bandwidth < float("inf"):
            raise ValueError(f"bandwidth must be > 0 and finite, got {bandwidth!r}; leave it None for 1 / (6 Delta^2)")
        self.free, self.init = free, Normal() if init is None else init
        step = 2 * boundary / (num_dict - 1)
        dictionary = torch.linspace(-boundary, boundary, num_dict)
        gamma = torch.tensor(1 / (6 * step**2) if bandwidth is None else float(bandwidth))
        self.alpha = nn.Parameter(self.init(dictionary, gamma, num_channels))
        self.grid: ops.Grid | None = None
        if free:
            self.dictionary = nn.Parameter(dictionary.repeat(num_channels, 1))
            self.bandwidth = nn.Parameter(gamma.repeat(num_channels))
        else:
            self.register_buffer("dictionary", dictionary)
            self.register_buffer("bandwidth", gamma)
            self.grid = ops.Grid.of(dictionary, gamma)

    @property
    def label(self) -> str:
        """``KAF``, with ``_Free`` and the target of its ridge initialisation where it has them (``KAF_elu``)."""
        target = getattr(self.init, "target", None)
        name = "" if target is None else f"_{getattr(target, '__name__', type(target).__name__)}"
        return "KAF" + name + ("_Free" if self.free else "")

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(N, C, *spatial)``."""
        return ops.kaf(self.check(x), self.alpha, self.dictionary, self.bandwidth, grid=self.grid)

    def extra_repr(self) -> str:
        """Name the settings."""
        size = self.alpha.shape[1]
        return f"{super().extra_repr()}, num_dict={size}, init={self.init!r}, free={self.free}"

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if not self.free:
            self.grid = ops.Grid.of(self.dictionary, self.bandwidth)
