"""The workspace and the report as objects of ``wandb-workspaces``; no network is used."""

import json
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr

from lightning_modules.dashboard.sections import ACCURACIES, SETTINGS, sections

COLUMNS = [*(f"config:{name}.value" for name in SETTINGS), *(f"summary:{name}" for name in ACCURACIES)]


def build_report(entity: str, project: str, study: str | None = None) -> wr.Report:
    """Return the report.

    Args:
        entity: user or team that owns the project.
        project: the project of the runs.
        study: show the runs of this study alone; None for all.
    """
    about = "Built from code: python cli.py dashboard. What is said below holds for the runs that the filters leave."
    blocks: list[Any] = [wr.P(about), wr.TableOfContents()]
    for section in sections():
        blocks += [wr.H2(section.title), wr.P(section.text)]
        blocks.append(wr.PanelGrid(runsets=[_runset(study)], panels=section.panels))
    return wr.Report(entity=entity, project=project, title=_title(study), blocks=blocks, width="fluid")


def build_workspace(entity: str, project: str, study: str | None = None) -> ws.Workspace:
    """Return the workspace; the arguments are those of :func:`build_report`."""
    return ws.Workspace(
        entity=entity,
        project=project,
        name=_title(study),
        sections=[ws.Section(name=section.title, panels=section.panels, is_open=True) for section in sections()],
        settings=ws.WorkspaceSettings(max_runs=100),
        runset_settings=ws.RunsetSettings(filters=_filters(study), pinned_columns=COLUMNS),
    )


def specs(entity: str, project: str, study: str | None = None) -> dict[str, Any]:
    """Return what saving uploads: the JSON of both, by name."""
    both: dict[str, Any] = {
        "workspace": build_workspace(entity, project, study),
        "report": build_report(entity, project, study),
    }
    return {
        name: json.loads(view._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
        for name, view in both.items()
    }


def _title(study: str | None) -> str:
    return f"Robustness: {study}" if study else "Robustness"


def _filters(study: str | None) -> Any:
    return expr.And(expr.Config("study") == study) if study else ""


def _runset(study: str | None) -> wr.Runset:
    # without entity and project, which a server would have to resolve, it shows the project of its report
    return wr.Runset(name=_title(study), filters=_filters(study), pinned_columns=COLUMNS)
