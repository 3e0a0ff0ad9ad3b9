"""A run with a non-finite loss stops, names the cause, and keeps only finite checkpoints."""

import re
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback

from kafnets.activations import ReLU
from lightning_modules.callbacks import FiniteLoss
from lightning_modules.callbacks.finite_loss import NonFiniteLossError, first_affected


class Breaking(ReLU):
    """Returns ``value`` once ``broken`` is set."""

    broken, value = False, float("nan")

    def forward(self, x):
        return super().forward(x) + (self.value if self.broken else 0.0)


class Break(Callback):
    """Calls ``action`` on the network before a step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            self.action(pl_module.net)


def break_layer(value):
    def action(net):
        net.block2.act_a.broken, net.block2.act_a.value = True, value

    return action


def break_parameter(net):
    with torch.no_grad():
        net.block3.conv_b.weight[0, 0, 0, 0] = float("inf")


def finite_checkpoints(trainer):
    """Load every checkpoint of the run, by name, and check that its tensors are finite."""
    files = {}
    for path in Path(trainer.checkpoint_callback.dirpath).iterdir():
        files[path.name] = torch.load(path, weights_only=True)
        tensors = [value for value in files[path.name]["state_dict"].values() if value.is_floating_point()]
        assert all(torch.isfinite(value).all() for value in tensors)
    return files


@pytest.mark.parametrize("standard", [True, False], ids=["standard", "adversarial"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_layer_is_named_with_the_step_and_the_good_checkpoint(
    make_net, make_module, make_data, make_trainer, standard, value
):
    module = make_module(standard=standard, net=make_net(activation=Breaking))
    trainer = make_trainer(Break(6, break_layer(value)), FiniteLoss())
    with pytest.raises(NonFiniteLossError, match=r"at step 6 \(epoch 2\).*layer block2\.act_a \(Breaking\)") as error:
        trainer.fit(module, make_data())
    named = re.search(r"last good checkpoint: (\S+\.ckpt)", str(error.value)).group(1)
    assert Path(named).name == "last.ckpt"
    assert finite_checkpoints(trainer)["last.ckpt"]["global_step"] == 4
    make_module(net=make_net(activation=Breaking)).load_state_dict(torch.load(named, weights_only=True)["state_dict"])


@pytest.mark.parametrize("standard", [True, False], ids=["standard", "adversarial"])
def test_a_broken_parameter_is_named(make_module, make_data, make_trainer, logged, standard):
    trainer = make_trainer(Break(5, break_parameter), FiniteLoss())
    with pytest.raises(NonFiniteLossError, match=r"at step 5 .*parameter block3\.conv_b\.weight"):
        trainer.fit(make_module(standard=standard), make_data())
    assert finite_checkpoints(trainer)["last.ckpt"]["global_step"] == 4
    assert logged(trainer, "guard/not_finite") == [1]


def test_weights_that_break_in_the_last_step_of_an_epoch_are_not_saved(make_module, make_data, make_trainer):
    class BreakAfter(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 8:
                break_parameter(pl_module.net)

    trainer = make_trainer(BreakAfter(), FiniteLoss())
    with pytest.raises(NonFiniteLossError, match=r"a weight is not finite at step 8 .*block3\.conv_b\.weight"):
        trainer.fit(make_module(), make_data())
    assert finite_checkpoints(trainer)["last.ckpt"]["global_step"] == 4


def test_a_loss_that_is_not_finite_never_reaches_the_weights(make_net, make_module, make_data, make_trainer):
    module = make_module(net=make_net(activation=Breaking))
    with pytest.raises(NonFiniteLossError):
        make_trainer(Break(2, break_layer(float("nan"))), FiniteLoss()).fit(module, make_data())
    assert all(torch.isfinite(value).all() for value in module.net.parameters())


def test_before_the_first_checkpoint_the_message_says_so(make_module, make_data, make_trainer):
    trainer = make_trainer(Break(1, break_parameter), FiniteLoss())
    with pytest.raises(NonFiniteLossError, match="last good checkpoint: none written yet"):
        trainer.fit(make_module(), make_data())


def test_a_resumed_run_names_the_checkpoint_it_came_from(make_module, make_data, make_trainer):
    first = make_trainer(max_epochs=1, name="first")
    first.fit(make_module(), make_data())
    last = first.checkpoint_callback.last_model_path
    trainer = make_trainer(Break(4, break_parameter), FiniteLoss(), name="second")
    with pytest.raises(NonFiniteLossError, match=re.escape(f"last good checkpoint: {last}")):
        trainer.fit(make_module(), make_data(), ckpt_path=last)


def test_first_affected_leaves_the_network_as_it_was(make_net):
    net = make_net(activation=Breaking)
    net.block2.act_a.broken = True
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = torch.rand(4, 1, 8, 8)
    assert first_affected(net, x, x) == "layer block2.act_a (Breaking)"
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training and not net.block1.conv_a._forward_hooks


def test_first_affected_distinguishes_images_attack_and_loss(make_net):
    net, x = make_net(), torch.rand(4, 1, 8, 8)
    assert first_affected(net, x, x * float("nan")) == "the input images"
    assert first_affected(net, x * float("nan"), x) == "the attack's gradient"
    assert first_affected(net, x, x) == "no layer: the loss itself overflowed"
