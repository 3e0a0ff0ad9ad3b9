"""Small networks and batches for objectives."""

import functools

import pytest
import torch
from torch import nn

from kafnets.activations import KAF, KWTA, MultiKAF, ReLU
from kafnets.keyed_random import image_keys
from kafnets.objectives import Batch
from kafnets.threat import ThreatModel

ACTIVATIONS = {
    "relu": ReLU,
    "kaf": KAF,
    "free_kaf": functools.partial(KAF, free=True),
    "kwta": functools.partial(KWTA, ratio=0.4),
    "multi_kaf": MultiKAF,
}


def build_net(activation="relu", *, dropout=0.0):
    """A convolutional network with batch norm, in training mode."""
    torch.manual_seed(0)
    build = ACTIVATIONS[activation]
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), build(4), nn.Dropout(dropout), nn.Flatten(), nn.Linear(4 * 16, 5)
    ).train()


def build_batch(n=6, *, threat=None, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, 3, 6, 6, generator=generator).to(dtype)
    y = torch.randint(5, (n,), generator=generator)
    return Batch(x, y, image_keys(torch.arange(n), 0), epoch=0.0, threat=threat or ThreatModel(eps=0.1))


@pytest.fixture
def make_net():
    return build_net


@pytest.fixture
def make_batch():
    return build_batch


def check_official(ours, terms, theirs, loss, inputs, *, rtol, atol):
    """That an objective has the inputs, loss and gradients of the authors' algorithm on the same network."""
    torch.testing.assert_close(terms.inputs, inputs, rtol=0, atol=10 * atol)
    torch.testing.assert_close(terms.loss, loss, rtol=rtol / 100, atol=0)
    loss.backward()
    terms.loss.backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=rtol, atol=atol)


@pytest.fixture
def assert_official():
    return check_official
