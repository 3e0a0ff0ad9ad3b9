"""Training: images, noise, learning rates, weight decay, replays."""

import pytest
import torch
from pytorch_lightning import Callback
from torch import nn

from kafnets.activations import KAF
from kafnets.attacks import FGSM, L2, PGD
from kafnets.backbones import LightNet
from kafnets.losses import cross_entropy
from kafnets.objectives import AWP, IBP, TRADES, Adversarial, Clean, GradAlign, LipschitzMargin
from kafnets.parameter_filters import all_parameters, dense_kernels, kernels
from kafnets.schedules import Triangular
from kafnets.threat import ThreatModel
from lightning_modules.callbacks import FiniteLoss


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


def test_standard_training_uses_clean_images(make_module, make_data, make_trainer):
    steps = Steps()
    make_trainer(steps, max_epochs=1).fit(make_module(standard=True), make_data())
    assert len(steps.inputs) == 4
    assert all(torch.equal(inputs, batch[0]) for inputs, batch in zip(steps.inputs, steps.batches, strict=True))


def test_adversarial_training_uses_images_within_eps_and_true_labels(make_module, make_data, make_trainer):
    steps, data, module = Steps(), make_data(augment=None), make_module()
    labels = []
    craft = module.objective.craft
    module.objective.craft = lambda net, batch: labels.append(batch.y) or craft(net, batch)
    make_trainer(steps, max_epochs=1).fit(module, data)
    for inputs, (x, y, index), given in zip(steps.inputs, steps.batches, labels, strict=True):
        delta = (inputs - x).abs()
        assert delta.mean() > 0.05 and delta.max() <= module.threat.eps + 1e-6
        assert inputs.min() >= 0 and inputs.max() <= 1
        assert torch.equal(given, y) and torch.equal(y, data.train_set.labels[index])


def test_the_noise_of_an_image_differs_in_every_epoch(make_module, make_data, make_trainer):
    module, keys = make_module(), []
    craft = module.objective.craft
    module.objective.craft = lambda net, batch: keys.append(batch.keys) or craft(net, batch)
    make_trainer(max_epochs=2, limit_train_batches=1.0).fit(module, make_data(batch_size=600))
    assert len(torch.cat(keys).unique()) == 4 * 600


def test_the_rate_of_each_step_follows_the_fractional_epoch(make_module, make_data, make_trainer):
    steps, schedule = Steps(), Triangular(low=0.1)
    make_trainer(steps, max_epochs=3).fit(make_module(schedule=schedule), make_data())
    assert steps.epochs == [epoch + i / 4 for epoch in range(3) for i in range(4)]
    for rates, epoch in zip(steps.rates, steps.epochs, strict=True):
        assert rates == pytest.approx([0.1 * schedule(epoch, 3)])


def test_the_rate_can_be_proportional_to_the_images_of_a_step(make_module, make_data, make_trainer):
    steps, data = Steps(), make_data(batch_size=16)
    trainer = make_trainer(steps, max_epochs=1, limit_train_batches=5, accumulate_grad_batches=3)
    trainer.fit(make_module(lr_images=32), data)
    assert [rates[0] for rates in steps.rates] == pytest.approx([0.1 * 48 / 32, 0.1 * 32 / 32])


def test_a_resumed_run_has_the_learning_rates_of_an_uninterrupted_one(make_module, make_data, make_trainer):
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
    module = make_module(net=make_net(activation=KAF), decay_filter=choose)
    optimizer = module.configure_optimizers()
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    everything = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(everything) == len({id(p) for p in everything}) == len(list(module.net.parameters()))
    kinds = {all_parameters: nn.Module, kernels: nn.Conv2d | nn.Linear, dense_kernels: nn.Linear}
    for layer in module.net.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            chosen = choose is all_parameters or (isinstance(layer, kinds[choose]) and name == "weight")
            assert (id(parameter) in decayed) == chosen, f"{layer}.{name}"


class Replayed(Clean):
    """Sees every batch three times, and the gradient at the images each time."""

    replays = 3

    def __init__(self):
        super().__init__()
        self.seen, self.gradients = [], []

    def craft(self, net, batch):
        return batch.x.clone().requires_grad_(True)

    def after_backward(self, batch, terms):
        self.seen.append(batch)
        self.gradients.append(terms.inputs.grad)


