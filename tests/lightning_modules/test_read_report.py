"""Reports are checked when they are read, to be compared or resumed."""

import copy
import json

import pytest
import torch

from kafnets.analysis.per_image_results import PerImageResults
from kafnets.analysis.robustness_record import robustness_record
from kafnets.attacks import PGD
from lightning_modules.callbacks.robustness_files import read_resumable
from lightning_modules.callbacks.robustness_text import screen
from lightning_modules.read_report import read_report


@pytest.fixture(scope="module")
def whole_report(tmp_path_factory):
    """A report of two images and one attack, as a test writes it."""
    columns = {"index": [0, 1], "label": [3, 0], "clean": [1, 1], "white/PGD": [1, 0], "loss/0": [0.5, torch.nan]}
    results = PerImageResults({name: torch.tensor(values) for name, values in columns.items()})
    more = {"attacks": {"white/PGD": PGD()}, "seconds": {"curves": 0.5}, "class_names": list("0123")}
    record = robustness_record(results, {"half": {"a"}}, **more)
    return json.loads(json.dumps(record | {"images": 2, "data": "Digits", "data_sha256": "abc"}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r.update(images=-2), "it states -2 images, and its outcomes are those of 2"),
        (lambda r: r.update(images=2.0), "it states 2.0 images"),
        (lambda r: r["clean"].update(right=1), "it states 1 right images of clean"),
        (lambda r: r["worst_case"].update(right=True), "it states True right images of worst_case"),
        (lambda r: r["attacks"]["white/PGD"].update(right=0), "it states 0 right images of white/PGD"),
        (lambda r: r["attacks"].update({"black/Square": r["attacks"]["white/PGD"]}), "it lacks 'black/Square'"),
        (lambda r: r["attacks"]["white/PGD"]["settings"].update(eps="0.1"), "states norm 'Linf' and eps '0.1'"),
        (lambda r: r["outcomes"].update(clean="1"), "one value for each of the 2 images"),
        (lambda r: r["outcomes"].update(clean="1-"), "clean must be 0 or 1 for each of its 2 images"),
        (lambda r: r["outcomes"].update(clean="12"), "column clean must be a text of 0, 1 and -.* got '12'"),
        (lambda r: r["outcomes"].update(clean=[1, 0.5]), "clean must be 0 or 1"),
        (lambda r: r["outcomes"].update(clean=[1, "1"]), "column clean must be .* got \\[1, '1'\\]"),
        (lambda r: r["outcomes"].update(clean=None), "column clean must be .* got None"),
        (lambda r: r["outcomes"].update(index=[0, 0]), "an image was measured twice"),
        (lambda r: r["outcomes"].update(index=[0, -1]), "a column 'index' of integers >= 0"),
        (lambda r: r["outcomes"].update(index=[0, 1.0]), "a column 'index' of integers >= 0"),
        (lambda r: r["outcomes"].update(label=[3, 0.5]), "its labels must be integers >= 0"),
        (lambda r: r["outcomes"].update({"loss/0": [0.5, float("nan")]}), "it holds NaN, which is no number of JSON"),
        (lambda r: r["outcomes"].pop("clean"), "it lacks 'clean'"),
        (lambda r: r["seconds"].update(curves=-1), "the seconds of curves must be a number >= 0, got -1"),
        (lambda r: r["facts"].update(half="abc"), "its facts half must be a list"),
        (lambda r: r.update(data_sha256=None), "data and data_sha256 must be text"),
        (lambda r: r.update(outcomes=3), "a column 'index' of integers >= 0"),
        (lambda r: r.clear(), "it lacks 'outcomes'"),
    ],
)
def test_a_damaged_report_is_refused(whole_report, change, says, tmp_path):
    path, record = tmp_path / "robustness.json", copy.deepcopy(whole_report)
    path.write_text(json.dumps(record))
    assert read_report(tmp_path) == record
    change(record)
    path.write_text(json.dumps(record))
    for read_it in (read_report, lambda path: read_resumable(path, {})):
        with pytest.raises(ValueError, match=rf"robustness\.json is no robustness\.json of this project.*{says}"):
            read_it(str(path))


@pytest.mark.parametrize("content", [b"", b'{"outcomes": {"ind', b"[1]", b"\xff\xfe", b"[" * 10**5])
def test_what_is_no_report_is_refused(content, tmp_path):
    (tmp_path / "torn.json").write_bytes(content)
    for path in (tmp_path / "torn.json", tmp_path / "absent.json"):
        with pytest.raises(ValueError, match=r"is no robustness\.json of this project"):
            read_resumable(str(path), {})


def test_images_that_fall_to_a_black_box_alone_are_on_the_screen_even_if_no_check_complains(whole_report):
    quiet = {
        "name": "black box",
        "status": "pass",
        "numbers": "2 images: images 7, 30",
        "advice": "",
        "images": [7, 30],
    }
    about = {"checkpoint": "last.ckpt", "checkpoint_sha256": None, "checks": [quiet, quiet | {"images": []}]}
    lines = screen(whole_report | about, "runs").splitlines()
    assert lines.count("NOTE: black box: 2 images: images 7, 30") == 1
