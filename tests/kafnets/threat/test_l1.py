"""The L1 ball: its projection against general solvers, and its directions of steepest ascent."""

import numpy as np
import pytest
import torch
from scipy import optimize

from kafnets.attacks import L1
from kafnets.threat.l1 import steepest

INSIDE = 1 - 1e-4  # the share of eps that is used


def problems(n=60, size=6, seed=0, scale=1.0):
    """Images with black and white pixels, and points around them, some outside [0, 1], some with equal changes."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(n, size, generator=rng, dtype=torch.float64)
    x[: n // 4] = x[: n // 4].round()
    change = scale * torch.randn(n, size, generator=rng, dtype=torch.float64)
    change[n // 2 : 3 * n // 4] = change[n // 2 : 3 * n // 4].sign() * 0.3 * scale
    change[-1] = 0
    return x, x + change


def by_quadratic_program(x, z, eps):
    """min ||u - z||^2 over the box with ||u - x||_1 <= eps, in p - q = u - x with p, q >= 0."""
    size = len(x)
    found = optimize.minimize(
        lambda pq: ((x + pq[:size] - pq[size:] - z) ** 2).sum(),
        [0.0] * (2 * size),
        jac=lambda pq: 2 * np.outer([1, -1], x + pq[:size] - pq[size:] - z).flatten(),
        bounds=[*((0, 1 - v) for v in x), *((0, v) for v in x)],
        constraints={"type": "ineq", "fun": lambda pq: eps - pq.sum()},
        method="SLSQP",
        options={"ftol": 1e-11, "maxiter": 500},
    )
    assert found.success
    return x + found.x[:size] - found.x[size:]


def by_bisection(x, z, eps):
    """Halve an interval of the multiplier until nothing changes."""
    delta = z - x
    room = torch.where(delta > 0, 1 - x, x)
    low, high = torch.zeros(len(x), 1, dtype=x.dtype), delta.abs().amax(1, keepdim=True)

    def changes(multiplier):
        return torch.minimum((delta.abs() - multiplier).clamp_min(0), room)

    inside = changes(low).sum(1, keepdim=True) <= eps
    for _ in range(200):
        middle = (low + high) / 2
        too_far = changes(middle).sum(1, keepdim=True) > eps
        low, high = torch.where(too_far, middle, low), torch.where(too_far, high, middle)
    return x + delta.sign() * changes(torch.where(inside, 0, high))


@pytest.mark.parametrize("eps", [0.1, 0.7, 2.0])
def test_the_nearest_point_against_a_quadratic_program(eps):
    x, z = problems(n=32)
    found = L1().project(z, x, eps)
    for i in range(len(x)):
        expected = torch.tensor(by_quadratic_program(x[i].numpy(), z[i].numpy(), eps * INSIDE))
        torch.testing.assert_close(found[i], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("eps", [0.0, 1e-6, 0.1, 1.0, 12.0, 1e4])
@pytest.mark.parametrize("scale", [1e-3, 0.3, 10.0])
@pytest.mark.parametrize("size", [1, 2, 3072])
def test_the_nearest_point_against_bisection(size, scale, eps):
    x, z = problems(n=20, size=size, scale=scale)
    found = L1().project(z, x, eps)
    torch.testing.assert_close(found, by_bisection(x, z, eps * INSIDE), rtol=0, atol=1e-12)


def test_points_of_the_ball_and_the_box_are_their_own_projections():
    x, _ = problems()
    inside = L1().project(x + 0.01, x, 5.0)
    assert torch.equal(inside, (x + 0.01).clamp_max(1))
    assert torch.equal(L1().project(x, x, 0.0), x)


def test_shape_and_dtype_are_those_of_the_images():
    x = torch.rand(3, 2, 4, 4)
    found = L1().project(x + torch.randn_like(x), x, 2.0)
    assert (found.shape, found.dtype) == (x.shape, x.dtype)


def test_the_direction_is_one_pixel_or_those_that_are_equal():
    grad = torch.tensor([[1.0, -3.0, 2.0], [2.0, 1.0, -2.0], [0.0, 0.0, 0.0], [1.0, torch.inf, 0.0]])
    expected = torch.tensor([[0.0, -1.0, 0.0], [0.5, 0.0, -0.5], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert torch.equal(L1().direction(grad), expected)


def test_no_direction_of_size_one_gains_more():
    grad = torch.randn(50, 12, generator=torch.Generator().manual_seed(0))
    gain = (grad * L1().direction(grad)).sum(1)
    torch.testing.assert_close(gain, grad.abs().amax(1))


@pytest.mark.parametrize("count", [1, 3, 12])
def test_the_steepest_few_by_hand(count):
    grad = torch.randn(20, 3, 4, generator=torch.Generator().manual_seed(1))
    found = steepest(grad, torch.full((20,), count))
    for image, direction in zip(grad.flatten(1), found.flatten(1), strict=True):
        chosen = sorted(range(12), key=lambda i: -abs(image[i].item()))[:count]
        expected = torch.zeros(12)
        expected[chosen] = image[chosen].sign() / count
        torch.testing.assert_close(direction, expected)


def test_the_count_may_differ_between_images():
    grad = torch.tensor([[3.0, 2.0, -1.0]]).repeat(3, 1)
    assert (steepest(grad, torch.tensor([1, 2, 3])) != 0).sum(1).tolist() == [1, 2, 3]


def test_a_step_takes_the_steepest_pixel_that_can_move():
    x = torch.tensor([[1.0, 0.5, 0.0], [1.0, 0.5, 0.0]])
    grad = torch.tensor([[3.0, 1.0, -2.0], [-3.0, 1.0, -2.0]])
    expected = torch.tensor([[1.0, 0.6, 0.0], [0.9, 0.5, 0.0]])
    torch.testing.assert_close(L1().step(x, grad, 0.1), expected)


@pytest.mark.parametrize("eps", [-0.1, float("inf"), float("nan")])
def test_invalid_radii_are_refused(eps):
    with pytest.raises(ValueError, match="eps must be >= 0 and finite, got"):
        L1().check_eps(eps)
