"""The blueprint of a network from the configuration that its checkpoint carries."""

import importlib
import inspect
from collections.abc import Sequence
from typing import Any

from kafnets.saved import name_of
from lightning_modules.command_line.trusted_names import packages_named

ROOMS = ("kafnets", "torch")  # where configurations of networks find classes and functions


def blueprint(settings: Any, own: Sequence[str] = ()) -> Any:
    """Return a part of a flat configuration in the form of :mod:`kafnets.saved.blueprint`.

    Args:
        settings: ``model.net``, or a part of it, whose names have been checked.
        own: top-level packages of the user, which it may name too.

    Raises:
        ValueError: if a class or a function has no name in blueprints, or a setting is no value of JSON.

    Example:
        >>> blueprint({"class_path": "kafnets.activations.KWTA", "ratio": 0.1})
        {'factory': 'KWTA', 'arguments': {'ratio': 0.1}}
    """
    if isinstance(settings, list):
        return [blueprint(item, own) for item in settings]
    if isinstance(settings, str) and (found := _found(settings, own)) is not None:
        return _class(found, {}, own) if inspect.isclass(found) else {"function": name_of(found, own)}
    if not isinstance(settings, dict):
        return settings
    if "class_path" not in settings:
        raise ValueError(f"a network with the setting {settings} can't be exported; only classes have settings by name")
    rest = {name: value for name, value in settings.items() if name not in ("class_path", "dict_kwargs")}
    arguments = {name: blueprint(value, own) for name, value in (rest | settings.get("dict_kwargs", {})).items()}
    return _class(_found(settings["class_path"], own), arguments, own)


def _class(found: Any, arguments: dict[str, Any], own: Sequence[str]) -> dict[str, Any]:
    """A class that lacks arguments is a factory: it gets them, such as the number of channels, where it is used."""
    wanted = [
        p for p in inspect.signature(found).parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    lacks = any(parameter.default is parameter.empty and parameter.name not in arguments for parameter in wanted)
    return {"factory" if lacks else "class": name_of(found, own), "arguments": arguments}


def _found(path: str, own: Sequence[str]) -> Any:
    """What a dotted path names; None if it is other text."""
    if not packages_named(path) & {*ROOMS, *own}:
        return None
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
