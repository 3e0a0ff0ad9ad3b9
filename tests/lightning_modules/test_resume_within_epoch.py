"""A run that a signal stops between two steps goes on as if it had not been stopped, bit for bit."""

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.utilities.exceptions import SIGTERMException

from kafnets.objectives import AWP, NFGSM, TRADES, Adversarial, Free, GradAlign
from lightning_modules.callbacks import EpochLines, History, OverfittingGuard, Throughput, WeightAverage

OBJECTIVES = {
    "fast_at": Adversarial,
    "free": lambda: Free(replays=2),
    "awp": lambda: AWP(objective=TRADES(steps=1)),
    "grad_align": GradAlign,
}


class Stop(Callback):
    """Sends SIGTERM to the trainer after so many steps."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *rest):
        if trainer.global_step == self.step:
            trainer._signal_connector.received_sigterm = True


def callbacks(step):
    """Everything that has a state of its own, or begins with an epoch."""
    guard = OverfittingGuard(every=2, images=20, gap=0.9, fallback=NFGSM())
    return [Throughput(), History(), EpochLines(), guard, WeightAverage(batches=3), Stop(step)]


@pytest.mark.parametrize(("name", "step"), [*((name, 5) for name in OBJECTIVES), ("fast_at", 2), ("fast_at", 7)])
def test_a_stopped_run_goes_on_bit_for_bit(name, step, make_module, make_data, make_trainer, tmp_path, capsys):
    def run(folder, step=None, checkpoint=None, **settings):
        module = make_module(objective=OBJECTIVES[name]())
        trainer = make_trainer(*callbacks(step), name=folder, max_epochs=2, **settings)
        trainer.fit(module, make_data(), ckpt_path=checkpoint)

    last = "version_0/checkpoints/last.ckpt"
    run("whole")
    with pytest.raises(SIGTERMException):
        run("broken", step)
    assert f"stopped in epoch {1 + (step - 1) // 4}/2; resume with" in capsys.readouterr().err
    stopped = torch.load(tmp_path / "broken" / last, weights_only=True)
    assert stopped["global_step"] == step
    run("resumed", checkpoint=tmp_path / "broken" / last)
    first, second = (torch.load(tmp_path / folder / last, weights_only=True) for folder in ("whole", "resumed"))
    assert second["global_step"] == 8
    for part in ("state_dict", "live_net"):
        for key, value in first[part].items():
            other = second[part][key]
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else str(value) == str(other), key
    assert str(first["optimizer_states"]) == str(second["optimizer_states"])
    guards = [one["callbacks"]["OverfittingGuard"] for one in (first, second)]
    assert str(guards[0]) == str(guards[1])


def test_a_run_stopped_between_accumulated_batches_goes_on_from_the_last_epoch(
    make_module, make_data, make_trainer, tmp_path, capsys
):
    class StopAt(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            trainer._signal_connector.received_sigterm = (trainer.current_epoch, batch_idx) == (1, 2)

    def run(*callbacks, name, checkpoint=None):
        module = make_module()
        trainer = make_trainer(*callbacks, name=name, max_epochs=2, accumulate_grad_batches=2)
        trainer.fit(module, make_data(), ckpt_path=checkpoint)
        return module.net.state_dict()

    whole = run(name="whole")
    with pytest.raises(SIGTERMException):
        run(StopAt(), name="broken")
    last = tmp_path / "broken" / "version_0" / "checkpoints" / "last.ckpt"
    assert f"stopped in epoch 2/2; resume with --ckpt_path {last}" in capsys.readouterr().err
    resumed = run(name="resumed", checkpoint=last)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
