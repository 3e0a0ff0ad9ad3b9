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
    """
    cli = str(ROOT / "cli.py")
    content = {
        "name": jobs[0].study,
        "method": "grid",
        "program": cli,
        "command": [sys.executable, cli, "study", *arguments, "--wandb", "${args}"],
        "parameters": {"only": {"values": [job.name for job in jobs]}},
    }
    head = f"# start it in {os.getcwd()}: wandb sweep --project PROJECT FILE, then wandb agent as often as you like\n"
    return head + yaml.safe_dump(content, sort_keys=False, width=120)
