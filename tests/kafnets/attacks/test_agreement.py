"""Image by image, the same is fooled as by an independent implementation of the same attack."""

import math

import pytest
import torch

from kafnets.attacks import APGD, APGDT, L2, PGD, Linf
from kafnets.attacks.noise import image_keys
from kafnets.logits import is_correct
from kafnets.losses import cross_entropy, dlr

BALLS = [(Linf(), math.inf, 0.08), (Linf(), math.inf, 0.15), (L2(), 2, 0.2), (L2(), 2, 0.6)]
every_ball = pytest.mark.parametrize(("norm", "p", "eps"), BALLS)


def robust(net, x_adv, y):
    return is_correct(net(x_adv), y)


def compare(net, x, y, ours, theirs):
    """Shares of images on which the two disagree, and that withstand each."""
    a, b = robust(net, ours, y), robust(net, theirs, y)
    assert 0.05 < a.float().mean() < 0.9  # the radius tells images apart
    return (a != b).float().mean().item(), a.sum().item(), b.sum().item()


@every_ball
@pytest.mark.parametrize(("loss", "name"), [(cross_entropy, "ce"), (dlr, "dlr")])
def test_apgd(adv_lib, digits, norm, p, eps, loss, name):
    net, x, y = digits
    torch.manual_seed(0)
    theirs = adv_lib.apgd(net, x, y, eps=eps, norm=p, loss_function=name)
    ours = APGD(eps=eps, norm=norm, loss=loss)(net, x, y, keys=image_keys(torch.arange(len(x))))
    different, here, there = compare(net, x, y, ours, theirs)
    assert different <= 0.035  # both start at random: as much as between two seeds of either
    assert abs(here - there) <= 3


@every_ball
def test_apgd_targeted(adv_lib, digits, norm, p, eps):
    net, x, y = digits
    torch.manual_seed(0)
    # theirs takes the predicted class for the true one, so it is given images that are classified correctly
    right = robust(net, x, y).nonzero().flatten()[:80]
    x, y = x[right], y[right]
    theirs = adv_lib.apgd_targeted(net, x, y, eps=eps, norm=p)
    ours = APGDT(eps=eps, norm=norm)(net, x, y, keys=image_keys(torch.arange(len(x))))
    different, here, there = compare(net, x, y, ours, theirs)
    assert different <= 0.01
    assert abs(here - there) <= 1


@pytest.mark.parametrize("eps", [0.08, 0.15])
def test_pgd(adv_lib, digits, eps):
    net, x, y = digits
    torch.manual_seed(0)
    theirs = adv_lib.pgd_linf(net, x, y, ε=eps, steps=60, absolute_step_size=eps / 20)
    ours = PGD(eps=eps, steps=60, step_size=eps / 20)(net, x, y, keys=image_keys(torch.arange(len(x))))
    different, here, there = compare(net, x, y, ours, theirs)
    assert different <= 0.02
    assert here <= there + 2
