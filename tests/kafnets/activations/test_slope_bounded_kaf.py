"""A KAF whose slope has a limit, beside the KAF whose coefficients it scales."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kafnets.activations import KAF, Normal, Ridge, SlopeBoundedKAF
from kafnets.certify import interval_bounds, lipschitz_bound
from kafnets.certify.training import lipschitz_pairs


@pytest.mark.parametrize("init", [Ridge(F.elu), Normal(3.0)], ids=repr)
@pytest.mark.parametrize("limit", [0.5, 1.0])
def test_the_slope_reaches_its_limit_and_does_not_exceed_it(init, limit):
    torch.manual_seed(0)
    layer = SlopeBoundedKAF(5, limit=limit, init=init).double()
    x = torch.linspace(-9, 9, 20001).double()[:, None].repeat(1, 5).requires_grad_()
    (slope,) = torch.autograd.grad(layer(x).sum(), x)
    reached = slope.abs().amax(0)
    assert ((0.999 * limit < reached) & (reached < 1.001 * limit)).all()
    assert ((reached <= layer.lipschitz()) & (layer.lipschitz() <= 1.01 * limit)).all()


def test_a_kaf_that_is_flat_enough_stays_as_it_is():
    torch.manual_seed(0)
    plain = KAF(3, init=Normal(0.01))
    layer = SlopeBoundedKAF(3)
    layer.load_state_dict(plain.state_dict())
    x = 2 * torch.randn(7, 3)
    assert torch.equal(layer(x), plain(x))


def test_gradients_pass_the_scale():
    torch.manual_seed(0)
    layer = SlopeBoundedKAF(2, num_dict=4, init=Normal(8.0)).double()
    alpha, x = layer.alpha.detach().clone().requires_grad_(), torch.randn(3, 2).double()

    def value(alpha):
        return torch.func.functional_call(layer, {"alpha": alpha}, x)

    assert (layer.coefficients().abs() < 0.9 * layer.alpha.abs()).all()
    assert torch.autograd.gradcheck(value, alpha)


def test_bounds_of_networks_use_the_limit():
    torch.manual_seed(0)
    steep, flat = (
        nn.Sequential(nn.Flatten(), nn.Linear(4, 6), kind(6, init=Ridge(F.elu)), nn.Linear(6, 3))
        for kind in (KAF, SlopeBoundedKAF)
    )
    flat.load_state_dict(steep.state_dict())
    assert float(lipschitz_bound(flat, (1, 2, 2))) < 0.4 * float(lipschitz_bound(steep, (1, 2, 2)))
    assert (lipschitz_pairs(flat, (1, 2, 2)) < 0.4 * lipschitz_pairs(steep, (1, 2, 2)))[0, 1]
    x = torch.rand(20, 1, 2, 2)
    low, high = interval_bounds(flat, x, "8/255")
    z = flat((x + (torch.rand_like(x) * 2 - 1) * 8 / 255).clamp(0, 1))
    assert ((low <= z) & (z <= high)).all()


def test_bad_limits_are_refused():
    with pytest.raises(ValueError, match="limit must be > 0 and finite, got 0; the default is 1"):
        SlopeBoundedKAF(2, limit=0)
