"""Norms along a training: what is measured and written, and that measuring changes nothing."""

import json

import pytest
import torch
from pytorch_lightning import Callback

from kafnets.objectives import IBP
from lightning_modules.callbacks import FiniteLoss, GradientNorms
from lightning_modules.callbacks.finite_loss import NonFiniteLossError


def test_it_measures_logs_and_draws(make_module, make_data, make_trainer, logged, tmp_path):
    norms, module = GradientNorms(every=3), make_module()
    found = {}

    class Gradients(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            found[trainer.global_step] = module.net.fc.weight.grad.norm().item()

    trainer = make_trainer(norms, Gradients(), limit_val_batches=0)
    trainer.fit(module, make_data())
    assert [row["step"] for row in norms.rows] == [0, 3, 6]
    for row in norms.rows:
        assert row["gradients"]["fc"] == pytest.approx(found[row["step"]], rel=1e-5)
        assert all(value > 0 for value in row["activations"].values())
    assert logged(trainer, "gradient_norm/fc") == pytest.approx([found[step] for step in (0, 3, 6)], rel=1e-4)
    folder = tmp_path / "run" / "version_0"
    assert json.loads((folder / "gradient_norms.json").read_text())["rows"] == norms.rows
    assert (folder / "gradient_norms.png").stat().st_size > 10_000
    assert not torch.nn.modules.module._global_forward_hooks


def test_measuring_changes_nothing(make_module, make_data, make_trainer):
    states = []
    for name, callbacks in (("plain", []), ("measured", [GradientNorms(every=1)])):
        module = make_module()
        make_trainer(*callbacks, name=name, limit_val_batches=0, max_epochs=1).fit(module, make_data())
        states.append(module.net.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_objectives_that_bound_the_network_are_measured_too(make_module, make_data, make_trainer):
    norms = GradientNorms(every=1)
    make_trainer(norms, limit_train_batches=1, max_epochs=1, limit_val_batches=0).fit(
        make_module(objective=IBP()), make_data()
    )
    assert all(value > 0 for value in norms.rows[0]["activations"].values())


def test_what_preceded_a_loss_that_is_not_finite_is_written(make_module, make_data, make_trainer, tmp_path):
    module = make_module(optimizer=lambda groups: torch.optim.SGD(groups, lr=1e30))
    with pytest.raises(NonFiniteLossError):
        make_trainer(FiniteLoss(), GradientNorms(every=1), limit_val_batches=0).fit(module, make_data())
    rows = json.loads((tmp_path / "run" / "version_0" / "gradient_norms.json").read_text())["rows"]
    assert rows[0]["step"] == 0


def test_settings_that_cannot_work_are_refused(make_module, make_data, make_trainer):
    with pytest.raises(ValueError, match="every must be >= 1, got 0"):
        GradientNorms(every=0)
    with pytest.raises(ValueError, match=r"set --model\.compile_backend=null"):
        make_trainer(GradientNorms(), limit_val_batches=0).fit(make_module(compile_backend="eager"), make_data())
