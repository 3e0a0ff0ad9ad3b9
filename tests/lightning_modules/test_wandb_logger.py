"""W&B without a login: runs are kept offline and nothing is asked."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cli
from lightning_modules.wandb_logger import Wandb

SCRIPT = """
import socket, sys
def refuse(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "localhost", "::1"):
        print("REACHED FOR", address); raise OSError("no network")
    return connect(self, address)
connect, socket.socket.connect = socket.socket.connect, refuse
from matplotlib.figure import Figure
from lightning_modules.wandb_logger import Wandb
logger = Wandb(project="p", save_dir=sys.argv[1], mode=None)  # the command line fills in every argument
assert logger._offline
logger.log_hyperparams({"activation": "KAF", "eps": 0.1})
Figure().savefig(sys.argv[1] + "/curves.png")
logger.log_image(key="curves", images=[sys.argv[1] + "/curves.png"])
logger.log_metrics({"val/robust_accuracy": 0.25}, step=1)
assert logger.experiment.config["activation"] == "KAF"
assert logger.experiment.settings.mode == "offline"
logger.experiment.finish()
print("done")
"""


@pytest.mark.slow
def test_without_a_login_a_run_is_kept_offline_without_a_prompt(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "NETRC"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env=environment | {"HOME": str(tmp_path), "PYTHONPATH": os.getcwd(), "WANDB_SILENT": "true"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "done" in done.stdout and "REACHED FOR" not in done.stdout
    (run,) = tmp_path.glob("wandb/offline-run-*")
    assert list(run.glob("run-*.wandb"))
    assert list(run.glob("files/media/images/curves*.png"))


def test_wandb_mode_of_the_environment_is_obeyed(monkeypatch, tmp_path):
    from lightning_modules import wandb_logger

    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(wandb_logger, "logged_in", lambda: False)
    assert not wandb_logger.Wandb(save_dir=str(tmp_path))._offline


def test_an_offline_run_is_kept_in_the_folder_of_all_runs_unless_another_is_given(tmp_path):
    default, chosen = Wandb(offline=True), Wandb(offline=True, save_dir=str(tmp_path / "chosen"))
    for logger in (default, chosen):
        logger.keep_in(str(tmp_path / "runs"))
    assert default.save_dir == default._wandb_init["dir"] == str(tmp_path / "runs")
    assert chosen.save_dir == str(tmp_path / "chosen")


def test_the_members_of_a_study_are_a_group(monkeypatch, tmp_path):
    monkeypatch.setenv("KAFNETS_STUDY", "kernels")
    default, chosen = (Wandb(offline=True, save_dir=str(tmp_path), group=group) for group in (None, "mine"))
    assert (default._wandb_init["group"], chosen._wandb_init["group"]) == ("kernels", "mine")


KEY = "0123456789abcdef" * 2 + "deadbeef"


@pytest.fixture(scope="module")
def offline(tmp_path_factory, tiny_flags) -> Path:
    """A folder where one epoch was trained offline, with an API key in the environment, and a home of its own."""
    folder = tmp_path_factory.mktemp("offline")
    # nothing is compiled: the cache of compiled code is in the home
    configs = ["--config=kafvgg_fast_at.yaml", "--config=wandb.yaml", "--model.attack_view=null"]
    variables = {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline", "KAFNETS_STUDY": "kernels", "HOME": str(folder)}
    variables |= {"KAFNETS_ENGINE": "eager"}
    done = subprocess.run(
        [sys.executable, cli.__file__, "fit", *configs, *tiny_flags, "--trainer.max_epochs=1", "--run.name=run"],
        env={name: value for name, value in os.environ.items() if not name.startswith("WANDB")} | variables,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "printed.txt").write_text(done.stdout + done.stderr)
    return folder


@pytest.mark.slow
def test_no_file_of_a_run_holds_the_api_key(offline):
    files = [path for path in offline.rglob("*") if path.is_file()]
    assert {".wandb", ".ckpt", ".log", ".yaml"} <= {path.suffix for path in files}
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


@pytest.mark.slow
def test_the_dashboard_shows_what_an_offline_run_has_logged(offline):
    pytest.importorskip("wandb_workspaces", reason="needs wandb-workspaces: pip install wandb-workspaces")
    from lightning_modules.dashboard.sections import ACCURACIES, CURVES, PICTURES, PROBES, SETTINGS

    (run,) = offline.glob("runs/wandb/offline-run-*/*.wandb")
    command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    history = set().union(*(record["history"]["item"] for record in records if record["type"] == "history"))
    full_evaluation = {"test/worst_case_accuracy", "robustness"}
    pictures = {f"{key}.filenames" for key in PICTURES.keys() - full_evaluation}
    assert {*ACCURACIES, *CURVES, *PROBES, "epoch", "guard/collapsed"} - full_evaluation <= history
    assert pictures <= history
    summary = subprocess.run([*command[:3], "--summary", *command[3:]], capture_output=True, text=True, check=True)
    config = json.loads(summary.stdout)["config"]
    assert not [name for name in SETTINGS if not isinstance(config[name], str | int | float)]
    assert (config["study"], config["activation"]) == ("kernels", "KAF")
