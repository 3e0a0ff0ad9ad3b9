import pytest
from torch import nn

from kafnets.activations import ReLU
from kafnets.backbones import LightNet


def test_parameters():
    kernels = 9 * (3 * 32 + 32 * 32 + 32 * 64 + 64 * 64) + 64 * 128 + 128 * 10
    assert sum(p.numel() for p in LightNet().parameters()) == kernels + 2 * (32 + 64) + 128 + 10


def test_parts():
    modules = list(LightNet().modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in modules)
    assert sum(isinstance(m, ReLU) for m in modules) == 5
    assert sum(isinstance(m, nn.Dropout) for m in modules) == 2


def test_bad_dropout():
    with pytest.raises(ValueError, match=r"dropout must be 2 rates in \[0, 1\), got \(0.5,\)"):
        LightNet(dropout=(0.5,))
