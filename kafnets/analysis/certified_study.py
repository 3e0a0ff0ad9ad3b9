"""Certificates beside attacks, image by image."""

from collections.abc import Sequence
from typing import Any

import torch
from scipy.stats import binom
from torch import Tensor, nn

from kafnets.analysis.per_image_results import PerImageResults
from kafnets.analysis.robustness_record import counted, plain
from kafnets.attacks import Attack
from kafnets.certify import Certificate
from kafnets.certify.certificate import Certifier
from kafnets.keyed_random import image_keys
from kafnets.threat import ThreatModel, show_units

CHANCE = 1e-6  # what a statistical certificate may be explained by


class BrokenCertificateError(ValueError):
    """An image is certified, and an attack within the same radius fools the network: one of the two is wrong."""


class CertifiedStudy:
    """What is certified of images, and what attacks within the same radii find.

    Args:
        certificates: which certificates, each once.
        attacks: run in the threat model of every certificate at every radius, on the network itself; the classifier
            that is certified then answers for the images found. At least one.
        threat: the threat model of the run.

    Raises:
        ValueError: if there is no certificate or no attack, two have the same name, a certificate has no radius for the
            norm of the run, or an attack states norm or eps.
    """

    def __init__(self, certificates: Sequence[Certificate], attacks: Sequence[Attack], threat: ThreatModel) -> None:
        if not certificates or not attacks:
            raise ValueError("give one certificate or more, and one attack or more to compare them with")
        self.certificates = {certificate.short_label: certificate for certificate in certificates}
        self.attacks = {attack.short_label: attack for attack in attacks}
        if len(self.certificates) < len(certificates) or len(self.attacks) < len(attacks):
            raise ValueError("two certificates, or two attacks, have the same name; give each once")
        self.threats = {name: one.threats(threat) for name, one in self.certificates.items()}
        for one in {one for threats in self.threats.values() for one in threats}:
            for attack in attacks:
                if attack.within(one).threat != one:
                    raise ValueError(
                        f"{attack} states norm or eps; leave them out, each certificate has its own: {one}"
                    )
        self._certifiers: dict[str, Certifier] = {}

    def prepare(self, net: nn.Module) -> None:
        """Compute the bounds of a network, in the mode in which it is measured, before any image is attacked.

        Raises:
            ValueError: if no bound is known for a part of it.
        """
        self._certifiers = {
            name: certificate.of(net, [threat.eps for threat in self.threats[name]])
            for name, certificate in self.certificates.items()
        }

    def measure(self, net: nn.Module, x: Tensor, y: Tensor, index: Tensor, keys: Tensor) -> PerImageResults:
        """Columns ``label``, ``clean``, ``certified/NAME/EPS`` and ``NAME/EPS/ATTACK``: 1 where the class is right.

        ``clean/NAME`` is the answer of the certified classifier without a perturbation, and ``fooled/NAME/EPS`` is 1
        where any attack made it give a wrong class; it may also give none.

        Args:
            net: the network, in evaluation mode and the same at every call.
            x, y: images ``(N, C, H, W)`` and true classes.
            index: number of each image.
            keys: one per image.

        Raises:
            BrokenCertificateError: if an image is certified and fooled. For a certificate that is wrong with a small
                probability see :meth:`check`.
        """
        with torch.no_grad():
            columns = {"index": index, "label": y, "clean": net(x).argmax(1) == y}
        if not self._certifiers:
            self.prepare(net)
        for name, certificate in self.certificates.items():
            certified = self._certifiers[name](x, y, keys)
            columns[f"clean/{name}"] = certificate.answers(net, x, keys) == y
            for column, threat in zip(certified.T, self.threats[name], strict=True):
                at = f"{name}/{show_units(threat.eps)}"
                columns[f"certified/{at}"] = column
                columns[f"fooled/{at}"] = torch.zeros_like(y, dtype=torch.bool)
                for attack_name, attack in self.attacks.items():
                    x_adv = attack.within(threat)(net, x, y, keys=image_keys(keys, 1))
                    answer = certificate.answers(net, x_adv, keys)
                    columns[f"{at}/{attack_name}"] = answer == y
                    columns[f"fooled/{at}"] |= (answer != y) & (answer >= 0)
        found = PerImageResults(columns)
        self.check(found)
        return found

    def check(self, results: PerImageResults) -> None:
        """Compare certificates and attacks image by image.

        Raises:
            BrokenCertificateError: if certified images were fooled; of a certificate that is wrong with probability p
                per image, if more than chance explains: the probability of so many is below 1e-6.
        """
        for name, certificate in self.certificates.items():
            for threat in self.threats[name]:
                self._check_radius(name, certificate.failure, threat, results)

    def _check_radius(self, name: str, failure: float, threat: ThreatModel, results: PerImageResults) -> None:
        at = f"{name}/{show_units(threat.eps)}"
        certified = results[f"certified/{at}"] == 1
        broken = certified & (results[f"fooled/{at}"] == 1)
        images, count = int(certified.sum()), int(broken.sum())
        if count and (not failure or binom.sf(count - 1, images, failure) < CHANCE):
            numbers = ", ".join(str(int(i)) for i in results["index"][broken][:10])
            attacks = [name for name in self.attacks if bool((broken & (results[f"{at}/{name}"] == 0)).any())]
            raise BrokenCertificateError(
                f"{name} certifies {images} images within {threat}, but {', '.join(attacks)} fools {count} of them "
                f"(numbers {numbers}): the bound is unsound or the attack leaves its ball. This is an error of the "
                "project, not of the network; please report it with the checkpoint"
            )

    def record(self, results: PerImageResults) -> dict[str, Any]:
        """Count the results: for each certificate and radius what is certified, and what survives each attack."""
        found: dict[str, Any] = {"clean": counted(results["clean"]), "certificates": {}}
        for name, certificate in self.certificates.items():
            rows = {}
            for threat in self.threats[name]:
                at = f"{name}/{show_units(threat.eps)}"
                survived = {attack: counted(results[f"{at}/{attack}"]) for attack in self.attacks}
                worst = torch.stack([results[f"{at}/{attack}"] for attack in self.attacks]).amin(0)
                rows[show_units(threat.eps)] = {
                    "eps": threat.eps,
                    "certified": counted(results[f"certified/{at}"]),
                    "worst_case": counted(worst),
                    "attacks": survived,
                }
            about = {"norm": type(certificate.norm).__name__, "failure": certificate.failure}
            about |= {"settings": plain(certificate.settings()), "clean": counted(results[f"clean/{name}"])}
            found["certificates"][name] = about | {"radii": rows}
        found["attacks"] = {name: plain(attack.settings()) for name, attack in self.attacks.items()}
        return found | {"outcomes": results.encode()}
