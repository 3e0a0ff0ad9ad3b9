"""Attacks on any callable ``net`` that returns logits: ``attack(net, x, y)`` or ``attack.craft(net, x, y)``."""

from kafnets.attacks.apgd import APGD
from kafnets.attacks.apgd_targeted import APGDT
from kafnets.attacks.autoattack import AutoAttack
from kafnets.attacks.base import Attack
from kafnets.attacks.bpda import BPDA, replaced_backward
from kafnets.attacks.cw import CW
from kafnets.attacks.deepfool import DeepFool
from kafnets.attacks.fab import FAB
from kafnets.attacks.fgsm import FGSM
from kafnets.attacks.gradient_estimators import EOT, Autograd, FiniteDifferences, GradientEstimator
from kafnets.attacks.mifgsm import MIFGSM
from kafnets.attacks.pgd import PGD
from kafnets.attacks.random_noise import GaussianNoise, SphereNoise, UniformNoise
from kafnets.attacks.square import Square
from kafnets.attacks.suite import Suite
from kafnets.attacks.transfer import Transfer
from kafnets.threat import L1, L2, Linf, Norm

__all__ = [
    "APGD",
    "APGDT",
    "BPDA",
    "CW",
    "EOT",
    "FAB",
    "FGSM",
    "L1",
    "L2",
    "MIFGSM",
    "PGD",
    "Attack",
    "AutoAttack",
    "Autograd",
    "DeepFool",
    "FiniteDifferences",
    "GaussianNoise",
    "GradientEstimator",
    "Linf",
    "Norm",
    "SphereNoise",
    "Square",
    "Suite",
    "Transfer",
    "UniformNoise",
    "replaced_backward",
]
