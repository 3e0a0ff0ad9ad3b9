"""What every activation of this project is: a module that is told its channels when it is built."""

from torch import Tensor, nn


class Activation(nn.Module):
    """A channelwise activation, built as ``Activation(num_channels)``.

    Backbones take a factory ``Callable[[int], Activation]`` and call it once per place with that place's channels,
    so that trainable activations own parameters of the right size and fixed ones ignore the number.

    Shapes:
        input and output ``(N, C)`` or ``(N, C, *spatial)`` with ``C = num_channels``, floating point.

    Args:
        num_channels: channels of the input, >= 1.

    Raises:
        ValueError: if ``num_channels`` is not a positive integer, or (from :meth:`check`) if an input has another
            shape.
        TypeError: (from :meth:`check`) if an input is not floating point.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        if not isinstance(num_channels, int) or isinstance(num_channels, bool) or num_channels < 1:
            raise ValueError(f"num_channels must be an integer >= 1, got {num_channels!r}")
        self.num_channels = num_channels

    def extra_repr(self) -> str:
        """Name the settings; subclasses add theirs."""
        return str(self.num_channels)

    @property
    def label(self) -> str:
        """The name of this activation in tables and dashboards; variants of a class have names of their own."""
        return type(self).__name__

    def check(self, x: Tensor) -> Tensor:
        """Return ``x``, or say what is wrong with its shape or dtype."""
        if x.dim() < 2:
            raise ValueError(f"{type(self).__name__} takes (N, C) or (N, C, *spatial), got shape {tuple(x.shape)}")
        if x.shape[1] != self.num_channels:
            raise ValueError(
                f"{type(self).__name__}({self.num_channels}) got {x.shape[1]} channels in shape {tuple(x.shape)}; "
                f"build it with num_channels={x.shape[1]}"
            )
        if not x.is_floating_point():
            raise TypeError(f"{type(self).__name__} takes a floating point tensor, got {x.dtype}")
        return x
