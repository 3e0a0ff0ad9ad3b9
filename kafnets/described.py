"""Names for reports: the class of an object and every setting that differs from its default."""

import functools
import inspect
from collections.abc import Callable
from fractions import Fraction
from typing import Any, ClassVar


class Described:
    """An object whose name contains the arguments that it was built with.

    The name is the class, the settings listed in ``headline`` (as in ``PGD-50-10``), and those other arguments of
    ``__init__`` that differ from their defaults.

    Example:
        >>> class Smooth(Described):
        ...     headline = ("steps",)
        ...     def __init__(self, *, steps=10, width=0.5, loss=None):
        ...         self.steps = steps
        >>> Smooth().label, Smooth(steps=3, loss=max).label
        ('Smooth-10', 'Smooth-3(loss=max)')
    """

    headline: ClassVar[tuple[str, ...]] = ()
    unsaid: ClassVar[tuple[str, ...]] = ()  # settings that the name never contains
    _given: dict[str, str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _recording(cls.__init__)  # type: ignore[method-assign]

    @property
    def label(self) -> str:
        """The class, the headline and the other settings that differ from their defaults."""
        rest = ", ".join(self.other_settings())
        return self.short_label + (f"({rest})" if rest else "")

    @property
    def short_label(self) -> str:
        """The class and the headline."""
        return "-".join([type(self).__name__, *(in_words(getattr(self, name)) for name in self.headline)])

    def other_settings(self) -> list[str]:
        """``name=value`` for each argument that differs from its default, without the headline and ``unsaid``."""
        given = self.__dict__.get("_given", {})
        return [f"{name}={text}" for name, text in given.items() if name not in (*self.headline, *self.unsaid)]


def show_units(value: float) -> str:
    """Write a size in input units as grey levels, ``8/255``, or as a plain number where that is shorter.

    Example:
        >>> show_units(8 / 255), show_units(0.031), show_units(0.05), show_units(1.0)
        ('8/255', '0.031', '0.05', '1')
    """
    levels, plain = Fraction(value * 255).limit_denominator(10), f"{value:g}"
    if not levels or abs(float(levels) / 255 - value) >= 1e-12:
        return plain
    return min(plain, f"{float(levels):g}/255", key=len)


def in_words(value: Any) -> str:
    """A setting as text that is the same in every process: memory addresses are left out.

    Example:
        >>> in_words(8 / 255), in_words(max), in_words([0.5, None]), in_words(functools.partial(round, ndigits=2))
        ('8/255', 'max', '[0.5, None]', 'round(ndigits=2)')
    """
    if isinstance(value, Described):
        return value.label
    if isinstance(value, float):
        return show_units(value) if abs(value) < float("inf") else str(value)
    if isinstance(value, functools.partial):
        inner = [in_words(item) for item in value.args] + [f"{k}={in_words(v)}" for k, v in value.keywords.items()]
        return f"{in_words(value.func)}({', '.join(inner)})"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(in_words, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {in_words(item)}" for key, item in value.items()) + "}"
    if value is None or isinstance(value, (bool, int, str)):
        return str(value)
    text = getattr(value, "__name__", None) or repr(value)
    return type(value).__name__ if " at 0x" in text or "\n" in text else text


def arguments_of(cls: type) -> dict[str, inspect.Parameter]:
    """The named arguments of a class's ``__init__``; where it takes ``**kwargs``, those of its base classes too."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in base.__dict__ or base is object:
            continue
        parameters = list(inspect.signature(base.__init__).parameters.values())[1:]  # type: ignore[misc]
        named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        found = {p.name: p for p in named} | found
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return found


def _recording(init: Callable[..., None]) -> Callable[..., None]:
    """``init``, preceded by a record of the arguments that differ from their defaults, as text."""

    @functools.wraps(init)
    def recorded(self: Any, *args: Any, **kwargs: Any) -> None:
        if "_given" not in self.__dict__:  # the class that is built comes first, and calls its bases
            self.__dict__["_given"] = _different(type(self), args, kwargs)
        init(self, *args, **kwargs)

    return recorded


def _different(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, str]:
    arguments = arguments_of(cls)
    given = dict(zip(arguments, args, strict=False)) | kwargs
    said = {name: in_words(value) for name, value in given.items()}
    default = {name: in_words(parameter.default) for name, parameter in arguments.items()}
    return {name: text for name, text in said.items() if text != default.get(name)}
