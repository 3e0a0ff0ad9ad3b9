"""A fit that gets SIGTERM, SIGINT or SIGUSR1 ends with an exit status and a line on how to resume."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import cli

# sends this process a signal in the middle of an epoch
STOP = """
import os, signal
from pytorch_lightning import Callback

class Stop(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (int(os.environ["STOP_EPOCH"]), 2):
            os.kill(os.getpid(), getattr(signal, os.environ["STOP_WITH"]))
"""


def run(folder: Path, tiny_flags: list[str], *flags: str, epoch: int, with_signal: str) -> subprocess.CompletedProcess:
    (folder / "stop.py").write_text(STOP)
    command = [sys.executable, str(Path(cli.__file__)), "fit", "--config=vgg_relu_fast_at.yaml", *tiny_flags]
    command += ["--trainer.max_epochs=3", "--trainer.limit_train_batches=5", "--run.dir=runs", "--run.name=run", *flags]
    environment = {"PYTHONPATH": str(folder), "MPLBACKEND": "agg", "STOP_EPOCH": str(epoch), "STOP_WITH": with_signal}
    return subprocess.run(
        [*command, "--trainer.callbacks+=stop.Stop"],
        cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 1), ("SIGUSR1", 138)])
def test_a_signal_ends_a_fit_with_a_status_and_how_to_resume(
    name: str, status: int, tmp_path: Path, tiny_flags: list[str]
):
    done = run(tmp_path, tiny_flags, epoch=1, with_signal=name)
    assert done.returncode == status, done.stderr[-2000:]
    last = Path("runs") / "run" / "version_0" / "checkpoints" / "last.ckpt"
    lines = [line for line in done.stderr.splitlines() if line.startswith("stopped in epoch")]
    assert len(lines) == 1 and lines[0].startswith("stopped in epoch 2/3; resume with --ckpt_path ")
    assert lines[0].endswith(str(last)) and (tmp_path / last).is_file()
    if name != "SIGTERM":
        return
    again = run(tmp_path, tiny_flags, f"--ckpt_path={tmp_path / last}", epoch=9, with_signal=name)
    assert again.returncode == 0, again.stderr[-2000:]
    assert (tmp_path / "runs" / "run" / "version_1" / "results.json").is_file()


def test_a_signal_in_the_first_epoch_leaves_no_checkpoint(tmp_path: Path, tiny_flags: list[str]):
    done = run(tmp_path, tiny_flags, epoch=0, with_signal="SIGTERM")
    assert done.returncode == 128 + signal.SIGTERM
    assert "stopped in epoch 1/3; no epoch was finished, so there is no checkpoint" in done.stderr
