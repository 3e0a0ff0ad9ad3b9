"""ELLE against a case computed by hand, the official penalty, and the weights of its adaptive form."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kafnets.keyed_random import image_keys, uniform
from kafnets.objectives import AWP, ELLE, NFGSM, Batch, Free
from kafnets.threat import ThreatModel


def points(batch):
    """The points of the penalty and the share between them."""
    ball, keys = batch.threat, batch.keys
    first, second = (ball.norm.random_start(batch.x, ball.eps, image_keys(keys, salt)) for salt in (1, 2))
    return first, second, uniform(image_keys(keys, 3), ()).to(batch.x.dtype)


def test_value_and_gradient_of_one_pixel_by_hand():
    w, x, eps, weight = 6.0, 0.4, 0.3, 500.0
    net = nn.Linear(1, 2, bias=False).double()
    net.weight.data = torch.tensor([[w], [0.0]], dtype=torch.float64)
    batch = Batch(
        torch.tensor([[x]]).double(), torch.tensor([0]), image_keys(torch.arange(1), 5), 0.0, ThreatModel(eps=eps)
    )
    terms = ELLE(weight=weight, adaptive=False)(net, batch)
    assert terms.inputs.item() == pytest.approx(x - eps, abs=1e-7)  # the first logit favours the true class
    a, b, share = (value.item() for value in points(batch))

    def value(w):
        at_a, at_b, at_c, at_x = (math.log1p(math.exp(-w * z)) for z in (a, b, a + share * (b - a), x - eps))
        return at_x + weight * (at_c - (1 - share) * at_a - share * at_b) ** 2

    assert value(w) - math.log1p(math.exp(-w * (x - eps))) > 1e-3, "the penalty must count in this test"
    assert terms.loss.item() == pytest.approx(value(w), rel=1e-6)
    terms.loss.backward()
    assert net.weight.grad[0].item() == pytest.approx((value(w + 1e-6) - value(w - 1e-6)) / 2e-6, rel=1e-5)


def official(net, x, y, first, second, share, *, eps, weight):
    """The step of ``core/utils/train.py`` of the authors' repository, with the random points given."""
    x_adv = x.clone().requires_grad_(True)
    grad = torch.autograd.grad(F.cross_entropy(net(x_adv), y), x_adv)[0]
    x_adv = torch.clamp(x + eps * grad.sign(), 0, 1)
    loss = F.cross_entropy(net(x_adv), y)
    x_ab = torch.cat((first, second))
    alpha = share[:, None, None, None]
    x_c = (1 - alpha) * x_ab[: len(x)] + alpha * x_ab[len(x) :]
    losses = F.cross_entropy(net(torch.cat((x_ab, x_c))), y.repeat([3]), reduction="none")
    bs, alpha = len(x), alpha.squeeze()
    line = (1 - alpha) * losses[:bs] + alpha * losses[bs : 2 * bs]
    return loss + weight * nn.MSELoss()(losses[2 * bs :], line), x_adv


def test_loss_and_gradients_equal_the_official_algorithm(make_net, make_batch, assert_official):
    batch = make_batch(8, dtype=torch.float64)
    theirs, ours = make_net("kaf").double(), make_net("kaf").double()
    expected, x_adv = official(theirs, batch.x, batch.y, *points(batch), eps=0.1, weight=1000.0)
    assert_official(
        ours, ELLE(weight=1000.0, adaptive=False)(ours, batch), theirs, expected, x_adv, rtol=1e-5, atol=1e-8
    )


def test_the_adaptive_weight_is_that_of_the_official_algorithm(make_net, make_batch):
    objective, batch = ELLE(weight=4000.0), make_batch()
    draw = np.random.default_rng(0)
    errors, weight, weights = [], 0.0, []
    for error in draw.normal(1.0, 0.1, 60):
        # the official code decides with the errors of all earlier steps
        rises = len(errors) > 2 and error > np.mean(errors) + 2 * np.std(errors)
        weight = 4000.0 if rises else 0.99 * weight
        weights.append(weight)
        errors.append(error)
        terms = objective(make_net(), batch)
        assert terms.log["linearity_weight"].item() == pytest.approx(weights[-2] if weights[1:] else 0, rel=1e-5)
        objective.after_backward(batch, terms._replace(log={"linearity_error": torch.tensor(error).float()}))
    assert 0 < weights.count(4000.0) < 10 and weights[0] == 0


def test_its_state_is_saved(make_net, make_batch):
    objective, batch, resumed = ELLE(), make_batch(), ELLE()
    for error in (1.0, 1.1, 0.9, 2.0):
        terms = objective(make_net(), batch)
        objective.after_backward(batch, terms._replace(log={"linearity_error": torch.tensor(error)}))
    resumed.load_state_dict(objective.state_dict())
    assert resumed.share == 1 and resumed.steps == 4
    assert torch.equal(resumed(make_net(), batch).loss, objective(make_net(), batch).loss)


def test_a_linear_loss_costs_nothing_with_dropout_too(make_net, make_batch):
    net = nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(108, 5))
    terms = ELLE(adaptive=False)(net, make_batch()._replace(loss=lambda logits, y: logits[:, 0]))
    assert terms.log["linearity_error"].item() == pytest.approx(0, abs=1e-10)
    assert net[0].training


def test_autocast_does_not_round_the_penalty(make_net, make_batch):
    exact = ELLE()(make_net("kaf"), make_batch())
    with torch.autocast("cpu", torch.bfloat16):
        terms = ELLE()(make_net("kaf"), make_batch())
    assert terms.logits.dtype == torch.bfloat16
    assert torch.equal(terms.log["linearity_error"], exact.log["linearity_error"])


@pytest.mark.parametrize("inner", [NFGSM, lambda: AWP(objective=NFGSM()), lambda: Free(replays=2)])
def test_it_adds_the_penalty_to_another_objective(inner, make_net, make_batch):
    batch, objective = make_batch(), ELLE(objective=inner(), adaptive=False, weight=10.0)
    plain, terms = inner()(make_net(), batch), objective(make_net(), batch)
    assert torch.equal(terms.inputs, plain.inputs)
    assert terms.loss.item() == pytest.approx((plain.loss + 10 * terms.log["linearity_error"]).item(), rel=1e-6)
    assert (objective.replays, objective.single_step) == (inner().replays, inner().single_step)
    terms.loss.backward()
    objective.after_backward(batch, terms)


def test_a_weight_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"weight must be > 0 and finite, got 0; the authors use 4000 if it is adap"):
        ELLE(weight=0)
