"""Fast adversarial training in two phases on photographs: it learns, goes on after a stop, and two ranks agree."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from enlarged_cifar import write_enlarged

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "cifar10-jpeg.tar.gz"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data/cifar10-jpeg.tar.gz"),
]

PHASES = '--data.phases=[{"epochs": 6, "image_size": 64, "batch": 2}, {"epochs": 1, "image_size": 128}]'
FIT = ["--config=resnet50_relu_imagenet", "--config=imagenet_fast_at", "--config=cpu", PHASES]
FIT += ["--model.net=ResNet18", "--model.net.width=8", "--trainer.max_epochs=7", "--data.image_size=128"]
FIT += ["--data.batch_size=8", "--data.val_fraction=0.1", "--data.num_workers=2", "--data.min_area=0.5"]
FIT += ["--model.val_images=40", "--model.val_attack.steps=2", "--model.lr_images=16", "--model.threat.eps=1/255"]
FIT += ["--model.test_attack.steps=2", "--model.test_attack.restarts=1", "--model.test_images=40", "--run.dir=runs"]

# a signal in the middle of the second phase
STOP = """
import os, signal
from pytorch_lightning import Callback

class Stop(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if os.environ.get("STOP") and (trainer.current_epoch, batch_idx) == (6, 5):
            os.kill(os.getpid(), signal.SIGTERM)
"""


def command_line(command, *arguments, folder, status=0, **variables):
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), command, *FIT, f"--data.path={folder / 'images'}", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "XDG_CACHE_HOME": str(folder), "MPLBACKEND": "agg"} | variables,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The images, and a finished run named ``whole``."""
    folder = tmp_path_factory.mktemp("imagenet")
    write_enlarged(DATA, folder / "images", train=24, val=4, size=136)
    (folder / "stopping.py").write_text(STOP)
    command_line("fit", "--run.name=whole", folder=folder)
    return folder


def results(run):
    return json.loads((run / "results.json").read_text())


def last(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def test_it_learns_twenty_classes(folder):
    found = results(folder / "runs/whole/version_0")
    assert found["data_classes"] == 20
    assert found["clean"]["accuracy"] > 2.5 / 20


def test_a_run_stopped_in_the_middle_of_an_epoch_goes_on_bit_for_bit(folder, assert_same):
    stop = ["--trainer.callbacks+=stopping.Stop", "--run.name=stopped", "--run.test=false"]
    command_line("fit", *stop, folder=folder, status=128 + signal.SIGTERM, STOP="1")
    command_line("fit", *stop, "--data.num_workers=0", "--ckpt_path=last", folder=folder)
    whole, resumed = last(folder / "runs/whole/version_0"), last(folder / "runs/stopped/version_1")
    assert whole["global_step"] == resumed["global_step"]
    for part in ("state_dict", "optimizer_states"):
        assert_same(whole[part], resumed[part], part)


def test_two_ranks_measure_what_one_rank_does_and_train_in_phases(folder):
    ddp = ["--config=ddp", "--trainer.accelerator=cpu"]
    trained = folder / "runs/whole/version_0/checkpoints/last.ckpt"
    command_line("test", f"--ckpt_path={trained}", "--run.name=one", folder=folder)
    command_line("test", f"--ckpt_path={trained}", "--run.name=two", *ddp, folder=folder)
    one, two = (results(next((folder / "runs" / name).glob("version_*"))) for name in ("one", "two"))
    for name in ("clean", "robust", "data_sha256"):
        assert one[name] == two[name]
    short = [PHASES.replace('"epochs": 6', '"epochs": 1'), "--trainer.max_epochs=2", "--data.batch_size=4"]
    command_line("fit", *ddp, *short, "--run.name=ddp", "--run.test=false", folder=folder)
    assert last(folder / "runs/ddp/version_0")["global_step"] == 432 // 16 + 432 // 8
