"""Diagnostics of networks for which they are known."""

import pytest
import torch
from torch import nn

from kafnets.analysis.gradient_diagnostics import (
    answers,
    gradients,
    half_precision,
    in_training_mode,
    loss_along,
    watched,
)
from kafnets.attacks import L2, PGD, Linf

WEIGHT = torch.tensor([[1.0, -1.0, 0.0], [0.5, 2.0, -1.0], [0.0, 0.3, 0.2], [-1.0, 0.1, 0.7]])


def linear(x):
    return x.flatten(1) @ WEIGHT


@pytest.fixture
def batch():
    x = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    return x, linear(x).argmax(1)


@pytest.mark.parametrize("norm", [Linf(), L2()])
def test_the_gradient_of_a_linear_network_predicts_a_step(batch, norm):
    found = gradients(linear, *batch, PGD(eps=0.02, norm=norm))
    torch.testing.assert_close(found["gain"], torch.ones(5), rtol=1e-3, atol=0)
    assert not found["zero_gradient"].any() and not found["nonfinite_gradient"].any()


def test_the_gradients_of_staircases_and_sawtooths_do_not(batch):
    x, y = batch
    stairs = gradients(lambda x: linear((x * 4).round() / 4 + 0 * x), x, y, PGD(eps=0.02))
    assert stairs["zero_gradient"].all() and stairs["gain"].isnan().all()
    sawtooth = gradients(lambda x: linear(x - (x / 0.002).round() * 0.002), x, y, PGD(eps=0.08))
    assert (sawtooth["gain"] < 0.5).all() and not sawtooth["zero_gradient"].any()


def test_gradients_that_are_not_finite_are_found(batch):
    x, y = batch
    cusp = lambda x: (x - x.detach()).abs().sqrt().sum((1, 2, 3))[:, None]  # noqa: E731
    found = gradients(lambda x: linear(x) + cusp(x) * WEIGHT[0], x, y, PGD())
    assert found["nonfinite_gradient"].all() and not found["zero_gradient"].any()


def test_the_loss_of_a_linear_network_rises_up_to_the_boundary_of_the_ball(batch):
    x, y = batch
    losses = loss_along(linear, x, y, PGD(eps=0.02), steps=6)
    assert losses.shape == (7, 5)
    torch.testing.assert_close(losses[0], nn.functional.cross_entropy(linear(x), y, reduction="none"))
    assert (losses.diff(dim=0)[:4] > 0).all()
    torch.testing.assert_close(losses[4:], losses[4:5].expand(3, 5))


def test_outputs_of_a_well_behaved_network(batch):
    found = answers(linear, batch[0])
    assert found["repeatable"].all() and found["batch_independent"].all() and not found["probabilities"].any()


def test_outputs_that_depend_on_the_batch(batch):
    found = answers(lambda x: linear(x - x.mean(0)), batch[0])
    assert found["repeatable"].all() and not found["batch_independent"].any()


def test_only_softmax_outputs_are_probabilities(batch):
    found = answers(lambda x: linear(x).softmax(1), batch[0])
    assert found["probabilities"].all()
    assert not answers(lambda x: linear(x).log_softmax(1), batch[0])["probabilities"].any()
    assert not answers(lambda x: linear(x).sigmoid(), batch[0])["probabilities"].any()


def test_half_precision_inside_an_operation_is_found(batch):
    assert half_precision(linear, *batch) == set()
    assert any("float16" in name for name in half_precision(lambda x: linear(x.half().float()), *batch))
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).bfloat16()
    found = half_precision(lambda x: module(x.bfloat16()).float(), *batch)
    assert any("bfloat16" in name for name in found)


def test_modules_in_training_mode_are_named():
    net = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.Dropout())).eval()
    assert in_training_mode(net) == set() == in_training_mode(linear)
    net[1][0].train()
    assert in_training_mode(net) == {"1.0"}


def test_every_kind_of_change_is_found():
    net = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))
    changes = {
        "0.running_mean": lambda: net[0].running_mean.add_(1),
        "1.weight": lambda: net[1].weight.data.mul_(2),
        "gradient of 1.bias": lambda: setattr(net[1].bias, "grad", torch.ones(1)),
        "requires_grad of 1.bias": lambda: net[1].bias.requires_grad_(False),
        "mode of 0": lambda: net[0].eval(),
    }
    for name, change in changes.items():
        changed: set[str] = set()
        with watched(net, changed):
            change()
        assert changed == {name}
    changed = set()
    with watched(net, changed):
        net.eval()(torch.rand(3, 1))
        net[1].train()
        net[1].eval()
    assert changed == {"mode of the network", "mode of 1"}


def test_diagnostics_leave_the_network_unchanged(batch):
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 3), nn.Dropout()).train()
    changed: set[str] = set()
    with torch.inference_mode(), watched(net, changed):
        gradients(net, *batch, PGD())
        loss_along(net, *batch, PGD(), steps=2)
        half_precision(net, *batch)
    assert changed == set()
