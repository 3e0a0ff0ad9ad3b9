"""Objectives that train on bounds, and on the noise of smoothing."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kafnets.activations import KAF, KWTA, ReLU, Ridge
from kafnets.attacks import PGD
from kafnets.backbones import KafVGG
from kafnets.certify import IntervalBounds, lipschitz_bound
from kafnets.keyed_random import image_keys, normal
from kafnets.objectives import AWP, IBP, Batch, GaussianAugmentation, LipschitzMargin
from kafnets.threat import L2, ThreatModel


def linear():
    """Logits x_1 + 2 x_2 and x_1 - 2 x_2."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    net[1].weight.data.copy_(torch.tensor([[1.0, 2.0], [1.0, -2.0]]))
    return net


def one_image(norm, eps, epoch=5.0):
    x = torch.tensor([[[[0.5, 0.3]]]])
    return Batch(x, torch.tensor([0]), torch.tensor([7]), epoch, ThreatModel(norm, eps))


def test_ibp_by_hand():
    terms = IBP(kappa=0.25, ramp=10)(linear(), one_image(None, 0.1))
    natural = math.log(1 + math.exp(-4 * 0.3))
    bound = math.log(1 + math.exp(-4 * (0.3 - 0.1)))  # x_1 cancels in the difference of logits
    kappa = 1 - 0.75 * 5 / 10
    assert terms.loss.item() == pytest.approx(kappa * natural + (1 - kappa) * bound, rel=1e-5)
    assert terms.log["bound_loss"].item() == pytest.approx(bound, rel=1e-5)
    assert terms.log["certified_accuracy"] == 1


def test_lipschitz_margin_by_hand():
    terms = LipschitzMargin()(linear(), one_image(L2(), 0.2))
    assert terms.loss.item() == pytest.approx(math.log(1 + math.exp(-4 * 0.3 + 0.2 * 4)), rel=1e-3)
    assert terms.log["certified_accuracy"] == 1 and terms.log["lipschitz_bound"].item() == pytest.approx(4, rel=1e-3)


def test_the_noise_is_that_of_the_keys_and_is_not_clipped():
    batch = one_image(None, 0.1)
    inputs = GaussianAugmentation(sigma=2.0).craft(linear(), batch)
    torch.testing.assert_close(inputs, batch.x + 2.0 * normal(batch.keys, (1, 1, 2)))


def network(activation=ReLU):
    torch.manual_seed(0)
    settings = {"width": 4, "hidden": 8, "in_channels": 1, "image_size": 8, "head_norm": True}
    return KafVGG(activation=activation, **settings)


def images(threat, n=16):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(n, 1, 8, 8, generator=generator), torch.arange(n) % 10
    return Batch(x, y, image_keys(torch.arange(n), 0), 1.0, threat)


CASES = {
    "ibp": (IBP(ramp=0), ThreatModel(eps=0.01)),
    "margin": (LipschitzMargin(), ThreatModel(L2(), 0.01)),
    "noise": (GaussianAugmentation(), ThreatModel()),
}


@pytest.mark.parametrize("activation", [ReLU, KAF, partial(KAF, free=True)], ids=["relu", "kaf", "free_kaf"])
@pytest.mark.parametrize("name", CASES)
def test_a_step_reaches_every_parameter(name, activation):
    net, (objective, threat) = network(activation).train(), CASES[name]
    terms = objective(net, images(threat))
    terms.loss.backward()
    for parameter_name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name
    assert net.block1.bn_a.num_batches_tracked == 1
    with torch.no_grad():
        torch.testing.assert_close(terms.logits.shape, torch.Size([16, 10]))


def test_bounds_of_training_are_those_of_certification_in_evaluation_mode():
    net = network(partial(KAF, init=Ridge(F.elu))).eval()
    batch = images(ThreatModel(eps=0.002))
    terms = IBP(kappa=0.0, ramp=0)(net, batch)
    gaps = IntervalBounds(net).margins(batch.x, batch.y, 0.002)
    worst = (-gaps).masked_fill(gaps.isinf(), 0.0)
    expected = F.cross_entropy(worst, batch.y)
    assert terms.loss.item() == pytest.approx(expected.item(), rel=0.02)
    margin = LipschitzMargin()(net, batch._replace(threat=ThreatModel(L2(), 0.002)))
    assert margin.log["lipschitz_bound"].item() == pytest.approx(lipschitz_bound(net).pairs.max().item(), rel=0.3)


@pytest.mark.parametrize(
    ("objective", "net", "threat", "says"),
    [
        (IBP(), network(), ThreatModel(L2(), 0.1), "IBP bounds an Linf ball, got L2 eps 0.1"),
        (LipschitzMargin(), network(), ThreatModel(), "LipschitzMargin bounds an L2 ball, got Linf eps 8/255"),
        (LipschitzMargin(), network(KWTA), ThreatModel(L2(), 0.1), "no slope of KWTA is known"),
        (AWP(objective=IBP()), network(), ThreatModel(), "its weights are replaced while it runs, as AWP does"),
    ],
)
def test_what_cannot_be_bounded_is_refused(objective, net, threat, says):
    with pytest.raises(ValueError, match=says):
        objective(net.train(), images(threat))


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: IBP(kappa=1.5), r"kappa must lie in \[0, 1\], got 1.5; the authors have 0.5"),
        (lambda: IBP(ramp=-1), "ramp, a number of epochs, must be >= 0 and finite, got -1"),
        (lambda: GaussianAugmentation(sigma=0), "sigma must be > 0 and finite, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(build, says):
    with pytest.raises(ValueError, match=says):
        build()


def test_ibp_certifies_what_it_trains():
    """A network of two dense layers learns which half of the image is bright, with a certificate at eps 0.1."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), KAF(8, init=Ridge(F.elu)), nn.Linear(8, 2))
    x = 0.4 * torch.rand(64, 1, 4, 4)
    y = torch.arange(64) % 2
    x[y == 1, :, :2] += 0.5
    x[y == 0, :, 2:] += 0.5
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    threat = ThreatModel(eps=0.1)
    for _ in range(40):
        optimizer.zero_grad()
        IBP(kappa=0.5, ramp=0)(net, Batch(x, y, torch.arange(64), 1.0, threat)).loss.backward()
        optimizer.step()
    certified = IntervalBounds(net).certified(x, y, 0.1)
    assert certified.double().mean() > 0.9
    x_adv = PGD(steps=10).within(threat)(net, x, y)
    assert not (certified & (net(x_adv).argmax(1) != y)).any()
