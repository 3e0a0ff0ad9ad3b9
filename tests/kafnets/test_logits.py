import pytest
import torch

from kafnets.logits import check_logits, is_correct

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("row", "label", "right"),
    [
        ([0.0, 1.0, -1.0], 1, True),
        ([0.0, 1.0, -1.0], 0, False),
        ([0.0, NAN, -1.0], 0, False),
        ([0.0, NAN, -1.0], 1, False),
        ([0.0, INF, -1.0], 1, False),
        ([0.0, -INF, -1.0], 0, False),
        ([NAN, NAN, NAN], 0, False),
    ],
)
def test_is_correct(row, label, right):
    assert is_correct(torch.tensor([row]), torch.tensor([label])).tolist() == [right]


def test_is_correct_of_an_empty_batch():
    assert is_correct(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)).shape == (0,)


@pytest.mark.parametrize("labels", [[0, 2], [1, 1]])
def test_fitting_labels_pass(labels):
    check_logits(torch.zeros(2, 3), torch.tensor(labels))
    check_logits(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(2), [0, 0], r"must return logits \(2, classes\), got shape \(2,\)"),
        (torch.zeros(3, 3), [0, 0], r"must return logits \(2, classes\), got shape \(3, 3\)"),
        (torch.zeros(2, 3, 1), [0, 0], r"got shape \(2, 3, 1\)"),
        (torch.zeros(2, 3), [0, 3], r"labels must lie in \[0, 2\] for 3 classes, got 0 to 3"),
        (torch.zeros(2, 3), [-1, 2], r"labels must lie in \[0, 2\] for 3 classes, got -1 to 2"),
    ],
)
def test_logits_and_labels_that_do_not_fit_are_refused(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        check_logits(logits, torch.tensor(labels))