def test_a_batch_is_replayed_as_often_as_the_objective_asks(make_module, make_data, make_trainer):
    objective = Replayed()
    trainer = make_trainer(max_epochs=2)
    trainer.fit(make_module(objective=objective), make_data())
    assert trainer.global_step == 2 * 4 and len(objective.seen) == 2 * 4 * 3
    for first, second, third in zip(*[iter(objective.seen)] * 3, strict=True):
        assert torch.equal(first.x, second.x) and torch.equal(second.x, third.x)
        assert not torch.equal(first.keys, second.keys) and not torch.equal(second.keys, third.keys)
    epochs = [batch.epoch for batch in objective.seen]
    assert epochs == pytest.approx([i / 12 for i in range(24)])


def test_an_objective_of_another_norm_is_refused_before_any_work(make_module, make_data, make_trainer):
    for objective, threat in ((IBP(), ThreatModel(L2(), 0.5)), (AWP(objective=LipschitzMargin()), ThreatModel())):
        data = make_data()
        with pytest.raises(ValueError, match=r"set --model\.threat\.norm="):
            make_trainer().fit(make_module(objective=objective, threat=threat), data)
        make_trainer().validate(make_module(objective=objective, threat=threat), data)


def test_replays_with_accumulated_batches_are_refused(make_module, make_data, make_trainer):
    with pytest.raises(
        ValueError, match=r"Replayed steps 3 times on each batch.*accumulate_grad_batches=2; set it to 1"
    ):
        make_trainer(accumulate_grad_batches=2).fit(make_module(objective=Replayed()), make_data())


def test_an_objective_sees_the_gradients_of_its_images_before_the_weights_move(make_module, make_data, make_trainer):
    objective, module = Replayed(), make_module()
    module.objective = objective
    make_trainer(max_epochs=1).fit(module, make_data())
    assert all(grad is not None and grad.abs().sum() > 0 for grad in objective.gradients)
    # the weights have moved between two passes over one batch
    assert not torch.equal(objective.gradients[0], objective.gradients[1])


def test_the_threat_model_reaches_the_objective_and_every_attack(make_module, make_data, make_trainer):
    objective = Replayed()
    module = make_module(objective=objective, threat=ThreatModel(L2(), 0.7), val_attack=PGD(), test_attack=PGD(steps=3))
    make_trainer(max_epochs=1).fit(module, make_data())
    assert {batch.threat for batch in objective.seen} == {module.threat}
    assert module.val_attack.threat == module.test_attack.threat == module.threat
    assert module.labels()["norm"] == "L2" and module.labels()["eps"] == 0.7


@pytest.mark.parametrize("name", ["val_attack", "test_attack"])
def test_an_attack_that_measures_in_another_ball_is_refused(make_module, name):
    with pytest.raises(ValueError, match=rf"{name} states Linf eps 0.2, the run Linf eps 0.1; leave eps and norm out"):
        make_module(**{name: PGD(eps=0.2)})


def test_labels_name_the_objective(make_module):
    for objective, label in (
        (None, "Adversarial-FGSM"),
        (Adversarial(attack=PGD(steps=7)), "Adversarial-PGD-7-1"),
        (Adversarial(attack=FGSM(alpha=1.0), eval_mode=True), "Adversarial-FGSM[alpha=1](eval_mode=True)"),
        (TRADES(beta=1.0), "TRADES(beta=1)"),
        (GradAlign(weight=0.5), "GradAlign(weight=0.5)"),
    ):
        assert make_module(objective=objective).labels()["objective"] == label
    assert make_module(standard=True).labels()["objective"] == "Clean"


def test_accumulated_batches_step_once(make_module, make_data, make_trainer):
    steps = Steps()
    make_trainer(steps, max_epochs=1, accumulate_grad_batches=2).fit(make_module(), make_data())
    assert len(steps.rates) == 2 and len(steps.batches) == 4


