"""``test --config certify.yaml``: certified accuracy beside that under attack."""

import json

import pytest
import torch

import cli
from kafnets.activations import KAF, Activation
from kafnets.analysis.per_image_results import PerImageResults
from kafnets.attacks import PGD
from kafnets.certify import IntervalBounds


def arguments(run, *more):
    return [
        "test",
        f"--ckpt_path={run}",
        "--config=certify.yaml",
        "--model.test_images=4",
        "--data.eval_batch_size=3",
        *more,
    ]


def test_a_test_reports_certified_beside_attacked(tiny_run, tmp_path, capsys: pytest.CaptureFixture[str]):
    smoothing = "{class_path: kafnets.certify.Smoothing, init_args: {n: 100, radii: [0.1]}}"
    few = f"[{{class_path: kafnets.certify.Intervals, init_args: {{radii: [0.001, 8/255]}}}}, {smoothing}]"
    flags = [f"--run.dir={tmp_path}", "--run.name=c", f"--trainer.callbacks.certificates={few}"]
    cli.main(arguments(tiny_run, *flags))
    record = json.loads((tmp_path / "c" / "version_0" / "certificates.json").read_text())
    assert record["images"] == 4 and record["checkpoint_sha256"] and record["threat"] == "Linf eps 8/255"
    intervals, smoothed = record["certificates"]["Intervals"], record["certificates"]["Smoothing-0.25"]
    assert list(intervals["radii"]) == ["0.001", "8/255"] and intervals["norm"] == "Linf"
    assert smoothed["settings"]["n"] == 100 and smoothed["failure"] == 0.002 and list(smoothed["radii"]) == ["0.1"]
    outcomes = PerImageResults.decode(record["outcomes"])
    for eps in intervals["radii"]:
        certified, attacked = outcomes[f"certified/Intervals/{eps}"], outcomes[f"Intervals/{eps}/PGD-50-1"]
        assert (certified <= attacked).all() and (attacked <= outcomes["clean"]).all()
        assert intervals["radii"][eps]["certified"]["right"] == int(certified.sum())
    assert "Intervals, Linf 8/255" in capsys.readouterr().out


def test_an_unsound_bound_stops_the_run(tiny_run, tmp_path, refused, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(IntervalBounds, "certified", lambda self, x, y, eps: torch.ones_like(y, dtype=torch.bool))
    few = "[{class_path: kafnets.certify.Intervals}]"
    flags = [f"--run.dir={tmp_path}", "--model.threat.eps=0.5", f"--trainer.callbacks.certificates={few}"]
    line = refused(arguments(tiny_run, *flags))
    assert "Intervals certifies 3 images within Linf eps 0.5, but PGD-50-1 fools" in line and "unsound" in line


def test_a_network_without_a_bound_is_refused_before_any_attack(tiny_run, tmp_path, refused, monkeypatch):
    monkeypatch.setattr(KAF, "bounds", Activation.bounds)
    monkeypatch.setattr(PGD, "__call__", lambda *arguments, **more: pytest.fail("attacked"))
    few = "[{class_path: kafnets.certify.Intervals}]"
    line = refused(arguments(tiny_run, f"--run.dir={tmp_path}", f"--trainer.callbacks.certificates={few}"))
    assert "no range of KAF" in line and "does not bound its derivatives" in line
