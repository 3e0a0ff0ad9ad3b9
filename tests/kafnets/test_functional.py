import math

import pytest
import torch

from kafnets import functional


def test_gaussian_by_hand():
    found = functional.gaussian(torch.tensor([[0.0, -1.0], [2.0, 1.0]]), 0.5)
    expected = [[1.0, math.exp(-0.5)], [math.exp(-2.0), math.exp(-0.5)]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_kaf_by_hand_per_channel():
    x = torch.tensor([[0.5, -1.0]])
    alpha = torch.tensor([[2.0, -1.0], [1.0, 3.0]])
    dictionary = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    bandwidth = torch.tensor([1.0, 2.0])
    first = 2 * math.exp(-0.25) - math.exp(-0.25)
    second = 1 + 3 * math.exp(-2)
    torch.testing.assert_close(functional.kaf(x, alpha, dictionary, bandwidth), torch.tensor([[first, second]]))


def test_kaf_keeps_the_place_of_every_value():
    x = torch.randn(2, 3, 4, 5)
    alpha, dictionary = torch.randn(3, 6), torch.linspace(-2, 2, 6)
    whole = functional.kaf(x, alpha, dictionary, 0.7)
    alone = functional.kaf(x[1:, :, 2, 3], alpha, dictionary, 0.7)
    torch.testing.assert_close(whole[1:, :, 2, 3], alone)


@pytest.mark.parametrize(("ratio", "kept"), [(1.0, 6), (0.5, 3), (0.34, 3), (1 / 3, 2), (1e-9, 1)])
def test_kwta_keeps_ceil(ratio, kept):
    x = torch.tensor([[1.0, 6.0, 2.0, 5.0, 3.0, 4.0]]).view(1, 3, 2, 1)
    found = functional.kwta(x, ratio)
    assert found.count_nonzero() == kept
    assert found[found > 0].min() == 7 - kept


@pytest.mark.parametrize("eps", [0.0, -1.0, math.nan])
def test_ridge_names_a_bad_eps(eps):
    with pytest.raises(ValueError, match="eps must be > 0"):
        functional.ridge(torch.linspace(-1, 1, 3), 1.0, torch.zeros(3), eps)


def test_ridge_solves_its_system_in_float64():
    points = torch.linspace(-3, 3, 20, dtype=torch.float64)
    alpha = functional.ridge(points, 1.67, points.relu())
    kernel = functional.gaussian(points[:, None] - points, 1.67) + 1e-6 * torch.eye(20, dtype=torch.float64)
    torch.testing.assert_close(kernel @ alpha, points.relu(), atol=1e-9, rtol=0)
    assert functional.ridge(points.float(), 1.67, points.float().relu()).dtype == torch.float32


def test_ridge_per_channel():
    points = torch.stack([torch.linspace(-3, 3, 8), torch.linspace(-1, 2, 8)])
    alpha = functional.ridge(points, torch.tensor([1.0, 2.0]), points.tanh())
    torch.testing.assert_close(alpha[1], functional.ridge(points[1], 2.0, points[1].tanh()))


def test_kaf_and_ridge_take_another_kernel():
    points = torch.linspace(-3, 3, 8, dtype=torch.float64)
    alpha = functional.ridge(points, 0.1, points.tanh(), 1e-9, functional.laplacian)
    fit = functional.kaf(points[:, None], alpha[None], points, 0.1, functional.laplacian)
    torch.testing.assert_close(fit.squeeze(1), points.tanh(), atol=1e-7, rtol=0)
    length = 1 / math.sqrt(0.2)
    expected = sum(a * math.exp(-abs(0.3 - d) / length) for a, d in zip(alpha.tolist(), points.tolist(), strict=True))
    found = functional.kaf(torch.tensor([[0.3]]).double(), alpha[None], points, 0.1, functional.laplacian)
    assert found.item() == pytest.approx(expected)
