"""Curves of linear networks, whose robustness is known in closed form."""

import pytest
import torch

from kafnets.analysis.robustness_curves import (
    curve,
    nested_curve,
    radii_to_the_end,
    search_at_eps,
    search_at_restarts,
    search_at_steps,
)
from kafnets.attacks import L2, PGD
from kafnets.logits import is_correct


def net(x):
    """Class 0 where the sum of the pixels exceeds 2: an image falls at eps = (sum - 2) / 4 in Linf."""
    return torch.stack([x.flatten(1).sum(1) - 2, 0 * x.flatten(1).sum(1)], 1)


@pytest.fixture
def images():
    x = torch.linspace(0.46, 0.91, 10).reshape(-1, 1, 1, 1).expand(10, 1, 2, 2).contiguous()
    return x, torch.zeros(10, dtype=torch.int64), torch.arange(10)


def test_accuracy_over_radii_is_the_closed_form(images):
    x, y, keys = images
    radii = radii_to_the_end(PGD(eps=0.1), x, (0.5, 1, 2, 3))
    assert radii == pytest.approx([0.05, 0.1, 0.2, 0.3, 1.0])
    points = nested_curve(net, x, y, keys=keys, attack_at=search_at_eps(PGD(eps=0.1)), values=radii)
    for eps, right in points:
        assert right.tolist() == [value > 0.5 + eps + 1e-6 for value in x[:, 0, 0, 0].tolist()]


def test_only_survivors_are_tried_at_larger_radii(images):
    x, y, keys = images
    tried = []

    def at(eps):
        attack = PGD(eps=eps, step_size=eps / 4, steps=10)

        def counting(net, x, y, *, keys):
            tried.append(len(x))
            return attack(net, x, y, keys=keys)

        return counting

    rights = [right for _, right in nested_curve(net, x, y, keys=keys, attack_at=at, values=[0.1, 0.2, 0.9, 1.0])]
    assert tried == [int(is_correct(net(x), y).sum()), *(int(right.sum()) for right in rights[:2])]
    assert not rights[-1].any()


def test_every_value_is_tried_on_every_image(images):
    x, y, keys = images
    broken_when_odd = lambda steps: lambda net, x, y, *, keys: x * (1 - steps % 2)  # noqa: E731
    found = {v: r.sum().item() for v, r in curve(net, x, y, keys=keys, attack_at=broken_when_odd, values=[1, 2, 3])}
    assert found == {1: 0, 2: int(is_correct(net(x), y).sum()), 3: 0}


def test_the_last_ball_contains_every_image(images):
    x = images[0]
    assert radii_to_the_end(PGD(eps=0.5, norm=L2()), x) == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.75, 1, 1.5, 2])
    assert radii_to_the_end(PGD(eps=1.0), x)[-1] == 1.0 == max(radii_to_the_end(PGD(eps=1.0), x))


def test_default_attacks_stay_in_the_ball_of_the_study():
    ball = PGD(eps=0.5, norm=L2())
    for attack in (search_at_eps(ball)(0.5), search_at_steps(ball)(7), search_at_restarts(ball)(3)):
        assert attack.eps == 0.5 and isinstance(attack.norm, L2) and attack.step_size == 0.125
    assert search_at_steps(ball)(7).steps == 7 and search_at_restarts(ball)(3).restarts == 3


def test_descending_radii_are_refused(images):
    x, y, keys = images
    with pytest.raises(ValueError, match="radii must ascend"):
        list(nested_curve(net, x, y, keys=keys, attack_at=search_at_eps(PGD()), values=[0.2, 0.1]))
