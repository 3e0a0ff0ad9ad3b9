"""Image by image, attacks fool the same images as independent implementations of them."""

import copy
import math
import sys

import pytest
import torch

from kafnets.attacks import APGD, APGDT, L1, L2, PGD, Linf
from kafnets.attacks.apgd_ascent import Phase, SparseClimb
from kafnets.keyed_random import image_keys
from kafnets.logits import is_correct
from kafnets.losses import cross_entropy, dlr

BALLS = [(Linf(), math.inf, 0.08), (Linf(), math.inf, 0.15), (L2(), 2, 0.2), (L2(), 2, 0.6)]
every_ball = pytest.mark.parametrize(("norm", "p", "eps"), BALLS)


def robust(net, x_adv, y):
    return is_correct(net(x_adv), y)


def compare(net, x, y, ours, theirs):
    """The share of images on which the two disagree, and the number that withstand each."""
    a, b = robust(net, ours, y), robust(net, theirs, y)
    assert 0.05 < a.float().mean() < 0.9  # some images withstand this radius, some do not
    return (a != b).float().mean().item(), a.sum().item(), b.sum().item()


@every_ball
@pytest.mark.parametrize(("loss", "name"), [(cross_entropy, "ce"), (dlr, "dlr")])
def test_apgd(adv_lib, digits, norm, p, eps, loss, name):
    net, x, y = digits
    torch.manual_seed(0)
    theirs = adv_lib.apgd(net, x, y, eps=eps, norm=p, loss_function=name)
    ours = APGD(eps=eps, norm=norm, loss=loss)(net, x, y, keys=image_keys(torch.arange(len(x))))
    different, here, there = compare(net, x, y, ours, theirs)
    assert different <= 0.035  # both start at random: two seeds of one of them differ as much
    assert abs(here - there) <= 3


@every_ball
def test_apgd_targeted(adv_lib, digits, norm, p, eps):
    net, x, y = digits
    torch.manual_seed(0)
    # theirs treats the predicted class as the true one, so only images that are classified correctly are used
    right = robust(net, x, y).nonzero().flatten()[:80]
    x, y = x[right], y[right]
    theirs = adv_lib.apgd_targeted(net, x, y, eps=eps, norm=p)
    ours = APGDT(eps=eps, norm=norm)(net, x, y, keys=image_keys(torch.arange(len(x))))
    different, here, there = compare(net, x, y, ours, theirs)
    assert different <= 0.01
    assert abs(here - there) <= 1


def test_apgd_in_l1(adv_lib, digits):
    net, x, y = digits
    torch.manual_seed(0)
    theirs = adv_lib.apgd(net, x, y, eps=1.5, norm=1, loss_function="ce", use_large_reps=True, n_restarts=3)
    ours = APGD(eps=1.5, norm=L1(), restarts=3)(net, x, y, keys=image_keys(torch.arange(len(x))))
    different, here, there = compare(net, x, y, ours, theirs)
    assert different <= 0.035
    assert abs(here - there) <= 5


@pytest.mark.parametrize("steps", [10, 40, 75])
def test_from_the_same_start_a_phase_in_l1_ends_where_theirs_does(adv_lib, digits, steps):
    class Whole(L1):
        _INSIDE = 1.0  # no allowance for the rounding of norms, as in theirs

    net, x, y = digits
    net, x = copy.deepcopy(net).double(), x.double()
    keys, eps = image_keys(torch.arange(len(x))), 3.0
    # after projections, pixels that differ by rounding count as changed: such an image takes another path
    dusty = torch.zeros(len(x), dtype=torch.bool)

    def watched(points):
        off = (points - x).abs().detach().flatten(1)
        dusty.logical_or_(((off > 0) & (off < 1e-9)).any(1))
        return net(points)

    start = SparseClimb.start(Whole(), x, eps, keys)
    _, ours = APGD(eps=eps, norm=Whole())._ascend(
        watched, cross_entropy, x, (y,), keys, start, Phase(eps, steps), 0, early_stop=False
    )
    theirs, _, highest, _ = sys.modules["adv_lib.attacks.auto_pgd"]._apgd(
        watched, x, y, x.new_full((len(x),), eps), 1, x_init=start, n_iter=steps, loss_function="ce"
    )
    here = cross_entropy(net(ours), y)
    assert dusty.float().mean() < 0.2
    torch.testing.assert_close(here[~dusty], highest[~dusty])
    torch.testing.assert_close(ours[~dusty], theirs[~dusty])
    assert torch.isclose(here, highest, rtol=1e-4).float().mean() > 0.95


def test_apgd_targeted_in_l1(adv_lib, digits):
    net, x, y = digits
    torch.manual_seed(0)
    right = robust(net, x, y).nonzero().flatten()[:60]
    x, y = x[right], y[right]
    theirs = adv_lib.apgd_targeted(net, x, y, eps=1.5, norm=1, use_large_reps=True)
    ours = APGDT(eps=1.5, norm=L1())(net, x, y, keys=image_keys(torch.arange(len(x))))
    different, here, there = compare(net, x, y, ours, theirs)
    assert different <= 0.05
    assert abs(here - there) <= 2


@pytest.mark.parametrize("eps", [0.08, 0.15])
def test_pgd(adv_lib, digits, eps):
    net, x, y = digits
    torch.manual_seed(0)
    theirs = adv_lib.pgd_linf(net, x, y, ε=eps, steps=60, absolute_step_size=eps / 20)
    ours = PGD(eps=eps, steps=60, step_size=eps / 20)(net, x, y, keys=image_keys(torch.arange(len(x))))
    different, here, there = compare(net, x, y, ours, theirs)
    assert different <= 0.02
    assert here <= there + 2
