import torch
from torch import nn

from kafnets.activations import ReLU
from kafnets.backbones import PreActResNet18
from kafnets.backbones.preact_resnet import PreActBlock


def test_exact_parameters():
    assert sum(p.numel() for p in PreActResNet18().parameters()) == 11_172_170
    assert sum(p.numel() for p in PreActResNet18(num_classes=100).parameters()) == 11_172_170 + 90 * 513


def test_names_are_those_of_published_checkpoints():
    names = set(PreActResNet18().state_dict())
    assert {"conv1.weight", "layer1.0.bn1.weight", "layer4.1.conv2.weight", "layer2.0.shortcut.0.weight"} <= names
    assert {"bn.running_var", "linear.weight", "linear.bias"} <= names
    assert len(names) == 1 + 8 * 12 + 3 + 5 + 2


def test_default_normalisation_is_cifar10s():
    net = PreActResNet18()
    torch.testing.assert_close(net.normalize.mean.flatten(), torch.tensor([0.4914, 0.4822, 0.4465]))
    torch.testing.assert_close(net.normalize.std.flatten(), torch.tensor([0.2471, 0.2435, 0.2616]))


def test_the_shortcut_sees_the_raw_input():
    block = PreActBlock(2, 4, stride=2, activation=ReLU).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(1, 2, 4, 4)
    torch.testing.assert_close(block(x), block.shortcut(x))


def test_final_norm_activation_and_mean():
    net = PreActResNet18(image_size=8).eval()
    x = torch.rand(2, 3, 8, 8)
    y = net.layer4(net.layer3(net.layer2(net.layer1(net.conv1(net.normalize(x))))))
    torch.testing.assert_close(net(x), net.linear(net.bn(y).relu().mean((2, 3))))


def test_it_takes_the_smaller_images_of_progressive_resizing():
    net = PreActResNet18(width=2)
    assert [net(torch.rand(2, 3, size, size)).shape for size in (8, 24)] == [(2, 10)] * 2
    assert net.refusal(7) == "PreActResNet18 takes 8 pixels or more, got 7"
