"""The tables of studies that README.md and docs/ show are those of the records in results/."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import study_tables  # noqa: E402 a script, not a package

PAGES = [path for path in (ROOT / "README.md", *ROOT.glob("docs/*.md")) if study_tables.PLACE.search(path.read_text())]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_tables_are_those_of_the_records(page):
    text = page.read_text(encoding="utf-8")
    assert study_tables.up_to_date(text) == text, "run python benchmarks/study_tables.py"


def test_a_page_with_another_figure_is_brought_up_to_date():
    page = next(path for path in PAGES if path.name == "results.md").read_text(encoding="utf-8")
    changed = page.replace("% [95 %]", "% [99 %]")
    assert changed != page and study_tables.up_to_date(changed) == page
    assert study_tables.up_to_date("no table\n") == "no table\n"
