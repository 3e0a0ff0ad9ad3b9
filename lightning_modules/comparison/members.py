"""Finds the runs to compare: members of studies, and run folders."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_modules.comparison.labels import labels
from lightning_modules.comparison.run_folder import read_run_folder
from lightning_modules.studies.member_record import Record, read_member


@dataclass(frozen=True)
class Member:
    """A finished run.

    Attributes:
        source: the file or the run folder it was read from.
        record: as :mod:`lightning_modules.studies.member_record` describes.
        settings: what all seeds of one training share and other trainings do not.
    """

    source: Path
    record: Record
    settings: tuple[str, ...]

    @property
    def axes(self) -> dict[str, str]:
        """Its place in the grid without the seed."""
        return {name: value for name, value in self.record["axes"].items() if name != "seed"}

    @property
    def seed(self) -> int:
        """The seed of the training."""
        return self.record["seed"]


def find_members(paths: Iterable[str | Path]) -> list[Member]:
    """Read every run that the paths name.

    Other JSON files beside the records of a folder are left out; their number is printed to standard error.

    Args:
        paths: run folders, folders of runs, results folders of studies, and single records, in any mixture.

    Raises:
        ValueError: if a path holds no finished run, a record is damaged, or a run is named twice.
    """
    sources: list[Path] = []
    for path in map(Path, paths):
        found = list(_sources(path))
        if not found:
            raise ValueError(
                f"{path} holds no finished run; give a run folder that was tested (with results.json), the results "
                "folder of a study, or a member's JSON file"
            )
        for source in found:
            if source.resolve() in {known.resolve() for known in sources}:
                raise ValueError(f"{source} is named twice; leave one out")
            sources.append(source)
    return [_member(source) for source in sources]


def _sources(path: Path) -> Iterator[Path]:
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    if path.is_file():
        yield path.parent if path.name in ("results.json", "robustness.json") else path
        return
    runs = sorted(file.parent for file in path.rglob("results.json"))
    yield from runs or _records(path)


def _records(folder: Path) -> list[Path]:
    files = sorted(folder.rglob("*.json"))
    kept = [file for file in files if _may_be_record(file)]
    if not kept:
        return files
    if others := len(files) - len(kept):
        print(f"{folder}: {others} of {len(files)} JSON files are no records of runs and are left out", file=sys.stderr)
    return kept


def _may_be_record(file: Path) -> bool:
    """Whether a file names its study or member; a damaged file may, so reading it says what is wrong."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return True
    return isinstance(content, dict) and bool({"study", "member"} & content.keys())


def _member(source: Path) -> Member:
    if source.is_dir():
        record, origin = read_run_folder(source)
    else:
        record = read_member(source)
        origin = record["study"]
    return Member(source, record, _settings(record, origin))


def _settings(record: Record, origin: str) -> tuple[str, ...]:
    axes = {name: value for name, value in record["axes"].items() if name != "seed"}
    run = {name: value for name, value in labels(record).items() if name != "seed"}
    return (origin, repr(sorted(axes.items())), repr(sorted(run.items())))


def varying_axes(members: Sequence[Member]) -> list[str]:
    """Return the axes on which the members differ, in the order in which the studies state them."""
    names = dict.fromkeys(name for member in members for name in member.axes)
    return [name for name in names if len({axis_value(member, name) for member in members}) > 1]


def axis_value(member: Member, name: str) -> str:
    """Return the value of an axis: that of the study, otherwise the run's own label, ``-`` if it has none.

    A member of another study has the axis only as a label, such as its ``activation``.
    """
    return member.axes.get(name) or labels(member.record).get(name, "-")
