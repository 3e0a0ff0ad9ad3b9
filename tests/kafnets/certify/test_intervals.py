"""Interval bounds contain what a network gives for every image of the box."""

import re
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from kafnets.activations import (
    APL,
    ELU,
    GELU,
    KAF,
    KWTA,
    Kernel,
    Laplacian,
    LeakyReLU,
    LipschitzSpline,
    Maxout,
    MultiKAF,
    Periodic,
    PReLU,
    PSSiLU,
    Rational,
    ReLU,
    ResidualKAF,
    SiLU,
    Softplus,
    Spline,
    SReLU,
    from_module,
)
from kafnets.backbones import ConvShortcut, KafResNet, KafVGG, LightNet, PreActResNet18, ResNet
from kafnets.certify import IntervalBounds, LinearBounds, interval_bounds, linear_bounds, lipschitz_bound
from kafnets.certify.extremes import extremes_of
from kafnets.certify.training import lipschitz_pairs


class Own(Kernel):
    """A kernel as docs/extending.md shows it: a formula alone."""

    def __call__(self, t, bandwidth):
        return torch.exp(-bandwidth * t.abs())


ACTIVATIONS = {
    "relu": ReLU,
    "leaky, falling": partial(LeakyReLU, negative_slope=-0.5),
    "prelu": PReLU,
    "elu": ELU,
    "gelu": GELU,
    "silu": SiLU,
    "softplus": Softplus,
    "kaf": KAF,
    "free kaf": partial(KAF, free=True),
    "laplacian kaf": partial(KAF, kernel=Laplacian()),
    "periodic kaf": partial(KAF, kernel=Periodic()),
    "multi kaf": MultiKAF,
    "residual kaf": ResidualKAF,
    "relu + kaf": partial(ResidualKAF, base=ReLU),
    "psilu + kaf": partial(ResidualKAF, base=PSSiLU),
    "apl": APL,
    "srelu": SReLU,
    "spline": Spline,
    "lipschitz spline": LipschitzSpline,
    "rational": Rational,
    "pssilu": PSSiLU,
    "maxout": lambda channels: Maxout(channels, groups=channels),
    "kwta": partial(KWTA, ratio=0.4),
}
KINKED = ("laplacian kaf", "multi kaf", "relu + kaf", "maxout")  # bounded by their slope on each cell of a grid
every_activation = pytest.mark.parametrize("name", ACTIVATIONS)


def shaken(module: nn.Module) -> nn.Module:
    """The module with parameters and statistics away from their initial values, in evaluation mode."""
    generator = torch.Generator().manual_seed(3)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (norm.weight.data, norm.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.2)
            for tensor in (norm.bias.data, norm.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / 3)
            norm.weight.data[::2] *= -1
    return module.eval()


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "kwta"])
def test_the_range_of_an_activation_is_sound_and_close(name):
    torch.manual_seed(1)
    activation = ACTIVATIONS[name](3).double()
    with torch.no_grad():
        found = extremes_of(activation, torch.zeros(()).double(), certain=True)
        low = 12 * torch.rand(400, 3, dtype=torch.float64) - 8
        high = low + 4 * torch.rand(400, 1, dtype=torch.float64) ** 3
        least, most = found.range(activation, low, high)
        inside = torch.stack([activation(low + (high - low) * t) for t in torch.linspace(0, 1, 1001).double()])
    rounding = 1e-14  # boxes are widened by more
    assert (least <= inside.amin(0) + rounding).all() and (most >= inside.amax(0) - rounding).all()
    near = (low >= -6) & (high <= 6)
    loose = 0.02 if name in KINKED else 2e-3
    assert (most - inside.amax(0))[near].max() < loose and (inside.amin(0) - least)[near].max() < loose


class Wavy(KAF):
    """An activation whose size is not bounded by the tails of its kernels."""

    def forward(self, x):
        return super().forward(x) + x.sin()

    def bounds(self, offset=0.0):
        known = super().bounds(offset)
        return SimpleNamespace(
            slope=lambda low, high: known.slope(low, high) + 1,
            curvature=lambda low, high: known.curvature(low, high) + 1,
        )


