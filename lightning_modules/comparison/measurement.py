"""What was measured of a run: accuracies compare only if attacks, threat model and images are the same."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, TypeAlias

from kafnets.threat import show_units

Record: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Measurement:
    """How the robust accuracy of a run was measured.

    Attributes:
        worst_case: whether it is the worst case of a report; otherwise that of the run's own test attack.
        threat: norm and eps.
        attacks: name and settings (JSON) of each attack.
        images: number of attacked images.
        image_set: digest of the numbers of the attacked images, empty where they were not noted.
        clean_images: number of images of the clean accuracy.
    """

    worst_case: bool
    threat: str
    attacks: tuple[tuple[str, str], ...]
    images: int
    image_set: str
    clean_images: int

    def __str__(self) -> str:
        how = f"worst case of {len(self.attacks)} attacks" if self.worst_case else self.attacks[0][0]
        clean = f"; clean accuracy on {self.clean_images:,}" if self.clean_images != self.images else ""
        return f"{how}, {self.threat}, {self.images:,} images{clean}"

    def differs_from(self, other: "Measurement") -> list[str]:
        """Return in words in what two measurements differ."""
        parts = {
            "threat model": (self.threat, other.threat),
            "attacks": (self.attacks, other.attacks),
            "attacked images": ((self.images, self.image_set), (other.images, other.image_set)),
            "images of the clean accuracy": (self.clean_images, other.clean_images),
        }
        return [name for name, (one, two) in parts.items() if one != two]


def measurement(record: Record) -> Measurement:
    """Return how the robust accuracy of a record was measured: the worst case of its report, or its test attack."""
    worst = record["worst_case"]
    counted = worst or record["robust"]
    if worst:
        attacks = {_short(name): attack["settings"] for name, attack in record["attacks"].items()}
    else:
        attacks = {attack_name(record["robust"]["attack"]): record["robust"]["attack"]}
    first = next(iter(attacks.values()))
    index = record["outcomes"]["index"] if worst else []
    return Measurement(
        worst_case=bool(worst),
        threat=f"{first.get('norm', '?')} eps {show_units(first.get('eps', float('nan')))}",
        attacks=tuple(sorted((name, json.dumps(settings, sort_keys=True)) for name, settings in attacks.items())),
        images=counted["images"],
        image_set=hashlib.sha256(json.dumps(index).encode()).hexdigest() if index else "",
        clean_images=record["clean"]["images"],
    )


def attack_name(settings: Record) -> str:
    """Return a short name of an attack from its settings.

    Example:
        >>> attack_name({"attack": "PGD", "steps": 50, "restarts": 1, "norm": "Linf", "eps": 0.1})
        'PGD-50-1'
    """
    numbers = [str(settings[key]) for key in ("steps", "queries", "restarts") if key in settings]
    return "-".join([str(settings.get("attack", "attack")), *numbers])


def _short(name: str) -> str:
    """The name of an attack of a report without its threat model, which is the same for all.

    Example:
        >>> _short("white/PGD-50-1 Linf eps 8/255")
        'white/PGD-50-1'
    """
    head, _, rest = name.partition(" ")
    return f"{head}{rest[rest.index(' (') :]}" if " (" in rest else head


def check_one_data_set(sources: list[tuple[str, Record]]) -> None:
    """Refuse runs that were tested on different images.

    Raises:
        ValueError: naming two of them.
    """
    first, record = sources[0]
    for source, other in sources[1:]:
        for key in ("data", "data_images", "data_classes", "data_sha256"):
            if other[key] != record[key]:
                raise ValueError(
                    f"{first} and {source} were tested on different data, so they don't belong on one page: {key} is "
                    f"{str(record[key])[:12]} and {str(other[key])[:12]}; compare the runs of one data set at a time"
                )
