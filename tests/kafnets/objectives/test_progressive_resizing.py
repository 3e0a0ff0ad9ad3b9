"""Progressive resizing: small images first, then the objective itself."""

import pytest
import torch
from torch import nn

from kafnets.objectives import NFGSM, Clean, Free, ProgressiveResizing


def any_size():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


def test_images_are_resized_until_their_epoch(make_batch):
    batch = make_batch()
    objective = ProgressiveResizing(objective=Clean(), sizes={0: 3, 2: 6})
    small = objective(any_size(), batch._replace(epoch=1.9)).inputs
    # each of 3 x 3 pixels is a weighted mean of its 2 x 2 and their neighbours: weights 1, 3, 3, 1 in the interior
    weights = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    middle = torch.einsum("nchw,h,w->nc", batch.x[:, :, 1:5, 1:5], weights, weights)
    assert small.shape == (6, 3, 3, 3)
    torch.testing.assert_close(small[:, :, 1, 1], middle)


def test_at_full_size_it_is_the_objective_itself(make_batch):
    batch = make_batch()._replace(epoch=2.0)
    whole = ProgressiveResizing(objective=NFGSM(), sizes={0: 3, 2: 6})(any_size(), batch)
    plain = NFGSM()(any_size(), batch)
    assert torch.equal(whole.inputs, plain.inputs)
    assert torch.equal(whole.loss, plain.loss)


def test_the_perturbation_of_free_starts_anew_at_each_size(make_batch):
    objective, net = ProgressiveResizing(objective=Free(replays=2), sizes={0: 3, 1: 6}), any_size()
    assert (objective.replays, objective.single_step) == (2, False)
    for epoch, size in ((0.0, 3), (0.5, 3), (1.0, 6)):
        batch = make_batch()._replace(epoch=epoch)
        terms = objective(net, batch)
        terms.loss.backward()
        objective.after_backward(batch, terms)
        assert terms.inputs.shape[-1] == size
    again = objective(net, batch)
    assert 0 < batch.threat.norm.size(again.inputs - batch.x).min() <= batch.threat.eps * (1 + 1e-6)


@pytest.mark.parametrize("sizes", [{}, {1: 24}, {0: 24, 6: 32, 3: 28}, {0: 0}])
def test_sizes_that_make_no_plan(sizes):
    with pytest.raises(ValueError, match="sizes"):
        ProgressiveResizing(objective=Clean(), sizes=sizes)
