"""The command line of ``python cli.py inspect``."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kafnets.analysis.activation_statistics import explained, explanation, statistics
from kafnets.analysis.activation_study import activation_study
from kafnets.attacks import PGD, Attack
from lightning_modules.command_line.parser import OneLineParser
from lightning_modules.files import write_figure, write_json, write_text
from lightning_modules.inspection.earlier import check_once, earlier_networks
from lightning_modules.inspection.figures import pictures
from lightning_modules.inspection.images import Images, data_settings, load_images
from lightning_modules.inspection.inspected import Inspected, full_evaluations, one_threat, open_checkpoints
from lightning_modules.inspection.labels import labels
from lightning_modules.inspection.page import page
from lightning_modules.inspection.robustness import robust_accuracies
from lightning_modules.measuring import in_float32
from lightning_modules.studies.command import split_flags

OWN_FILES = ("index.html", "inspect.json")


def main(arguments: list[str]) -> None:
    """Inspect the checkpoints that the arguments name.

    Raises:
        ValueError, OSError: in one line, before any work.
    """
    own, flags = split_flags(arguments)
    parser = _parser()
    asked = parser.parse_args(own + [flag for flag in flags if flag.startswith("--attack.")])
    out = Path(asked.out)
    _check_out(out)
    if asked.images < 2 or asked.batch_size < 1:
        raise ValueError(f"--images must be >= 2 and --batch_size >= 1, got {asked.images} and {asked.batch_size}")
    inspected = open_checkpoints(asked.ckpt_path, asked.own)
    attack = _attack(parser.instantiate(asked).attack, inspected)
    evaluations = full_evaluations(inspected, asked.tests)
    settings = data_settings(inspected[0].settings, [flag for flag in flags if not flag.startswith("--attack.")])
    net = inspected[0].net
    sizes = {name: getattr(net, name) for name in ("num_classes", "in_channels", "image_size")}
    images = load_images(settings, asked.images, sizes)
    known = earlier_networks(asked.add, images.about | {"attack": str(attack)})
    begun = [{"axes": each.axes, "checkpoint": str(each.path), **each.hashes()} for each in inspected]
    check_once([*known, *begun])
    _, names = labels([*known, *begun])
    networks = list(known)
    for each, about, name, evaluation in zip(inspected, begun, names[len(known) :], evaluations, strict=True):
        begin = time.monotonic()
        record = _study(each, images, attack, asked.batch_size)
        networks.append(about | record | {"full_evaluation": evaluation})
        shares = " and ".join(f"{100 * record[kind]['accuracy']:.1f} % {kind}" for kind in ("clean", "attacked"))
        print(f"{name}: {shares}, {time.monotonic() - begin:.0f} s", flush=True)
    written = write_inspection(out, {"format": 1, **images.about, "attack": str(attack), "networks": networks})
    print(f"written to {out / 'index.html'}")
    if asked.wandb:
        from lightning_modules.inspection.media import log_media  # W&B takes a second to import

        log_media(asked.wandb, out, written)


def write_inspection(out: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Write ``index.html``, ``inspect.json`` and a PNG per picture, and return the record as it is in ``inspect.json``.

    Files of an earlier inspection are replaced.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in _pictures_of(out):
        (out / f"{name}.png").unlink(missing_ok=True)
    axes, names = labels(record["networks"])
    for network, shown, name in zip(record["networks"], axes, names, strict=True):
        network |= {"label": name, "shown_axes": shown, "statistics": statistics(network)}
    robust, measured = robust_accuracies(record["networks"])
    found = explained(record["networks"], [each["accuracy"] for each in robust])
    record["robust_accuracy"] = {"measured": measured, "values": [each["accuracy"] for each in robust]}
    record["explanation"] = explanation(found, [(each["wilson95_low"], each["wilson95_high"]) for each in robust])
    drawn = pictures(record, found)
    record["pictures"] = [picture.name for picture in drawn]
    write_json(out / "inspect.json", record)
    for picture in drawn:
        write_figure(out / f"{picture.name}.png", picture.figure)
    write_text(out / "index.html", page(record, drawn, found))
    return record


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="cli.py inspect",
        description="What the activations of trained networks do with clean and attacked images. --data.path=PLACE: "
        "where the images of the first checkpoint's data are now.",
    )
    parser.add_argument(
        "--ckpt_path", type=str, nargs="+", required=True, help="Checkpoints, or run folders: their best ones."
    )
    parser.add_argument("--out", type=str, required=True, help="Folder for index.html, inspect.json and pictures.")
    parser.add_argument("--images", type=int, default=300, help="How many test images to attack.")
    parser.add_argument("--batch_size", type=int, default=100, help="Images at once; memory grows with it.")
    parser.add_subclass_arguments(Attack, "attack", required=False, help="Default: PGD with 20 steps.")
    parser.add_argument(
        "--add", type=str, nargs="+", default=[], help="Earlier inspections, on the same images: their networks too."
    )
    parser.add_argument("--tests", type=str, nargs="+", default=[], help="Run folders of tests that lie elsewhere.")
    parser.add_argument(
        "--wandb", type=str, metavar="PROJECT", help="W&B project to which page and pictures are logged."
    )
    parser.add_argument("--own", type=str, nargs="+", default=[], help="Packages of yours that checkpoints may name.")
    return parser


def _attack(asked: Attack | None, inspected: Sequence[Inspected]) -> Attack:
    attack = asked or PGD(steps=20)
    if attack.restarts != 1:
        raise ValueError(f"--attack.restarts must be 1, got {attack.restarts}: one search of each image is followed")
    if len({attack.within(each.threat).threat for each in inspected}) == 1:
        return attack.within(inspected[0].threat)  # all the same, or the attack states its own
    return attack.within(one_threat(inspected))


def _study(each: Inspected, images: Images, attack: Attack, batch_size: int) -> dict[str, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x, y, index = (tensor.to(device) for tensor in (images.x, images.y, images.index))
    net = each.net.to(device)
    view = each.attack_view()
    with in_float32(device):
        return activation_study(
            net, x, y, attack, index=index, starts=each.starts(), attacked_as=view, batch_size=batch_size
        )


def _check_out(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; give a folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    own = {*OWN_FILES, *(f"{name}.png" for name in _pictures_of(out))}
    foreign = sorted(path.name for path in out.iterdir() if path.name not in own)
    if foreign or not (out / "inspect.json").is_file():
        raise ValueError(
            f"--out {out} holds something else than an earlier inspection ({foreign[0] if foreign else 'index.html'}); "
            "nothing is overwritten, choose another folder"
        )


def _pictures_of(out: Path) -> list[str]:
    """The pictures of an earlier inspection in the folder."""
    try:
        names = json.loads((out / "inspect.json").read_text(encoding="utf-8"))["pictures"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [name for name in names if isinstance(name, str) and "/" not in name]
