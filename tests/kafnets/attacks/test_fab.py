"""FAB: its settings, its targets, its restarts."""

import itertools

import pytest
import torch

from kafnets.attacks import L1, L2, Linf
from kafnets.attacks.fab import FAB
from kafnets.keyed_random import image_keys
from kafnets.logits import is_correct


def islands(x):
    """Class 0, but for an island of class 1 and a nearer one of class 2 on the other side."""
    left = 0.1 - (x[:, 0] - 0.2).abs() - (x[:, 1] - 0.5).abs()
    right = 0.1 - (x[:, 0] - 0.75).abs() - (x[:, 1] - 0.5).abs()
    return torch.stack([0 * left, left, right - 0.01], 1)


X, Y = torch.tensor([[0.5, 0.5]]), torch.tensor([0])


def test_every_target_is_searched():
    assert FAB(classes=1, steps=30).nearest(islands, X, Y).images[0, 0] > 0.5
    counted = []

    def counting(x):
        counted.append(len(x))
        return islands(x)

    found = FAB(classes=2, steps=30).nearest(counting, X, Y)
    assert found.sizes.item() == pytest.approx(0.16 / 2, abs=0.09)
    assert len(counted) == 1 + 2 * 30 * 2  # the image, and two forward passes per target and step


def test_an_image_with_an_error_within_eps_leaves_the_search():
    counted = []

    def shifted(x):  # the boundary of the second image is out of reach
        counted.append(len(x))
        near = x[:, 1] > 0.25
        return torch.stack([x[:, 0] - torch.where(near, 0.45, -1.0), 0 * x[:, 0]], 1)

    x = torch.tensor([[0.5, 0.5], [0.5, 0.0]])
    x_adv = FAB(eps=0.1, steps=10)(shifted, x, torch.zeros(2, dtype=torch.long))
    assert is_correct(shifted(x_adv), torch.zeros(2, dtype=torch.long)).tolist() == [False, True]
    assert counted.count(2) < 8
    assert counted.count(1) > 10


@pytest.mark.parametrize("norm", [Linf(), L2(), L1()])
def test_keys_determine_the_random_start(norm):
    torch.manual_seed(0)
    weight = torch.randn(6, 20)
    out = torch.randn(20, 3)

    def net(x):
        return (3 * x @ weight).sin() @ out

    x = torch.rand(30, 6)
    y = net(x).argmax(1)
    attack = FAB(eps=0.1, steps=5, random_start=True, norm=norm)
    keys = image_keys(torch.arange(30), 0)
    assert torch.equal(attack.nearest(net, x, y, keys=keys).sizes, attack.nearest(net, x, y, keys=keys).sizes)
    others = attack.nearest(net, x, y, keys=image_keys(torch.arange(30), 1))
    assert not torch.equal(attack.nearest(net, x, y, keys=keys).sizes, others.sizes)
    robust = [
        is_correct(net(FAB(eps=0.1, steps=2, random_start=True, restarts=r, norm=norm)(net, x, y, keys=keys)), y)
        for r in (1, 2, 4)
    ]
    for fewer, more in itertools.pairwise(robust):
        assert not bool((more & ~fewer).any())
    sizes = [FAB(steps=2, random_start=True, restarts=r, norm=norm).nearest(net, x, y, keys=keys).sizes for r in (1, 3)]
    assert bool((sizes[1] <= sizes[0]).all())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be >= 1, got 0"),
        ({"classes": 0}, "classes must be >= 1, got 0"),
        ({"restarts": 2}, "restarts=2 would repeat the same search; pass random_start=True, or restarts=1"),
        ({"alpha_max": 1.5}, r"alpha_max must lie in \[0, 1\], got 1.5; the default is 0.1"),
        ({"eta": 0.9}, "eta must be >= 1 and finite, got 0.9; the default is 1.05"),
        ({"beta": 1.0}, r"beta must lie in \(0, 1\), got 1; the default is 0.9"),
        ({"eps": 8}, "for 8 grey levels write 8/255"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        FAB(**settings)


def test_names():
    assert str(FAB()) == "FAB-100-1 Linf eps 8/255"
    assert str(FAB(targeted=False, eps=2, norm=L2())) == "FAB-100-1 L2 eps 2 (targeted=False)"
