"""Parses command lines and runs none: a process of its own, which reads them as JSON and writes their errors.

``cli.py`` changes signal handlers, seeds and warnings of its process, which the study itself must not.
"""

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def errors_of(commands: Sequence[Sequence[str]]) -> list[str | None]:
    """Return for each command line of ``cli.py`` why it can't run; None if it can.

    Nothing is built but the data module, which tells the sizes of the images.
    """
    done = subprocess.run(
        [sys.executable, __file__], input=json.dumps(list(map(list, commands))), capture_output=True, text=True
    )
    if done.returncode:
        raise OSError(f"the command lines can't be checked: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _error_of(cli: Any, command: list[str]) -> str | None:
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.main(command)
        except SystemExit as stop:
            if not stop.code:
                return None
    lines = errors.getvalue().strip().splitlines() or ["it can't be parsed"]
    return lines[-1].removeprefix("error: ").removesuffix("  (KAFNETS_TRACEBACK=1 shows where)")


def _main() -> None:
    sys.path[0] = str(ROOT)
    sys.path.append(os.getcwd())  # class paths may name the user's own modules
    cli: Any = importlib.import_module("cli")

    class ParseOnly(cli.CLI):
        def before_instantiate_classes(self) -> None:
            raise SystemExit(0)

    cli.CLI = ParseOnly
    print(json.dumps([_error_of(cli, command) for command in json.load(sys.stdin)]))


if __name__ == "__main__":
    _main()
