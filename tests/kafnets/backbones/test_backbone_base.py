import pytest
import torch
from torch import nn

from kafnets.activations import KAF, FromModule, ReLU, from_module
from kafnets.backbones import KafResNet, KafVGG, LightNet, Normalize, PreActResNet18, ResNet
from kafnets.backbones.base import PixelMean, build_activation
from kafnets.backbones.depth import blocks_per_stage
from kafnets.backbones.init import glorot_uniform, he_normal, he_uniform, initialise


def test_normalisation_is_per_channel_and_inside_the_network():
    x = torch.rand(2, 3, 4, 4)
    mean, std = (0.1, 0.2, 0.3), (1.0, 2.0, 4.0)
    expected = (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    torch.testing.assert_close(Normalize(mean, std, 3)(x), expected)

    net = LightNet(image_size=4, mean=mean, std=std).eval()
    plain = LightNet(image_size=4).eval()
    plain.load_state_dict(net.state_dict())
    torch.testing.assert_close(net(x), plain(expected))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mean": (0.1, 0.2)}, "mean has 2 values for images of in_channels=3"),
        ({"std": 0.0}, "std must be > 0"),
        ({"std": float("inf")}, "std must be finite, got inf"),
        ({"mean": float("nan")}, "mean must be finite, got nan"),
        ({"num_classes": 1}, "num_classes >= 2, got 1"),
        ({"in_channels": 0}, "in_channels >= 1, got 0"),
        ({"image_size": 30}, "multiple of 8, got 30; resize the images, on the command line with --data.image_size=32"),
        ({"image_size": 4}, "multiple of 8, got 4; resize the images, on the command line with --data.image_size=8"),
        ({"width": 0}, "width must be >= 1, got 0"),
        ({"hidden": 0}, "hidden must be >= 1, got 0"),
        ({"dropout": (0.1, 0.1, 0.1, 1.0)}, r"4 rates in \[0, 1\), got"),
        ({"dropout": (0.1, 0.1, -0.1, 0.1)}, r"4 rates in \[0, 1\), got"),
        ({"dropout": (0.1, 0.1)}, r"4 rates in \[0, 1\), got"),
        ({"bn_momentum": 0.0}, r"bn_momentum must be in \(0, 1\], got 0.0"),
    ],
)
def test_bad_settings_get_one_clear_line(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        KafVGG(**settings)
    assert "\n" not in str(error.value)


def test_the_means_of_cifar10_are_those_of_three_channels():
    colour, grey = PreActResNet18().normalize, PreActResNet18(in_channels=1).normalize
    torch.testing.assert_close(colour.std.flatten(), torch.tensor([0.2471, 0.2435, 0.2616]))
    assert (grey.mean.item(), grey.std.item()) == (0, 1)
    with pytest.raises(ValueError, match="mean has 3 values for images of in_channels=1; give one value"):
        PreActResNet18(in_channels=1, mean=(0.1, 0.2, 0.3))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_mean_over_pixels_and_its_gradient_keep_the_memory_format(layout):
    images = torch.rand(2, 3, 4, 5).contiguous(memory_format=layout)
    x = images.clone().requires_grad_(True)
    y, weights, laid = PixelMean()(x), torch.rand(2, 3), []
    assert torch.equal(y, images.mean((2, 3)))
    inner = x.sin()  # autograd may change the memory format of a leaf's gradient
    inner.register_hook(laid.append)
    (grad,) = torch.autograd.grad((PixelMean()(inner) * weights).sum(), x)
    torch.testing.assert_close(grad, images.cos() * (weights / 20)[..., None, None])
    assert laid[0].is_contiguous(memory_format=layout)
    torch.testing.assert_close(torch.func.vmap(lambda one: PixelMean()(one[None])[0])(images), y)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 3, 16, 16), (1, 3, 8, 16), (1, 8, 8, 3)])
def test_images_of_another_shape_are_refused(shape):
    net = LightNet(image_size=8)
    with pytest.raises(ValueError, match=r"shape \(N, 3, 8, 8\), got"):
        net(torch.rand(shape))


