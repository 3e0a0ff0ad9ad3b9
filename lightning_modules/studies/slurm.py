"""``cli.py study --slurm``: one array job, whose tasks are the members; its script is plain text."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_modules.provenance import ROOT
from lightning_modules.studies.job import Job

FOLDER = "_slurm"  # beside the run folders of the members: scripts, and what the tasks print
SIGNAL = "B:USR1@300"  # to the script, five minutes before the time limit
_OURS = {
    "--array": "--jobs says how many members run at once",
    "--job-name": "it is the name of the study",
    "--nodes": "it is trainer.num_nodes of the members",
    "--ntasks": "it follows from trainer.devices and trainer.num_nodes",
    "--ntasks-per-node": "it is trainer.devices of the members",
    "--no-requeue": "a member that does not finish in its time is requeued",
}
_SHORT = {"-a": "--array", "-J": "--job-name", "-N": "--nodes", "-n": "--ntasks"}

SCRIPT = """\
#!/bin/bash
# {study}: one array task per member
{options}

members=({members})
cd {folder} || exit 1
export OMP_NUM_THREADS=${{SLURM_CPUS_PER_TASK:-1}}
export SRUN_CPUS_PER_TASK=${{SLURM_CPUS_PER_TASK:-1}}  # srun does not take it from the job by itself

# before the time limit, the member writes a checkpoint and the study ends with status 138; after SIGTERM with 143
trap 'kill -USR1 "$study"' USR1
trap 'kill -TERM "$study"' TERM
{command} --only "${{members[$SLURM_ARRAY_TASK_ID]}}" --srun &
study=$!
wait "$study"; status=$?
while kill -0 "$study" 2> /dev/null; do wait "$study"; status=$?; done

# nothing else requeues the job after its time limit; the next run goes on from the checkpoint
task="${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
if [ "$status" -eq 138 ]; then
  scontrol requeue "$task"
# preemption with a grace time sends SIGTERM while the job still counts as running; after scancel it does not
elif [ "$status" -eq 143 ] && [ "$(squeue --noheader --format=%T --jobs="$task")" = RUNNING ]; then
  scontrol requeue "$task"
fi
exit "$status"
"""


def sbatch_options(text: str) -> list[str]:
    """Split the text of ``--sbatch`` into one option per line of the script.

    Raises:
        ValueError: if it is no list of options, or holds one that the study sets.

    Example:
        >>> sbatch_options("--partition=gpu --time 4:00:00 -A thesis")
        ['--partition=gpu', '--time 4:00:00', '-A thesis']
    """
    options: list[str] = []
    for word in shlex.split(text):
        if word.startswith("-"):
            options.append(word)
        elif options and not re.search(r"[= ]", options[-1]):
            options[-1] += f" {word}"
        else:
            raise ValueError(f"--sbatch holds {word!r}, which is no option of sbatch; write '--time=4:00:00 --mem=32G'")
    for option in options:
        name = re.split(r"[= ]", option)[0]
        name = _SHORT.get(name[:2], name) if not name.startswith("--") else name
        if name in _OURS:
            raise ValueError(f"--sbatch holds {option}, which the study sets itself: {_OURS[name]}; leave it out")
        if name == "--signal" and not re.fullmatch(r"--signal[= ]B:(SIG)?USR1@\d+", option):
            raise ValueError(f"--sbatch holds {option}; write --signal=B:USR1@SECONDS, because the script waits for it")
    return options


def check_sbatch() -> None:
    """Raise ``ValueError`` if there is no ``sbatch``."""
    if shutil.which("sbatch") is None:
        raise ValueError(
            "--slurm submits by sbatch, which is not on the PATH; run it on a login node of the cluster, or write the "
            "script to a file with --slurm --dry_run > array.sh"
        )


def script(jobs: Sequence[Job], arguments: Sequence[str], options: Sequence[str], at_once: int | None) -> str:
    """Return the script of the array job.

    Args:
        jobs: members that are left; at least one.
        arguments: of ``cli.py study``, to which the script adds the member.
        options: further options of sbatch, see :func:`sbatch_options`.
        at_once: how many members may run at once; None for as many as the cluster lets.

    Raises:
        ValueError: if the members need different numbers of processes, or do not say how many.
    """
    nodes, devices = _processes(jobs)
    if devices > 1 and any(option.startswith("--gpus-per-task") for option in options):
        raise ValueError(
            f"--gpus-per-task hides a process's GPU from the others, and a member has {devices} processes per node; "
            f"write --gpus-per-node={devices}"
        )
    folder = (jobs[0].runs / FOLDER).resolve()
    limit = f"%{at_once}" if at_once else ""
    lines = [
        f"--job-name={jobs[0].study}",
        f"--array=0-{len(jobs) - 1}{limit}",
        f"--nodes={nodes}",
        f"--ntasks-per-node={devices}",
        f"--output={folder}/%A_%a.txt",
        "--open-mode=append",
        "--requeue",
        *([] if any(option.startswith("--signal") for option in options) else [f"--signal={SIGNAL}"]),
        *options,
    ]
    return SCRIPT.format(
        study=jobs[0].study,
        options="\n".join(f"#SBATCH {line}" for line in lines),
        members=" ".join(shlex.quote(job.name) for job in jobs),
        folder=shlex.quote(os.getcwd()),
        command=shlex.join([sys.executable, str(ROOT / "cli.py"), "study", *arguments]),
    )


def submit(text: str, folder: Path) -> tuple[Path, str]:
    """Write the script into a folder and submit it; return its path and the number of the job.

    Raises:
        OSError: if sbatch refuses it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"array_{len(list(folder.glob('array_*.sh')))}.sh"
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    done = subprocess.run(["sbatch", "--parsable", str(path)], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"sbatch refuses {path}: {' '.join(done.stderr.split()) or f'status {done.returncode}'}")
    return path, done.stdout.strip().partition(";")[0]


def _processes(jobs: Sequence[Job]) -> tuple[int, int]:
    """Nodes, and processes per node, of every member."""
    found: dict[tuple[int, int], str] = {}
    for job in jobs:
        counts = [job.settings.get(f"trainer.{name}", 1) for name in ("num_nodes", "devices")]
        if not all(isinstance(count, int) and count > 0 for count in counts):
            raise ValueError(
                f"member {job.name} has trainer.devices {counts[1]!r}; --slurm needs their number, for example 1"
            )
        found.setdefault((counts[0], counts[1]), job.name)
    if len(found) > 1:
        (first, name), (second, other) = list(found.items())[:2]
        raise ValueError(
            f"members of one array need equal numbers of nodes and devices: {name} has {first}, {other} {second}; "
            "submit them one by one with --only"
        )
    return next(iter(found))
