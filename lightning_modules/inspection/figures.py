"""The pictures of an inspection."""

from collections.abc import Iterator, Mapping, Sequence
from math import nan
from typing import Any

from kafnets.analysis.activation_statistics import Explained, beyond_noise
from kafnets.analysis.smoothness import BAND
from kafnets.plots.loss_surface import plot_alignment, plot_loss_surfaces
from kafnets.plots.marks import Legends, Mark, marks
from kafnets.plots.over_layers import Line, Panel, plot_over_layers
from kafnets.plots.pre_activations import plot_pre_activations
from kafnets.plots.rank_correlations import plot_against_robustness, plot_rank_correlations
from lightning_modules.pages import Picture, lay_out

LAYERS = 12  # the most that are drawn of a network's densities
FEWEST = 5  # networks for the section on robustness
DISTANCES, SHAPES, SMOOTHNESS, FLATNESS, LOSS, ROBUSTNESS = (
    "How far the attack moves the pre-activations",
    "Pre-activations and the shapes of the activations",
    "Slope and curvature",
    "Flat parts, dead channels, and the end of the dictionary",
    "The loss around the images",
    "Do the activations explain robustness?",
)

Record = Mapping[str, Any]


def pictures(record: Record, found: Sequence[Explained]) -> list[Picture]:
    """Draw an inspection, in the order of the page.

    Args:
        record: the content of ``inspect.json``.
        found: how the statistics go with robust accuracy.
    """
    networks = record["networks"]
    looks = marks([each["shown_axes"] for each in networks], [each["label"] for each in networks])
    drawn = [
        _distances(networks, *looks), *_shapes(networks), _smoothness(networks, *looks),
        _flatness(networks, *looks), *_loss(networks, looks[0]), *_robustness(networks, found),
    ]  # fmt: skip
    return lay_out(drawn)


def _names(networks: Sequence[Record]) -> list[str]:
    """The names of the layers; empty if the networks have different ones."""
    names = [[layer["name"] for layer in each["layers"]] for each in networks]
    return names[0] if all(each == names[0] for each in names) else []


def _lines(networks: Sequence[Record], looks: Sequence[Mark], value: Any) -> list[Line]:
    """One line per network; ``value`` of a layer is a number, ``"inf"``, None, or a mean with its interval."""
    lines = []
    for network, mark in zip(networks, looks, strict=True):
        values = [value(layer) for layer in network["layers"]]
        if isinstance(values[0], list):
            columns = [[float(row[i]) for row in values] for i in range(3)]
            lines.append(Line(mark, *columns))
        elif any(each is not None for each in values):
            lines.append(Line(mark, [nan if each is None else float(each) for each in values]))
    return lines


def _distances(networks: Sequence[Record], looks: Sequence[Mark], legends: Legends) -> Picture:
    def of(name: str) -> list[Line]:
        return _lines(networks, looks, lambda layer: layer["distances"]["attacked"][name])

    panels = [
        Panel("relative distance, |attacked - clean| / |clean|", of("relative")),
        Panel("angle between clean and attacked, degrees", of("angle")),
        Panel("L2 distance", of("l2"), log=True),
        Panel("attack / random noise of the same size", _lines(networks, looks, beyond_noise)),
    ]
    caption = (
        "Mean over the images of the distance between an image's pre-activations and those of its attacked form, layer "
        "by layer from input to output; bands are 95 % intervals over the images. A line that rises says that each "
        "layer amplifies the attack. L2 depends on the width and the scale of a layer, the relative distance and the "
        "angle do not. Last panel: how many times farther the attack moves the pre-activations than a random step of "
        "the same size; 1 means that the layer cannot tell an attack from noise."
    )
    return Picture("distances", plot_over_layers(panels, _names(networks), legends), caption, DISTANCES)


def _shapes(networks: Sequence[Record]) -> Iterator[Picture]:
    for i, network in enumerate(networks):
        layers = network["layers"]
        if len(layers) > LAYERS:
            chosen = [round(k * (len(layers) - 1) / (LAYERS - 1)) for k in range(LAYERS)]
            layers = [layers[k] for k in chosen]
        more = len(network["layers"]) - len(layers)
        drifts = [f"{layer['name']} {layer['drift']:.2g}" for layer in layers if layer["drift"] is not None]
        parts = [
            f"{more} more layers are in inspect.json." if more else "",
            f"Drift from the start, root mean square over the inputs: {', '.join(drifts)}." if drifts else "",
            _unknown_start(network),
        ]
        caption = " ".join(part for part in parts if part)
        figure = plot_pre_activations(layers, network["label"])
        yield Picture(f"pre_activations_{i + 1:02d}", figure, caption, SHAPES)


