"""The page in a real browser."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import Browser, find_chromium
from fake_members import fake_member, shapes

from lightning_modules.comparison import compare_members, find_members, write_comparison
from lightning_modules.studies.member_record import write_member

ODD = r'<b>KAF_$x$ & "co" \1'
WARNING = {"name": "noise breaks images", "status": "warn", "numbers": "16 of 52", "advice": "", "images": 52}

needs_chromium = pytest.mark.skipif(
    find_chromium() is None, reason="no Chromium on this machine: apt-get install chromium, or put one in PATH"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A comparison of three activations and two objectives, two seeds each."""
    folder = tmp_path_factory.mktemp("compared")
    for i, activation in enumerate(("ReLU", ODD, "KWTA")):
        for objective in ("fast_at", "pgd_at"):
            for seed in range(2):
                more = {"checks": [WARNING]} if activation == "KWTA" else {}
                more |= {"shapes": shapes()} if activation == ODD else {}
                made = fake_member(activation, objective, seed, robust=0.3 + 0.1 * i, images=200, **more)
                write_member(folder / "results", made | {"member": f"{i}-{objective}-{seed}"})
    write_comparison(compare_members(find_members([folder / "results"])), folder / "out")
    return folder / "out"


@pytest.fixture
def browser(folder: Path, tmp_path: Path) -> Iterator[Browser]:
    opened = Browser(folder / "index.html", tmp_path)
    yield opened
    opened.close()


@needs_chromium
def test_the_page_sorts_filters_and_highlights_without_an_error(browser: Browser, folder: Path):
    assert browser.run("[...document.querySelectorAll('figure svg')].every(s => s.getBoundingClientRect().height > 50)")
    shown = browser.run("[...document.querySelectorAll('figure')].map(figure => figure.id)")
    assert shown == ["accuracy", "pairs", "learning_curves", "eps_curves", "shapes_03", "shapes_04"]
    tables = {"index.html", "table.csv", "table.md", "pairs.csv"}
    assert {f"{name}.png" for name in shown} | tables == {path.name for path in folder.iterdir()}

    column = "[...document.querySelectorAll('#groups tbody tr')].map(row => Number(row.cells[4].dataset.value))"
    before = browser.run(column)
    assert before[0] > 0.5  # clean accuracy
    head = "document.querySelectorAll('#groups th')[4]"
    browser.run(f"{head}.querySelector('button').click()")
    assert browser.run(column) == sorted(before, reverse=True) and browser.run(f"{head}.ariaSort") == "descending"
    browser.run(f"{head}.querySelector('button').click()")
    assert browser.run(column) == sorted(before)

    visible = "[...document.querySelectorAll('{}')].filter(e => e.getClientRects().length).length"
    marks = browser.run(visible.format("#accuracy g[class^=group]"))
    browser.run("document.querySelector('.filters input[value=KWTA]').click()")
    assert browser.run(visible.format("#groups tbody tr")) == 4
    assert browser.run(visible.format("#complaints li")) == 0
    assert browser.run(visible.format("#accuracy g[class^=group]")) < marks
    browser.run("document.querySelector('.filters input[value=KWTA]').click()")
    assert browser.run(visible.format("#groups tbody tr")) == 6

    box = browser.run("JSON.parse(JSON.stringify(document.querySelector('#groups tbody tr').getBoundingClientRect()))")
    browser.run(f"window.scrollTo(0, {box['y'] - 300})")
    browser.hover(box["x"] + 50, 310)
    assert browser.run("document.querySelectorAll('#accuracy g.far').length") > 0
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert browser.complaints() == []


@needs_chromium
def test_the_page_is_whole_without_scripts(folder: Path, tmp_path: Path):
    opened = Browser(folder / "index.html", tmp_path, scripts=False)
    root = opened._call("DOM.getDocument")["root"]["nodeId"]
    form = opened._call("DOM.querySelector", nodeId=root, selector=".filters")["nodeId"]
    style = opened._call("CSS.enable") or opened._call("CSS.getComputedStyleForNode", nodeId=form)
    assert {"name": "display", "value": "none"} in style["computedStyle"]
    rows = opened._call("DOM.querySelectorAll", nodeId=root, selector="#groups tbody tr")["nodeIds"]
    assert len(rows) == 6 and opened.complaints() == []
    opened.close()


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]
        self.ids += [value for name, value in attrs if name == "id" and value]


def test_the_page_holds_all_it_needs_and_escapes_what_it_is_given(folder: Path):
    text = (folder / "index.html").read_text(encoding="utf-8")
    read = Reader()
    read.feed(text)
    assert "b" not in read.tags and "&lt;b&gt;KAF_$x$ &amp;" in text
    assert all(link.startswith("#") for link in read.links)
    assert len(set(read.ids)) == len(read.ids) and {link[1:] for link in read.links} <= set(read.ids)
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org)", text)
    assert len(text) < 300_000
