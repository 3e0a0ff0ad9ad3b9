"""What a trained network has become inside: functions that return data and draw nothing."""

from kafnets.analysis.activation_shapes import ActivationShape, activation_shapes

__all__ = ["ActivationShape", "activation_shapes"]
