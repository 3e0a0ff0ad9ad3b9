"""Attacks: ``attack(net, x, y) -> x_adv`` for any callable ``net`` that returns logits."""

from kafnets.attacks.base import Attack
from kafnets.attacks.fgsm import FGSM
from kafnets.attacks.norms import L2, Linf, Norm
from kafnets.attacks.pgd import PGD

__all__ = ["FGSM", "L2", "PGD", "Attack", "Linf", "Norm"]
