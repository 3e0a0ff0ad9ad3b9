"""Objectives: what one training step minimises; one paper per file."""

from kafnets.objectives.adversarial import Adversarial
from kafnets.objectives.base import Batch, Objective, Terms
from kafnets.objectives.clean import Clean
from kafnets.objectives.grad_align import GradAlign
from kafnets.objectives.trades import TRADES

__all__ = ["TRADES", "Adversarial", "Batch", "Clean", "GradAlign", "Objective", "Terms"]
