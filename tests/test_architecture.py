"""Imports between packages: one direction, no circles, no application libraries in kafnets."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("kafnets", "lightning_modules", "datamodules", "cli")
LAYERS = [f"kafnets.{name}" for name in ("functional", "ops", "activations", "backbones")]
ATTACKING = [f"kafnets.{name}" for name in ("threat", "attacks", "objectives")]
HIGHER = [
    "lightning_modules",
    "datamodules",
    "cli",
    "pytorch_lightning",
    "lightning",
    "wandb",
    "jsonargparse",
    "sklearn",
]
# kafnets.fused is optional: configurations name it, and no other package imports it
# kafnets.certify reads networks layer by layer; objectives train on its bounds
TOPS = ["kafnets.analysis", "kafnets.plots", "kafnets.fused", "kafnets.saved", "matplotlib"]

# package -> modules that it and its submodules must not import
FORBIDDEN = {
    "kafnets": HIGHER,
    **{layer: [*LAYERS[i + 1 :], *ATTACKING, *TOPS, "kafnets.certify"] for i, layer in enumerate(LAYERS)},
    **{layer: [*ATTACKING[i + 1 :], *LAYERS, *TOPS] for i, layer in enumerate(ATTACKING)},
    **{
        f"kafnets.{name}": [*LAYERS, *ATTACKING, *TOPS]
        for name in ("losses", "metrics", "schedules", "logits", "keyed_random", "device_reads", "described", "files")
    },
    "kafnets.certify": ["kafnets.attacks", "kafnets.objectives", *TOPS],
    "kafnets.analysis": ["kafnets.plots", "kafnets.fused", "kafnets.saved", "kafnets.objectives", "matplotlib"],
    "kafnets.plots": ["kafnets.fused", "kafnets.saved", "kafnets.objectives"],
    "kafnets.saved": [*ATTACKING, "kafnets.analysis", "kafnets.plots", "kafnets.fused", "matplotlib"],
    "kafnets.fused": [*ATTACKING, "kafnets.analysis", "kafnets.plots", "kafnets.saved", "matplotlib"],
    "datamodules": ["kafnets", "lightning_modules", "cli"],
    "lightning_modules": ["cli", "datamodules", "kafnets.fused"],
}


def modules(root):
    """Every module of the packages: its dotted name and its file."""
    found = {}
    for package in PACKAGES:
        for file in [root / f"{package}.py", *(root / package).rglob("*.py")]:
            if file.is_file():
                parts = file.relative_to(root).with_suffix("").parts
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def within(name, package):
    return name == package or name.startswith(f"{package}.")


def imports(name, file, known):
    """The modules that a module imports anywhere in its file, except under TYPE_CHECKING."""
    tree = ast.parse(file.read_text())
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(part for part in (above, node.module) if part)
            names = {f"{source}.{alias.name}" for alias in node.names}
            found |= names & known
            found |= {source} if names - known else set()
    return found


def graph(root):
    files = modules(root)
    return {name: imports(name, file, set(files)) for name, file in files.items()}


def broken_rules(found):
    """``importer -> imported`` for each import that a rule forbids."""
    broken = set()
    for package, forbidden in FORBIDDEN.items():
        for name in found:
            if within(name, package):
                bad = (target for target in found[name] if any(within(target, f) for f in forbidden))
                broken |= {f"{name} -> {target}" for target in bad}
    return sorted(broken)


def circle(found):
    """The modules of a circle of imports, in order; empty if there is none."""
    done, path = set(), []

    def run(name):  # importing a.b.c runs a and a.b as well, unless the importer lies in them
        parents = {".".join(t.split(".")[:depth]) for t in found[name] for depth in range(1, t.count(".") + 1)}
        return found[name] | {parent for parent in parents if not within(name, parent)}

    def visit(name):
        if name in path:
            return path[path.index(name) :]
        if name in done or name not in found:
            return []
        path.append(name)
        for target in sorted(run(name)):
            if round_trip := visit(target):
                return round_trip
        path.pop()
        done.add(name)
        return []

    for name in sorted(found):
        if round_trip := visit(name):
            return round_trip
    return []


def test_the_graph_holds_modules_and_their_imports():
    found = graph(ROOT)
    assert {"kafnets.attacks.base", "kafnets.backbones", "lightning_modules.classifier", "cli"} <= set(found)
    assert "kafnets.keyed_random" in found["kafnets.attacks.base"]
    assert "datamodules" in found["cli"]


def test_imports_run_one_way():
    assert broken_rules(graph(ROOT)) == []


def test_no_imports_in_circles():
    assert circle(graph(ROOT)) == []


def plant(root, files):
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return graph(root)


@pytest.mark.parametrize(
    ("file", "text", "found"),
    [
        (
            "kafnets/attacks/base.py",
            "from kafnets.backbones import KafVGG",
            "kafnets.attacks.base -> kafnets.backbones",
        ),
        ("kafnets/losses/mart.py", "import kafnets.ops.kaf", "kafnets.losses.mart -> kafnets.ops.kaf"),
        ("kafnets/metrics/x.py", "from kafnets import activations", "kafnets.metrics.x -> kafnets.activations"),
        ("kafnets/schedules.py", "from .functional import kaf", "kafnets.schedules -> kafnets.functional"),
        ("kafnets/functional.py", "from kafnets.ops import kaf", "kafnets.functional -> kafnets.ops"),
        ("kafnets/ops/kaf.py", "from ..activations import KAF", "kafnets.ops.kaf -> kafnets.activations"),
        (
            "kafnets/activations/__init__.py",
            "def f():\n import kafnets.backbones",
            "kafnets.activations -> kafnets.backbones",
        ),
        ("kafnets/plots/x.py", "import wandb", "kafnets.plots.x -> wandb"),
        ("kafnets/metrics/x.py", "from pytorch_lightning import Trainer", "kafnets.metrics.x -> pytorch_lightning"),
        ("kafnets/x.py", "import lightning.pytorch as pl", "kafnets.x -> lightning.pytorch"),
        ("datamodules/x.py", "from kafnets.schedules import Constant", "datamodules.x -> kafnets.schedules"),
        ("datamodules/x.py", "import lightning_modules", "datamodules.x -> lightning_modules"),
        ("lightning_modules/x.py", "import cli", "lightning_modules.x -> cli"),
        ("lightning_modules/a/x.py", "from datamodules import Digits", "lightning_modules.a.x -> datamodules"),
        ("kafnets/analysis/x.py", "import matplotlib.pyplot", "kafnets.analysis.x -> matplotlib.pyplot"),
        ("kafnets/activations/x.py", "import matplotlib.pyplot", "kafnets.activations.x -> matplotlib.pyplot"),
        ("kafnets/threat/x.py", "import kafnets.attacks", "kafnets.threat.x -> kafnets.attacks"),
        ("kafnets/attacks/x.py", "import kafnets.objectives", "kafnets.attacks.x -> kafnets.objectives"),
        (
            "kafnets/objectives/x.py",
            "from kafnets.backbones import KafVGG",
            "kafnets.objectives.x -> kafnets.backbones",
        ),
        ("kafnets/losses/x.py", "import kafnets.threat", "kafnets.losses.x -> kafnets.threat"),
        ("kafnets/analysis/x.py", "import kafnets.fused", "kafnets.analysis.x -> kafnets.fused"),
        ("lightning_modules/x.py", "from kafnets.fused import Fused", "lightning_modules.x -> kafnets.fused"),
    ],
)
def test_a_planted_import_is_found(tmp_path, file, text, found):
    known = {f"kafnets/{name}.py": "" for name in ("functional", "ops/__init__", "activations/__init__")}
    assert broken_rules(plant(tmp_path, {**known, file: text})) == [found]


def test_allowed_imports_pass(tmp_path):
    files = {
        "kafnets/analysis/x.py": "from kafnets.activations import KAF\nfrom kafnets.backbones import KafVGG",
        "kafnets/plots/x.py": "from kafnets.analysis.x import y\nimport matplotlib",
        "kafnets/backbones/__init__.py": "from kafnets.activations import KAF",
        "kafnets/attacks/x.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import wandb",
        "lightning_modules/x.py": "import kafnets.backbones, pytorch_lightning, wandb",
        "cli.py": "import kafnets, lightning_modules, datamodules",
    }
    found = plant(tmp_path, files)
    assert broken_rules(found) == []
    assert circle(found) == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"a.py": "from kafnets.b import x", "b.py": "def f():\n from kafnets import c", "c.py": "import kafnets.a"},
            ["kafnets.a", "kafnets.b", "kafnets.c"],
        ),
        (  # importing kafnets.a.y runs kafnets.a first, which imports kafnets.b again
            {"a/__init__.py": "from kafnets.b import x", "a/y.py": "", "b.py": "from kafnets.a.y import z"},
            ["kafnets.a", "kafnets.b"],
        ),
        (
            {"a/__init__.py": "from kafnets.a.y import z", "a/y.py": "from kafnets.a import w"},
            ["kafnets.a", "kafnets.a.y"],
        ),
    ],
)
def test_a_planted_circle_is_found(tmp_path, files, expected):
    assert circle(plant(tmp_path, {f"kafnets/{name}": text for name, text in files.items()})) == expected
