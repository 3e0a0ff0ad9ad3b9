"""A parser whose errors are one line."""

import re
import sys
from typing import Any, NoReturn

from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser

from lightning_modules.command_line.error_text import one_line


class OneLineParser(LightningArgumentParser):
    """LightningCLI's parser, without the usage text in front of every error, and without abbreviated flags.

    An abbreviation is a misspelling that happens to work; it could change its meaning with the next version.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and exit with status 2; with ``exit_on_error=False``, raise instead."""
        if not self.exit_on_error:
            super().error(message, ex)
        missing = "; a run is a network and a training: --config kafvgg.yaml --config fast_at.yaml"
        of_a_run = "arguments are required" in message and re.search(r"\b(model|data)\b", message)  # and of no tool
        hint = missing if of_a_run else ""
        print(f"error: {one_line(message, self.known_keys())}{hint}", file=sys.stderr)
        raise SystemExit(2)

    def read_integers_as_counts(self) -> None:
        """Read an integer as a number of batches in those Trainer settings that are a number of batches or a share.

        Python caches ``Union[float, int]`` and ``Union[int, float]`` as one type, the one created first, so the order
        of imports decides whether 1 is read as the float 1.0, which would mean all batches.
        """
        for action in self._actions:
            if re.fullmatch(r"trainer\.(limit_\w+_batches|val_check_interval)", action.dest):
                action._typehint = int | float | None  # type: ignore[attr-defined]

    def known_keys(self) -> list[str]:
        """Return every key of this parser and of its subcommands."""
        choices = [action.choices for action in self._actions if isinstance(action.choices, dict)]
        parsers = [self, *(parser for choice in choices for parser in choice.values())]
        defaults = (parser.get_defaults(skip_validation=True) for parser in parsers)
        return [key for default in defaults if isinstance(default, Namespace) for key in default.keys()]  # noqa: SIM118
