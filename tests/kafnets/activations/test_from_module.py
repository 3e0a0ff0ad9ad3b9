import pickle

import pytest
import torch
from torch import nn

from kafnets.activations import FromModule, ResidualKAF, from_module


def test_each_place_has_a_copy_of_the_module():
    prototype = nn.PReLU(4, init=0.3)
    one, other = (from_module(prototype)(4) for _ in range(2))
    assert one.module is not other.module and one.module is not prototype
    x = torch.randn(3, 4, 5)
    assert torch.equal(one(x), prototype(x))
    assert one.num_parameters == 4


def test_a_function_builds_a_module_from_the_number_of_channels():
    layer = from_module(lambda channels: nn.PReLU(channels))(6)
    assert layer.label == "PReLU(num_parameters=6)" and layer.module.weight.shape == (6,)


def test_the_interface_of_an_activation():
    layer = FromModule(3, module=nn.Softsign())
    assert layer.label == "Softsign" and repr(layer).startswith("FromModule(\n  3")
    torch.testing.assert_close(layer.plot((0.0, 1.0), points=2).slopes, torch.tensor([[1.0, 0.25]] * 3).double())
    assert layer.gaussian_moments().mean.abs().max() < 1e-7
    with pytest.raises(NotImplementedError, match="FromModule does not bound its derivatives"):
        layer.lipschitz()
    with pytest.raises(ValueError, match="got 4 channels"):
        layer(torch.zeros(2, 4))


def test_a_module_that_mixes_values_has_no_plot():
    layer = from_module(nn.Softmax(dim=1), pointwise=False)(3)
    with pytest.raises(TypeError, match="plot"):
        layer.plot()


def test_the_base_of_a_residual_kaf():
    assert ResidualKAF(3, base=from_module(nn.Mish())).label == "Mish+KAF"


def test_factories_of_modules_can_be_pickled():
    build = pickle.loads(pickle.dumps(from_module(nn.ELU(alpha=2.0))))
    assert build(3).label == "ELU(alpha=2.0)"


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: from_module(nn.ELU), TypeError, r"a function from .*, got <class .*ELU'>; pass ELU\(\.\.\.\)$"),
        (lambda: from_module("relu"), TypeError, "module must be a module .* or a function .*, got 'relu'$"),
        (lambda: from_module(lambda c: torch.tanh)(3), TypeError, "module must be a module such as .*got <built-in"),
        (lambda: FromModule(3, module=nn.Mish), TypeError, r"module must be a module such as torch.nn.Mish\(\), got"),
        (lambda: FromModule(3, module=nn.ReLU(inplace=True)), ValueError, r"must not change its input.* inplace=False"),
        (lambda: from_module(nn.Sequential(nn.ReLU6(inplace=True)))(3), ValueError, "must not change its input"),
        (lambda: from_module(nn.GLU(dim=1))(4)(torch.zeros(2, 4)), ValueError, r"made \(2, 2\) of \(2, 4\)"),
    ],
)
def test_what_is_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()
