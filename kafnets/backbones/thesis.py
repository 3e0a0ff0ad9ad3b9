"""Reads the weights that were published with the thesis into a KafResNet."""

import functools
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kafnets.activations import ELU, KAF, ReLU, SiLU
from kafnets.backbones.base import ActivationFactory
from kafnets.backbones.kafresnet import KafResNet

Arrays = dict[str, np.ndarray]
TAGS = ("__activation__", "__bn_eps__")
# The forms of chapter 4. A KAF that began as a ReLU, an ELU or a Swish is stored like any other.
FIXED: dict[str, ActivationFactory] = {"relu": ReLU, "elu": ELU, "swish": SiLU}
TRAINABLE = ("kaf", "kaf_relu", "kaf_elu", "kaf_swish", "kaf_free")


def _same(array: np.ndarray) -> np.ndarray:
    return array


def _oihw(hwio: np.ndarray) -> np.ndarray:
    return hwio.transpose(3, 2, 0, 1)


def _without_leading_one(array: np.ndarray) -> np.ndarray:
    return array[0] if array.shape[:1] == (1,) else array


# The tensors of each kind of layer: name in the file -> (name in PyTorch, conversion to PyTorch's axes).
LAYERS: dict[type[nn.Module], dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]]] = {
    nn.Conv2d: {"kernel": ("weight", _oihw), "bias": ("bias", _same)},
    nn.Linear: {"kernel": ("weight", np.transpose), "bias": ("bias", _same)},
    nn.BatchNorm2d: {
        "gamma": ("weight", _same),
        "beta": ("bias", _same),
        "mean": ("running_mean", _same),
        "var": ("running_var", _same),
    },
    KAF: {
        "mix": ("alpha", _same),
        "dict": ("dictionary", _without_leading_one),
        "bandwidth": ("bandwidth", _without_leading_one),
    },
}


def load_thesis(path: str | Path) -> KafResNet:
    """A ResNet20 trained by the author of the thesis, in eval mode on the CPU.

    The ``.npz`` holds ``conv1``, ``bn1``, ``act1``, ``block<stage>_<k>.{conv_a, bn_a, act_a, conv_b, conv_skip, bn_out,
    act_out}`` and ``fc``, each with ``kernel`` (HWIO, or in x out) and ``bias``, or ``gamma, beta, mean, var``, or
    ``mix`` (C, 20), ``dict`` (1, 20) or (C, 20) and ``bandwidth`` (1,) or (C,); ``__activation__`` ("relu", "elu",
    "swish" or "kaf"; a KAF may also be called "kaf_relu", "kaf_elu", "kaf_swish" or "kaf_free", which changes nothing)
    and ``__bn_eps__`` (1e-3). Dictionary and bandwidth per channel make a KAF that trains both (``free=True``).

    Args:
        path: the ``.npz`` file.

    Returns:
        A network for ``(N, 3, 32, 32)`` images in [0, 1], without normalisation, giving ``(N, 10)`` logits.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such archive, or a tensor is missing, unknown, of a wrong shape, not finite, or out of
            its range (variances, dictionaries, bandwidths).

    Paper:
        F. Peconi (2020), thesis on trainable activations and adversarial robustness, chapter 4.
    """
    arrays = _read(Path(path))
    net = KafResNet(depth=20, activation=_activation(path, arrays))
    _check_eps(path, arrays)
    places = dict(_places(net))
    _check_keys(path, set(places), set(arrays) - set(TAGS))
    state = net.state_dict()
    for key, (name, axes) in places.items():
        state[name] = _tensor(path, key, arrays[key], axes, state[name])
    try:
        net.load_state_dict(state)
    except RuntimeError as error:  # a dictionary or a bandwidth that no KAF has
        raise ValueError(f"{path} holds no thesis ResNet20: {' '.join(str(error).split())}") from None
    return net.eval()


def _read(path: Path) -> Arrays:
    if not path.is_file():
        raise FileNotFoundError(f"there is no weight file {path}; give the path of a thesis .npz, e.g. kaf.npz")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is no readable .npz archive ({error}); fetch it again") from error


def _activation(path: str | Path, arrays: Arrays) -> ActivationFactory:
    tag = str(arrays.get("__activation__"))
    if tag not in (*FIXED, *TRAINABLE):
        known = ", ".join((*FIXED, *TRAINABLE))
        raise ValueError(f"{path} needs __activation__ to be one of {known}, got {tag!r}; is it a thesis .npz?")
    return FIXED.get(tag) or functools.partial(KAF, free=_is_free(arrays))


def _is_free(arrays: Arrays) -> bool:
    return arrays.get("act1.dict", np.zeros((1, 20))).shape[:1] not in ((), (1,))


def _check_eps(path: str | Path, arrays: Arrays) -> None:
    eps = arrays.get("__bn_eps__", np.array(np.nan))
    if eps.shape != () or not np.issubdtype(eps.dtype, np.floating) or not np.isclose(eps, 1e-3):
        raise ValueError(f"{path} needs __bn_eps__ 1e-3, the value of KafResNet, got {eps}")


def _places(net: nn.Module) -> Iterator[tuple[str, tuple[str, Callable[[np.ndarray], np.ndarray]]]]:
    for prefix, module in net.named_modules():
        for kind, names in LAYERS.items():
            if isinstance(module, kind):
                for theirs, (ours, axes) in names.items():
                    yield f"{prefix}.{theirs}", (f"{prefix}.{ours}", axes)


def _check_keys(path: str | Path, expected: set[str], given: set[str]) -> None:
    for verb, keys in (("lacks", expected - given), ("has unknown", given - expected)):
        if keys:
            first = ", ".join(sorted(keys)[:3])
            raise ValueError(f"{path} {verb} {len(keys)} of the {len(expected)} tensors of a thesis ResNet20: {first}")


def _tensor(
    path: str | Path, key: str, array: np.ndarray, axes: Callable[[np.ndarray], np.ndarray], like: Tensor
) -> Tensor:
    largest = np.finfo(np.float32).max
    if not np.issubdtype(array.dtype, np.floating) or not (np.abs(array) <= largest).all():  # false for NaN
        raise ValueError(f"{path}: {key} must hold finite floating point numbers; fetch the file again")
    if key.endswith(".var") and (array < 0).any():
        raise ValueError(f"{path}: {key} must hold variances >= 0, got {array.min():g}; fetch the file again")
    value = axes(array) if array.ndim == like.ndim or axes is _without_leading_one else array
    if value.shape != like.shape:
        raise ValueError(f"{path}: {key} has shape {array.shape}, which does not fit {tuple(like.shape)} in PyTorch")
    return torch.from_numpy(np.array(value, dtype=np.float32))
