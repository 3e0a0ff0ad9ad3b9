"""The commands of the README for the digits, run one after the other as they are written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_commands_for_the_digits_run_in_their_order(tmp_path):
    for name in ("cli.py", "configs", "kafnets", "lightning_modules", "datamodules"):
        (tmp_path / name).symlink_to(ROOT / name)
    section = (ROOT / "README.md").read_text().partition("## Train, test, compare")[2]
    commands = re.search(r"^```\n(.*?)^```", section, re.MULTILINE | re.DOTALL)[1]
    assert commands.count("\n") == 5 and "digits.yaml" in commands and "cli.py compare" in commands
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", commands],
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    last = done.stdout.splitlines()
    assert any(line.startswith("worst case") for line in last[-20:]), last[-20:]
    for run in ("kaf", "relu"):
        found = {path.name for path in (tmp_path / "runs" / run / "version_1").iterdir()}
        assert {"robustness.json", "robustness.md", "robustness.png", "robustbench.json"} <= found
