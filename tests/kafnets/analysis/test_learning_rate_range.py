"""What a range test suggests, on curves drawn by hand."""

from functools import partial

import pytest

from kafnets.analysis import learning_rates as suggest

learning_rates = partial(suggest, chance=0.1)
RATES = [0.001 * 2**i for i in range(10)]
FALLING = [2.3, 2.3, 2.2, 2.1, 1.9, 1.8, 1.7, 1.75, 1.8, 2.2]
RISING = [0.1, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.32, 0.3, 0.2]


def rows(loss, pgd, single=None):
    values = zip(RATES, loss, pgd, single or pgd, strict=False)
    return [{"lr": a, "loss": b, "pgd_accuracy": c, "single_step_accuracy": d} for a, b, c, d in values]


def test_the_range_begins_where_the_loss_falls_and_ends_where_robust_accuracy_stops_rising():
    found = learning_rates(rows(FALLING, RISING))
    assert (found.minimum, found.maximum, found.collapse) == (RATES[2], RATES[6], None)


def test_a_plateau_of_the_loss_does_not_end_the_range():
    flat = [2.3, 2.2, 2.0, 1.9, 1.91, 1.92, 1.93, 1.93, 1.94, 2.0]
    assert learning_rates(rows(flat, RISING)).maximum == RATES[6]


def test_without_robust_accuracy_the_loss_is_read():
    assert learning_rates(rows(FALLING, [0.0, 0.01, *[0.0] * 8])).maximum == RATES[6]


def test_one_class_for_every_image_is_no_robust_accuracy():
    """A network that has died is right as often as chance under any attack, at the highest learning rates."""
    constant = [0.0, 0.0, 0.0, 0.01, 0.0, 0.02, 0.05, 0.1, 0.1, 0.1]
    assert learning_rates(rows(FALLING, constant)).maximum == RATES[6]


def test_a_collapse_that_the_loss_hides_ends_the_range():
    loss = [*FALLING[:6], 1.2, 0.8, 0.5, 0.4]
    pgd, single = [*RISING[:6], 0.2, 0.05, 0.0, 0.0], [*RISING[:6], 0.45, 0.7, 0.9, 0.9]
    found = learning_rates(rows(loss, pgd, single))
    assert found.collapse == RATES[6] and found.maximum == RATES[5]


def test_chance_after_the_peak_is_a_collapse_as_is_a_divergence():
    assert learning_rates(rows(FALLING, [*RISING[:9], 0.1])).collapse == RATES[9]
    assert learning_rates(rows(FALLING, RISING), diverged_at=0.7).collapse == 0.7


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ([], "needs 5 points before training collapses, got 0; it was run in no step"),
        (rows(FALLING[:4], RISING[:4]), "got 4; it was run between 0.001 and 0.008"),
        (rows([2.3] * 10, [0.1] * 10), "the loss falls nowhere between 0.001 and 0.512"),
        (rows([2.308, 2.316, 2.31, 2.313, 2.306, 2.316, 2.308, 2.305, 2.309, 2.33], [0.1] * 10), "more than it varies"),
    ],
)
def test_a_test_that_shows_nothing_says_so(points, says):
    with pytest.raises(ValueError, match=says):
        learning_rates(points)
