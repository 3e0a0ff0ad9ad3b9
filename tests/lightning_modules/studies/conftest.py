"""A stand-in for ``cli.py`` that writes run folders in milliseconds, so that studies can be tested without training."""

import json
from pathlib import Path

import pytest
from fake_members import fake_member

from lightning_modules.studies import runner
from lightning_modules.studies.collect import _TAKEN
from lightning_modules.studies.grid import Member
from lightning_modules.studies.job import Job

FAKE_CLI = """
import json, os, pathlib, signal, sys, time
flags = dict(argument.removeprefix("--").partition("=")[::2] for argument in sys.argv[2:])
home = pathlib.Path(flags["run.dir"]) / flags["run.name"]
run = home / f"version_{len(list(home.glob('version_*')))}"
(run / "checkpoints").mkdir(parents=True)
with open("calls.txt", "a") as calls:
    calls.write(json.dumps([flags, os.environ.get("OMP_NUM_THREADS")]) + "\\n")

def stop(*_):
    (run / "checkpoints" / "last.ckpt").touch()
    print("stopped in epoch 1/3", flush=True)
    sys.exit(143)

signal.signal(signal.SIGTERM, stop)
if flags["run.name"] == "fails" and not pathlib.Path("mended").exists():
    print("error: the loss is nan\\n", file=sys.stderr)
    sys.exit(2)
if flags["run.name"].startswith("hangs") and "ckpt_path" not in flags:
    pathlib.Path("hanging").touch()
    time.sleep(60)
(run / "results.json").write_text(pathlib.Path("results_of_a_run.json").read_text())
"""


@pytest.fixture
def fake_cli(tmp_path, monkeypatch):
    """The folder in which the stand-in runs, and in which it notes its calls."""
    (tmp_path / "cli.py").write_text(FAKE_CLI)
    record = fake_member()
    results = {name: record[name] for name in _TAKEN} | {"attack": record["robust"]["attack"]}
    (tmp_path / "results_of_a_run.json").write_text(json.dumps(results))
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    monkeypatch.setattr(runner, "PAUSE", 0.01)
    monkeypatch.setattr(runner, "PAUSE_FOR_OTHERS", 0.05)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def make_job():
    """A member by its name; keywords are its settings."""

    def make(name, **settings):
        member = Member(name, {"net": name}, ("fit", "--config", "kafvgg"))
        flags = tuple(f"--{key}={value}" for key, value in settings.items())
        return Job("mine", member, flags, Path("runs/mine"), Path("results/mine"), {"net": "kafvgg"} | settings)

    return make


@pytest.fixture
def calls():
    """The flags of all calls of the stand-in, and its number of threads."""

    def read():
        return [json.loads(line) for line in Path("calls.txt").read_text().splitlines()]

    return read
