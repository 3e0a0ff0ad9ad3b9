"""What is left of a member: done, resumed, begun anew, or refused because settings or code have changed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lightning_modules.studies import job as job_module
from lightning_modules.studies.identity import settings_of, sha256_of, source_sha256
from lightning_modules.studies.member_record import read_member, write_member
from lightning_modules.studies.runner import Runner


def finish(job):
    Path("runs/mine").mkdir(parents=True, exist_ok=True)
    Runner([job], [{}], None, Path("runs/mine/study.log")).run()


def interrupt(job, version=0):
    """As after a kill in the middle of a run."""
    job.begin(job.plan())
    folder = job.folder / f"version_{version}" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "last.ckpt").touch()
    return folder / "last.ckpt"


def test_changed_settings_are_refused_kept_or_redone(fake_cli, make_job):
    finish(make_job("a", lr=0.1))
    changed = make_job("a", lr=0.2)
    plan = changed.plan()
    assert plan.action == "refuse" and plan.note == "lr was 0.1, is 0.2"
    assert changed.plan("keep").action == "done"
    assert changed.plan("redo").action == "start"
    changed.begin(changed.plan("redo"))
    assert changed.status()["first_version"] == 1  # run folders of the old settings are no part of it
    path = changed.folder / "version_1" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    path.touch()
    assert changed.plan("redo").checkpoint == path


def test_a_record_has_the_settings_that_a_refusal_names_without_the_run_folder(fake_cli, make_job):
    finish(make_job("a", lr=0.1))
    shutil.rmtree("runs")  # as after a clone
    changed = make_job("a", lr=0.2)
    assert read_member(changed.record)["config"] == {"net": "kafvgg", "lr": 0.1}
    assert changed.plan().note == "lr was 0.1, is 0.2"
    old = read_member(changed.record)
    del old["config"]  # of a version that did not write it
    write_member(Path("results"), old)
    assert changed.plan().note == "its settings were others"


def test_a_record_tells_a_command_without_places_of_this_machine(fake_cli, make_job):
    job = replace(make_job("a"), flags=("--data.path=/home/me/images.tar", "--data.batch_size=64"))
    finish(job)
    assert read_member(job.record)["command"] == [*job.member.arguments, "--data.batch_size=64"]


def test_changed_code_is_refused_and_named(fake_cli, make_job, monkeypatch):
    finish(make_job("a"))
    monkeypatch.setattr(job_module, "source_sha256", lambda: "0" * 64)
    monkeypatch.setattr(job_module, "code_version", lambda: "0.1.0 new")
    plan = make_job("a").plan()
    assert plan.action == "refuse" and plan.note == "the code was 0.1.0 0123456789abcdef, is 0.1.0 new"


def test_code_that_changes_while_a_study_runs_is_noted(fake_cli, make_job, monkeypatch):
    job = make_job("a")
    assert job.identity["source_sha256"] != "0" * 64
    monkeypatch.setattr(job_module, "source_sha256", lambda: "0" * 64)
    finish(job)
    assert read_member(job.record)["source_sha256"] == "0" * 64


def test_an_interrupted_member_goes_on_unless_it_has_changed(fake_cli, make_job):
    job = make_job("a", lr=0.1)
    last = interrupt(job)
    assert job.plan().action == "resume" and job.plan().checkpoint == last
    assert job.arguments(job.plan())[-1] == f"--ckpt_path={last}"
    changed = make_job("a", lr=0.2)
    assert changed.plan().action == "refuse"
    assert changed.plan("keep").checkpoint == last
    assert changed.plan("redo").action == "start"


def test_a_report_that_was_interrupted_goes_on(fake_cli, make_job, monkeypatch):
    job = make_job("a", **{"trainer.callbacks": [{"class_path": "RobustnessReport"}]})
    last = interrupt(job)
    report = job.folder / "version_1" / "robustness.json"  # of a second interruption, in the test after the fit
    for path in (last.parents[1] / "robustness.json", report):
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    monkeypatch.setattr(job_module, "code_version", lambda: "0.1.0 new")
    known = {"code": "0.1.0 new", "network_sha256": "x", "attacks_sha256": "y"}
    for record, flag in (
        (known, True),
        (known | {"code": "0.1.0 old"}, False),
        (known | {"network_sha256": None}, False),
    ):
        report.write_text(json.dumps(record))
        assert (f"--trainer.callbacks.resume={report}" in job.arguments(job.plan())) == flag


def test_a_folder_deleted_by_hand_is_said(fake_cli, make_job):
    job = make_job("a")
    last = interrupt(job)
    last.unlink()
    assert job.plan().action == "start" and job.plan().note == ""
    for path in sorted(job.folder.rglob("*"), reverse=True):
        path.rmdir()
    job.folder.rmdir()
    assert job.plan().action == "start" and job.plan().note == "its run folder was deleted, so it runs again"


def test_a_damaged_record_is_an_error(fake_cli, make_job):
    finish(make_job("a"))
    Path("results/mine/a.json").write_text("{")
    with pytest.raises(ValueError, match=r"results/mine/a\.json can't be read as the record of a run"):
        make_job("a").plan()


def test_settings_are_the_same_however_they_are_said_and_wherever_files_lie(tmp_path):
    (tmp_path / "net.yaml").write_text("model: {net: {class_path: KafVGG, activation: KAF}, optimizer: {lr: 0.1}}\n")
    (tmp_path / "data.yaml").write_text("data: {class_path: ImageFolder, path: here}\n")
    arguments = ["fit", "--config", "net", "--config", "data"]
    first = settings_of([*arguments, "--data.path=there", "--run.name=x"], [tmp_path])
    second = settings_of([*arguments, "--model.optimizer.lr", "0.1"], [tmp_path])
    assert first == second and sha256_of(first) == sha256_of(dict(reversed(second.items())))
    assert first["model.optimizer.lr"] == 0.1 and first["model.net.class_path"] == "KafVGG"
    assert "data.path" not in first and not any(name.startswith("run") for name in first)
    assert sha256_of(settings_of([*arguments, "--model.optimizer.lr=0.2"], [tmp_path])) != sha256_of(first)


def test_the_hash_of_the_code_covers_what_can_change_a_result(tmp_path):
    readers = [f"lightning_modules/{room}/c.py" for room in ("studies", "dashboard", "export", "inspection")]
    readers += ["docs/d.py", "kafnets/saved/c.py"]
    for name in ("kafnets/a.py", "kafnets/native/b.cpp", "cli.py", *readers):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("old")

    def after(name):
        (tmp_path / name).write_text("new")
        return source_sha256(tmp_path)

    before = source_sha256(tmp_path)
    assert {after(name) for name in readers} == {before}
    assert len({before, after("cli.py"), after("kafnets/a.py"), after("kafnets/native/b.cpp")}) == 4
