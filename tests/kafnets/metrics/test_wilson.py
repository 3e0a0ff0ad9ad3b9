import math

import pytest

from kafnets.metrics import wilson_interval

Z = 1.959963984540054


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
    ],
)
def test_published_values(successes, total, low, high):
    assert wilson_interval(successes, total) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("successes", "total"), [(0, 1), (1, 1), (3, 7), (499, 1000), (9999, 10000)])
def test_bounds_solve_the_score_equation(successes, total):
    for bound in wilson_interval(successes, total):
        p = successes / total
        assert abs(p - bound) == pytest.approx(Z * math.sqrt(bound * (1 - bound) / total), abs=1e-9)


@pytest.mark.parametrize("total", range(1, 200, 13))
def test_the_interval_contains_the_share_and_lies_in_0_1(total):
    for successes in range(total + 1):
        low, high = wilson_interval(successes, total)
        assert 0 <= low <= successes / total <= high <= 1
        mirrored = wilson_interval(total - successes, total)
        assert (low, high) == pytest.approx((1 - mirrored[1], 1 - mirrored[0]))


def test_more_confidence_is_wider_and_more_images_narrower():
    widths = [high - low for low, high in (wilson_interval(4, 10, c) for c in (0.5, 0.9, 0.95, 0.99))]
    assert widths == sorted(widths)
    widths = [high - low for low, high in (wilson_interval(4 * n, 10 * n) for n in (1, 10, 100))]
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize("total", [1, 40, 79, 144, 157])
def test_ends_are_exact(total):
    assert wilson_interval(0, total)[0] == 0.0
    assert wilson_interval(total, total)[1] == 1.0


def test_no_trials_give_the_whole_interval():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((-1, 10), "successes"), ((11, 10), "successes"), ((1, 10, 0.0), "confidence"), ((1, 10, 1.0), "confidence")],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=f"{message} must lie in"):
        wilson_interval(*arguments)
