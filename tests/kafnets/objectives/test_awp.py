"""AWP: the moved weights, by hand and against weights moved in place."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kafnets.attacks import PGD
from kafnets.keyed_random import image_keys
from kafnets.objectives import AWP, TRADES, Adversarial, Batch, Clean, Free, GradAlign
from kafnets.parameter_filters import kernels, kernels_and_activations
from kafnets.threat import ThreatModel


def test_value_and_gradient_of_one_weight_by_hand():
    w, x, gamma = 1.5, 0.4, 0.1
    net = nn.Linear(1, 2, bias=False).double()
    net.weight.data = torch.tensor([[w], [0.0]], dtype=torch.float64)
    batch = Batch(
        torch.tensor([[x]]).double(), torch.tensor([0]), image_keys(torch.arange(1), 0), 0.0, ThreatModel(eps=0.1)
    )
    terms = AWP(objective=Clean(), gamma=gamma)(net, batch)
    # the gradient is a multiple of (-1, 1): its direction has entries of 1 / sqrt(2), and |w| is 1.5
    moved = torch.tensor([w, 0.0]) + gamma * 1.5 * torch.tensor([-1.0, 1.0]) / 2**0.5
    p = torch.softmax(moved * x, 0)[0].item()
    assert terms.loss.item() == pytest.approx(-torch.log(torch.tensor(p)).item(), rel=1e-6)
    terms.loss.backward()
    assert net.weight.grad[0].item() == pytest.approx(-(1 - p) * x, rel=1e-6)
    assert net.weight[0].item() == w


@pytest.mark.parametrize("inner", [lambda: Adversarial(attack=PGD(steps=2)), lambda: TRADES(steps=2), GradAlign])
@pytest.mark.parametrize("moved", [kernels, kernels_and_activations])
def test_loss_and_gradients_equal_those_of_weights_moved_in_place(inner, moved, make_net, make_batch):
    batch, net, theirs, inner = make_batch(), make_net("kaf"), make_net("kaf"), inner()
    objective = AWP(objective=inner, gamma=0.1, moved=moved)
    inputs = objective.craft(net, batch)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    terms = objective.loss(net, batch, inputs)
    terms.loss.backward()
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    loss = inner.loss(theirs, batch, inputs).loss
    passes = theirs[1].num_batches_tracked.item()
    chosen = list(moved(theirs))
    assert len(chosen) == (2 if moved is kernels else 3)
    for p, g in zip(chosen, torch.autograd.grad(loss, chosen), strict=True):
        p.data += 0.1 * p.norm() * g / g.norm()
    loss = inner.loss(theirs, batch, inputs).loss
    loss.backward()
    torch.testing.assert_close(terms.loss, loss)
    for a, b in zip(net.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)
    assert net[1].num_batches_tracked == passes, "only the pass at the moved weights updates running statistics"


def test_it_begins_at_its_start(make_net, make_batch):
    batch, objective = make_batch(), AWP(objective=Clean(), start=2.0)
    plain = Clean()(make_net(), batch).loss
    assert torch.equal(objective(make_net(), batch._replace(epoch=1.9)).loss, plain)
    assert objective(make_net(), batch._replace(epoch=2.0)).loss > plain


def test_it_replays_batches_for_its_objective(make_net, make_batch):
    objective, net, batch = AWP(objective=Free(replays=4)), make_net(), make_batch()
    assert objective.replays == 4
    terms = objective(net, batch)
    terms.loss.backward()
    objective.after_backward(batch, terms)
    assert (objective.craft(net, batch) != batch.x).any()


def test_what_cannot_be_moved_is_refused(make_net, make_batch):
    with pytest.raises(ValueError, match=r"gamma must be > 0 and finite, got 0; the authors use 0.01"):
        AWP(objective=Clean(), gamma=0)
    with pytest.raises(ValueError, match="start must be an epoch >= 0, got -1"):
        AWP(objective=Clean(), start=-1)
    nothing = AWP(objective=Clean(), moved=lambda net: [])
    with pytest.raises(ValueError, match="returns no parameter that is trained"):
        nothing(make_net(), make_batch())
    with pytest.raises(ValueError, match="AWP moves the weights of a module, got function"):
        AWP(objective=Clean()).loss(lambda x: F.relu(x), make_batch(), make_batch().x)
