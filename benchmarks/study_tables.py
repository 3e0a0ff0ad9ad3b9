"""Writes the tables of finished studies into README.md and docs/, from the records in results/.

    python benchmarks/study_tables.py            # brings them up to date
    python benchmarks/study_tables.py --check    # says which are not, and changes nothing

A page asks for a table by two comments, ``<!-- study objectives_short -->`` and ``<!-- end of study -->``; what lies
between them is replaced by the sentences that the study's tests support, its table and how it was measured.
"""

import argparse
import re
import sys
import textwrap
from pathlib import Path

from lightning_modules.comparison.compared import Compared, compare_members
from lightning_modules.comparison.members import find_members
from lightning_modules.comparison.statement import method, statement
from lightning_modules.comparison.table import columns

ROOT = Path(__file__).resolve().parents[1]
PLACE = re.compile(r"(<!-- study (\w+) -->\n).*?(<!-- end of study -->)", re.DOTALL)
LEFT_OUT = ("parameters", "test", "memory")  # the page of ``cli.py compare`` has them


def table(compared: Compared) -> str:
    """Return the table as Markdown, by measurement and from the most robust group to the least."""
    shown = [column for column in columns(compared) if column.title not in LEFT_OUT]
    head = [f"{column.title}, {column.unit}" if column.unit else column.title for column in shown]
    rows = [[column.show(group) for column in shown] for group in compared.groups]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def text(study: str) -> str:
    """Return what a page says about a study: sentences, table, measurement."""
    compared = compare_members(find_members([ROOT / "results" / study]))
    sentences = [statement(compared.groups, compared.pairs_of(each)) for each in compared.measurements]
    measured = [f"{each} on {_data(compared)}. {method(compared.pairs_of(each))}" for each in compared.measurements]
    paragraphs = [textwrap.fill(each, 120, break_on_hyphens=False) for each in (*sentences, *measured)]
    return "\n\n".join([*paragraphs[: len(sentences)], table(compared), *paragraphs[len(sentences) :]]) + "\n"


def _data(compared: Compared) -> str:
    record = compared.groups[0].first
    seeds = sorted({member.seed for group in compared.groups for member in group.members})
    return f"{record['data']}, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def up_to_date(page: str) -> str:
    """Return a page with all its tables made again."""
    return PLACE.sub(lambda found: found[1] + "\n" + text(found[2]) + "\n" + found[3], page)


def main() -> None:
    """Bring the pages up to date, or say which are not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="say which pages are out of date, and change nothing")
    check = parser.parse_args().check
    stale = []
    for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]:
        old = path.read_text(encoding="utf-8")
        new = up_to_date(old)
        if new != old:
            stale.append(path.relative_to(ROOT).as_posix())
            if not check:
                path.write_text(new, encoding="utf-8")
    print("\n".join(stale) or "all tables are up to date")
    sys.exit(bool(check and stale))


if __name__ == "__main__":
    main()
