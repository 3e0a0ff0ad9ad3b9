"""GradAlign against a case computed by hand and against the official algorithm."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kafnets.keyed_random import image_keys
from kafnets.objectives import Batch, GradAlign
from kafnets.threat import L2, ThreatModel


class Bent(nn.Module):
    """The first logit is ``a x_1 + b x_2^2 / 2``, the second 0: a gradient that turns with the second pixel."""

    def __init__(self, a=0.8, b=1.3):
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (a, b))

    def forward(self, x):
        first = self.a * x[:, 0] + self.b * x[:, 1] ** 2 / 2
        return torch.stack([first, torch.zeros_like(first)], 1)


def test_value_and_gradient_of_two_pixels_by_hand():
    eps, weight, keys = 0.2, 0.7, image_keys(torch.arange(1), 0)
    x = torch.tensor([[0.5, 0.4]], dtype=torch.float64)
    net, threat = Bent(), ThreatModel(eps=eps)
    batch = Batch(x, torch.tensor([0]), keys, 0.0, threat)
    terms = GradAlign(weight=weight)(net, batch)
    # a larger first logit favours the true class, so the attack lowers both pixels by eps
    torch.testing.assert_close(terms.inputs, x - eps, rtol=0, atol=1e-7)
    a, b = 0.8, 1.3
    s = a * 0.3 + b * 0.2**2 / 2
    loss = math.log1p(math.exp(-s))
    near = threat.norm.random_start(x, eps, image_keys(keys, 1))[0, 1].item()
    # gradients are negative multiples of (a, b x_2)
    u, v = (a, b * 0.4), (a, b * near)
    lengths = math.hypot(*u), math.hypot(*v)
    cosine = (u[0] * v[0] + u[1] * v[1]) / (lengths[0] * lengths[1])
    assert cosine < 0.9999, "the gradients must differ for this test"
    assert terms.loss.item() == pytest.approx(loss + weight * (1 - cosine), rel=1e-6)
    assert terms.log["gradient_alignment"].item() == pytest.approx(cosine, rel=1e-6)
    terms.loss.backward()
    # u is a constant: d cos / dv = u / (|u| |v|) - cos v / |v|^2
    slope = [u[i] / (lengths[0] * lengths[1]) - cosine * v[i] / lengths[1] ** 2 for i in range(2)]
    fall = -1 / (1 + math.exp(s))  # derivative of the loss in the first logit
    assert net.a.grad.item() == pytest.approx(fall * 0.3 - weight * slope[0], rel=1e-5)
    assert net.b.grad.item() == pytest.approx(fall * 0.2**2 / 2 - weight * slope[1] * near, rel=1e-5)


def test_a_linear_network_is_aligned_already(make_batch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(108, 2))
    batch = make_batch()
    batch = batch._replace(y=batch.y % 2)
    terms = GradAlign(weight=100.0)(net, batch)
    assert terms.log["gradient_alignment"].item() == pytest.approx(1, abs=1e-5)
    assert terms.loss.item() == pytest.approx(F.cross_entropy(terms.logits, batch.y).item(), abs=1e-3)


def official(net, x, y, near, *, eps, weight):
    """The step of ``train.py`` of the authors' repository, with the random point given."""
    delta = torch.zeros_like(x, requires_grad=True)
    grad = torch.autograd.grad(F.cross_entropy(net(x + delta), y), delta)[0].detach()
    x_adv = torch.clamp(x + eps * grad.sign(), 0, 1)
    point = near.clone().requires_grad_(True)
    grad2 = torch.autograd.grad(F.cross_entropy(net(point), y), point, create_graph=True)[0]
    nonzero = (grad.square().sum([1, 2, 3]) ** 0.5 != 0) * (grad2.square().sum([1, 2, 3]) ** 0.5 != 0)
    grad1, grad2 = grad[nonzero], grad2[nonzero]
    unit1, unit2 = (g / g.square().sum([1, 2, 3]).sqrt()[:, None, None, None] for g in (grad1, grad2))
    cosine = (unit1 * unit2).sum((1, 2, 3))
    return F.cross_entropy(net(x_adv), y) + weight * (1.0 - cosine.mean()), x_adv


@pytest.mark.parametrize("activation", ["kaf", "free_kaf", "multi_kaf"])
def test_loss_and_gradients_equal_the_official_algorithm(activation, make_net, make_batch, assert_official):
    batch = make_batch(8, dtype=torch.float64)
    theirs, ours = make_net(activation).double(), make_net(activation).double()
    near = batch.threat.norm.random_start(batch.x, batch.threat.eps, image_keys(batch.keys, 1))
    expected, x_adv = official(theirs, batch.x, batch.y, near, eps=batch.threat.eps, weight=0.2)
    terms = GradAlign()(ours, batch)
    assert_official(ours, terms, theirs, expected, x_adv, rtol=1e-4, atol=1e-8)


def test_an_image_without_a_gradient_does_not_count(make_batch):
    class Flat(nn.Module):
        """Constant for the first image, linear in the pixels of the others."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(108, 5, generator=torch.Generator().manual_seed(0)))

        def forward(self, x):
            alive = torch.ones(len(x), 1)
            alive[0] = 0
            return alive * (x.flatten(1) @ self.weight)

    net = Flat()
    terms = GradAlign()(net, make_batch())
    assert 0 < terms.log["gradient_alignment"].item() <= 1
    terms.loss.backward()
    assert torch.isfinite(net.weight.grad).all()


def test_tiny_gradients_have_a_direction(make_batch):
    net = nn.Sequential(nn.Flatten(), nn.Linear(108, 5))
    batch = make_batch()
    reference = GradAlign()(net, batch).log["gradient_alignment"]

    def scaled(logits, y):
        return 1e-30 * F.cross_entropy(logits, y, reduction="none")

    terms = GradAlign()(net, batch._replace(loss=scaled))
    assert terms.log["gradient_alignment"].item() == pytest.approx(reference.item(), abs=1e-4)


def test_l2_steps_along_the_gradient(make_net, make_batch):
    batch = make_batch(threat=ThreatModel(L2(), 0.4))
    inputs = GradAlign().craft(make_net(), batch)
    assert (inputs - batch.x).flatten(1).norm(dim=1).max() <= 0.4


def test_a_compiled_network_is_refused(make_net, make_batch):
    net = make_net()
    net.compile(backend="eager")
    with pytest.raises(ValueError, match="GradAlign differentiates a gradient, which a compiled network can't"):
        GradAlign()(net, make_batch())
    with pytest.raises(ValueError, match="train without compiling it"):
        GradAlign()(torch.compile(make_net(), backend="eager"), make_batch())
