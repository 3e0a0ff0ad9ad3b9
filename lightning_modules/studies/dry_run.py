"""``cli.py study --dry_run``: the commands that would run, and what would stop the study."""

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_modules.provenance import ROOT
from lightning_modules.studies.grid import SEED
from lightning_modules.studies.job import Job, Plan
from lightning_modules.studies.member_record import read_member
from lightning_modules.studies.time_left import expected_seconds, in_words


def print_changed(plans: Mapping[str, Plan]) -> None:
    """Print one comment per member that the study would refuse, and what to do about it."""
    changed = {name: plan.note for name, plan in plans.items() if plan.action == "refuse"}
    for name, note in changed.items():
        print(f"# {name}: changed, {note}")
    if changed:
        print("# without --changed=keep (count these results) or --changed=redo (replace them) the study is refused")


def print_commands(study: str, jobs: Sequence[Job], plans: Mapping[str, Plan], slots: int) -> None:
    """Print the commands, to be copied into a shell, and an estimate of the time."""
    cli = os.path.relpath(ROOT / "cli.py")
    left: list[Job] = []
    finished: list[tuple[dict[str, str], float]] = []
    for job in jobs:
        plan = plans[job.name]
        if job.record.is_file():
            finished.append((job.member.axes, sum(read_member(job.record)["seconds"].values())))
        if plan.action in ("start", "resume"):
            left.append(job)
            print(shlex.join(["python", cli, *job.arguments(plan)]))
    changed = sum(plan.action == "refuse" for plan in plans.values())
    text = f"# {study}: {len(jobs)} members, {len(jobs) - len(left) - changed} of them done"
    text += f", {changed} changed" if changed else ""
    others = [] if finished else _of_other_studies(left)
    if left and (finished or others):
        seconds = sum(expected_seconds(finished or others, [job.member.axes for job in left])) / slots
        by = "by those that are done" if finished else "by members of other studies with the same data and epochs"
        text += f"; the others take about {in_words(seconds)}, {by}"
    elif left:
        text += "; there is no estimate of the time before one of them is done"
    print(text)


def _of_other_studies(jobs: Sequence[Job]) -> list[tuple[dict[str, str], float]]:
    """Axes and seconds of records that share data, number of epochs and a label with one of these members."""
    wanted = {(_kind(job), pair) for job in jobs for pair in job.member.axes.items()}
    found = []
    for path in sorted(jobs[0].results.parent.glob("*/*.json")) if jobs else []:
        try:
            record = read_member(path)
        except ValueError:  # results/ holds other files as well
            continue
        kind = (record["data"], len(record["history"]))
        if any((kind, pair) in wanted for pair in record["axes"].items() if pair[0] != SEED):
            found.append((record["axes"], sum(record["seconds"].values())))
    return found


def _kind(job: Job) -> tuple[str, Any]:
    return str(job.settings.get("data.class_path")).rpartition(".")[2], job.settings.get("trainer.max_epochs")
