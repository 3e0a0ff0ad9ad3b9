"""The threat model of a run: its ball, its names, and the radii that it refuses."""

import copy
import itertools
import pickle

import pytest

from kafnets.attacks import PGD, AutoAttack
from kafnets.threat import L1, L2, Linf, ThreatModel, as_norm

DIFFERENT = [
    ThreatModel(),
    ThreatModel(eps="4/255"),
    ThreatModel(L2(), 0.5),
    ThreatModel(L1(), 0.5),
    ThreatModel(L1(), 12),
]


def test_the_default_is_that_of_cifar10():
    threat = ThreatModel()
    assert (threat.norm, threat.eps) == (Linf(), 8 / 255)


@pytest.mark.parametrize(
    ("given", "eps"), [("8/255", 8 / 255), ("0.5", 0.5), ("1", 1.0), (0, 0.0), (1, 1.0), (0.25, 0.25)]
)
def test_numbers_and_fractions_are_radii(given, eps):
    found = ThreatModel(eps=given).eps
    assert found == eps
    assert isinstance(found, float)


def test_equal_balls_are_equal_and_have_equal_hashes():
    for first, second in (
        (ThreatModel(), ThreatModel(Linf(), "8/255")),
        (ThreatModel(L2(), "1/2"), ThreatModel(L2(), 0.5)),
        (ThreatModel(L1(), 12), ThreatModel(L1(), 12.0)),
    ):
        assert first == second
        assert hash(first) == hash(second)
        assert len({first, second}) == 1


def test_another_norm_or_radius_is_another_threat_model():
    assert len(set(DIFFERENT)) == len(DIFFERENT)
    for first, second in itertools.combinations(DIFFERENT, 2):
        assert first != second


def test_a_threat_model_equals_nothing_else():
    for other in (None, 8 / 255, "Linf eps 8/255", Linf(), (Linf(), 8 / 255)):
        assert ThreatModel() != other


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda threat: pickle.loads(pickle.dumps(threat))])
def test_copies_are_equal(again):
    for threat in DIFFERENT:
        assert again(threat) == threat


@pytest.mark.parametrize(
    ("threat", "text"),
    [
        (ThreatModel(), "Linf eps 8/255"),
        (ThreatModel(eps=0), "Linf eps 0"),
        (ThreatModel(eps=0.031), "Linf eps 0.031"),
        (ThreatModel(L2(), 0.5), "L2 eps 0.5"),
        (ThreatModel(L1(), 12), "L1 eps 12"),
    ],
)
def test_texts(threat, text):
    norm, _, eps = text.partition(" ")
    assert str(threat) == text
    assert repr(threat) == f"ThreatModel({norm}, {eps})"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: ThreatModel(eps=8),
            r"eps must lie in \[0, 1\] \(images lie in \[0, 1\]\), got 8; for 8 grey levels write 8/255",
        ),
        (lambda: ThreatModel(eps=-0.1), r"eps must lie in \[0, 1\] \(images lie in \[0, 1\]\), got -0.1$"),
        (lambda: ThreatModel(eps=300), r"eps must lie in \[0, 1\] \(images lie in \[0, 1\]\), got 300$"),
        (lambda: ThreatModel(eps=float("nan")), r"eps must lie in \[0, 1\].*got nan$"),
        (lambda: ThreatModel(L2(), -1), "eps must be >= 0 and finite, got -1"),
        (lambda: ThreatModel(L2(), float("inf")), "eps must be >= 0 and finite, got inf"),
        (lambda: ThreatModel(L1(), float("nan")), "eps must be >= 0 and finite, got nan"),
        (lambda: ThreatModel(eps="eight"), "eps must be a number or a fraction such as 8/255, got 'eight'"),
        (lambda: ThreatModel(eps="8/0"), "eps must be a number or a fraction such as 8/255, got '8/0'"),
        (lambda: ThreatModel(eps="8/255/2"), "eps must be a number or a fraction such as 8/255, got '8/255/2'"),
        (lambda: ThreatModel(eps=""), "eps must be a number or a fraction such as 8/255, got ''"),
        (lambda: ThreatModel(eps="8/255", norm=L2()).norm.check_eps(-1), "eps must be >= 0 and finite, got -1"),
    ],
)
def test_radii_that_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("norm", [Linf(), L2(), L1()], ids=lambda norm: type(norm).__name__)
def test_a_norm_may_be_given_by_its_name(norm):
    name = type(norm).__name__
    assert as_norm(norm) is norm and as_norm(name) == norm
    assert ThreatModel(name, 0.5) == ThreatModel(norm, 0.5)
    assert PGD(norm=name, eps=0.5).threat == AutoAttack(norm=name, eps=0.5).threat == ThreatModel(norm, 0.5)
    assert PGD(norm=name).within(ThreatModel(eps=0.25)).threat == ThreatModel(norm, 0.25)


@pytest.mark.parametrize("norm", ["l3", "", 2, L2], ids=repr)
@pytest.mark.parametrize("build", [ThreatModel, PGD, AutoAttack], ids=lambda build: build.__name__)
def test_an_unknown_norm_is_refused_with_the_names(build, norm):
    with pytest.raises(ValueError, match=r"norm must be one of 'Linf', 'L2', 'L1', or a Norm such as L2\(\), got"):
        build(norm=norm)


def test_a_radius_may_be_valid_for_one_norm_only():
    assert ThreatModel(L2(), 3).eps == ThreatModel(L1(), 3).eps == 3
    with pytest.raises(ValueError, match="for 3 grey levels write 3/255"):
        ThreatModel(Linf(), 3)
