"""The inspection as one HTML page, which needs no network and no other file."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

from kafnets.analysis.activation_statistics import STATISTICS, Explained
from kafnets.plots.marks import marks
from lightning_modules.inspection.figures import DISTANCES, FEWEST, FLATNESS, LOSS, ROBUSTNESS, SHAPES, SMOOTHNESS
from lightning_modules.pages import Picture, figure_element, swatch, whole_page

Record = Mapping[str, Any]

INTRODUCTIONS = {
    DISTANCES: "A pre-activation is the input of an activation layer. If an attack hardly changes it, the layer hides "
    "the attack from the layers behind.",
    SHAPES: "One panel per layer. Grey: where the inputs of the activation lie for clean images; red: for attacked "
    "ones. Where the red line follows the grey area, the attack moves single values without changing how all values "
    "are distributed. Blue: the activation itself.",
    SMOOTHNESS: "A steep activation stretches a perturbation; a curved one makes the gradient at an image a worse "
    "guide to what happens nearby.",
    FLATNESS: "Parts of the network that pass no gradient, for training or for an attacker.",
    LOSS: "Whether the network is locally linear, or only looks robust because its gradients mislead.",
    ROBUSTNESS: "Each number that describes a network above, against its robust accuracy.",
}


def page(record: Record, drawn: Sequence[Picture], found: Sequence[Explained]) -> str:
    """Return the page.

    Args:
        record: the content of ``inspect.json``.
        drawn: the pictures, in the order of the page.
        found: how the statistics go with robust accuracy.
    """
    networks = record["networks"]
    return whole_page(
        title=f"Activations of {_listed([each['label'] for each in networks])}",
        facts=f"{record['data']} · {record['images']} test images · {record['attack']}",
        statements=statements(record),
        notes=notes(record),
        sections=[_summary(record), *_sections(record, drawn, found), _method(record)],
    )


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels) if len(labels) <= 3 else f"{len(labels)} networks"


def statements(record: Record) -> list[str]:
    """The sentences at the top: what the attack does to the last layer, and what goes with robustness."""
    networks = record["networks"]
    shifts = [100 * each["statistics"]["density_shift"] for each in networks]
    densities = (
        f"The densities of clean and attacked pre-activations differ by {_range(shifts, '.1f')} % (half the area "
        "between them, mean of the layers)."
    )
    if len(networks) <= 3:
        moved = "; ".join(f"{each['label']} by {_moved([each])}" for each in networks)
    else:
        moved = f"by {_moved(networks)}"
    found = [f"The attack moves the pre-activations of the last layer: {moved}. {densities}"]
    return [*found, record["explanation"]] if len(networks) >= FEWEST else found


def _moved(networks: Sequence[Record]) -> str:
    found = [[*map(float, each["layers"][-1]["distances"]["attacked"]["relative"])] for each in networks]
    text = f"{_range([100 * mean for mean, _, _ in found])} % of their size"
    if len(found) == 1:
        text += f" [{100 * found[0][1]:.0f}, {100 * found[0][2]:.0f}]"
    times = [each["statistics"]["beyond_noise"] for each in networks]
    known = [float(each) for each in times if each is not None]
    return text + (f", {_range(known)} times as far as random noise of the same size" if known else "")


def _range(values: Sequence[float], text: str = ".0f") -> str:
    low, high = (format(value, text) for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def notes(record: Record) -> list[str]:
    """What a reader must know before reading figures."""
    found = []
    for each in record["networks"]:
        if undefined := each["alignment"]["undefined"]:
            found.append(
                f"{each['label']}: the gradient is exactly zero at {undefined} of {each['images']} images, so the "
                "attack cannot move them and their distances are those of its random start."
            )
    return found


def _sections(record: Record, drawn: Sequence[Picture], found: Sequence[Explained]) -> list[str]:
    sections = []
    for name, pictures in groupby(drawn, lambda picture: picture.section):
        body = "".join(map(figure_element, pictures))
        above = f'<p class="small">{escape(INTRODUCTIONS[name])}</p>'
        below = ""
        if name == ROBUSTNESS:
            above += f'<p class="small">Robust accuracy: {escape(record["robust_accuracy"]["measured"])}.</p>'
            below = _correlations(found)
        sections.append(f"<section><h2>{escape(name)}</h2>{above}{body}{below}</section>")
    return sections


def _summary(record: Record) -> str:
    networks = record["networks"]
    looks, _ = marks([each["shown_axes"] for each in networks], [each["label"] for each in networks])
    columns = [column for column in _columns() if any(column[2](each) for each in networks)]
    head = "".join(f"<th>{escape(title)}<small>{escape(unit)}</small></th>" for title, unit, _ in columns)
    rows = "".join(
        f'<tr><td class="swatch">{swatch(mark)}</td><td class="text name">{escape(each["label"])}</td>'
        + "".join(f"<td>{escape(show(each))}</td>" for _, _, show in columns)
        + "</tr>\n"
        for each, mark in zip(networks, looks, strict=True)
    )
    foot = (
        "Attacked: under the attack of this page, whose images all take every step; the worst case of many attacks is "
        "lower, and is shown where a full evaluation has measured it. Intervals are 95 %."
    )
    return (
        f'<section><h2>In one table</h2><div class="wide"><table><thead><tr><th></th><th class="text name">network</th>'
        f'{head}</tr></thead><tbody>{rows}</tbody></table></div><p class="foot">{escape(foot)}</p></section>'
    )


def _columns() -> list[tuple[str, str, Callable[[Record], str]]]:
    def accuracy(of: Callable[[Record], Record | None]) -> Callable[[Record], str]:
        def show(each: Record) -> str:
            found = of(each)
            if not found:
                return ""
            low, high = 100 * found["wilson95_low"], 100 * found["wilson95_high"]
            return f"{100 * found['accuracy']:.1f} [{low:.1f}, {high:.1f}]"

        return show

    def number(name: str, text: str, scale: float = 1.0) -> Callable[[Record], str]:
        def show(each: Record) -> str:
            value = each["statistics"][name]
            return "" if value is None else "∞" if value == "inf" else format(scale * value, text)

        return show

    return [
        ("clean", "% right", accuracy(lambda each: each["clean"])),
        ("attacked", "% right", accuracy(lambda each: each["attacked"])),
        ("worst case", "% right", accuracy(lambda each: (each["full_evaluation"] or {}).get("worst_case"))),
        ("distance", "last layer, %", number("relative_last", ".1f", 100)),
        ("density shift", "mean, %", number("density_shift", ".1f", 100)),
        ("max |f'|", "bound", number("slope", ".2f")),
        ("max |f''|", "bound", number("curvature", ".2f")),
        ("E f''²", "mean", number("squared_curvature", ".2f")),
        ("flat", "% of inputs", number("flat", ".1f", 100)),
        ("drift", "mean", number("drift", ".2f")),
        ("alignment", "mean cosine", number("alignment", ".3f")),
    ]


def _correlations(found: Sequence[Explained]) -> str:
    rows = []
    for each in found:
        if each.found and each.adjusted is not None:
            cells = [
                f"{each.found.rho:+.2f}", f"[{each.found.low:+.2f}, {each.found.high:+.2f}]",
                f"{each.found.p_value:.2g}", f"{each.adjusted:.2g}", str(each.found.pairs),
            ]  # fmt: skip
        else:
            cells = ["", "", "", "", str(len(each.values))]
        shown = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        rows.append(f'<tr><td class="text">{escape(STATISTICS[each.name].title)}</td>{shown}</tr>\n')
    heads = ("rho", "95 %", "p", "p, corrected", "networks")
    head = "".join(f"<th>{name}</th>" for name in heads)
    return (
        '<details><summary>As a table</summary><div class="wide"><table><thead><tr><th class="text">statistic</th>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _method(record: Record) -> str:
    network = record["networks"][0]
    settings = ", ".join(f"{name}={value}" for name, value in network["attack"].items())
    lines = [
        f"Data: the first {record['images']} test images of {record['data']}, a fair sample of all of them.",
        f"Attack: {settings}. Every image takes all steps, also one that is misclassified earlier: otherwise the "
        "images of a robust network would be attacked for longer and move farther.",
        "Noise: one step of size eps in a random direction (in Linf every value by eps, up or down), kept in [0, 1].",
        "Networks are measured in evaluation mode and in float32; all inputs of a layer count, all channels together.",
        "Everything as numbers: inspect.json.",
    ]
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    sources = "".join(f"<li>{escape(each['label'])}: {escape(each['checkpoint'])}</li>" for each in record["networks"])
    return (
        f'<section><h2>How it was measured</h2><ul class="small">{items}</ul><details>'
        f"<summary>The checkpoints</summary><ul>{sources}</ul></details></section>"
    )
