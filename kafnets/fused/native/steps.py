"""What the C++ code computes: the shapes of values, and steps from values to values."""

from dataclasses import dataclass
from enum import IntEnum

from torch import Tensor

CHUNK_PIXELS = 1024  # a step processes so many pixels of its output at a time: they stay in the cache
NONE = -1  # in place of the number of a value


class Method(IntEnum):
    """How a step convolves; each method has its own order of weights (:mod:`kafnets.fused.native.weights`)."""

    ADD = 0  # no convolution: the source is added as it is
    SAME = 1  # Winograd: 3x3, stride 1, one zero on every side; `frequencies`
    SHRINK = 2  # Winograd: 3x3, stride 2, at most one zero above and left; `frequencies`
    GROW = 3  # Winograd: gradient of the input of SHRINK from that of its output; `frequencies`, transposed
    DIRECT = 4  # sums over the taps of the filter; `taps`
    BACK = 5  # gradient of the input from that of the output, for all other convolutions; `taps`, transposed


WINOGRAD = (Method.SAME, Method.SHRINK, Method.GROW)


@dataclass(frozen=True)
class ValueShape:
    """Shape of a value, which is a batch of images: an input of a chain or the output of a step.

    Attributes:
        channels, height, width: size of one image.
        held: True if a tensor holds the value; otherwise it lies in scratch memory, which is reused.
        gates: whether the chain stores which numbers ReLU let through.
    """

    channels: int
    height: int
    width: int
    held: bool = True
    gates: bool = False

    @property
    def size(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.channels, self.height, self.width

    @property
    def images_at_a_time(self) -> int:
        """How many images a step processes at a time."""
        return max(CHUNK_PIXELS // (self.height * self.width), 1)

    @property
    def floats(self) -> int:
        """Numbers per image."""
        return self.channels * self.height * self.width


@dataclass
class NativeStep:
    """``target = relu(conv(source - mean) + shift + skip_scale skip)``, as C++ reads it.

    ``target``, ``source`` and ``skip`` are numbers of values. ``gate`` and ``skip_gate`` are numbers of values too:
    source and skip are set to zero wherever the ReLU of that value returned zero. The filter has ``size`` x ``size``
    taps, and ``before`` zeros lie above and left of the image. Only ``DIRECT`` subtracts a mean. A step that is
    ``joined`` is computed together with the step before it.
    """

    target: int = NONE
    source: int = NONE
    gate: int = NONE
    skip: int = NONE
    skip_gate: int = NONE
    method: Method = Method.ADD
    size: int = 0
    stride: int = 1
    before: int = 0
    weights: Tensor | None = None
    shift: Tensor | None = None
    skip_scale: Tensor | None = None
    mean: Tensor | None = None
    relu: bool = False
    joined: bool = False

    @property
    def values(self) -> set[int]:
        """The numbers of the values that the step reads and writes."""
        return {self.source, self.skip, self.target} - {NONE}

    @property
    def parts(self) -> int:
        """Into how many partial sums Winograd's sum over channels is split."""
        return self.weights.shape[1] if self.method in WINOGRAD and self.weights is not None else 1
