"""The record counts the results per image."""

import json

import pytest
import torch

from kafnets.analysis.per_image_results import PerImageResults
from kafnets.analysis.robustness_record import counted, robustness_record
from kafnets.attacks import PGD, FiniteDifferences
from kafnets.metrics import wilson_interval

NAN = torch.nan


@pytest.fixture
def results():
    columns = {
        "index": [0, 1, 2, 3],
        "label": [0, 0, 2, 2],
        "clean": [1, 1, 1, 0],
        "white/PGD": [1, 0, 1, 0],
        "black/Square": [0, 1, 1, 0],
        "eps/0.03137254901960784": [1, 0, NAN, NAN],
        "eps/1.0": [0, 0, NAN, NAN],
        "restarts/1": [1, 0, NAN, NAN],
        "loss/0": [0.5, 1.5, NAN, NAN],
    }
    return PerImageResults({name: torch.tensor(values) for name, values in columns.items()})


@pytest.fixture
def record(results):
    attacks = {"white/PGD": PGD(), "black/Square": PGD(estimator=FiniteDifferences(sigma=0.1))}
    more = {"attacks": attacks, "seconds": {"white/PGD": 1.0}, "class_names": ["cat", "dog", "owl"]}
    return robustness_record(results, {"half": {"b", "a"}}, **more)


def test_the_worst_case_is_at_most_that_of_every_attack(record):
    assert record["clean"]["accuracy"] == 0.75 and record["worst_case"]["right"] == 1
    assert [attack["right"] for attack in record["attacks"].values()] == [2, 2]
    assert record["attacks"]["white/PGD"]["seconds"] == 1.0
    assert record["attacks"]["white/PGD"]["settings"]["steps"] == 50


def test_classes_that_occur_are_counted(record):
    found = [(row["class"], row["clean"]["right"], row["worst_case"]["right"]) for row in record["classes"]]
    assert found == [("cat", 2, 0), ("owl", 1, 1)]


def test_curves_begin_at_the_clean_accuracy_of_their_images(record):
    eps = [(point["at"], point["accuracy"], point["images"]) for point in record["curves"]["eps"]]
    assert eps == [(0.0, 1.0, 2), (8 / 255, 0.5, 2), (1.0, 0.0, 2)]
    assert [point["at"] for point in record["curves"]["restarts"]] == [1.0]
    assert record["curves"]["loss"] == [{"at": 0.0, "mean": 1.0}]


def test_intervals_are_those_of_wilson():
    found = counted(torch.tensor([1.0, 1, 0, NAN]))
    assert (found["wilson95_low"], found["wilson95_high"]) == wilson_interval(2, 3)


def test_a_record_is_json_without_addresses_and_holds_the_results(record, results):
    assert " object at 0x" not in json.dumps(record)
    assert PerImageResults.decode(json.loads(json.dumps(record))["outcomes"]).encode() == results.encode()
    assert record["facts"] == {"half": ["a", "b"]}


def test_a_record_without_images_is_refused():
    with pytest.raises(ValueError, match="no image was measured"):
        robustness_record(PerImageResults.join([]), {}, attacks={}, seconds={}, class_names=[])
