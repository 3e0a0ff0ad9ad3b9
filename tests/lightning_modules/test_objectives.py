"""Every objective trains through the same module, and a resumed run equals an uninterrupted one."""

import pytest
import torch

from kafnets.attacks import PGD
from kafnets.losses import LabelSmoothing
from kafnets.objectives import AWP, ELLE, MART, NFGSM, TRADES, Adversarial, Clean, Free, GradAlign
from kafnets.schedules import WarmUp
from kafnets.threat import ThreatModel
from lightning_modules.command_line.checkpoints import check_fits, read_checkpoint

OBJECTIVES = {
    "clean": Clean,
    "fast_at": Adversarial,
    "pgd_at": lambda: Adversarial(attack=PGD(steps=2)),
    "friendly": lambda: Adversarial(attack=PGD(steps=2), eval_mode=True, stop_when_fooled=True),
    "trades": lambda: TRADES(steps=2),
    "grad_align": GradAlign,
    "elle": lambda: ELLE(weight=100.0),
    "n_fgsm": NFGSM,
    "free": lambda: Free(replays=3),
    "mart": lambda: MART(steps=2),
    "awp": lambda: AWP(objective=TRADES(steps=2)),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_trains_and_resumes_bit_for_bit(name, make_module, make_data, make_trainer, tmp_path):
    losses = []

    def run(folder, epochs, checkpoint=None):
        module = make_module(objective=OBJECTIVES[name](), loss=LabelSmoothing())
        trainer = make_trainer(name=folder, max_epochs=epochs, limit_train_batches=8)
        module.on_train_epoch_end = lambda: losses.append(trainer.callback_metrics["train/loss"].item())
        trainer.fit(module, make_data(), ckpt_path=checkpoint)
        return module.net.state_dict(), module.objective.state_dict(), trainer.optimizers[0].state_dict()["state"]

    whole = run("whole", 2)
    assert losses[1] < losses[0]
    run("broken", 1)
    last = tmp_path / "broken" / "version_0" / "checkpoints" / "last.ckpt"
    resumed = run("resumed", 2, last)
    assert losses[-1] == losses[1]
    assert all(torch.equal(value, resumed[0][key]) for key, value in whole[0].items())
    assert str(whole[1:]) == str(resumed[1:])
    check_fits(last, read_checkpoint(last), make_module(objective=OBJECTIVES[name]()))  # as the command line does


def test_eps_follows_its_schedule(make_module, make_data, make_trainer):
    module, seen = make_module(eps_schedule=WarmUp(until=0.5)), []
    craft = module.objective.craft
    module.objective.craft = lambda net, batch: seen.append(batch.threat) or craft(net, batch)
    make_trainer(max_epochs=2).fit(module, make_data())
    assert [threat.eps for threat in seen] == pytest.approx([0, 0.025, 0.05, 0.075, *[0.1] * 4])
    assert module.val_attack.threat == ThreatModel(eps=0.1)


def test_the_loss_of_the_run_is_recorded(make_module):
    assert make_module().labels()["loss"] == "cross_entropy"
    assert make_module(loss=LabelSmoothing(smoothing=0.2)).labels()["loss"] == "LabelSmoothing(smoothing=0.2)"
    with pytest.raises(ValueError, match=r"smoothing must lie in \[0, 1\), got 1"):
        LabelSmoothing(smoothing=1)
