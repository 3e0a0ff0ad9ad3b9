"""Pictures of what training and analysis return, one function each; needs matplotlib. The caller saves the figures."""

from kafnets.plots.activations import plot_activations
from kafnets.plots.curves import plot_curves
from kafnets.plots.image_sheet import Sheet
from kafnets.plots.layer_norms import plot_layer_norms
from kafnets.plots.learning_rate_range import plot_learning_rate_range
from kafnets.plots.robustness import plot_robustness

__all__ = [
    "Sheet",
    "plot_activations",
    "plot_curves",
    "plot_layer_norms",
    "plot_learning_rate_range",
    "plot_robustness",
]
