"""The pictures of docs/deep.md; ``deep.py draw`` writes them."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kafnets.plots import plot_layer_norms
from kafnets.plots.marks import COLORS, MARKERS
from kafnets.plots.style import GREY, new_figure, open_frame

KINDS = {
    "no skips, thesis": ("thesis", True, False),
    "no skips, He": ("He", True, False),
    "thesis's blocks": ("thesis", True, True),
    "He's blocks": ("He", True, True),
    "no BN, thesis": ("thesis", False, False),
    "no BN, He": ("He", False, False),
}
DARKEST = 1e-4  # smallest value that the heat maps tell apart
WINDOW = 20  # steps of the running mean of the losses
LOOKS = {
    "KAF": ("KAF, as the thesis had it", "#D55E00", "-"),
    "ReLU": ("ReLU", "#222222", "-"),
    "SiLU": ("SiLU", "#56B4E9", "-"),
    "KAF_ELU": ("KAF initialised to ELU", "#CC79A7", "--"),
    "ResidualKAF": ("KAF now: x + KAF", "#0072B2", "-"),
}


def draw_growth(rows: list[dict[str, Any]]) -> Figure:
    """Predicted against measured growth: for normal inputs, from the actual inputs, and with their alignment."""
    figure = new_figure(12.0, 4.3)
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    titles = {"normal": "for inputs N(0, 1)", "predicted": "from the actual inputs", "aligned": "and alignment"}
    for axes, (key, title) in zip(panels, titles.items(), strict=True):
        wrong = []
        for (label, kind), color, marker in zip(KINDS.items(), COLORS, MARKERS, strict=False):
            these = [r for r in rows if (r["form"], r["norm"], r["skips"]) == kind and r[key] and r["growth"]]
            if these:
                x, y = np.array([[r[key], r["growth"]] for r in these]).T
                wrong += list(np.abs(x / y - 1))
                axes.plot(x, y, marker, color=color, markersize=4, alpha=0.7, label=label)
        axes.plot([0.6, 2.4], [0.6, 2.4], color=GREY, linewidth=1)
        axes.set_title(
            f"{title}\nmedian error {np.median(wrong):.1%}, 95 % below {np.quantile(wrong, 0.95):.0%}", fontsize=10
        )
        axes.set(xscale="log", yscale="log", xlim=(0.65, 2.3), ylim=(0.65, 2.3), xlabel="predicted growth per layer")
        ticks = [0.7, 0.8, 1, 1.2, 1.5, 2]
        axes.set_xticks(ticks, map(str, ticks))
        axes.set_yticks(ticks, map(str, ticks))
        axes.minorticks_off()
        open_frame(axes)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("measured growth per layer")
    panels[-1].legend(fontsize=8, frameon=False, loc="lower right")
    return figure


def draw_losses(runs: dict[str, dict[str, Any]]) -> Figure:
    """Training losses on clean images, one panel per depth, as running means."""
    clean = [r for r in runs.values() if r["objective"] == "StandardTraining" and r["precision"] == "32-true"]
    clean = [r for r in clean if "clip" not in r]
    depths = sorted({run["depth"] for run in clean})
    figure = new_figure(3.4 * len(depths), 3.4)
    panels = np.atleast_1d(figure.subplots(1, len(depths), sharey=True))
    for axes, depth in zip(panels, depths, strict=True):
        for name, look in LOOKS.items():
            for run in clean:
                if (run["depth"], run["activation"]) == (depth, name):
                    _loss(axes, run["losses"], look)
        axes.set_title(f"{depth} layers", fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.25)
        open_frame(axes)
        axes.legend(fontsize=7, frameon=False, loc="lower left")
    panels[0].set_ylabel(f"training loss, mean of {WINDOW} steps")
    return figure


def _loss(axes: Axes, losses: list[float | None], look: tuple[str, str, str]) -> None:
    values = np.array([np.nan if value is None else value for value in losses])
    mean = np.convolve(values, np.ones(WINDOW) / WINDOW, "valid")
    label, color, line = look
    axes.plot(np.arange(len(mean)) + WINDOW, mean, color=color, linestyle=line, linewidth=1.5, label=label)


def draw_norms(runs: dict[str, dict[str, Any]]) -> dict[str, Figure]:
    """The heat maps of KafResNet56 before and after, on the same colours."""
    shown = {"before": ("KAF-56", "KafResNet56, KAF as the thesis had it")}
    shown |= {"after": ("ResidualKAF-56", "KafResNet56, x + KAF")}
    limits = {}
    for key in ("gradients", "activations"):
        rows = [row for name, _ in shown.values() for row in runs[name]["rows"]]
        values = [value for row in rows for value in row[key].values() if value]
        limits[key] = (max(min(values), DARKEST), max(values))
    return {k: plot_layer_norms(runs[n]["rows"], title=title, limits=limits) for k, (n, title) in shown.items()}
