"""Small runs of the command line, shared by several tests."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import cli

# pytest shows these warnings, users never see them; the first command line of a process would print them
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"

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


WAITING = {"aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::masked_select"}


class Waits(TorchDispatchMode):
    """Counts the operations for which the CPU would wait if the tensors were on a GPU; ``count`` is their number."""

    count = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = op._schema.name
        indices = args[1] if name in ("aten::index", "aten::index_put_", "aten::index_put") else []
        self.count += name in WAITING or any(index is not None and index.dtype == torch.bool for index in indices)
        return op(*args, **(kwargs or {}))


@pytest.fixture
def waits() -> Waits:
    """A context that counts waits for the device."""
    return Waits()


def same_bits(first: Any, second: Any, where: str = "checkpoint") -> None:
    """Assert that two parts of checkpoints have the same structure and the same bits."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second) and first.dtype == second.dtype, where
    elif isinstance(first, dict):
        assert list(first) == list(second), where
        for key, value in first.items():
            same_bits(value, second[key], f"{where}[{key!r}]")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for i, pair in enumerate(zip(first, second, strict=True)):
            same_bits(*pair, f"{where}[{i}]")
    else:
        assert first == second, where


@pytest.fixture
def assert_same() -> Callable[..., None]:
    return same_bits
