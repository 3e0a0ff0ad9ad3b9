"""The whole study of a tiny network."""

import json

import pytest
import torch
from torch import nn

from kafnets.activations import KAF, KWTA, ReLU
from kafnets.analysis.activation_statistics import STATISTICS
from kafnets.analysis.activation_study import activation_study
from kafnets.attacks import PGD


def network(activation):
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 4, 3), activation(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 8), activation(8)]
    return nn.Sequential(*body, nn.Linear(8, 3))


def study(activation, **settings):
    net = network(activation)
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(6, 1, 4, 4, generator=generator)
    y = net.eval()(x).argmax(1)
    y[:3] = (y[:3] + 1) % 3  # misclassified from the start
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items() if isinstance(value, torch.Tensor)}
    record = activation_study(net, x, y, PGD(eps=0.1, steps=3), index=torch.arange(6), **settings)
    assert net.training and all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    return record


@pytest.mark.parametrize("activation", [ReLU, KAF, KWTA])
def test_a_record_is_json_and_complete(activation):
    record = study(activation)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert [layer["name"] for layer in record["layers"]] == ["1", "5"]
    assert list(record["statistics"]) == list(STATISTICS)
    assert record["clean"]["right"] == 3 and record["attacked"]["images"] == 6
    assert (record["layers"][0]["shape"] is None) == (activation is KWTA)
    assert record["statistics"]["curvature"] == {ReLU: "inf", KWTA: None}.get(activation, pytest.approx(3, abs=3))


def test_images_that_are_wrong_from_the_start_are_attacked_as_long_as_others():
    low = study(ReLU)["layers"][0]["distances"]["attacked"]["l2"][1]
    assert low > 0.1  # half of the images unmoved would pull the interval of six images down to 0


def test_batches_change_nothing_but_rounding():
    whole, parts = study(KAF), study(KAF, batch_size=2)
    for one, other in zip(whole["layers"], parts["layers"], strict=True):
        assert one["distances"]["attacked"]["l2"] == pytest.approx(other["distances"]["attacked"]["l2"], rel=2e-3)
    assert whole["surface"]["loss"][0] == pytest.approx(parts["surface"]["loss"][0], rel=2e-3)


def test_an_image_of_which_nothing_reaches_a_layer_makes_its_distance_infinite():
    net = nn.Sequential(
        nn.Conv2d(1, 1, 1), ReLU(1), nn.Flatten(), nn.Linear(4, 2, bias=False), ReLU(2), nn.Linear(2, 2)
    )
    with torch.no_grad():
        net[0].weight.fill_(1.0), net[0].bias.fill_(-0.55)
    x = torch.tensor([0.5, 0.9])[:, None, None, None].expand(2, 1, 2, 2).clone()
    record = activation_study(net, x, torch.tensor([0, 1]), PGD(eps=0.2, steps=2), index=torch.arange(2))
    assert record["layers"][1]["distances"]["attacked"]["relative"] == ["inf"] * 3
    assert record["statistics"]["relative_last"] == "inf" and record["statistics"]["beyond_noise"] is None
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_a_network_without_activation_layers_is_refused():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="no activation layer"):
        activation_study(net, torch.rand(2, 1, 2, 2), torch.tensor([0, 1]), PGD(), index=torch.arange(2))
