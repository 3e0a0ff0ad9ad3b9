"""Real handwritten digits that come with scikit-learn: nothing to download."""

import torch

from datamodules.base import ImageDataModule
from datamodules.image_tensors import ImageTensors
from datamodules.seeding import keyed_generator
from datamodules.splits import TEST_FRACTION, stratified_split


class Digits(ImageDataModule):
    """The 1797 grey 8 x 8 digits of ``sklearn.datasets.load_digits``: 1438 to train and validate, 359 to test.

    Their 17 grey levels are scaled to 0 .. 255. scikit-learn defines no test split; the one made here is stratified and
    does not depend on the seed.
    """

    num_classes, in_channels, image_size = 10, 1, 8

    def load(self) -> tuple[ImageTensors, ImageTensors]:
        """Return the training and the test digits.

        Raises:
            ModuleNotFoundError: if scikit-learn is not installed.
        """
        try:
            from sklearn.datasets import load_digits
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("Digits needs the package scikit-learn: pip install scikit-learn") from error
        digits = load_digits()
        images = (torch.from_numpy(digits.images) * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
        labels = torch.from_numpy(digits.target).long()
        rest, held_out = stratified_split(labels, TEST_FRACTION, keyed_generator("digits test set"))
        everything = ImageTensors(images, labels, tuple(str(name) for name in digits.target_names))
        return everything.subset(rest), everything.subset(held_out)
