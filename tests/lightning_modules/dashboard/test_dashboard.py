"""The dashboard is built without a login and without the network."""

import json
import socket

import pytest

import cli
from lightning_modules.dashboard import command

views = pytest.importorskip(
    "lightning_modules.dashboard.views", reason="needs wandb-workspaces: pip install wandb-workspaces"
)
import wandb_workspaces.reports.v2 as wr  # noqa: E402
import wandb_workspaces.workspaces as ws  # noqa: E402


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def panels(spec, kind):
    """The configurations of all panels of a kind, anywhere in a specification."""
    if isinstance(spec, list):
        return [found for item in spec for found in panels(item, kind)]
    if not isinstance(spec, dict):
        return []
    here = [spec["config"]] if spec.get("viewType") == kind else []
    return here + [found for value in spec.values() for found in panels(value, kind)]


@pytest.mark.parametrize("name", ["workspace", "report"])
def test_the_specification_holds_what_a_reader_compares(name):
    spec = views.specs("somebody", "kafnets")[name]
    bars = panels(spec, "Bar Chart")
    assert [bar["metrics"] for bar in bars] == [
        ["test/clean_accuracy"],
        ["test/robust_accuracy"],
        ["test/worst_case_accuracy"],
    ]
    for chart in [*bars, *(line for line in panels(spec, "Run History Line Plot") if "guard" not in str(line))]:
        assert (chart["groupBy"], chart["groupAgg"], chart["groupArea"]) == ("activation.value", "mean", "stddev")
    scatter = panels(spec, "Scatter Plot")[0]
    assert (scatter["xAxis"], scatter["yAxis"]) == ("summary:test/clean_accuracy", "summary:test/robust_accuracy")
    assert "guard/one_class" in str(panels(spec, "Run History Line Plot"))
    assert [media["mediaKeys"] for media in panels(spec, "Media Browser")] == [
        ["activations"],
        ["curves"],
        ["robustness"],
    ]
    (parallel,) = panels(spec, "Parallel Coordinates Plot")
    accessors = [column["accessor"] for column in parallel["columns"]]
    assert accessors[:6] == [
        f"config:{name}.value" for name in ("activation", "backbone", "objective", "norm", "eps", "seed")
    ]
    assert panels(spec, "Run Comparer")
    assert '"config:seed.value": true' in json.dumps(spec), "a column of the run table"
    assert '"study"' not in json.dumps(spec)
    assert '"value": "mine"' in json.dumps(views.specs("somebody", "kafnets", "mine")[name])


def test_both_come_back_from_their_json():
    views_by_kind = {wr.Report: views.build_report("me", "p", "s"), ws.Workspace: views.build_workspace("me", "p")}
    for kind, view in views_by_kind.items():
        model = view._to_model()
        text = model.model_dump_json(by_alias=True, exclude_none=True)
        again = kind._from_model(type(model).model_validate_json(text))._to_model()
        one, other = (each.spec.model_dump(exclude_none=True, exclude={"width"}) for each in (model, again))
        assert one == other  # reading drops the width of a report


def test_the_command_writes_the_specifications_and_overwrites_nothing(tmp_path, refused, monkeypatch):
    out = tmp_path / "spec.json"
    dashboard = ["dashboard", "--entity", "me"]
    cli.main([*dashboard, "--out", str(out)])
    assert set(json.loads(out.read_text())) == {"workspace", "report"}
    assert "is there already; nothing is overwritten" in refused([*dashboard, "--out", str(out)])
    monkeypatch.setattr(command, "logged_in", lambda: False)
    assert "nobody is logged in at W&B: wandb login" in refused(dashboard)
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'kafnets[dashboards]'" in refused(dashboard)


def test_what_w_and_b_refuses_is_one_line(refused, monkeypatch):
    def save(self):
        raise command.wandb.errors.CommError("entity nobody not found")

    monkeypatch.setattr(command, "logged_in", lambda: True)
    monkeypatch.setattr(ws.Workspace, "save", save)
    line = refused(["dashboard", "--entity", "nobody"])
    assert line.startswith("error: W&B refused: entity nobody not found; check --entity and --project")
