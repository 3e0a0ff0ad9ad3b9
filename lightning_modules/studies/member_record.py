"""The record of a finished run: one small JSON file, from which every table can be built without the run folder.

A record is a dictionary with these fields:

``study``, ``member``
    Names of the study and of the member; the file is ``results/<study>/<member>.json``.
``axes``
    The member's place in the grid: axis to label, both text.
``command``
    The arguments of ``cli.py``, as a list.
``config``
    The settings by dotted name, without paths and loggers; missing in records of older versions and of single runs.
``config_sha256``, ``source_sha256``
    SHA-256 of the settings without paths, and of the source files; None where they were not noted.
``run``
    :meth:`Classifier.labels() <lightning_modules.classifier.Classifier.labels>`: activation, backbone, objective, norm,
    eps, seed and others.
``data``, ``data_images``, ``data_classes``, ``data_sha256``, ``code``, ``checkpoint_sha256``, ``network_sha256``,
``dtype``, ``seed``
    As in ``results.json``: see :mod:`lightning_modules.provenance`.
``clean``, ``robust``
    ``accuracy``, ``wilson95_low``, ``wilson95_high`` and ``images``; ``robust`` also the settings of its ``attack``.
``worst_case``, ``attacks``, ``outcomes``
    The worst case of all attacks of a robustness report, counted as above, with the names of its ``attacks``; each
    attack's ``accuracy`` and ``settings``; and the columns ``index``, ``label``, ``clean`` and one per attack, as
    :meth:`~kafnets.analysis.per_image_results.PerImageResults.encode` writes them. Without a report: None, empty, None.
``checks``
    The sanity checks of the report that warn or fail, a list of ``name``, ``status``, ``numbers``, ``advice``,
    ``images``.
``eps_curve``
    Points ``[eps, accuracy, images]``; None where none was measured.
``history``
    One dictionary of figures per epoch, as in ``history.csv``.
``shapes``
    The learned activations of at most 8 layers: ``layer``, the points ``x``, ``y`` with one list per channel, and
    ``start``, the same before training, or None. At most 8 channels.
``events``
    What the guards have noted: ``kind`` and ``text``, and more where it is known, such as ``step`` and ``epoch``.
``parameters``
    Number of the network's parameters.
``seconds``
    ``fit`` and ``test``.
``memory``
    Peak in bytes: of tensors on a GPU, of the whole process on a CPU.
``environment``
    ``torch``, ``python``, ``platform``, ``device``, ``threads``.
"""

import json
import re
from collections.abc import Callable, Iterator
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import torch

from kafnets.analysis.per_image_results import PerImageResults
from lightning_modules.files import write_text

Record: TypeAlias = dict[str, Any]


def write_member(folder: Path, record: Record) -> Path:
    """Write ``folder/<study>/<member>.json`` atomically, one line per field; return its path.

    Raises:
        ValueError: if the record is not as this module describes.
    """
    path = folder / str(record.get("study")) / f"{record.get('member')}.json"
    _check(path, record)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f'"{name}": {json.dumps(value, allow_nan=False, separators=(",", ":"))}' for name, value in record.items()]
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")
    return path


