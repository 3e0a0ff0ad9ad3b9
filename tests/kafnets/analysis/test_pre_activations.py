"""What layers receive, on cases computed by hand."""

import pytest
import torch
from torch import nn

from kafnets.activations import KAF, KWTA, ReLU, ResidualKAF, SiLU
from kafnets.analysis.activation_layers import activation_layers
from kafnets.analysis.pre_activations import Distances, layer_inputs


class Twice(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(self.layer(x) - 1)


def inputs_of(layer, x, **others):
    net = nn.Sequential(layer)
    return layer_inputs(net, activation_layers(net), {"clean": x, **others})["0"]


def test_distances_are_those_of_the_definition():
    u, v = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    found = Distances.between(u, v)
    assert torch.allclose(found.l2, torch.tensor([0.0, 5**0.5]))
    assert torch.allclose(found.relative, torch.tensor([0.0, 5**0.5]))
    assert torch.allclose(found.angle, torch.tensor([0.0, 90.0]))
    zero, large = torch.zeros(1, 2), torch.full((1, 2), 1e25)
    found = Distances.between(torch.cat([zero, zero, large]), torch.cat([zero, zero + 1, 2 * large]))
    assert found.relative.tolist() == pytest.approx([0, torch.inf, 1]) and found.l2[2].item() == pytest.approx(
        2**0.5 * 1e25
    )
    assert found.angle.tolist() == pytest.approx([0, 90, 0])
    near = Distances.between(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1e-4]]))
    assert near.angle.item() == pytest.approx(0.0057296, rel=1e-3)  # the arc cosine gives 0 or 0.02 here


def test_densities_count_every_input_of_its_own_channel():
    x = torch.tensor([[0.0, 1.0], [0.0, 3.0], [2.0, 3.0]])
    found = inputs_of(SiLU(2), x)
    middles = (found.edges[1:] + found.edges[:-1]) / 2
    for channel, values in enumerate(([0.0, 0.0, 2.0], [1.0, 3.0, 3.0])):
        counts = found.counts["clean"][channel]
        assert counts.sum() == 3
        where = middles[counts > 0]
        assert torch.allclose(where.float(), torch.tensor(sorted(set(values))), atol=0.01)


@pytest.mark.parametrize("layer", [KAF(2), ResidualKAF(2), KAF(2, groups=1), KAF(2, free=True)])
def test_the_share_outside_the_dictionary(layer):
    x, attacked = torch.tensor([[-4.0, 0.0], [2.0, 3.5]]), torch.tensor([[-4.0, 5.0], [2.0, 3.5]])
    assert inputs_of(layer, x, attacked=attacked).outside == {"clean": 0.5, "attacked": 0.75}


def test_flat_parts_and_dead_channels():
    found = inputs_of(ReLU(3), torch.tensor([[-1.0, 1.0, -1.0], [-2.0, 2.0, 1.0]]))
    assert (found.flat, found.squared_slope) == (pytest.approx(0.5), pytest.approx(0.5))
    assert found.dead == pytest.approx(1 / 3) and found.outside == {}
    kwta = inputs_of(KWTA(4, ratio=0.25), torch.randn(6, 4))
    assert kwta.flat == pytest.approx(0.75) and kwta.squared_slope is None


def test_batches_and_repeated_calls_of_a_layer_change_nothing():
    x = torch.randn(7, 2, 3, 3)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), Twice(SiLU(4)))
    layers = activation_layers(net)
    whole, parts = (
        layer_inputs(net, layers, {"clean": x, "noise": x + 0.1}, batch_size=size)["1.layer"] for size in (7, 2)
    )
    assert torch.equal(whole.counts["clean"], parts.counts["clean"])
    assert torch.allclose(whole.distances["noise"].l2, parts.distances["noise"].l2, rtol=1e-4)
    first = net[0](x)
    inputs = torch.cat([first, nn.functional.silu(first) - 1], 1).flatten(1)
    moved = net[0](x + 0.1)
    others = torch.cat([moved, nn.functional.silu(moved) - 1], 1).flatten(1)
    assert torch.allclose(whole.distances["noise"].l2, (others - inputs).norm(dim=1), rtol=1e-4)


def test_inputs_that_are_not_finite_are_refused_by_name():
    with pytest.raises(ValueError, match="inputs of the activation 0 are not finite"):
        inputs_of(ReLU(1), torch.tensor([[float("nan")]]))
    with pytest.raises(ValueError, match="one shape"):
        inputs_of(ReLU(1), torch.zeros(2, 1), noise=torch.zeros(1, 1))
