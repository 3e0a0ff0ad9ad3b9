"""FAB, DeepFool and CW find the same distances as those of adv-lib, image by image."""

import math

import pytest

from kafnets.attacks import L1, L2, Linf
from kafnets.attacks.cw import CW
from kafnets.attacks.deepfool import DeepFool
from kafnets.attacks.fab import FAB

NORMS = {"linf": (Linf(), math.inf), "l2": (L2(), 2)}
every_norm = pytest.mark.parametrize(("norm", "p"), NORMS.values(), ids=NORMS)
and_l1 = pytest.mark.parametrize(("norm", "p"), [*NORMS.values(), (L1(), 1)], ids=[*NORMS, "l1"])


@pytest.fixture
def right(digits):
    """The network, and images that it classifies correctly."""
    net, x, y = digits
    rows = (net(x).argmax(1) == y).nonzero().flatten()[:60]
    return net, x[rows], y[rows]


def compare(net, x, y, norm, mine, theirs, *, tolerance, share):
    """Both fool the network, at distances that agree for that share of the images."""
    found = mine.nearest(net, x, y)
    assert found.sizes.isfinite().all()
    assert not (net(theirs).argmax(1) == y).any()
    ratio = found.sizes / norm.size(theirs - x)
    assert ((ratio - 1).abs() <= tolerance).float().mean() >= share, ratio
    assert abs(ratio.mean() - 1) <= tolerance


@every_norm
def test_deepfool(adv_lib, right, norm, p):
    theirs = adv_lib.df(*right, norm=p, steps=50)
    compare(*right, norm, DeepFool(norm=norm), theirs, tolerance=1e-3, share=1)


@and_l1
def test_fab(adv_lib, right, norm, p):
    theirs = adv_lib.fab(*right, norm=p, n_iter=30)
    compare(*right, norm, FAB(norm=norm, targeted=False, steps=30), theirs, tolerance=0.01, share=0.95)


@and_l1
def test_fab_targeted(adv_lib, right, norm, p):
    theirs = adv_lib.fab(*right, norm=p, n_iter=15, targeted_restarts=True)
    compare(*right, norm, FAB(norm=norm, steps=15), theirs, tolerance=0.01, share=0.95)


def test_cw(adv_lib, right):
    theirs = adv_lib.carlini_wagner_l2(
        *right, max_iterations=200, binary_search_steps=5, initial_const=0.1, learning_rate=0.02
    )
    mine = CW(steps=200, search_steps=5, first_constant=0.1, step_size=0.02)
    compare(*right, L2(), mine, theirs, tolerance=1e-3, share=1)
