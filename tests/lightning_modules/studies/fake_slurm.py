"""A stand-in for SLURM's ``sbatch``, ``srun``, ``scontrol`` and ``squeue``: runs an array job, task after task.

``sbatch`` sets the variables that SLURM sets. Once, as soon as the member has a checkpoint, it sends the signal of
``#SBATCH --signal=B:USR1@...`` to the script of the task ``FAKE_LIMIT``, sends SIGTERM to what ``srun`` has started in
the task ``FAKE_PREEMPT``, as a preemption with a grace time does, and kills all processes of the task ``FAKE_LOSS``, as
when its node is lost. A task that is requeued, or lost, runs again. ``squeue`` prints ``FAKE_STATE``.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path


def install(folder: Path) -> None:
    """Write the three programs into a folder."""
    folder.mkdir()
    for name in ("sbatch", "srun", "scontrol", "squeue"):
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {name} "$@"\n')
        (folder / name).chmod(0o755)


def sbatch(arguments: list[str]) -> int:
    script = Path(arguments[-1]).resolve()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", script.read_text(), re.MULTILINE))
    first, end = re.findall(r"\d+", options["array"])[:2]
    assert options["signal"].startswith("B:USR1@") and "requeue" in options and options["open-mode"] == "append"
    tasks = []
    for index in range(int(first), int(end) + 1):
        statuses, restarts = [run_task(script, options, index, 0)], 0
        while Path(f"requeue_500_{index}").exists() or statuses[-1] == -signal.SIGKILL:
            Path(f"requeue_500_{index}").unlink(missing_ok=True)
            restarts += 1
            statuses.append(run_task(script, options, index, restarts))
        tasks.append(statuses)
    Path("tasks.json").write_text(json.dumps(tasks))
    print("500")
    return 0


def run_task(script: Path, options: dict[str, str], index: int, restarts: int) -> int:
    """The exit status of one task."""
    nodes, per_node = int(options["nodes"]), int(options["ntasks-per-node"])
    about = {"JOB_ID": 500 + index, "ARRAY_JOB_ID": 500, "ARRAY_TASK_ID": index, "RESTART_COUNT": restarts}
    about |= {"JOB_NAME": options["job-name"], "NNODES": nodes, "NTASKS": nodes * per_node}
    about |= {"NTASKS_PER_NODE": per_node, "PROCID": 0, "LOCALID": 0, "NODEID": 0}
    environment = os.environ | {f"SLURM_{name}": str(value) for name, value in about.items()}
    output = Path(options["output"].replace("%A", "500").replace("%a", str(index)))
    with output.open("ab") as file:
        job = subprocess.Popen(
            ["bash", str(script)], env=environment, cwd="/", stdout=file, stderr=file, start_new_session=True
        )
    members = re.search(r"^members=\((.*)\)$", script.read_text(), re.MULTILINE)[1].split()
    trouble = next(
        (kind for kind in ("LIMIT", "PREEMPT", "LOSS") if os.environ.get(f"FAKE_{kind}") == str(index)), None
    )
    while job.poll() is None:
        ready = list(output.parents[1].glob(f"{members[index]}/version_*/checkpoints/last.ckpt"))
        if trouble and not restarts and ready:
            if trouble == "LIMIT":
                job.send_signal(signal.SIGUSR1)
            elif trouble == "PREEMPT":
                for task in json.loads(Path(f"tasks_of_{index}.json").read_text()):
                    os.kill(task, signal.SIGTERM)
            else:
                kill_all(job.pid)
            trouble = None
        time.sleep(0.02)
    return job.returncode


def kill_all(parent: int) -> None:
    """Kill a process and all that it has started; the parents first, so that they can't react."""
    children = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True).stdout.split()
    os.kill(parent, signal.SIGKILL)
    for child in children:
        kill_all(int(child))


def srun(arguments: list[str]) -> int:
    """Like the real one, it forwards SIGUSR1, and kills its tasks at once when it gets SIGTERM."""
    command = [word for word in arguments if word != "--kill-on-bad-exit=1"]
    per_node = int(os.environ["SLURM_NTASKS_PER_NODE"])
    tasks = []

    def send(number: int, _: object) -> None:
        for task in tasks:
            task.send_signal(signal.SIGKILL if number == signal.SIGTERM else number)

    signal.signal(signal.SIGUSR1, send)
    signal.signal(signal.SIGTERM, send)
    for rank in range(int(os.environ["SLURM_NTASKS"])):
        about = {"STEP_ID": 0, "PROCID": rank, "LOCALID": rank % per_node, "NODEID": rank // per_node}
        environment = os.environ | {f"SLURM_{name}": str(value) for name, value in about.items()}
        tasks.append(subprocess.Popen(command, env=environment))
    Path(f"tasks_of_{os.environ.get('SLURM_ARRAY_TASK_ID')}.json").write_text(json.dumps([task.pid for task in tasks]))
    statuses = [task.wait() for task in tasks]
    return max(128 - status if status < 0 else status for status in statuses)


def scontrol(arguments: list[str]) -> int:
    assert arguments[0] == "requeue"
    Path(f"requeue_{arguments[1]}").touch()
    return 0


def squeue(arguments: list[str]) -> int:
    assert arguments[:2] == ["--noheader", "--format=%T"]
    print(os.environ.get("FAKE_STATE", "RUNNING"))
    return 0


if __name__ == "__main__":
    programs = {"sbatch": sbatch, "srun": srun, "scontrol": scontrol, "squeue": squeue}
    sys.exit(programs[sys.argv[1]](sys.argv[2:]))
