"""Commands, code, paths, links and names in README.md and docs/ exist and work."""

import contextlib
import io
import pydoc
import re
import shlex
from pathlib import Path

import pytest
import yaml

import cli
from kafnets.backbones import KafVGG
from kafnets.saved import write_network
from lightning_modules.command_line.config_files import NAMED
from lightning_modules.command_line.tools import TOOLS
from lightning_modules.studies import command as study
from lightning_modules.studies.grid import Member, load_study

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]}
README, TEXT = PAGES["README.md"], "\n".join(PAGES.values())
CONFIGS = {path.stem for path in ROOT.glob("configs/*.yaml")}
CONFIGS |= set(yaml.safe_load((ROOT / "configs" / NAMED).read_text()))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = [(page, language, code) for page, text in PAGES.items() for language, code in FENCE.findall(text)]
INLINE = re.findall(r"`([^`\n]+)`", FENCE.sub("", TEXT))
PYTHON = [(page, code) for page, language, code in BLOCKS if language == "python"]
SHELL = [line for _, language, code in BLOCKS if not language for line in code.splitlines()]

# what the pages leave open in a command
PLACEHOLDERS = {"FILE_OR_FOLDER": "images.tar.gz", "OTHER.ckpt": "other.ckpt"}
SIZES = ["--data.num_classes=10", "--data.in_channels=3", "--data.image_size=32"]
# the flags that the pages name on their own, to be added to some command
FLAGS = [text for text in INLINE if re.match(r"--(model|data|trainer|config|run)\b.*[= ]", text)]
ELSEWHERE = ("--trainer.callbacks.", "mine.")  # flags of a test, and of files that the reader writes


def commands() -> list[str]:
    found = [text for text in [*SHELL, *INLINE] if "python cli.py" in text]
    added = [f"python cli.py fit --config kafvgg_fast_at.yaml {flags}" for flags in FLAGS]
    added = [command for command in added if not any(text in command for text in ELSEWHERE)]
    found = [text[text.index("python cli.py") :] for text in [*found, *added] if "mine.yaml" not in text]
    found = [text for text in found if tool_of(text) not in TOOLS]
    # commands that differ in names and numbers of images alone are parsed once
    alike = [re.sub(r"runs/\w+/version_0", "RUN", re.sub(r"--run.name \w+", "--run.name mine", text)) for text in found]
    return sorted({re.sub(r"test_images=\d+", "test_images=50", text) for text in alike})


def tool_of(command: str) -> str:
    return command.partition("cli.py ")[2].partition(" ")[0]


