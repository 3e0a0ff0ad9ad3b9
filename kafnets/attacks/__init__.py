"""Attacks: ``attack(net, x, y) -> x_adv`` for any callable ``net`` that returns logits."""

from kafnets.attacks.apgd import APGD
from kafnets.attacks.apgd_targeted import APGDT
from kafnets.attacks.base import Attack
from kafnets.attacks.bpda import BPDA, replaced_backward
from kafnets.attacks.cw import CW
from kafnets.attacks.deepfool import DeepFool
from kafnets.attacks.fab import FAB
from kafnets.attacks.fgsm import FGSM
from kafnets.attacks.gradients import EOT, Autograd, FiniteDifferences, GradientEstimator
from kafnets.attacks.mifgsm import MIFGSM
from kafnets.attacks.noise_control import GaussianNoise, SphereNoise, UniformNoise
from kafnets.attacks.norms import L2, Linf, Norm
from kafnets.attacks.norms_l1 import L1
from kafnets.attacks.pgd import PGD
from kafnets.attacks.square import Square
from kafnets.attacks.suite import AutoAttack, Suite
from kafnets.attacks.transfer import Transfer

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
