import sys

import pytest
import torch
from sklearn.datasets import load_digits

from datamodules import Digits


def test_digits_are_those_of_scikit_learn():
    data = Digits()
    data.setup()
    sizes = [len(part) for part in (data.train_set, data.val_set, data.test_set)]
    assert sizes == [1294, 144, 359]
    assert data.class_names == tuple("0123456789")
    images = torch.cat([part.images for part in (data.train_set, data.val_set, data.test_set)])
    assert images.shape[1:] == (data.in_channels, data.image_size, data.image_size)
    original = torch.from_numpy(load_digits().images)
    assert int(images.min()) == 0
    assert int(images.max()) == 255
    ours = (images.double() * 16 / 255).round().flatten(1)
    assert torch.equal(ours.sum(1).sort().values, original.flatten(1).sum(1).sort().values)


def test_the_test_digits_do_not_depend_on_the_seed():
    first, second = Digits(seed=0), Digits(seed=1)
    first.setup()
    second.setup()
    assert torch.equal(first.test_set.images, second.test_set.images)
    assert not torch.equal(first.val_set.images, second.val_set.images)


def test_without_scikit_learn_only_loading_fails(monkeypatch):
    for name in ("sklearn", "sklearn.datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    data = Digits()
    with pytest.raises(ModuleNotFoundError, match="Digits needs the package scikit-learn: pip install scikit-learn"):
        data.setup()
