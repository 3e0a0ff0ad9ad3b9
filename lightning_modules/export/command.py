"""The command line of ``python cli.py export``."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

import kafnets
from kafnets.attacks.identity import identity_digest
from kafnets.backbones import Backbone
from kafnets.saved import check_onnx_installed, write_network, write_onnx
from lightning_modules.command_line.parser import OneLineParser
from lightning_modules.command_line.run_folder import find_checkpoint
from lightning_modules.export.blueprint import blueprint
from lightning_modules.export.measured import Measured, measured
from lightning_modules.files import sha256, write_json
from lightning_modules.load_classifier import load_with_settings
from lightning_modules.provenance import PLACES, code_version


def main(arguments: list[str]) -> None:
    """Export the network of a checkpoint.

    Raises:
        ValueError: if the checkpoint can't be read, the folder is in use, or what was written differs from it.
    """
    asked = _parser().parse_args(arguments)
    out = Path(asked.out).resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} exists and is not an empty folder; nothing is overwritten, choose another one")
    without_onnx = _why_no_onnx(asked.onnx)
    if asked.ckpt_path in ("best", "last"):
        raise ValueError(f"--ckpt_path {asked.ckpt_path} leaves open of which run; give a file or a run folder")
    path = find_checkpoint(asked.ckpt_path, Path("runs"), "unnamed")
    net, settings, checkpoint = load_with_settings(path, asked.own)
    plan = blueprint(settings["model"]["net"], asked.own)
    hashes = {"checkpoint_sha256": sha256(path), "network_sha256": identity_digest(net)}
    found = measured(path, hashes, asked.tests)
    about = _about(net, checkpoint, settings, found) | {"licence": asked.licence, **hashes}
    with _whole_folder(out) as part:
        if not without_onnx:
            try:
                about["onnx"] = _onnx(net, part / "model.onnx")
            except Exception as error:  # the exporter raises errors of many kinds
                if asked.onnx:
                    raise
                without_onnx = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        write_network(part, net, plan, about)
        if found.claim:
            write_json(part / "claim.json", found.claim)
        _check_same(part, net, plan)
    _say(out, found, about)
    if without_onnx and asked.onnx is None:
        print(f"no model.onnx: {without_onnx}")


def _onnx(net: Backbone, path: Path) -> dict[str, Any]:
    try:
        return {"largest_difference": write_onnx(net, path), "sha256": sha256(path)}
    except Exception:
        path.unlink(missing_ok=True)
        raise


def _why_no_onnx(asked: bool | None) -> str:
    """Why no ONNX file is written; empty if one is. If nobody asked, packages may be missing."""
    if asked is False:
        return "--onnx=false"
    try:
        check_onnx_installed()
    except ValueError as error:
        if asked:
            raise
        return str(error)
    return ""


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="cli.py export", description="Export the network of a checkpoint.")
    parser.add_argument("--ckpt_path", type=str, required=True, help="A checkpoint, or a run folder: its best one.")
    parser.add_argument("--out", type=str, required=True, help="The folder to write: a new one, or an empty one.")
    onnx = "Whether to write model.onnx: by default if its packages are installed; false leaves it out."
    parser.add_argument("--onnx", type=bool | None, default=None, nargs="?", const=True, help=onnx)
    parser.add_argument("--licence", type=str | None, default=None, help="Name of the licence of the weights.")
    parser.add_argument("--tests", type=str, nargs="+", default=[], help="Run folders of its tests that lie elsewhere.")
    parser.add_argument(
        "--own", type=str, nargs="+", default=[], help="Packages of yours that the checkpoint may name."
    )
    return parser


def _about(net: Backbone, checkpoint: dict[str, Any], settings: dict[str, Any], found: Measured) -> dict[str, Any]:
    record = checkpoint.get("record", {})
    return {
        "architecture": net.label,
        "activation": net.activation_label,
        "images": {"shape": [net.in_channels, net.image_size, net.image_size], "range": [0, 1]},
        "classes": net.num_classes,
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "weights": record.get("weights", "of the last step"),
        "changed_objective": record.get("objective"),
        "trained_on": checkpoint.get("trained_on"),
        "metrics": found.metrics,
        "settings": settings | {"data": _without_places(settings.get("data", {}))},
        "code": {"trained": checkpoint.get("code"), "exported": code_version()},
    }


def _without_places(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in PLACES}


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """Yield a folder beside ``out`` to write to, and rename it to ``out`` when the body has ended."""
    part = out.with_name(f".{os.getpid()}.{out.name}")
    part.mkdir(parents=True)
    try:
        yield part
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_same(folder: Path, net: Backbone, plan: Any) -> None:
    """Load what was written, and compare its logits on random images."""
    again = kafnets.load(folder, own=[_imported(name) for name in _own_names(plan)])
    x = torch.rand(8, net.in_channels, net.image_size, net.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if not torch.equal(again(x), net(x)):
            raise ValueError("the exported network computes other logits than that of the checkpoint; nothing is kept")


def _own_names(plan: Any) -> Iterator[str]:
    if isinstance(plan, list):
        plan = dict(enumerate(plan))
    if isinstance(plan, dict):
        for key, value in plan.items():
            if (
                key in ("class", "factory", "function")
                and "." in value
                and not value.startswith(("torch.", "kafnets."))
            ):
                yield value
            else:
                yield from _own_names(value)


def _imported(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def _say(out: Path, found: Measured, about: dict[str, Any]) -> None:
    print(
        f"{about['architecture']} {about['activation']}, {about['parameters']} parameters: kafnets.load({str(out)!r})"
    )
    print(f"files: {', '.join(sorted(path.name for path in out.iterdir()))}")
    if found.metrics is None:
        print("card.json has no metrics, because no test of this network was found: cli.py test, or --tests FOLDER")
    if found.claim is None:
        print("no claim.json: that needs a finished test with --config eval_full.yaml")
    for folder in found.others:
        print(f"left out: {folder} tested this checkpoint with other settings of the network, or with older code")
    if about["licence"] is None:
        print("card.json states no licence: --licence NAME")
