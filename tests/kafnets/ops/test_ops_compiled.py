"""The engine that torch.compile makes: slow to start, so that a few tests look at all of it."""

import math

import pytest
import torch

from kafnets import functional, ops

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def engine():
    try:
        with ops.force("compiled"):
            ops.engine(torch.device("cpu"))
            yield
    except ValueError as reason:
        pytest.skip(str(reason))


def gradients(function, x, alpha, v):
    x, alpha = x.detach().requires_grad_(), alpha.detach().requires_grad_()
    y = function(x, alpha)
    return y.detach(), *torch.autograd.grad(y, (x, alpha), v.to(y))


def compare(x, size=20):
    torch.manual_seed(0)
    dictionary = torch.linspace(-3, 3, size, dtype=torch.float64)
    gamma = torch.tensor((size - 1) ** 2 / 216, dtype=torch.float64)
    alpha, v = torch.randn(x.shape[1], size), torch.randn(x.shape).to(x.dtype)
    grid = ops.Grid.of(dictionary, gamma)
    found = gradients(lambda x, a: ops.kaf(x, a, dictionary.float(), gamma.float(), grid=grid), x, alpha, v)
    expected = gradients(lambda x, a: functional.kaf(x, a, dictionary, gamma), x.double(), alpha.double(), v)
    limit = 5e-6 if x.dtype == torch.float32 else 0.01
    for f, e in zip(found, expected, strict=True):
        assert (f - e).abs().max() <= limit * e.abs().max()
    assert found[0].dtype == found[1].dtype == x.dtype and found[0].shape == x.shape


def test_values_gradients_and_graphs():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for shape in [(5, 3, 7, 9), (2, 3, 40, 41), (9, 4, 11, 5), (33, 3), (3, 5, 6)]:
            compare(3 * torch.randn(shape))
        compare(torch.randn(4, 3, 8, 8).to(memory_format=torch.channels_last))
        compare(torch.cat([torch.linspace(-1e4, 1e4, 301), torch.tensor([1e38, -1e-42])]).repeat(2, 1).T)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # forward and backward, for all sizes


def test_half_precision_long_dictionaries_and_special_values():
    compare(torch.randn(8, 3, 9, 9).bfloat16())
    compare(3 * torch.randn(8, 3, 9, 9), size=33)  # no recurrence
    compare(3 * torch.randn(8, 3, 9, 9), size=7)
    dictionary, gamma = torch.linspace(-3, 3, 20), torch.tensor(361 / 216)
    grid = ops.Grid.of(dictionary, gamma)
    x = torch.tensor([math.inf, -math.inf, math.nan, 30.0]).unsqueeze(1).requires_grad_()
    y = ops.kaf(x, torch.full((1, 20), 70.0), dictionary, gamma, grid=grid)
    (slope,) = torch.autograd.grad(y.sum(), x)
    for values in (y, slope):
        assert values[:2].tolist() == [[0], [0]] and values[2].isnan() and values[3].abs() < 1e-10
