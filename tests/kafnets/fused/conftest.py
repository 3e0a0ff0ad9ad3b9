"""Small networks in evaluation mode, and their logits and gradients."""

import pytest
import torch
from torch import nn

from kafnets.activations import ReLU
from kafnets.backbones import KafResNet


def _trained(net):
    torch.manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.normal_(module.bias)
        if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net.eval()


def _logits_and_gradient(net, x):
    x = x.clone().requires_grad_(True)
    logits = net(x)
    return logits.detach(), torch.autograd.grad(logits.logsumexp(1).sum(), x)[0]


@pytest.fixture
def trained():
    """A function that gives the batch norms of a network random values and puts it into evaluation mode."""
    return _trained


@pytest.fixture
def logits_and_gradient():
    """A function from a network and images to logits and the gradient of their logsumexp."""
    return _logits_and_gradient


@pytest.fixture
def is_fused():
    """A function that tells whether chains compute convolutions of a ``Fused``."""
    return lambda fused: bool(fused._form and fused._form.convs)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return _trained(KafResNet(depth=8, width=16, activation=ReLU, image_size=8))


@pytest.fixture
def images():
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
