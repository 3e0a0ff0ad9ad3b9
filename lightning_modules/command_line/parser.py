"""A parser whose errors are one line."""

import re
import sys
from difflib import get_close_matches
from typing import Any, NoReturn

from pytorch_lightning.cli import LightningArgumentParser


def one_line(message: str, keys: list[str]) -> str:
    """The gist of a parser's message, with the nearest key where one was misspelt.

    Args:
        message: what the parser says, of any number of lines.
        keys: the keys there are.

    Example:
        >>> one_line("Key 'trainer.max_epoch' is not expected", ["trainer.max_epochs", "trainer.devices"])
        "Key 'trainer.max_epoch' is not expected; did you mean max_epochs?"
    """
    text = " ".join(line.strip(" -") for line in message.splitlines() if line.strip())
    text = re.sub(r"\s+", " ", text)
    unknown = re.search(r"Key '([\w.+-]+)' is not expected|Unrecognized arguments: --([\w.-]+)", text)
    if unknown:
        name = next(group for group in unknown.groups() if group).rpartition(".")[2]
        near = get_close_matches(name, {key.rpartition(".")[2] for key in keys}, n=3)
        if near:
            text = f"{text.rstrip('.')}; did you mean {', '.join(near)}?"
    return text


class OneLineParser(LightningArgumentParser):
    """LightningCLI's parser, without the usage text in front of every error."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # type: ignore[override]
        """Print one line and exit with status 2; parsers that only try a value raise, as their callers expect."""
        if not self.exit_on_error:
            super().error(message, ex)
        print(f"error: {one_line(message, self.known_keys())}", file=sys.stderr)
        raise SystemExit(2)

    def known_keys(self) -> list[str]:
        """Every key of this parser and of its subcommands."""
        parsers: list[Any] = [self]
        for action in self._actions:
            if isinstance(getattr(action, "choices", None), dict):
                parsers += [parser for parser in action.choices.values() if hasattr(parser, "_actions")]
        return [action.dest for parser in parsers for action in parser._actions if action.dest]
