"""Two processes train together and measure the same as one process."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cli import main

ROOT = Path(__file__).resolve().parents[1]
NAMES = ["--config", "kafvgg_swish.yaml", "--config", "fast_at.yaml", "--config", "digits.yaml"]
TWO_RANKS = ["--config", "ddp.yaml", "--trainer.accelerator=cpu"]
TINY = ["--model.net.width=8", "--model.net.hidden=32", "--data.batch_size=32", "--model.val_images=40"]
TINY += ["--model.net.dropout=[0, 0, 0, 0]", "--model.net.bn_momentum=0.3"]
TINY += ["--model.test_attack.steps=3", "--model.threat.eps=16/255", "--model.test_images=77"]
LEARN = ["--trainer.max_epochs=2", "--model.schedule=Constant"]
LEARN += ["--model.optimizer.lr=0.1", "--model.optimizer.momentum=0.9"]

# a callback that records the training steps of each process
SPY = """
import atexit
import os
import torch
from pytorch_lightning import Callback

class Spy(Callback):
    def on_train_start(self, trainer, module):
        self.steps, self.craft = [], module.objective.craft
        module.objective.craft = self.crafted

    def crafted(self, net, batch):
        before = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
        x_adv = self.craft(net, batch)
        same = all(b is None and p.grad is None or torch.equal(b, p.grad)
                   for b, p in zip(before, net.parameters(), strict=True))
        self.steps.append({"keys": batch.keys, "delta": x_adv - batch.x, "had_grad": before[0] is not None,
                           "grad_as_found": same, "dropout_seed": torch.initial_seed()})
        return x_adv

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.steps[-1] |= {"loss": outputs["loss"].detach(), "epoch": trainer.current_epoch}

    def on_train_end(self, trainer, module):
        del module.objective.craft
        weights = {name: value.detach() for name, value in module.net.named_parameters()}
        torch.save([self.steps, weights], os.environ["SPY_FOLDER"] + f"/rank{trainer.global_rank}.pt")
        atexit.register(note_whether_left, trainer.global_rank)

def note_whether_left(rank):
    with open(os.environ["SPY_FOLDER"] + f"/left{rank}", "w") as file:
        file.write(str(not torch.distributed.is_initialized()))
