"""The parts that docs/extending.md shows, written to the reader's folder and used as the page says."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import cli
import kafnets
from kafnets.activations import ReLU
from kafnets.backbones import KafVGG
from kafnets.objectives import Batch
from kafnets.threat import ThreatModel

ROOT = Path(cli.__file__).parent
PAGE = (ROOT / "docs" / "extending.md").read_text()
BLOCKS = dict(re.findall(r"^```python\n# (mine/\w+\.py)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
QUICK = [
    "--model.val_images=20",
    "--model.val_attack.steps=2",
    "--model.test_images=20",
    "--model.test_attack.steps=2",
    "--run.name=run",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The reader's folder, with the package of the page."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "mine").mkdir()
    for name, code in BLOCKS.items():
        (folder / name).write_text(code)
    return folder


@pytest.fixture(scope="module")
def flags():
    """The arguments of the command of the page."""
    (command,) = re.findall(r"^python PROJECT/cli.py ((?:.*\\\n)*.*)", PAGE, re.MULTILINE)
    return shlex.split(command.replace("\\\n", ""))


@pytest.fixture(scope="module")
def run(folder, flags):
    """The run folder of that command, started in the reader's folder without a PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"MPLBACKEND": "agg"}
    command = [sys.executable, str(ROOT / "cli.py"), *flags, *QUICK]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "runs" / "run" / "version_0"


def test_all_parts_work_in_one_run_from_the_reader_s_folder(run):
    results = json.loads((run / "results.json").read_text())
    assert results["run"]["activation"] == "Wave"
    assert results["run"]["backbone"].startswith("TwoLayers")
    assert results["run"]["objective"] == "Mixed-Iterative(share=0.3)"
    assert results["clean"]["images"] == 400 and results["clean"]["accuracy"] > 0.9


def test_a_checkpoint_is_tested_with_the_flags_repeated(run, folder, flags, refused, monkeypatch, capsys):
    test = ["test", f"--ckpt_path={run}"]
    assert "names mine." in refused(test)
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(SystemExit) as stop:
        cli.main([*test, *(flag for flag in flags if "=" in flag), "--print_config"])
    assert stop.value.code == 0
    assert "class_path: mine.objectives.Mixed" in capsys.readouterr().out


def test_a_network_of_these_parts_is_exported_and_loaded(run, folder, refused, monkeypatch, tmp_path):
    export = ["export", f"--ckpt_path={run}", f"--out={tmp_path / 'out'}", "--onnx=false"]
    assert "names mine." in refused(export)
    monkeypatch.syspath_prepend(folder)
    cli.main([*export, "--own", "mine"])
    own = [importlib.import_module("mine.networks").TwoLayers, importlib.import_module("mine.activations").Wave]
    assert kafnets.load(tmp_path / "out", own=own).activation_label == "Wave"
    with pytest.raises(ValueError, match=r"mine.networks.TwoLayers is not one of kafnets; .* own=\[TwoLayers\]"):
        kafnets.load(tmp_path / "out")


def test_the_share_of_the_objective_mixes_two_losses(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    build = importlib.import_module("mine.objectives").Mixed
    net = KafVGG(activation=ReLU, width=4, hidden=8, image_size=8)
    batch = Batch(torch.rand(4, 3, 8, 8), torch.arange(4), torch.arange(4), epoch=0.0, threat=ThreatModel())
    clean, both, attacked = (build(share=share)(net, batch).loss for share in (0.0, 0.5, 1.0))
    attacked.backward()
    assert net.fc.weight.grad is not None
    assert len({clean.item(), both.item(), attacked.item()}) == 3


def test_the_attack_measures_too(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    attack = importlib.import_module("mine.attacks").Iterative(eps=0.1, steps=5)
    x, y = torch.full((1, 2), 0.5), torch.tensor([0])
    x_adv = attack(lambda x: x @ torch.tensor([[1.0, -1.0], [0.0, 0.0]]), x, y)
    torch.testing.assert_close(x_adv, torch.tensor([[0.4, 0.5]]))
    assert str(attack) == "Iterative Linf eps 0.1 (steps=5)"
