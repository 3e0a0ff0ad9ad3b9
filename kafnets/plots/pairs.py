"""The table of paired tests as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from kafnets.plots.marks import plain_text
from kafnets.plots.style import BLUE, GREY, INK, VERMILION, new_figure

CLEAR, WORSE, EQUAL, UNTESTED = BLUE, VERMILION, "#EDEDED", "#FFFFFF"
KEY = {
    CLEAR: "row is more robust",
    WORSE: "row is less robust",
    EQUAL: "not told apart",
    UNTESTED: "not compared",
}
WRITTEN = 26  # groups up to which the cells are large enough for a number


@dataclass(frozen=True)
class Cell:
    """The comparison of two groups.

    Attributes:
        row, column: the places of the groups, ``row < column``.
        difference: accuracy of ``row`` minus that of ``column``, in [-1, 1].
        significant: whether a test tells them apart.
        key: the ``gid`` of its number, see :class:`kafnets.plots.marks.Mark`.
    """

    row: int
    column: int
    difference: float
    significant: bool
    key: str = ""


def plot_pairs(labels: Sequence[str], cells: Sequence[Cell]) -> Figure:
    """The differences of all pairs of groups in percentage points; coloured where a test tells them apart.

    Args:
        labels: the name of each group, from the most robust to the least.
        cells: the tested pairs.

    Example:
        >>> figure = plot_pairs(["KAF", "ReLU"], [Cell(0, 1, 0.02, True)])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['+2.0']
    """
    count = len(labels)
    written = count <= WRITTEN
    size = 0.46 if written else max(0.16, 11.0 / count)
    figure = new_figure(size * count + 2.9, size * count + 1.3)
    axes = figure.subplots()
    axes.set_aspect("equal")
    _draw_cells(axes, cells) if written else _draw_pixels(axes, cells, count)
    # the first column and the last row are empty, but a last label must tell what the last column is
    axes.set_xlim(0.5, count - 0.5)
    axes.set_ylim(count - 0.5, -0.5)
    names = [f"{plain_text(label, 34)}  {i + 1}" for i, label in enumerate(labels)]
    font = 8 if written else 6
    axes.set_yticks(range(count), names, fontsize=font)
    axes.set_xticks(range(1, count), [str(i + 1) for i in range(1, count)], fontsize=font)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(0.5, count), minor=True)
    axes.set_yticks(np.arange(-0.5, count), minor=True)
    axes.grid(which="minor", color="#D0D0D0", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    there = {_color(cell) for cell in cells} | {UNTESTED}
    handles = [Patch(facecolor=color, edgecolor="#D0D0D0", label=text) for color, text in KEY.items() if color in there]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles) if count > 4 else 1,
        frameon=False,
        fontsize=8,
        labelcolor=INK,
    )
    return figure


def _color(cell: Cell) -> str:
    if not cell.significant:
        return EQUAL
    return CLEAR if cell.difference > 0 else WORSE


def _draw_cells(axes: Axes, cells: Sequence[Cell]) -> None:
    for cell in cells:
        key: Any = {"gid": cell.key or None}
        axes.add_patch(Rectangle((cell.column - 0.5, cell.row - 0.5), 1, 1, color=_color(cell), linewidth=0, **key))
        text = f"{100 * cell.difference:+.1f}".replace("-", "\u2212")
        look: Any = {"color": "white", "fontweight": "bold"} if cell.significant else {"color": GREY}
        axes.text(cell.column, cell.row, text, ha="center", va="center", fontsize=8, **look, **key)


def _draw_pixels(axes: Axes, cells: Sequence[Cell], count: int) -> None:
    """As one image, because thousands of rectangles would be most of a page."""
    pixels = np.ones((count, count, 3))
    for cell in cells:
        pixels[cell.row, cell.column] = to_rgb(_color(cell))
    axes.imshow(pixels, interpolation="nearest", aspect="equal")
