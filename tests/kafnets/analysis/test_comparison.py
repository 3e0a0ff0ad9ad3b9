"""Paired comparisons against independent formulas."""

import pytest
import torch
from scipy.stats import binomtest

from kafnets.analysis.comparison import compare, mcnemar


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (5, 5), (9, 1), (1, 9), (40, 61)])
def test_mcnemar_is_the_exact_binomial_test(only_a, only_b):
    expected = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert mcnemar(only_a, only_b) == pytest.approx(expected)


def test_a_comparison_counts_image_by_image():
    a = torch.tensor([1, 1, 1, 1, 0, 0]).bool()
    b = torch.tensor([1, 0, 0, 0, 1, 0]).bool()
    found = compare(a, b)
    assert (found.a, found.b, found.only_a, found.only_b) == (4 / 6, 2 / 6, 3, 1)
    assert found.difference == pytest.approx(1 / 3)
    assert found.p_value == pytest.approx(binomtest(3, 4).pvalue)
    swapped = compare(b, a)
    assert (swapped.difference, swapped.low, swapped.high) == pytest.approx((-1 / 3, -found.high, -found.low))


def test_the_interval_covers_the_true_difference():
    generator = torch.Generator().manual_seed(0)
    samples = torch.multinomial(torch.tensor([0.3, 0.12, 0.05, 0.53]), 400 * 100, True, generator=generator)
    covered = 0
    for sample in samples.reshape(400, 100):  # 0 both right, 1 only a, 2 only b, 3 both wrong
        found = compare(sample <= 1, (sample == 0) | (sample == 2))
        covered += found.low <= 0.07 <= found.high
    assert 0.92 <= covered / 400 <= 0.99


def test_equal_results_do_not_differ():
    right = torch.rand(1000) < 0.4
    found = compare(right, right)
    assert found.difference == 0 and found.p_value == 1 and found.low < 0 < found.high < 0.01


def test_the_text_of_a_comparison():
    text = str(compare(torch.tensor([True, True]), torch.tensor([True, False])))
    assert text.startswith("100.0 % against 50.0 % on the same 2 images: difference +50.0 points")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: compare(torch.ones(2).bool(), torch.ones(3).bool()), r"\(2,\), \(3,\)"),
        (lambda: compare(torch.ones(0).bool(), torch.ones(0).bool()), "N >= 1"),
        (lambda: compare(torch.ones(2).bool(), torch.ones(2).bool(), confidence=95), "confidence must lie in"),
        (lambda: mcnemar(-1, 2), "must be >= 0, got -1 and 2"),
    ],
)
def test_bad_input_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()
