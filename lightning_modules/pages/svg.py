"""Matplotlib figures as SVG inside a page."""

import io
import re
from collections.abc import Mapping
from html import escape

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle

from kafnets.plots.marks import Mark

_NUMBERS = re.compile(r' (d|x|y|transform|points)="([^"]*)"')
_OPENING = re.compile(r'<svg (?:xmlns:xlink="[^"]*" )?width="([\d.]+)pt" height="[\d.]+pt"')
# the font is that of style.css
_FONT = re.compile(r'font-family: [^;"]*;? ?|transform="rotate\(-0 [^"]*"')
_KEY = re.compile(r'<g id="((?:group-\d+ ?)+)">')


def inline_svg(figure: Figure, name: str, description: str, titles: Mapping[str, str] | None = None) -> str:
    """Return a figure as an ``<svg>`` element that can stand in a page beside others.

    The ``gid`` of what shows a group, such as ``group-3``, or ``group-3 group-5`` for a pair, becomes its class.

    Args:
        figure: the figure; its texts stay texts.
        name: a word, different for every figure of a page: it begins every id.
        description: what the figure shows, for readers who don't see it.
        titles: what to say of a class when the mouse is over it.
    """
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = _KEY.sub(lambda found: f'<g class="{found[1]}">{_title((titles or {}).get(found[1]))}', svg)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    svg = _FONT.sub("", svg)
    svg = _NUMBERS.sub(_shortened, svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    about = f'role="img" aria-label="{escape(description)}"'
    return _OPENING.sub(lambda found: f'<svg {about} style="width:{found[1]}pt"', svg, count=1)


def _title(text: str | None) -> str:
    return f"<title>{escape(text)}</title>" if text else ""


def _shortened(found: re.Match[str]) -> str:
    """Coordinates to a tenth of a point, and without spaces around the letters of a path."""
    text = re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), found[2])
    if found[1] == "d":
        text = re.sub(r"\s*([A-Za-z])\s*", r"\1", text).strip()
    return f' {found[1]}="{text}"'


def swatch(mark: Mark) -> str:
    """Return the marker of a group as a small ``<svg>``, for a table."""
    marker = MarkerStyle(mark.marker)
    outline = marker.get_path().transformed(marker.get_transform())
    corners = [np.asarray(part).tolist() for part in outline.to_polygons()]
    shapes = ["M" + "L".join(f"{x:.2f},{-y:.2f}" for x, y in part) + "Z" for part in corners]
    return (
        f'<svg viewBox="-0.7 -0.7 1.4 1.4" aria-hidden="true"><path d="{"".join(shapes)}" fill="{mark.face}" '
        f'stroke="{mark.color}" stroke-width="0.14"/></svg>'
    )
