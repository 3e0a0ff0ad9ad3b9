"""Runs the members of a study, each in a process of its own, several at once if asked."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from lightning_modules.callbacks.robustness_text import per_cent
from lightning_modules.provenance import ROOT
from lightning_modules.studies.job import Changed, Job, Plan
from lightning_modules.studies.member_record import Record, read_member
from lightning_modules.studies.time_left import expected_seconds, in_words

SIGNALS = [number for number in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, number)]
SRUN = ["srun", "--kill-on-bad-exit=1"]  # a process alone would wait for the others for ever
STOPPED = {128 + signal.SIGTERM, 128 + signal.SIGUSR1}  # status of a member that wrote its checkpoint after a signal
PAUSE, PAUSE_FOR_OTHERS = 0.3, 3.0  # seconds between two looks at the members


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    lock: int
    slot: dict[str, str]
    begun: float
    seconds_before: float
    saved: float  # time of the checkpoint that it goes on from


class Runner:
    """Runs what is left of a study.

    A member that fails does not stop the others. SIGINT, SIGTERM, SIGHUP and SIGUSR1 stop the running members, each of
    which writes its checkpoint first; a second signal kills them. A member that another process runs is left to it, and
    waited for.

    Args:
        jobs: all members, in the order in which they run.
        slots: the environment of each slot.
        changed: what happens to results of other settings or code, see :meth:`~lightning_modules.studies.job.Job.plan`.
        log: file to which every line is added.
        srun: start the members by SLURM's srun, as one process per task of the job.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        slots: Sequence[dict[str, str]],
        changed: Changed,
        log: Path,
        *,
        srun: bool = False,
    ) -> None:
        self.jobs, self.slots, self.changed, self.log, self.srun = jobs, slots, changed, log, srun
        self.finished: dict[str, tuple[dict[str, str], float]] = {}
        self.failed: dict[str, str] = {}
        self._waiting: deque[Job] = deque()
        self._elsewhere: deque[Job] = deque()
        self._running: list[_Running] = []
        self._signals: list[int] = []
        self._preempted = 0
        self._told: set[str] = set()

    def run(self) -> None:
        """Run all; end with a summary, and with an exit status unless all members are done.

        Raises:
            SystemExit: with status 1 if a member has failed, with 128 and the signal's number after a signal, which
                SLURM may also have sent to the member alone.
        """
        before = {name: signal.signal(getattr(signal, name), self._stop) for name in SIGNALS}
        try:
            for job in self.jobs:
                self._sort(job)
            self.say(f"{self.jobs[0].study}: {self._time_left()}")
            while self._running or ((self._waiting or self._elsewhere) and not self._signals):
                self._look()
        finally:
            for name, handler in before.items():
                signal.signal(getattr(signal, name), handler)
        self._sum_up()

    def _look(self) -> None:
        while self._waiting and len(self._running) < len(self.slots) and not self._signals:
            self._start(self._waiting.popleft())
        if self._elsewhere and not self._running and not self._waiting:
            time.sleep(PAUSE_FOR_OTHERS)
            self._waiting, self._elsewhere = self._elsewhere, deque()
            return
        time.sleep(PAUSE)
        for running in [item for item in self._running if item.process.poll() is not None]:
            self._running.remove(running)
            self._end(running)
            os.close(running.lock)

    def say(self, text: str) -> None:
        """Print a line with the time of day, and add it to the log."""
        line = f"{time.strftime('%H:%M:%S')} {text}"
        print(line, flush=True)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d')} {line}\n")

    # --- one member ---------------------------------------------------------------------------------------------------

    def _sort(self, job: Job) -> None:
        """Count a member as done, or let it wait for a slot."""
        plan = job.plan(self.changed)
        if plan.action == "done":
            self._count(job, read_member(job.record))
        else:
            self._waiting.append(job)

    def _start(self, job: Job) -> None:
        lock = job.lock()
        if lock is None:
            text = f"{job.name} is run by {job.holder()}; this study waits for it at its end"
            if text not in self._told:
                self._told.add(text)
                self.say(text)
            self._elsewhere.append(job)
            return
        plan = job.plan(self.changed)  # another process may have run it in the meantime
        if plan.action in ("done", "collect", "refuse"):
            if plan.action == "refuse":
                self._fail(job, f"another process has run it with other settings or code: {plan.note}")
            else:
                self._finish(job, plan)
            os.close(lock)
            return
        begun = f"{job.name}: {plan.note}" if plan.note else f"{job.name} begins"
        self.say(f"{job.name} goes on from {plan.checkpoint}" if plan.checkpoint else begun)
        job.begin(plan)
        slot = next(slot for slot in self.slots if all(slot is not running.slot for running in self._running))
        with job.output.open("ab") as output:
            process = subprocess.Popen(
                [*(SRUN if self.srun else []), sys.executable, str(ROOT / "cli.py"), *job.arguments(plan)],
                env=os.environ | slot,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[lock],  # the lock lasts as long as the member, even if this process is killed
                start_new_session=True,  # a Ctrl-C reaches the members through this process alone
            )
        before, saved = job.status().get("seconds", 0.0), _time_of(plan.checkpoint)
        self._running.append(_Running(job, process, lock, slot, time.monotonic(), before, saved))

    def _end(self, running: _Running) -> None:
        job, status = running.job, running.process.returncode
        seconds = running.seconds_before + time.monotonic() - running.begun
        job.note(seconds=round(seconds, 1), exit=status)
        if status == 0:
            self._finish(job, Plan("collect"))
        elif self.srun and signal.SIGUSR1 in self._signals and job.plan(self.changed).action == "start":
            self._fail(job, "it was stopped before its first checkpoint, and would be again; give the job more time")
        elif self._signals or self._is_preempted(running):
            self._preempted = status
            job.note(status="stopped")
            self.say(f"{job.name} was stopped after {in_words(seconds)}")
        else:
            self._fail(job, last_line(job.output) or f"it ended with status {status}")

    def _is_preempted(self, running: _Running) -> bool:
        """Whether SLURM has stopped the member: it preempts by a SIGTERM to the tasks of srun, not to this process.

        srun sends SIGTERM as well, to the other tasks when one has failed; then there is no new checkpoint.
        """
        if not self.srun or running.process.returncode not in STOPPED:
            return False
        alone = os.environ.get("SLURM_NTASKS", "1") == "1"
        return alone or _time_of(running.job.plan(self.changed).checkpoint) > running.saved

    def _finish(self, job: Job, plan: Plan) -> None:
        try:
            record = read_member(job.record) if plan.action == "done" else job.collect()
        except (ValueError, OSError) as error:
            self._fail(job, str(error))
            return
        if plan.action != "done":
            job.note(status="done")
        self._count(job, record)
        self.say(f"{job.name} is done: {figures(record)}; {self._time_left()}")

    def _fail(self, job: Job, reason: str) -> None:
        job.note(status="failed", last_line=reason)
        self.failed[job.name] = reason
        self.say(f"{job.name} has failed: {reason}; {self._time_left()}")

    def _count(self, job: Job, record: Record) -> None:
        self.finished[job.name] = (job.member.axes, sum(record["seconds"].values()))

    # --- the whole study ----------------------------------------------------------------------------------------------

    def _time_left(self) -> str:
        left = [*self._waiting, *self._elsewhere, *(running.job for running in self._running)]
        text = f"{len(self.finished)} of {len(self.jobs)} done"
        if not left:
            return text
        if not self.finished:
            return f"{text}, no estimate before a member has finished"
        expected = dict(
            zip(
                [job.name for job in left],
                expected_seconds(list(self.finished.values()), [job.member.axes for job in left]),
                strict=True,
            )
        )
        for running in self._running:
            spent = running.seconds_before + time.monotonic() - running.begun
            expected[running.job.name] = max(0.0, expected[running.job.name] - spent)
        return f"{text}, about {in_words(sum(expected.values()) / len(self.slots))} left"

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)
        for running in self._running:
            if len(self._signals) > 1:
                os.killpg(running.process.pid, signal.SIGKILL)
            else:
                # srun kills its tasks at once when it gets SIGTERM, and forwards SIGUSR1 to them
                running.process.send_signal(signal.SIGUSR1 if self.srun else signal.SIGTERM)
        if len(self._signals) == 1:
            print(
                "stopping; running members write their checkpoints; once more kills them", file=sys.stderr, flush=True
            )

    def _sum_up(self) -> None:
        open_members = len(self.jobs) - len(self.finished) - len(self.failed)
        self.say(f"{len(self.finished)} of {len(self.jobs)} members are done, {len(self.failed)} have failed")
        for name, reason in self.failed.items():
            self.say(f"  {name}: {reason}")
        if self.failed or open_members:
            self.say("the same command goes on with what is left")
        if self._signals and not (self.srun and self.failed):
            raise SystemExit(128 + self._signals[0])
        if self.failed:
            raise SystemExit(1)
        if self._preempted:
            raise SystemExit(self._preempted)


def _time_of(path: Path | None) -> float:
    return path.stat().st_mtime if path else 0.0


def figures(record: dict[str, Any]) -> str:
    """Return the accuracies of a member in a few words."""
    worst = record["worst_case"]
    name, robust = ("worst case", worst) if worst else ("robust", record["robust"])
    return f"clean {per_cent(record['clean'])} %, {name} {per_cent(robust)} %"


def last_line(path: Path) -> str:
    """Return the last line of a text file that is not empty; empty if there is none."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 20_000))
        text = file.read().decode(errors="replace").replace("\r", "\n")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""