@pytest.mark.parametrize(
    ("build", "low", "high"),
    [
        (partial(ResidualKAF, base=SiLU, kaf=partial(KAF, boundary=0.01)), -2.0, -0.5),
        (partial(ResidualKAF, base=GELU, kaf=partial(KAF, boundary=0.01)), -2.0, -0.5),
        (Wavy, 12.6, 15.0),
    ],
)
def test_turns_outside_the_dictionary_count(build, low, high):
    activation = build(1).double()
    points = torch.linspace(low, high, 1001).double()[:, None]
    with torch.no_grad():
        found = extremes_of(activation, points, certain=True)
        least, most = found.range(activation, points[:1], points[-1:])
        values = activation(points)
    assert least <= values.min() and most >= values.max()


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, float("nan")])
def test_a_bandwidth_that_left_its_range_is_refused(bandwidth):
    activation = KAF(1, free=True).double()
    activation.bandwidth.data.fill_(bandwidth)
    with pytest.raises(ValueError, match="no range of KAF_Free is known: a bandwidth is not > 0"):
        extremes_of(activation, torch.zeros(()).double(), certain=False)


def small_net(activation):
    torch.manual_seed(0)
    return shaken(
        nn.Sequential(
            *(nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.BatchNorm2d(3), activation(3), nn.AvgPool2d(2)),
            *(nn.Flatten(), nn.Linear(12, 6), nn.BatchNorm1d(6), activation(6), nn.Dropout(0.5), nn.Linear(6, 4)),
        )
    )


@pytest.mark.parametrize("kind", [IntervalBounds, LinearBounds])
@every_activation
def test_random_images_of_the_box_stay_within_the_bounds(name, kind):
    net, x = small_net(ACTIVATIONS[name]), torch.rand(3, 1, 8, 8)
    bounds = kind(net)
    for eps in (0.0, 0.02, 0.3):
        low, high = bounds(x, eps)
        noise = torch.rand(300, *x.shape).mul(2).sub(1)
        noise[100:] = noise[100:].sign()  # corners
        with torch.no_grad():
            logits = net.double()((x + eps * noise).clamp(0, 1).flatten(0, 1).double()).view(300, 3, 4)
        net.float()
        assert (low <= logits).all() and (logits <= high).all()
        assert low.dtype == torch.float64 and (eps > 0 or (high - low).max() < 1e-3 or name in KINKED)
        gaps = bounds.margins(x, torch.tensor([0, 1, 2]), eps)
        own = logits.gather(2, torch.tensor([0, 1, 2]).view(1, 3, 1).expand(300, 3, 1))
        assert (gaps <= (own - logits).where(gaps.isfinite(), torch.inf)).all()
        assert (gaps >= low.gather(1, torch.tensor([[0], [1], [2]])) - high - 1e-9).all()


BACKBONES = {
    "vgg": partial(KafVGG, width=4, hidden=8, head_norm=True),
    "kafresnet": partial(KafResNet, depth=8, width=4),
    "resnet": partial(ResNet, depth=8, width=4),
    "resnet, conv shortcut": partial(ResNet, depth=8, width=4, shortcut=ConvShortcut),
    "preact": partial(PreActResNet18, width=4),
    "lightnet": LightNet,
}


@pytest.mark.parametrize("bounds", [interval_bounds, linear_bounds])
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_is_bounded(name, bounds):
    torch.manual_seed(0)
    size = 4 if name == "lightnet" else 8  # it has 32 and 64 filters, whatever is asked
    net = shaken(BACKBONES[name](activation=KAF, in_channels=1, image_size=size, mean=0.3, std=0.5))
    x = torch.rand(2, 1, size, size)
    low, high = bounds(net, x, 0.05)
    noise = torch.rand(100, *x.shape).mul(2).sub(1)
    with torch.no_grad():
        logits = net.double()((x + 0.05 * noise).clamp(0, 1).flatten(0, 1).double()).view(100, 2, 10)
    assert (low <= logits).all() and (logits <= high).all() and low.isfinite().all()


