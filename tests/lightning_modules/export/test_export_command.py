"""``cli.py export``: what the folder holds, and what is refused."""

import json

import pytest
import torch
import yaml

import cli
import kafnets
from kafnets.activations import KWTA, ResidualKAF
from kafnets.attacks.identity import identity_digest
from kafnets.backbones import KafVGG
from lightning_modules.export import command
from lightning_modules.files import sha256, write_json
from lightning_modules.load_classifier import load_classifier

RIDGE = {"class_path": "kafnets.activations.Ridge", "init_args": {"target": "torch.nn.functional.silu"}}
KAF = {"class_path": "kafnets.activations.KAF", "init_args": {"num_dict": 10, "init": RIDGE}}
RESIDUAL = {
    "class_path": "kafnets.activations.ResidualKAF",
    "init_args": {"kaf": KAF, "base": "kafnets.activations.SiLU"},
}
FIGURE = {"accuracy": 0.5, "wilson95_low": 0.4, "wilson95_high": 0.6, "images": 90}


def make_run(folder, activation=RESIDUAL, package="kafnets.backbones", **more):
    """A run folder with a checkpoint and its test, as a training leaves it; returns the checkpoint."""
    arguments = {"activation": activation, "width": 2, "hidden": 4, "image_size": 8, "dropout": [0.1, 0.1, 0.1, 0.1]}
    net = {"class_path": f"{package}.KafVGG", "init_args": arguments}
    module = {"class_path": "lightning_modules.AdversarialTraining", "init_args": {"net": net}}
    config = {
        "model": module,
        "data": {"class_path": "datamodules.Digits", "init_args": {"path": "/home/me/images.tar"}},
    }
    path = folder / "runs" / "a" / "version_0" / "checkpoints" / "best-epoch=001.ckpt"
    path.parent.mkdir(parents=True)
    kind = KWTA if "KWTA" in str(activation) else ResidualKAF
    factory = (lambda n: KWTA(n, ratio=0.3)) if kind is KWTA else (
        lambda n: ResidualKAF(n, base=kafnets.activations.SiLU, kaf=lambda n: kafnets.activations.KAF(n, num_dict=10))
    )  # fmt: skip
    torch.manual_seed(0)
    state = KafVGG(**{**arguments, "activation": factory}).state_dict()
    about = {"code": "0.1.0 abc", "trained_on": {"data": "Digits", "data_sha256": "123"}}
    torch.save(
        {"state_dict": {f"net.{k}": v for k, v in state.items()}, "config": yaml.dump(config)} | about | more, path
    )
    return path


def add_test(folder, checkpoint, images=90, **change):
    hashes = {"checkpoint_sha256": sha256(checkpoint), "network_sha256": identity_digest(load_classifier(checkpoint))}
    record = {"clean": FIGURE, "robust": FIGURE | {"images": images}, "attack": {"attack": "PGD"}, "data": "Digits"}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", record | hashes | change)


def export(checkpoint, out, *more, onnx=("--onnx=false",)):
    cli.main(["export", "--ckpt_path", str(checkpoint), "--out", str(out), *more, *onnx])
    return json.loads((out / "card.json").read_text())


def test_the_folder_says_what_the_network_is(tmp_path, capsys):
    average = "exponential average with decay 0.995 of 20 steps"
    checkpoint = make_run(tmp_path, record={"weights": average}, live_net={"fc.bias": torch.ones(10)})
    runs = checkpoint.parents[2]
    add_test(runs / "version_1", checkpoint)
    add_test(runs / "version_2", checkpoint, images=50)
    add_test(runs / "version_3", checkpoint, images=1000, checkpoint_sha256="of another one")
    add_test(runs / "version_4", checkpoint, images=1000, network_sha256="of other settings")
    card = export(runs / "version_0", tmp_path / "out", "--licence", "MIT")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"card.json", "model.safetensors"}
    x = torch.rand(4, 3, 8, 8)
    assert torch.equal(kafnets.load(tmp_path / "out")(x), load_classifier(checkpoint)(x))
    assert (card["activation"], card["weights"], card["licence"]) == ("SiLU+KAF_silu", average, "MIT")
    assert card["architecture"].startswith("KafVGG(") and card["code"]["trained"] == "0.1.0 abc"
    assert "/home/me" not in json.dumps(card), "a card says nothing about the machine"
    assert card["trained_on"]["data_sha256"] == "123" and card["settings"]["data"]["class_path"] == "datamodules.Digits"
    test = card["metrics"]["test"]
    assert test["robust"] == FIGURE | {"attack": {"attack": "PGD"}} and test["clean"] == FIGURE
    assert test["data"] == "Digits" and card["checkpoint_sha256"] == sha256(checkpoint)
    assert card["sha256"]["model.safetensors"] == sha256(tmp_path / "out" / "model.safetensors")
    printed = capsys.readouterr().out
    assert "kafnets.load(" in printed and "version_4 tested this checkpoint with other settings" in printed


