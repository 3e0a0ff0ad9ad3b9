"""Attacks take what they were not given from the threat model of a run."""

import pytest
import torch

from kafnets.attacks import (
    CW,
    EOT,
    FGSM,
    L1,
    L2,
    MIFGSM,
    PGD,
    AutoAttack,
    FiniteDifferences,
    GaussianNoise,
    Linf,
    Suite,
    Transfer,
)
from kafnets.threat import ThreatModel

from .attack_cases import ATTACKS, NORMS, batch, build, every_attack, in_training, surrogate


@every_attack
def test_the_threat_model_of_a_run_supplies_the_ball(attack, norm):
    if attack in ("suite", "mifgsm_transferred"):
        pytest.skip("built from attacks with a ball of their own")
    threat = ThreatModel(*NORMS[norm])
    open_attack = ATTACKS[attack]()
    bound = open_attack.within(threat)
    assert (bound.threat, open_attack.threat) == (threat, open_attack.default_threat)
    x, y, keys = batch()
    net = in_training("linear").eval()
    given = {} if attack == "pgd_differences" else {"settings": build(attack, norm).settings()}
    assert given in ({}, {"settings": bound.settings()})
    assert torch.equal(bound(net, x, y, keys=keys), build(attack, norm)(net, x, y, keys=keys))


def test_settings_that_an_attack_was_given_are_kept():
    threat = ThreatModel(L2(), 0.5)
    assert PGD(eps=0.1).within(threat).threat == ThreatModel(L2(), 0.1)
    assert PGD(norm=Linf()).within(threat).threat == ThreatModel(Linf(), 0.5)
    with pytest.raises(ValueError, match="CW minimises an L2 distance"):
        CW().within(ThreatModel())


def test_settings_that_depend_on_the_ball_follow_the_threat_model():
    threat = ThreatModel(eps="4/255")
    assert PGD().within(threat).step_size == 1 / 255
    assert PGD(step_size="2/255").within(threat).step_size == 2 / 255
    assert FGSM(alpha=1.25).within(threat).step_size == 5 / 255
    assert MIFGSM(steps=4).within(threat).step_size == 1 / 255
    assert GaussianNoise().within(threat).sigma == 4 / 255
    assert PGD(estimator=FiniteDifferences()).within(threat).estimator.sigma == 4 / 255
    assert PGD(estimator=EOT(2, FiniteDifferences())).within(threat).estimator.of.sigma == 4 / 255
    assert PGD(estimator=FiniteDifferences(sigma=0.1)).within(threat).estimator.sigma == 0.1
    assert {a.eps for a in AutoAttack().within(threat).attacks.values()} == {4 / 255}
    assert AutoAttack().within(ThreatModel(L1(), 12)).attacks["APGD-CE"].restarts == 5
    assert Suite({"a": PGD()}).within(threat).attacks["a"].eps == 4 / 255
    assert Transfer(surrogate=surrogate, attack=PGD()).within(threat).attack.eps == 4 / 255
