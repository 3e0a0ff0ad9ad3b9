"""Losses: functions of logits and true classes, or of logits and probabilities; one value per image."""

from kafnets.losses.cross_entropy import cross_entropy
from kafnets.losses.dlr import dlr, targeted_dlr
from kafnets.losses.kl_divergence import kl_divergence
from kafnets.losses.label_smoothing import LabelSmoothing
from kafnets.losses.margin import margin, targeted_margin

__all__ = ["LabelSmoothing", "cross_entropy", "dlr", "kl_divergence", "margin", "targeted_dlr", "targeted_margin"]
