"""KAFs that mix several kernels."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from kafnets import ops
from kafnets.activations.kaf_init import KAFInit, Normal, check_init
from kafnets.activations.kernel_activation import KernelActivation
from kafnets.activations.kernel_bounds import Part
from kafnets.activations.kernels import Gaussian, Kernel, Laplacian, RationalQuadratic, check_kernel


class MultiKAF(KernelActivation):
    """``f_c(x) = sum_i alpha[c, i] sum_m mix[c, m] k_m(x - d_i)``: each channel learns its kernel as well.

    Scardapane, Nieddu, Firmani, Merialdo, "Multikernel activation functions: formulation and a case study", 2019
    (arXiv 1901.10232): several kernels linearly combined at every neuron, with coefficients shared by the kernels.
    Choices made here: the mix is a plain parameter, without a constraint on sign or sum (``alpha`` carries the scale
    in any case), and starts at ``1 / M``; each kernel keeps its own rule for the bandwidth.

    Args:
        num_channels: channels of the input.
        kernels: the M >= 1 kernels; None for Gaussian, Laplacian and RationalQuadratic.
        num_dict: number of dictionary points D, >= 2.
        boundary: the dictionary's half width, from 1e-6 to 1e6, in units of x.
        init: gives the initial ``alpha``, for the mean of all kernels.
        groups: number of parameter sets G, a divisor of ``num_channels``: neighbouring channels share a set. None for
            one per channel; 1 for one per layer.

    Shapes:
        ``(N, C, *spatial)`` to the same, any floating dtype; arithmetic in float32 at least; the sum over each kernel
        is rounded to the dtype of x. Parameters ``alpha`` ``(G, D)`` and ``mix`` ``(G, M)``, with G = C by default;
        buffers ``dictionary`` ``(D,)`` and ``bandwidth`` ``(M,)``.

    Raises:
        ValueError: if ``num_dict``, ``boundary`` or ``groups`` is out of its range, or ``kernels`` is empty.
        TypeError: if a kernel is no :class:`~kafnets.activations.kernels.Kernel`, or ``init`` no :class:`KAFInit`.

    Example:
        >>> layer = MultiKAF(4, kernels=[Gaussian(), Laplacian()])
        >>> layer.mix.shape, layer(torch.zeros(1, 4)).shape
        (torch.Size([4, 2]), torch.Size([1, 4]))
    """

    dictionary: Tensor
    bandwidth: Tensor

    def __init__(
        self,
        num_channels: int,
        *,
        kernels: Sequence[Kernel] | None = None,
        num_dict: int = 20,
        boundary: float = 3.0,
        init: KAFInit | None = None,
        groups: int | None = None,
    ) -> None:
        super().__init__(num_channels, num_dict=num_dict, boundary=boundary, groups=groups)
        if isinstance(kernels, Kernel):
            raise TypeError(f"kernels must be a list of kernels such as [{kernels!r}], got {kernels!r}; or take a KAF")
        if kernels is not None and not kernels:
            raise ValueError("kernels must hold at least one kernel, got none; the default is three")
        given = [Gaussian(), Laplacian(), RationalQuadratic()] if kernels is None else kernels
        self.kernels = tuple(check_kernel(kernel) for kernel in given)
        self.init = check_init(Normal() if init is None else init)
        self.register_buffer("dictionary", torch.linspace(-boundary, boundary, num_dict))
        self.register_buffer("bandwidth", torch.tensor([self.bandwidth_of(kernel) for kernel in self.kernels]))
        mean = _MeanKernel(self.kernels)
        self.alpha = nn.Parameter(self.init(self.dictionary, self.bandwidth, self.groups, mean))
        self.mix = nn.Parameter(torch.full((self.groups, len(self.kernels)), 1 / len(self.kernels)))
        self.fit = self.init.fit(self.dictionary, self.bandwidth, mean)
        self.grids = self._find_grids()

    @property
    def label(self) -> str:
        """``MultiKAF`` with suffixes for its kernels, the target of its initialisation and ``_Groups1``."""
        kernels = "".join(f"_{kernel.label}" for kernel in self.kernels)
        return "MultiKAF" + kernels + self.init.label + self.sharing

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(N, C, *spatial)``."""
        x = self.check(x)
        terms = [
            kernel.expand(x, self.unshared(alpha), self.dictionary, gamma, grid)
            for kernel, alpha, gamma, grid in zip(
                self.kernels, self._alphas(self.alpha, self.mix), self.bandwidth, self.grids, strict=True
            )
        ]
        return reduce(torch.add, terms)

    def parts(self) -> list[Part]:
        """One sum per kernel."""
        alphas = self._alphas(self.alpha.double(), self.mix.double())
        return [
            Part(kernel, alpha, kernel.centres(self.dictionary, grid), gamma)
            for kernel, alpha, gamma, grid in zip(self.kernels, alphas, self.bandwidth, self.grids, strict=True)
        ]

    @staticmethod
    def _alphas(alpha: Tensor, mix: Tensor) -> list[Tensor]:
        """The coefficients of each kernel, ``(G, D)``."""
        return [alpha * share[:, None] for share in mix.unbind(1)]

    def extra_repr(self) -> str:
        """Name the settings and, if there is a target, the errors of the fit."""
        fit, sharing = (
            "" if self.fit is None else f", fit={self.fit}",
            f", groups={self.groups}" if self.sharing else "",
        )
        kernels = ", ".join(map(repr, self.kernels))
        size = self.alpha.shape[1]
        return f"{super().extra_repr()}, kernels=[{kernels}], num_dict={size}, init={self.init!r}{fit}{sharing}"

    def _find_grids(self) -> list[ops.Grid | None]:
        return [ops.Grid.of(self.dictionary, gamma) for gamma in self.bandwidth]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.check_loaded(self.dictionary, self.bandwidth, prefix=args[1], errors=args[-1])
        self.grids = self._find_grids()


class _MeanKernel(Kernel):
    """The mean of kernels, each with its own bandwidth: the kernel of a layer at initialisation."""

    def __init__(self, kernels: Sequence[Kernel]) -> None:
        self.kernels = kernels
        self.period = max(kernel.period for kernel in kernels)

    def __call__(self, t: Tensor, bandwidth: Tensor) -> Tensor:
        """The mean of all kernels; ``bandwidth`` is ``(M, ...)``."""
        values = [kernel(t, gamma) for kernel, gamma in zip(self.kernels, bandwidth, strict=True)]
        return torch.stack(values).mean(0)
