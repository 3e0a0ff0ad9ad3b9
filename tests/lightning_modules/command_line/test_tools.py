import cli
from lightning_modules.command_line.tools import TOOLS, run_tool


def main(arguments):
    raise ValueError(f"got {arguments}")


def test_a_tool_gets_the_arguments_after_its_name(monkeypatch, capsys):
    monkeypatch.setitem(TOOLS, "greet", __name__)
    try:
        cli.main(["greet", "Ada", "--loud"])
    except SystemExit as stop:
        assert stop.code == 2
    assert capsys.readouterr().err.startswith("error: got ['Ada', '--loud']")


def test_other_commands_are_left_alone():
    assert not run_tool(["fit", "--config", "x"])
    assert not run_tool([])
