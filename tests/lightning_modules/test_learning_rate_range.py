"""The range test of the learning rate: what it measures, when it ends, and what it refuses."""

import json

import pytest
import torch

from kafnets.objectives import Adversarial
from kafnets.schedules import Exponential
from lightning_modules.callbacks import LearningRateRange, Throughput


class Unreported(LearningRateRange):
    """Measures, and suggests nothing: the loss of a few steps need not fall."""

    def on_fit_end(self, trainer, pl_module):
        pass


def rising(make_module, top=1.0, low=1e-3, **settings):
    optimizer = lambda groups: torch.optim.SGD(groups, lr=top, momentum=0.9)  # noqa: E731
    return make_module(optimizer=optimizer, schedule=Exponential(low=low), **settings)


def test_it_measures_rising_rates_and_writes_its_findings(make_module, make_data, make_trainer, tmp_path, capsys):
    test, data, losses = LearningRateRange(points=10, images=20), make_data(), []

    class Kept(Adversarial):
        def loss(self, *args):
            terms = super().loss(*args)
            losses.append(terms.loss.item())
            return terms

    # rates are those of the optimizer's setting, not those of the batch
    module = rising(make_module, lr_images=5000, objective=Kept())
    data.test_dataloader = None  # an error if the test split is used
    make_trainer(test, limit_train_batches=28, accumulate_grad_batches=3, limit_val_batches=0).fit(module, data)
    epochs = torch.tensor(losses).unflatten(0, (2, 28))
    steps = torch.cat([epochs[:, :27].unflatten(1, (9, 3)).mean(2), epochs[:, 27:]], 1).flatten()
    last = [(28 * epoch + min(3 * step + 2, 27)) / 56 for epoch in range(2) for step in range(10)][1::2]
    assert [row["lr"] for row in test.rows] == pytest.approx([1e-3 ** (1 - done) for done in last])
    assert [row["loss"] for row in test.rows] == pytest.approx(steps.unflatten(0, (10, 2)).mean(1).tolist())
    folder = tmp_path / "run" / "version_0"
    written = json.loads((folder / "lr_range.json").read_text())
    assert written["points"] == test.rows and written["run"]["objective"] == "Kept-FGSM"
    assert (folder / "lr_range.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "suggested maximum of the learning rate" in printed and "suggested minimum of the learning rate" in printed


def test_measuring_changes_nothing(make_module, make_data, make_trainer):
    states = []
    for name, callbacks in (("plain", []), ("tested", [Unreported(points=5, images=10)])):
        module = rising(make_module)
        make_trainer(*callbacks, name=name, limit_val_batches=0).fit(module, make_data())
        states.append(module.net.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_divergence_ends_it(make_module, make_data, make_trainer, tmp_path):
    test = Unreported(points=20, images=10)
    trainer = make_trainer(test, Throughput(), max_epochs=10, limit_val_batches=0)
    trainer.fit(rising(make_module, top=1e9, low=1e-12), make_data())
    assert trainer.global_step < 40 and 0.01 < test.diverged_at < 1e9
    assert trainer.callback_metrics["images_per_second"] < 1e6  # of an epoch that was not finished


def test_a_loss_that_is_not_finite_is_a_divergence(make_module, make_data, make_trainer, tmp_path):
    trainer = make_trainer(LearningRateRange(points=5, images=10), limit_val_batches=0)
    with pytest.raises(ValueError, match="needs 5 points before training collapses, got 0"):
        trainer.fit(rising(make_module, top=1e38, low=0.1), make_data())
    written = json.loads((tmp_path / "run" / "version_0" / "lr_range.json").read_text())
    assert written["diverged_at"] > 1e37 and written["maximum"] is None


def test_it_refuses_another_schedule_and_too_few_steps(make_module, make_data, make_trainer):
    with pytest.raises(ValueError, match="needs the schedule Exponential, got Constant; give --config lr_range"):
        make_trainer(LearningRateRange(points=8)).fit(make_module(), make_data())
    with pytest.raises(ValueError, match=r"of 8 points needs as many steps, got 4; set --trainer.max_epochs=4 or more"):
        trainer = make_trainer(LearningRateRange(points=8), name="short", accumulate_grad_batches=3)
        trainer.fit(rising(make_module), make_data())
    with pytest.raises(ValueError, match="points must be >= 5, got 4"):
        LearningRateRange(points=4)
