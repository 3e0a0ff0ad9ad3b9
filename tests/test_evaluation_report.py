"""``test --config eval_full.yaml``: its files, a surrogate, the comparison of two reports, two processes."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import cli
from kafnets.backbones import KafVGG
from lightning_modules.comparison.image_by_image import compare_reports
from lightning_modules.load_classifier import load_classifier
from lightning_modules.read_report import read_report

ROOT = Path(cli.__file__).parent
EVAL_FULL = ROOT / "configs" / "eval_full.yaml"
CHEAP = {"steps": 2, "queries": 3, "restarts": 1, "targets": 2, "classes": 2}


@pytest.fixture(scope="module")
def cheap(tmp_path_factory) -> Path:
    """The full evaluation with very few steps per attack."""
    config = yaml.safe_load(EVAL_FULL.read_text())
    (report,) = config["trainer"]["callbacks+"]
    report["curve_images"] = 2
    for attack in [*report["white_box"], *report["black_box"], report["noise"]]:
        attack |= {name: value for name, value in CHEAP.items() if name in attack}
    path = tmp_path_factory.mktemp("configs") / "cheap.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def run_report(cheap: Path, checkpoint: Path, folder: Path, *more: str) -> dict:
    where = [f"--run.dir={folder}", "--run.name=run", f"--ckpt_path={checkpoint}", "--trainer.accelerator=cpu"]
    with contextlib.redirect_stdout(None):
        cli.main(["test", f"--config={cheap}", *where, "--data.eval_batch_size=12", *more])
    return read_report(folder / "run" / "version_0")


@pytest.fixture(scope="module")
def report(cheap: Path, tiny_run: Path, tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("report")
    best = next((tiny_run / "checkpoints").glob("best*.ckpt"))
    return folder / "run" / "version_0", run_report(cheap, best, folder)


def test_the_config_holds_autoattack_and_the_attack_that_breaks_kwta():
    (report,) = yaml.safe_load(EVAL_FULL.read_text())["trainer"]["callbacks+"]
    white = {attack["class_path"].rpartition(".")[2]: attack for attack in report["white_box"]}
    assert set(white) == {"PGD", "APGD", "APGDT", "FAB"}
    assert (white["APGD"]["steps"], white["APGDT"]["targets"], white["FAB"]["classes"]) == (100, 9, 9)
    square, finite = report["black_box"]
    assert square["class_path"] == "Square" and square["queries"] == 5000
    assert finite["estimator"]["class_path"] == "FiniteDifferences"
    assert "sigma" not in finite["estimator"]  # None: the eps of the run
    assert not any("eps" in attack for attack in (*white.values(), square, finite, report["noise"]))


def test_the_files_are_in_the_run_folder(report: tuple[Path, dict], tiny_run: Path):
    folder, record = report
    assert {path.name for path in folder.iterdir()} >= {
        "results.json", "robustness.json", "robustness.md", "robustness.png", "robustbench.json", "config.yaml"
    }  # fmt: skip
    assert record["complete"] and record["images"] == 20
    first = json.loads((tiny_run / "results.json").read_text())
    assert record["checkpoint_sha256"] == first["checkpoint_sha256"]
    roles = [name.partition("/")[0] for name in record["attacks"]]
    assert roles == ["white"] * 4 + ["black"] * 2 + ["single", "noise"]
    assert all(attack["settings"]["eps"] == 8 / 255 for attack in record["attacks"].values())
    assert sum("FiniteDifferences(samples={0: 100})" in name for name in record["attacks"]) == 1


def test_an_exported_network_states_the_figures_and_robustbench_s_claim(report, tiny_run: Path, tmp_path: Path):
    folder, record = report
    where = [f"--ckpt_path={tiny_run}", f"--out={tmp_path / 'out'}", "--tests", str(folder)]
    cli.main(["export", *where, "--onnx=false"])
    claim, card = (json.loads((tmp_path / "out" / name).read_text()) for name in ("claim.json", "card.json"))
    assert claim == json.loads((folder / "robustbench.json").read_text())
    found = card["metrics"]["full_evaluation"]
    assert found["worst_case"]["accuracy"] == record["worst_case"]["accuracy"] and found["data"] == "Digits"
    assert found["attacks"].keys() == record["attacks"].keys() and found["checks"]
    assert card["metrics"]["test"]["robust"]["images"] == 20


def test_the_report_s_images_are_those_of_the_test(report: tuple[Path, dict]):
    folder, record = report
    results = json.loads((folder / "results.json").read_text())
    assert results["robust"]["images"] == record["images"]


def test_a_surrogate_is_another_checkpoint(cheap: Path, tiny_run: Path, tmp_path: Path):
    config = yaml.safe_load(cheap.read_text())
    (callback,) = config["trainer"]["callbacks+"]
    callback["surrogate"] = str(tiny_run / "checkpoints" / "last.ckpt")
    callback["transfer"] = {"class_path": "PGD", "steps": 2}
    (tmp_path / "surrogate.yaml").write_text(yaml.safe_dump(config))
    best = next((tiny_run / "checkpoints").glob("best*.ckpt"))
    record = run_report(tmp_path / "surrogate.yaml", best, tmp_path, "--model.test_images=3")
    assert list(record["attacks"])[-1].startswith("transfer/Transfer Linf eps 8/255 (surrogate=KafVGG")
    statuses = {check["name"]: check["status"] for check in record["checks"]}
    assert statuses["transfer from a surrogate is not stronger than white box"] != "not run"
    assert record["surrogate_sha256"] and record["images"] == 3


def test_the_network_of_a_checkpoint_is_loaded(tiny_run: Path):
    path = tiny_run / "checkpoints" / "last.ckpt"
    net = load_classifier(path)
    assert isinstance(net, KafVGG) and not net.training
    state = torch.load(path, weights_only=True)["state_dict"]
    for name, value in net.state_dict().items():
        assert torch.equal(value, state[f"net.{name}"])
    assert net(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_a_checkpoint_that_holds_no_network_is_refused(tiny_run: Path, tmp_path: Path):
    checkpoint = torch.load(tiny_run / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save({"state_dict": checkpoint["state_dict"]}, tmp_path / "bare.ckpt")
    with pytest.raises(ValueError, match="carries no configuration"):
        load_classifier(tmp_path / "bare.ckpt")
    del checkpoint["state_dict"]["net.fc.weight"]
    torch.save(checkpoint, tmp_path / "torn.ckpt")
    with pytest.raises(ValueError, match=r"does not fit the network of its configuration.*fc\.weight"):
        load_classifier(tmp_path / "torn.ckpt")


def test_two_reports_are_compared_image_by_image(report: tuple[Path, dict], tmp_path: Path, capsys):
    folder, record = report
    compared = compare_reports(record, record)
    assert set(compared) == {"clean", "worst case", *record["attacks"]}
    assert all(found.difference == 0 and found.p_value == 1 for found in compared.values())
    other = json.loads(json.dumps(record))
    other["outcomes"]["clean"] = "0" * 20
    found = compare_reports(record, other)
    assert found["clean"].only_a == record["clean"]["right"] and found["worst case"].b == 0
    again = shutil.copytree(folder, tmp_path / "again")
    for name in ("results.json", "robustness.json"):
        text = (again / name).read_text()
        (again / name).write_text(text.replace('"seed": 0', '"seed": 1'))
    cli.main(["compare", str(folder), str(again), f"--out={tmp_path / 'page'}"])
    printed = capsys.readouterr().out
    assert all(f"{name}: {found}" in printed for name, found in compared.items())
    assert {"index.html", "table.csv", "table.md", "accuracy.png"} <= {f.name for f in (tmp_path / "page").iterdir()}


def test_the_worst_cases_are_compared_over_shared_attacks(report: tuple[Path, dict]):
    _, record = report
    fewer = json.loads(json.dumps(record))
    left_out = next(name for name in fewer["attacks"] if name.startswith("white/APGDT"))
    del fewer["attacks"][left_out]
    compared = compare_reports(record, fewer)
    assert left_out not in compared and compared["worst case of the 7 attacks that both have"].difference == 0


def test_reports_that_cannot_be_paired_are_refused(report: tuple[Path, dict], tmp_path: Path, capsys):
    folder, record = report
    with pytest.raises(ValueError, match="differ in data"):
        compare_reports(record, record | {"data": "CIFAR10"})
    with pytest.raises(ValueError, match="differ in data"):
        compare_reports(record, record | {"data_sha256": "of other images"})
    for attack in (other := json.loads(json.dumps(record)))["attacks"].values():
        attack["settings"]["eps"] = 0.5
    with pytest.raises(ValueError, match="differ in eps or norm"):
        compare_reports(record, other)
    elsewhere = record | {"outcomes": record["outcomes"] | {"index": list(range(100, 120))}}
    with pytest.raises(ValueError, match="share no image"):
        compare_reports(record, elsewhere)
    for paths, says in (
        ([], "needs run folders"),
        ([folder, tmp_path], "holds no finished run"),
        ([folder] * 2, "named twice"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(["compare", *map(str, paths)])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1 and says in error


def test_two_ranks_report_the_same_as_one(cheap: Path, tiny_run: Path, report: tuple[Path, dict], tmp_path: Path):
    best = next((tiny_run / "checkpoints").glob("best*.ckpt"))
    arguments = ["test", f"--config={cheap}", "--config=ddp.yaml", "--trainer.accelerator=cpu", f"--ckpt_path={best}"]
    arguments += [f"--run.dir={tmp_path}", "--run.name=run", "--data.eval_batch_size=7"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *arguments],
        cwd=tmp_path,
        env=os.environ | {"MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    one, two = report[1], read_report(tmp_path / "run" / "version_0")
    assert (one["processes"], two["processes"]) == (1, 2)
    for name in one["outcomes"]:
        if not name.startswith(("loss/", "probe/gain")):  # sums in another order
            assert one["outcomes"][name] == two["outcomes"][name], name
    for name in ("clean", "worst_case", "classes", "images", "checkpoint_sha256"):
        assert one[name] == two[name]


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        (lambda report: report["white_box"][0].update(eps=8), "eps must lie in [0, 1] (images lie in [0, 1]), got 8"),
        (lambda report: report["white_box"][0].update(steps=0), "steps must be >= 1, got 0"),
        (lambda report: report["white_box"][0].update(stepz=3), "did you mean steps, step_size?"),
        (lambda report: report["black_box"][0].update(eps=0.5), "all attacks must share one norm and one eps"),
        (lambda report: report.update(resume="nowhere.json"), "nowhere.json is no robustness.json of this project"),
        (lambda report: report.update(surrogate="nowhere.ckpt"), "surrogate and transfer go together"),
    ],
)
def test_a_mistake_in_the_evaluation_is_one_short_line(change, answer, cheap, tiny_run, tmp_path, refused):
    config = yaml.safe_load(cheap.read_text())
    change(config["trainer"]["callbacks+"][0])
    (tmp_path / "mistake.yaml").write_text(yaml.safe_dump(config))
    best = next((tiny_run / "checkpoints").glob("best*.ckpt"))
    where = [f"--ckpt_path={best}", f"--run.dir={tmp_path / 'runs'}", "--trainer.accelerator=cpu"]
    line = refused(["test", f"--config={tmp_path / 'mistake.yaml'}", *where])
    assert answer in line and len(line) < 300
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_the_full_evaluation_runs(tiny_run: Path, tmp_path: Path):
    best = next((tiny_run / "checkpoints").glob("best*.ckpt"))
    record = run_report(EVAL_FULL, best, tmp_path, "--model.test_images=4")
    assert record["complete"] and len(record["attacks"]) == 8
    for attack in record["attacks"].values():
        assert record["worst_case"]["right"] <= attack["right"] <= record["clean"]["right"]
    not_run = {check["name"] for check in record["checks"] if check["status"] == "not run"}
    assert not_run == {"transfer from a surrogate is not stronger than white box"}
