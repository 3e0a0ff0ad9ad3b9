"""Analyses of trained networks and of their robustness; they return data and draw nothing."""

from kafnets.analysis.activation_shapes import ActivationShape, activation_shapes
from kafnets.analysis.activation_statistics import Explained, explained, explanation
from kafnets.analysis.activation_study import activation_study
from kafnets.analysis.comparison import Comparison, compare
from kafnets.analysis.gradient_growth import GradientGrowth, gradient_growth
from kafnets.analysis.learning_rate_range import LearningRates, learning_rates
from kafnets.analysis.per_image_results import PerImageResults
from kafnets.analysis.robustness_record import robustness_record
from kafnets.analysis.robustness_study import RobustnessStudy
from kafnets.analysis.sanity_checks import Check, sanity_checks
from kafnets.analysis.smooth_kafs import SmoothTails, smoothed

__all__ = [
    "ActivationShape",
    "Check",
    "Comparison",
    "Explained",
    "GradientGrowth",
    "LearningRates",
    "PerImageResults",
    "RobustnessStudy",
    "SmoothTails",
    "activation_shapes",
    "activation_study",
    "compare",
    "explained",
    "explanation",
    "gradient_growth",
    "learning_rates",
    "robustness_record",
    "sanity_checks",
    "smoothed",
]
