"""A robustness record as text: Markdown, and a summary for the terminal."""

import json
import textwrap
from collections.abc import Sequence
from typing import Any, TypeAlias

from kafnets.threat import show_units

Record: TypeAlias = dict[str, Any]


def per_cent(value: Record) -> str:
    """Return an accuracy in per cent with its Wilson 95 % interval.

    Example:
        >>> per_cent({"accuracy": 0.27, "wilson95_low": 0.193, "wilson95_high": 0.364})
        '27.0 [19.3, 36.4]'
    """
    return f"{100 * value['accuracy']:.1f} [{100 * value['wilson95_low']:.1f}, {100 * value['wilson95_high']:.1f}]"


def verdict(record: Record) -> str:
    """Return a one-line summary of the checks.

    Example:
        >>> verdict({"checks": [{"status": "pass"}, {"status": "warn"}, {"status": "not run"}]})
        'Checks: 1 pass, 1 warn, 0 fail, 1 not run. The worst case may be too high: see what to do below.'
    """
    count = {status: sum(check["status"] == status for check in record["checks"]) for status in _STATUSES}
    advice = "No check found a problem."
    if count["warn"]:
        advice = "The worst case may be too high: see what to do below."
    if count["fail"]:
        advice = "Do not use these figures: something is broken, see below."
    return f"Checks: {', '.join(f'{number} {status}' for status, number in count.items())}. {advice}"


_STATUSES = ("pass", "warn", "fail", "not run")


def markdown(record: Record) -> str:
    """Return the record as Markdown, without the outcomes of single images."""
    parts = [
        f"# Robustness: {title(record)}",
        _unfinished(record),
        verdict(record),
        "Accuracy in % with Wilson 95 % intervals. An image is robust in the worst case only if it is classified "
        "correctly without an attack and after every attack listed.",
        _table(("", "accuracy % [95 %]", "images", "seconds"), _attack_rows(record)),
        "## Checks",
        _table(("", "check", "numbers", "what to do"), [*map(_check_row, record["checks"])]),
        "## Classes",
        _table(("class", "clean % [95 %]", "worst case % [95 %]", "images"), [*map(_class_row, record["classes"])]),
        *[part for name, points in record["curves"].items() for part in _curve(name, points)],
        "## Settings",
        _table(("what", "value"), _provenance_rows(record)),
        "```json\n" + json.dumps({n: a["settings"] for n, a in record["attacks"].items()}, indent=1) + "\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def screen(record: Record, folder: str) -> str:
    """Return the text that is printed after a test."""
    rows = [(name, f"{value} %") for name, value, *_ in _attack_rows(record)]
    rows += [("images", str(record["images"])), ("checkpoint", _checkpoint(record)), ("written to", folder)]
    width = max(len(name) for name, _ in rows)
    lines = [line for name, text in rows for line in wrapped(f"{name:<{width}}  ", text)]
    lines += wrapped("", verdict(record))
    for check in record["checks"]:
        if check["status"] in ("warn", "fail"):
            lines += wrapped(f"{check['status'].upper()}: ", f"{check['name']}: {check['numbers']}")
            lines += wrapped("      ", check["advice"])
        elif check["images"]:
            lines += wrapped("NOTE: ", f"{check['name']}: {check['numbers']}")
    rule = "-" * max(map(len, lines))
    return "\n".join([rule, *lines, rule])


def wrapped(start: str, text: str) -> list[str]:
    """Return ``start`` and a text in lines of 100 characters, indented by the length of ``start``.

    Example:
        >>> wrapped("name  ", "one two")
        ['name  one two']
    """
    width = max(100 - len(start), 30)
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
    return [(start if i == 0 else " " * len(start)) + line for i, line in enumerate(lines)]


def title(record: Record) -> str:
    """Return network, training and seed."""
    run = record["run"]
    return f"{run['backbone']} {run['activation']}, trained by {run['objective']}, seed {run['seed']}"


def _unfinished(record: Record) -> str:
    if record["complete"]:
        return ""
    return f"**Not finished:** {record['images']} of {record['images_wanted']} images so far."


def _attack_rows(record: Record) -> list[tuple[str, ...]]:
    rows = [("clean", per_cent(record["clean"]), str(record["images"]), "")]
    for name, value in record["attacks"].items():
        rows.append((name.replace("/", ": ", 1), per_cent(value), str(value["images"]), f"{value['seconds']:.1f}"))
    return [*rows, ("worst case", per_cent(record["worst_case"]), str(record["images"]), "")]


def _check_row(check: Record) -> tuple[str, ...]:
    return check["status"], check["name"], check["numbers"], check["advice"]


def _class_row(row: Record) -> tuple[str, ...]:
    return row["class"], per_cent(row["clean"]), per_cent(row["worst_case"]), str(row["clean"]["images"])


def _curve(name: str, points: Sequence[Record]) -> list[str]:
    if name == "loss":
        rows = [(f"{point['at']:g}", f"{point['mean']:.3f}") for point in points]
        return ["## Mean cross-entropy along the attack", _table(("step", "loss"), rows)]
    at = show_units if name == "eps" else "{:g}".format
    rows = [(at(point["at"]) if point["at"] else "0", per_cent(point)) for point in points]
    return [f"## Accuracy over {name}, {points[0]['images']} images", _table((name, "accuracy % [95 %]"), rows)]


def _provenance_rows(record: Record) -> list[tuple[str, ...]]:
    names = ["data", "data_images", "data_classes", "data_sha256", "images", "seed", "dtype", "device", "processes"]
    names += ["torch", "code", "checkpoint", "checkpoint_sha256"]
    return [*((name, str(record[name])) for name in names), ("seconds", f"{sum(record['seconds'].values()):.1f}")]


def _checkpoint(record: Record) -> str:
    return f"{record['checkpoint']}  sha256 {(record['checkpoint_sha256'] or '-')[:12]}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
