"""The frame of a page, and the elements that several pages have."""

from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template

from lightning_modules.pages.picture import Picture
from lightning_modules.pages.svg import inline_svg

HERE = Path(__file__).parent


def whole_page(
    *,
    title: str,
    facts: str,
    statements: Iterable[str],
    notes: Iterable[str],
    sections: Iterable[str],
    filters: str = "",
    script: str = "",
) -> str:
    """Return a page.

    Args:
        title: its heading.
        facts: a line below it, in small print.
        statements: the sentences at the top, as plain text like title, facts and notes.
        notes: what a reader must know before reading figures.
        sections: HTML; empty ones are left out.
        filters: HTML above the sections.
        script: JavaScript.
    """
    return Template((HERE / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        style=(HERE / "style.css").read_text(encoding="utf-8"),
        facts=escape(facts),
        statements="\n".join(f'<p class="statement">{escape(text)}</p>' for text in statements),
        notes=notes_element(notes),
        filters=filters,
        sections="\n".join(section for section in sections if section),
        script=script,
    )


def notes_element(notes: Iterable[str]) -> str:
    """Return a box with one paragraph per note; empty if there is none."""
    lines = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return f'<div class="notes">{lines}</div>' if lines else ""


def figure_element(picture: Picture) -> str:
    """Return a picture with its caption."""
    svg = inline_svg(picture.figure, picture.name, f"{picture.section}. {picture.caption}", picture.titles)
    group = f' class="{picture.group}"' if picture.group else ""
    return f'<figure id="{picture.name}"{group}>{svg}<figcaption>{escape(picture.caption)}</figcaption></figure>\n'
