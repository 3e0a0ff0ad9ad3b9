"""Compares finished runs: ``python cli.py compare PATH... [--out DIR]``."""

from pathlib import Path

from lightning_modules.command_line.parser import OneLineParser
from lightning_modules.comparison.compared import Compared, compare_members
from lightning_modules.comparison.figures import pictures
from lightning_modules.comparison.image_by_image import compare_reports
from lightning_modules.comparison.members import Member, find_members
from lightning_modules.comparison.page import page
from lightning_modules.comparison.statement import statement
from lightning_modules.comparison.table import csv_rows, markdown, pair_rows
from lightning_modules.files import write_csv, write_figure, write_text

__all__ = ["Compared", "Member", "compare_members", "find_members", "main", "write_comparison"]


def main(arguments: list[str]) -> None:
    """Print the comparison of the runs; with ``--out``, write it as a page, tables and pictures."""
    parser = OneLineParser(prog="cli.py compare", description="Compare finished runs that were tested on one data set.")
    parser.add_argument("paths", nargs="*", type=str, help="Run folders, results folders of studies, or their records.")
    parser.add_argument("--out", type=str, default=None, help="Folder for index.html, tables and pictures.")
    given = parser.parse_args(arguments)
    if not given.paths:
        raise ValueError("compare needs run folders or results of studies, such as: compare runs/a/version_0 results/b")
    members = find_members(given.paths)
    reports = [member.record for member in members if member.record["outcomes"]]
    lines = []
    if len(members) == len(reports) == 2:
        lines = [f"{name}: {found}" for name, found in compare_reports(*reports).items()]
    compared = compare_members(members)
    print(markdown(compared, statements(compared)), *lines, sep="\n")
    if given.out is not None:
        write_comparison(compared, Path(given.out))
        print(f"written to {Path(given.out) / 'index.html'}")


def statements(compared: Compared) -> list[str]:
    """Return what the tests say, a paragraph for each way of measuring."""
    texts = []
    for measured in compared.measurements:
        text = statement(compared.groups, compared.pairs_of(measured))
        texts.append(f"{compared.letter(measured)}: {text}" if len(compared.measurements) > 1 else text)
    return texts


def write_comparison(compared: Compared, folder: Path) -> None:
    """Write ``index.html``, ``table.csv``, ``table.md``, ``pairs.csv`` and a PNG per picture; replace older ones."""
    folder.mkdir(parents=True, exist_ok=True)
    found = statements(compared)
    drawn = pictures(compared)
    write_csv(folder / "table.csv", csv_rows(compared))
    write_csv(folder / "pairs.csv", pair_rows(compared))
    write_text(folder / "table.md", markdown(compared, found))
    for picture in drawn:
        write_figure(folder / f"{picture.name}.png", picture.figure)
    write_text(folder / "index.html", page(compared, drawn, found))
