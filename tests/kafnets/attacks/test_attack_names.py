"""The names and settings of attacks, as reports show them."""

import json

import pytest

from kafnets.attacks import APGDT, CW, EOT, FAB, FGSM, L2, PGD, Suite, Transfer
from kafnets.losses import margin

from .attack_cases import NORMS, build, every_attack, surrogate


@every_attack
def test_settings_of_every_attack(attack, norm):
    found = json.loads(json.dumps(build(attack, norm).settings()))
    assert (found["eps"], found["norm"].lower()) == (NORMS[norm][1], norm)
    assert "object at 0x" not in json.dumps(found)


def test_settings_are_json_ready():
    found = json.loads(json.dumps(PGD(eps="8/255", steps=3, norm=L2()).settings()))
    assert found["attack"] == "PGD"
    assert (found["eps"], found["steps"], found["norm"], found["loss"]) == (8 / 255, 3, "L2", "cross_entropy")


class MyPGD(PGD):
    """A subclass without settings of its own."""


@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (PGD(), "PGD-50-1 Linf eps 8/255"),
        (PGD(restarts=10, random_start=False), "PGD-50-10 Linf eps 8/255 (random_start=False)"),
        (PGD(step_size="1/255", loss=margin), "PGD-50-1 Linf eps 8/255 (step_size=1/255, loss=margin)"),
        (PGD(estimator=EOT(5)), "PGD-50-1 Linf eps 8/255 (estimator=EOT(samples=5))"),
        (MyPGD(steps=3), "MyPGD-3-1 Linf eps 8/255"),
        (FGSM(eps=0.031, norm=L2()), "FGSM L2 eps 0.031"),
        (FGSM(alpha=1.0), "FGSM Linf eps 8/255 (alpha=1)"),
        (APGDT(targets=3), "APGDT-100-1 Linf eps 8/255 (targets=3)"),
        (FAB(targeted=False), "FAB-100-1 Linf eps 8/255 (targeted=False)"),
        (CW(steps=9), "CW-9-9 L2 eps 0.5"),
        (Suite({"a": PGD(), "b": FGSM()}), "Suite(a, b) Linf eps 8/255"),
        (
            Transfer(surrogate=surrogate, attack=FGSM()),
            "Transfer Linf eps 8/255 (surrogate=surrogate, attack=FGSM Linf eps 8/255)",
        ),
    ],
    ids=str,
)
def test_a_name_is_class_ball_and_every_setting_that_is_not_the_default(attack, name):
    assert str(attack) == attack.label == name
