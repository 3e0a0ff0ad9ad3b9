"""Files of a robustness report besides its tables: RobustBench's format, and an unfinished report to resume."""

import json
from pathlib import Path
from typing import Any

import torch

from kafnets.analysis.per_image_results import PerImageResults
from kafnets.attacks import Attack
from kafnets.threat import show_units


def robustbench(record: dict[str, Any], ball: Attack, reported: float | None) -> dict[str, Any]:
    """Return the claim in RobustBench's format: ``reported`` is by the test attack, ``measured`` is the worst case.

    Accuracies are text, in per cent.

    Args:
        record: the finished report.
        ball: any attack of the report; all share norm and eps.
        reported: robust accuracy in [0, 1] under the test attack of the configuration; None if there is none.
    """
    return {
        "name": f"{record['run']['backbone']} {record['run']['activation']}",
        "dataset": record["data"],
        "norm": type(ball.norm).__name__,
        "eps": show_units(ball.eps),
        "clean_acc": f"{100 * record['clean']['accuracy']:.2f}",
        "reported": None if reported is None else f"{100 * reported:.2f}",
        "measured": f"{100 * record['worst_case']['accuracy']:.2f}",
        "images": record["images"],
        "checkpoint_sha256": record["checkpoint_sha256"],
    }


def read_resumable(
    path: str | None, identity: dict[str, Any]
) -> tuple[PerImageResults, dict[str, set[str]], dict[str, float]]:
    """Return the per-image results, facts and seconds of an earlier report; empty ones for None.

    Raises:
        ValueError: if it can't be read, or its checkpoint, seed, data or settings differ.
    """
    if path is None:
        return PerImageResults({"index": torch.empty(0)}), {}, {}
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        outcomes = PerImageResults.decode(record["outcomes"])
        facts = {name: set(values) for name, values in record["facts"].items()}
        seconds = dict(record["seconds"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no robustness.json that can be resumed: {error}") from None
    # the checkpoint may have been moved: its hash is compared, not its path
    other = [name for name in identity if name != "checkpoint" and record.get(name) != identity[name]]
    if other:
        raise ValueError(f"{path} is of another test: it differs in {', '.join(other)}; leave resume out to start anew")
    return outcomes, facts, seconds
