"""What the dashboard shows: titles, explanations and panels, for the workspace and for the report."""

from typing import Any, NamedTuple

import wandb_workspaces.reports.v2 as wr

WIDTH, HEIGHT = 12, 8  # of a panel, in units of a report's grid, which is 24 wide

ACCURACIES = {
    "test/clean_accuracy": "clean accuracy",
    "test/robust_accuracy": "accuracy under the test attack",
    "test/worst_case_accuracy": "worst case of the full evaluation",
}
CURVES = {
    "val/clean_accuracy": "validation: clean accuracy",
    "val/robust_accuracy": "validation: accuracy under attack",
    "train/loss": "training loss",
    "lr": "learning rate",
}
PROBES: list[Any] = ["guard/single_step_accuracy", "guard/pgd_accuracy"]
EVENTS = {
    "guard/collapsed": "catastrophic overfitting",
    "guard/robust_overfitting": "robust overfitting",
    "guard/one_class": "one class for every image",
    "guard/outside_dictionary": "inputs outside a dictionary",
    "guard/not_finite": "a loss or weight is not finite",
}
SETTINGS = ["activation", "backbone", "objective", "norm", "eps", "seed"]  # scalars at the top of a run's configuration
PICTURES = {"activations": "learned shapes", "curves": "training", "robustness": "full evaluation"}


class Section(NamedTuple):
    """A title, what a reader needs to know, and panels."""

    title: str
    text: str
    panels: list[Any]


def sections() -> list[Section]:
    """Return the sections of the dashboard, with new panels at their places in a report."""
    found = [_accuracy(), _scatter(), _training(), _events(), _pictures(), _settings()]
    for section in found:
        for number, panel in enumerate(section.panels):
            panel.layout = wr.Layout(x=WIDTH * (number % 2), y=HEIGHT * (number // 2), w=WIDTH, h=HEIGHT)
    return found


def _accuracy() -> Section:
    spread: dict[str, Any] = {"groupby": wr.Config("activation"), "groupby_aggfunc": "mean"}
    bars = [
        wr.BarPlot(title=title, metrics=[metric], groupby_rangefunc="stddev", range_x=(0, 1), **spread)
        for metric, title in ACCURACIES.items()
    ]
    text = (
        "Bars are means over the seeds of an activation, with their standard deviation. It is no confidence interval: "
        "that of each run is in its results.json. Filter to one backbone, objective, norm and eps."
    )
    return Section("Accuracy and robustness by activation", text, bars)


def _scatter() -> Section:
    clean, *robust = ACCURACIES
    panels = [
        wr.ScatterPlot(title=f"{ACCURACIES[name]} against clean accuracy", x=_summary(clean), y=_summary(name))
        for name in robust
    ]
    return Section("Robust against clean", "One point per run: networks further up and right are better.", panels)


def _training() -> Section:
    panels = [
        wr.LinePlot(
            title=title,
            x="epoch",
            y=[metric],
            groupby=wr.Config("activation"),
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
        )
        for metric, title in CURVES.items()
    ]
    return Section("Training", "Means over the seeds of an activation; bands are one standard deviation.", panels)


def _events() -> Section:
    step = "trainer/global_step"
    panels = [wr.LinePlot(title="validation images under one step and under PGD", x=step, y=PROBES)]
    panels += [wr.LinePlot(title=title, x=step, y=[metric]) for metric, title in EVENTS.items()]
    text = (
        "Events that a run has warned of, at the step at which they happened. An empty panel means that no run has "
        "warned; catastrophic overfitting is 0 at each probe without one."
    )
    return Section("Guard events", text, panels)


def _pictures() -> Section:
    panels = [wr.MediaBrowser(title=title, media_keys=[key], num_columns=2) for key, title in PICTURES.items()]
    text = "Trainable activations over the density of their inputs; curves; attacks, eps curves and checks."
    return Section("Learned shapes and pictures", text, panels)


def _settings() -> Section:
    columns = [wr.ParallelCoordinatesPlotColumn(wr.Config(name)) for name in SETTINGS]
    columns += [wr.ParallelCoordinatesPlotColumn(_summary(name), display_name=ACCURACIES[name]) for name in ACCURACIES]
    panels = [wr.ParallelCoordinatesPlot(title="settings and accuracies", columns=columns), wr.RunComparer()]
    return Section("Settings", "One line per run; the comparison lists the settings in which runs differ.", panels)


def _summary(name: str) -> Any:
    return wr.SummaryMetric(name)
