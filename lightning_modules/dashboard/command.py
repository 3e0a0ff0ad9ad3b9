"""The command line of ``python cli.py dashboard``."""

import importlib.util
from pathlib import Path

import wandb

from lightning_modules.command_line.parser import OneLineParser
from lightning_modules.files import write_json
from lightning_modules.wandb_logger import logged_in


def main(arguments: list[str]) -> None:
    """Save the workspace and the report, or with ``--out`` write their specifications.

    Raises:
        ValueError: if ``wandb-workspaces`` is missing, nobody is logged in, W&B refuses, or the file exists.
    """
    asked = _parser().parse_args(arguments)
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise ValueError("the dashboard needs wandb-workspaces: pip install 'kafnets[dashboards]'")
    from lightning_modules.dashboard import views

    where = asked.entity, asked.project, asked.study
    if asked.out is not None:
        path = Path(asked.out)
        if path.exists():
            raise ValueError(f"--out {path} is there already; nothing is overwritten, choose another one")
        write_json(path, views.specs(*where))
        print(f"{path}: the specifications of workspace and report; nothing was uploaded")
        return
    if not logged_in():
        raise ValueError("nobody is logged in at W&B: wandb login; --out FILE writes the specifications without it")
    try:
        for view in (views.build_workspace(*where), views.build_report(*where)):
            print(view.save().url)
    except (wandb.errors.Error, wandb.errors.UsageError) as error:
        raise ValueError(f"W&B refused: {error}; check --entity and --project") from None


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="cli.py dashboard", description="A workspace and a report on Weights & Biases.")
    parser.add_argument("--entity", type=str, required=True, help="User or team that owns the project.")
    parser.add_argument("--project", type=str, default="kafnets", help="The project of the runs.")
    parser.add_argument("--study", type=str | None, default=None, help="Show the runs of this study alone.")
    parser.add_argument("--out", type=str | None, default=None, help="Write the JSON to this file, upload nothing.")
    return parser
