from kafnets.analysis import LearningRates
from kafnets.plots import plot_learning_rate_range

ROWS = [
    {"lr": 10.0**i, "loss": 2.0 + 10 ** (i + 2), "single_step_accuracy": 0.3, "pgd_accuracy": 0.2} for i in range(-4, 1)
]


def test_it_shows_loss_accuracies_range_and_collapse(is_drawn):
    figure = plot_learning_rate_range(ROWS, LearningRates(0.001, 0.1, 1.0), objective="MART")
    loss, accuracy = figure.axes
    labels = accuracy.get_legend_handles_labels()[1]
    assert labels == ["validation, PGD-10", "validation, FGSM", "suggested:\n0.001 to 0.1", "collapse\nfrom 1"]
    assert accuracy.get_lines()[0].get_ydata().tolist() == [20] * 5
    assert loss.get_yscale() == accuracy.get_xscale() == "log"
    assert is_drawn(figure)


def test_it_is_drawn_without_a_suggestion(is_drawn):
    for points in (ROWS[:2], []):
        assert is_drawn(plot_learning_rate_range(points, None, objective="MART"))
