"""The record of a study's member: written and read whole, refused with the name of the file and the field."""

import json

import pytest
from fake_members import fake_member, write_fake_study

from lightning_modules.studies.member_record import read_member, write_member


def test_a_record_is_read_as_it_was_written(tmp_path):
    for record in (fake_member("KAF"), fake_member(report=False)):
        path = write_member(tmp_path, record)
        assert path == tmp_path / "fake" / f"{record['member']}.json"
        assert read_member(path) == record
        assert len(path.read_text().splitlines()) == len(record) + 2


def test_the_invented_study_is_whole_and_small(tmp_path):
    paths = write_fake_study(tmp_path)
    assert len({read_member(path)["member"] for path in paths}) == 18
    assert all(path.stat().st_size < 60_000 for path in paths)


def test_a_record_that_no_run_has_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"relu-fast_at-0\.json: parameters must be an integer >= 1, got 0"):
        write_member(tmp_path, fake_member(parameters=0))
    assert not any(tmp_path.iterdir())


WRONG = {
    "seed": "0",
    "axes": {"seed": 0},
    "data_sha256": "abc",
    "clean": {"accuracy": 0.6, "wilson95_low": 0.61, "wilson95_high": 0.7, "images": 10},
    "robust": {"accuracy": 0.6, "wilson95_low": 0.5, "wilson95_high": 0.7, "images": 0, "attack": {}},
    "attacks": {"white/APGD-CE": {"accuracy": 1.3, "settings": {"norm": "Linf", "eps": 0.03}}},
    "eps_curve": [[0.0, 0.6]],
    "shapes": [{"layer": "a", "x": [0.0, 1.0], "y": [[0.0]], "start": None}],
    "history": [{"epoch": "1"}],
    "outcomes": {"index": [0], "label": [1], "clean": "1"},
    "worst_case": None,
}


@pytest.mark.parametrize("field", WRONG)
def test_a_wrong_field_is_named_with_the_file(tmp_path, field):
    path = tmp_path / "relu-fast_at-0.json"
    path.write_text(json.dumps(fake_member() | {field: WRONG[field]}))
    with pytest.raises(ValueError) as error:
        read_member(path)
    assert str(path) in str(error.value) and field in str(error.value) and "\n" not in str(error.value)


def test_missing_files_fields_and_other_files_are_one_line(tmp_path):
    path = tmp_path / "relu-fast_at-0.json"
    with pytest.raises(ValueError, match="No such file"):
        read_member(path)
    for text, reason in (("{", "can't be read"), ("[]", "must be an object"), ("NaN", "holds NaN")):
        path.write_text(text)
        with pytest.raises(ValueError, match=reason):
            read_member(path)
    record = fake_member()
    path.write_text(json.dumps({name: value for name, value in record.items() if name != "events"}))
    with pytest.raises(ValueError, match="the field events is missing"):
        read_member(path)
    other = write_member(tmp_path, record).rename(tmp_path / "other.json")
    with pytest.raises(ValueError, match=r"name it relu-fast_at-0\.json"):
        read_member(other)


def test_counts_that_the_outcomes_do_not_hold_are_refused(tmp_path):
    record = fake_member()
    worst = record["worst_case"] | {"accuracy": 0.31, "wilson95_high": 0.4}
    with pytest.raises(ValueError, match=r"worst_case states 0\.31 of 1000 images, and outcomes hold 300 right"):
        write_member(tmp_path, record | {"worst_case": worst})
