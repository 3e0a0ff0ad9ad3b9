"""Lipschitz bounds, beside ratios found and norms known."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from kafnets.activations import KAF, KWTA, LipschitzSpline, Maxout, PReLU, ReLU, SiLU
from kafnets.backbones import KafResNet, KafVGG, LightNet, PreActResNet18, ResNet
from kafnets.certify import layer_gaps, lipschitz_bound, lipschitz_lower_bound

BACKBONES = {
    "vgg": partial(KafVGG, width=4, hidden=8, head_norm=True),
    "kafresnet": partial(KafResNet, depth=8, width=4),
    "resnet": partial(ResNet, depth=8, width=4),
    "preact": partial(PreActResNet18, width=4),
    "lightnet": LightNet,
}


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("activation", [ReLU, KAF, SiLU], ids=lambda a: a.__name__)
def test_no_pair_of_images_exceeds_the_bound(name, activation):
    torch.manual_seed(0)
    net = BACKBONES[name](activation=activation, in_channels=1, image_size=8, std=0.5).eval()
    bound = lipschitz_bound(net)
    first = torch.rand(20, 1, 8, 8).double().requires_grad_()
    jacobian = torch.stack([g.flatten(1) for g in (_slopes(net.double(), first, c) for c in range(10))], 1)
    assert torch.linalg.matrix_norm(jacobian, 2).max() <= bound.total < math.inf
    for i, j in ((0, 1), (3, 7)):
        assert (jacobian[:, i] - jacobian[:, j]).norm(dim=1).max() <= bound.pairs[i, j] <= 1.42 * bound.total
    assert [layer.upper for layer in bound.layers][-1] == pytest.approx(bound.total, rel=1e-6)
    assert all(layer.gain <= layer.linear * layer.slope * 1.001 for layer in bound.layers if layer.kind != "Addition")


def _slopes(net, x, c):
    return torch.autograd.grad(net(x)[:, c].sum(), x)[0]


def test_a_chain_is_the_product_and_a_sum_the_sum():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.flatten, self.inner = nn.Flatten(), nn.Linear(2, 2, bias=False)
            self.inner.weight.data.copy_(torch.diag(torch.tensor([2.0, 1.0])))

        def forward(self, x):
            x = self.flatten(x)
            return self.inner(x) + x

    net = nn.Sequential(nn.MaxPool2d(3, stride=2), nn.AvgPool2d(2), Residual())
    found = lipschitz_bound(net, (1, 9, 5))
    assert [layer.kind for layer in found.layers] == ["MaxPool2d", "AvgPool2d", "Flatten", "Linear", "Addition"]
    assert found.layers[0].gain == pytest.approx(2.0) and found.layers[1].gain == pytest.approx(0.5)
    assert found.total == pytest.approx(2.0 * 0.5 * (2.0 + 1.0), rel=1e-3)
    assert found.pairs[0, 1].item() == pytest.approx(2**0.5 * found.total, rel=1e-3)


def test_batch_norm_and_slope_of_each_channel_are_merged_with_the_kernel():
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2), LipschitzSpline(2)).eval()
    net[1].weight.data.copy_(torch.diag(torch.tensor([10.0, 1.0])))
    net[2].running_var.copy_(torch.tensor([100.0, 0.25]) - net[2].eps)
    found = lipschitz_bound(net, (1, 1, 2))
    assert [layer.kind for layer in found.layers] == ["Flatten", "Linear+BatchNorm1d+LipschitzSpline"]
    assert found.total == pytest.approx(2.0, rel=1e-3)  # the product of the three norms is 10 * 2 * 1


def test_the_radius_is_the_margin_over_the_bound_of_the_pair():
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 3, bias=False))
    net[1].weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]]))
    logits, y = torch.tensor([[3.0, 1.0, 0.0], [0.0, 1.0, 0.0]]), torch.tensor([0, 0])
    radius = lipschitz_bound(net, (1, 1, 2)).radius(logits, y)
    assert radius.tolist() == pytest.approx([min(2 / 5, 3 / 3), 0.0], rel=1e-3)


def test_where_no_bound_is_known():
    assert lipschitz_bound(LightNet(activation=KWTA, image_size=8)).total == math.inf
    with pytest.raises(ValueError, match="no Lipschitz bound of Maxout is known; take another activation"):
        lipschitz_bound(LightNet(activation=Maxout, image_size=8))
    with pytest.raises(ValueError, match=r"give the shape \(C, H, W\) of the images that Sequential takes"):
        lipschitz_bound(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))


class Spread(nn.Sequential):
    def forward(self, x):
        return self[2](x + self[1](self[0](x)))


@pytest.mark.parametrize(
    ("net", "says"),
    [
        # the last window holds one pixel and divides by 1
        (nn.Sequential(nn.Conv2d(2, 2, 1), nn.AvgPool2d(2, ceil_mode=True), nn.Flatten()), "different divisors"),
        (
            Spread(nn.Conv2d(2, 2, 1), nn.AvgPool2d(3), nn.Flatten()),
            r"repeats one of its terms.* \(2, 3, 3\) and \(2, 1",
        ),
        (nn.Sequential(nn.Linear(3, 2), PReLU(2), nn.Flatten()), "dense layer 0 of values .* put nn.Flatten before it"),
    ],
)
def test_layers_that_the_rules_do_not_fit_are_refused(net, says):
    with pytest.raises(ValueError, match=says):
        lipschitz_bound(net, (2, 3, 3))


def test_the_lower_bound_meets_the_upper_one_for_a_linear_network_and_stays_below_it_for_a_kaf():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Linear(5, 3)), torch.rand(3, 1, 2, 3)
    product = net[2].weight.detach().double() @ net[1].weight.detach().double()
    lower = lipschitz_lower_bound(net, x, rounds=30)
    assert lower == pytest.approx(torch.linalg.matrix_norm(product, 2).item(), rel=1e-3)
    curved = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), KAF(5), nn.Linear(5, 3))
    here, further = (lipschitz_lower_bound(curved, x, ascents=ascents) for ascents in (1, 5))
    gaps = layer_gaps(curved, x)
    assert here <= further <= lipschitz_bound(curved, (1, 2, 3)).total and here < further
    assert [gap.layer.name for gap in gaps] == ["0", "1", "3"] and all(gap.ratio >= 1 - 1e-9 for gap in gaps)


def test_the_lower_bound_visits_further_points_of_a_relu_network_whose_slope_has_no_gradient():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 16), ReLU(16), nn.Linear(16, 3))
    x = torch.rand(2, 1, 2, 2)
    here, further = (lipschitz_lower_bound(net, x, ascents=ascents, step=0.3) for ascents in (1, 20))
    assert here < further <= float(lipschitz_bound(net, (1, 2, 2)))
