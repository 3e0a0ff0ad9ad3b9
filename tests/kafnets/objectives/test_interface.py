"""Objectives that are not built in fit the interface: one short prototype of each kind.

The interface is designed for these five and the four built-in ones. The tests show that none of them needs a change of
the interface or of the LightningModule. The prototypes are not meant for use.
"""

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer
from torch.func import functional_call

from datamodules import Digits
from kafnets.activations import ReLU
from kafnets.attacks import FGSM, PGD
from kafnets.attacks.preserve_state import preserve_state
from kafnets.backbones import KafVGG
from kafnets.keyed_random import uniform
from kafnets.losses import cross_entropy, kl_divergence
from kafnets.objectives import Adversarial, Clean, Objective, Terms
from kafnets.threat import ThreatModel
from lightning_modules import AdversarialTraining


class WideFGSM(FGSM):
    """N-FGSM's attack: a start twice as large, and no projection to the ball."""

    def start(self, x, keys):
        return (x + 2 * self.eps * (2 * uniform(keys, x.shape[1:]) - 1)).clamp(0, 1)

    def projection(self, x):
        return lambda x_adv: x_adv.clamp(0, 1)


def smoothed(logits, y):
    """Label smoothing is a loss."""
    return F.cross_entropy(logits, y, reduction="none", label_smoothing=0.1)


class Free(Objective):
    """Every batch is replayed; one backward pass gives the gradients of weights and images."""

    replays = 4

    def __init__(self):
        super().__init__()
        self.delta = None

    def craft(self, net, batch):
        if self.delta is None or self.delta.shape != batch.x.shape:
            self.delta = torch.zeros_like(batch.x)
        return (batch.x + self.delta).clamp(0, 1).requires_grad_(True)

    def loss(self, net, batch, inputs):
        logits = net(inputs)
        return Terms(cross_entropy(logits, batch.y).mean(), logits, inputs, {})

    def after_backward(self, batch, terms):
        eps = batch.threat.eps
        self.delta = (self.delta + eps * terms.inputs.grad.sign()).clamp(-eps, eps)


class MART(Adversarial):
    """Two forward passes; a loss of both."""

    def __init__(self):
        super().__init__(attack=PGD(steps=2))

    def loss(self, net, batch, inputs):
        clean, logits = net(batch.x), net(inputs)
        p = logits.softmax(1)
        others = p.scatter(1, batch.y[:, None], 0).amax(1)
        boosted = cross_entropy(logits, batch.y) - torch.log1p(-others.clamp_max(1 - 1e-6))
        missing = 1 - clean.softmax(1).gather(1, batch.y[:, None]).squeeze(1)
        return Terms((boosted + 5 * kl_divergence(logits, clean) * missing).mean(), logits, inputs, {})


class AWP(Objective):
    """Any objective, with its loss taken at weights that are shifted to increase it."""

    def __init__(self, objective, gamma=0.01):
        super().__init__()
        self.objective, self.gamma = objective, gamma

    def craft(self, net, batch):
        return self.objective.craft(net, batch)

    def loss(self, net, batch, inputs):
        moved = {name: p for name, p in net.named_parameters() if p.dim() > 1}
        with preserve_state(net, eval_mode=False):
            uphill = torch.autograd.grad(self.objective.loss(net, batch, inputs).loss, moved.values())
        for (name, p), g in zip(list(moved.items()), uphill, strict=True):
            moved[name] = p + self.gamma * p.detach().norm() * g / g.norm().clamp_min(1e-12)
        return self.objective.loss(lambda x: functional_call(net, moved, (x,)), batch, inputs)


KINDS = {
    "n_fgsm": lambda: Adversarial(attack=WideFGSM(alpha=1.0)),
    "free": Free,
    "mart": MART,
    "label_smoothing": lambda: Adversarial(loss=smoothed),
    "clean_label_smoothing": lambda: Clean(loss=smoothed),
    "awp": lambda: AWP(Adversarial(attack=PGD(steps=2))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_prototype_trains_in_the_unchanged_module(kind, tmp_path):
    torch.manual_seed(0)
    net = KafVGG(activation=ReLU, width=4, hidden=8, image_size=8, in_channels=1)
    module = AdversarialTraining(
        net=net,
        objective=KINDS[kind](),
        threat=ThreatModel(eps=0.05),
        optimizer=lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9),
        val_images=10,
        val_attack=PGD(steps=1),
    )
    trainer = Trainer(
        max_epochs=3, limit_train_batches=10, limit_val_batches=1, accelerator="cpu", use_distributed_sampler=False,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    losses = []
    module.on_train_epoch_end = lambda: losses.append(trainer.callback_metrics["train/loss"].item())
    trainer.fit(module, Digits(batch_size=64))
    assert losses[-1] < losses[0]


def test_a_wide_start_leaves_the_ball(make_net, make_batch):
    batch = make_batch(threat=ThreatModel(eps=0.1))
    inputs = KINDS["n_fgsm"]().craft(make_net(), batch)
    size = (inputs - batch.x).abs().amax((1, 2, 3))
    assert size.max() > 0.15 and size.max() <= 0.3
    assert inputs.min() >= 0 and inputs.max() <= 1


def test_free_uses_the_gradient_of_the_training_step(make_net, make_batch):
    net, batch, objective = make_net(), make_batch(), Free()
    first = objective(net, batch)
    first.loss.backward()
    objective.after_backward(batch, first)
    grad = torch.autograd.grad(cross_entropy(make_net()(x := batch.x.clone().requires_grad_()), batch.y).sum(), x)[0]
    assert torch.equal(objective.craft(net, batch), (batch.x + 0.1 * grad.sign()).clamp(0, 1))


def test_shifted_weights_have_the_gradient_of_weights_moved_in_place(make_net, make_batch):
    batch = make_batch()
    net, moved = make_net("kaf"), make_net("kaf")
    objective = AWP(Adversarial(attack=PGD(steps=2)), gamma=0.1)
    inputs = objective.craft(net, batch)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    shifted = objective.loss(net, batch, inputs)
    shifted.loss.backward()
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    loss = Adversarial().loss(moved, batch, inputs).loss
    chosen = [p for p in moved.parameters() if p.dim() > 1]
    for p, g in zip(chosen, torch.autograd.grad(loss, chosen), strict=True):
        p.data += 0.1 * p.norm() * g / g.norm()
    loss = Adversarial().loss(moved, batch, inputs).loss
    loss.backward()
    torch.testing.assert_close(shifted.loss, loss)
    for a, b in zip(net.parameters(), moved.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    assert net[1].num_batches_tracked == 1
