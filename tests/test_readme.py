"""What the README tells people to type exists and runs."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_python_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    code = code.replace("steps=50, restarts=10", "steps=2, restarts=1")
    exec(compile(code, "README.md", "exec"), {})
    assert "robust" in capsys.readouterr().out


def test_every_config_and_file_it_names_is_there():
    named = set(re.findall(r"--config (\w+\.yaml)", README))
    assert named and all((ROOT / "configs" / name).is_file() for name in named)
    paths = set(re.findall(r"\b((?:benchmarks|tests)/[\w/]+\.(?:py|png))", README))
    assert paths and all((ROOT / path).is_file() for path in paths)


def test_both_commands_are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
