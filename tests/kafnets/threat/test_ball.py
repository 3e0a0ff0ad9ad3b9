"""Projections and starts lie in the ball exactly, in floating point, for difficult images and radii."""

import itertools

import pytest
import torch

from kafnets.keyed_random import image_keys
from kafnets.threat import L1, L2, Linf
from kafnets.threat.norms import round_down

EPS = [8 / 255, 0.031, 0.1, 0.25, 1 / 255, 1e-3, 1e-5, 3e-8]


def difficult_images(dtype):
    """Random, 8-bit, black, white, grey, nearly black and nearly white images of CIFAR's size."""
    x = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x[1], x[2], x[3], x[4] = (x[1] * 255).round() / 255, 0, 1, 0.5
    x[5] *= 1e-6
    x[6] = 1 - x[6] * 1e-6
    x[7] = 0.3
    return x.to(dtype)


def candidates(norm, x, eps):
    """Starts, and projections from outside in directions that are prone to rounding errors."""
    keys = image_keys(torch.arange(len(x)))
    yield norm.random_start(x, eps, keys)
    for direction in (torch.ones_like(x), -torch.ones_like(x), torch.randn_like(x), torch.rand_like(x) - 0.5):
        for step in (eps, 1.25 * eps, 3.0):
            yield norm.project(x + step * norm.direction(direction), x, eps)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("eps", EPS)
def test_linf_ball_is_exact(eps, dtype):
    x = difficult_images(dtype)
    for x_adv in candidates(Linf(), x, eps):
        assert (x_adv - x).abs().max().item() <= eps
        assert (x_adv.double() - x.double()).abs().max().item() <= eps
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1


@pytest.mark.parametrize("eps", EPS)
def test_linf_projects_to_the_nearest_number_inside(eps):
    x = difficult_images(torch.float32)
    z = x + 2 * eps * torch.randn_like(x)
    found = Linf().project(z, x, eps)
    nearer = torch.nextafter(found, z)
    inside = ((nearer.double() - x.double()).abs() <= round_down(eps, x.dtype)) & (nearer >= 0) & (nearer <= 1)
    moved = found != z
    assert moved.any() and not inside[moved].any()


@pytest.mark.parametrize("norm", [Linf(), L2(), L1()])
def test_a_projection_can_be_reused_for_other_points(norm):
    x = difficult_images(torch.float32)
    project = norm.projection(x, 0.1)
    for z in (x + torch.randn_like(x), x - 0.01, x):
        assert torch.equal(project(z), norm.project(z, x, 0.1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [*EPS, 0.5, 1.0, 3.0])
def test_l2_ball_is_exact_however_the_norm_is_summed(eps, dtype):
    x = difficult_images(dtype)
    for x_adv in candidates(L2(), x, eps):
        assert (x_adv - x).flatten(1).norm(dim=1).max().item() <= eps
        assert (x_adv.double() - x.double()).flatten(1).norm(dim=1).max().item() <= eps
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [*EPS, 0.5, 3.0, 12.0, 200.0])
def test_l1_ball_is_exact_however_the_norm_is_summed(eps, dtype):
    x = difficult_images(dtype)
    for x_adv in candidates(L1(), x, eps):
        assert (x_adv - x).flatten(1).norm(p=1, dim=1).max().item() <= eps
        assert L1().size(x_adv - x).max().item() <= eps
        assert L1().size(x_adv.double() - x.double()).max().item() <= eps
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("norm", "eps"), [(L2(), 0.1), (L2(), 1.0), (L1(), 1.0), (L1(), 12.0)])
def test_balls_are_exact_in_half_precision(norm, eps, dtype):
    x = difficult_images(dtype)
    for x_adv in candidates(norm, x, eps):
        assert x_adv.dtype == dtype
        assert norm.size(x_adv.double() - x.double()).max().item() <= eps
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1


@pytest.mark.parametrize("eps", [1.0, 60.0])
def test_l1_ball_is_exact_on_large_images(eps):
    for x in (torch.full((1, 3, 224, 224), 0.3), torch.rand(1, 3, 224, 224)):
        x_adv = L1().project(x + torch.ones_like(x), x, eps)
        assert L1().size(x_adv - x).item() <= eps
        assert L1().size(x_adv.double() - x.double()).item() <= eps


