"""The library works without its optional packages; only the pictures need matplotlib."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
OPTIONAL = ["matplotlib", "sklearn", "pytorch_lightning", "lightning", "wandb", "jsonargparse"]
SCRIPT = """
import importlib, importlib.metadata, sys

optional, names = (argument.split(",") for argument in sys.argv[1:])
sys.modules.update(dict.fromkeys(optional))  # a module that is None cannot be imported
installed = importlib.metadata.distribution

def distribution(name):  # torchmetrics asks this whether matplotlib is installed
    if name in optional:
        raise importlib.metadata.PackageNotFoundError(name)
    return installed(name)

importlib.metadata.distribution = distribution
for name in names:
    importlib.import_module(name)
try:
    import kafnets.plots
except ImportError as error:
    print(error)
"""


def test_all_but_the_pictures_can_be_imported_without_optional_packages():
    files = sorted((ROOT / "kafnets").rglob("*.py"))
    parts = [file.relative_to(ROOT).with_suffix("").parts for file in files]
    names = [".".join(part[:-1] if part[-1] == "__init__" else part) for part in parts if part[1] != "plots"]
    assert {"kafnets", "kafnets.activations", "kafnets.attacks", "kafnets.backbones", "kafnets.metrics"} <= set(names)
    command = [sys.executable, "-c", SCRIPT, ",".join(OPTIONAL), ",".join(names)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "matplotlib" in finished.stdout
