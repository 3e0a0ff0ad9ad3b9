import math

import pytest
import torch
import torch.nn.functional as F

from kafnets.activations import PSoftplus, PSSiLU


def test_psoftplus_is_the_formula():
    layer = PSoftplus(3, alpha=2.5).double()
    x = 3 * torch.randn(50, 3, dtype=torch.float64)
    torch.testing.assert_close(layer(x).detach(), torch.log(1 + torch.exp(2.5 * x)) / 2.5)


def test_pssilu_is_the_formula():
    layer = PSSiLU(3, alpha=1.7, beta=0.3).double()
    x = 3 * torch.randn(50, 3, dtype=torch.float64)
    sigmoid = 1 / (1 + torch.exp(-layer.alpha.detach() * x))
    beta = layer.beta.detach()
    torch.testing.assert_close(layer(x).detach(), x * (sigmoid - beta) / (1 - beta))


def test_pssilu_starts_as_silu():
    x = torch.randn(50, 3)
    torch.testing.assert_close(PSSiLU(3)(x), F.silu(x))


def test_parameters_are_shared_by_the_channels_of_a_layer():
    assert PSoftplus(64).num_parameters == 1
    assert PSSiLU(64).num_parameters == 2


def test_beta_has_a_gradient_at_its_initial_value():
    layer = PSSiLU(2)
    layer(torch.randn(9, 2)).sum().backward()
    assert layer.beta.grad.abs().item() > 1e-3 and layer.alpha.grad.abs().item() > 1e-3


def test_only_absolute_values_of_the_parameters_matter():
    x = torch.randn(20, 2)
    layer = PSSiLU(2, alpha=2.0, beta=0.2)
    before = layer(x)
    with torch.no_grad():
        layer.alpha.neg_()
        layer.beta.neg_()
    assert torch.equal(layer(x), before)
    soft = PSoftplus(2, alpha=2.0)
    before = soft(x)
    with torch.no_grad():
        soft.alpha.neg_()
    assert torch.equal(soft(x), before)


def test_large_values_do_not_overflow():
    x = torch.tensor([[-1e4, 1e4]])
    assert PSoftplus(2, alpha=50.0)(x).tolist() == [[0, 1e4]]
    torch.testing.assert_close(PSSiLU(2, beta=0.2)(x).detach(), torch.tensor([[2500.0, 1e4]]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PSoftplus(1, alpha=0.0), "alpha must be > 0 and finite, got 0.0; the default is 1"),
        (lambda: PSSiLU(1, alpha=math.nan), "alpha must be > 0"),
        (lambda: PSSiLU(1, beta=0.0), r"beta must be in \(0, 1\), got 0.0; the default is 1e-8"),
        (lambda: PSSiLU(1, beta=1.0), r"beta must be in \(0, 1\), got 1.0"),
    ],
)
def test_bad_settings_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
