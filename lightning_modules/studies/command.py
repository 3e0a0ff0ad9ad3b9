"""``python cli.py study --config studies/NAME.yaml``: runs a grid of fits, and goes on where it stopped."""

import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from lightning_modules.command_line.parser import OneLineParser
from lightning_modules.provenance import ROOT
from lightning_modules.studies.grid import Member, load_study
from lightning_modules.studies.identity import settings_of
from lightning_modules.studies.job import Job, Plan
from lightning_modules.studies.member_record import read_member
from lightning_modules.studies.parse_only import errors_of
from lightning_modules.studies.runner import Runner
from lightning_modules.studies.slots import slots
from lightning_modules.studies.time_left import expected_seconds, in_words

CONFIGS = ROOT / "configs"
ASSUMED_MB = 50  # of a run folder, before one has been written


def main(arguments: Sequence[str]) -> None:
    """Run the study that the arguments name.

    Raises:
        ValueError, OSError: in one line, before any work.
        SystemExit: if a member has failed, or a signal has stopped the study.
    """
    own, flags = split_flags(arguments)
    options = parser().parse_args(own)
    study, members = load_study(options.config, [CONFIGS, CONFIGS / "studies"], short=options.short)
    environments = [slot | {"KAFNETS_STUDY": study} for slot in slots(options.jobs)]
    jobs = _jobs(study, members, flags, Path(options.run.dir), Path(options.results))
    plans = {job.name: job.plan(options.changed) for job in jobs}
    _refuse_changes(study, plans)
    _check_commands([job for job in jobs if plans[job.name].action in ("start", "resume")])
    if options.dry_run:
        _print(study, jobs, plans, len(environments))
        return
    left = [job for job in jobs if plans[job.name].action != "done"]
    for folder in (Path(options.run.dir) / study, Path(options.results) / study):
        folder.mkdir(parents=True, exist_ok=True)
    _check_space(jobs, left)
    Runner(jobs, environments, options.changed, Path(options.run.dir) / study / "study.log").run()


def split_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the arguments into those of ``study`` and the flags of its members, which have a dot in their name.

    Example:
        >>> split_flags(["--config", "a", "--data.path", "x", "--run.dir=r", "--trainer.devices=1"])
        (['--config', 'a', '--run.dir=r'], ['--data.path=x', '--trainer.devices=1'])
    """
    own, flags, rest = [], [], iter(arguments)
    for argument in rest:
        name, equals, _ = argument.partition("=")
        if not name.startswith("--") or "." not in name or name == "--run.dir":
            own.append(argument)
        else:
            flags.append(argument if equals else f"{name}={next(rest, '')}")
    return own, flags


def parser() -> OneLineParser:
    """Return the parser of the study's own options."""
    parser = OneLineParser(prog="cli.py study", description=f"{__doc__} Flags with a dot go to every member.")
    parser.add_argument("--config", required=True, help="Study file: a path, or a bare name in configs/studies/.")
    parser.add_argument("--short", action="store_true", help="The short: variant of the file.")
    parser.add_argument("--jobs", type=int, default=1, help="Members at once, each with a share of the machine.")
    parser.add_argument("--dry_run", action="store_true", help="Print the commands and the time they take.")
    parser.add_argument(
        "--changed",
        choices=["keep", "redo"],
        help="What to do with results of other settings or code: count them, or run them again.",
    )
    parser.add_argument("--run.dir", type=str, default="runs", help="Folder of all runs.")
    parser.add_argument("--results", type=str, default="results", help="Folder of the records.")
    return parser


def _jobs(study: str, members: Sequence[Member], flags: list[str], runs: Path, results: Path) -> list[Job]:
    """The members with their settings; an unknown config is an error that names the member."""
    jobs = []
    for member in members:
        for flag in flags:
            name = flag.partition("=")[0].removeprefix("--")
            axis = next((axis for axis in member.axes if name.rpartition(".")[2] == axis), None)
            if name.startswith("run.") or axis:
                whose = f"the axis {axis}" if axis else "the study"
                raise ValueError(f"--{name} is set by {whose}; leave it out, or change the study file")
        try:
            settings = settings_of([*member.arguments, *flags], [CONFIGS])
        except ValueError as error:
            raise ValueError(f"study {study}, member {member.name}: {error}") from None
        jobs.append(Job(study, member, tuple(flags), runs / study, results / study, settings))
    return jobs


def _refuse_changes(study: str, plans: dict[str, Plan]) -> None:
    changed = {name: plan for name, plan in plans.items() if plan.action == "refuse"}
    if changed:
        name, plan = next(iter(changed.items()))
        others = f" and of {len(changed) - 1} more members" if len(changed) > 1 else ""
        raise ValueError(
            f"study {study} has changed since it began: of {name}{others}, {plan.note}; undo the change, give the "
            "study file another name, or say --changed=keep to count these results or --changed=redo to replace them"
        )


def _check_commands(jobs: Sequence[Job]) -> None:
    """Parse every command line; those that differ in seed and folder alone are one."""
    distinct: dict[tuple[str, ...], Job] = {}
    for job in jobs:
        arguments = [*job.member.arguments, *job.flags]
        distinct.setdefault(tuple(arg for arg in arguments if not arg.startswith("--seed_everything=")), job)
    if not distinct:
        return
    print(f"# checking {len(distinct)} command lines", flush=True)
    for job, error in zip(distinct.values(), errors_of([job.arguments() for job in distinct.values()]), strict=True):
        if error:
            raise ValueError(f"member {job.name} can't run: {error}")


def _check_space(jobs: Sequence[Job], left: Sequence[Job]) -> None:
    sizes = [sum(file.stat().st_size for file in job.folder.rglob("*") if file.is_file()) for job in jobs]
    largest = max(sizes, default=0) / 1e6 or ASSUMED_MB
    need, free = largest * len(left), shutil.disk_usage(jobs[0].runs).free / 1e6
    if need > free:
        raise OSError(
            f"{len(left)} members need about {need:,.0f} MB ({largest:.0f} MB each), and {jobs[0].runs} has "
            f"{free:,.0f} MB free; free some space, or choose another --run.dir"
        )


def _print(study: str, jobs: Sequence[Job], plans: dict[str, Plan], slots: int) -> None:
    """Print the commands, to be copied into a shell, and an estimate of the time."""
    cli = os.path.relpath(ROOT / "cli.py")
    left: list[Job] = []
    finished: list[tuple[dict[str, str], float]] = []
    for job in jobs:
        plan = plans[job.name]
        if plan.action == "done":
            finished.append((job.member.axes, sum(read_member(job.record)["seconds"].values())))
        elif plan.action != "collect":
            left.append(job)
            print(shlex.join(["python", cli, *job.arguments(plan)]))
    text = f"# {study}: {len(jobs)} members, {len(jobs) - len(left)} of them done; "
    if finished and left:
        seconds = sum(expected_seconds(finished, [job.member.axes for job in left])) / slots
        text += f"the others take about {in_words(seconds)}, by those that are done"
    elif left:
        text += "there is no estimate of the time before one of them is done"
    print(text.rstrip("; "))