def test_the_bound_of_a_linear_network_is_exact():
    torch.manual_seed(0)
    net, x, y = nn.Sequential(nn.Flatten(), nn.Linear(5, 3)), torch.full((1, 1, 1, 5), 0.5), torch.tensor([1])
    weight = net[1].weight.detach().double()
    low, high = interval_bounds(net, x, 0.1)
    logits = net.double()(x.double()).detach()
    torch.testing.assert_close(high, logits + 0.1 * weight.abs().sum(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(low, logits - 0.1 * weight.abs().sum(1), rtol=1e-6, atol=1e-6)
    exact = logits[:, 1:2] - logits - 0.1 * (weight - weight[1]).abs().sum(1)
    gaps = IntervalBounds(net).margins(x, y, 0.1)
    torch.testing.assert_close(gaps[:, [0, 2]], exact[:, [0, 2]], rtol=1e-6, atol=1e-6)
    assert gaps[0, 1] == torch.inf


def test_images_end_at_0_and_1():
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
    net[1].weight.data.copy_(torch.tensor([[1.0], [-1.0]]))
    low, high = interval_bounds(net, torch.tensor([[[[0.0]]], [[[1.0]]]]), 0.25)
    torch.testing.assert_close(low, torch.tensor([[0.0, -0.25], [0.75, -1.0]]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(high, torch.tensor([[0.25, 0.0], [1.0, -0.75]]).double(), atol=1e-6, rtol=0)


class Reshapes(nn.Module):
    def forward(self, x):
        return x.sin().flatten(1)


def hooked():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    net[1].register_forward_hook(lambda *_: None)
    return net


@pytest.mark.parametrize(
    ("net", "says"),
    [
        (Reshapes(), "no sound bound is known for sin in Reshapes; known are .*Conv2d"),
        (nn.Sequential(nn.Flatten(), nn.Softmax(1)), "no sound bound is known for 1 in Sequential"),
        (nn.Sequential(nn.Flatten(), Maxout(4)), "no range of Maxout is known: each of its outputs depends on many"),
        (
            nn.Sequential(nn.Flatten(), from_module(nn.Mish())(4)),
            "no range of Mish is known: .* does not bound its derivatives",
        ),
        (
            nn.Sequential(nn.Flatten(), ResidualKAF(4, base=from_module(nn.Mish()))),
            r"no range of Mish\+KAF is known: .* does not bound its derivatives",
        ),
        (nn.Sequential(nn.Flatten(), KAF(4, kernel=Own())), "no range of KAF_Own is known: Own does not bound"),
        (nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten()), "without running statistics"),
        (hooked(), "forward hooks are unknown; remove those of 1"),
        (lambda x: x, "bounds need the network itself, a torch.nn.Module, got function"),
    ],
)
def test_what_has_no_sound_bound_is_refused_by_name(net, says):
    with pytest.raises(ValueError, match=says):
        interval_bounds(net, torch.rand(1, 1, 2, 2), 0.1)


@pytest.mark.parametrize("activation", [KAF(4, kernel=Own()), ResidualKAF(4, base=from_module(nn.Mish()))], ids=repr)
def test_what_has_no_slope_is_refused_by_name_in_training_too(activation):
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), activation)
    with pytest.raises(ValueError, match=f"of {re.escape(activation.label)} is known"):
        lipschitz_bound(net, (1, 2, 2))
    if isinstance(activation, KAF):
        with pytest.raises(ValueError, match="no slope of KAF_Own is known"):
            lipschitz_pairs(net, (1, 2, 2))


@pytest.mark.parametrize(("eps", "x"), [(-0.1, 0.5), (float("nan"), 0.5), (0.1, 1.5)])
def test_bad_input_is_refused(eps, x):
    with pytest.raises(ValueError, match=r"eps must be a number >= 0|images must lie in \[0, 1\], got 1.5"):
        interval_bounds(nn.Sequential(nn.Flatten()), torch.full((1, 1, 1, 2), x), eps)


def test_a_network_that_decides_by_its_images_is_refused():
    class Decides(nn.Sequential):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x) if self.calls <= 2 else -super().forward(x)

    bounds = IntervalBounds(Decides(nn.Flatten(), nn.Linear(4, 2)))
    with pytest.raises(ValueError, match="it does not compute what its layers say"):
        bounds(torch.rand(1, 1, 2, 2), 0.1)