@pytest.mark.parametrize("eps", [0.01, 0.25, 0.5])
def test_l2_ball_is_exact_on_large_images(eps):
    for x in (torch.full((1, 3, 224, 224), 0.3), torch.rand(1, 3, 224, 224)):
        x_adv = L2().project(x + torch.ones_like(x), x, eps)
        assert L2().size(x_adv - x).item() <= eps
        assert (x_adv.double() - x.double()).norm().item() <= eps


@pytest.mark.parametrize("eps", [8 / 255, 0.1, 0.25])
def test_projections_reach_the_boundary_of_the_ball(eps):
    x = torch.full((4, 3, 32, 32), 0.5)
    assert Linf().size(Linf().project(x + 1, x, eps) - x).min().item() == pytest.approx(eps, rel=1e-5)
    assert L2().size(L2().project(x + torch.randn_like(x), x, eps) - x).min().item() == pytest.approx(eps, rel=1e-3)
    assert L1().size(L1().project(x + torch.randn_like(x), x, eps) - x).min().item() == pytest.approx(eps, rel=1e-3)


@pytest.mark.parametrize("norm", [Linf(), L2(), L1()])
def test_points_inside_stay_where_they_are(norm):
    x = 0.2 + 0.6 * torch.rand(10, 3, 8, 8)
    inside = norm.project(norm.random_start(x, 0.1, image_keys(torch.arange(10))), x, 0.1)
    torch.testing.assert_close(norm.project(inside, x, 0.1), inside, rtol=0, atol=2e-7)


@pytest.mark.parametrize("norm", [Linf(), L2(), L1()])
def test_direction_has_size_one(norm):
    for scale in (1e-38, 1e-30, 1.0, 1e30):
        direction = norm.direction(torch.randn(20, 3, 8, 8) * scale)
        torch.testing.assert_close(norm.size(direction), torch.ones(20))


@pytest.mark.parametrize(("norm", "value"), list(itertools.product([Linf(), L2(), L1()], [0.0, float("nan")])))
def test_no_direction_without_a_gradient(norm, value):
    assert not norm.direction(torch.full((2, 3), value)).any()


def test_starts_fill_the_linf_ball_evenly():
    x = torch.full((200, 500), 0.5)
    offset = (Linf().random_start(x, 0.1, image_keys(torch.arange(200))) - x) / 0.1
    assert abs(offset.mean().item()) < 0.01
    assert offset.var().item() == pytest.approx(1 / 3, rel=0.02)
    assert offset.abs().max() > 0.999


def test_starts_fill_the_l2_ball_evenly():
    x = torch.full((20000, 3), 0.5)
    offset = (L2().random_start(x, 0.2, image_keys(torch.arange(20000))) - x) / 0.2
    # in a uniform ball the share of points within radius r is r**d, and no direction is preferred
    share = torch.stack([(offset.norm(dim=1) < r).float().mean() for r in (0.3, 0.5, 0.8)])
    torch.testing.assert_close(share, torch.tensor([0.3, 0.5, 0.8]) ** 3, rtol=0, atol=0.012)
    assert offset.mean(0).abs().max() < 0.015


def test_starts_fill_the_l1_ball_evenly():
    x = torch.full((20000, 3), 0.5)
    offset = (L1().random_start(x, 0.2, image_keys(torch.arange(20000))) - x) / 0.2
    share = torch.stack([(offset.abs().sum(1) < r).float().mean() for r in (0.3, 0.5, 0.8)])
    torch.testing.assert_close(share, torch.tensor([0.3, 0.5, 0.8]) ** 3, rtol=0, atol=0.012)
    assert offset.mean(0).abs().max() < 0.015
    # the sizes of two entries add up to less than r with a probability of 1 - (1 - r)^2 (1 + 2 r), whichever they are
    for pair in itertools.combinations(range(3), 2):
        near = (offset[:, pair].abs().sum(1) < 0.4).float().mean().item()
        assert near == pytest.approx(1 - 0.6**2 * 1.8, abs=0.015)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.25, *EPS, 1.0])
def test_round_down_is_the_nearest_number_below(value, dtype):
    found = round_down(value, dtype)
    above = torch.nextafter(torch.tensor(found, dtype=dtype), torch.tensor(2.0, dtype=dtype)).item()
    assert found <= value < above
