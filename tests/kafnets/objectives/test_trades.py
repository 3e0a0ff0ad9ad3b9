"""TRADES against a case computed by hand and against the official algorithm."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kafnets.keyed_random import image_keys, normal
from kafnets.losses import kl_divergence
from kafnets.objectives import TRADES, Batch
from kafnets.objectives.nearby_start import START, STEP
from kafnets.threat import ThreatModel


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def test_value_and_gradient_of_one_pixel_by_hand():
    w, x, eps, beta = 1.5, 0.4, 0.1, 6.0
    net = nn.Linear(1, 2, bias=False).double()
    net.weight.data = torch.tensor([[w], [0.0]], dtype=torch.float64)
    keys = image_keys(torch.arange(1), 0)
    batch = Batch(torch.tensor([[x]]).double(), torch.tensor([0]), keys, 0.0, ThreatModel(eps=eps))
    terms = TRADES(beta=beta)(net, batch)
    # the divergence grows with the distance, so the attack ends at the boundary on the side of its start
    z = x + math.copysign(eps, normal(image_keys(keys, 0), (1,)).item())
    assert terms.inputs.item() == pytest.approx(z, abs=1e-7)
    p, q = sigmoid(w * x), sigmoid(w * z)
    natural = -math.log(p)
    divergence = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert terms.loss.item() == pytest.approx(natural + beta * divergence, rel=1e-6)
    assert terms.log["natural_loss"].item() == pytest.approx(natural)
    assert terms.log["kl_divergence"].item() == pytest.approx(divergence, rel=1e-5)
    # the first logit is w x, the second 0: d/dw of -log p, and of p w (x - z) - log(1 + e^(wx)) + log(1 + e^(wz))
    by_hand = -(1 - p) * x + beta * (p * (1 - p) * x * w * (x - z) + p * (x - z) - p * x + q * z)
    terms.loss.backward()
    assert net.weight.grad[0].item() == pytest.approx(by_hand, rel=1e-5)


def official(net, x, y, *, start, step_size, eps, steps, beta):
    """``trades_loss`` of the authors' repository for Linf, with the noise of the start given."""
    kl = nn.KLDivLoss(reduction="sum")
    net.eval()
    x_adv = x.detach() + start
    for _ in range(steps):
        x_adv.requires_grad_()
        with torch.enable_grad():
            loss = kl(F.log_softmax(net(x_adv), dim=1), F.softmax(net(x), dim=1))
        grad = torch.autograd.grad(loss, [x_adv])[0]
        x_adv = x_adv.detach() + step_size * torch.sign(grad.detach())
        x_adv = torch.min(torch.max(x_adv, x - eps), x + eps)
        x_adv = torch.clamp(x_adv, 0.0, 1.0)
    net.train()
    logits = net(x)
    natural = F.cross_entropy(logits, y)
    robust = (1.0 / len(x)) * kl(F.log_softmax(net(x_adv), dim=1), F.softmax(net(x), dim=1))
    return natural + beta * robust, x_adv


def test_loss_and_gradients_equal_the_official_algorithm(make_net, make_batch, assert_official):
    batch = make_batch(8, threat=ThreatModel(eps=0.031), dtype=torch.float64)
    start = START * normal(image_keys(batch.keys, 0), batch.x.shape[1:]).double()
    theirs, ours = make_net().double(), make_net().double()
    expected, x_adv = official(theirs, batch.x, batch.y, start=start, step_size=0.007, eps=0.031, steps=10, beta=6.0)
    terms = TRADES()(ours, batch)
    assert_official(ours, terms, theirs, expected, x_adv, rtol=1e-6, atol=1e-10)


def test_the_step_size_is_proportional_to_eps():
    for eps in (0.031, 8 / 255, 0.5):
        attack = TRADES().attack.within(ThreatModel(eps=eps))
        assert attack.step_size == pytest.approx(STEP * eps)
    assert TRADES(step_size=0.01).attack.within(ThreatModel(eps=0.5)).step_size == 0.01
    assert pytest.approx(0.007) == STEP * 0.031


def test_the_divergence_is_finite_at_probabilities_of_zero():
    logits = torch.tensor([[0.0, 300.0], [300.0, 0.0]], requires_grad=True)
    reference = torch.tensor([[300.0, 0.0], [300.0, 0.0]], requires_grad=True)
    value = kl_divergence(logits, reference)
    torch.testing.assert_close(value, torch.tensor([300.0, 0.0]))
    for grad in torch.autograd.grad(value.sum(), (logits, reference)):
        assert torch.isfinite(grad).all()


def test_the_divergence_equals_pytorch_s():
    logits, reference = torch.randn(2, 20, 7, dtype=torch.float64)
    expected = F.kl_div(logits.log_softmax(1), reference.softmax(1), reduction="none").sum(1)
    torch.testing.assert_close(kl_divergence(logits, reference), expected)
    assert kl_divergence(logits.half(), reference.half()).dtype == torch.float32
    assert torch.autograd.gradcheck(kl_divergence, (logits.requires_grad_(), reference.requires_grad_()))
