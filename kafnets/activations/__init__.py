"""Activations, fixed and trainable, all built as ``Activation(num_channels, ...)``."""

from kafnets.activations.apl import APL
from kafnets.activations.base import Activation
from kafnets.activations.from_module import FromModule, from_module
from kafnets.activations.kaf import KAF
from kafnets.activations.kaf_init import KAFInit, Normal, Ridge
from kafnets.activations.kernels import (
    Gaussian,
    Kernel,
    Laplacian,
    Matern32,
    Matern52,
    Periodic,
    RationalQuadratic,
    TriangularKernel,
)
from kafnets.activations.kwta import KWTA
from kafnets.activations.limited_growth import LimitedGrowth
from kafnets.activations.lipschitz_spline import LipschitzSpline
from kafnets.activations.maxout import Maxout
from kafnets.activations.multikernel import MultiKAF
from kafnets.activations.parametric import PSoftplus, PSSiLU
from kafnets.activations.pointwise import ELU, GELU, LeakyReLU, PReLU, ReLU, SiLU, Softplus, Swish
from kafnets.activations.rational import Rational
from kafnets.activations.residual import Identity, ResidualKAF
from kafnets.activations.slope_bounded_kaf import SlopeBoundedKAF
from kafnets.activations.spline import Spline
from kafnets.activations.srelu import SReLU

__all__ = [
    "APL",
    "ELU",
    "GELU",
    "KAF",
    "KWTA",
    "Activation",
    "FromModule",
    "Gaussian",
    "Identity",
    "KAFInit",
    "Kernel",
    "Laplacian",
    "LeakyReLU",
    "LimitedGrowth",
    "LipschitzSpline",
    "Matern32",
    "Matern52",
    "Maxout",
    "MultiKAF",
    "Normal",
    "PReLU",
    "PSSiLU",
    "PSoftplus",
    "Periodic",
    "Rational",
    "RationalQuadratic",
    "ReLU",
    "ResidualKAF",
    "Ridge",
    "SReLU",
    "SiLU",
    "SlopeBoundedKAF",
    "Softplus",
    "Spline",
    "Swish",
    "TriangularKernel",
    "from_module",
]
