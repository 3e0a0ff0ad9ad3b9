"""A study file: a grid over the configs and flags of single runs, expanded to its members.

::

    base:                                   # every member
      config: [<activation>, fast_at, digits]
      trainer.max_epochs: 30
    grid:                                   # axis -> values
      activation: {ReLU: vgg_relu, KAF: {config: kafvgg_elu, model.optimizer.lr: 0.05}}
      model.threat.eps: [4/255, 8/255]
      seed: [0, 1, 2]
    short:                                  # what --short changes
      base: {trainer.max_epochs: 2}
      grid: {seed: [0]}

An axis is a mapping of labels to settings, or a list. Settings are a config, a list of configs, or a mapping of
``config:`` and flags; ``trainer: {max_epochs: 30}`` is the same flag as ``trainer.max_epochs: 30``. A list holds values
of the flag that the axis is named after, or names of configs, which are their own labels. ``seed``, ``eps``,
``activation`` and ``objective`` stand for their flags, the last two with names of classes, such as ``[ReLU, KAF]``.
``<axis>`` in the configs of ``base`` is the place of the configs of an axis; flags come after all configs, those of
``base`` first, then those of the axes in order.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import reduce
from pathlib import Path
from typing import Any

from lightning_modules.command_line.config_files import expand, load_layers, merge

SEED = "seed"
_PARTS = ("base", "grid", "short")
_OWN = {"seed_everything", "ckpt_path"}  # flags without a dot
_CLASSES = {"activation": "model.net.activation", "objective": "model.objective"}
_FLAGS = {SEED: "seed_everything", "seed_everything": "seed_everything", "eps": "model.threat.eps"} | _CLASSES


@dataclass(frozen=True)
class Member:
    """One run of a study.

    Attributes:
        name: its labels, joined by ``-``; the name of its folder and of its record.
        axes: axis to label.
        arguments: of ``cli.py``, without its folder: ``fit``, ``--config`` and flags.
    """

    name: str
    axes: dict[str, str]
    arguments: tuple[str, ...]


def load_study(name: str, folders: Sequence[Path], *, short: bool = False) -> tuple[str, list[Member]]:
    """Read a study file; return the name of the study and its members, in the order in which they run.

    The seed varies slowest, wherever it stands, so that a whole table is there early; otherwise the first axis does.

    Args:
        name: path or bare name of the file; it may have an ``include:`` as any config.
        folders: where bare names are looked up.
        short: take the ``short:`` variant, whose study is called ``<name>_short``.

    Raises:
        ConfigError, ValueError: in one line, if it can't be read or is no study.
    """
    layers = load_layers(name, folders)
    title = Path(name).stem
    try:
        content = reduce(merge, map(_with_dots, layers))
        return (f"{title}_short" if short else title), expand_study(content, short=short)
    except ValueError as error:
        raise ValueError(f"study {name}: {error}") from None


def expand_study(content: Mapping[str, Any], *, short: bool = False) -> list[Member]:
    """Return the members of a study.

    Example:
        >>> study = {"base": {"config": ["<net>", "fast_at"]}, "grid": {"net": ["kafvgg", "vgg_relu"], "seed": [0, 1]}}
        >>> [member.name for member in expand_study(study)]
        ['kafvgg-0', 'vgg_relu-0', 'kafvgg-1', 'vgg_relu-1']
        >>> expand_study(study)[0].arguments
        ('fit', '--config', 'kafvgg', '--config', 'fast_at', '--seed_everything=0')
    """
    _check_keys(content, _PARTS, "a study")
    content = _with_dots(content)
    base, grid = _mapping(content, "base"), _mapping(content, "grid")
    if "short" not in content:
        if short:
            raise ValueError("it has no short: section; leave --short out")
        return _members(base, grid)
    change = _mapping(content, "short", hint="; it holds what the flag --short changes in base: and grid:")
    try:
        _check_keys(change, ("base", "grid"), "short")
        shorter = _members(
            merge(base, _mapping(change, "base", "short.base")), grid | _mapping(change, "grid", "short.grid")
        )
    except ValueError as error:
        raise ValueError(f"{error}" if short else f"{error} (with --short)") from None
    return shorter if short else _members(base, grid)


def _members(base: Mapping[str, Any], grid: Mapping[str, Any]) -> list[Member]:
    if not grid:
        raise ValueError("grid is empty; give it an axis, such as seed: [0, 1, 2]")
    places = [place for name in _configs("base", base.get("config", [])) if (place := _placeholder(name))]
    axes = {_axis_name(axis): _values(axis, values, places) for axis, values in grid.items()}
    if len(axes) < len(grid):
        raise ValueError(f"two axes of grid have one name: {', '.join(map(_axis_name, grid))}; rename one")
    _check_places(base, axes, places)
    members = [_member(base, chosen) for chosen in _combinations(axes)]
    seen: dict[str, Member] = {}
    for member in members:
        if member.name in seen:
            raise ValueError(f"two members are called {member.name}: {seen[member.name].axes} and {member.axes}")
        seen[member.name] = member
    return members


@dataclass(frozen=True)
class _Value:
    label: str
    configs: tuple[str, ...]
    flags: dict[str, Any]


def _combinations(axes: Mapping[str, list[_Value]]) -> Iterator[dict[str, _Value]]:
    outermost = sorted(axes, key=lambda axis: axis != SEED)  # stable, so the others stay in order
    for values in itertools.product(*(axes[axis] for axis in outermost)):
        chosen = dict(zip(outermost, values, strict=True))
        yield {axis: chosen[axis] for axis in axes}


def _member(base: Mapping[str, Any], chosen: Mapping[str, _Value]) -> Member:
    names: list[str] = []
    for name in _configs("base", base.get("config", [])):
        axis = _placeholder(name)
        names += chosen[axis].configs if axis else [name]
    flags = {name: value for name, value in base.items() if name != "config"}
    for value in chosen.values():
        flags = {name: item for name, item in flags.items() if name not in value.flags} | value.flags
    arguments = [part for name in names for part in ("--config", name)]
    arguments += [f"--{name}={flag_text(value)}" for name, value in flags.items()]
    name = "-".join(_slug(value.label) for value in chosen.values())
    return Member(name, {axis: value.label for axis, value in chosen.items()}, ("fit", *arguments))


def flag_text(value: Any) -> str:
    """Return a value as the text of a flag.

    Example:
        >>> [flag_text(value) for value in (0.1, "8/255", True, None, [1, 2], {"class_path": "KAF", "free": True})]
        ['0.1', '8/255', 'true', 'null', '[1, 2]', '{"class_path": "KAF", "init_args": {"free": true}}']
    """
    return value if isinstance(value, str) else json.dumps(expand(value))


# --- the parts of a study file ----------------------------------------------------------------------------------------


def _values(axis: str, values: Any, places: Sequence[str]) -> list[_Value]:
    if not isinstance(values, (dict, list)):
        raise ValueError(f"axis {axis} must be a list, or a mapping of labels to settings, got {values!r}")
    if not values:
        raise ValueError(f"axis {axis} has no value; give it one or more, or remove it")
    if isinstance(values, dict):
        return [_labelled(axis, str(label), settings) for label, settings in values.items()]
    if any(isinstance(value, (dict, list)) for value in values):
        raise ValueError(f"axis {axis} lists a {type(values[0]).__name__}; write a mapping of labels to settings")
    if axis not in places and (flag := _flag_of(axis, values)):
        return [_Value(flag_text(value), (), {flag: value}) for value in values]
    if wrong := [value for value in values if not isinstance(value, str)]:
        near = _near_flag(axis) or f"name the axis after a flag, such as model.{axis}"
        raise ValueError(
            f"axis {axis} lists {wrong[0]!r}, which is no name of a config; {near}, or write a mapping of labels to "
            "settings"
        )
    return [_Value(Path(name).stem, (name,), {}) for name in values]


def _labelled(axis: str, label: str, settings: Any) -> _Value:
    where = f"{label} of axis {axis}"
    if isinstance(settings, (str, list)):
        settings = {"config": settings}
    if not isinstance(settings, dict) or not settings:
        raise ValueError(f"{where} must be a config, a list of configs, or a mapping of config: and flags")
    _check_flags(where, settings)
    flags = {name: value for name, value in settings.items() if name != "config"}
    return _Value(label, tuple(_configs(where, settings.get("config", []))), flags)


def _axis_name(axis: str) -> str:
    """``seed_everything`` is called seed; another flag by its last part."""
    return SEED if axis in (SEED, "seed_everything") else axis.rpartition(".")[2]


def _flag_of(axis: str, values: Sequence[Any]) -> str | None:
    """The flag that a list of values is for; names of classes begin with a capital letter, those of configs do not."""
    if "." in axis:
        return axis
    if axis in _CLASSES and not all(str(value).rpartition(".")[2][:1].isupper() for value in values):
        return None
    return _FLAGS.get(axis)


def _near_flag(axis: str) -> str:
    """A question after a misspelt axis; empty if there is none like it."""
    near = [] if axis in _FLAGS else get_close_matches(axis, _FLAGS)
    return f"did you mean {near[0]}?" if near else ""


def _configs(where: str, names: Any) -> list[str]:
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"config of {where} must be a name or a list of names, got {names!r}")
    return names


def _placeholder(name: str) -> str | None:
    found = re.fullmatch(r"<(.+)>", name)
    return found[1] if found else None


def _check_places(base: Mapping[str, Any], axes: Mapping[str, list[_Value]], places: Sequence[str]) -> None:
    """Every axis with configs has one place among those of ``base``."""
    _check_flags("base", base)
    names = _configs("base", base.get("config", []))
    for axis in places:
        if axis not in axes:
            near = get_close_matches(axis, axes) or list(axes)
            raise ValueError(f"base.config has <{axis}>, which is no axis of grid; did you mean <{near[0]}>?")
        if places.count(axis) > 1:
            raise ValueError(f"base.config has <{axis}> twice; keep one")
    for axis, values in axes.items():
        if axis not in places and any(value.configs for value in values):
            place = f"put <{axis}> into it, for example [{', '.join([f'<{axis}>', *names])}]"
            raise ValueError(
                f"axis {axis} has configs, but base.config does not say where they come; {_near_flag(axis) or place}"
            )


def _mapping(content: Mapping[str, Any], part: str, name: str = "", hint: str = "") -> dict[str, Any]:
    value = content.get(part)
    value = {} if value is None else value  # a key without a value
    if not isinstance(value, dict):
        raise ValueError(f"{name or part} must be a mapping, got {value!r:.60}{hint}")
    return value


def _with_dots(content: Mapping[str, Any]) -> dict[str, Any]:
    """Write the settings of a study, or of its part ``short``, by their dotted names."""

    def each(part: Any, change: Callable[[str, Any], Any]) -> Any:
        return {key: change(str(key), value) for key, value in part.items()} if isinstance(part, dict) else part

    def axis(name: str, values: Any) -> Any:
        return each(values, lambda label, settings: _settings(f"{label} of axis {name}", settings))

    parts: dict[str, Callable[[Any], Any]] = {
        "base": lambda value: _settings("base", value),
        "grid": lambda value: each(value, axis),
        "short": lambda value: _with_dots(value) if isinstance(value, dict) else value,
    }
    return {key: parts.get(key, lambda same: same)(value) for key, value in content.items()}


def _settings(where: str, settings: Any) -> Any:
    if not isinstance(settings, dict):
        return settings
    found: dict[Any, Any] = {}
    for name, value in settings.items():
        for key, item in _dotted(name, value):
            if key in found:
                raise ValueError(f"{where} sets {key} twice; keep one")
            found[key] = item
    return found


def _dotted(name: Any, value: Any) -> Iterator[tuple[Any, Any]]:
    """The flags of a nested mapping; an object, and what stands under a dotted name, is the value of one flag."""
    nested = isinstance(value, dict) and value and all(isinstance(key, str) for key in value)
    if not nested or "class_path" in value or "." in str(name) or str(name).startswith("config"):
        yield name, value
        return
    for key, item in value.items():
        yield from ((f"{name}.{inner}", leaf) for inner, leaf in _dotted(key, item))


def _check_keys(content: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    for key in content:
        if key not in known:
            near = get_close_matches(str(key), known)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise ValueError(f"{key!r} is no part of {what}; {hint}")


def _check_flags(where: str, settings: Mapping[str, Any]) -> None:
    for name in settings:
        if not isinstance(name, str) or not ("." in name or name in _OWN or name == "config"):
            near = get_close_matches(str(name), ["config", *_FLAGS, *_OWN])
            hint = (
                f"did you mean {_FLAGS.get(near[0], near[0])}?"
                if near
                else "it takes config: and flags such as model.optimizer.lr"
            )
            raise ValueError(f"{where} has {name!r}, which is neither config nor a flag; {hint}")
        if name == "ckpt_path" or name.startswith("run."):
            raise ValueError(f"{where} sets {name}, which the study itself does; leave it out")


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9_.+]+", "_", label.lower())
