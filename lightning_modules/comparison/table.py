"""One row per group: as CSV, as Markdown, and for the page."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_modules.comparison.claims import claimed, claims
from lightning_modules.comparison.compared import Compared
from lightning_modules.comparison.groups import INTERVALS, Estimate, Group
from lightning_modules.comparison.statement import method


@dataclass(frozen=True)
class Column:
    """A column of the page's table.

    Attributes:
        title: its head.
        value: what it is sorted by, a number, a text or None.
        show: what it shows.
        unit: added to the title in small print.
    """

    title: str
    value: Callable[[Group], Any]
    show: Callable[[Group], str]
    unit: str = ""


def columns(compared: Compared) -> list[Column]:
    """Return the columns of a table for people; those without any value are left out."""
    axes = list(compared.groups[0].axes)
    found = [_axis(name) for name in axes] or [Column("run", lambda g: g.label, lambda g: g.label)]
    if len({(*each.axes.values(), each.measured) for each in compared.groups}) < len(compared.groups):
        found.append(Column("group", lambda g: g.label, lambda g: g.label))
    if len(compared.measurements) > 1:
        found.append(Column("measured", *_twice(lambda g: compared.letter(g.measured))))
    found += [
        Column("runs", lambda g: len(g.members), lambda g: str(len(g.members))),
        *_accuracy("clean", lambda g: g.clean),
        *_accuracy("robust", lambda g: g.robust),
        _number("test attack", lambda g: _test_attack(g), lambda value: f"{100 * value:.1f}", "%"),
        Column("claimed", lambda g: (claimed(g) or (None, None))[1], _claim, "clean / robust %"),
        _number("parameters", lambda g: g.mean("parameters"), lambda value: f"{value:,.0f}"),
        _number("training", lambda g: g.mean("seconds", "fit"), lambda value: f"{value:,.0f}", "s"),
        _number("test", lambda g: g.mean("seconds", "test"), lambda value: f"{value:,.0f}", "s"),
        _number("memory", lambda g: g.mean("memory"), lambda value: f"{value / 1e6:,.0f}", "MB"),
        Column("marks", lambda g: len(g.complaints) + len(g.events) or None, marks_text),
    ]
    return [column for column in found if any(column.value(each) is not None for each in compared.groups)]


def _twice(function: Callable[[Group], str]) -> tuple[Callable[[Group], str], Callable[[Group], str]]:
    return function, function


def _axis(name: str) -> Column:
    return Column(name, *_twice(lambda g: g.axes[name]))


def _number(title: str, value: Callable[[Group], Any], show: Callable[[float], str], unit: str = "") -> Column:
    return Column(title, value, lambda g: "" if value(g) is None else show(value(g)), unit)


def _accuracy(name: str, of: Callable[[Group], Estimate]) -> list[Column]:
    return [
        Column(name, lambda g: of(g).mean, lambda g: interval_text(of(g)), "% [95 %]"),
        Column(
            "std", lambda g: of(g).std, lambda g: "" if of(g).std is None else f"{100 * (of(g).std or 0):.1f}", name
        ),
    ]


def interval_text(found: Estimate) -> str:
    """Return an accuracy in per cent with its interval.

    Example:
        >>> interval_text(Estimate(0.4, None, 0.335, 0.469, runs=1, images=200))
        '40.0 [33.5, 46.9]'
    """
    return f"{100 * found.mean:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _test_attack(group: Group) -> float | None:
    return group.mean("robust", "accuracy") if group.measured.worst_case else None


def _claim(group: Group) -> str:
    found = claimed(group)
    return f"{100 * found[0]:.1f} / {100 * found[1]:.1f}" if found else ""


def marks_text(group: Group) -> str:
    """Return the number of checks that complain, and of events such as a collapse, in words."""
    parts = []
    for status in ("fail", "warn"):
        count = sum(check["status"] == status for _, check in group.complaints)
        parts += [f"{count} check{'s' if count > 1 else ''} {status}{'s' if count == 1 else ''}"] if count else []
    kinds = [event["kind"] for _, event in group.events]
    parts += [f"{kinds.count(kind)} x {kind}" if kinds.count(kind) > 1 else kind for kind in dict.fromkeys(kinds)]
    return ", ".join(parts)


def csv_rows(compared: Compared) -> list[dict[str, Any]]:
    """Return one row per group, with everything that the other tables round or leave out; accuracies in [0, 1]."""
    rows = []
    for group in compared.groups:
        fixed = _fixed(compared, group)
        axes = {(f"axis_{name}" if name in fixed else name): value for name, value in group.axes.items()}
        rows.append({"group": group.label} | axes | {name: value for name, value in fixed.items() if name != "group"})
    return rows


def _fixed(compared: Compared, group: Group) -> dict[str, Any]:
    claim = claimed(group)
    seconds = {f"{part}_seconds": group.mean("seconds", part) for part in ("fit", "test")}
    return {
        "group": group.label,
        "study": group.study,
        "runs": len(group.members),
        "seeds": " ".join(str(member.seed) for member in group.members),
        "data": group.first["data"],
        **_flat("clean", group.clean),
        **_flat("robust", group.robust),
        "measured": compared.letter(group.measured),
        "robust_kind": "worst case" if group.measured.worst_case else "test attack",
        "threat": group.measured.threat,
        "attacks": "; ".join(name for name, _ in group.measured.attacks),
        "attack_settings": "; ".join(settings for _, settings in group.measured.attacks),
        "test_attack_mean": group.mean("robust", "accuracy"),
        "parameters": group.mean("parameters"),
        **seconds,
        "memory_bytes": group.mean("memory"),
        "checks": "; ".join(f"{check['status']}: {check['name']}" for _, check in group.complaints),
        "events": "; ".join(event["text"] for _, event in group.events),
        "claimed_clean": claim and claim[0],
        "claimed_robust": claim and claim[1],
        "claimed_by": claims()["source"] if claim else "",
    }


def _flat(name: str, found: Estimate) -> dict[str, Any]:
    parts = ("mean", "std", "low", "high", "interval", "images")
    return {f"{name}_{part}": getattr(found, part) for part in parts}


def pair_rows(compared: Compared) -> list[dict[str, Any]]:
    """Return one row per tested pair; differences in [-1, 1]."""
    rows = []
    for pair in compared.pairs:
        row: dict[str, Any] = {"first": compared.groups[pair.a].label, "second": compared.groups[pair.b].label}
        row["measured"] = compared.letter(compared.groups[pair.a].measured)
        if pair.found:
            row |= {name: getattr(pair.found, name) for name in ("difference", "low", "high", "p_value")}
            row |= {"p_holm": pair.adjusted, "significant": pair.significant, "test": pair.found.test}
            row["seed"] = pair.seed
        rows.append(row | {"untested_because": pair.reason})
    return rows


def markdown(compared: Compared, statements: Sequence[str], left_out: Collection[str] = ()) -> str:
    """Return statements, notes and table as Markdown, without the columns whose titles are ``left_out``."""
    shown = [column for column in columns(compared) if column.title not in left_out]
    head = [f"{column.title}, {column.unit}" if column.unit else column.title for column in shown]
    lines = [head, ["---"] * len(head), *([column.show(each) for column in shown] for each in compared.groups)]
    table = "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)
    measured = []
    for each in compared.measurements:
        letter = f"{compared.letter(each)}: " if len(compared.measurements) > 1 else ""
        attacks = f" ({', '.join(name for name, _ in each.attacks)})" if each.worst_case else ""
        measured.append(f"{letter}{each}{attacks}. {method(compared.pairs_of(each))}".strip())
    return "\n\n".join([*statements, *compared.notes, table, *measured, f"Intervals: {INTERVALS}."]) + "\n"


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
