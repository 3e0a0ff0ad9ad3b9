"""Every study in configs/studies/ expands, its configs compose, and its command lines can be parsed."""

import re

import pytest

import cli
from lightning_modules.provenance import ROOT
from lightning_modules.studies import command, job
from lightning_modules.studies.grid import load_study
from lightning_modules.studies.identity import settings_of, sha256_of
from lightning_modules.studies.member_record import read_member
from lightning_modules.studies.parse_only import errors_of

CONFIGS = ROOT / "configs"
STUDIES = ["thesis_vgg", "thesis_resnet20", "activations", "kernels", "objectives", "smooth_at", "depth"]
STUDIES += ["precision", "batch_norm_mode", "recipe"]
# instead of the image files of the short studies, which tell the network its sizes
SIZES = ["--data.num_classes=10", "--data.in_channels=3", "--data.image_size=32", "--print_config"]


def every(short):
    return {study: load_study(study, [CONFIGS / "studies"], short=short)[1] for study in STUDIES}


def one_per_label(members):
    """As few members as it takes to have every label but the seeds."""
    seen, chosen = set(), []
    for member in members:
        if new := set(member.axes.items()) - seen - {("seed", "1"), ("seed", "2")}:
            seen |= new
            chosen.append(member)
    return chosen


def test_these_are_all_studies():
    found = {path.stem for path in (CONFIGS / "studies").glob("*.yaml")}
    assert found == {*STUDIES, "worst_case", "worst_case_short"}


@pytest.mark.parametrize("short", [False, True])
def test_all_members_differ_in_their_settings(short):
    for study, members in every(short).items():
        settings = [sha256_of(settings_of(member.arguments, [CONFIGS])) for member in one_per_label(members)]
        assert len(set(settings)) == len(settings), study
        assert {member.axes["seed"] for member in members} == {"0", "1", "2"}


def test_short_studies_measure_a_thousand_images_on_a_cpu():
    for members in every(short=True).values():
        settings = settings_of(members[0].arguments, [CONFIGS])
        assert settings["trainer.accelerator"] == "cpu"
        assert settings["model.test_images"] == 1000


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("short", [False, True])
def test_every_label_of_every_study_is_parsed(short):
    members = [member for members in every(short).values() for member in one_per_label(members)]
    commands = [[*member.arguments, *(SIZES if short else [])] for member in members]
    assert set(errors_of(commands)) == {None}


RECORDS = {path.parent.name: path.stem for path in (ROOT / "results").glob("*_short/*.json")}


@pytest.mark.parametrize("study", RECORDS)
def test_a_dry_run_of_a_study_that_has_results_lists_what_has_changed(study, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(command, "errors_of", lambda commands: [None] * len(commands))
    monkeypatch.setattr(job, "source_sha256", lambda: "0" * 64)
    words = ["study", "--config", study.removesuffix("_short"), "--short", "--dry_run", f"--only={RECORDS[study]}"]
    cli.main([*words, f"--run.dir={tmp_path}"])
    printed = capsys.readouterr().out
    assert f"# {RECORDS[study]}: changed, " in printed and "--changed=keep" in printed
    cli.main([*words, f"--run.dir={tmp_path}", "--changed=keep"])
    assert "1 members, 1 of them done" in capsys.readouterr().out


def test_results_in_the_project_are_whole_and_name_no_place_of_a_machine():
    files = sorted((CONFIGS.parent / "results").rglob("*.json"))
    assert files
    for path in files:
        assert not re.search(r'(["=])(/[\w.-]+){2,}', path.read_text()), path
        if "short" in path.parent.name:
            assert read_member(path)["member"] == path.stem
