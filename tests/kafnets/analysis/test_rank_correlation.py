"""Spearman's rank correlation and what is said about it."""

from math import atanh, inf, nan, sqrt, tanh

import pytest
from scipy.stats import spearmanr

from kafnets.analysis.activation_statistics import explained, explanation
from kafnets.analysis.rank_correlation import rank_correlation


def test_ties_and_infinite_values_are_ranked():
    first, second = [0.3, inf, inf, 0.1, 0.2, 7.0], [0.2, 0.9, 0.4, 0.4, 0.1, 0.8]
    found = rank_correlation(first, second)
    finite = [99.0 if value == inf else value for value in first]
    assert found.rho == pytest.approx(spearmanr(finite, second).statistic)
    reach = 1.959964 * sqrt((1 + found.rho**2 / 2) / 3)
    assert found.low == pytest.approx(tanh(atanh(found.rho) - reach))
    assert found.high == pytest.approx(tanh(atanh(found.rho) + reach))


def test_the_permutation_test_is_exact_for_few_and_close_for_more():
    five = rank_correlation([1, 2, 3, 4, 5], [5, 4, 3, 2, 1])
    assert five.rho == pytest.approx(-1) and five.p_value == pytest.approx(2 / 120)
    assert five.low == pytest.approx(-1) and five.high > -1  # an interval even where z is infinite
    first, second = list(range(20)), [2, 9, 1, 0, 8, 15, 3, 6, 4, 10, 5, 12, 7, 19, 11, 17, 13, 16, 14, 18]
    assert rank_correlation(first, second).p_value < 1e-3
    unrelated = [(7 * i) % 20 for i in range(20)]
    expected = spearmanr(first, unrelated).pvalue
    assert rank_correlation(first, unrelated).p_value == pytest.approx(expected, abs=0.02)


def test_what_cannot_be_ranked():
    assert rank_correlation([1, 2, 3, 4], [1, 2, 3, 4]) is None
    assert rank_correlation([1] * 6, [1, 2, 3, 4, 5, 6]) is None
    with pytest.raises(ValueError, match="NaN"):
        rank_correlation([1, 2, 3, 4, nan], [1, 2, 3, 4, 5])


def records(values):
    return [{"statistics": {"flat": value, "slope": 1.0, "outside": None}} for value in values]


def test_the_sentence_claims_what_the_corrected_test_finds():
    accuracies = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    apart = [(accuracy, accuracy + 0.05) for accuracy in accuracies]
    found = explained(records([6, 5, 4, 3, 2, 1]), accuracies)
    assert [each.name for each in found] == ["flat", "slope"] and found[1].found is None
    text = explanation(found, apart)
    assert text.startswith("Over 6 networks, 1 of 1 statistics go with robust accuracy") and "rho -1.00" in text
    found = explained(records([3, 6, 1, 2, 5, 4]), accuracies)
    text = explanation(found, apart)
    assert "none of the 1 statistics goes with robust accuracy" in text and "no cause" in text
    assert "little to explain" not in text and "little to explain" in explanation(found, [(0.1, 0.7)] * 6)
    assert "too few" in explanation(explained(records([1, 2]), [0.1, 0.2]), apart[:2])
