"""Everything that a page, a table or a printed summary shows."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_modules.comparison.groups import Group, group
from lightning_modules.comparison.measurement import Measurement, check_one_data_set
from lightning_modules.comparison.members import Member
from lightning_modules.comparison.pairs import Pair, compare_pairs


@dataclass(frozen=True)
class Compared:
    """Runs in groups, and the tests between them.

    Attributes:
        groups: by measurement, from the most robust to the least.
        pairs: the tests; their numbers are places in ``groups``.
        measurements: the ways in which robust accuracy was measured.
        notes: what a reader must know before comparing figures.
    """

    groups: tuple[Group, ...]
    pairs: tuple[Pair, ...]
    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...]

    def letter(self, measured: Measurement) -> str:
        """Return the name of a measurement on the page: A, B, ...; after Z numbers."""
        place = self.measurements.index(measured)
        return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[place] if place < 26 else str(place + 1)

    def pairs_of(self, measured: Measurement) -> list[Pair]:
        """Return the tests within a measurement."""
        return [pair for pair in self.pairs if self.groups[pair.a].measured == measured]


def compare_members(members: Sequence[Member]) -> Compared:
    """Group runs and test the groups against each other.

    Raises:
        ValueError: if the runs were tested on different data, or a run occurs twice.
    """
    check_one_data_set([(str(member.source), member.record) for member in members])
    groups = group(members)
    measurements = tuple(dict.fromkeys(each.measured for each in groups))
    groups.sort(key=lambda each: (measurements.index(each.measured), -each.robust.mean))
    found = Compared(tuple(groups), tuple(compare_pairs(groups)), measurements, ())
    return Compared(found.groups, found.pairs, measurements, tuple(_notes(found, members)))


def _notes(compared: Compared, members: Sequence[Member]) -> list[str]:
    notes = []
    first, *others = compared.measurements
    if others:
        differing = dict.fromkeys(name for other in others for name in other.differs_from(first))
        ways = "; ".join(f"{compared.letter(each)}: {each}" for each in compared.measurements)
        notes.append(
            f"Robust accuracy was measured in {len(others) + 1} ways, which differ in {', '.join(differing)}. Figures "
            f"are compared and averaged only within one way. {ways}."
        )
    counts = sorted({len(each.members) for each in compared.groups})
    if len(counts) > 1:
        notes.append(f"The groups have different numbers of runs: {', '.join(map(str, counts))}.")
    codes = {member.record["code"] for member in members}
    if len(codes) > 1:
        notes.append(f"The runs were made by {len(codes)} versions of the code: {', '.join(sorted(codes))}.")
    devices = {str(member.record["environment"].get("device", "?")) for member in members}
    if len(devices) > 1:
        notes.append(f"Seconds and memory were measured on different devices: {', '.join(sorted(devices))}.")
    return notes
