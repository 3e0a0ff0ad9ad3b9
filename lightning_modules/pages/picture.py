"""A picture of a page."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A figure with its texts.

    Attributes:
        name: of its PNG file, without suffix.
        figure: the figure.
        caption: what it shows and how to read it.
        section: the heading under which it stands.
        titles: what to say of each ``gid`` when the mouse is over it.
        group: the ``gid`` of the only group that it shows; empty if it shows several.
    """

    name: str
    figure: Figure
    caption: str
    section: str
    titles: dict[str, str] = field(default_factory=dict)
    group: str = ""


def lay_out(pictures: Iterable[Picture]) -> list[Picture]:
    """Lay out each figure once, although it is saved twice: as SVG in the page, and as PNG."""
    found = list(pictures)
    for picture in found:
        if picture.figure.get_layout_engine():
            picture.figure.draw_without_rendering()
            picture.figure.set_layout_engine("none")
    return found