def parsed(command: str) -> dict:
    """The configuration that a command gives."""
    for name, value in PLACEHOLDERS.items():
        command = re.sub(rf"\b{re.escape(name)}(?=$|[ /])", value, command)
    # a checkpoint stands for the config of its network
    command = re.sub(r"--ckpt_path [^ ]+", "" if " fit " in command else "--config kafvgg_fast_at.yaml", command)
    stated = SIZES if PLACEHOLDERS["FILE_OR_FOLDER"] in command else []  # so that no file is read
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as stop:
        cli.main([*shlex.split(command, comments=True)[2:], *stated, "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(printed.getvalue())


def members(command: str) -> list[Member]:
    """The members of the study that a command runs."""
    own, _ = study.split_flags(shlex.split(command)[3:])
    options = study.parser().parse_args(own)
    return load_study(options.config, [study.CONFIGS], short=options.short)[1]


def shortened(code: str) -> str:
    for long, short in (("steps=50", "steps=2"), ("restarts=10", "restarts=1"), ("depth=20", "depth=8")):
        code = code.replace(long, short)
    return code


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 130


def test_the_python_example_of_the_readme_counts_robust_accuracy(capsys):
    (code,) = [code for page, code in PYTHON if page == "README.md"]
    exec(compile(shortened(code), "README.md", "exec"), {})
    assert "robust" in capsys.readouterr().out


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """The working directory holds the network that docs/sharing.md exports."""
    monkeypatch.chdir(tmp_path)
    sizes = {"in_channels": 1, "image_size": 8, "width": 2}
    Path("kafvgg-digits").mkdir()
    write_network(Path("kafvgg-digits"), KafVGG(**sizes), {"class": "KafVGG", "arguments": sizes}, {})


@pytest.mark.usefixtures("exported")
@pytest.mark.parametrize(("page", "code"), PYTHON, ids=[f"{page}-{i}" for i, (page, _) in enumerate(PYTHON)])
def test_a_python_example_runs_and_prints_what_its_comment_says(page, code, capsys):
    exec(compile(shortened(code), page, "exec"), {"__name__": page})
    said = [shortened(text) for text in re.findall(r"^print\(.*\)  # (.+)$", code, re.MULTILINE)]
    printed = capsys.readouterr().out
    assert all(text.replace("PGD-50-10", "PGD-2-1") in printed for text in said)


@pytest.mark.parametrize("command", commands())
def test_the_flags_of_a_command_parse(command):
    parsed(command)


@pytest.mark.parametrize("tool", TOOLS)
def test_the_flags_of_a_tool_exist(tool, capsys):
    shown = [text for text in [*SHELL, *INLINE] if "python cli.py" in text and tool_of(text) == tool]
    with pytest.raises(SystemExit) as stop:
        cli.main([tool, "--help"])
    known = set(re.findall(r"--[\w.]+", capsys.readouterr().out))
    assert stop.value.code == 0 and shown
    shown = [re.sub('"[^"]*"', "", text) for text in shown]  # quoted flags are those of another command
    flags = {flag for text in shown for flag in re.findall(r"--[\w.]+", text)}
    assert {flag for flag in flags if "." not in flag or tool != "study"} <= known  # the others are of its members


def test_the_pages_show_commands_and_flags():
    assert len([command for command in commands() if " fit " in command]) > 20
    assert any(" test " in command for command in commands())


@pytest.mark.parametrize("code", [code for _, language, code in BLOCKS if language == "yaml"])
def test_a_config_example_parses(code, tmp_path, monkeypatch):
    name, command = re.match(r"# (\w+\.yaml): (python cli.py .+)", code).groups()
    (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    if command.startswith("python cli.py study"):
        assert [member.name for member in members(command)] == [
            "relu-4_255-0",
            "relu-8_255-0",
            "kaf-4_255-0",
            "kaf-8_255-0",
        ]
        return
    config, written = parsed(command), yaml.safe_load(code)
    assert config["trainer"]["max_epochs"] == written["trainer"]["max_epochs"]
    assert config["model"]["init_args"]["threat"]["init_args"]["eps"] == written["model"]["threat"]["eps"]
    assert config["trainer"]["callbacks"][-1]["class_path"].endswith("LearningRateMonitor")


def test_every_config_that_is_named_exists():
    named = {name.removesuffix(".yaml") for name in re.findall(r"--config ([\w.]+)(?![\w./])", TEXT)}
    named |= {text.removesuffix(".yaml") for text in INLINE if re.fullmatch(r"\w+\.yaml", text)}
    named -= {"mine", "config", "hparams"}  # the reader's own, and files of a run folder
    assert len(named) > 10
    assert named <= CONFIGS


def test_every_config_is_explained():
    explained = set(re.findall(r"`(\w+)`", PAGES["docs/configs.md"]))
    assert explained >= CONFIGS


def test_every_name_in_the_tables_of_configs_is_a_config():
    tables = PAGES["docs/configs.md"].partition("Six shortcuts")[0]
    rows = [row for row in tables.splitlines() if row.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    trainings = ("fast_at", "pgd_at", "free_at", "imagenet_fast_at")
    assert named == {name for name in CONFIGS if not name.endswith("_at") or name in trainings}


def test_every_path_that_is_named_exists():
    folders = "benchmarks|tests|docs|kafnets|configs|lightning_modules|datamodules"
    paths = set(re.findall(rf"(?<![\w/.~-])((?:{folders})/[\w/.-]*[\w/])", TEXT))
    assert {"docs/pictures/deep_norms_before.png", "benchmarks/robustness.py", "kafnets/ops/"} <= paths
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing


def test_every_dotted_name_exists():
    names = set(re.findall(r"\b((?:kafnets|lightning_modules|datamodules)(?:\.\w+)+)", TEXT))
    assert names
    missing = [name for name in names if pydoc.locate(name) is None]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_and_picture_resolves(page):
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)#][^)]*)\)", PAGES[page])]
    missing = [t for t in targets if "://" not in t and not ((ROOT / page).parent / t).is_file()]
    assert not missing


def test_every_page_is_linked_from_the_readme():
    assert all(f"({page})" in README for page in PAGES if page != "README.md")


def test_every_make_target_exists():
    targets = set(re.findall(r"(?:^|`)make (\w+)", TEXT, re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text()
    assert {"demo", "test"} <= targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
