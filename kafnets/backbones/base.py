"""The base class of all backbones: images in [0, 1] in, logits out, normalisation inside."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from kafnets.activations.base import Activation
from kafnets.described import Described

ActivationFactory: TypeAlias = Callable[[int], Activation]


def build_activation(activation: ActivationFactory, num_channels: int) -> Activation:
    """Call the factory for one place of a network, and check that it builds an :class:`Activation`.

    Raises:
        TypeError: if ``activation`` is a module instead of a factory, or does not build an :class:`Activation`
            (``torch.nn.ReLU`` would read the number of channels as its flag ``inplace``); a module of PyTorch becomes
            one by :func:`~kafnets.activations.from_module`.

    Example:
        >>> from kafnets.activations import ReLU
        >>> build_activation(ReLU, 16).num_channels
        16
    """
    if isinstance(activation, nn.Module):
        advice = "pass its class, or functools.partial(class, ...) with its settings"
        if not isinstance(activation, Activation):
            advice = f"pass kafnets.activations.from_module({activation})"
        raise TypeError(
            f"activation must be a factory called with the number of channels, got the module {activation}; {advice}"
        )
    if isinstance(activation, type) and not issubclass(activation, Activation):
        name = activation.__name__
        raise TypeError(
            f"activation must build a kafnets Activation from the number of channels, got the class {name}; "
            f"pass kafnets.activations.from_module({name}())"
        )
    module = activation(num_channels)
    if not isinstance(module, Activation):
        raise TypeError(
            f"activation must build a kafnets Activation, {activation!r} built {module!r}; take one from "
            "kafnets.activations, subclass Activation, or pass kafnets.activations.from_module(...)"
        )
    return module


class Normalize(nn.Module):
    """``(x - mean) / std`` per channel, inside the network, so that eps stays in input units.

    Args:
        mean: one value for all channels, or one per channel, in input units.
        std: likewise, > 0.
        in_channels: channels of the images.
        image_size: their height and width in pixels; None for any.
        owner: name of the network in error messages.

    Shapes:
        ``(N, in_channels, H, W)`` in [0, 1] to the same shape.

    Raises:
        ValueError: if a length is neither 1 nor ``in_channels``, or a std is not positive; (when called) if images have
            another shape.
        TypeError: (when called) if images are not floating point.

    Example:
        >>> Normalize(0.5, 0.25, in_channels=1)(torch.full((1, 1, 1, 1), 0.75)).item()
        1.0
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        in_channels: int,
        *,
        image_size: int | None = None,
        owner: str = "Normalize",
    ) -> None:
        super().__init__()
        self.values: dict[str, list[float]] = {}
        for name, value in (("mean", mean), ("std", std)):
            values = torch.as_tensor(value, dtype=torch.float32, device="cpu").flatten()
            if len(values) not in (1, in_channels):
                raise ValueError(
                    f"{name} has {len(values)} values for images of in_channels={in_channels}; give one value, or one "
                    "per channel"
                )
            if not values.isfinite().all():
                raise ValueError(f"{name} must be finite, got {value}")
            if name == "std" and not (values > 0).all():
                raise ValueError(f"std must be > 0, got {value}")
            self.values[name] = values.expand(in_channels).tolist()
            buffer = torch.tensor(self.values[name], dtype=torch.float32).reshape(1, -1, 1, 1)
            self.register_buffer(name, buffer, persistent=False)
        self.in_channels, self.image_size, self.owner = in_channels, image_size, owner

    def forward(self, x: Tensor) -> Tensor:
        """Normalise a batch of images, or raise an error if its shape or dtype is wrong."""
        height, width = ("H", "W") if self.image_size is None else (self.image_size,) * 2
        expected = (self.in_channels, *(size for size in (height, width) if self.image_size is not None))
        if x.dim() != 4 or x.shape[1 : 1 + len(expected)] != expected:
            raise ValueError(
                f"{self.owner} takes images of shape (N, {self.in_channels}, {height}, {width}), got {tuple(x.shape)}; "
                "reshape them, or build it with their in_channels and image_size"
            )
        if not x.is_floating_point():
            raise TypeError(f"{self.owner} takes floating point images in [0, 1], got {x.dtype}; divide bytes by 255")
        return (x - self.mean) / self.std

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        # a network built on the meta device has lost them, and they are in no state dict
        for name, values in self.values.items():
            buffer: Tensor = getattr(self, name)
            found = buffer.new_tensor(values, device="cpu" if buffer.is_meta else buffer.device)
            setattr(self, name, found.reshape(1, -1, 1, 1))


class PixelMean(nn.Module):
    """The mean of each channel over the pixels.

    Shapes:
        ``(N, C, H, W)`` to ``(N, C)``. The gradient has the memory format of the images.

    Example:
        >>> PixelMean()(torch.arange(8.0).reshape(1, 2, 2, 2))
        tensor([[1.5000, 5.5000]])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Average over the pixels."""
        if x.stride(1) == 1:  # channels_last
            # mean((2, 3)) has a contiguous gradient, which makes the backward pass of a convolution six times slower
            return x.permute(0, 2, 3, 1).flatten(1, 2).mean(1)
        return x.mean((2, 3))


class Backbone(Described, nn.Module):
    """An image classifier: ``(N, in_channels, image_size, image_size)`` in [0, 1] to ``(N, num_classes)`` logits.

    Args:
        num_classes: number of classes, >= 2.
        in_channels: channels of the images, >= 1.
        image_size: height and width of the images in pixels.
        halvings: how many times the network halves the image; ``image_size`` must divide by ``2**halvings``.
        mean, std: the normalisation, see :class:`Normalize`.

    Raises:
        ValueError: if a size is out of its range.
    """

    smallest_image: ClassVar[int | None] = None  # for networks that take images of any size from this one on
    unsaid: ClassVar[tuple[str, ...]] = ("activation", "depth")  # told by activation_label and by the name itself

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        image_size: int,
        halvings: int,
        mean: float | Sequence[float],
        std: float | Sequence[float],
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if num_classes < 2:
            raise ValueError(f"{name} needs num_classes >= 2, got {num_classes}")
        if in_channels < 1:
            raise ValueError(f"{name} needs in_channels >= 1, got {in_channels}")
        step = 2**halvings
        if image_size < step or image_size % step:
            raise ValueError(
                f"{name} halves the image {halvings} times, so image_size must be a multiple of {step}, "
                f"got {image_size}; resize the images, on the command line with "
                f"--data.image_size={max(step, round(image_size / step) * step)}"
            )
        self.num_classes, self.in_channels, self.image_size = num_classes, in_channels, image_size
        if problem := self.refusal(image_size):
            raise ValueError(f"{problem}; resize the images, on the command line with --data.image_size")
        fixed = image_size if self.smallest_image is None else None
        self.normalize = Normalize(mean, std, in_channels, image_size=fixed, owner=name)

    def refusal(self, size: int) -> str | None:
        """Return why the network does not take images of ``size`` x ``size`` pixels; None if it takes them."""
        name = type(self).__name__
        if self.smallest_image is None:
            return None if size == self.image_size else f"{name} is built for {self.image_size} pixels, got {size}"
        return None if size >= self.smallest_image else f"{name} takes {self.smallest_image} pixels or more, got {size}"

    @property
    def activation_label(self) -> str:
        """The label of its activations: that of the first if they differ, ``none`` if there are none."""
        return next((module.label for module in self.modules() if isinstance(module, Activation)), "none")