def test_a_card_without_figures_says_so_and_a_ratio_of_k_wta_is_kept(tmp_path, capsys):
    kwta = {"class_path": "kafnets.activations.KWTA", "init_args": {"ratio": 0.3}}
    checkpoint = make_run(tmp_path, kwta)
    stored = torch.load(checkpoint)
    states = [name for name in stored["state_dict"] if name.endswith("_extra_state")]
    stored["state_dict"] |= dict.fromkeys(states, torch.tensor([0.15, 0.3], dtype=torch.float64))  # after a schedule
    torch.save(stored, checkpoint)
    assert export(checkpoint, tmp_path / "out")["metrics"] is None
    assert "card.json has no metrics" in capsys.readouterr().out
    ratios = {module.ratio for module in kafnets.load(tmp_path / "out").modules() if isinstance(module, KWTA)}
    assert ratios == {0.15}


def test_mistakes_are_refused_and_leave_nothing(tmp_path, refused):
    checkpoint = make_run(tmp_path)
    out, used = tmp_path / "out", tmp_path / "used"
    used.mkdir()
    (used / "notes.txt").write_text("mine")
    words = ["export", "--ckpt_path", str(checkpoint), "--out"]
    assert "used exists and is not an empty folder; nothing is overwritten" in refused([*words, str(used)])
    assert [path.name for path in used.iterdir()] == ["notes.txt"]
    assert "version_0 holds no test of this network" in refused(
        [*words, str(out), "--tests", str(checkpoint.parents[1])]
    )
    assert refused(["export", "--out", str(out)]) == "error: the following arguments are required: ckpt_path"
    assert "leaves open of which run" in refused(["export", "--ckpt_path", "best", "--out", str(out)])
    assert "does not exist" in refused(["export", "--ckpt_path", "no.ckpt", "--out", str(out)])
    foreign = make_run(tmp_path / "foreign", package="somebody.else")
    assert "names somebody.else.KafVGG" in refused(["export", "--ckpt_path", str(foreign), "--out", str(out)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign", "runs", "used"]


def test_a_network_that_would_come_back_different_is_not_written(tmp_path, refused, monkeypatch):
    checkpoint = make_run(tmp_path)
    plan = command.blueprint

    def forgetful(settings, own):
        found = plan(settings, own)
        return found | {"arguments": found["arguments"] | {"std": 2.0}}

    monkeypatch.setattr(command, "blueprint", forgetful)
    line = refused(["export", "--ckpt_path", str(checkpoint), "--out", str(tmp_path / "out")])
    assert "computes other logits than that of the checkpoint; nothing is kept" in line
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.parametrize("asked", [[], ["--onnx"], ["--onnx", "true"]])
def test_the_onnx_file_is_written_and_the_card_states_how_far_it_differs(tmp_path, monkeypatch, asked):
    (tmp_path / "out").mkdir()  # an empty folder may be there
    monkeypatch.setattr(command, "check_onnx_installed", lambda: None)
    monkeypatch.setattr(command, "write_onnx", lambda net, path: path.write_bytes(b"1234") / 1e6)
    card = export(make_run(tmp_path), tmp_path / "out", onnx=asked)
    assert card["onnx"] == {"largest_difference": 4e-6, "sha256": sha256(tmp_path / "out" / "model.onnx")}


def test_an_onnx_file_that_is_left_out_is_said_unless_nobody_wants_it(tmp_path, monkeypatch, capsys, refused):
    monkeypatch.setattr("kafnets.saved.onnx_file.NEEDED", ("no_such_package",))
    checkpoint = make_run(tmp_path)
    assert "onnx" not in export(checkpoint, tmp_path / "out", onnx=[])
    assert "no model.onnx: ONNX needs no_such_package: pip install 'kafnets[export]'" in capsys.readouterr().out
    export(checkpoint, tmp_path / "plain")
    assert "model.onnx" not in capsys.readouterr().out
    words = ["export", "--ckpt_path", str(checkpoint), "--out", str(tmp_path / "other"), "--onnx"]
    assert "ONNX needs no_such_package" in refused(words)


def test_a_network_that_onnx_cannot_hold_is_exported_without_it_unless_it_is_asked_for(
    tmp_path, monkeypatch, capsys, refused
):
    def fail(net, path):
        path.write_bytes(b"half")
        raise ValueError("no such operator")

    monkeypatch.setattr(command, "check_onnx_installed", lambda: None)
    monkeypatch.setattr(command, "write_onnx", fail)
    checkpoint = make_run(tmp_path)
    export(checkpoint, tmp_path / "out", onnx=[])
    assert "no model.onnx: ValueError: no such operator" in capsys.readouterr().out
    assert not (tmp_path / "out" / "model.onnx").exists()
    words = ["export", "--ckpt_path", str(checkpoint), "--out", str(tmp_path / "other"), "--onnx"]
    assert "no such operator" in refused(words) and not (tmp_path / "other").exists()
