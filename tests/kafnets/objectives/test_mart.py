"""MART against a case computed by hand and against the official algorithm."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kafnets.keyed_random import image_keys, normal
from kafnets.objectives import MART, Batch
from kafnets.objectives.nearby_start import START
from kafnets.threat import ThreatModel


def test_value_and_gradient_of_one_pixel_by_hand():
    w, x, eps, beta = 1.5, 0.4, 0.1, 5.0
    net = nn.Linear(1, 2, bias=False).double()
    net.weight.data = torch.tensor([[w], [0.0]], dtype=torch.float64)
    batch = Batch(
        torch.tensor([[x]]).double(), torch.tensor([0]), image_keys(torch.arange(1), 0), 0.0, ThreatModel(eps=eps)
    )
    terms = MART(beta=beta)(net, batch)
    z = x - eps
    assert terms.inputs.item() == pytest.approx(z, abs=1e-7)

    def value(w):
        p, q = (1 / (1 + math.exp(-w * t)) for t in (x, z))
        # of two classes the runner-up is the wrong one, so 1 - max_{k != y} p_k is q again
        divergence = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        return -2 * math.log(q) + beta * divergence * (1 - p)

    assert terms.loss.item() == pytest.approx(value(w), rel=1e-6)
    terms.loss.backward()
    slope = (value(w + 1e-6) - value(w - 1e-6)) / 2e-6
    assert net.weight.grad[0].item() == pytest.approx(slope, rel=1e-5)


def official(net, x, y, *, start, eps, beta):
    """``mart_loss`` of the authors' repository, with the start given and without the guards against log 0."""
    net.eval()
    x_adv = x + start
    for _ in range(10):
        x_adv.requires_grad_()
        grad = torch.autograd.grad(F.cross_entropy(net(x_adv), y), [x_adv])[0]
        x_adv = x_adv.detach() + 0.007 * torch.sign(grad.detach())
        x_adv = torch.clamp(torch.min(torch.max(x_adv, x - eps), x + eps), 0.0, 1.0)
    net.train()
    logits, logits_adv = net(x), net(x_adv)
    adv_probs = F.softmax(logits_adv, dim=1)
    tmp1 = torch.argsort(adv_probs, dim=1)[:, -2:]
    new_y = torch.where(tmp1[:, -1] == y, tmp1[:, -2], tmp1[:, -1])
    loss_adv = F.cross_entropy(logits_adv, y) + F.nll_loss(torch.log(1.0 - adv_probs), new_y)
    nat_probs = F.softmax(logits, dim=1)
    true_probs = torch.gather(nat_probs, 1, y.unsqueeze(1)).squeeze()
    kl = nn.KLDivLoss(reduction="none")(torch.log(adv_probs), nat_probs)
    return loss_adv + beta * (1.0 / len(x)) * torch.sum(torch.sum(kl, dim=1) * (1.0 - true_probs)), x_adv


def test_loss_and_gradients_equal_the_official_algorithm(make_net, make_batch, assert_official):
    batch = make_batch(8, threat=ThreatModel(eps=0.031), dtype=torch.float64)
    start = START * normal(image_keys(batch.keys, 0), batch.x.shape[1:]).double()
    theirs, ours = make_net().double(), make_net().double()
    expected, x_adv = official(theirs, batch.x, batch.y, start=start, eps=0.031, beta=5.0)
    assert_official(ours, MART()(ours, batch), theirs, expected, x_adv, rtol=1e-6, atol=1e-10)


def test_certain_predictions_have_finite_gradients(make_batch):
    net = nn.Sequential(nn.Flatten(), nn.Linear(108, 5))
    net[1].weight.data *= 3000
    terms = MART(steps=1)(net, make_batch())
    terms.loss.backward()
    assert torch.isfinite(terms.loss) and torch.isfinite(net[1].weight.grad).all()
