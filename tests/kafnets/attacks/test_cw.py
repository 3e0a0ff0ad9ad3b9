"""CW: its optimiser, its constant, its settings."""

import pytest
import torch

from kafnets.attacks import L2
from kafnets.attacks.cw import CW, _Adam

X, Y = torch.full((3, 2), 0.5), torch.zeros(3, dtype=torch.long)


def net(x):
    """The boundary is 0.05 away."""
    return torch.stack([x[:, 0] - 0.45, 0 * x[:, 1]], 1)


def test_adam_is_adam():
    w = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimiser, mine = torch.optim.Adam([w], lr=0.1), torch.zeros(4, dtype=torch.float64)
    state, rng = _Adam.zeros_like(mine), torch.Generator().manual_seed(0)
    for step in range(20):
        grad = torch.randn(4, generator=rng, dtype=torch.float64)
        w.grad = grad.clone()
        optimiser.step()
        mine = mine - 0.1 * state.direction(grad, step + 1)
        torch.testing.assert_close(mine, w.detach())


def test_the_search_for_the_constant_may_start_anywhere():
    for first in (1e-3, 100.0):
        found = CW(steps=100, search_steps=11, first_constant=first).nearest(net, X, Y)
        torch.testing.assert_close(found.sizes, torch.full((3,), 0.05), atol=1e-3, rtol=0)


def test_a_single_constant_that_is_too_small_finds_nothing():
    assert CW(search_steps=1, first_constant=1e-6).nearest(net, X, Y).sizes.isinf().all()


def test_confidence_is_the_margin_of_errors():
    found = CW(steps=150, confidence=0.1).nearest(net, X, Y)
    torch.testing.assert_close(found.sizes, torch.full((3,), 0.15), atol=3e-3, rtol=0)
    assert bool((net(found.images)[:, 0] < -0.1).all())


def test_black_and_white_pixels_stay_finite_and_in_the_box():
    x = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    found = CW(steps=100, step_size=0.1, search_steps=6).nearest(net, x, Y[:2])
    assert found.images.isfinite().all()
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    torch.testing.assert_close(found.sizes, torch.full((2,), 0.55), atol=5e-3, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be >= 1, got 0"),
        ({"search_steps": 0}, "search_steps must be >= 1, got 0"),
        ({"step_size": 0.0}, "step_size must be > 0 and finite, got 0; the default is 0.01"),
        ({"first_constant": -1.0}, "first_constant must be > 0 and finite, got -1; the default is 0.001"),
        ({"confidence": -1.0}, "confidence must be >= 0 and finite, got -1; the default is 0"),
        ({"eps": -1.0}, "eps must be >= 0 and finite, got -1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        CW(**settings)


def test_a_gradient_that_is_not_finite_is_refused():
    def broken(x):
        return torch.stack([1 - (x[:, 0] - 0.5).abs().sqrt(), 0 * x[:, 0]], 1)

    with pytest.raises(ValueError, match="the gradient of the network is not finite"):
        CW(first_constant=1.0)(broken, torch.tensor([[0.5, 0.5]]), Y[:1])


def test_it_is_an_l2_attack():
    assert isinstance(CW().norm, L2)
    assert str(CW(eps=1)) == "CW-1000-9 L2 eps 1"
