"""What is trained, on what, at which rate."""

import pytest
import torch
from pytorch_lightning import Callback
from torch import nn

from kafnets.activations import KAF
from kafnets.attacks import PGD
from kafnets.schedules import Triangular
from lightning_modules.weight_decay import all_parameters, dense_kernels, kernels


class Steps(Callback):
    """Keeps each training step's batch, inputs, learning rate and noise key."""

    def __init__(self):
        self.batches, self.inputs, self.rates, self.epochs, self.draws = [], [], [], [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append([group["lr"] for group in optimizer.param_groups])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches.append(batch)
        self.inputs.append(pl_module.inputs)
        self.epochs.append(trainer.current_epoch + batch_idx / trainer.num_training_batches)


def weights(module):
    return {name: value.clone() for name, value in module.net.state_dict().items()}


def same(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_standard_training_learns_from_the_images_as_they_are(make_module, make_data, make_trainer):
    steps = Steps()
    make_trainer(steps, max_epochs=1).fit(make_module(standard=True), make_data())
    assert len(steps.inputs) == 4
    assert all(torch.equal(inputs, batch[0]) for inputs, batch in zip(steps.inputs, steps.batches, strict=True))


def test_adversarial_training_learns_from_images_within_eps_and_true_labels(make_module, make_data, make_trainer):
    steps, data, module = Steps(), make_data(augment=None), make_module()
    labels = []
    attack = module.attack
    module.attack = lambda net, x, y, keys: labels.append(y) or attack(net, x, y, keys=keys)
    make_trainer(steps, max_epochs=1).fit(module, data)
    for inputs, (x, y, index), given in zip(steps.inputs, steps.batches, labels, strict=True):
        delta = (inputs - x).abs()
        assert delta.mean() > 0.05 and delta.max() <= attack.eps + 1e-6
        assert inputs.min() >= 0 and inputs.max() <= 1
        assert torch.equal(given, y) and torch.equal(y, data.train_set.labels[index])


def test_an_image_gets_other_noise_in_every_epoch(make_module, make_data, make_trainer):
    module, keys = make_module(), []
    attack = module.attack
    module.attack = lambda net, x, y, keys: seen(keys) or attack(net, x, y, keys=keys)
    seen = keys.append
    make_trainer(max_epochs=2, limit_train_batches=1.0).fit(module, make_data(batch_size=600))
    assert len(torch.cat(keys).unique()) == 4 * 600


def test_the_rate_of_each_step_follows_the_fractional_epoch(make_module, make_data, make_trainer):
    steps, schedule = Steps(), Triangular(low=0.1)
    make_trainer(steps, max_epochs=3).fit(make_module(schedule=schedule), make_data())
    assert steps.epochs == [epoch + i / 4 for epoch in range(3) for i in range(4)]
    for rates, epoch in zip(steps.rates, steps.epochs, strict=True):
        assert rates == pytest.approx([0.1 * schedule(epoch, 3)])


def test_a_resumed_run_goes_on_with_the_rates_of_the_whole(make_module, make_data, make_trainer):
    whole, rest = Steps(), Steps()
    make_trainer(whole, max_epochs=3, name="whole").fit(make_module(schedule=Triangular()), make_data())

    class Stop(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.current_epoch == 1:
                raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        make_trainer(Stop(), max_epochs=3, name="stopped").fit(make_module(schedule=Triangular()), make_data())
    trainer = make_trainer(rest, max_epochs=3, name="resumed")
    last = make_trainer(name="stopped").logger.log_dir + "/checkpoints/last.ckpt"
    trainer.fit(make_module(schedule=Triangular()), make_data(), ckpt_path=last)
    assert len(rest.rates) == 8
    assert rest.rates == whole.rates[4:]


def test_rates_do_not_drift_when_the_optimizer_state_is_loaded(make_module, make_data, make_trainer):
    trainer, again, module = make_trainer(max_epochs=1), Steps(), make_module()
    trainer.fit(module, make_data())
    make_trainer(again, max_epochs=2, name="more").fit(
        make_module(), make_data(), ckpt_path=trainer.checkpoint_callback.last_model_path
    )
    assert again.rates == [[0.1]] * 4


@pytest.mark.parametrize("choose", [all_parameters, kernels, dense_kernels])
def test_weight_decay_applies_to_the_chosen_parameters_alone(make_module, make_net, choose):
    module = make_module(net=make_net(activation=KAF), decayed=choose)
    optimizer = module.configure_optimizers()
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    everything = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(everything) == len({id(p) for p in everything}) == len(list(module.net.parameters()))
    kinds = {all_parameters: nn.Module, kernels: nn.Conv2d | nn.Linear, dense_kernels: nn.Linear}
    for layer in module.net.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            chosen = choose is all_parameters or (isinstance(layer, kinds[choose]) and name == "weight")
            assert (id(parameter) in decayed) == chosen, f"{layer}.{name}"


def test_accumulated_batches_step_once(make_module, make_data, make_trainer):
    steps = Steps()
    make_trainer(steps, max_epochs=1, accumulate_grad_batches=2).fit(make_module(), make_data())
    assert len(steps.rates) == 2 and len(steps.batches) == 4


@pytest.mark.parametrize("attack", [None, PGD(eps=0.1, step_size=0.05, steps=2, early_stop=False, eval_mode=False)])
def test_two_runs_are_the_same_bits_whatever_the_global_random_state(make_module, make_data, make_trainer, attack):
    found = []
    for seed in (1, 2):
        module = make_module(**{"attack": attack} if attack else {})
        torch.manual_seed(seed)
        make_trainer(max_epochs=1, name=str(seed)).fit(module, make_data())
        found.append(weights(module))
    assert same(*found)


def test_another_seed_is_another_run(make_module, make_data, make_trainer):
    found = []
    for seed in (1, 2):
        module = make_module(seed=seed)
        make_trainer(max_epochs=1, name=str(seed)).fit(module, make_data())
        found.append(weights(module))
    assert not same(*found)


def test_the_sanity_check_does_not_disturb_training(make_module, make_data, make_trainer):
    found = []
    for steps in (0, 2):
        module = make_module()
        make_trainer(name=str(steps), num_sanity_val_steps=steps).fit(module, make_data())
        found.append(weights(module))
    assert same(*found)


def test_bf16_trains_and_measures_in_float32(make_module, make_data, make_trainer):
    module, seen = make_module(), set()
    hook = module.net.fc.register_forward_hook(
        lambda layer, inputs, logits: seen.add((module.trainer.state.stage.value, logits.dtype))
    )
    trainer = make_trainer(precision="bf16-mixed", max_epochs=1)
    trainer.fit(module, make_data())
    trainer.test(module, make_data(), verbose=False)
    trainer.predict(module, make_data())
    hook.remove()
    assert seen == {
        ("train", torch.bfloat16),
        ("validate", torch.float32),
        ("test", torch.float32),
        ("predict", torch.float32),
    }
    assert all(parameter.dtype == torch.float32 for parameter in module.parameters())


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_half_precision_weights_are_refused(make_module, make_data, make_trainer, precision):
    with pytest.raises(ValueError, match=f"precision={precision}.*bf16-mixed"):
        make_trainer(precision=precision).fit(make_module(), make_data())


def test_training_without_end_is_refused(make_module, make_data, make_trainer):
    with pytest.raises(ValueError, match="max_epochs >= 1, got -1"):
        make_trainer(max_epochs=-1).fit(make_module(), make_data())


@pytest.mark.parametrize("name", ["val_images", "test_images"])
def test_less_than_one_attacked_image_is_refused(make_module, name):
    with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
        make_module(**{name: 0})
