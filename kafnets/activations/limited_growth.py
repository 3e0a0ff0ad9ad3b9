"""A start of a KAF that does not make gradients explode in a deep network."""

import torch
from torch import Tensor

from kafnets import functional
from kafnets.activations.kaf_init import KAFInit, Normal, check_init
from kafnets.activations.kernels import Kernel

CELLS, REACH = 4000, 8.0  # of the quadrature against N(0, 1): number, and standard deviations to either side


class LimitedGrowth(KAFInit):
    """Another start, mixed with the identity until gradients grow by at most ``growth``, and scaled to unit variance.

    After batch norm, a layer multiplies the gradient's norm by ``sqrt(E f'(Z)^2 / Var f(Z))`` with ``Z ~ N(0, 1)``
    (:attr:`~kafnets.activations.gaussian_moments.GaussianMoments.gradient_growth`), which is 1 for the identity and
    above 1 for everything else. Both moments are quadratic forms of alpha. So ``alpha = s (a + t b)`` with a the other
    start, b the ridge coefficients of the identity, t the root of a quadratic equation per parameter set (0 where a is
    good enough), and s such that ``Var f(Z) = 1``.

    The factor holds for normal inputs. Where inputs have heavier tails, they leave the dictionary, and there a KAF is
    steep; a :class:`~kafnets.activations.ResidualKAF` is not.

    Args:
        init: the other start; None for :class:`Normal`.
        growth: the largest factor, > 1 (1.02 by default).

    Raises:
        ValueError: if ``growth`` is not above 1, or (when called) if this dictionary cannot reach it or the other start
            is 0 everywhere.
        TypeError: if ``init`` is no :class:`KAFInit`.

    Paper:
        Yang et al., "A mean field theory of batch normalization", ICLR 2019 (arXiv 1902.08129).

    Example:
        >>> from kafnets.activations import KAF
        >>> moments = KAF(2, init=LimitedGrowth(growth=1.05)).gaussian_moments()
        >>> moments.gradient_growth.numpy().round(3), moments.variance.numpy().round(3)
        (array([1.05, 1.05]), array([1., 1.]))
    """

    def __init__(self, init: KAFInit | None = None, *, growth: float = 1.02) -> None:
        if not 1 < growth < float("inf"):
            raise ValueError(f"growth must be > 1 (the identity's) and finite, got {growth!r}; the default is 1.02")
        self.init, self.growth = check_init(Normal() if init is None else init), float(growth)

    @property
    def label(self) -> str:
        """The other start's, and the limit: ``_elu_Growth1.02``."""
        return f"{self.init.label}_Growth{self.growth:g}"

    def __call__(self, dictionary: Tensor, bandwidth: Tensor, num_sets: int, kernel: Kernel) -> Tensor:
        """Mix and scale, ``(num_sets, D)``."""
        start = self.init(dictionary, bandwidth, num_sets, kernel)
        if dictionary.is_meta:
            return start
        covariance, slopes = _forms(dictionary.double(), bandwidth.double(), kernel)
        excess = slopes - self.growth**2 * covariance  # a quadratic form, negative where the growth is below the limit
        a, b = start.double(), functional.ridge(dictionary, bandwidth, dictionary, 1e-6, kernel).double()
        a = _normalised(a, covariance)
        best = b @ excess @ b
        if best >= 0:
            least = float(((b @ slopes @ b) / (b @ covariance @ b)).sqrt())
            raise ValueError(
                f"growth={self.growth:g} cannot be reached by {len(dictionary)} kernels from {dictionary[0]:g} to "
                f"{dictionary[-1]:g}, where the identity itself has {least:.4g}; raise growth or widen the boundary"
            )
        own, mixed = _form(a, excess, a), a @ excess @ b
        root = (-mixed - (mixed**2 - own * best).clamp_min(0).sqrt()) / best
        shares = torch.where(own > 0, root, torch.zeros_like(root))
        return _normalised(a + shares[:, None] * b, covariance).to(start)

    def __repr__(self) -> str:
        return f"LimitedGrowth({self.init!r}, growth={self.growth:g})"


def _forms(dictionary: Tensor, bandwidth: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """The matrices ``(D, D)`` of ``Var f(Z)`` and ``E f'(Z)^2`` as quadratic forms of alpha."""
    cells = torch.arange(CELLS, dtype=torch.float64, device=dictionary.device)
    z = REACH * ((2 * cells + 1) / CELLS - 1)
    weight = torch.softmax(-0.5 * z**2, 0)[:, None]
    with torch.inference_mode(False), torch.enable_grad():
        distances = (z[:, None] - dictionary.clone()).requires_grad_()
        values = kernel(distances, bandwidth.clone())
        (slopes,) = torch.autograd.grad(values.sum(), distances)
    values = values.detach() - (weight * values.detach()).sum(0)
    return (weight * values).T @ values, (weight * slopes).T @ slopes


def _form(a: Tensor, matrix: Tensor, b: Tensor) -> Tensor:
    return ((a @ matrix) * b).sum(1)


def _normalised(alpha: Tensor, covariance: Tensor) -> Tensor:
    """Scale every set to unit variance."""
    variance = _form(alpha, covariance, alpha)[:, None]
    if not (variance > 0).all():
        raise ValueError("LimitedGrowth needs an initialisation that is not 0 everywhere, such as Normal(std=0.05)")
    return alpha / variance.sqrt()
