"""A parser whose errors are one line."""

import importlib
import inspect
import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, NoReturn

from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser

# what jsonargparse says of every alternative of a Union and of the whole value, beside the one thing that matters
_NOISE = re.compile(
    r"^(Does not validate against any of the Union subtypes|Subtypes: |Errors:|Given value type|Given value: Namespace|"
    r"Given value: NestedArg|Got value: Namespace|Expected a <class 'NoneType'>|Expected a path but|"
    r"Given value: \[(Namespace|{'class_path')|Not a valid subclass of Callback|"
    r"Subclass types expect one of|a class path \(str\)|a dict with (class_path|parameters)|a dict without class_path)"
)
_PACKAGES = (
    "kafnets.activations",
    "kafnets.attacks",
    "kafnets.backbones",
    "kafnets.objectives",
    "kafnets.schedules",
    "datamodules",
    "lightning_modules",
    "lightning_modules.callbacks",
)


def one_line(message: str, keys: Iterable[str] = ()) -> str:
    """The gist of a message of jsonargparse, with the nearest names where one was misspelt.

    Args:
        message: what was said, of any number of lines.
        keys: the keys there are at the top level.

    Example:
        >>> one_line("Unrecognized arguments: --trainer.max_epoch=3", ["trainer.max_epochs", "trainer.devices"])
        'Unrecognized arguments: --trainer.max_epoch=3; did you mean trainer.max_epochs?'
        >>> one_line('''Parser key "model":
        ...   Does not validate against any of the Union subtypes
        ...   Errors:
        ...     - Problem with given class_path 'kafnets.attacks.FGSM':
        ...         Option 'epss' is not accepted
        ...     - Expected a <class 'NoneType'>''')
        "model: Option 'epss' is not accepted; did you mean eps?"
    """
    path, rest, owner = [], [], ""
    for line in message.splitlines():
        text = line.strip().removeprefix("- ").strip()
        if key := re.match(r'Parser key "([^"]+)":\s*', text):
            path += [] if key[1] in path else [key[1]]
            text = text[key.end() :]
        if problem := re.match(r"Problem with given class_path '([^']+)':\s*", text):
            owner, text = problem[1], text[problem.end() :]
        if text and not _NOISE.match(text) and text not in rest:
            rest.append(text)
    gist = (f"{'.'.join(path)}: " if path else "") + " ".join(rest)
    gist = re.sub(r"<class '([\w.]+)'>", r"\1", re.sub(r"Type .*? expects a function or a callable class: ?", "", gist))
    gist = re.sub(r"\.*\s*Got value: Namespace\(.*", "", gist)
    near = _nearest(gist, owner, keys)
    return gist + (f"; did you mean {', '.join(near)}?" if near else "")


def _nearest(gist: str, owner: str, keys: Iterable[str]) -> list[str]:
    """Names like the one the message complains about."""
    if option := re.search(r"Option '([^']+)' is not accepted", gist):
        return get_close_matches(option[1].rpartition(".")[2], _parameters(owner), cutoff=0.7)
    if name := re.search(r"Expected a dot import path string: (\w+)", gist):
        public = {name for package in _PACKAGES for name in vars(importlib.import_module(package))}
        return get_close_matches(name[1], {name for name in public if name[0].isupper()})
    if key := re.search(r"(?:does not accept option '|nrecognized arguments: --)([\w.]+)", gist):
        return get_close_matches(key[1], list(keys), cutoff=0.8)
    return []


def _parameters(class_path: str) -> set[str]:
    """The names of the arguments of a class and of those it inherits from."""
    module, _, name = class_path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return set()
    return {parameter for base in found.__mro__ for parameter in inspect.signature(base).parameters}


class OneLineParser(LightningArgumentParser):
    """LightningCLI's parser, without the usage text in front of every error, and without abbreviated flags.

    An abbreviation is a misspelling that happens to work; it could change its meaning with the next version.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and exit with status 2; parsers that only try a value raise, as their callers expect."""
        if not self.exit_on_error:
            super().error(message, ex)
        missing = "; a run is a network and a training: --config kafvgg.yaml --config fast_at.yaml"
        hint = missing if "arguments are required" in message else ""
        print(f"error: {one_line(message, self.known_keys())}{hint}", file=sys.stderr)
        raise SystemExit(2)

    def read_integers_as_counts(self) -> None:
        """Let the Trainer's settings that are a number of batches or a share of them take 1 as one batch.

        Python keeps ``Union[float, int]`` and ``Union[int, float]`` as one type, the one that was made first, so it is
        up to the imports before whether 1 is read as the float 1.0, which means all batches.
        """
        for action in self._actions:
            if re.fullmatch(r"trainer\.(limit_\w+_batches|val_check_interval)", action.dest):
                action._typehint = int | float | None  # type: ignore[attr-defined]

    def known_keys(self) -> list[str]:
        """Every key of this parser and of its subcommands."""
        choices = [action.choices for action in self._actions if isinstance(action.choices, dict)]
        parsers = [self, *(parser for choice in choices for parser in choice.values())]
        defaults = (parser.get_defaults(skip_validation=True) for parser in parsers)
        return [key for default in defaults if isinstance(default, Namespace) for key in default.keys()]  # noqa: SIM118
