"""Objectives: functions of logits and true classes, one value an image."""

from kafnets.losses.cross_entropy import cross_entropy

__all__ = ["cross_entropy"]
