"""The commands that neither train nor evaluate a network: each is a module with a function ``main(arguments)``."""

from collections.abc import Mapping, Sequence
from importlib import import_module

from lightning_modules.command_line.suggestions import closest

# command -> its module, which is imported only when the command is given
TOOLS: dict[str, str] = {
    "study": "lightning_modules.studies.command",
    "compare": "lightning_modules.comparison",
    "export": "lightning_modules.export",
    "inspect": "lightning_modules.inspection",
    "dashboard": "lightning_modules.dashboard",
}


def run_tool(arguments: Sequence[str], tools: Mapping[str, str] = TOOLS) -> bool:
    """Run the tool that the first argument names, with the other arguments; return False if it names none.

    A tool reads its arguments with a :class:`~lightning_modules.command_line.parser.OneLineParser`, and raises
    ``ValueError`` or ``OSError`` at a known mistake, which the command line prints as one line.
    """
    module = tools.get(arguments[0]) if arguments else None
    if module:
        import_module(module).main(list(arguments[1:]))
    return module is not None


def check_command(arguments: Sequence[str], trainings: Sequence[str]) -> None:
    """Raise ``ValueError`` if the first argument is a word that is no command.

    Args:
        arguments: of the command line.
        trainings: the commands that are no tools, such as ``fit``.

    Example:
        >>> check_command(["studdy", "--config", "x"], ["fit", "test"])
        Traceback (most recent call last):
        ...
        ValueError: there is no command 'studdy'; did you mean study?
    """
    command = arguments[0] if arguments else "-"
    known = [*trainings, *TOOLS]
    if command.startswith("-") or command in known:
        return
    near = closest(command, known)
    raise ValueError(
        f"there is no command {command!r}; "
        + (f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}")
    )
