"""A network as an ONNX file."""

import importlib.util
import warnings
from pathlib import Path

import torch

from kafnets.backbones import Backbone

NEEDED = ("onnx", "onnxscript", "onnxruntime")
IMAGES = 16  # compared with PyTorch
TOLERANCE = 1e-2  # of the largest logit; k-WTA may let another unit of nearly the same value win


def check_onnx_installed() -> None:
    """Raise ``ValueError`` if a package that :func:`write_onnx` needs is not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"ONNX needs {', '.join(missing)}: pip install 'kafnets[export]'")


def write_onnx(net: Backbone, path: Path) -> float:
    """Write a network as one ONNX file, and run it in onnxruntime on random images.

    The file consists of standard operators: activations are written by their plain formulas. Its input ``images`` is
    float32 ``(N, in_channels, image_size, image_size)`` in [0, 1] with any N >= 1, its output ``logits`` is
    ``(N, num_classes)``.

    Args:
        net: the network on the CPU, in evaluation mode.
        path: the file, in a folder that exists.

    Returns:
        The largest absolute difference to PyTorch's logits, over 16 images with uniform random pixels.

    Raises:
        ValueError: if a package is missing (:func:`check_onnx_installed`), or the file computes other logits: a
            difference of more than 1 % of the largest logit.
    """
    check_onnx_installed()
    size = (net.in_channels, net.image_size, net.image_size)
    batch = ({0: torch.export.Dim("batch")},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter's own parts
        torch.onnx.export(
            net, (torch.rand(3, *size),), path, input_names=["images"], output_names=["logits"],
            dynamo=True, dynamic_shapes=batch, external_data=False, verbose=False,
        )  # fmt: skip
    return _difference(net, path, torch.rand(IMAGES, *size, generator=torch.Generator().manual_seed(0)))


def _difference(net: Backbone, path: Path, images: torch.Tensor) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
    with torch.no_grad():
        expected = net(images)
    difference, largest = float((found - expected).abs().max()), float(expected.abs().max())
    if not difference <= TOLERANCE * max(1.0, largest):
        raise ValueError(f"{path} computes other logits than PyTorch: they differ by up to {difference:g}")
    return difference
