"""Statistics over runs, against hand calculation and against the frequencies that they promise."""

import numpy as np
import pytest
import torch
from scipy.stats import t as student
from scipy.stats import ttest_1samp, ttest_ind

from kafnets.analysis.comparison import compare
from kafnets.analysis.over_runs import (
    MCNEMAR,
    accuracy_over_runs,
    holm,
    one_run_each,
    runs_alone,
    runs_and_images,
    spread,
)
from kafnets.metrics.wilson import wilson_interval

A, B = [0.40, 0.43, 0.41], [0.45, 0.44, 0.48, 0.46]


def test_a_spread_is_that_of_a_t_test():
    found, expected = spread(A), ttest_1samp(A, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    assert (found.mean, found.std) == pytest.approx((0.41333, 0.0152753), abs=1e-5)


def test_equal_runs_have_the_interval_of_one_run():
    """The images are a sample, so runs that agree don't make the interval shorter than Wilson's."""
    low, high = wilson_interval(300, 1000)
    unknown = accuracy_over_runs([0.3] * 3, 1000)
    assert (unknown.low, unknown.high) == pytest.approx((low, high), abs=1e-9)
    known = accuracy_over_runs([0.3] * 3, 1000, (torch.arange(1000) < 300).expand(3, 1000))
    assert (known.low, known.high) == pytest.approx((low, high), abs=1e-4)  # Var_i is over N - 1
    none = accuracy_over_runs([0.0] * 3, 1000, torch.zeros(3, 1000))
    assert (none.low, none.high) == pytest.approx(wilson_interval(0, 1000))


def test_the_interval_over_runs_and_images_by_hand():
    right = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])  # accuracies 3/4 and 1/2
    runs = (1 / 4) ** 2 / 2 / 2
    square = 2 * (3 * (1 / 8) ** 2 + (3 / 8) ** 2) / 3  # the third image deviates by 3/8, the others by 1/8
    residual = square / 2 / 4
    fixed = np.var([1, 1, 0.5, 0], ddof=1) / 4
    variance = max(runs, residual) + max(fixed - residual, 0)
    p, n = 5 / 8, 5 / 8 * 3 / 8 / variance
    t = student.ppf(0.975, variance**2 / runs**2)
    found = accuracy_over_runs([0.75, 0.5], 4, right)
    half = t * (p * (1 - p) / n + t**2 / (4 * n**2)) ** 0.5
    expected = ((p + t**2 / (2 * n) + sign * half) / (1 + t**2 / n) for sign in (-1, 1))
    assert (found.low, found.high) == pytest.approx(tuple(expected))


@pytest.mark.parametrize("known", [True, False])
def test_the_interval_over_runs_and_images_holds_as_often_as_it_says(known):
    """Runs of different quality on images of different difficulty; the accuracy on all images is 0.5."""
    random, held = np.random.default_rng(0), []
    for _ in range(300):
        hard, each = random.normal(0, 2, 400), random.normal(0, 0.1, (3, 1))
        right = hard + each + random.normal(0, 1, (3, 400)) > 0
        found = accuracy_over_runs(right.mean(1).tolist(), 400, torch.tensor(right) if known else None)
        held.append(found.low <= 0.5 <= found.high)
    assert np.mean(held) > 0.915  # 0.95 less 2.8 standard errors


def test_one_run_each_is_mcnemars_test():
    a, b = torch.tensor([1, 1, 1, 0]).bool(), torch.tensor([1, 0, 0, 0]).bool()
    found, expected = one_run_each(a, b), compare(a, b)
    assert (found.p_value, found.low, found.high) == (expected.p_value, expected.low, expected.high)
    assert found.test == MCNEMAR


def test_runs_alone_are_compared_by_welchs_test():
    found, expected = runs_alone(A, B), ttest_ind(A, B, equal_var=False)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_runs_without_any_spread_prove_nothing():
    found = runs_alone([0.4, 0.4], [0.5, 0.5])
    assert found.p_value == 1 and (found.low, found.high) == (-1, 1)


def test_the_mixed_test_by_hand():
    a = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]).bool()  # accuracies 3/4 and 1
    b = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0]]).bool()  # 1/4 and 1/2
    found = runs_and_images(a, b)
    runs = 2 * ((1 / 4) ** 2 / 2) / 2  # two groups: variance of the accuracies, over two runs
    # residuals of a: the last image deviates by 3/8, the others by 1/8; of b: the second by 3/8, the others by 1/8
    square = 2 * (3 * (1 / 8) ** 2 + (3 / 8) ** 2) / 3
    residual = 2 * (square / 2) / 4
    fixed = np.var([0, 0.5, 1, 0.5], ddof=1) / 4  # of the mean differences of the images
    variance = max(runs, residual) + max(fixed - residual, 0)
    freedom = variance**2 / (2 * (1 / 64) ** 2)  # each group: (variance / runs)^2 / (runs - 1)
    assert found.difference == 0.5
    assert found.p_value == pytest.approx(2 * student.sf(0.5 / variance**0.5, freedom))


def test_groups_without_variance_are_compared_as_single_networks():
    every, none = torch.ones(2, 8).bool(), torch.zeros(2, 8).bool()
    assert runs_and_images(every, every).p_value == 1
    found = runs_and_images(every, none)
    assert found.difference == 1 and found.p_value == pytest.approx(2 * 0.5**8)


@pytest.mark.parametrize(("runs", "images", "between"), [(3, 400, 0.0), (3, 400, 0.15)])
def test_the_mixed_test_rarely_finds_a_difference_that_is_not_there(runs, images, between):
    random = np.random.default_rng(0)

    def group(hard: np.ndarray) -> torch.Tensor:
        own, each = random.normal(0, 1, images), random.normal(0, between, (runs, 1))
        return torch.tensor(hard + own + each + random.normal(0, 1, (runs, images)) > 0.5)

    p_values = []
    for _ in range(300):
        hard = random.normal(0, 2, images)
        p_values.append(runs_and_images(group(hard), group(hard)).p_value)
    assert np.mean(np.array(p_values) < 0.05) < 0.085  # 0.05 and 2.8 standard errors


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [([], []), ([0.2], [0.2]), ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]), ([0.5, 0.6], [1.0, 1.0])],
)
def test_holms_correction(p_values, expected):
    assert holm(p_values) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: spread([0.4]), "two runs or more, got 1"),
        (lambda: accuracy_over_runs([0.4], 4), "two runs or more, got 1"),
        (lambda: accuracy_over_runs([0.4, 0.4], 5, torch.ones(2, 4)), r"right must be \(2, 5\).* got \(2, 4\)"),
        (lambda: runs_alone([0.4], [0.4, 0.5]), "got 1 and 2"),
        (lambda: runs_and_images(torch.ones(1, 4).bool(), torch.ones(2, 4).bool()), "got 1 and 2"),
        (lambda: runs_and_images(torch.ones(2, 4).bool(), torch.ones(2, 5).bool()), r"\(2, 4\), \(2, 5\)"),
    ],
)
def test_bad_input_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()
