"""Small runs of the command line, shared by several tests."""

from collections.abc import Callable
from pathlib import Path

import pytest

import cli

TINY = [
    "--config=digits.yaml",
    "--model.net.width=4",
    "--model.net.hidden=8",
    "--model.val_images=20",
    "--model.val_attack.steps=2",
    "--model.test_images=20",
    "--model.test_attack.steps=2",
    "--trainer.accelerator=cpu",
]


@pytest.fixture(scope="session")
def tiny_flags() -> list[str]:
    return TINY


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of one epoch of a tiny KafVGG on the digits, tested afterwards."""
    runs = tmp_path_factory.mktemp("runs")
    cli.main(["fit", "--config=kafvgg_fast_at.yaml", *TINY, "--trainer.max_epochs=1", f"--run.dir={runs}"])
    return runs / "kafvgg_fast_at+digits" / "version_0"


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """Run a command line that must fail, and return the one line of its error."""

    def run(arguments: list[str]) -> str:
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        lines = capsys.readouterr().err.strip().splitlines()
        assert stop.value.code == 2
        assert len(lines) == 1 and lines[0].startswith("error: "), lines
        return lines[0]

    return run
