"""Grouping, refusals, tests between groups, the statement and the tables."""

from pathlib import Path

import pytest
import torch
from fake_members import ATTACKS, fake_member

from kafnets.analysis.comparison import compare
from kafnets.analysis.over_runs import MIXED, WELCH, accuracy_over_runs, runs_and_images
from kafnets.analysis.per_image_results import PerImageResults
from lightning_modules.comparison import Compared, compare_members, find_members, statements
from lightning_modules.comparison.table import csv_rows, markdown
from lightning_modules.studies.member_record import write_member


def compared(folder: Path, *records: dict) -> Compared:
    paths = [write_member(folder, record | {"member": f"{i:02d}"}) for i, record in enumerate(records)]
    return compare_members(find_members(paths))


def seeds(activation: str, count: int = 3, **settings) -> list[dict]:
    return [fake_member(activation, seed=seed, **settings) for seed in range(count)]


def robust(record: dict) -> torch.Tensor:
    results = PerImageResults.decode(record["outcomes"])
    return torch.stack([results[name] for name in ("clean", *ATTACKS)]).amin(0) == 1


def test_seeds_of_one_training_are_one_group_with_an_interval_over_runs_and_images(tmp_path: Path):
    records = seeds("ReLU", robust=0.3) + seeds("KAF", robust=0.36)
    found = compared(tmp_path, *records)
    assert [group.label for group in found.groups] == ["KAF", "ReLU"]
    accuracies = [record["worst_case"]["accuracy"] for record in records[3:]]
    a, b = (torch.stack([robust(record) for record in part]) for part in (records[3:], records[:3]))
    expected = accuracy_over_runs(accuracies, 1000, a)
    best = found.groups[0].robust
    assert (best.mean, best.std, best.low, best.high) == (expected.mean, expected.std, expected.low, expected.high)
    (pair,) = found.pairs
    assert pair.found == runs_and_images(a, b) and pair.found.test == MIXED


@pytest.mark.parametrize(
    ("label", "text"), [("weights", "even average of {} steps"), ("objective", "FGSM, from step {} PGD")]
)
def test_labels_that_follow_the_course_of_a_run_do_not_part_seeds(tmp_path: Path, label, text):
    records = seeds("ReLU") + seeds("KAF")
    for record in records:
        record["run"][label] = text.format(320 + 64 * record["seed"])
    assert [len(group.members) for group in compared(tmp_path, *records).groups] == [3, 3]


def test_single_runs_are_compared_by_mcnemar_and_the_claim_is_about_these_networks(tmp_path: Path):
    one, two = fake_member("ReLU", robust=0.3), fake_member("KAF", robust=0.42)
    found = compared(tmp_path, one, two)
    expected = compare(robust(two), robust(one))
    assert found.pairs[0].found and found.pairs[0].found.p_value == expected.p_value
    (text,) = statements(found)
    claim = f"KAF is more robust than ReLU by {100 * expected.difference:.1f} points [{100 * expected.low:.1f}, "
    assert text.startswith(f"Under Linf eps 8/255, {claim}") and "for these trained networks" in text


def test_a_difference_that_no_test_supports_is_not_claimed(tmp_path: Path):
    found = compared(tmp_path, *seeds("ReLU"), *seeds("KAF"), *seeds("ELU"))
    (text,) = statements(found)
    assert text.startswith("No activation is significantly more robust than another under Linf eps 8/255.")
    assert "is more robust than" not in text
    assert not any(pair.significant for pair in found.pairs)


def test_the_opposite_of_a_test_of_single_runs_is_not_claimed(tmp_path: Path):
    several = [fake_member("KAF", seed=seed, robust=share) for seed, share in enumerate((0.2, 0.36, 0.36))]
    found = compared(tmp_path, *several, fake_member("ReLU", robust=0.28), fake_member("ELU", robust=0.27))
    assert found.groups[0].label == "KAF"  # by its mean, but not by the run of the shared seed
    (text,) = statements(found)
    assert "ReLU is more robust than KAF by 8.0 points" in text and "(runs of seed 0, p < 0.001)" in text
    assert "each of the" not in text and "Some have one run, so" in text


def test_a_group_without_a_test_is_none_of_the_others(tmp_path: Path):
    lone = fake_member("KWTA", seed=7, robust=0.2)
    found = compared(tmp_path, *seeds("KAF", robust=0.5), *seeds("ReLU"), *seeds("ELU"), lone)
    (text,) = statements(found)
    assert "each of the" not in text
    assert "3 pairs could not be tested (one run against several, and no seed in common)." in text


def test_a_claim_about_a_doubted_network_says_so(tmp_path: Path):
    check = {"name": "noise breaks images", "status": "warn", "numbers": "16 of 52", "advice": "", "images": []}
    found = compared(tmp_path, *seeds("ReLU"), *seeds("ELU"), *seeds("KWTA", robust=0.5, checks=[check]))
    (text,) = statements(found)
    assert "KWTA is more robust than each of the 2 others" in text
    assert "Sanity checks complain about KWTA: the true robust accuracy may be lower." in text


def test_the_correction_counts_the_tests_and_grids_are_compared_one_axis_at_a_time(tmp_path: Path):
    records = [
        fake_member(activation, objective, seed)
        for activation in ("ReLU", "KAF", "ELU")
        for objective in ("fast_at", "trades")
        for seed in range(2)
    ]
    found = compared(tmp_path, *records)
    assert len(found.groups) == 6 and len(found.pairs) == 2 * 3 + 3  # of 15
    tested = sorted((pair.found.p_value, pair.adjusted) for pair in found.pairs if pair.found and pair.adjusted)
    assert tested[0][1] == pytest.approx(min(1, 9 * tested[0][0]))