def test_bytes_are_refused():
    with pytest.raises(TypeError, match=r"uint8; divide bytes by 255"):
        LightNet(image_size=8)(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("activation", "message"),
    [
        (nn.ReLU, r"got the class ReLU; pass kafnets\.activations\.from_module\(ReLU\(\)\)$"),
        (nn.Tanh, r"got the class Tanh; pass kafnets\.activations\.from_module\(Tanh\(\)\)$"),
        (nn.ELU(2.0), r"the module ELU\(alpha=2\.0\); pass kafnets\.activations\.from_module\(ELU\(alpha=2\.0\)\)$"),
        (lambda c: nn.ReLU(c), r"built ReLU\(inplace=True\).*kafnets\.activations.*from_module"),
        (KAF(16), r"pass its class, or functools\.partial\(class, \.\.\.\) with its settings$"),
    ],
    ids=["class", "class without arguments", "module", "function", "activation"],
)
def test_what_is_no_factory_of_activations_is_refused_with_advice(activation, message):
    with pytest.raises(TypeError, match=message):
        KafVGG(activation=activation, image_size=8)


@pytest.mark.parametrize("module", [nn.Mish(), lambda channels: nn.PReLU(channels)], ids=["module", "function"])
def test_a_module_of_pytorch_is_an_activation_by_one_line(module):
    net = KafVGG(activation=from_module(module), image_size=8)
    places = [m.module for m in net.modules() if isinstance(m, FromModule)]
    assert len({id(place) for place in places}) == 7
    assert net.activation_label == {"Mish": "Mish", "PReLU": "PReLU(num_parameters=32)"}[type(places[0]).__name__]
    loss = torch.nn.functional.cross_entropy(net(torch.rand(2, 3, 8, 8)), torch.arange(2))
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


@pytest.mark.parametrize("build", [KafVGG, KafResNet, LightNet, ResNet])
def test_built_on_the_meta_device_and_loaded(build):
    settings = {"image_size": 8, "activation": KAF, "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    trained, images = build(**settings).eval(), torch.rand(2, 3, 8, 8)
    with torch.device("meta"):
        empty, assigned = build(**settings).eval(), build(**settings).eval()
        assert empty(torch.rand(2, 3, 8, 8)).shape == (2, 10)
    empty.to_empty(device="cpu").load_state_dict(trained.state_dict())
    assigned.load_state_dict(trained.state_dict(), assign=True)
    assert torch.equal(empty(images), trained(images)) and torch.equal(assigned(images), trained(images))


def test_each_place_has_its_own_activation():
    assert build_activation(ReLU, 3).num_channels == 3
    net = KafVGG(image_size=8)
    activations = [module for module in net.modules() if isinstance(module, KAF)]
    assert [module.num_channels for module in activations] == [32, 32, 64, 64, 128, 128, 128]
    assert len({id(module.alpha) for module in activations}) == 7


@pytest.mark.parametrize(("depth", "blocks"), [(8, 1), (20, 3), (56, 9), (110, 18)])
def test_depths_are_6n_plus_2(depth, blocks):
    assert blocks_per_stage(depth) == blocks


@pytest.mark.parametrize(
    ("depth", "nearest"), [(21, "20 or 26"), (55, "50 or 56"), (7, "8"), (2, "8"), (0, "8"), (-5, "8")]
)
def test_other_depths_name_the_nearest(depth, nearest):
    with pytest.raises(ValueError, match=rf"got {depth}; the nearest: {nearest}$"):
        blocks_per_stage(depth)


@pytest.mark.parametrize(
    ("rule", "variance"),
    [(he_uniform, 2 / 360), (he_normal, 2 / 360), (glorot_uniform, 2 / (360 + 9 * 160))],
)
def test_kernels_have_the_variance_of_their_rule(rule, variance):
    torch.manual_seed(0)
    layer = nn.Conv2d(40, 160, 3)
    initialise(nn.Sequential(layer), rule)
    assert layer.weight.var().item() == pytest.approx(variance, rel=0.03)
    assert not layer.bias.any()


def test_initialisation_leaves_the_activations_alone():
    class Odd(ReLU):
        def __init__(self, num_channels):
            super().__init__(num_channels)
            self.mix = nn.Linear(2, 2)
            nn.init.ones_(self.mix.bias)

    assert all((m.bias == 1).all() for n, m in KafVGG(image_size=8, activation=Odd).named_modules() if "mix" in n)
