"""N-FGSM against a case computed by hand and against the official algorithm."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kafnets.keyed_random import image_keys, uniform
from kafnets.objectives import NFGSM, Batch
from kafnets.threat import L2, ThreatModel


def test_value_and_gradient_of_one_pixel_by_hand():
    w, x, eps = 1.5, 0.4, 0.05
    net = nn.Linear(1, 2, bias=False).double()
    net.weight.data = torch.tensor([[w], [0.0]], dtype=torch.float64)
    keys = image_keys(torch.arange(1), 0)
    batch = Batch(torch.tensor([[x]]).double(), torch.tensor([0]), keys, 0.0, ThreatModel(eps=eps))
    terms = NFGSM()(net, batch)
    noise = 2 * eps * (2 * uniform(image_keys(keys, 0), (1,)).item() - 1)
    z = x + noise - eps  # the first logit favours the true class, so the step lowers the pixel
    assert terms.inputs.item() == pytest.approx(z, abs=1e-7)
    p = 1 / (1 + math.exp(-w * z))
    assert terms.loss.item() == pytest.approx(-math.log(p), rel=1e-6)
    terms.loss.backward()
    assert net.weight.grad[0].item() == pytest.approx(-(1 - p) * z, rel=1e-5)


def official(net, x, y, eta, *, eps):
    """The step of ``train.py`` of the authors' repository, with the noise given."""
    eta = torch.clamp(eta, -x, 1 - x).requires_grad_(True)
    grad = torch.autograd.grad(F.cross_entropy(net(x + eta), y), eta)[0]
    delta = torch.clamp(eta + eps * torch.sign(grad), -x, 1 - x).detach()
    return F.cross_entropy(net(x + delta), y), x + delta


def test_loss_and_gradients_equal_the_official_algorithm(make_net, make_batch, assert_official):
    batch = make_batch(8, dtype=torch.float64)
    eta = 0.2 * (2 * uniform(image_keys(batch.keys, 0), batch.x.shape[1:]).double() - 1)
    theirs, ours = make_net().double(), make_net().double()
    expected, x_adv = official(theirs, batch.x, batch.y, eta, eps=0.1)
    assert_official(ours, NFGSM()(ours, batch), theirs, expected, x_adv, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("threat", [ThreatModel(eps=0.1), ThreatModel(L2(), 0.3)], ids=str)
def test_images_leave_the_ball_by_noise_and_step(threat, make_net, make_batch):
    batch = make_batch(threat=threat)
    size = threat.norm.size(NFGSM(noise=3.0).craft(make_net(), batch) - batch.x)
    assert 1.5 * threat.eps < size.max() <= 4 * threat.eps * (1 + 1e-6)
