"""Kernel activation functions as a layer."""

from typing import Any

import torch
from torch import Tensor, nn

from kafnets import ops
from kafnets.activations.kaf_init import KAFInit, Normal, check_init
from kafnets.activations.kernel_activation import KernelActivation
from kafnets.activations.kernel_bounds import Part
from kafnets.activations.kernels import Gaussian, Kernel, check_kernel


class KAF(KernelActivation):
    """``f_c(x) = sum_i alpha[c, i] k(x - d_i)``: each channel learns its shape as a sum over kernels.

    Scardapane, Van Vaerenbergh, Totaro, Uncini, "Kafnets: kernel-based non-parametric activation functions for neural
    networks", Neural Networks 110, 2019 (arXiv 1707.04035), section 3. The dictionary d has ``num_dict`` points,
    evenly spaced by Delta, from ``-boundary`` to ``boundary``. The kernel is ``k(t) = exp(-gamma t^2)`` with ``gamma =
    1 / (6 Delta^2)`` unless another is given; the Gaussian is the fastest.

    Args:
        num_channels: channels of the input.
        kernel: a :class:`~kafnets.activations.kernels.Kernel`; None for the Gaussian.
        num_dict: number of dictionary points D, >= 2.
        boundary: the dictionary's half width, from 1e-6 to 1e6, in units of x.
        bandwidth: gamma, from 1e-18 to 1e18, in 1 / (units of x)^2; None for the kernel's default rule.
        init: gives the initial ``alpha``: :class:`Normal`, or :class:`Ridge` to start as a known activation.
        free: train dictionary and bandwidth too, both per parameter set. The bandwidth is an unconstrained parameter
            and must stay positive, or Gaussians overflow; only a moderate learning rate prevents that.
        groups: number of parameter sets G, a divisor of ``num_channels``: neighbouring channels share a set. None for
            one per channel; 1 for one per layer.

    Shapes:
        ``(N, C, *spatial)`` to the same, any floating dtype; arithmetic in float32 at least, also under autocast.
        Parameter ``alpha`` ``(G, D)``, with G = C by default. ``dictionary`` and ``bandwidth``: buffers ``(D,)`` and
        ``()``, or with ``free`` parameters ``(G, D)`` and ``(G,)``. Change the buffers by ``load_state_dict`` only (it
        updates the fast path).

    Raises:
        ValueError: if ``num_dict``, ``boundary``, ``bandwidth`` or ``groups`` is out of its range.
        TypeError: if ``kernel`` is no :class:`~kafnets.activations.kernels.Kernel`, or ``init`` no :class:`KAFInit`.

    Example:
        >>> from kafnets.activations import Ridge
        >>> layer = KAF(2, init=Ridge(torch.tanh))
        >>> layer(torch.tensor([[-1.0, 2.0]])).detach().round(decimals=2)
        tensor([[-0.7600,  0.9600]])
    """

    def __init__(
        self,
        num_channels: int,
        *,
        kernel: Kernel | None = None,
        num_dict: int = 20,
        boundary: float = 3.0,
        bandwidth: float | None = None,
        init: KAFInit | None = None,
        free: bool = False,
        groups: int | None = None,
    ) -> None:
        super().__init__(num_channels, num_dict=num_dict, boundary=boundary, groups=groups)
        self.kernel = check_kernel(Gaussian() if kernel is None else kernel)
        gamma = torch.tensor(self.bandwidth_of(self.kernel, bandwidth))
        dictionary = torch.linspace(-boundary, boundary, num_dict)
        self.free, self.init = free, check_init(Normal() if init is None else init)
        self.alpha = nn.Parameter(self.init(dictionary, gamma, self.groups, self.kernel))
        self.fit = self.init.fit(dictionary, gamma, self.kernel)
        self.grid: ops.Grid | None = None
        if free:
            self.dictionary = nn.Parameter(dictionary.repeat(self.groups, 1))
            self.bandwidth = nn.Parameter(gamma.repeat(self.groups))
        else:
            self.register_buffer("dictionary", dictionary)
            self.register_buffer("bandwidth", gamma)
            self.grid = ops.Grid.of(dictionary, gamma)

    @property
    def label(self) -> str:
        """``KAF`` with suffixes: ``KAF_Matern32`` (kernel), ``KAF_elu`` (target), ``_Free``, ``_Groups1``."""
        kernel = "" if type(self.kernel) is Gaussian else f"_{self.kernel.label}"
        return "KAF" + kernel + self.init.label + ("_Free" if self.free else "") + self.sharing

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(N, C, *spatial)``."""
        dictionary: Tensor = self.dictionary
        bandwidth: Tensor = self.bandwidth
        if self.free:
            dictionary, bandwidth = self.unshared(dictionary), self.unshared(bandwidth)
        return self.kernel.expand(self.check(x), self.unshared(self.coefficients()), dictionary, bandwidth, self.grid)

    def coefficients(self) -> Tensor:
        """The coefficients of the sum, ``(G, D)``; a subclass may compute them from alpha."""
        return self.alpha

    def parts(self) -> list[Part]:
        """A single sum over kernels."""
        return [Part(self.kernel, self.coefficients(), self.kernel.centres(self.dictionary, self.grid), self.bandwidth)]

    def extra_repr(self) -> str:
        """Name the settings and, if there is a target, the errors of the fit."""
        size, fit = self.alpha.shape[1], "" if self.fit is None else f", fit={self.fit}"
        sharing = f", groups={self.groups}" if self.sharing else ""
        return (
            f"{super().extra_repr()}, kernel={self.kernel!r}, num_dict={size}, init={self.init!r}{fit}, "
            f"free={self.free}{sharing}"
        )

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if not self.free:
            self.check_loaded(self.dictionary, self.bandwidth, prefix=args[1], errors=args[-1])
            self.grid = ops.Grid.of(self.dictionary, self.bandwidth)
