"""Writes the tables of finished studies into README.md and docs/, from the records in results/.

    python benchmarks/study_tables.py

A page asks for a table by two comments, ``<!-- study objectives_short -->`` and ``<!-- end of study -->``; what lies
between them is replaced by the sentences that the study's tests support, its table and how it was measured. With
``<!-- study objectives_short in brief -->`` it is the sentences and the accuracies.
"""

import argparse
import re
import textwrap
from pathlib import Path

from lightning_modules.comparison.compared import compare_members
from lightning_modules.comparison.members import find_members
from lightning_modules.comparison.statement import statement
from lightning_modules.comparison.table import markdown

ROOT = Path(__file__).resolve().parents[1]
PLACE = re.compile(r"(<!-- study (\w+)( in brief)? -->\n).*?(<!-- end of study -->)", re.DOTALL)
LEFT_OUT = ("parameters", "test", "memory")  # the page of ``cli.py compare`` has them
BRIEF = (*LEFT_OUT, "runs", "std", "test attack", "training", "marks")


def text(study: str, brief: bool = False) -> str:
    """Return what a page says about a study: sentences, table, and unless ``brief`` the measurement."""
    compared = compare_members(find_members([ROOT / "results" / study]))
    statements = [statement(compared.groups, compared.pairs_of(each)) for each in compared.measurements]
    paragraphs = markdown(compared, statements, BRIEF if brief else LEFT_OUT).rstrip().split("\n\n")
    if brief:
        paragraphs = [*statements, next(each for each in paragraphs if each.startswith("|"))]
    return "\n\n".join(each if each.startswith("|") else _filled(each) for each in paragraphs)


def _filled(paragraph: str) -> str:
    return textwrap.fill(paragraph, 120, break_on_hyphens=False, break_long_words=False)


def up_to_date(page: str) -> str:
    """Return a page with all its tables made again."""
    return PLACE.sub(lambda found: f"{found[1]}\n{text(found[2], bool(found[3]))}\n\n{found[4]}", page)


def main() -> None:
    """Bring the pages up to date, and print which have changed."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]:
        old = path.read_text(encoding="utf-8")
        new = up_to_date(old)
        if new != old:
            path.write_text(new, encoding="utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
