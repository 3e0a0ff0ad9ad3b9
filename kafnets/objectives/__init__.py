"""Objectives: what one training step minimises; one paper per file."""

from kafnets.objectives.adversarial import Adversarial
from kafnets.objectives.awp import AWP
from kafnets.objectives.base import Batch, Objective, Terms
from kafnets.objectives.clean import Clean
from kafnets.objectives.elle import ELLE
from kafnets.objectives.free import Free
from kafnets.objectives.gaussian_augmentation import GaussianAugmentation
from kafnets.objectives.grad_align import GradAlign
from kafnets.objectives.ibp import IBP
from kafnets.objectives.lipschitz_margin import LipschitzMargin
from kafnets.objectives.mart import MART
from kafnets.objectives.n_fgsm import NFGSM
from kafnets.objectives.progressive_resizing import ProgressiveResizing
from kafnets.objectives.trades import TRADES

__all__ = [
    "AWP",
    "ELLE",
    "IBP",
    "MART",
    "NFGSM",
    "TRADES",
    "Adversarial",
    "Batch",
    "Clean",
    "Free",
    "GaussianAugmentation",
    "GradAlign",
    "LipschitzMargin",
    "Objective",
    "ProgressiveResizing",
    "Terms",
]
