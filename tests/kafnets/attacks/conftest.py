"""A small trained net, and the reference implementations of adv-lib."""

import importlib.util
import sys
import types

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn


@pytest.fixture(scope="session")
def adv_lib():
    """``adv_lib.attacks``, or the test is skipped: ``pip install --no-deps adv-lib``.

    Its dependency visdom, a plotting server that no attack uses, does not build with today's setuptools.
    """
    if importlib.util.find_spec("adv_lib") is None:
        pytest.skip("adv-lib is missing: pip install --no-deps adv-lib")
    if importlib.util.find_spec("visdom") is None:
        sys.modules["visdom"] = types.ModuleType("visdom")
    return importlib.import_module("adv_lib.attacks")


@pytest.fixture(scope="session")
def digits():
    """A convolutional net trained on scikit-learn's digits, and 200 images that it has not seen: net, x, y."""
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(data.target)
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.SiLU(), nn.Conv2d(8, 16, 3, stride=2), nn.SiLU(), nn.Flatten(), nn.Linear(64, 10)
        )
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(150):
        rows = torch.randint(1500, (128,), generator=generator)
        noisy = x[rows] + 0.2 * torch.randn(len(rows), 1, 8, 8, generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(noisy), y[rows]).backward()
        optimizer.step()
    return net.eval().requires_grad_(False), x[1500:1700], y[1500:1700]
