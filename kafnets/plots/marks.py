"""One look for each group of runs, the same in all pictures: colour, marker and dashes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kafnets.plots.style import BLUE, INK, SKY, VERMILION

# Okabe and Ito's palette without its yellow, which is hard to see on white.
COLORS = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", SKY, INK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 3)))
WHITENED = (0.0, 1.0, 0.55)  # share of white in the face, which tells colours apart that are used again


@dataclass(frozen=True)
class Mark:
    """The look of a group.

    Attributes:
        label: its name.
        color, face: colour of lines and of the inside of markers.
        marker: as matplotlib names it.
        dashes: line style.
        key: the ``gid`` of everything that shows the group, which is its ``id`` in an SVG file; may be empty.
    """

    label: str
    color: str = INK
    face: str = INK
    marker: str = "o"
    dashes: Any = "-"
    key: str = ""

    def line(self) -> dict[str, Any]:
        """Return the keywords of a line."""
        return {"color": self.color, "linestyle": self.dashes, "gid": self.key or None}

    def points(self, size: float = 7.0) -> dict[str, Any]:
        """Return the keywords of markers."""
        return {
            "color": self.color,
            "marker": self.marker,
            "markersize": size + (2 if self.marker == "*" else 0),
            "markerfacecolor": self.face,
            "markeredgecolor": self.color,
            "gid": self.key or None,
        }


Legends = list[tuple[str, list[Mark]]]


def marks(axes: Sequence[Mapping[str, str]], labels: Sequence[str]) -> tuple[list[Mark], Legends]:
    """A look for each group, and the legends that explain them.

    The first axis on which the groups differ decides the colour, the others together the marker and the dashes. If
    there is only one such axis, colour, marker and dashes all tell its values; without one, they tell the groups. The
    same values have the same look in whatever order the groups come.

    Args:
        axes: each group's value of every axis; all have the same axes.
        labels: the name of each group.

    Returns:
        The marks in the order of the groups, and the titles and entries of the legends.

    Example:
        >>> grid = [{"activation": a, "objective": o} for a in ("KAF", "ReLU") for o in ("FGSM", "PGD")]
        >>> found, legends = marks(grid, ["a", "b", "c", "d"])
        >>> found[0].color == found[1].color, found[0].marker == found[2].marker
        (True, True)
        >>> [(title, [mark.label for mark in entries]) for title, entries in legends]
        [('activation', ['KAF', 'ReLU']), ('objective', ['FGSM', 'PGD'])]
    """
    names = [name for name in (axes[0] if axes else ()) if len({each[name] for each in axes}) > 1]
    values = [tuple(each[name] for name in names) for each in axes]
    if len(names) < 2 or len(set(values)) < len(values):
        unlike = list(zip(values, labels, strict=True))  # labels also tell groups apart that have the same values
        places = {each: i for i, each in enumerate(sorted(set(unlike), key=lambda each: natural_order(each[1])))}
        found = [_mark(each[1], i, places[each], places[each]) for i, each in enumerate(unlike)]
        return found, [(names[0] if len(names) == 1 else "", found)]
    first = sorted({value[0] for value in values}, key=natural_order)
    rest = sorted({value[1:] for value in values}, key=lambda each: [natural_order(value) for value in each])
    found = [
        _mark(label, i, first.index(value[0]), rest.index(value[1:]))
        for i, (label, value) in enumerate(zip(labels, values, strict=True))
    ]
    by_color = [_mark(value, None, i, 0) for i, value in enumerate(first)]
    by_marker = [
        Mark(" · ".join(value), INK, INK, MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)])
        for i, value in enumerate(rest)
    ]
    return found, [(names[0], by_color), (", ".join(names[1:]), by_marker)]


def _mark(label: str, group: int | None, color: int, marker: int) -> Mark:
    own = COLORS[color % len(COLORS)]
    # markers and colours are 8 and 7, so one axis has 56 combinations before the face must tell them apart
    cycle = color // len(COLORS) if marker != color else color // (len(COLORS) * len(MARKERS))
    white = WHITENED[cycle % len(WHITENED)]
    red, green, blue = ((1 - white) * part + white for part in to_rgb(own))
    face = to_hex((red, green, blue))
    key = "" if group is None else f"group-{group}"
    return Mark(label, own, face, MARKERS[marker % len(MARKERS)], DASHES[marker % len(DASHES)], key)


def natural_order(text: str) -> tuple[float, str]:
    """A key that sorts numbers by value, before texts by the alphabet.

    Example:
        >>> sorted(["10", "KAF", "9.5", "ELU"], key=natural_order)
        ['9.5', '10', 'ELU', 'KAF']
    """
    try:
        return float(text), text
    except ValueError:
        return inf, text.lower()


def plain_text(text: str, width: int = 0) -> str:
    """A text as matplotlib draws it unchanged: no formulas between dollar signs, no hidden legend entries.

    Args:
        text: any text.
        width: longer texts are cut to this number of characters; 0 keeps all.

    Example:
        >>> plain_text("a$b"), plain_text("KafVGG(in_channels=1)", 12)
        ('a\\\\$b', 'KafVGG(in_c…')
    """
    if width and len(text) > width:
        text = text[: width - 1] + "…"
    return ("\u2009" if text.startswith("_") else "") + text.replace("$", r"\$")


def add_legends(figure: Figure, legends: Legends, *, lines: bool = False) -> None:
    """Write the legends to the right of the panels, one below the other, in as many columns as the height asks for.

    Args:
        figure: with constrained layout.
        legends: as :func:`marks` returns them.
        lines: whether to show dashes with the markers.
    """
    entries = _entries(legends)
    columns, font, width = _arrangement(entries, figure.get_figheight())
    handles, texts = [], []
    for text, mark in entries:
        dashes = mark.dashes if mark and lines else "none"
        style: Any = (mark.points(6) if mark else {}) | {"linestyle": dashes, "gid": None}
        handles.append(Line2D([], [], **style))
        texts.append(plain_text(text, width))
    legend = figure.legend(
        handles, texts, loc="outside right upper", ncols=columns, frameon=False, fontsize=font,
        handlelength=3.4 if lines else 1.4, labelspacing=0.35, columnspacing=1.2,
    )  # fmt: skip
    for written, (_, mark) in zip(legend.get_texts(), entries, strict=True):
        if mark is None:
            written.set_fontweight("bold")


def legend_width(legends: Legends, height: float) -> float:
    """The width in inches that :func:`add_legends` needs in a figure of this height, roughly."""
    entries = _entries(legends)
    columns, font, width = _arrangement(entries, height)
    longest = max((min(len(text), width) for text, _ in entries), default=0)
    return columns * (longest * font * 0.0088 + 0.55)


def _entries(legends: Legends) -> list[tuple[str, Mark | None]]:
    found: list[tuple[str, Mark | None]] = []
    for title, shown in legends:
        found += [(title, None)] if title else []
        found += [(mark.label, mark) for mark in shown]
    return found


def _arrangement(entries: Sequence[Any], height: float) -> tuple[int, int, int]:
    """Columns, size of the font, and characters to which a text is cut."""
    if len(entries) <= (height - 0.3) / 0.2:
        return 1, 9, 34
    return -(-len(entries) // int((height - 0.3) / 0.155)), 7, 24
