"""Files of a robustness report besides its tables: RobustBench's format, and an unfinished report to resume."""

from typing import Any

import torch

from kafnets.analysis.per_image_results import PerImageResults
from kafnets.analysis.robustness_record import plain
from kafnets.attacks import Attack, AutoAttack
from kafnets.threat import show_units
from lightning_modules.read_report import read_report


def robustbench(record: dict[str, Any], ball: Attack, reported: float | None) -> dict[str, Any]:
    """Return the claim in the fields of RobustBench's ``model_info`` files; accuracies are text, in per cent.

    ``reported`` is the accuracy under the test attack of the run, ``autoattack_acc`` that under the four attacks of
    AutoAttack, None unless all were run with their settings, and ``external`` the worst case of all attacks.
    ``unreliable`` says that a check of the report complains. What the project cannot know is None: ``link``,
    ``authors``, ``venue`` and ``additional_data`` (whether other images than the training set were used).

    Args:
        record: the finished report.
        ball: any attack of the report; all share norm and eps.
        reported: robust accuracy in [0, 1] under the test attack of the configuration; None if there is none.
    """
    run, norm = record["run"], type(ball.norm).__name__
    footnote = f"{norm}, {record['images']} images, {len(record['attacks'])} attacks"
    return {
        "link": None,
        "name": f"{run['backbone']} {run['activation']}, trained by {run['objective']}",
        "authors": None,
        "additional_data": None,
        "number_forward_passes": 1,
        "dataset": record["data"].lower(),
        "venue": None,
        "architecture": f"{run['backbone']} {run['activation']}",
        "eps": show_units(ball.eps),
        "clean_acc": _per_cent(record["clean"]["accuracy"]),
        "reported": _per_cent(reported),
        "autoattack_acc": _per_cent(_under_autoattack(record, ball)),
        "external": _per_cent(record["worst_case"]["accuracy"]),
        "footnote": f"{footnote}; checkpoint sha256 {record['checkpoint_sha256']}, data sha256 {record['data_sha256']}",
        "unreliable": any(check["status"] in ("warn", "fail") for check in record["checks"]),
    }


def _per_cent(accuracy: float | None) -> str | None:
    return None if accuracy is None else f"{100 * accuracy:.2f}"


def _under_autoattack(record: dict[str, Any], ball: Attack) -> float | None:
    """The accuracy in the worst case of AutoAttack's attacks, None unless all are in the report."""
    standard = AutoAttack("standard").within(ball.threat).attacks.values()
    wanted = [plain(attack.settings()) for attack in standard]
    found = {name: attack["settings"] for name, attack in record["attacks"].items() if attack["settings"] in wanted}
    if any(settings not in found.values() for settings in wanted):
        return None
    outcomes = PerImageResults.decode(record["outcomes"])
    return float(torch.stack([outcomes[name] for name in found]).amin(0).mean())


def read_resumable(
    path: str | None, identity: dict[str, Any]
) -> tuple[PerImageResults, dict[str, set[str]], dict[str, float]]:
    """Return the per-image results, facts and seconds of an earlier report; empty ones for None.

    Raises:
        ValueError: if it can't be read or is damaged, its checkpoint, network, seed, data or settings differ, or the
            network or an attack has no identity.
    """
    if path is None:
        return PerImageResults({"index": torch.empty(0)}), {}, {}
    record = read_report(path)
    if None in (identity.get("network_sha256", ""), identity.get("attacks_sha256", "")):
        raise ValueError(
            f"{path} can't be resumed: the network or an attack holds what can't be told from another of its kind, "
            "such as a lock or an open file; leave resume out"
        )
    # the checkpoint may have been moved: its hash is compared, not its path
    other = [name for name in identity if name != "checkpoint" and record.get(name) != identity[name]]
    if other:
        raise ValueError(f"{path} is of another test: it differs in {', '.join(other)}; leave resume out to start anew")
    facts = {name: set(values) for name, values in record["facts"].items()}
    return PerImageResults.decode(record["outcomes"]), facts, dict(record["seconds"])
