"""The comparison as one HTML page, which needs no network and no other file."""

import json
from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from kafnets.plots.marks import Mark, natural_order
from lightning_modules.comparison.compared import Compared
from lightning_modules.comparison.figures import looks, pair_text
from lightning_modules.comparison.groups import INTERVALS, Group
from lightning_modules.comparison.labels import labels
from lightning_modules.comparison.statement import method
from lightning_modules.comparison.table import Column, columns
from lightning_modules.pages import Picture, figure_element, swatch, whole_page

HERE = Path(__file__).parent
LISTED = 200  # pairs that the page lists; pairs.csv has all


def page(compared: Compared, drawn: Sequence[Picture], statements: Sequence[str]) -> str:
    """Return the page.

    Args:
        compared: what is compared.
        drawn: the pictures, as :func:`~lightning_modules.comparison.figures.pictures` returns them.
        statements: the sentences at the top.
    """
    figures = {section: list(found) for section, found in groupby(drawn, lambda picture: picture.section)}
    first = [_section(name, figures.pop(name)) for name in list(figures)[:1]]
    rest = [_section(name, found, _tests(compared) if "significant" in name else "") for name, found in figures.items()]
    parts = [*first, _table(compared), *rest, _complaints(compared), _method(compared)]
    return whole_page(
        title=title(compared),
        facts=facts(compared),
        statements=statements,
        notes=compared.notes,
        filters=_filters(compared.groups),
        sections=parts,
        script=(HERE / "script.js").read_text(encoding="utf-8"),
    )


def title(compared: Compared) -> str:
    """Return what is compared: the studies, or the axes on which the runs differ."""
    studies = dict.fromkeys(each.study for each in compared.groups)
    named = [study for study in studies if study]
    if named:
        return f"Study: {', '.join(named)}" + (" and other runs" if len(named) < len(studies) else "")
    return f"Comparison of {', '.join(compared.groups[0].axes) or 'runs'}"


def facts(compared: Compared) -> str:
    """Return data, measurement, and numbers of groups and runs."""
    record = compared.groups[0].first
    runs = sum(len(each.members) for each in compared.groups)
    count = len(compared.groups)
    sizes = f"{runs} run{'s' * (runs > 1)}" + (f" in {count} groups of seeds" if count < runs else "")
    ways = [str(each) for each in compared.measurements][: 1 if len(compared.measurements) == 1 else 0]
    return " · ".join([record["data"], *ways, *_shared(compared.groups), sizes])


def _shared(groups: Sequence[Group]) -> list[str]:
    """What all groups have in common and none of their labels tells."""
    found = []
    for name in ("backbone", "activation", "objective"):
        values = {labels(member.record)[name] for each in groups for member in each.members}
        if len(values) == 1 and name not in groups[0].axes:
            found.append(values.pop())
    return found


def _filters(groups: Sequence[Group]) -> str:
    sets = []
    for name in groups[0].axes:
        values = [escape(value) for value in sorted({each.axes[name] for each in groups}, key=natural_order)]
        box = f'<input type="checkbox" checked name="{escape(name)}"'
        boxes = "".join(f'<label>{box} value="{value}"> {value}</label>' for value in values)
        sets.append(f"<fieldset><legend>{escape(name)}</legend>{boxes}</fieldset>")
    return f'<form class="filters" autocomplete="off">{"".join(sets)}</form>' if sets else ""


def _section(name: str, found: Sequence[Picture], below: str = "") -> str:
    strips = any(picture.group for picture in found)
    text = ""
    if strips:
        text = (
            '<p class="small">Colour: at most eight channels of each layer after training; grey, dashed: before it. '
            "The x axis is the pre-activation. The first seed of each group is shown.</p>"
        )
    body = "".join(map(figure_element, found))
    return (
        f"<section><h2>{escape(name)}</h2>{text}"
        + (f'<div class="strips">{body}</div>' if strips else body)
        + f"{below}</section>"
    )


