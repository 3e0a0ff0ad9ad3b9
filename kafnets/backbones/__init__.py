"""Networks: images in [0, 1] in, logits out, any activation in between."""

from kafnets.backbones.base import ActivationFactory, Backbone, Normalize
from kafnets.backbones.imagenet_resnet import ResNet18, ResNet50
from kafnets.backbones.kafresnet import KafResNet
from kafnets.backbones.lightnet import LightNet
from kafnets.backbones.preact_resnet import PreActResNet18
from kafnets.backbones.resnet import ConvShortcut, PadShortcut, ResNet
from kafnets.backbones.thesis import load_thesis
from kafnets.backbones.vgg import KafVGG

__all__ = [
    "ActivationFactory",
    "Backbone",
    "ConvShortcut",
    "KafResNet",
    "KafVGG",
    "LightNet",
    "Normalize",
    "PadShortcut",
    "PreActResNet18",
    "ResNet",
    "ResNet18",
    "ResNet50",
    "load_thesis",
]
