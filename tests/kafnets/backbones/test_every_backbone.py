"""Checks that every backbone works with every kind of activation."""

import functools
import pickle

import jsonargparse
import pytest
import torch

from kafnets.activations import KAF, KWTA, ReLU, SiLU
from kafnets.backbones import (
    Backbone,
    ConvShortcut,
    KafResNet,
    KafVGG,
    LightNet,
    PreActResNet18,
    ResNet,
)

BACKBONES = {
    "kafvgg": functools.partial(KafVGG, width=8, hidden=16),
    "kafresnet": functools.partial(KafResNet, depth=8, width=8),
    "resnet": functools.partial(ResNet, depth=8, width=8),
    "resnet_b": functools.partial(ResNet, depth=8, width=8, shortcut=ConvShortcut),
    "preactresnet18": functools.partial(PreActResNet18, width=8),
    "lightnet": LightNet,
}


@pytest.fixture(params=BACKBONES, name="backbone")
def fixture_backbone(request):
    torch.manual_seed(0)
    return functools.partial(BACKBONES[request.param], image_size=8)


@pytest.fixture(name="images")
def fixture_images():
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("activation", [KAF, functools.partial(KAF, free=True), KWTA, ReLU, SiLU])
def test_forward_and_backward_are_finite(backbone, images, activation):
    net = backbone(activation=activation, num_classes=7)
    images.requires_grad_()
    logits = net(images)
    assert logits.shape == (4, 7)
    torch.nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    for tensor in (images, *net.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize("activation", [KAF, SiLU])
def test_double_backward(backbone, images, activation):
    net = backbone(activation=activation)
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(net(images).logsumexp(1).sum(), images, create_graph=True)
    gradient.square().sum().backward()
    assert images.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters() if parameter.grad is not None)


def test_channels_last_gives_the_same_logits(backbone, images):
    net = backbone(activation=KAF).eval()
    expected = net(images)
    last = net.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, expected, rtol=1e-3, atol=1e-4)


def test_the_seed_decides_the_weights(backbone, images):
    nets = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        nets.append(backbone(activation=KAF).eval()(images))
    assert torch.equal(nets[0], nets[1])
    assert not torch.equal(nets[0], nets[2])


def test_pickle_and_state_dict(backbone, images):
    net = backbone(activation=KAF).eval()
    assert torch.equal(pickle.loads(pickle.dumps(net))(images), net(images))
    torch.manual_seed(99)
    other = backbone(activation=KAF).eval()
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(images), net(images))


def test_eval_logits_do_not_depend_on_the_rest_of_the_batch(backbone, images):
    net = backbone().eval()
    torch.testing.assert_close(net(images)[:1], net(images[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [8, 16, 32])
def test_one_channel_and_other_sizes(backbone, size):
    net = backbone(in_channels=1, image_size=size, num_classes=3, mean=0.5, std=0.5).eval()
    assert net(torch.rand(2, 1, size, size)).shape == (2, 3)


def test_arguments_are_keyword_only(backbone):
    with pytest.raises(TypeError, match="positional"):
        backbone(10)


@pytest.mark.parametrize("name", ["KafVGG", "KafResNet", "ResNet", "PreActResNet18", "LightNet"])
def test_a_config_can_build_it(name):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Backbone, "net")
    activation = {"class_path": "kafnets.activations.KWTA", "init_args": {"ratio": 0.1}}
    init_args = {"activation": activation, "image_size": 8, "mean": [0.1, 0.2, 0.3], "num_classes": 4}
    config = parser.parse_object({"net": {"class_path": f"kafnets.backbones.{name}", "init_args": init_args}})
    net = parser.instantiate(config).net
    kwtas = [module for module in net.modules() if isinstance(module, KWTA)]
    assert kwtas
    assert all(module.ratio == pytest.approx(0.1) for module in kwtas)


def test_a_config_can_choose_the_shortcut():
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Backbone, "net")
    init_args = {"depth": 8, "shortcut": "kafnets.backbones.ConvShortcut"}
    config = parser.parse_object({"net": {"class_path": "kafnets.backbones.ResNet", "init_args": init_args}})
    net = parser.instantiate(config).net
    assert sum(isinstance(module, ConvShortcut) for module in net.modules()) == 2