def _table(compared: Compared) -> str:
    shown, (found, _) = columns(compared), looks(compared)
    head = "".join(_head(column, compared.groups[0]) for column in shown)
    body = "".join(_row(i, each, found[i], shown) for i, each in enumerate(compared.groups))
    foot = f"Intervals: {INTERVALS}; std is that of the runs. A click on a head sorts."
    return (
        f'<section><h2>All figures</h2><div class="wide"><table id="groups"><thead><tr><th></th>{head}</tr></thead>'
        f'<tbody>{body}</tbody></table></div><p class="foot">{escape(foot)}</p></section>'
    )


def _head(column: Column, example: Group) -> str:
    text = ' class="text"' if _is_text(column, example) else ""
    unit = f"<small>{escape(column.unit)}</small>" if column.unit else ""
    return f'<th{text} scope="col"><button type="button">{escape(column.title)}</button>{unit}</th>'


def _is_text(column: Column, example: Group) -> bool:
    return column.title == "marks" or isinstance(column.value(example), str)


def _row(number: int, group: Group, mark: Mark, shown: Sequence[Column]) -> str:
    axes = escape(json.dumps(group.axes))
    cells = [f'<td class="swatch">{swatch(mark)}</td>']
    for column in shown:
        value = column.value(group)
        kind = "text" if _is_text(column, group) else ""
        kind += {"claimed": " claim", "marks": " marks"}.get(column.title, "")
        cells.append(
            f'<td class="{kind.strip()}" data-value="{escape("" if value is None else str(value))}">'
            f"{escape(column.show(group))}</td>"
        )
    return f'<tr class="group-{number}" data-axes="{axes}">{"".join(cells)}</tr>\n'


def _tests(compared: Compared) -> str:
    parts = []
    for measured in compared.measurements:
        pairs = compared.pairs_of(measured)
        if not pairs:
            continue
        pairs.sort(key=lambda pair: (pair.adjusted is None, pair.adjusted, pair.found.p_value if pair.found else 0.0))
        lines = "".join(f"<li>{escape(pair_text(compared, pair))}</li>" for pair in pairs[:LISTED])
        more = f"<li>{len(pairs) - LISTED} more in pairs.csv</li>" if len(pairs) > LISTED else ""
        way = f"Way {compared.letter(measured)}: " if len(compared.measurements) > 1 else ""
        head = f"<details><summary>All {len(pairs)} pairs" if len(pairs) > 1 else "<details open><summary>The only pair"
        parts.append(
            f'<p class="small">{escape(way + method(pairs))}</p>{head}</summary><ul>{lines}{more}</ul></details>'
        )
    return "".join(parts)


def _complaints(compared: Compared) -> str:
    lines = []
    for i, each in enumerate(compared.groups):
        for member, check in each.complaints:
            text = " ".join(str(check[key]) for key in ("numbers", "advice") if check.get(key))
            lines.append((i, f"{each.label}, seed {member.seed}: {check['status']}: {check['name']}. {text}"))
        for member, event in each.events:
            lines.append((i, f"{each.label}, seed {member.seed}: {event['kind']}: {event['text']}"))
    if not lines:
        return ""
    items = "".join(f'<li class="group-{i}">{escape(text)}</li>' for i, text in lines)
    text = "Sanity checks that warn or fail mean that the robust accuracy may be too high; events happened in training."
    return f'<section><h2>Checks and events</h2><p class="small">{text}</p><ul id="complaints">{items}</ul></section>'


def _method(compared: Compared) -> str:
    ways = []
    for measured in compared.measurements:
        attacks = "".join(
            f"<li>{escape(name)}: <code>{escape(settings)}</code></li>" for name, settings in measured.attacks
        )
        name = f"{compared.letter(measured)}: " if len(compared.measurements) > 1 else ""
        ways.append(f"<details><summary>{escape(f'{name}{measured}')}</summary><ul>{attacks}</ul></details>")
    record = compared.groups[0].first
    data = f"{record['data']}, {record['data_images']:,} images, sha256 {record['data_sha256']}"
    sources = "".join(
        f"<li>{escape(each.label)}: {escape(', '.join(str(member.source) for member in each.members))}</li>"
        for each in compared.groups
    )
    return (
        f'<section><h2>How it was measured</h2><p class="small">Data: {escape(data)}.</p>{"".join(ways)}'
        f"<details><summary>The runs</summary><ul>{sources}</ul></details></section>"
    )
