"""Averages of weights: their values, what checkpoints hold, what a test measures."""

from functools import partial

import pytest
import torch
from pytorch_lightning import Callback

from kafnets.activations import KWTA
from kafnets.objectives import Adversarial, Free
from lightning_modules.callbacks import KWTARatio, WeightAverage
from lightning_modules.callbacks.weight_average import estimate_statistics
from lightning_modules.command_line.checkpoints import check_resumable


class Weights(Callback):
    """The weights after every step."""

    def __init__(self):
        self.seen = []

    def on_train_start(self, trainer, module):
        keep = lambda *_: self.seen.append([p.detach().clone() for p in module.net.parameters()])  # noqa: E731
        trainer.optimizers[0].register_step_post_hook(keep)


def expected(seen, keep, first):
    average = first
    for t, weights in enumerate(seen):
        average = [keep(t) * a + (1 - keep(t)) * w for a, w in zip(average, weights, strict=True)]
    return average


@pytest.mark.parametrize(
    ("settings", "keep", "objective", "accumulated", "steps"),
    [
        ({"decay": 0.3}, lambda t: min(0.3, (1 + t) / (10 + t)), Adversarial(), 3, 4),  # of three batches and of one
        ({"decay": None}, lambda t: t / (t + 1), Free(replays=2), 1, 16),
        ({"decay": None, "start": 0.5}, lambda t: (t - 4) / (t - 3) if t >= 4 else 0, Adversarial(), 1, 8),
    ],
)
def test_the_average_follows_its_formula(
    settings, keep, objective, accumulated, steps, make_module, make_data, make_trainer
):
    module, average, weights = make_module(objective=objective), WeightAverage(**settings), Weights()
    first = [p.detach().clone() for p in module.net.parameters()]
    trainer = make_trainer(weights, average, max_epochs=2, accumulate_grad_batches=accumulated)
    trainer.fit(module, make_data())
    assert len(weights.seen) == steps and f" of {steps - 4 * ('start' in settings)} steps" in average.label
    for a, b in zip(average.net.parameters(), expected(weights.seen, keep, first), strict=True):
        torch.testing.assert_close(a, b)


def test_what_is_no_parameter_is_that_of_the_live_network(make_net, make_module, make_data, make_trainer, tmp_path):
    class Counting(Callback):
        def on_train_batch_start(self, trainer, module, *rest):
            module.net.batches += 1

    net = make_net(activation=partial(KWTA, ratio=0.5))
    net.register_buffer("batches", torch.tensor(0), persistent=False)
    module, average = make_module(net=net), WeightAverage()
    ratio = KWTARatio(start=0.5, end=0.1, step=0.2, every=1)
    make_trainer(ratio, Counting(), average, max_epochs=2).fit(module, make_data())
    assert average.net.batches == 8 and {layer.ratio for layer in kwta_layers(average.net)} == {0.3}
    checkpoint = torch.load(tmp_path / "run" / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)
    tested = make_module(net=make_net(activation=partial(KWTA, ratio=0.5)))
    tested.load_state_dict(checkpoint["state_dict"])
    assert {layer.ratio for layer in kwta_layers(tested.net)} == {0.3}


def kwta_layers(net):
    return [module for module in net.modules() if isinstance(module, KWTA)]


def test_statistics_are_those_of_the_inputs(make_net):
    net, x = make_net(), torch.rand(3, 16, 1, 8, 8)
    estimate_statistics(net, list(x))
    net.train()
    seen = []
    layer = next(m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d))
    layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for batch in x:
        net(batch)
    means = torch.stack([batch.mean((0, 2, 3)) for batch in seen]).mean(0)
    estimate_statistics(net, list(x))
    torch.testing.assert_close(layer.running_mean, means)
    assert not layer.training and layer.momentum is not None


def test_checkpoints_hold_the_average_and_a_resumed_run_the_live_weights(
    make_module, make_data, make_trainer, tmp_path
):
    def run(name, epochs, checkpoint=None):
        module, average = make_module(), WeightAverage(decay=0.9)
        trainer = make_trainer(average, name=name, max_epochs=epochs)
        trainer.fit(module, make_data(), ckpt_path=checkpoint)
        return module, average, trainer

    module, average, trainer = run("whole", 2)
    run("broken", 1)
    last = tmp_path / "broken" / "version_0" / "checkpoints" / "last.ckpt"
    resumed = run("resumed", 2, last)
    for a, b in ((module.net, resumed[0].net), (average.net, resumed[1].net)):
        assert all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())
    assert (
        trainer.callback_metrics["val/average_robust_accuracy"]
        == (resumed[2].callback_metrics["val/average_robust_accuracy"])
    )
    whole = tmp_path / "whole" / "version_0" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(whole, weights_only=True)
    with pytest.raises(ValueError, match=r"can't go on from without averaging; pass --config ema\.yaml"):
        check_resumable(whole, checkpoint, trainer.optimizers[0], averages=False)
    for name, value in average.net.state_dict().items():
        assert torch.equal(checkpoint["state_dict"][f"net.{name}"], value)
        assert torch.equal(checkpoint["live_net"][name], module.net.state_dict()[name])
    tested = make_module()
    tester = make_trainer(name="test")
    tester.test(tested, make_data(), ckpt_path=whole)
    assert tested.labels()["weights"] == "exponential average with decay 0.9 of 8 steps"
    assert all(torch.equal(value, tested.net.state_dict()[name]) for name, value in average.net.state_dict().items())


def test_without_validation_a_checkpoint_holds_estimated_statistics(make_module, make_data, make_trainer, tmp_path):
    module, average = make_module(), WeightAverage(batches=2)
    make_trainer(average, max_epochs=1, limit_val_batches=0).fit(module, make_data())
    checkpoint = torch.load(tmp_path / "run" / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)
    variances = [value for name, value in checkpoint["state_dict"].items() if name.endswith("running_var")]
    assert variances and not any(bool((value == 1).all()) for value in variances)
    assert checkpoint["record"] == {"weights": average.label}
    assert module.labels()["weights"] == "of the last step"  # those that a test without a checkpoint has


def test_a_checkpoint_without_an_average_is_refused(make_module, make_data, make_trainer, tmp_path):
    make_trainer(name="plain", max_epochs=1).fit(make_module(), make_data())
    last = tmp_path / "plain" / "version_0" / "checkpoints" / "last.ckpt"
    with pytest.raises(ValueError, match="contains no average of weights; resume it without WeightAverage"):
        make_trainer(WeightAverage(), name="resumed").fit(make_module(), make_data(), ckpt_path=last)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"decay": 1.0}, r"decay must lie in \(0, 1\), or be null"),
        ({"start": 1.0}, r"start must be a fraction of the run in \[0, 1\), got 1"),
        ({"batches": 0}, "batches must be >= 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        WeightAverage(**settings)
