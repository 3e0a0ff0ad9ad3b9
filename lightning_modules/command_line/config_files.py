"""YAML configs: found by bare name, composed by ``include:``, merged so that the later one wins.

A config of a line or two is an entry of ``configs/base/named.yaml``, found by its name where there is no such file.

Objects may be written flat: beside ``class_path``, any other key is one of its arguments (``init_args`` works as well).
Merging follows the objects: the same ``class_path`` (or none) merges the arguments, another one replaces the object,
and ``class_path+`` changes the class but keeps the arguments. Any other key that ends in ``+`` appends to a list. A
mapping from numbers (epochs, steps) is replaced as a whole.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

NAMED = Path("base", "named.yaml")


class ConfigError(ValueError):
    """A config file that can't be found, read or composed."""


def find_config(name: str, folders: Sequence[Path]) -> tuple[Path, dict[str, Any]]:
    """Return place and content of a config.

    It is looked up as a path, as a bare name (``.yaml`` is optional) in each of ``folders``, and then as an entry of
    their ``base/named.yaml``, whose place is that of a file of its own.

    Raises:
        ConfigError: if there is none, the message names the most similar ones; or if the file is no YAML mapping.
    """
    for base in (Path(), *folders):
        for candidate in (base / name, base / f"{name}.yaml"):
            if candidate.is_file():
                return candidate.resolve(), _read_mapping(candidate)
    known = {path.name for folder in folders for path in folder.glob("*.yaml")}
    stem, place = Path(name.removesuffix(".yaml")).name, Path(name).parent
    for folder in folders:
        entries = _read_mapping(folder / NAMED) if (folder / NAMED).is_file() else {}
        if stem in entries and (place == Path() or place.resolve() == folder.resolve()):
            return (folder / f"{stem}.yaml").resolve(), _mapping(folder / NAMED, entries[stem])
        known |= {f"{entry}.yaml" for entry in entries}
    near = get_close_matches(stem + ".yaml", sorted(known), n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are: {', '.join(sorted(known))}"
    raise ConfigError(f"config {name!r} is neither in the working directory nor in configs/; {hint}")


def load_layers(name: str, folders: Sequence[Path], including: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """Read a config and its includes; return flat contents, to be merged in this order.

    Args:
        name: path or bare name; names in ``include:`` are looked up first in the folder of the including file.
        folders: where bare names are looked up, in order.
        including: the files that include this one, outermost first.

    Raises:
        ConfigError: if a file is missing, is no YAML mapping, or includes itself.
    """
    path, content = find_config(name, folders)
    if path in including:
        chain = " -> ".join(file.name for file in (*including[including.index(path) :], path))
        raise ConfigError(f"configs include each other in a circle: {chain}")
    includes = content.pop("include", [])
    if not isinstance(includes, list):
        raise ConfigError(f"config {path}: include must be a list of config names, got {includes!r}")
    nearer = [path.parent, *folders]
    included = [layer for item in includes for layer in load_layers(str(item), nearer, (*including, path))]
    return [*included, flatten(content)]


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys) or {}  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"config {path} can't be read: {' '.join(str(error).split())}") from None
    return _mapping(path, content)


def _mapping(path: Path, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ConfigError(f"config {path} must be a mapping of keys to values, got a {type(content).__name__}")
    return content


class _UniqueKeys(yaml.SafeLoader):
    """A safe loader that refuses duplicate keys, of which YAML keeps only one, and aliases of themselves."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice, in lines {seen[key]} and {line}; keep one"
                )
            seen[key] = line
        return super().construct_mapping(node, deep=deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            anchor = self.peek_event().anchor
            node = self.anchors.get(anchor)
            if node is not None and getattr(node, "end_mark", None) is None:  # the alias is inside its anchor
                raise yaml.composer.ComposerError(None, None, f"the anchor &{anchor} holds an alias of itself")
        return super().compose_node(parent, index)


def flatten(value: Any) -> Any:
    """Write every ``{class_path, init_args: {...}}`` as ``{class_path, ...}``."""
    if isinstance(value, list):
        return [flatten(item) for item in value]
    if not isinstance(value, dict):
        return value
    inner = value.get("init_args") or {}
    if "class_path" in value or (set(value) == {"init_args"}):
        value = {**{key: item for key, item in value.items() if key != "init_args"}, **inner}
    return {key: flatten(item) for key, item in value.items()}


def expand(value: Any) -> Any:
    """Undo :func:`flatten`: the form that LightningCLI reads.

    Example:
        >>> expand({"class_path": "KAF", "num_dict": 10})
        {'class_path': 'KAF', 'init_args': {'num_dict': 10}}
    """
    if isinstance(value, list):
        return [expand(item) for item in value]
    if not isinstance(value, dict):
        return value
    value = {key: expand(item) for key, item in value.items()}
    if "class_path" not in value:
        return value
    outer = {key: item for key, item in value.items() if key in ("class_path", "dict_kwargs")}
    inner = {key: item for key, item in value.items() if key not in outer}
    return outer | ({"init_args": inner} if inner else {})


def merge(base: Any, over: Any) -> Any:
    """Merge the flat config ``over`` into the flat config ``base``, and return the result; neither is changed.

    Example:
        >>> merge({"net": {"class_path": "KafVGG", "hidden": 64}}, {"net": {"hidden": 32}})
        {'net': {'class_path': 'KafVGG', 'hidden': 32}}
        >>> merge({"net": {"class_path": "KafVGG", "hidden": 64}}, {"net": {"class_path": "LightNet"}})
        {'net': {'class_path': 'LightNet'}}
        >>> merge({"activation": "KWTA", "tags": ["a"]}, {"activation": {"ratio": 0.1}, "tags+": ["b"]})
        {'activation': {'class_path': 'KWTA', 'ratio': 0.1}, 'tags': ['a', 'b']}
        >>> merge({"data": {"class_path": "CIFAR10", "batch_size": 64}}, {"data": {"class_path+": "CIFAR100"}})
        {'data': {'class_path': 'CIFAR100', 'batch_size': 64}}
        >>> merge({"sizes": {0: 24, 6: 32}}, {"sizes": {0: 28, 4: 32}})  # numbers are no names of settings
        {'sizes': {0: 28, 4: 32}}
    """
    if not isinstance(over, dict) or any(not isinstance(key, str) for key in over):
        return over
    if isinstance(base, str) and "class_path" not in over:
        base = {"class_path": base}  # an object named by its class alone
    if not isinstance(base, dict) or (_class(over) and _class(base) and _class(over) != _class(base)):
        base = {}
    result = dict(base)
    for key, value in over.items():
        if key == "class_path+":
            result["class_path"] = value
        elif key.endswith("+"):
            plain = key[:-1]
            existing = result.get(plain) or []
            if not isinstance(existing, list) or not isinstance(value, list):
                raise ConfigError(f"{key} appends a list to a list, got {value!r} for {existing!r}")
            result[plain] = [*existing, *value]
        else:
            result[key] = merge(result.get(key), value)
    return result


def _class(config: dict[str, Any]) -> str:
    # a short name and a full path may mean the same class
    return str(config.get("class_path", "")).rpartition(".")[2]