def _unknown_start(network: Record) -> str:
    if not network["trainable"]:
        return "These activations have nothing to learn."
    started = any(layer["drift"] is not None for layer in network["layers"])
    return "" if started else "The activations began at random, so their start is not known."


def _smoothness(networks: Sequence[Record], looks: Sequence[Mark], legends: Legends) -> Picture:
    def of(name: str) -> list[Line]:
        return _lines(networks, looks, lambda layer: layer[name])

    panels = [
        Panel("largest slope, max |f'|", of("slope")),
        Panel("E f'², over the inputs", of("squared_slope")),
        Panel("largest curvature, max |f''|", of("curvature"), log=True, band=BAND),
        Panel("E f''², over the inputs", of("squared_curvature"), log=True),
    ]
    caption = (
        "Left: upper bounds that are never below the truth, over the range of the inputs and over all channels. Right: "
        "means under the measured density, so that a steep or bent part counts only if inputs lie there. Markers at "
        "the upper edge are infinite: a kink, as a ReLU has at 0. Grey: the band from 4 to 10 in which arXiv "
        "2603.23860 finds the best robustness. k-WTA has no slope of one value and is left out."
    )
    return Picture("smoothness", plot_over_layers(panels, _names(networks), legends), caption, SMOOTHNESS)


def _flatness(networks: Sequence[Record], looks: Sequence[Mark], legends: Legends) -> Picture:
    def per_cent(value: Any) -> list[Line]:
        return _lines(networks, looks, lambda layer: None if value(layer) is None else 100 * value(layer))

    panels = [
        Panel("inputs on flat parts, |f'| <= 0.01, %", per_cent(lambda layer: layer["flat"])),
        Panel("dead channels, %", per_cent(lambda layer: layer["dead"])),
        Panel("inputs outside the dictionary, %", per_cent(lambda layer: layer["outside"].get("clean"))),
    ]
    caption = (
        "On clean images. No gradient passes where an activation is flat; a channel is dead if all of its inputs are "
        "there. Outside its dictionary a kernel activation falls to zero; other activations have none."
    )
    return Picture("flatness", plot_over_layers(panels, _names(networks), legends), caption, FLATNESS)


def _loss(networks: Sequence[Record], looks: Sequence[Mark]) -> Iterator[Picture]:
    labels = [each["label"] for each in networks]
    surfaces = [each["surface"] for each in networks]
    caption = (
        f"Mean cross-entropy of {surfaces[0]['images']} images that are moved along the direction of the gradient (in "
        "Linf its sign) and along a random direction, both in steps of eps; the dot is the image itself. Lines that "
        "are straight, upright and evenly spaced mean a loss that is nearly linear, as adversarial training makes it. "
        "Curved lines mean that one step of the gradient does not find the worst image."
    )
    yield Picture("loss_surface", plot_loss_surfaces(surfaces, labels), caption, LOSS)
    values = [each["alignment"]["values"] for each in networks]
    caption = (
        "Gradient alignment: the cosine between the gradients of the loss at an image and at a random point of the "
        "ball around it. Stroke: median; bar: half of the images; line: 90 %. Near 1 the loss is linear in the ball; "
        "near 0 an attack by a single step is blind, as after catastrophic overfitting."
    )
    yield Picture("alignment", plot_alignment(values, labels, [mark.color for mark in looks]), caption, LOSS)


def _robustness(networks: Sequence[Record], found: Sequence[Explained]) -> Iterator[Picture]:
    shown = [each for each in found if each.found]
    if len(networks) < FEWEST or not shown:
        return
    caption = (
        "Spearman's rank correlation with robust accuracy and its 95 % interval (Fisher's z with Bonett and Wright's "
        "variance). Blue: the permutation test, corrected by Holm for the number of statistics, finds it beyond chance."
    )
    yield Picture("rank_correlations", plot_rank_correlations(shown), caption, ROBUSTNESS)
    caption = "The same figures: one point per network. A triangle at the right edge is an infinite value."
    yield Picture("against_robustness", plot_against_robustness(shown), caption, ROBUSTNESS)
