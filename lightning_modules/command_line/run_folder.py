"""Run folders: ``<dir>/<name>/version_<k>``, and the checkpoints within."""

import os
import re
from pathlib import Path

_PATTERNS = {"last": "last*.ckpt", "best": "best*.ckpt"}


def runs_of(folder: Path, name: str) -> list[Path]:
    """Return the run folders of a name, oldest first."""
    found = [path for path in (folder / name).glob("version_*") if re.fullmatch(r"version_\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("version_")))


def check_name(folder: Path, name: str) -> None:
    """Raise ``ValueError`` unless the runs of a name lie inside the folder of all runs."""
    inside = (folder / name).resolve()
    if not name.strip() or folder.resolve() not in inside.parents:
        raise ValueError(
            f"--run.name {name!r} leads out of the folder of all runs, {folder}; choose that with --run.dir"
        )


def new_version(folder: Path, name: str) -> int:
    """Create the next free run folder and return its number; two processes never get the same one.

    Raises:
        ValueError: if it can't be created.
    """
    try:
        (folder / name).mkdir(parents=True, exist_ok=True)
        version = int(runs[-1].name.removeprefix("version_")) + 1 if (runs := runs_of(folder, name)) else 0
        while True:
            try:
                (folder / name / f"version_{version}").mkdir()
                break
            except FileExistsError:
                version += 1
        if not os.access(folder / name / f"version_{version}", os.W_OK):
            raise PermissionError("it is read-only")
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"run folder {folder / name} can't be written ({reason}); choose another --run.dir") from None
    return version


def discard_if_empty(folder: Path) -> None:
    """Remove a run folder if it is empty, for example after an error in the path of the data."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        if not any(folder.parent.iterdir()):
            folder.parent.rmdir()


def find_checkpoint(which: str, folder: Path, name: str) -> Path:
    """Return the file that ``last``, ``best``, a run folder or a path stands for.

    ``last`` and ``best`` are looked up in the newest run of the name that has one. A run folder stands for its
    best checkpoint, or its last if it has no best.

    Raises:
        ValueError: if there is no such file.
    """
    if which not in _PATTERNS:
        inside = [*Path(which).glob("checkpoints/best*.ckpt"), *Path(which).glob("checkpoints/last*.ckpt")]
        if Path(which).is_dir() and not inside:
            raise ValueError(f"{which!r} is no run folder with a checkpoint in checkpoints/; give a file, best or last")
        if not inside and not Path(which).is_file():
            raise ValueError(f"checkpoint {which!r} does not exist; give a file, a run folder, best or last")
        return inside[0] if inside else Path(which)
    if found := newest_checkpoints(folder, name, which):
        return found[0]
    raise ValueError(
        f"no {which} checkpoint in {folder / name}/version_*/checkpoints; train first, name the run with --run.name, "
        "or give --ckpt_path a file"
    )


def newest_checkpoints(folder: Path, name: str, *which: str) -> list[Path]:
    """Return the checkpoints of the runs of a name, those of the newest run first.

    Args:
        folder: the folder of all runs.
        name: of the runs.
        which: ``"last"``, ``"best"``, or both in the order in which they come within a run.
    """
    return [
        path
        for run in reversed(runs_of(folder, name))
        for kind in which
        for path in sorted((run / "checkpoints").glob(_PATTERNS[kind]), key=lambda p: p.stat().st_mtime, reverse=True)
    ]


def run_of(checkpoint: Path) -> Path | None:
    """Return the run folder that holds a checkpoint; None if it lies elsewhere."""
    run = checkpoint.parent.parent
    inside = checkpoint.parent.name == "checkpoints" and re.fullmatch(r"version_\d+", run.name)
    return run if inside and run.parent != run.parent.parent else None
