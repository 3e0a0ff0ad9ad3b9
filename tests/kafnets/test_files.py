"""A file that is being replaced is always the old one or the new one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kafnets.files import written_whole

ROOT = Path(__file__).parents[2]
LONG = "new" * 100_000


@pytest.fixture
def old(tmp_path):
    file = tmp_path / "state.json"
    file.write_text("old")
    return file


def in_another_process(code, file):
    """Run a line of code in another process, with its temporary file as ``part``; returns the exit status."""
    start = "import os, signal, sys\nfrom pathlib import Path\nfrom kafnets.files import written_whole\n"
    code = f"{start}with written_whole(Path(sys.argv[1])) as part:\n    {code}"
    return subprocess.run(
        [sys.executable, "-c", code, str(file)], env={**os.environ, "PYTHONPATH": str(ROOT)}
    ).returncode


def names(file):
    return [path.name for path in file.parent.iterdir()]


def test_a_new_file_is_absent_until_it_is_whole(tmp_path):
    file = tmp_path / "state.json"
    with written_whole(file) as part:
        part.write_text(LONG)
        assert not file.exists()
        assert (part.parent, part.suffix) == (file.parent, ".json")
    assert file.read_text() == LONG
    assert names(file) == ["state.json"]


def test_an_old_file_stays_until_the_new_one_is_whole(old):
    with written_whole(old) as part:
        part.write_text(LONG)
        assert old.read_text() == "old"
    assert old.read_text() == LONG
    assert names(old) == ["state.json"]


def test_a_reader_that_has_opened_the_old_file_reads_it_to_its_end(old):
    with old.open() as reader:
        with written_whole(old) as part:
            part.write_text(LONG)
        assert reader.read() == "old"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_keeps_the_old_file_and_leaves_no_other(old, error):
    with pytest.raises(error), written_whole(old) as part:
        part.write_text(LONG)
        raise error
    assert old.read_text() == "old"
    assert names(old) == ["state.json"]


def test_an_exception_leaves_no_new_file(tmp_path):
    with pytest.raises(ValueError, match="stop"), written_whole(tmp_path / "state.json") as part:
        part.write_text("half")
        raise ValueError("stop")
    assert list(tmp_path.iterdir()) == []


def test_a_body_that_writes_nothing_is_an_error_and_keeps_the_old_file(old):
    with pytest.raises(FileNotFoundError), written_whole(old):
        pass
    assert old.read_text() == "old"
    assert names(old) == ["state.json"]


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), written_whole(tmp_path / "nowhere" / "state.json") as part:
        part.write_text("new")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_leaves_the_old_file(old):
    code = "part.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    assert in_another_process(code, old) == -signal.SIGKILL
    assert old.read_text() == "old"


def test_of_two_processes_that_write_at_once_the_last_to_end_wins(old):
    with written_whole(old) as part:
        part.write_text(LONG)
        assert in_another_process("part.write_text('other')", old) == 0
        assert old.read_text() == "other"
        assert part.read_text() == LONG
    assert old.read_text() == LONG
    assert names(old) == ["state.json"]


def test_an_exception_in_one_process_does_not_disturb_another(old):
    with written_whole(old) as part:
        part.write_text(LONG)
        assert in_another_process("part.write_text('half'); sys.exit(3)", old) == 3
        assert old.read_text() == "old"
    assert old.read_text() == LONG
    assert names(old) == ["state.json"]
