"""Certificates: bounds that no attack can break."""

from kafnets.certify.certificate import Certificate, Intervals, LinearRelaxation, LipschitzMargins
from kafnets.certify.gap import LayerGap, layer_gaps, lipschitz_lower_bound
from kafnets.certify.intervals import IntervalBounds, interval_bounds
from kafnets.certify.linear import LinearBounds, linear_bounds
from kafnets.certify.lipschitz import LayerBound, LipschitzBound, lipschitz_bound
from kafnets.certify.smoothing import Smoothed, Smoothing, clopper_pearson

__all__ = [
    "Certificate",
    "IntervalBounds",
    "Intervals",
    "LayerBound",
    "LayerGap",
    "LinearBounds",
    "LinearRelaxation",
    "LipschitzBound",
    "LipschitzMargins",
    "Smoothed",
    "Smoothing",
    "clopper_pearson",
    "interval_bounds",
    "layer_gaps",
    "linear_bounds",
    "lipschitz_bound",
    "lipschitz_lower_bound",
]
