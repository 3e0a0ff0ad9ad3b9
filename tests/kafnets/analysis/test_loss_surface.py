"""The loss and its gradient around an image of a network whose loss is known."""

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from kafnets.analysis.gradient_alignment import gradient_alignment
from kafnets.analysis.loss_surface import loss_surface
from kafnets.threat import L2, ThreatModel

X, Y, KEYS = torch.tensor([0.2, 0.6, 0.97, 0.4]).view(1, 1, 2, 2), torch.tensor([0]), torch.tensor([5])


class Sum(nn.Module):
    """Logits ``(sum of the pixels, 0)``: the loss of class 0 is ``softplus(-sum)``."""

    def forward(self, x):
        total = x.flatten(1).sum(1)
        return torch.stack([total, torch.zeros_like(total)], 1)


def test_the_surface_is_that_of_the_formula_within_the_box():
    found = loss_surface(Sum(), X, Y, ThreatModel(eps=0.05), keys=KEYS, reach=2, per_eps=1)
    assert found.steps.tolist() == [-2, -1, 0, 1, 2]
    line = [softplus(-(X - step * 0.05).clamp(0, 1).sum()).item() for step in found.steps.tolist()]
    assert found.loss[0, :, 2].tolist() == pytest.approx(line)  # uphill is down in every pixel
    assert found.bend.item() == pytest.approx(line[3] - 2 * line[2] + line[1], abs=1e-6)


def test_an_l2_step_has_the_length_eps():
    found = loss_surface(Sum(), X, Y, ThreatModel(L2(), eps=0.1), keys=KEYS, reach=1, per_eps=1)
    assert found.loss[0, 2, 1].item() == pytest.approx(softplus(-(X.sum() - 4 * 0.05)).item())


def test_alignment_of_a_linear_loss_is_one_and_of_no_gradient_undefined():
    assert gradient_alignment(Sum(), X, Y, ThreatModel(), keys=KEYS).item() == pytest.approx(1)
    flat = gradient_alignment(lambda x: 0 * Sum()(x), X, Y, ThreatModel(), keys=KEYS)
    assert flat.isnan().all()
