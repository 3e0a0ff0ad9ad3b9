"""A run folder becomes the record of a member."""

import json

import pytest
import torch
from fake_members import fake_member

from kafnets.analysis.per_image_results import PerImageResults
from kafnets.analysis.robustness_record import robustness_record
from kafnets.attacks import APGD
from lightning_modules.studies.collect import _TAKEN, collect, is_finished
from lightning_modules.studies.member_record import read_member, write_member


@pytest.fixture
def run(tmp_path):
    """The folder of a run with a report on two images."""
    folder, record = tmp_path / "name" / "version_3", fake_member()
    folder.mkdir(parents=True)
    results = {name: record[name] for name in _TAKEN} | {"attack": {"attack": "PGD"}, "loss": 1.5}
    columns = {"index": [0, 1], "label": [3, 5], "clean": [1, 1], "white/APGD": [1, 0], "eps/0.1": [1, 0]}
    outcomes = PerImageResults({name: torch.tensor(values) for name, values in columns.items()})
    report = robustness_record(
        outcomes, {}, attacks={"white/APGD": APGD(eps=0.1)}, seconds={}, class_names=[str(k) for k in range(10)]
    )
    report |= {"complete": True, "images": 2, "data": "Digits", "data_sha256": "x"}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "robustness.json").write_text(json.dumps(report))
    (folder / "history.csv").write_text("epoch,train/loss,lr\n1,2.123456789,0.1\n2,nan,\n")
    return folder


def test_a_run_that_is_no_member_gets_its_axes_from_its_labels(run, tmp_path):
    record = collect(run)
    assert read_member(write_member(tmp_path, record)) == record
    assert (record["study"], record["member"]) == ("runs", "name-version_3")
    assert record["axes"] == {"activation": "ReLU", "backbone": "KafVGG", "objective": "fast_at", "seed": "0"}
    assert record["history"] == [
        {"epoch": 1, "train/loss": 2.12346, "lr": 0.1},
        {"epoch": 2, "train/loss": None, "lr": None},
    ]
    assert record["shapes"] == []


def test_of_a_report_the_worst_case_and_its_images_are_kept(run):
    record = collect(run, study="mine", member="a", axes={"seed": "0"}, command=["fit"])
    assert record["worst_case"]["accuracy"] == 0.5 and record["worst_case"]["attacks"] == ["white/APGD"]
    assert record["outcomes"] == {"index": [0, 1], "label": [3.0, 5.0], "clean": "11", "white/APGD": "10"}
    assert record["eps_curve"] == [[0.0, 1.0, 2], [0.1, 0.5, 2]]
    assert all(check["status"] in ("warn", "fail") for check in record["checks"])
    (run / "robustness.json").unlink()
    assert collect(run)["worst_case"] is None


def test_a_run_is_finished_when_its_report_is_complete(run):
    assert is_finished(run)
    report = json.loads((run / "robustness.json").read_text())
    (run / "robustness.json").write_text(json.dumps(report | {"complete": False}))
    assert not is_finished(run)
    (run / "robustness.json").unlink()
    assert is_finished(run)
    (run / "results.json").unlink()
    assert not is_finished(run)


def test_results_of_an_older_version_say_what_to_do(run):
    results = json.loads((run / "results.json").read_text())
    del results["parameters"]
    (run / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match=r"lacks parameters; test the run again: python cli\.py test --ckpt_path .*_3"):
        collect(run)
