"""Activations, fixed and trainable, all built as ``Activation(num_channels, ...)``."""

from kafnets.activations.base import Activation
from kafnets.activations.kaf import KAF
from kafnets.activations.kaf_init import KAFInit, Normal, Ridge
from kafnets.activations.kwta import KWTA
from kafnets.activations.pointwise import ELU, GELU, LeakyReLU, PReLU, ReLU, SiLU, Softplus, Swish

__all__ = [
    "ELU",
    "GELU",
    "KAF",
    "KWTA",
    "Activation",
    "KAFInit",
    "LeakyReLU",
    "Normal",
    "PReLU",
    "ReLU",
    "Ridge",
    "SiLU",
    "Softplus",
    "Swish",
]
