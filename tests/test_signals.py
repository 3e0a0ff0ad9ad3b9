"""A fit that gets SIGTERM, SIGINT or SIGUSR1 ends with an exit status and a line on how to resume."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import cli

# sends this process a signal in the middle of an epoch
STOP = """
import os, signal
from pytorch_lightning import Callback

class Stop(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (int(os.environ["STOP_EPOCH"]), 2):
            for name in os.environ["STOP_WITH"].split():
                os.kill(os.getpid(), getattr(signal, name))
"""


def start(folder: Path, tiny_flags: list[str], *flags: str, epoch: int, with_signal: str) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    (folder / "stop.py").write_text(STOP)
    command = [sys.executable, str(Path(cli.__file__)), "fit", "--config=vgg_relu_fast_at.yaml", *tiny_flags]
    command += ["--trainer.max_epochs=3", "--trainer.limit_train_batches=5", "--run.dir=runs", "--run.name=run", *flags]
    environment = {"PYTHONPATH": str(folder), "MPLBACKEND": "agg", "STOP_EPOCH": str(epoch), "STOP_WITH": with_signal}
    return subprocess.Popen(
        [*command, "--trainer.callbacks+=stop.Stop"],
        cwd=folder, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


# what is stopped: in which epoch, by which signal
CASES = {"terminated": (1, "SIGTERM"), "interrupted": (1, "SIGINT"), "requeued": (1, "SIGUSR1")}
CASES |= {"impatient": (0, "SIGINT SIGINT")}
LAST = Path("runs") / "run" / "version_0" / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, tiny_flags: list[str]) -> dict[str, tuple[Path, int, str]]:
    """Folder, exit status and stderr of each case; all run at once."""
    parent = tmp_path_factory.mktemp("stopped")
    running = {
        name: start(parent / name, tiny_flags, epoch=epoch, with_signal=number)
        for name, (epoch, number) in CASES.items()
    }
    errors = {name: process.communicate(timeout=280)[1] for name, process in running.items()}
    return {name: (parent / name, process.returncode, errors[name]) for name, process in running.items()}


@pytest.mark.parametrize(("name", "status"), [("terminated", 143), ("interrupted", 130), ("requeued", 138)])
def test_a_signal_ends_a_fit_with_a_status_and_how_to_resume(name: str, status: int, stopped):
    folder, found, errors = stopped[name]
    assert found == status, errors[-2000:]
    lines = [line for line in errors.splitlines() if line.startswith("stopped in epoch")]
    assert len(lines) == 1 and lines[0].startswith("stopped in epoch 2/3; resume with --ckpt_path ")
    assert lines[0].endswith(str(LAST)) and (folder / LAST).is_file()
    checkpoint = torch.load(folder / LAST, weights_only=True)
    # five batches in the first epoch, three in the second
    assert checkpoint["epoch"] == 1 and checkpoint["global_step"] == 8 and checkpoint["optimizer_states"]


def test_the_checkpoint_of_a_stopped_fit_is_resumed(stopped, tiny_flags: list[str]):
    folder = stopped["terminated"][0]
    again = start(folder, tiny_flags, f"--ckpt_path={folder / LAST}", epoch=9, with_signal="SIGTERM")
    errors = again.communicate(timeout=200)[1]
    assert again.returncode == 0, errors[-2000:]
    assert (folder / "runs" / "run" / "version_1" / "results.json").is_file()


def test_a_second_interrupt_ends_a_fit_at_once(stopped):
    folder, found, errors = stopped["impatient"]
    assert found == 1, errors[-2000:]
    assert "Ctrl-C once more stops at once" in errors
    assert "stopped in epoch 1/3; no epoch was finished, so there is no checkpoint" in errors
    assert not (folder / LAST).exists()
