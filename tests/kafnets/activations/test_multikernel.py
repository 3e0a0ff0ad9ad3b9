import copy

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from kafnets import functional
from kafnets.activations import KAF, Gaussian, Laplacian, Matern32, MultiKAF, Periodic


def formula(layer, x):
    return sum(
        functional.kaf(x, layer.alpha * layer.mix[:, m : m + 1], layer.dictionary, layer.bandwidth[m], kernel)
        for m, kernel in enumerate(layer.kernels)
    )


def test_starts_as_the_mean_of_its_kernels():
    layer = MultiKAF(3)
    assert layer.label == "MultiKAF_Gaussian_Laplacian_RationalQuadratic"
    assert {n: tuple(p.shape) for n, p in layer.named_parameters()} == {"alpha": (3, 20), "mix": (3, 3)}
    torch.testing.assert_close(layer.mix, torch.full((3, 3), 1 / 3))
    assert layer.bandwidth.tolist() == pytest.approx([k.rule(6 / 19) for k in layer.kernels])


@pytest.mark.parametrize("kernels", [[Gaussian()], [Gaussian(), Matern32(), Periodic(3.0)]], ids=repr)
def test_is_the_formula(kernels):
    layer = MultiKAF(4, kernels=kernels, num_dict=7)
    torch.nn.init.normal_(layer.mix)
    x = 2 * torch.randn(5, 4, 3, 3)
    torch.testing.assert_close(layer(x), formula(layer, x), atol=2e-6, rtol=1e-5)
    layer(x).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in layer.parameters())


def test_one_gaussian_is_a_kaf():
    torch.manual_seed(0)
    multi = MultiKAF(2, kernels=[Gaussian()])
    torch.manual_seed(0)
    kaf = KAF(2)
    x = torch.randn(9, 2)
    torch.testing.assert_close(multi(x), kaf(x))


def test_derivatives():
    torch.manual_seed(0)
    layer = MultiKAF(2, kernels=[Gaussian(), Laplacian()], num_dict=3).double()

    def function(x, alpha, mix):
        return torch.func.functional_call(layer, {"alpha": alpha, "mix": mix}, (x,))

    inputs = [torch.randn(3, 2).double(), *(p.detach().clone() for p in layer.parameters())]
    inputs = [t.requires_grad_() for t in inputs]
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


def test_sharing_copies_and_loading():
    layer = MultiKAF(6, groups=2, boundary=2.0)
    assert layer.mix.shape == (2, 3) and layer.label.endswith("_Groups2")
    x = torch.randn(4, 6)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    other = MultiKAF(6, groups=2)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))


def test_no_kernels_and_wrong_ones_are_refused():
    with pytest.raises(ValueError, match="kernels must hold at least one kernel"):
        MultiKAF(2, kernels=[])
    with pytest.raises(TypeError, match="kernel must be a Kernel"):
        MultiKAF(2, kernels=[Gaussian(), Laplacian])


def test_repr_names_the_kernels():
    assert "kernels=[Gaussian(), Periodic(period=3)], num_dict=20" in repr(
        MultiKAF(2, kernels=[Gaussian(), Periodic(3.0)])
    )
