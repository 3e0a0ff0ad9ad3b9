"""Common settings: numbers of batches, switches, run folders, the test after a fit."""

import json
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from pytorch_lightning.utilities import rank_zero_only

import cli
from lightning_modules.command_line.messages import quieten
from lightning_modules.command_line.run_folder import find_checkpoint

FIT = ["fit", "--config=vgg_relu_fast_at.yaml"]
QUICK = ["--trainer.max_epochs=1", "--data.batch_size=256", "--data.eval_batch_size=20"]


@pytest.fixture
def fit(tmp_path: Path, tiny_flags: list[str], capsys: pytest.CaptureFixture[str]):
    """Run a tiny fit with more flags: its run folder, and what it printed."""

    def run(*flags: str) -> tuple[Path, str]:
        cli.main([*FIT, *tiny_flags, *QUICK, f"--run.dir={tmp_path}", "--run.name=run", *flags])
        return sorted((tmp_path / "run").iterdir())[-1], capsys.readouterr().out

    return run


# --- an integer is a number of batches -------------------------------------------------------------------------------


def test_one_batch_is_one_batch(fit, tmp_path: Path):
    (tmp_path / "one.yaml").write_text("trainer: {limit_val_batches: 1}")
    run, _ = fit(
        "--trainer.limit_test_batches=1", "--trainer.limit_train_batches=0.5", f"--config={tmp_path / 'one.yaml'}"
    )
    assert json.loads((run / "results.json").read_text())["clean"]["images"] == 20
    saved = yaml.safe_load((run / "config.yaml").read_text())["trainer"]
    assert saved["limit_test_batches"] == 1 and isinstance(saved["limit_test_batches"], int)
    assert saved["limit_val_batches"] == 1 and isinstance(saved["limit_val_batches"], int)
    assert saved["limit_train_batches"] == 0.5


# --- switches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [
        ["--trainer.enable_progress_bar=false"],
        ["--trainer.callbacks+=RichProgressBar"],
        ["--trainer.callbacks+=TQDMProgressBar"],
    ],
)
def test_the_progress_bar_can_be_chosen(fit, flags: list[str]):
    pytest.importorskip("rich") if "Rich" in flags[0] else None
    run, printed = fit(*flags)
    assert (run / "results.json").exists() and "epoch   1/1 | loss" in printed


def test_without_checkpoints_the_weights_as_they_are_are_tested(fit):
    run, printed = fit("--trainer.enable_checkpointing=false")
    assert "testing the weights as they are: none was kept" in printed
    assert json.loads((run / "results.json").read_text())["checkpoint"] is None
    assert not (run / "checkpoints").exists()


@pytest.mark.parametrize(
    "flags", [["--trainer.limit_val_batches=0"], ["--trainer.check_val_every_n_epoch=5"], ["--trainer.max_steps=2"]]
)
def test_without_a_best_checkpoint_the_last_is_tested(fit, flags: list[str]):
    run, printed = fit(*flags)
    record = json.loads((run / "results.json").read_text())
    if "max_steps" in flags[0]:
        assert record["clean"]["images"] == 359
    else:
        assert record["checkpoint"].endswith("last.ckpt") and "no validation chose a best checkpoint" in printed


def test_a_range_test_of_the_learning_rate_trains_for_its_own_files_only(fit):
    flags = ["--data.batch_size=32", "--trainer.callbacks.points=8", "--trainer.callbacks.images=20"]
    run, printed = fit("--config=lr_range.yaml", *flags)
    written = {path.name for path in run.iterdir()}
    assert {"lr_range.json", "lr_range.png"} < written
    assert not written & {"results.json", "history.csv", "curves.png", "checkpoints", "activations.png"}
    assert printed.count("suggested") == 2


# --- run folders -----------------------------------------------------------------------------------------------------


def test_a_test_writes_next_to_the_tested_run(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    before = set(tiny_run.parent.iterdir())
    cli.main(["test", f"--ckpt_path={tiny_run}", "--trainer.accelerator=cpu"])
    (new,) = set(tiny_run.parent.iterdir()) - before
    record = json.loads((new / "results.json").read_text())
    assert record["checkpoint"] == str(next((tiny_run / "checkpoints").glob("best*.ckpt")))
    assert not list(tmp_path.iterdir())


def test_a_run_folder_stands_for_its_best_or_its_last_checkpoint(tiny_run: Path, tmp_path: Path):
    best = next((tiny_run / "checkpoints").glob("best*.ckpt"))
    assert find_checkpoint(str(tiny_run), tmp_path, "x") == best
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="is no run folder with a checkpoint"):
        find_checkpoint(str(tmp_path), tmp_path, "x")
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert find_checkpoint(str(tmp_path), tmp_path, "x").name == "last.ckpt"


