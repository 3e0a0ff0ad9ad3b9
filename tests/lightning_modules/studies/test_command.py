"""``cli.py study``: mistakes are one line before any work; a real study survives a stop and a failed member."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_members import fake_member
from tiny_study import TINY

import cli
from lightning_modules.studies import command
from lightning_modules.studies.grid import load_study
from lightning_modules.studies.member_record import read_member, write_member

STUDY = """
base:
  config: [<activation>, fast_at, digits, cpu]
  model.net.width: 4
grid:
  activation: {ReLU: vgg_relu, KAF: kafvgg_elu}
  seed: [0, 1]
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Write the study ``mine`` in an empty folder, with something replaced; its command lines are not parsed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "errors_of", lambda commands: [None] * len(commands))

    def write(old="", new=""):
        assert old in STUDY
        Path("mine.yaml").write_text(STUDY.replace(old, new) if old else STUDY)
        return ["study", "--config", "mine.yaml"]

    return write


def test_a_dry_run_prints_commands_that_a_person_can_type(study, capsys):
    cli.main([*study(), "--dry_run", "--data.path", "my images"])
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    words = shlex.split(lines[1])
    assert len(lines) == 4 and words[0] == "python" and Path(words[1]).resolve() == Path(cli.__file__)
    assert words[2:4] == ["fit", "--config"] and words[-3:] == [
        "--data.path=my images",
        "--run.dir=runs/mine",
        "--run.name=kaf-0",
    ]
    assert os.listdir() == ["mine.yaml"]


def test_a_first_dry_run_estimates_the_time_by_members_of_other_studies(study, capsys):
    write_member(Path("results"), fake_member("ReLU", data="Digits"))  # of four epochs
    write_member(Path("results"), fake_member("KAF", data="CIFAR10"))
    Path("results/fake/notes.json").write_text("{}")
    cli.main([*study(), "--dry_run", "--trainer.max_epochs=4"])
    expected = "4 members, 0 of them done; the others take about 47.5 min, by members of other studies"
    assert expected in capsys.readouterr().out
    cli.main([*study(), "--dry_run", "--trainer.max_epochs=5"])
    assert "there is no estimate" in capsys.readouterr().out


MISTAKES = {
    "unknown config": (("kafvgg_elu", "kafvgg_eluu"), [], "study mine, member kaf-0: config 'kafvgg_eluu' is neither"),
    "misspelt key": (("grid:", "grdi:"), [], "study mine.yaml: 'grdi' is no part of a study; did you mean grid?"),
    "empty axis": (("[0, 1]", "[]"), [], "study mine.yaml: axis seed has no value"),
    "no short": ((), ["--short"], "study mine.yaml: it has no short: section; leave --short out"),
    "flag of an axis": ((), ["--model.net.activation=KAF"], "--model.net.activation is set by the axis activation"),
    "flag of the study": ((), ["--run.name=x"], "--run.name is set by the study"),
    "no jobs": ((), ["--jobs=0"], "--jobs must lie in [1, "),
    "misspelt option": ((), ["--job=2"], "nrecognized arguments: --job=2"),
    "unknown choice": ((), ["--changed=no"], "changed"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_before_any_work(study, refused, name):
    change, flags, expected = MISTAKES[name]
    assert expected in refused([*study(*change), *flags])
    assert os.listdir() == ["mine.yaml"]


def test_a_study_needs_space(study, refused, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=10**8)
    monkeypatch.setattr(command.shutil, "disk_usage", lambda path: usage)
    assert "4 members need about 200 MB (50 MB each), and runs/mine has 100 MB free" in refused(study())


def test_a_misspelt_flag_in_one_member_is_found_before_the_first_runs(tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(STUDY.replace("kafvgg_elu", "{config: kafvgg_elu, model.net.activation.boundry: 4}"))
    line = refused(["study", "--config", "mine.yaml"])
    assert "member kaf-0 can't run: model.net" in line and "'boundry' is not accepted; did you mean boundary?" in line
    assert os.listdir() == ["mine.yaml"]


REAL = (
    TINY
    + """\
  trainer.max_epochs: 30
grid:
  model.optimizer.lr: {good: {model.optimizer.lr: 0.05}, bad: {model.optimizer.lr: 1.0e+30}}
  seed: [0]
"""
)


def start():
    environment = os.environ | {"MPLBACKEND": "agg"}
    words = [sys.executable, cli.__file__, "study", "--config", "real.yaml"]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_real_study_goes_on_after_a_stop_and_lists_what_failed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("real.yaml").write_text(REAL)
    running, deadline = start(), time.monotonic() + 400
    while not list(Path("runs").glob("real/good-0/version_0/checkpoints/last.ckpt")):
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(signal.SIGTERM)
    output = running.communicate(timeout=300)[0]
    assert running.returncode == 143 and "good-0 was stopped" in output, output
    again = start()
    output = again.communicate(timeout=500)[0]
    assert again.returncode == 1, output
    assert "good-0 goes on from runs/real/good-0/version_0/checkpoints/last.ckpt" in output
    assert "good-0 is done" in output and "bad-0 has failed: error: " in output
    record = read_member("results/real/good-0.json")
    assert len(record["history"]) == 30 and record["parameters"] > 0 and record["seconds"]["fit"] > 0


def test_the_file_of_a_study_is_found_like_a_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [command.CONFIGS, command.CONFIGS / "studies"]
    names = [load_study(name, folders)[0] for name in ("studies/kernels.yaml", "kernels")]
    assert names == ["kernels", "kernels"]
