"""Clean images, perturbations and adversarial images, side by side."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from kafnets.plots.style import INK, VERMILION

# Per image: clean and adversarial image (both C x H x W in [0, 1]), and the true class, the class predicted for the
# clean image and the class predicted for the adversarial one.
Sheet = list[tuple[Tensor, Tensor, tuple[int, int, int]]]


def draw_sheet(figure: SubFigure | Figure, sheet: Sheet, class_names: Sequence[str]) -> None:
    """Draw one column per image: the clean image, the perturbation and the adversarial image.

    The perturbation is scaled to the full range; grey is no change. Its title is the true class, those of the images
    are the predicted classes, red if wrong.

    Args:
        figure: the figure to draw in.
        sheet: at least one image.
        class_names: the name of each class; others are shown by number.
    """
    panels = figure.subplots(3, len(sheet), squeeze=False)
    for column, (clean, adversarial, classes) in enumerate(sheet):
        delta = adversarial - clean
        scaled = 0.5 + 0.5 * delta / max(float(delta.abs().max()), 1e-12)
        label, before, after = (class_names[i] if i < len(class_names) else str(i) for i in classes)
        for row, (image, text) in enumerate(((clean, before), (scaled, f"true: {label}"), (adversarial, after))):
            axes = panels[row, column]
            axes.imshow(_pixels(image), vmin=0, vmax=1, cmap="gray", interpolation="nearest")
            axes.set_title(text, fontsize=8, color=VERMILION if text != label and row != 1 else INK)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
    for row, text in enumerate(("clean", "perturbation", "adversarial")):
        panels[row, 0].set_ylabel(text, fontsize=9)


def _pixels(image: Tensor) -> np.ndarray:
    """``(H, W, 3)`` of an image with three channels, otherwise ``(H, W)`` of the first channel."""
    channels = image.clamp(0, 1).permute(1, 2, 0).numpy()
    return channels if channels.shape[2] == 3 else channels[..., 0]
