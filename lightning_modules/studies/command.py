"""``python cli.py study --config studies/NAME.yaml``: runs a grid of fits, and goes on where it stopped."""

import shutil
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lightning_modules.command_line.parser import OneLineParser
from lightning_modules.provenance import ROOT
from lightning_modules.studies import slurm
from lightning_modules.studies.dry_run import print_changed, print_commands
from lightning_modules.studies.grid import Member, load_study
from lightning_modules.studies.identity import settings_of, without_loggers
from lightning_modules.studies.job import Job, Plan
from lightning_modules.studies.parse_only import errors_of
from lightning_modules.studies.runner import Runner
from lightning_modules.studies.slots import slots
from lightning_modules.studies.sweep import sweep

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
    sbatch = _check_options(options)
    study, members = load_study(options.config, [CONFIGS, CONFIGS / "studies"], short=options.short)
    members = _only(study, members, options.only)
    here = 1 if options.slurm or options.jobs is None else options.jobs
    environments = [slot | {"KAFNETS_STUDY": study} for slot in slots(here)]
    wandb = options.wandb or options.sweep
    jobs = _jobs(study, members, flags, Path(options.run.dir), Path(options.results), wandb=wandb)
    plans = {job.name: job.plan(options.changed) for job in jobs}
    if not options.dry_run:
        _refuse_changes(study, plans)
    left = [job for job in jobs if plans[job.name].action not in ("done", "refuse")]
    text = ""
    if left and options.slurm:
        text = slurm.script(left, _repeated(options, flags), sbatch, options.jobs)
    elif left and options.sweep:
        text = sweep(left, _repeated(options, flags))
    if not options.srun:  # the array job was checked when it was submitted
        begin = [job for job in jobs if plans[job.name].action in ("start", "resume")]
        _check_commands(begin, quiet=bool(text and options.dry_run))  # the output may become a file
    if options.dry_run:
        print(text, end="") if text else print_commands(study, jobs, plans, len(environments))
        print_changed(plans)  # comments, so a file of the text stays one
        return
    for folder in (Path(options.run.dir) / study, Path(options.results) / study):
        folder.mkdir(parents=True, exist_ok=True)
    _check_space(jobs, left)
    if options.slurm or options.sweep:
        _hand_over(options, text, Path(options.run.dir) / study)
        return
    runner = Runner(jobs, environments, options.changed, Path(options.run.dir) / study / "study.log", srun=options.srun)
    runner.run()


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
    parser.add_argument(
        "--jobs", type=int | None, default=None, help="Members at once, each with a share of the machine."
    )
    parser.add_argument("--only", type=str | None, default=None, help="The one member to run.")
    parser.add_argument(
        "--dry_run", action="store_true", help="Print what would run, or the file that would be written."
    )
    parser.add_argument("--slurm", action="store_true", help="Submit an array job with one task per member.")
    parser.add_argument("--sbatch", type=str, default="", help="Options of sbatch, such as '--time=4:00:00 --mem=32G'.")
    parser.add_argument("--srun", action="store_true", help="Start the member by srun, as the array job does.")
    parser.add_argument("--wandb", action="store_true", help="Let members log to W&B that do not do so already.")
    parser.add_argument("--sweep", action="store_true", help="Write a W&B sweep whose runs are the members.")
    parser.add_argument(
        "--changed",
        choices=["keep", "redo"],
        help="What to do with results of other settings or code: count them, or run them again.",
    )
    parser.add_argument("--run.dir", type=str, default="runs", help="Folder of all runs.")
    parser.add_argument("--results", type=str, default="results", help="Folder of the records.")
    return parser


def _check_options(options: Any) -> list[str]:
    """Refuse options that do not go together, and return those of sbatch."""
    if options.slurm and options.sweep:
        raise ValueError("--slurm and --sweep both hand the members over; choose one")
    if options.sbatch and not options.slurm:
        raise ValueError("--sbatch is for --slurm; add it, or leave --sbatch out")
    if options.srun and not options.only:
        raise ValueError("--srun starts one member, in a job that is its own; say which with --only")
    if options.slurm and options.jobs is not None and options.jobs < 1:
        raise ValueError(f"--jobs must be 1 or more, got {options.jobs}")
    if options.slurm and not options.dry_run:
        slurm.check_sbatch()
    return slurm.sbatch_options(options.sbatch)


def _only(study: str, members: list[Member], name: str | None) -> list[Member]:
    found = [member for member in members if name in (None, member.name)]
    if not found:
        near = get_close_matches(str(name), [member.name for member in members], cutoff=0.0)[0]
        raise ValueError(f"study {study} has no member {name}; did you mean {near}? --dry_run lists all")
    return found


def _repeated(options: Any, flags: Sequence[str]) -> list[str]:
    """The arguments by which another process runs the same study."""
    found = ["--config", options.config, *(["--short"] if options.short else [])]
    found += [f"--changed={options.changed}"] if options.changed else []
    found += ["--wandb"] if options.wandb and not options.sweep else []  # a sweep adds it itself
    return [*found, f"--run.dir={options.run.dir}", f"--results={options.results}", *flags]


def _hand_over(options: Any, text: str, folder: Path) -> None:
    if not text:
        print("all members are done")
    elif options.slurm:
        path, job = slurm.submit(text, folder / slurm.FOLDER)
        print(f"submitted job {job}, written to {path}; its tasks print to {path.parent}/{job}_*.txt")
    else:
        path = folder / "sweep.yaml"
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path}; wandb sweep --project kafnets {path} prints the command of its agents")


def _jobs(
    study: str, members: Sequence[Member], flags: list[str], runs: Path, results: Path, *, wandb: bool = False
) -> list[Job]:
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
        added = wandb and "wandb" not in str(settings.get("trainer.logger")).lower()
        loggers = ("--config", "wandb") if added else ()
        settings = without_loggers(settings)
        jobs.append(Job(study, member, tuple(flags), runs / study, results / study, settings, loggers))
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


def _check_commands(jobs: Sequence[Job], *, quiet: bool) -> None:
    """Parse every command line; those that differ in seed and folder alone are one."""
    distinct: dict[tuple[str, ...], Job] = {}
    for job in jobs:
        arguments = [*job.member.arguments, *job.flags]
        distinct.setdefault(tuple(arg for arg in arguments if not arg.startswith("--seed_everything=")), job)
    if not distinct:
        return
    if not quiet:
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
