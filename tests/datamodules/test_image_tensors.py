import pytest
import torch

from datamodules import ImageTensors

IMAGES = torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1, 1).expand(4, 3, 2, 2)
LABELS = torch.tensor([0, 1, 1, 0])


def test_a_batch_is_images_labels_and_positions():
    images, labels, indices = ImageTensors(IMAGES, LABELS, ("a", "b"))[torch.tensor([3, 1])]
    assert images.dtype == torch.uint8
    assert images.shape == (2, 3, 2, 2)
    assert images[:, 0, 0, 0].tolist() == indices.tolist() == [3, 1]
    assert labels.tolist() == [0, 1]
    assert labels.dtype == indices.dtype == torch.int64


def test_subset_keeps_the_order_asked_for():
    part = ImageTensors(IMAGES, LABELS, ("a", "b")).subset(torch.tensor([2, 0]))
    assert part.images[:, 0, 0, 0].tolist() == [2, 0]
    assert part.labels.tolist() == [1, 0]
    assert part.class_names == ("a", "b")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES.float(), LABELS, "images must be uint8"),
        (IMAGES[0], LABELS, "images must be uint8"),
        (IMAGES, LABELS[:3], "labels must be int64"),
        (IMAGES, LABELS.int(), "labels must be int64"),
        (IMAGES, LABELS + 1, r"labels must lie in \[0, 2\).* got 1 to 2"),
        (IMAGES[:0], LABELS[:0], "there is no image"),
    ],
)
def test_invalid_images_and_labels_are_refused(images, labels, message):
    with pytest.raises(ValueError, match=message):
        ImageTensors(images, labels, ("a", "b"))
