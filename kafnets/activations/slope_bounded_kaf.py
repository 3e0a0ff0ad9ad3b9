"""A kernel activation function that is nowhere steeper than a limit."""

import torch
from torch import Tensor

from kafnets.activations import checks
from kafnets.activations.kaf import KAF
from kafnets.activations.kaf_init import KAFInit

POINTS = 1025  # where the slope is taken: 60 in each length of a Gaussian of 20 points on [-3, 3]


class SlopeBoundedKAF(KAF):
    """``s_c f_c(x)`` with f a KAF of Gaussians and ``s_c = min(1, limit / max |f_c'|)``: a KAF of a known slope.

    A KAF that is initialised to ELU has a slope of 3.4 where it falls to 0 beyond its dictionary, and a Lipschitz bound
    of a network counts that for every layer. Here coefficients are scaled down as a whole where that is needed, with
    the gradient of the scale. The maximum is taken on a grid, which misses less than 0.1 % of it; ``lipschitz()`` is
    a sound bound as for every KAF.

    Anil, Lucas, Grosse, "Sorting out Lipschitz function approximation", ICML 2019 (arXiv 1811.05381), is the source of
    the idea that a network of 1-Lipschitz layers needs activations that use up their slope.

    Args:
        num_channels: channels of the input.
        limit: of the slope, from 1e-6 to 1e6.
        num_dict, boundary, init, groups: see :class:`KAF`.

    Shapes:
        ``(N, C, *spatial)`` to the same; parameters and buffers as those of :class:`KAF`, whose checkpoints fit.

    Raises:
        ValueError, TypeError: if a setting is out of its range.

    Example:
        >>> from kafnets.activations import Ridge
        >>> layer = SlopeBoundedKAF(1, init=Ridge(torch.nn.functional.elu))
        >>> round(KAF(1, init=Ridge(torch.nn.functional.elu)).lipschitz().item(), 2), round(layer.lipschitz().item(), 2)
        (3.43, 1.0)
    """

    def __init__(
        self,
        num_channels: int,
        *,
        limit: float = 1.0,
        num_dict: int = 20,
        boundary: float = 3.0,
        init: KAFInit | None = None,
        groups: int | None = None,
    ) -> None:
        super().__init__(num_channels, num_dict=num_dict, boundary=boundary, init=init, groups=groups)
        self.limit = checks.positive("limit", limit, 1.0)

    @property
    def label(self) -> str:
        """That of the KAF with the limit: ``KAF_elu_Slope1``."""
        return f"{super().label}_Slope{self.limit:g}"

    def coefficients(self) -> Tensor:
        """``s alpha``, ``(G, D)``."""
        with torch.autocast(self.alpha.device.type, enabled=False):
            steepest = (self.alpha @ self._steepness()).abs().amax(1, keepdim=True)
            return self.alpha * (self.limit / steepest.clamp_min(self.limit))

    def _steepness(self) -> Tensor:
        """``k'(p_m - d_i)`` at points p up to three lengths of the kernel beyond the dictionary, ``(D, POINTS)``."""
        gamma, d = self.bandwidth, self.dictionary
        reach = 3 * torch.rsqrt(2 * gamma)
        p = d[0] - reach + (d[-1] - d[0] + 2 * reach) * torch.linspace(0, 1, POINTS, dtype=d.dtype, device=d.device)
        t = p - d[:, None]
        return -2 * gamma * t * torch.exp(-gamma * t.square())
