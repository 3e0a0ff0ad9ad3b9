"""Results per image: joining parts, storing and reading them."""

import json

import pytest
import torch

from kafnets.analysis.per_image_results import PerImageResults


def part(index, **columns):
    return PerImageResults(
        {"index": torch.tensor(index)} | {name: torch.tensor(values) for name, values in columns.items()}
    )


def test_joined_parts_equal_the_whole():
    whole = part([0, 1, 2, 3], clean=[True, False, True, True], gain=[0.5, 1.0, 2.0, 3.0])
    parts = [part([3, 1], clean=[True, False], gain=[3.0, 1.0]), part([2, 0], clean=[True, True], gain=[2.0, 0.5])]
    assert PerImageResults.join(parts).encode() == whole.encode()


def test_a_column_that_a_part_lacks_is_not_measured_there():
    joined = PerImageResults.join([part([0], clean=[True], more=[False]), part([1], clean=[False])])
    assert joined.encode() == {"index": [0, 1], "clean": "10", "more": "0-"}


def test_encoding_and_decoding_keep_the_values():
    values = [0.25, float("nan"), -3.5e-7, 1e30]
    before = part([5, 2, 9, 4], clean=[True, True, False, True], gain=values)
    after = PerImageResults.decode(json.loads(json.dumps(before.encode())))
    for name in before.columns:
        torch.testing.assert_close(after[name], before[name], rtol=1e-5, atol=0, equal_nan=True)


def test_the_worst_is_over_all_columns_of_the_prefixes():
    results = part([0, 1, 2], **{"white/a": [1, 1, 0], "white/b": [0, 1, 1], "black/c": [1, 0, 1]})
    assert results.worst("white").tolist() == [0, 1, 0]
    assert results.worst("white", "black").tolist() == [0, 0, 0]
    assert results.worst("noise").tolist() == [1, 1, 1]
    assert list(results.named("white")) == ["a", "b"]


def test_joining_nothing_is_empty():
    assert len(PerImageResults.join([])) == 0
    assert PerImageResults.join([PerImageResults.join([]), part([1], clean=[True])]).encode() == {
        "index": [1],
        "clean": "1",
    }


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: PerImageResults({"clean": torch.ones(2)}), "need a column 'index'"),
        (lambda: part([0, 1], clean=[True]), "one value for each of the 2 images"),
        (lambda: PerImageResults.join([part([0, 1]), part([1, 2])]), "measured twice: 4 images, 3 different"),
    ],
)
def test_bad_columns_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_an_attack_that_an_image_has_not_met_does_not_count():
    clean = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    about = {"index": torch.arange(3), "label": torch.zeros(3, dtype=torch.int64), "clean": clean}
    met = PerImageResults(about | {"white/PGD": clean * 0, "black/Square": clean})
    begun = PerImageResults(
        about | {"index": torch.arange(3, 6), "white/PGD": torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)}
    )
    assert PerImageResults.join([met, begun]).robust("white", "black").tolist() == [0, 0, 0, 1, 0, 0]
    assert PerImageResults(about).robust("white").tolist() == [1, 1, 0]
