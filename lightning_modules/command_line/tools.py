"""The commands that neither train nor evaluate a network: each is a module with a function ``main(arguments)``."""

from collections.abc import Mapping, Sequence
from importlib import import_module

# command -> its module, which is imported only when the command is given
TOOLS: dict[str, str] = {
    "study": "lightning_modules.studies.command",
    "compare": "lightning_modules.comparison",
    "export": "lightning_modules.export",
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
