"""Free adversarial training: its perturbation step by step, its replays, its checkpoints."""

import pytest
import torch

from kafnets.losses import cross_entropy
from kafnets.objectives import Free
from kafnets.threat import L2, ThreatModel


def step(objective, net, batch):
    net.zero_grad()
    terms = objective(net, batch)
    terms.loss.backward()
    objective.after_backward(batch, terms)
    return terms


def test_four_replays_equal_the_official_loop(make_net, make_batch):
    """``train_free.py`` of Wong et al., with an optimizer step after each replay."""
    eps, nets, batch = 0.1, (make_net(), make_net()), make_batch(threat=ThreatModel(eps=0.1))
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in nets]
    objective, delta = Free(replays=4), torch.zeros_like(batch.x)
    for _ in range(4):
        terms = step(objective, nets[0], batch)
        optimizers[0].step()
        delta.requires_grad_(True)
        optimizers[1].zero_grad()
        loss = cross_entropy(nets[1](batch.x + delta), batch.y).mean()
        loss.backward()
        optimizers[1].step()
        torch.testing.assert_close(terms.loss, loss)
        delta = (delta.detach() + eps * delta.grad.sign()).clamp(-eps, eps).clamp(-batch.x, 1 - batch.x)
    torch.testing.assert_close(objective.craft(nets[0], batch), batch.x + delta, rtol=0, atol=1e-6)


def test_the_perturbation_passes_to_the_next_batch_and_ends_with_the_epoch(make_net, make_batch):
    net, batch, objective = make_net(), make_batch(6), Free()
    step(objective, net, batch)
    kept = objective.craft(net, batch).detach() - batch.x
    assert kept.abs().max() > 0.05
    smaller = objective.craft(net, batch._replace(x=0.3 + 0 * batch.x[:4], y=batch.y[:4], epoch=0.5))
    torch.testing.assert_close(smaller.detach() - 0.3, kept[:4], rtol=0, atol=1e-6)
    assert torch.equal(objective.craft(net, batch._replace(epoch=1.0)), batch.x)


@pytest.mark.parametrize("threat", [ThreatModel(eps=0.1), ThreatModel(L2(), 0.3)], ids=str)
def test_images_stay_in_the_ball(threat, make_net, make_batch):
    net, batch, objective = make_net(), make_batch(threat=threat), Free()
    for _ in range(3):
        inputs = step(objective, net, batch).inputs.detach()
    assert threat.norm.size(inputs - batch.x).max() <= threat.eps
    assert threat.norm.size(inputs - batch.x).min() > 0.5 * threat.eps
    assert inputs.min() >= 0 and inputs.max() <= 1


def test_a_checkpoint_contains_the_perturbation(make_net, make_batch):
    net, batch, objective = make_net(), make_batch(), Free()
    step(objective, net, batch)
    resumed = Free()
    resumed.load_state_dict(objective.state_dict())
    assert torch.equal(resumed.craft(net, batch), objective.craft(net, batch))
    broken = objective.state_dict()
    broken["_extra_state"] = broken["_extra_state"] | {"delta": torch.tensor([float("nan")])}
    with pytest.raises(ValueError, match="not finite numbers"):
        resumed.load_state_dict(broken)


@pytest.mark.parametrize("replays", [0, 1])
def test_too_few_replays_are_refused(replays):
    with pytest.raises(ValueError, match=f"replays must be >= [12], got {replays}"):
        Free(replays=replays)
