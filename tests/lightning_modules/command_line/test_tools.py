import pytest

import cli
from lightning_modules.command_line.tools import TOOLS, run_tool


def main(arguments):
    if arguments == ["Ctrl-C"]:
        raise KeyboardInterrupt
    raise ValueError(f"got {arguments}")


def test_a_tool_gets_the_arguments_after_its_name(monkeypatch, capsys):
    monkeypatch.setitem(TOOLS, "greet", __name__)
    with pytest.raises(SystemExit) as stop:
        cli.main(["greet", "Ada", "--loud"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: got ['Ada', '--loud']")


def test_an_interrupted_tool_ends_without_a_traceback(monkeypatch):
    monkeypatch.setitem(TOOLS, "greet", __name__)
    with pytest.raises(SystemExit) as stop:
        cli.main(["greet", "Ctrl-C"])
    assert stop.value.code == 130


def test_other_commands_are_left_alone():
    assert not run_tool(["fit", "--config", "x"])
    assert not run_tool([])