def test_a_rank_left_in_the_environment_is_ignored(tmp_path: Path, tiny_flags: list[str]):
    command = [sys.executable, str(Path(cli.__file__)), *FIT, *tiny_flags, *QUICK, "--run.dir=runs", "--run.name=run"]
    environment = os.environ | {"RANK": "1", "MPLBACKEND": "agg"}
    both = [
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(2)
    ]
    printed = [process.communicate(timeout=200)[0].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert sorted(path.name for path in (tmp_path / "runs" / "run").iterdir()) == ["version_0", "version_1"]
    assert all((path / "results.json").exists() for path in (tmp_path / "runs" / "run").iterdir())


# --- records --------------------------------------------------------------------------------------------------------


def test_records_and_checkpoints_say_which_code(tiny_run: Path):
    record = json.loads((tiny_run / "results.json").read_text())
    checkpoint = torch.load(tiny_run / "checkpoints" / "last.ckpt", weights_only=True)
    assert record["code"] == checkpoint["code"] and record["code"].startswith("0.1.0 ")
    assert record["tf32"] is False


def test_records_and_checkpoints_say_which_images(tiny_run: Path):
    record = json.loads((tiny_run / "results.json").read_text())
    trained_on = torch.load(tiny_run / "checkpoints" / "last.ckpt", weights_only=True)["trained_on"]
    assert (record["data"], record["data_images"], record["data_classes"]) == ("Digits", 359, 10)
    assert (trained_on["data"], trained_on["data_images"], trained_on["data_classes"]) == ("Digits", 1294, 10)
    assert record["data_sha256"] != trained_on["data_sha256"]


@pytest.mark.parametrize("setting", ["allow_tf32", "benchmark"])
def test_evaluations_use_no_tf32_and_no_benchmark_and_restore_the_settings(
    monkeypatch: pytest.MonkeyPatch, fit, setting: str
):
    seen, forward = [], torch.nn.Conv2d.forward

    def spied(self, x):
        if not self.training:
            seen.append(getattr(torch.backends.cudnn, setting))
        return forward(self, x)

    monkeypatch.setattr(torch.backends.cudnn, setting, True)
    monkeypatch.setattr(torch.nn.Conv2d, "forward", spied)
    fit("--model.attack_view=null")
    assert seen and not any(seen) and getattr(torch.backends.cudnn, setting)


# --- what is printed -------------------------------------------------------------------------------------------------


def test_a_trial_run_prints_no_advertisement_and_profilers_print(tmp_path: Path, tiny_flags: list[str], capsys):
    cli.main([*FIT, *tiny_flags, f"--run.dir={tmp_path / 'runs'}", "--trainer.fast_dev_run=true"])
    printed = capsys.readouterr()
    assert "run folder: none (fast_dev_run)" in printed.out and "tensorboard" not in printed.err
    assert not (tmp_path / "runs").exists()
    assert logging.getLogger("pytorch_lightning.profilers.profiler").isEnabledFor(logging.INFO)


def test_the_recipe_of_the_demo_prints_no_warning_of_its_own(fit, capsys):
    fit("--config=kafvgg_short_fast_at.yaml", "--config=digits.yaml", "--trainer.max_epochs=1")
    warned = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert all("collapsed" in line for line in warned)  # a tiny network may predict one class


def test_loggers_are_told_the_folder_of_all_runs(monkeypatch: pytest.MonkeyPatch, fit):
    told = []
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr("lightning_modules.wandb_logger.Wandb.keep_in", lambda self, folder: told.append(folder))
    run, _ = fit("--config=wandb.yaml", "--run.test=false")
    assert told == [str(run.parent.parent)]


def test_a_warning_is_printed_once_and_on_rank_0(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with warnings.catch_warnings():
        quieten()
        warnings.simplefilter("always")
        for _ in range(2):
            warnings.warn("look here", stacklevel=1)
        monkeypatch.setattr(rank_zero_only, "rank", 1)
        warnings.warn("not here", stacklevel=1)
    assert capsys.readouterr().err == "warning: look here\n"


# --- weight averaging ------------------------------------------------------------------------------------------------


def test_averaged_weights_give_the_same_figures_after_a_fit_and_later(fit):
    run, _ = fit("--trainer.callbacks+=pytorch_lightning.callbacks.EMAWeightAveraging")
    cli.main(["test", f"--ckpt_path={run}", "--trainer.accelerator=cpu"])
    first, again = (json.loads((folder / "results.json").read_text()) for folder in (run, run.parent / "version_1"))
    for record in (first, again):
        del record["seconds"], record["memory"]
    assert first == again
