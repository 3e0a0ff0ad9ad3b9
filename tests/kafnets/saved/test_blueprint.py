"""Networks as plain data: built from known names alone."""

import json

import pytest
import torch

from kafnets import activations
from kafnets.activations import KAF, Activation, ReLU, ResidualKAF, Ridge
from kafnets.backbones import ConvShortcut, KafVGG, ResNet
from kafnets.saved import build, name_of


class Mine(Activation):
    def forward(self, x):
        return x


def test_factories_objects_and_functions_are_built_at_any_depth():
    ridge = {"class": "Ridge", "arguments": {"target": {"function": "torch.nn.functional.elu"}}}
    kaf = {"factory": "KAF", "arguments": {"num_dict": 10, "init": ridge, "kernel": {"class": "Matern52"}}}
    activation = {"factory": "ResidualKAF", "arguments": {"kaf": kaf}}
    shortcut = {"factory": "ConvShortcut", "arguments": {}}
    blueprint = {
        "class": "ResNet",
        "arguments": {"depth": 8, "activation": activation, "shortcut": shortcut, "width": 4},
    }
    net = build(json.loads(json.dumps(blueprint)))
    (first, *_) = (module for module in net.modules() if isinstance(module, ResidualKAF))
    assert isinstance(net, ResNet) and first.kaf.dictionary.numel() == 10
    assert "Matern52" in first.kaf.label and "elu" in first.kaf.label
    assert any(isinstance(module, ConvShortcut) for module in net.modules())


def test_every_public_class_and_function_has_a_name():
    for value in (KafVGG, KAF, Ridge, ConvShortcut, torch.nn.functional.silu, activations.Periodic):
        name = name_of(value)
        assert name == value.__name__ or build({"function": name}) is value
    with pytest.raises(ValueError, match=r"os.getcwd|posix.getcwd"):
        name_of(__import__("os").getcwd)


def test_classes_of_the_user_are_named_by_their_path_and_passed_to_build():
    name = name_of(Mine, [Mine.__module__.partition(".")[0]])
    assert isinstance(build({"factory": name}, own=[Mine])(3), Mine)
    with pytest.raises(ValueError, match=r"Mine is not one of kafnets; .* pass own=\[Mine\]"):
        build({"factory": name})


@pytest.mark.parametrize(
    ("blueprint", "says"),
    [
        ({"class": "os.system", "arguments": {"command": "exit"}}, "os.system is not one of kafnets"),
        ({"function": "torch.nn.functional.importlib"}, "is not one of kafnets"),
        ({"function": "torch.nn.functional.importlib.import_module"}, "is not one of kafnets"),
        ({"class": "load_thesis", "arguments": {"path": "/etc/passwd"}}, "load_thesis is not one of kafnets"),
        ({"class": "builtins.eval"}, "builtins.eval is not one"),
        ({"class": "KafVGG", "arguments": {"widht": 8}}, "KafVGG can't be built from its arguments: .*widht"),
        ({"class": "KafVGG", "arguments": {"width": 0}}, "KafVGG can't be built .* width"),
        ({"class": "KafVGG", "arguments": {"activation": {"class": "ReLU"}}}, "ReLU can't be built"),
        ({"class": "KafVGG", "arguments": [1]}, "the arguments of KafVGG must be values by name"),
        ({"class": ["KafVGG"]}, "must be a class, a factory or a function"),
        ({"class": "KafVGG", "state": {}}, "must be a class, a factory or a function"),
        ({"class": "KAF", "factory": "KAF"}, "must be a class, a factory or a function"),
        ({}, "must be a class, a factory or a function"),
    ],
)
def test_what_is_no_blueprint_is_refused(blueprint, says):
    with pytest.raises(ValueError, match=says):
        build(blueprint)


def test_a_factory_builds_anew_each_time():
    factory = build({"factory": "ReLU", "arguments": {}})
    assert isinstance(factory(2), ReLU) and factory(2) is not factory(2)
