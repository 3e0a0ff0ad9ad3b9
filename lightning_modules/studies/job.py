"""A member on disk: its run folders, status, lock and record, and what is left to do."""

import fcntl
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

from lightning_modules.command_line.run_folder import runs_of
from lightning_modules.files import write_json
from lightning_modules.provenance import code_version
from lightning_modules.studies.collect import collect, is_finished
from lightning_modules.studies.grid import Member
from lightning_modules.studies.identity import differences, sha256_of, source_sha256, without_paths
from lightning_modules.studies.member_record import Record, read_member, write_member

Status: TypeAlias = dict[str, Any]
Changed: TypeAlias = Literal["keep", "redo"] | None
STATUS = "_status"  # no label begins with it


@dataclass(frozen=True)
class Plan:
    """What is left of a member.

    Attributes:
        action: ``done``: it has its record; ``collect``: it has ended without one; ``resume``: it goes on from
            ``checkpoint``; ``start``: it begins; ``refuse``: it has begun under other settings or code.
        note: what should be said about it; empty for nothing.
    """

    action: Literal["done", "collect", "resume", "start", "refuse"]
    note: str = ""
    checkpoint: Path | None = None
    folder: Path | None = None


@dataclass(frozen=True)
class Job:
    """A member of a study and where its files are.

    Run folders are ``runs/<member>/version_<k>``; ``runs/_status`` has its status and its lock; ``results`` its record.

    Args:
        study: name of the study.
        member: the member.
        flags: further flags, the same for all members, such as the path of the data.
        runs, results: folders of this study.
        settings: of the member, see :func:`~lightning_modules.studies.identity.settings_of`, without its loggers.
        loggers: further arguments that change no result.
    """

    study: str
    member: Member
    flags: tuple[str, ...]
    runs: Path
    results: Path
    settings: dict[str, Any] = field(repr=False)
    loggers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the member."""
        return self.member.name

    @property
    def folder(self) -> Path:
        """The folder of all its runs."""
        return self.runs / self.name

    @property
    def output(self) -> Path:
        """What its runs have printed."""
        return self.folder / "output.txt"

    @property
    def record(self) -> Path:
        """Its record."""
        return self.results / f"{self.name}.json"

    @cached_property
    def identity(self) -> dict[str, str]:
        """Hashes of its settings and of the code."""
        return {"config_sha256": sha256_of(self.settings), "source_sha256": source_sha256()}

    def arguments(self, plan: Plan | None = None) -> list[str]:
        """Return the arguments of ``cli.py``; with a plan, those with which it begins or goes on."""
        place = [f"--run.dir={self.runs}", f"--run.name={self.name}"]
        arguments = [*self.member.arguments, *self.flags, *self.loggers, *place]
        if plan and plan.checkpoint:
            arguments.append(f"--ckpt_path={plan.checkpoint}")
            arguments += self._unfinished_report()
        return arguments

    def _unfinished_report(self) -> list[str]:
        """The flag by which a report goes on whose test was interrupted, if it is the last of the callbacks."""
        callbacks = self.settings.get("trainer.callbacks") or [{}]
        found = [run / "robustness.json" for run in self._versions() if (run / "robustness.json").is_file()]
        if not found or not str(callbacks[-1].get("class_path", "")).endswith("RobustnessReport"):
            return []
        report = json.loads(found[-1].read_text(encoding="utf-8"))
        whole = report.get("network_sha256") and report.get("attacks_sha256")
        same = whole and report.get("code") == code_version()
        return [f"--trainer.callbacks.resume={found[-1]}"] if same else []

    # --- status -------------------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """Return what is known about its runs; ``{"status": "waiting"}`` before the first."""
        try:
            found = json.loads((self.runs / STATUS / f"{self.name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {"status": "waiting"}
        return found if isinstance(found, dict) else {"status": "waiting"}

    def note(self, **changes: Any) -> None:
        """Change its status."""
        (self.runs / STATUS).mkdir(parents=True, exist_ok=True)
        write_json(self.runs / STATUS / f"{self.name}.json", {"member": self.name} | self.status() | changes)

    def lock(self) -> int | None:
        """Return an open file that no other process gets while it is open, here or in a child; None if one has it.

        The kernel releases it when the last process that holds it ends, however that ends, so it can't be stale.

        Raises:
            OSError: if the file system has no locks, as Lustre without its option ``flock``.
        """
        (self.runs / STATUS).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.runs / STATUS / f"{self.name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            os.close(descriptor)
            raise OSError(
                f"the file system of {self.runs} has no locks ({error.strerror}); choose another --run.dir"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
        return descriptor

    def holder(self) -> str:
        """Return who has locked it, as text."""
        return (self.runs / STATUS / f"{self.name}.lock").read_text(encoding="utf-8")

    # --- what is left to do -------------------------------------------------------------------------------------------

    def plan(self, changed: Changed = None) -> Plan:
        """Return what is left to do; ``changed`` says what happens to results of other settings or code.

        Raises:
            ValueError: if its record is damaged.
        """
        status, versions = self.status(), self._versions()
        if self.record.is_file():
            record = read_member(self.record)
            if self._is_mine(record) or changed == "keep":
                return Plan("done")
            if changed is None:
                return Plan("refuse", self._difference(record, status))
            if not self._is_mine(status):
                return Plan("start", "it runs again, because its settings or the code have changed")
        if status["status"] == "waiting":
            return Plan("start")
        if not versions:
            gone = not self.folder.exists()
            return Plan("start", "its run folder was deleted, so it runs again" if gone else "")
        if not self._is_mine(status) and changed != "keep":
            worth = self._last_checkpoint(versions) and status["status"] != "failed"
            if worth and changed is None:
                return Plan("refuse", self._difference(status, status))
            return Plan("start", "it begins anew, because its settings or the code have changed")
        if is_finished(versions[-1]):
            return Plan("collect", folder=versions[-1])
        checkpoint = self._last_checkpoint(versions)
        return Plan("resume" if checkpoint else "start", checkpoint=checkpoint)

    def _is_mine(self, found: Mapping[str, Any]) -> bool:
        return all(found.get(name) == value for name, value in self.identity.items())

    def _difference(self, found: Mapping[str, Any], status: Status) -> str:
        if found.get("config_sha256") == self.identity["config_sha256"]:
            return f"the code was {found.get('code', 'another')}, is {code_version()}"
        old = found.get("config")  # records of older versions have none
        if old is None and sha256_of(status.get("settings") or {}) == found.get("config_sha256"):
            old = status["settings"]
        return differences(old or self.settings, self.settings) or "its settings were others"

    def _versions(self) -> list[Path]:
        """The run folders since its settings and code are what its status says, oldest first."""
        first = self.status().get("first_version", 0)
        return [run for run in runs_of(self.runs, self.name) if int(run.name.removeprefix("version_")) >= first]

    @staticmethod
    def _last_checkpoint(versions: list[Path]) -> Path | None:
        found = [path for run in versions for path in run.glob("checkpoints/last*.ckpt")]
        return max(found, key=lambda path: path.stat().st_mtime, default=None)

    def begin(self, plan: Plan) -> None:
        """Note that a run begins."""
        fresh = (
            {} if plan.action == "resume" else {"first_version": self._next_version(), "seconds": 0.0, "attempts": 0}
        )
        status = self.status() | fresh
        # the member runs the code that is there now, which may not be that with which the study began
        about = {"settings": self.settings, "code": code_version()} | self.identity | {"source_sha256": source_sha256()}
        self.note(**status | about | {"status": "running", "attempts": status.get("attempts", 0) + 1})
        self.folder.mkdir(parents=True, exist_ok=True)

    def _next_version(self) -> int:
        runs = runs_of(self.runs, self.name)
        return int(runs[-1].name.removeprefix("version_")) + 1 if runs else 0

    def collect(self) -> Record:
        """Write the record of its newest run, and return it.

        Raises:
            ValueError: if the run has not finished, or its files are damaged.
        """
        versions = self._versions()
        if not versions or not is_finished(versions[-1]):
            raise ValueError(f"it ended without results.json in {versions[-1] if versions else self.folder}")
        status = self.status()
        record = collect(
            versions[-1],
            study=self.study,
            member=self.name,
            axes=self.member.axes,
            command=without_paths([*self.member.arguments, *self.flags]),
            config=status["settings"],
            config_sha256=status["config_sha256"],
            source_sha256=status["source_sha256"],
        )
        write_member(self.results.parent, record)
        return record
