"""``cli.py study --sweep``: a W&B sweep whose runs are the members."""

import os
import sys
from collections.abc import Sequence

import yaml

from lightning_modules.provenance import ROOT
from lightning_modules.studies.job import Job


def sweep(jobs: Sequence[Job], arguments: Sequence[str]) -> str:
    """Return the file of a sweep, for ``wandb sweep``; an agent starts the study with one member at a time.

    The parameter is the name of the member, because an axis may stand for several configs and flags.

    Args:
        jobs: members that are left; at least one.
        arguments: of ``cli.py study``, to which the agent adds the member.

    Raises:
        ValueError: if a member does not log to W&B.
    """
    for job in jobs:
        if "wandb" not in str(job.settings.get("trainer.logger")).lower():
            raise ValueError(
                f"member {job.name} does not log to W&B, so a sweep would show nothing of it; add wandb to base.config "
                f"of the study, or begin a study of your own with include: [{job.study.removesuffix('_short')}] and "
                "base: {config+: [wandb]}"
            )
    cli = str(ROOT / "cli.py")
    content = {
        "name": jobs[0].study,
        "method": "grid",
        "program": cli,
        "command": [sys.executable, cli, "study", *arguments, "${args}"],
        "parameters": {"only": {"values": [job.name for job in jobs]}},
    }
    head = f"# start it in {os.getcwd()}: wandb sweep --project PROJECT FILE, then wandb agent as often as you like\n"
    return head + yaml.safe_dump(content, sort_keys=False, width=120)
