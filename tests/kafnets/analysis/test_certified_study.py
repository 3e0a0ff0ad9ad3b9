"""An image that is certified and fooled stops the study, whatever the attack."""

from typing import ClassVar

import pytest
import torch
from torch import nn

from kafnets.analysis.certified_study import BrokenCertificateError, CertifiedStudy
from kafnets.attacks import APGD, FGSM, PGD, Square
from kafnets.attacks.apgd_targeted import APGDT
from kafnets.attacks.cw import CW
from kafnets.attacks.deepfool import DeepFool
from kafnets.attacks.fab import FAB
from kafnets.attacks.mifgsm import MIFGSM
from kafnets.attacks.random_noise import UniformNoise
from kafnets.certify import Certificate, Intervals, LipschitzMargins, Smoothing
from kafnets.keyed_random import image_keys
from kafnets.threat import L2, Linf, Norm, ThreatModel

ATTACKS = [
    *(FGSM(), PGD(steps=10), MIFGSM(steps=10), APGD(steps=20), APGDT(steps=20, targets=2), FAB(steps=20, classes=2)),
    *(Square(queries=200), UniformNoise(restarts=20)),
]


class Careless(Certificate):
    """Certifies every image that is classified correctly."""

    norm: ClassVar[Norm] = Linf()

    def of(self, net, radii):
        return lambda x, y, keys: (net(x).argmax(1) == y)[:, None].expand(-1, len(radii))


class CarelessL2(Careless):
    """The same in L2."""

    norm = L2()


class Lucky(Careless):
    """A statistical certificate that is nearly always wrong."""

    failure = 0.001


def linear():
    """Two classes, on either side of x_1 = x_2, and three images at Linf distances 0.05, 0.1 and 0.2 of that line."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).eval()
    net[1].weight.data.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    x = torch.tensor([[0.55, 0.45], [0.6, 0.4], [0.7, 0.3]]).view(3, 1, 1, 2)
    return net, x, torch.zeros(3, dtype=torch.int64), torch.tensor([4, 7, 9])


def measure(certificates, attacks, threat=None):
    net, x, y, index = linear()
    study = CertifiedStudy(certificates, attacks, threat or ThreatModel(eps=0.15))
    return study, study.measure(net, x, y, index, image_keys(index, 0))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.short_label)
def test_an_unsound_certificate_is_found_by_every_attack(attack):
    with pytest.raises(BrokenCertificateError, match=r"Careless certifies 3 images within Linf eps 0.15, but .* fools"):
        measure([Careless()], [attack])


@pytest.mark.parametrize("attack", [PGD(steps=10), CW(steps=50), DeepFool(steps=10)], ids=lambda a: a.short_label)
def test_in_l2_too(attack):
    with pytest.raises(BrokenCertificateError, match=r"within L2 eps 0.15, but .* fools 2 of them \(numbers 4, 7\)"):
        measure([CarelessL2(radii=[0.15])], [attack])


def test_sound_certificates_pass_and_are_counted_beside_the_attack():
    study, results = measure(
        [Intervals(radii=[0.04, 0.15]), LipschitzMargins(radii=[0.1]), Smoothing(sigma=0.1, n=200, radii=[0.1])],
        [PGD(steps=10), FGSM()],
    )
    record = study.record(results)
    assert record["clean"]["accuracy"] == 1
    certified = {name: [row["certified"]["right"] for row in one["radii"].values()]
                 for name, one in record["certificates"].items()}  # fmt: skip
    assert certified == {"Intervals": [3, 1], "LipschitzMargins": [2], "Smoothing-0.1": [2]}
    intervals = record["certificates"]["Intervals"]
    assert [row["worst_case"]["right"] for row in intervals["radii"].values()] == [3, 1]
    assert set(intervals["radii"]["0.15"]["attacks"]) == {PGD(steps=10).short_label, FGSM().short_label}
    assert record["outcomes"]["certified/Intervals/0.15"] == "001"


def test_chance_explains_a_few_failures_of_a_statistical_certificate():
    with pytest.raises(BrokenCertificateError, match="Lucky certifies"):
        measure([Lucky(radii=[0.3])], [PGD(steps=10)])  # all three, at a probability of 0.001 each
    measure([Lucky(radii=[0.06])], [PGD(steps=10)])  # one of three


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: measure([], [FGSM()]), "give one certificate or more"),
        (lambda: measure([Intervals(), Intervals()], [FGSM()]), "have the same name"),
        (
            lambda: measure([LipschitzMargins()], [FGSM()]),
            "certifies L2, the run states Linf eps 0.15",
        ),
        (lambda: measure([Intervals()], [FGSM(eps=0.1)]), "states norm or eps; leave them out"),
        (lambda: Intervals(radii=[0.2, 0.1]), r"radii must be numbers > 0 that ascend, got \[0.2, 0.1\]"),
        (lambda: Intervals(radii=["x"]), "radii must be a number or a fraction such as 8/255, got 'x'"),
    ],
)
def test_what_does_not_fit_together_is_refused(build, says):
    with pytest.raises(ValueError, match=says):
        build()
