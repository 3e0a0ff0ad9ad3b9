"""``cli.py inspect`` on the two checkpoints of a tiny run, and its page in a real browser."""

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from browser import Browser, find_chromium

import cli
from lightning_modules.inspection import media
from lightning_modules.inspection.command import write_inspection
from lightning_modules.inspection.earlier import check_once, earlier_networks
from lightning_modules.inspection.robustness import robust_accuracies

FAST = ["--images=8", "--attack=PGD", "--attack.steps=2"]
FILES = {"index.html", "inspect.json", "alignment.png", "distances.png", "flatness.png", "loss_surface.png"}
FILES |= {"pre_activations_01.png", "pre_activations_02.png", "smoothness.png"}


@pytest.fixture(scope="module")
def checkpoints(tiny_run: Path) -> list[str]:
    return sorted(str(path) for path in (tiny_run / "checkpoints").glob("*.ckpt"))


@pytest.fixture(scope="module")
def folder(checkpoints, tmp_path_factory) -> Path:
    """An inspection of both checkpoints of the tiny run, which is handed to W&B as well."""
    out = tmp_path_factory.mktemp("inspected") / "out"
    handed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(media, "log_media", lambda *arguments: handed.append(arguments))
        cli.main(["inspect", "--ckpt_path", *checkpoints, "--out", str(out), "--wandb=mine", *FAST])
    ((project, folder, record),) = handed
    assert (project, folder) == ("mine", out) and record["pictures"]
    return out


@pytest.fixture
def record(folder: Path) -> dict:
    """Its ``inspect.json``, with one layer, which is drawn faster than seven."""
    found = json.loads((folder / "inspect.json").read_text(encoding="utf-8"))
    for network in found["networks"]:
        assert len(network["layers"]) == 7
        network["layers"] = network["layers"][-1:]
    return found


def test_everything_is_written(folder: Path, record: dict):
    assert {path.name for path in folder.iterdir()} == FILES
    assert record["attack"].startswith("PGD-2-1 Linf eps 8/255") and record["images"] == 8
    first, second = record["networks"]
    assert first["label"] != second["label"] and "KAF" in first["label"]
    assert first["statistics"]["outside"] is not None


def test_an_inspection_is_replaced_but_nothing_else(folder: Path, record: dict, checkpoints, tmp_path, refused):
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    single = record | {"networks": record["networks"][:1]}
    write_inspection(again, single)
    assert {path.name for path in again.iterdir()} == FILES - {"pre_activations_02.png"}
    (again / "notes.txt").write_text("mine")
    said = refused(["inspect", "--ckpt_path", checkpoints[0], "--out", str(again)])
    assert "notes.txt" in said and "choose another folder" in said


def test_earlier_networks_are_shown_beside_new_ones(folder: Path, record: dict, tmp_path: Path):
    about = {name: record[name] for name in ("data", "images", "images_sha256", "attack")}
    found = earlier_networks([str(folder)], about)
    assert [each["label"] for each in found] == [each["label"] for each in record["networks"]]
    check_once(found)
    with pytest.raises(ValueError, match="is given twice by --ckpt_path and --add"):
        check_once([*found, found[0]])
    with pytest.raises(ValueError, match="has images 8, this inspection 9"):
        earlier_networks([str(folder / "inspect.json")], about | {"images": 9})
    (tmp_path / "inspect.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is no inspect\.json of this version"):
        earlier_networks([str(tmp_path)], about)


