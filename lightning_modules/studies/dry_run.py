"""``cli.py study --dry_run``: the commands that would run, and what would stop the study."""

import os
import shlex
from collections.abc import Mapping, Sequence

from lightning_modules.provenance import ROOT
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
    if finished and left:
        seconds = sum(expected_seconds(finished, [job.member.axes for job in left])) / slots
        text += f"; the others take about {in_words(seconds)}, by those that are done"
    elif left:
        text += "; there is no estimate of the time before one of them is done"
    print(text)
