"""Metrics of torchmetrics, and the functions that they use."""

from kafnets.metrics.robust_accuracy import RobustAccuracy
from kafnets.metrics.wilson import wilson_interval

__all__ = ["RobustAccuracy", "wilson_interval"]
