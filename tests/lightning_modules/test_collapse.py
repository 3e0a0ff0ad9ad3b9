"""A collapsed network is told to the user."""

import warnings

import pytest
import torch

from kafnets.activations import KAF
from lightning_modules.callbacks import Collapse


def told(make_trainer, module, data) -> list[str]:
    """What it warns of, which is also what it keeps for the record of the test."""
    callback = Collapse()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_trainer(callback, limit_test_batches=1).test(module, datamodule=data, verbose=False)
    texts = [str(warning.message) for warning in caught]
    found = [text for text in texts if "dictionary" in text or "collapsed" in text]
    assert [event["text"] for event in callback.state_dict()["events"]] == found
    return found


def test_one_class_for_every_image(make_trainer, make_module, make_data, logged):
    module = make_module()
    with torch.no_grad():
        module.net.fc.weight.zero_()
        module.net.fc.bias.copy_(torch.eye(10)[3])
    (line,) = told(make_trainer, module, make_data())
    assert line.startswith("the network has collapsed: it predicts class 3 for all of 256 images; ")
    trainer = make_trainer(Collapse(), limit_test_batches=1, name="again")
    with pytest.warns(UserWarning, match="has collapsed"):
        trainer.test(module, datamodule=make_data(), verbose=False)
    assert logged(trainer, "guard/one_class") == [1] and not logged(trainer, "guard/outside_dictionary")


def test_inputs_outside_the_dictionary(make_trainer, make_module, make_net, make_data):
    narrow = make_net(activation=lambda channels: KAF(channels, boundary=0.01))
    lines = told(make_trainer, make_module(net=narrow), make_data())
    assert any("most of its inputs lie outside the dictionary" in line for line in lines)
    usual = told(make_trainer, make_module(net=make_net(activation=KAF)), make_data())
    assert not any("dictionary" in line for line in usual)


def test_the_sample_must_be_large_enough():
    with pytest.raises(ValueError, match="images must be >= 20, got 5"):
        Collapse(images=5)
