"""The nearest boundary of linear networks, and of networks without a usable gradient."""

import pytest
import torch

from kafnets.attacks import L1, L2, Linf
from kafnets.attacks.linearized_boundary import gain, nearest_boundary
from kafnets.attacks.queries import EvaluatedNet
from kafnets.logits import likely_wrong_classes

WEIGHT = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def net(x):
    return x @ WEIGHT


def test_likely_wrong_classes():
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0], [3.0, 1.0, 2.0, 0.0]])
    assert likely_wrong_classes(logits, torch.tensor([0, 1]), 2).tolist() == [[2, 1], [0, 2]]
    assert likely_wrong_classes(logits, torch.tensor([3, 2]), 9).tolist() == [[0, 2, 1], [0, 1, 3]]


@pytest.mark.parametrize(("norm", "dual"), [(Linf(), 1), (L2(), 2), (L1(), float("inf"))])
def test_the_nearest_of_all_boundaries(norm, dual):
    x = torch.rand(50, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = torch.arange(50) % 4
    classes = likely_wrong_classes(net(x), y, 3)
    gap, w = nearest_boundary(norm, net, x, y, classes)
    for i in range(50):
        by_hand = {}
        for k in set(range(4)) - {int(y[i])}:
            slope = WEIGHT[:, k] - WEIGHT[:, y[i]]
            by_hand[k] = ((x[i] @ slope).abs() / slope.norm(p=dual), x[i] @ slope, slope)
        _, expected_gap, expected_slope = min(by_hand.values(), key=lambda found: found[0])
        torch.testing.assert_close(gap[i], expected_gap)
        torch.testing.assert_close(w[i], expected_slope)
    torch.testing.assert_close(gain(norm, w), w.norm(p=dual, dim=1))


def test_a_boundary_without_a_gradient_is_the_last_choice():
    def half_dead(x):
        return torch.stack([x[:, 0], 0 * x[:, 0] - 1, x[:, 0].detach() - 0.01], 1)

    gap, w = nearest_boundary(L2(), half_dead, torch.full((1, 2), 0.5), torch.tensor([0]), torch.tensor([[1, 2]]))
    assert gap.item() == pytest.approx(-0.01)
    assert w.tolist() == [[-1.0, 0.0]]

    def dead(x):
        return torch.stack([0 * x[:, 0] + 2, 0 * x[:, 0] + 1], 1)

    gap, w = nearest_boundary(L2(), dead, torch.full((1, 2), 0.5), torch.tensor([0]), torch.tensor([[1]]))
    assert (gap.item(), w.abs().sum().item()) == (-1.0, 0.0)


def test_a_gradient_that_is_not_finite():
    def broken(x):
        return torch.stack([1 - (x[:, 0] - 0.5).abs().sqrt(), 0 * x[:, 0]], 1)

    x, y = torch.full((1, 2), 0.5), torch.tensor([0])
    with pytest.raises(ValueError, match="FAB: the gradient of the network is not finite"):
        nearest_boundary(L2(), EvaluatedNet(broken, y, "FAB"), x, y, torch.tensor([[1]]))
    # at misclassified images it does not matter
    nearest_boundary(L2(), EvaluatedNet(broken, 1 - y, "FAB"), x, 1 - y, torch.tensor([[0]]))
