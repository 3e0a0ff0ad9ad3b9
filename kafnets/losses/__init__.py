"""Objectives: functions of logits and true classes, one value an image."""

from kafnets.losses.cross_entropy import cross_entropy
from kafnets.losses.dlr import dlr, targeted_dlr
from kafnets.losses.margin import margin

__all__ = ["cross_entropy", "dlr", "margin", "targeted_dlr"]
