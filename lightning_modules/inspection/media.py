"""An inspection as the media of a W&B run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from lightning_modules.wandb_logger import Wandb


def log_media(project: str, out: Path, record: Mapping[str, Any]) -> None:
    """Log page, pictures and statistics of an inspection as one W&B run of the job type ``inspect``.

    Offline without a login, as every run: :class:`~lightning_modules.wandb_logger.Wandb`.

    Args:
        project: of the dashboard.
        out: folder with the files of the inspection.
        record: the content of its ``inspect.json``.
    """
    logger = Wandb(project=project, job_type="inspect", name=f"inspect {out.name}")
    logger.log_hyperparams({name: record[name] for name in ("data", "images", "images_sha256", "attack")})
    media: dict[str, Any] = {name: wandb.Image(str(out / f"{name}.png")) for name in record["pictures"]}
    media |= {"page": wandb.Html(str(out / "index.html")), "networks": _table(record)}
    logger.experiment.log({f"inspect/{name}": value for name, value in media.items()})
    logger.experiment.finish()


def _table(record: Mapping[str, Any]) -> wandb.Table:
    """One row per network: its checkpoint, its robust accuracy and every statistic."""
    networks, measured = record["networks"], record["robust_accuracy"]
    names = list(networks[0]["statistics"])
    rows = [
        [each["label"], each["checkpoint"], accuracy, *(_number(each["statistics"][name]) for name in names)]
        for each, accuracy in zip(networks, measured["values"], strict=True)
    ]
    return wandb.Table(columns=["network", "checkpoint", measured["measured"], *names], data=rows)


def _number(value: float | str | None) -> float | None:
    return None if value is None else float(value)