def test_mistakes_are_named_before_any_work(checkpoints, tmp_path, refused):
    def say(*arguments):
        return refused(["inspect", "--out", str(tmp_path / "out"), "--ckpt_path", *arguments])

    (tmp_path / "no.ckpt").write_text("no checkpoint")
    assert "no.ckpt is not a readable checkpoint" in say(str(tmp_path / "no.ckpt"))
    assert "does not exist" in say(str(tmp_path / "absent.ckpt"))
    assert "twice" in say(checkpoints[0], checkpoints[0])
    assert "--images=100000, but there are only" in say(checkpoints[0], "--images=100000")
    assert "--attack.restarts must be 1" in say(checkpoints[0], "--attack=PGD", "--attack.restarts=2")
    assert "is no robustness.json" in say(checkpoints[0], "--tests", str(tmp_path))
    assert "inspect takes no --model.seed" in say(checkpoints[0], "--model.seed=1")
    bigger = torch.load(checkpoints[1], weights_only=True)
    bigger["config"] = bigger["config"].replace("datamodules.Digits", "datamodules.MNIST")
    torch.save(bigger, tmp_path / "mnist.ckpt")
    said = say(checkpoints[0], str(tmp_path / "mnist.ckpt"))
    assert "Digits (10 classes" in said and "MNIST (10 classes" in said
    bigger["config"] = bigger["config"].replace("datamodules.MNIST", "datamodules.Digits")
    bigger["config"] = bigger["config"].replace("8/255", "4/255")
    torch.save(bigger, tmp_path / "eps.ckpt")
    said = say(checkpoints[0], str(tmp_path / "eps.ckpt"))
    assert "Linf eps 8/255" in said and "Linf eps 4/255" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_page_is_logged_to_wandb_offline(folder: Path, record: dict, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    media.log_media("mine", folder, record)
    (run,) = tmp_path.glob("runs/wandb/offline-run-*/*.wandb")
    files = {path.name.split("_0_")[0] for path in (run.parent / "files" / "media").rglob("*") if path.is_file()}
    assert files == {"page", "networks", *record["pictures"]}
    command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", "--summary", str(run)]
    logged = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)
    assert logged["config"]["attack"] == record["attack"] and set(record["pictures"]) <= {
        key.removeprefix("inspect/").split(".")[0] for key in logged["summary"]
    }


def test_the_worst_case_counts_if_every_network_has_it():
    attacks = {"pgd": {"attack": {"attack": "PGD", "eps": 0.1}}}
    full = {"worst_case": {"accuracy": 0.2, "images": 50}, "attacks": attacks, "data_sha256": "x"}
    networks = [{"images": 8, "attacked": {"accuracy": 0.5}, "full_evaluation": full} for _ in range(2)]
    assert robust_accuracies(networks) == ([full["worst_case"]] * 2, "worst case of 1 attacks on 50 test images")
    networks[1] = networks[1] | {"full_evaluation": full | {"worst_case": {"accuracy": 0.2, "images": 60}}}
    assert robust_accuracies(networks)[0] == [{"accuracy": 0.5}] * 2


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine")
def test_the_page_of_five_networks_opens_without_an_error(record: dict, tmp_path: Path):
    networks = []
    for i in range(5):
        network = copy.deepcopy(record["networks"][i % 2])
        network["axes"]["activation"] = f"<b>{i}</b> & $x$"
        network["attacked"] |= {"accuracy": 0.1 * i, "wilson95_low": 0.1 * i, "wilson95_high": 0.1 * i + 0.05}
        network["layers"][0] |= {"flat": 0.1 * i, "curvature": "inf" if i > 3 else float(i)}
        networks.append(network)
    networks[3]["layers"] *= 2
    networks[4]["layers"][0] |= {"shape": None, "slope": None, "squared_curvature": "inf"}
    write_inspection(tmp_path / "out", record | {"networks": networks})
    opened = Browser(tmp_path / "out" / "index.html", tmp_path / "profile")
    shown = opened.run("[...document.querySelectorAll('figure')].map(figure => figure.id)")
    assert shown[-2:] == ["rank_correlations", "against_robustness"] and len(shown) == 12
    assert opened.run("[...document.querySelectorAll('figure svg')].every(s => s.getBoundingClientRect().height > 50)")
    assert opened.run("document.documentElement.scrollWidth <= innerWidth")
    assert opened.run("document.querySelectorAll('main b').length") == 0
    assert opened.run("document.querySelector('.statement ~ .statement').textContent").startswith("Over 5 networks")
    assert opened.complaints() == []
    opened.close()
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "http" not in text.replace("http://www.w3.org", "")