def test_the_last_accumulated_batches_of_an_epoch_are_averaged_too(make_module, make_data, make_trainer):
    class Compare(Callback):
        """The mean gradient of the images since the last step, beside the gradient that is applied."""

        def on_train_start(self, trainer, module):
            self.images, self.labels, self.pairs = [], [], []

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            self.images.append(batch[0]), self.labels.append(batch[1])

        def on_before_optimizer_step(self, trainer, module, optimizer):
            parameters, counted = list(module.net.parameters()), len(self.images)
            loss = cross_entropy(module.net(torch.cat(self.images)), torch.cat(self.labels)).mean()
            expected = torch.autograd.grad(loss, parameters)
            self.pairs.append((counted, [p.grad.clone() for p in parameters], expected))
            self.images, self.labels = [], []

    compare = Compare()
    net = LightNet(image_size=8, in_channels=1, dropout=(0.0, 0.0))  # no batch norm: batches may be joined
    trainer = make_trainer(compare, max_epochs=1, limit_train_batches=5, accumulate_grad_batches=3)
    trainer.fit(make_module(standard=True, net=net, attack_view=None), make_data())
    assert [counted for counted, *_ in compare.pairs] == [3, 2]
    for _, found, expected in compare.pairs:
        torch.testing.assert_close(found, list(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("objective", [Adversarial(), Adversarial(attack=PGD(steps=2)), TRADES(steps=2), GradAlign()])
def test_two_runs_are_bit_identical_whatever_the_global_random_state(make_module, make_data, make_trainer, objective):
    found = []
    for seed in (1, 2):
        module = make_module(objective=objective)
        torch.manual_seed(seed)
        make_trainer(max_epochs=1, name=str(seed)).fit(module, make_data())
        found.append(weights(module))
    assert same(*found)


def test_another_seed_gives_other_weights(make_module, make_data, make_trainer):
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


def test_channels_last_reaches_the_activations(make_net, make_module, make_data, make_trainer):
    found = {}
    for channels_last in (False, True):
        net, strides = make_net(dropout=(0, 0, 0, 0)), []  # masks follow the memory
        module = make_module(standard=True, net=net, channels_last=channels_last)
        module.net.block2.conv_a.register_forward_hook(lambda _, x, out, kept=strides: kept.append(out.stride(1)))
        trainer = make_trainer(max_epochs=1, name=str(channels_last))
        trainer.fit(module, make_data())
        assert {stride == 1 for stride in strides} == {channels_last}
        found[channels_last] = trainer.callback_metrics["train/loss"]
    torch.testing.assert_close(found[True], found[False], rtol=1e-3, atol=0)


def test_training_is_compiled_and_evaluation_is_not(make_module, make_data, make_trainer, monkeypatch):
    calls, compile_it = [], torch.compile

    def compiled(net, backend):
        net = compile_it(net, backend=backend)
        net.register_forward_hook(lambda *_: calls.append(module.trainer.state.stage.value))
        return net

    monkeypatch.setattr(torch, "compile", compiled)
    losses = []
    for backend in (None, "eager"):
        module = make_module(compile_backend=backend)
        trainer = make_trainer(max_epochs=1, name=str(backend))
        trainer.fit(module, make_data())
        losses.append(trainer.callback_metrics["train/loss"])
        assert not any("_orig_mod" in name for name in module.state_dict())
    assert set(calls) == {"train"} and len(calls) == 4 * 2  # the attack and the loss of each step
    torch.testing.assert_close(*losses, rtol=1e-4, atol=0)


def test_an_unknown_compiler_is_refused(make_module):
    with pytest.raises(ValueError, match=r"compile_backend must be one of .*inductor.*, got 'inducktor'"):
        make_module(compile_backend="inducktor")


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_half_precision_weights_are_refused(make_module, make_data, make_trainer, precision):
    with pytest.raises(ValueError, match=f"precision={precision}.*bf16-mixed"):
        make_trainer(precision=precision).fit(make_module(), make_data())


def test_a_training_step_does_not_wait_for_the_device(make_module, make_data, make_trainer, waits):
    counts = []
    for objective in (Adversarial(), TRADES(steps=2), GradAlign(), Clean()):
        module = make_module(objective=objective)
        step = module.optimizer_step  # runs forward pass, callbacks and backward pass too

        def watched(*args, step=step, **kwargs):
            before = waits.count
            with waits:
                step(*args, **kwargs)
            counts.append(waits.count - before)

        module.optimizer_step = watched
        make_trainer(FiniteLoss(), max_epochs=1, name=objective.label).fit(module, make_data())
    assert counts[1:] == [0] * 15, "constants of the threat model may be computed in the first step"


@pytest.mark.parametrize("objective", [Clean(), Adversarial()])
def test_labels_outside_the_classes_stop_a_run_before_the_weights_change(
    make_module, make_data, make_trainer, objective
):
    class Mislabel(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 2:
                self.before = weights(pl_module)
                batch[1][0] = -100  # which PyTorch's cross-entropy ignores

    module, mislabel = make_module(objective=objective), Mislabel()
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 9\] for 10 classes, got -100"):
        make_trainer(mislabel, max_epochs=1).fit(module, make_data())
    parameters = dict(module.net.named_parameters())
    assert all(torch.equal(value, mislabel.before[name]) for name, value in parameters.items())


def test_unlimited_epochs_are_refused(make_module, make_data, make_trainer):
    with pytest.raises(ValueError, match="max_epochs >= 1, got -1"):
        make_trainer(max_epochs=-1).fit(make_module(), make_data())


@pytest.mark.parametrize("name", ["val_images", "test_images"])
def test_less_than_one_attacked_image_is_refused(make_module, name):
    with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
        make_module(**{name: 0})
