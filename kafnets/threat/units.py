"""Sizes in the units of images in [0, 1], given as numbers or as fractions such as 8/255."""

from kafnets.described import show_units

__all__ = ["in_input_units", "show_units"]


def in_input_units(name: str, value: float | str) -> float:
    """Read a size in input units, a number or a fraction such as ``"8/255"``.

    Raises:
        ValueError: if ``value`` is neither.

    Example:
        >>> in_input_units("eps", "8/255") == 8 / 255
        True
    """
    if isinstance(value, str):
        numerator, _, denominator = value.partition("/")
        try:
            return float(numerator) / float(denominator or 1)
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"{name} must be a number or a fraction such as 8/255, got {value!r}") from None
    return float(value)