def read_member(path: str | Path) -> Record:
    """Read a record and check all of it.

    Raises:
        ValueError: in one line that names the file and the field, if it is missing, damaged, or not as this module
            describes.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path} can't be read as the record of a run: {reason}") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path} is no record of a run: it must be an object, got a {type(record).__name__}")
    _check(path, record)
    if path.stem != record["member"]:
        raise ValueError(f"{path} is the record of {record['member']}; name it {record['member']}.json")
    return record


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no number of JSON")


def _check(path: Path, record: Record) -> None:
    for name, (holds, expected) in _FIELDS.items():
        if name not in record and name in _OPTIONAL:
            continue
        if name not in record:
            raise ValueError(f"{path}: the field {name} is missing; it must be {expected}")
        if not holds(record[name]):
            raise ValueError(f"{path}: {name} must be {expected}, got {json.dumps(record[name], default=str)[:80]}")
    for problem in _disagreements(record):
        raise ValueError(f"{path}: {problem}")


# --- single fields ----------------------------------------------------------------------------------------------------

Holds: TypeAlias = Callable[[Any], bool]


def _number(value: Any) -> bool:
    return type(value) in (int, float) and isfinite(value)


def _amount(value: Any) -> bool:
    return _number(value) and value >= 0


def _count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _hash(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value))


def _or_none(holds: Holds) -> Holds:
    return lambda value: value is None or holds(value)


def _list_of(holds: Holds) -> Holds:
    return lambda value: isinstance(value, list) and all(map(holds, value))


def _mapping_of(holds: Holds) -> Holds:
    return lambda value: isinstance(value, dict) and all(map(holds, value.values()))


def _having(**fields: Holds) -> Holds:
    """Whether a value is a dictionary with these fields, and possibly others."""
    return lambda value: (
        isinstance(value, dict) and all(name in value and holds(value[name]) for name, holds in fields.items())
    )


def _counted(value: Any) -> bool:
    names = ("wilson95_low", "accuracy", "wilson95_high")
    if not (_having(images=_count)(value) and all(_number(value.get(name)) for name in names)):
        return False
    low, accuracy, high = (value[name] for name in names)
    return -1e-9 <= low <= accuracy + 1e-9 and accuracy <= high + 1e-9 and high <= 1 + 1e-9


def _robust(value: Any) -> bool:
    return _counted(value) and isinstance(value.get("attack"), dict)


def _worst_case(value: Any) -> bool:
    return _counted(value) and _list_of(_text)(value.get("attacks"))


def _attack(value: Any) -> bool:
    settings = _having(norm=_text, eps=_number)
    return _having(accuracy=_share, settings=settings)(value)


def _share(value: Any) -> bool:
    return _number(value) and 0 <= value <= 1


def _eps_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and _amount(value[0]) and _share(value[1]) and _count(value[2])


def _shape(value: Any) -> bool:
    if not _having(layer=_text, x=_list_of(_number), y=_list_of(_list_of(_number)))(value):
        return False
    curves = [*value["y"], *(value.get("start") or [])]
    channels = [len(value["y"]), len(value.get("start") or value["y"])]
    return len(set(channels)) == 1 and all(len(curve) == len(value["x"]) for curve in curves)


_COUNTED = "an object with accuracy, wilson95_low, wilson95_high (in order, in [0, 1]) and images (>= 1)"
_LABELS = ("activation", "backbone", "objective", "norm")

_OPTIONAL = {"config"}
# field -> whether a value is right, and what is expected
_FIELDS: dict[str, tuple[Holds, str]] = {
    "study": (_text, "text"),
    "member": (lambda value: _text(value) and "/" not in value, "text without /"),
    "axes": (_mapping_of(_text), "an object of texts"),
    "command": (_list_of(lambda value: isinstance(value, str)), "a list of texts"),
    "config": (lambda value: isinstance(value, dict), "an object of settings"),
    "config_sha256": (_or_none(_hash), "64 hexadecimal digits or null"),
    "source_sha256": (_or_none(_hash), "64 hexadecimal digits or null"),
    "run": (
        _having(**dict.fromkeys(_LABELS, _text), eps=_number, seed=_number),
        f"an object with the texts {', '.join(_LABELS)} and the numbers eps and seed",
    ),
    "data": (_text, "text"),
    "data_images": (_count, "an integer >= 1"),
    "data_classes": (_count, "an integer >= 1"),
    "data_sha256": (_hash, "64 hexadecimal digits"),
    "code": (_text, "text"),
    "checkpoint_sha256": (_or_none(_hash), "64 hexadecimal digits or null"),
    "network_sha256": (_or_none(_text), "text or null"),
    "dtype": (_text, "text"),
    "seed": (lambda value: type(value) is int, "an integer"),
    "clean": (_counted, _COUNTED),
    "robust": (_robust, f"{_COUNTED}, and attack"),
    "worst_case": (_or_none(_worst_case), f"{_COUNTED}, and the names of its attacks; or null"),
    "attacks": (_mapping_of(_attack), "an object of accuracy (in [0, 1]) and settings (with norm and eps) by attack"),
    "outcomes": (_or_none(lambda value: isinstance(value, dict)), "an object of columns or null"),
    "checks": (_list_of(_having(name=_text, status=_text)), "a list of objects with name and status"),
    "eps_curve": (_or_none(_list_of(_eps_point)), "a list of [eps, accuracy, images] or null"),
    "history": (_list_of(_mapping_of(_or_none(_number))), "a list of objects of numbers"),
    "shapes": (_list_of(_shape), "a list of objects with layer, x, y, and start; all curves as long as x"),
    "events": (_list_of(_having(kind=_text, text=_text)), "a list of objects with kind and text"),
    "parameters": (_count, "an integer >= 1"),
    "seconds": (_having(fit=_amount, test=_amount), "an object with fit and test, both >= 0"),
    "memory": (_amount, "a number >= 0"),
    "environment": (_having(torch=_text, python=_text, device=_text), "an object with torch, python and device"),
}


# --- fields that must agree -------------------------------------------------------------------------------------------


def _disagreements(record: Record) -> Iterator[str]:
    worst, attacks, outcomes = record["worst_case"], record["attacks"], record["outcomes"]
    if (worst is None) != (outcomes is None) or bool(attacks) != (worst is not None):
        yield "worst_case, attacks and outcomes come from one report: all or none of them must be there"
    if worst is None or outcomes is None:
        return
    if set(worst["attacks"]) != set(attacks):
        yield f"worst_case states the attacks {worst['attacks']}, and attacks has {sorted(attacks)}"
    try:
        results = PerImageResults.decode(outcomes)
    except ValueError as error:
        yield f"outcomes: {error}"
        return
    if missing := [name for name in ("label", "clean", *attacks) if name not in results.columns]:
        yield f"outcomes lack the column {missing[0]}"
        return
    columns = {name: results[name] for name in ("clean", *attacks)}
    if wrong := [name for name, values in columns.items() if not bool(((values == 0) | (values == 1)).all())]:
        yield f"outcomes: {wrong[0]} must be 0 or 1 for every image"
        return
    right = int(torch.stack([*columns.values()]).amin(0).sum())
    if len(results) != worst["images"] or right != round(worst["accuracy"] * worst["images"]):
        yield (
            f"worst_case states {worst['accuracy']:g} of {worst['images']} images, and outcomes hold {right} right of "
            f"{len(results)}"
        )
