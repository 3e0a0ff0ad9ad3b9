"""A run that is killed and resumed equals an uninterrupted one, bit for bit."""

import csv
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
ARGUMENTS = ["fit", "--config", "kafvgg_fast_at.yaml", "--config", "digits.yaml", "--config", "short.yaml"]
ARGUMENTS += ["--trainer.accelerator=cpu", "--trainer.max_epochs=4", "--trainer.callbacks+=hang.Hang", "--run.dir=runs"]
ARGUMENTS += ["--model.net.width=4", "--model.net.hidden=8", "--model.val_images=40"]
ARGUMENTS += ["--model.test_images=20", "--model.test_attack.steps=2", "--trainer.limit_train_batches=10"]
MEASURED = {"epoch_seconds", "images_per_second", "peak_memory_mb"}

# with HANG set, it waits in the middle of the third epoch, so that the process is killed at a known step
HANG = """
import os, pathlib, time
from pytorch_lightning import Callback

class Hang(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if "HANG" in os.environ and (trainer.current_epoch, batch_idx) == (2, 7):
            pathlib.Path("hanging").touch()
            time.sleep(600)
"""


def start(folder, *arguments, **environment):
    folder.mkdir(exist_ok=True)
    (folder / "hang.py").write_text(HANG)
    with (folder / "output.txt").open("a") as output:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "cli.py"), *ARGUMENTS, *arguments],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder), "MPLBACKEND": "agg"} | environment,
            stdout=output,
            stderr=output,
        )


def finish(process, folder):
    assert process.wait(timeout=200) == 0, (folder / "output.txt").read_text()[-3000:]


def run_folder(folder, version):
    (run,) = folder.glob(f"runs/*/version_{version}")
    return run


def contents(folder):
    return {
        path.relative_to(folder): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run folders: of the uninterrupted run, of the killed one (with its contents then), and of its continuation."""
    whole, broken = tmp_path_factory.mktemp("resume") / "whole", tmp_path_factory.mktemp("resume") / "broken"
    uninterrupted, killed = start(whole), start(broken, HANG="1")
    deadline = time.monotonic() + 200
    while not (broken / "hanging").exists():
        assert killed.poll() is None and time.monotonic() < deadline, (broken / "output.txt").read_text()[-3000:]
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    first = run_folder(broken, 0)
    before = contents(first)
    finish(start(broken, "--ckpt_path", "last"), broken)
    finish(uninterrupted, whole)
    return run_folder(whole, 0), (first, before), run_folder(broken, 1)


def load(run, name="last"):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def history(run):
    rows = list(csv.DictReader((run / "history.csv").open()))
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in rows]


def test_weights_and_optimizer_state_are_bit_identical(runs, assert_same):
    whole, _, resumed = runs
    first, second = load(whole), load(resumed)
    assert first["epoch"] == second["epoch"] == 3
    assert first["global_step"] == second["global_step"]
    assert any("momentum_buffer" in state for state in first["optimizer_states"][0]["state"].values())
    for part in ("state_dict", "optimizer_states"):
        assert_same(first[part], second[part], part)


def test_the_history_is_the_same_and_holds_all_epochs(runs):
    whole, _, resumed = runs
    assert [row["epoch"] for row in history(resumed)] == ["1", "2", "3", "4"]
    assert history(resumed) == history(whole)


def test_the_killed_run_stopped_in_its_third_epoch(runs):
    _, (killed, before), _ = runs
    assert load(killed)["epoch"] == 1
    assert Path("results.json") not in before


def test_the_folder_of_the_killed_run_does_not_change(runs):
    _, (killed, before), _ = runs
    assert contents(killed) == before


def test_the_best_epoch_is_that_of_the_uninterrupted_run(runs):
    whole, _, resumed = runs
    first, second = (
        next(state for name, state in load(run)["callbacks"].items() if "best_model_path" in state)
        for run in (whole, resumed)
    )
    assert Path(first["best_model_path"]).name == Path(second["best_model_path"]).name
    assert first["best_model_score"] == second["best_model_score"]
    robust = [float(row["val/robust_accuracy"]) for row in history(whole)]
    assert first["best_model_score"].item() == pytest.approx(max(robust))


def test_both_runs_end_with_the_same_results(runs):
    whole, _, resumed = runs
    first, second = ((run / "results.json").read_text().split('"checkpoint"')[0] for run in (whole, resumed))
    assert first == second
