"""What all pictures share: colours and figures."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's palette, which can be told apart by colour-blind readers and in grey.
BLUE, VERMILION, SKY, INK, GREY, SHADE = "#0072B2", "#D55E00", "#56B4E9", "#222222", "#666666", "#DDDDDD"

Row = Mapping[str, Any]


def new_figure(width: float, height: float) -> Figure:
    """Create a figure of the given size in inches, which pyplot does not keep alive.

    Example:
        >>> new_figure(4.0, 3.0).get_size_inches().tolist()
        [4.0, 3.0]
    """
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def open_frame(axes: Axes) -> None:
    """Hide the upper and the right edge of a panel."""
    axes.spines[["top", "right"]].set_visible(False)


def show_message(axes: Axes, text: str) -> None:
    """Write a text in the middle of an empty panel."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)
