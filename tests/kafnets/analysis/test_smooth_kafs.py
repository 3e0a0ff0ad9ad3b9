"""KAFs smoothed in closed form, and attacks on flat tails with them."""

import pytest
import torch
from torch import nn

from kafnets.activations import KAF, Matern32, Ridge
from kafnets.analysis.smooth_kafs import SmoothTails, smoothed
from kafnets.attacks import PGD
from kafnets.attacks.bpda import BPDA
from kafnets.logits import is_correct


@pytest.mark.parametrize("settings", [{}, {"free": True}, {"groups": 1}], ids=str)
@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_the_mean_under_noise(settings, spread):
    torch.manual_seed(0)
    layer = KAF(3, **settings).double()
    if layer.free:
        layer.bandwidth.data *= torch.tensor([0.5, 1.0, 3.0])
    x = torch.linspace(-6, 6, 7, dtype=torch.float64)[:, None].expand(-1, 3)
    noise = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    values = layer((x[None] + spread * noise[:, None, None]).flatten(0, 1)).reshape(4001, 7, 3)
    density = torch.softmax(-(noise**2) / 2, 0)
    expected = (density[:, None, None] * values).sum(0)
    torch.testing.assert_close(smoothed(layer, spread)(x), expected.detach(), rtol=1e-5, atol=1e-7)


def test_the_layer_is_unchanged():
    layer = KAF(2)
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    twin = smoothed(layer, 1.0)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())
    assert layer.alpha.requires_grad
    assert not any(p.requires_grad for p in twin.parameters())
    x = torch.randn(9, 2)
    torch.testing.assert_close(smoothed(layer, 0.0)(x), layer(x).detach())


def flat_tail_net():
    """All images lie on the flat tail of a KAF; on its hill, within reach of the attack, the class is different."""
    net = nn.Sequential(nn.Linear(4, 1), KAF(1, init=Ridge(lambda x: torch.exp(-(x**2)))), nn.Linear(1, 2)).eval()
    with torch.no_grad():
        net[0].weight.fill_(40.0)
        net[0].bias.fill_(-68.0)
        net[2].weight.copy_(torch.tensor([[-2.0], [2.0]]))
        net[2].bias.copy_(torch.tensor([1.0, 0.0]))
    return net


def test_flat_tails_do_not_hide_errors():
    net, x, y = flat_tail_net(), torch.full((5, 4), 0.5) + 0.01 * torch.rand(5, 4), torch.zeros(5, dtype=torch.long)
    pgd = PGD(eps=0.2, step_size=0.02, steps=40, random_start=False)
    assert not pgd.estimate(net, pgd.loss, x, (y,)).grad.any()
    assert is_correct(net(pgd(net, x, y)), y).all()
    attack = BPDA(attack=pgd, substitutes=SmoothTails(spread=3.0))
    assert not is_correct(net(attack(net, x, y)), y).any()


def test_which_modules_are_replaced():
    net = nn.Sequential(KAF(2), nn.ReLU(), KAF(2, kernel=Matern32()), nn.Sequential(KAF(2, free=True)))
    found = SmoothTails()(net)
    assert list(found) == [net[0], net[3][0]]


@pytest.mark.parametrize("settings", [{}, {"free": True}, {"free": True, "groups": 2}], ids=str)
@pytest.mark.parametrize("shape", [(50, 4), (10, 4, 2, 3)])
def test_exact_slopes_within_the_dictionary_and_smoothed_ones_beyond(settings, shape):
    torch.manual_seed(0)
    net = nn.Sequential(KAF(4, **settings)).double()
    x = (4 * torch.randn(shape, dtype=torch.float64)).requires_grad_(True)
    replacement = SmoothTails(spread=2.0)(net)[net[0]]
    found, exact, smooth = (
        torch.autograd.grad(f(x).sum(), x)[0] for f in (replacement, net[0], smoothed(net[0], spread=2.0))
    )
    inside = x.abs() <= 3
    torch.testing.assert_close(found, torch.where(inside, exact, smooth))
    far = x.abs() > 6
    assert exact[far].abs().max() < 1e-6
    assert found[far].abs().median() > 1e-5


def test_other_kernels_and_bad_spreads_are_refused():
    with pytest.raises(TypeError, match=r"only KAFs with Gaussian kernels are smoothed in closed form, got Matern32"):
        smoothed(KAF(2, kernel=Matern32()), 1.0)
    for spread in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"spread must be >= 0 and finite, got .*; the default is 1"):
            smoothed(KAF(2), spread)
