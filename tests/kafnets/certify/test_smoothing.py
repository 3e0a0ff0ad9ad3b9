"""Randomised smoothing, beside the closed form of a linear network and scipy's intervals."""

import math

import pytest
import torch
from scipy.stats import binomtest, norm

from kafnets.certify import Smoothing, clopper_pearson
from kafnets.keyed_random import image_keys


def linear(x):
    """Two classes on either side of mean 0.5."""
    z = x.mean((1, 2, 3)) - 0.5
    return torch.stack([-z, z], 1)


@pytest.mark.parametrize(
    ("successes", "total", "alpha"), [(0, 5, 0.01), (5, 5, 0.05), (99, 100, 0.001), (730, 1000, 0.1)]
)
def test_clopper_pearson(successes, total, alpha):
    expected = binomtest(successes, total, alternative="greater").proportion_ci(1 - alpha, method="exact").low
    assert clopper_pearson(successes, total, alpha) == pytest.approx(expected, abs=1e-12)


def test_the_radius_of_a_linear_network_is_below_the_distance_and_close_to_it():
    x = torch.full((2, 1, 4, 4), 0.5)
    x[0] += 0.05
    x[1] -= 0.02
    found = Smoothing(sigma=0.25, n=20_000).certify(linear, x, image_keys(torch.arange(2), 0))
    distance = torch.tensor([0.05, 0.02]).double() * 4  # of a shift of all 16 pixels, in L2
    assert found.classes.tolist() == [1, 0]
    assert (found.radius <= distance).all() and (found.radius > 0.75 * distance - 0.02).all()


def test_an_undecided_image_is_abstained_from():
    found = Smoothing(n0=20, n=100).certify(linear, torch.full((1, 1, 2, 2), 0.5), torch.tensor([5]))
    assert found.classes.tolist() == [-1] and found.radius.tolist() == [0.0]
    assert Smoothing(n0=100).predict(linear, torch.full((1, 1, 2, 2), 0.5), torch.tensor([5])).tolist() == [-1]
    assert Smoothing(n0=100).predict(linear, torch.ones(1, 1, 4, 4), torch.tensor([5])).tolist() == [1]


def test_without_keys_the_noise_follows_the_seed_of_torch():
    x, radii = torch.full((1, 1, 4, 4), 0.55), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        radii.append(Smoothing(n=300).certify(linear, x).radius.item())
    assert radii[0] == radii[1] != radii[2]


def test_copies_without_finite_logits_count_for_no_class():
    def broken(x):
        return torch.full((len(x), 3), math.nan)

    x, keys = torch.full((1, 1, 4, 4), 0.9), torch.tensor([5])
    assert Smoothing().counts(broken, x[0], keys[0], 50, 1).tolist() == [0, 0, 0]
    assert Smoothing(n0=20, n=100).certify(broken, x, keys).classes.tolist() == [-1]
    assert Smoothing(n0=20).predict(broken, x, keys).tolist() == [-1]


def test_the_largest_radius_is_that_of_all_hits():
    found = Smoothing(sigma=0.5, n=200, alpha=0.01).certify(linear, torch.full((1, 1, 8, 8), 9.0), torch.tensor([1]))
    assert found.radius.item() == pytest.approx(0.5 * norm.ppf(0.01 ** (1 / 200)), rel=1e-9)


def test_the_noise_is_that_of_the_image_whatever_the_batch():
    x, keys = torch.full((3, 1, 2, 2), 0.45), image_keys(torch.arange(3), 7)
    counts = [
        torch.stack([Smoothing(batch=batch).counts(linear, x[i], keys[i], 500, 1) for i in range(3)])
        for batch in (500, 77)
    ]
    assert torch.equal(*counts) and len({tuple(row) for row in counts[0].tolist()}) > 1
    whole = Smoothing(n=500).certify(linear, x, keys)
    alone = Smoothing(n=500).certify(linear, x[2:], keys[2:])
    assert whole.radius[2] == alone.radius[0]


def test_a_certificate_fails_as_seldom_as_it_says():
    """Images exactly at a distance d of the boundary: a radius above d is wrong, in at most alpha of them."""
    x, alpha = torch.full((100, 1, 1, 1), 0.6), 0.1
    found = Smoothing(sigma=0.25, n0=10, n=200, alpha=alpha).certify(linear, x, image_keys(torch.arange(100), 0))
    wrong = int((found.radius > 0.1 + 1e-6).sum())
    assert wrong <= 100 * alpha + 3 * math.sqrt(100 * alpha * (1 - alpha))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"sigma": 0}, "sigma must be > 0 and finite, got 0"),
        ({"n": 0}, "n must be >= 1, got 0"),
        ({"alpha": 1}, r"alpha must lie in \(0, 1\), got 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        Smoothing(**settings)
