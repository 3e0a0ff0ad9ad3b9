"""The built wheel holds only the library, and works without the application's packages."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# matplotlib: torchmetrics loads it where it is installed; see tests/kafnets/test_optional_imports.py
APPLICATION = ["pytorch_lightning", "lightning", "jsonargparse", "wandb", "sklearn"]

USE = """
from pathlib import Path
import kafnets.analysis, kafnets.attacks, kafnets.backbones, kafnets.fused, kafnets.metrics, kafnets.objectives
import torch
from kafnets.activations import KAF
from kafnets.attacks import PGD
from kafnets.backbones import KafVGG
from kafnets.fused import Fused
from kafnets.keyed_random import image_keys
from kafnets.objectives import Adversarial, Batch
from kafnets.saved import write_network
from kafnets.threat import ThreatModel

torch.manual_seed(0)
net = KafVGG(activation=KAF, width=4, hidden=8, image_size=8)
x, y, keys = torch.rand(6, 3, 8, 8), torch.randint(10, (6,)), image_keys(torch.arange(6), 0)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
before = net.fc.weight.clone()
terms = Adversarial()(net, Batch(x, y, keys, epoch=0.0, threat=ThreatModel(eps=0.1)))
terms.loss.backward()
optimizer.step()
assert not torch.equal(net.fc.weight, before) and torch.isfinite(net.fc.weight).all()
x_adv = PGD(eps=0.1, steps=3)(Fused(net.eval()), x, y)
assert (x_adv - x).abs().max() <= 0.1
sizes = {"width": 4, "hidden": 8, "image_size": 8}
plan = {"class": "KafVGG", "arguments": {"activation": {"factory": "KAF", "arguments": {}}, **sizes}}
write_network(Path(), net, plan, {"licence": None})
assert torch.equal(kafnets.load(".")(x), net(x))
from kafnets.ops import engine_for
print(kafnets.__file__ or list(kafnets.__path__)[0], engine_for(torch.device("cpu")))
"""
BLOCK = f"import sys\nfor name in {APPLICATION}:\n    sys.modules[name] = None\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that nothing is left in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("kafnets", "lightning_modules", "datamodules"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "cli.py"):
        shutil.copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (found,) = out.glob("kafnets-*.whl")
    return found


def test_the_wheel_holds_only_the_library_and_its_sources(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"kafnets"}
    expected = {
        str(path.relative_to(ROOT))
        for suffix in ("py", "cpp", "h")
        for path in (ROOT / "kafnets").rglob(f"*.{suffix}")
        if "__pycache__" not in path.parts
    }
    assert expected <= set(names)


def test_the_library_works_without_the_application_s_packages(wheel: Path, tmp_path: Path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + USE],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith(str(site)), "the wheel's kafnets, not the checkout's"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_installs_into_an_empty_environment(wheel: Path, tmp_path: Path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel)], check=True, timeout=800)
    done = subprocess.run([python, "-c", USE], cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith(str(tmp_path))