"""


def run_command_line(*arguments, folder):
    """``python cli.py ...`` in a process of its own."""
    return subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "SPY_FOLDER": str(folder), "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def command_line(*arguments, folder):
    """What a command that must succeed prints."""
    done = run_command_line(*arguments, folder=folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def only_run(folder):
    (run,) = folder.glob("*/version_*")
    return run


def results(run):
    return json.loads((run / "results.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    (folder / "spy.py").write_text(SPY)
    spied = ["--run.dir=fit", "--trainer.callbacks+=spy.Spy"]
    command_line("fit", *NAMES, *TWO_RANKS, *TINY, *LEARN, *spied, folder=folder)
    return folder


@pytest.fixture(scope="module")
def run(folder):
    return only_run(folder / "fit")


@pytest.fixture(scope="module")
def best(run):
    (best,) = (run / "checkpoints").glob("best*.ckpt")
    return f"--ckpt_path={best}"


@pytest.fixture(scope="module")
def ranks(run, folder):
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


def test_a_two_rank_run_leaves_one_complete_run_folder(run):
    found = {path.name for path in run.iterdir()}
    assert {"config.yaml", "metrics.csv", "history.csv", "results.json", "curves.png", "activations.png"} <= found
    assert (run / "checkpoints" / "last.ckpt").is_file()


def test_both_ranks_leave_the_group_before_they_end(run, folder):
    assert [(folder / f"left{rank}").read_text() for rank in range(2)] == ["True", "True"]


def test_every_test_image_is_counted_once(run):
    record = results(run)
    assert (record["clean"]["images"], record["robust"]["images"]) == (359, 77)


def test_one_rank_measures_the_same_as_two(run, best, tmp_path):
    main(["test", *NAMES, *TINY, "--trainer.accelerator=cpu", f"--run.dir={tmp_path}", best])
    one, two = results(only_run(tmp_path)), results(run)
    assert one["clean"]["accuracy"] > 0.2, "the comparison needs a network that has learned"
    assert 0 < one["robust"]["accuracy"] < one["clean"]["accuracy"]
    for name in ("clean", "robust", "attack", "checkpoint_sha256", "seed", "dtype"):
        assert one[name] == two[name]
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)


def test_two_ranks_predict_the_same_as_one(best, tmp_path, folder):
    command_line("predict", *NAMES, *TWO_RANKS, *TINY, f"--run.dir={tmp_path / 'two'}", best, folder=folder)
    main(["predict", *NAMES, *TINY, "--trainer.accelerator=cpu", f"--run.dir={tmp_path / 'one'}", best])
    one, two = (list(csv.DictReader((only_run(tmp_path / name) / "predictions.csv").open())) for name in ("one", "two"))
    assert [int(row["index"]) for row in two] == list(range(359))
    for first, second in zip(one, two, strict=True):
        for column in ("index", "label", "predicted"):
            assert first[column] == second[column]
        assert float(first["probability"]) == pytest.approx(float(second["probability"]), abs=1e-5)


def test_each_rank_attacks_its_own_images_with_its_own_noise(ranks):
    (first, _), (second, _) = ranks
    assert len(first) == len(second) == 2 * (1294 // 64)
    for a, b in zip(first, second, strict=True):
        assert not set(a["keys"].tolist()) & set(b["keys"].tolist())
        assert not torch.equal(a["delta"], b["delta"])
        assert a["dropout_seed"] != b["dropout_seed"]
    keys = torch.cat([step["keys"] for steps, _ in ranks for step in steps])
    assert len(keys.unique()) == len(keys), "no noise is used twice in a run"


def test_attacks_leave_gradients_as_they_are(ranks):
    for steps, _ in ranks:
        assert all(step["grad_as_found"] for step in steps)
        # Lightning drops gradients before it validates, so the first step of an epoch finds none
        assert sum(step["had_grad"] for step in steps) == len(steps) - 2, "there must be gradients to compare"


def test_the_ranks_hold_the_same_weights(ranks):
    (_, first), (_, second) = ranks
    for name, value in first.items():
        assert torch.equal(value, second[name])


def test_logged_training_loss_is_the_mean_over_both_ranks(run, ranks):
    rows = list(csv.DictReader((run / "history.csv").open()))
    for epoch, row in enumerate(rows):
        losses = torch.stack([step["loss"] for steps, _ in ranks for step in steps if step["epoch"] == epoch])
        assert float(row["train/loss"]) == pytest.approx(losses.mean().item(), rel=1e-5)


BREAK = """
from pytorch_lightning import Callback

class Break(Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_rank == 1 and batch_idx == 3:
            batch[0].fill_(float("nan"))
"""


def test_a_loss_that_is_not_finite_on_one_rank_ends_all_ranks_with_one_line(tmp_path):
    (tmp_path / "breaking.py").write_text(BREAK)
    names = [name.replace("fast_at", "standard") for name in NAMES]
    arguments = [*names, *TWO_RANKS, *TINY, "--trainer.callbacks+=breaking.Break"]
    done = run_command_line("fit", *arguments, folder=tmp_path)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert line.startswith("error: the loss is nan on rank 1 at step 3 (epoch 1); first affected: the input images")
    assert not list(tmp_path.rglob("*.ckpt"))


DIE = """
import os, pathlib, signal
from pytorch_lightning import Callback

class Die(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        rank = int(os.environ["SPY_FOLDER"][-1])
        if (trainer.current_epoch, batch_idx, trainer.global_rank) == (1, 3, rank):
            pathlib.Path("dead").touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_all_ranks_with_one_line(rank, tmp_path):
    folder = tmp_path / f"rank{rank}"
    folder.mkdir()
    (folder / "dying.py").write_text(DIE)
    names = [name.replace("fast_at", "standard") for name in NAMES]
    limits = ["--trainer.max_epochs=3", "--trainer.limit_train_batches=6", "--trainer.callbacks+=dying.Die"]
    done = run_command_line("fit", *names, *TWO_RANKS, *TINY, *limits, folder=folder)
    assert time.time() - (folder / "dead").stat().st_mtime < 60
    assert done.returncode == (-signal.SIGKILL if rank == 0 else 2)
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert line.startswith(f"error: rank {1 - rank} has lost another process of this run")
    assert list(folder.rglob("last.ckpt"))


@pytest.mark.slow
def test_the_test_command_with_two_ranks(run, best, tmp_path, folder):
    command_line("test", *NAMES, *TWO_RANKS, *TINY, f"--run.dir={tmp_path}", best, folder=folder)
    again, first = results(only_run(tmp_path)), results(run)
    assert (again["clean"], again["robust"]) == (first["clean"], first["robust"])