@pytest.mark.parametrize(
    ("twin", "pairs"),
    [
        (fake_member(study="short"), 2),  # KAF and the ReLU of the other study differ in two ways
        (fake_member(run=fake_member()["run"] | {"loss": "margin"}), 3),
    ],
)
def test_trainings_with_equal_axes_do_not_keep_other_pairs_from_being_tested(tmp_path: Path, twin, pairs):
    found = compared(tmp_path, fake_member("KAF", robust=0.45), fake_member(), twin)
    assert len(found.pairs) == pairs
    (text,) = statements(found)
    assert "KAF is more robust than" in text


def test_runs_without_results_per_image_need_seeds(tmp_path: Path):
    several = compared(tmp_path / "a", *seeds("ReLU", report=False), *seeds("KAF", report=False, robust=0.4))
    assert several.pairs[0].found and several.pairs[0].found.test == WELCH
    single = compared(tmp_path / "b", fake_member("ReLU", report=False), fake_member("KAF", report=False))
    assert single.pairs[0].found is None and statements(single)[0].startswith("No pair can be tested")


def other_eps(record: dict) -> dict:
    attacks = {
        name: attack | {"settings": attack["settings"] | {"eps": 0.5}} for name, attack in record["attacks"].items()
    }
    return record | {"attacks": attacks}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (other_eps, "threat model, attacks"),
        (lambda record: record | dict.fromkeys(("worst_case", "outcomes", "eps_curve")) | {"attacks": {}}, "attacks"),
        (lambda record: fake_member(record["axes"]["activation"], seed=1, images=500), "attacked images"),
    ],
)
def test_what_was_measured_otherwise_is_marked_and_never_averaged(tmp_path: Path, change, what):
    records = [fake_member(name, seed=seed) for name in ("ReLU", "KAF") for seed in range(2)]
    found = compared(tmp_path, records[0], change(records[1]), records[2], change(records[3]))
    assert [(found.letter(group.measured), len(group.members)) for group in found.groups] == 2 * [("A", 1)] + 2 * [
        ("B", 1)
    ]
    assert all(found.groups[pair.a].measured == found.groups[pair.b].measured for pair in found.pairs)
    assert f"measured in 2 ways, which differ in {what}" in found.notes[0]
    assert [text[:3] for text in statements(found)] == ["A: ", "B: "]


@pytest.mark.parametrize(
    ("records", "says"),
    [
        ([fake_member(), fake_member("KAF", data_sha256="e" * 64)], "tested on different data.*one data set at a time"),
        ([fake_member(), fake_member()], "two runs of one training with seed 0.*leave one of them out"),
    ],
)
def test_what_does_not_belong_on_one_page_is_refused(tmp_path: Path, records, says):
    with pytest.raises(ValueError, match=says):
        compared(tmp_path, *records)


def test_paths_that_hold_no_run_are_refused(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for path, says in (("empty", "holds no finished run"), ("nowhere", "does not exist")):
        with pytest.raises(ValueError, match=says):
            find_members([tmp_path / path])
    (tmp_path / "empty" / "x.json").write_text("{}")
    with pytest.raises(ValueError, match="the field study is missing"):
        find_members([tmp_path / "empty"])


def test_other_json_files_beside_records_are_left_out_and_counted(tmp_path: Path, capsys):
    record = write_member(tmp_path, fake_member())
    for name, content in (("statistics.json", '{"layers": []}'), ("deep/list.json", "[1]")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert [member.source for member in find_members([tmp_path])] == [record]
    assert "2 of 3 JSON files are no records of runs and are left out" in capsys.readouterr().err
    (tmp_path / "damaged.json").write_text('{"study": ')
    with pytest.raises(ValueError, match=r"damaged\.json can't be read as the record of a run"):
        find_members([tmp_path])


def test_trainings_that_no_axis_tells_apart_are_named_by_their_study(tmp_path: Path):
    found = compared(tmp_path, *(fake_member(study=study) for study in ("long", "short")))
    assert sorted(group.label for group in found.groups) == ["long", "short"]


def test_the_claims_of_the_thesis_are_shown_only_for_its_own_training(tmp_path: Path):
    run = fake_member()["run"]
    own = {"run": run | {"objective": "Adversarial-FGSM"}, "data": "CIFAR10"}
    assert csv_rows(compared(tmp_path, fake_member(**own)))[0]["claimed_robust"] == pytest.approx(0.4541)
    other = own | {"run": own["run"] | {"objective": "TRADES"}}
    assert csv_rows(compared(tmp_path, fake_member(**other)))[0]["claimed_robust"] is None


def test_the_tables(tmp_path: Path):
    found = compared(tmp_path, *seeds("A|B", 2), *seeds("KAF", 2), fake_member("ELU"))
    rows = {row["activation"]: row for row in csv_rows(found)}
    assert list(rows) == [group.label for group in found.groups]
    row = rows["ELU"]
    assert (row["robust_interval"], row["runs"], row["robust_std"]) == ("Wilson over images", 1, None)
    assert (row["threat"], row["robust_images"], row["attacks"]) == ("Linf eps 8/255", 1000, "; ".join(ATTACKS))
    assert rows["KAF"]["robust_interval"] == "t over runs and images, from results per image"
    assert rows["KAF"]["clean_interval"].endswith("the images' part at most p (1 - p) / N")
    assert rows["KAF"]["seeds"] == "0 1" and rows["KAF"]["clean_std"] == 0
    assert rows["KAF"]["clean_high"] - rows["KAF"]["clean_low"] > 0.05  # equal runs of 1000 images
    table = [line for line in markdown(found, statements(found)).splitlines() if line.startswith("|")]
    assert len(table) == 2 + 3 and len({line.replace("\\|", "").count("|") for line in table}) == 1
