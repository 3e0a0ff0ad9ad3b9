"""W&B without a login: runs are kept offline and nothing is asked."""

import os
import subprocess
import sys

import pytest

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
