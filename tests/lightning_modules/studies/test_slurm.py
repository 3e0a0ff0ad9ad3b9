"""``cli.py study --slurm`` and ``--sweep``: the files they write, and an array job in a stand-in for SLURM."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from fake_slurm import install
from tiny_study import TINY

import cli
from lightning_modules.studies import command, slots, slurm
from lightning_modules.studies.grid import load_study
from lightning_modules.studies.job import Job
from lightning_modules.studies.member_record import read_member
from lightning_modules.studies.runner import Runner
from lightning_modules.studies.slurm import sbatch_options

STUDY = (
    TINY
    + """\
  trainer.max_epochs: 12
grid:
  model.optimizer.lr: [0.05, 0.1, 1.0e+30, 0.02]
  seed: [0]
"""
)
ALL = ["0.05-0", "0.1-0", "1e+30-0", "0.02-0"]


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The first words of a command for the study above, whose command lines are not parsed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "errors_of", lambda commands: [None] * len(commands))
    Path("mine.yaml").write_text(STUDY)
    return ["study", "--config", "mine.yaml"]


def test_a_dry_run_prints_the_script_of_the_array_job(study, capsys):
    options = "--time=4:00:00 -p gpu --gpus-per-node=2"
    flags = ["--data.path", "my images", "--trainer.devices=2", "--trainer.num_nodes=4"]
    cli.main([*study, "--slurm", "--dry_run", "--jobs=3", "--sbatch", options, *flags])
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash" and os.listdir() == ["mine.yaml"]
    for option in ("--array=0-3%3", "--nodes=4", "--ntasks-per-node=2", "--requeue", "--time=4:00:00", "-p gpu"):
        assert f"#SBATCH {option}" in lines
    assert f"members=({' '.join(ALL)})" in lines
    (line,) = [line for line in lines if line.endswith("--srun &")]
    words = shlex.split(line)
    assert words[2:5] == study and "--data.path=my images" in words and "--run.dir=runs" in words
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


def test_a_sweep_names_members_and_its_command_is_a_study_with_one(study, capsys):
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    cli.main([*study, "--sweep"])
    path = Path("runs/mine/sweep.yaml")
    assert str(path) in capsys.readouterr().out
    content = yaml.safe_load(path.read_text())
    assert content["method"] == "grid" and content["parameters"] == {"only": {"values": ALL}}
    # what an agent makes of it
    args = create_sweep_command_args({"args": {"only": {"value": ALL[1]}}})["args"]
    words = [part for word in content["command"] for part in (args if word == "${args}" else [word])]
    assert words[2:] == [*study, "--run.dir=runs", "--results=results", "--wandb", "--only=0.1-0"]
    cli.main([*words[2:], "--dry_run"])
    printed = capsys.readouterr().out
    assert "--run.name=0.1-0" in printed and printed.count("--config wandb") == 1


def test_a_logger_is_added_once_and_is_no_setting_of_a_member(study):
    members = load_study("mine.yaml", [])[1]
    plain, logged = (
        command._jobs("mine", members, [], Path("runs"), Path("results"), wandb=on) for on in (False, True)
    )
    assert [job.identity for job in plain] == [job.identity for job in logged]
    assert logged[0].arguments()[-4:-2] == ["--config", "wandb"] and "wandb" not in plain[0].arguments()
    Path("mine.yaml").write_text(STUDY.replace("cpu]", "cpu, wandb]"))
    own = command._jobs("mine", load_study("mine.yaml", [])[1], [], Path("runs"), Path("results"), wandb=True)
    assert own[0].arguments().count("wandb") == 1 and own[0].identity == plain[0].identity


MISTAKES = {
    "no sbatch": (["--slurm"], "--slurm submits by sbatch, which is not on the PATH"),
    "no member": (["--only=0.2-0"], "study mine has no member 0.2-0; did you mean 0.02-0?"),
    "both": (["--slurm", "--sweep"], "choose one"),
    "no slurm": (["--sbatch=--mem=1G"], "--sbatch is for --slurm"),
    "ours": (["--slurm", "--dry_run", "--sbatch=--array=1-3"], "--sbatch holds --array=1-3, which the study sets"),
    "jobs": (["--slurm", "--dry_run", "--jobs=0"], "--jobs must be 1 or more, got 0"),
    "no number": (["--slurm", "--dry_run", "--trainer.devices=auto"], "member 0.05-0 has trainer.devices 'auto'"),
    "hidden": (
        ["--slurm", "--dry_run", "--trainer.devices=2", "--sbatch=--gpus-per-task=1"],
        "write --gpus-per-node=2",
    ),
    "no member for srun": (["--srun"], "say which with --only"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_before_any_work(study, refused, name, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    flags, expected = MISTAKES[name]
    assert expected in refused([*study, *flags])
    assert os.listdir() == ["mine.yaml"]


@pytest.mark.parametrize("text", ["gpu", "--time=1 2", "-N2", "--signal=USR1@60", "--nodes 3"])
def test_options_that_are_wrong_or_not_the_users_are_refused(text):
    with pytest.raises(ValueError, match="--sbatch holds "):
        sbatch_options(text)


def test_a_refusal_of_sbatch_is_told(study, refused, monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: no such account' >&2\nexit 1\n")
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    assert "sbatch: error: no such account" in refused([*study, "--slurm"])


def test_a_file_system_without_locks_is_told(make_job, monkeypatch, tmp_path):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lightning_modules.studies.job.fcntl.flock", refuse)
    job: Job = make_job("a")
    with pytest.raises(OSError, match="the file system of runs"):
        job.lock()


def test_a_member_that_is_stopped_before_its_first_checkpoint_is_not_requeued(fake_cli, make_job, monkeypatch):
    (fake_cli / "bin").mkdir()
    (fake_cli / "bin" / "srun").write_text('#!/bin/sh\nshift\nexec "$@"\n')
    (fake_cli / "bin" / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake_cli}/bin:{os.environ['PATH']}")
    Path("runs/mine").mkdir(parents=True)
    runner = Runner([make_job("hangs")], [{}], None, Path("runs/mine/study.log"), srun=True)

    def limit():
        while not Path("hanging").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR1)

    threading.Thread(target=limit).start()
    with pytest.raises(SystemExit) as stop:
        runner.run()
    assert stop.value.code == 1  # the script of the array job requeues at 138
    assert "give the job more time" in runner.failed["hangs"]


PREEMPTED = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
open("ready", "w").close()
time.sleep(60)
"""


@pytest.mark.parametrize(("state", "requeued"), [("RUNNING", True), ("COMPLETING", False)])
def test_the_script_requeues_a_task_that_is_preempted_but_not_one_that_is_cancelled(
    make_job, monkeypatch, tmp_path, state, requeued
):
    install(tmp_path / "bin")
    (tmp_path / "cli.py").write_text(PREEMPTED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm, "ROOT", tmp_path)
    text = slurm.script([make_job("a")], ["--config", "mine.yaml"], [], None)
    about = {"SLURM_ARRAY_JOB_ID": "500", "SLURM_ARRAY_TASK_ID": "0", "FAKE_STATE": state}
    task = subprocess.Popen(
        ["bash", "-c", text], env=os.environ | about | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    )
    while not Path("ready").exists():
        time.sleep(0.01)
    task.send_signal(signal.SIGTERM)
    assert task.wait(timeout=60) == 143
    assert Path("requeue_500_0").exists() == requeued


@pytest.mark.parametrize(("tasks", "status"), [("1", 143), ("2", 1)])
def test_a_member_that_slurm_preempts_is_stopped_not_failed(fake_cli, make_job, monkeypatch, tasks, status):
    """Of several tasks, srun stops the others by SIGTERM when one has failed; that leaves no new checkpoint."""
    monkeypatch.setattr("lightning_modules.studies.runner.SRUN", ["env", f"SLURM_NTASKS={tasks}"])
    monkeypatch.setenv("SLURM_NTASKS", tasks)
    Path("cli.py").write_text("raise SystemExit(143)")
    Path("runs/mine").mkdir(parents=True)
    job = make_job("a")
    with pytest.raises(SystemExit) as stop:
        Runner([job], [{}], None, Path("runs/mine/study.log"), srun=True).run()
    assert stop.value.code == status
    assert job.status()["status"] == ("stopped" if status == 143 else "failed")


def test_members_share_the_gpus(monkeypatch):
    monkeypatch.setattr(slots, "_gpus", lambda: ["0", "1", "2"])
    shares = {jobs: [slot["CUDA_VISIBLE_DEVICES"] for slot in slots.slots(jobs)] for jobs in (1, 2, 4)}
    assert shares == {1: ["0,1,2"], 2: ["0", "1"], 4: ["0", "1", "2", "0"]}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_array_job_survives_a_time_limit_a_preemption_and_the_loss_of_a_node(tmp_path, monkeypatch, study, capsys):
    install(tmp_path / "bin")
    for name, value in {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "MPLBACKEND": "agg"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FAKE_LIMIT", "0")
    monkeypatch.setenv("FAKE_LOSS", "1")
    monkeypatch.setenv("FAKE_PREEMPT", "3")
    cli.main([*study, "--slurm"])
    assert "submitted job 500, written to runs/mine/_slurm/array_0.sh" in capsys.readouterr().out
    output = {index: Path(f"runs/mine/_slurm/500_{index}.txt").read_text() for index in range(4)}
    assert json.loads(Path("tasks.json").read_text()) == [[138, 0], [-9, 0], [1], [143, 0]], output
    assert "0.05-0 was stopped" in output[0] and "1e+30-0 has failed: error: the loss is" in output[2]
    for index, name in ((0, ALL[0]), (1, ALL[1]), (3, ALL[3])):
        assert f"{name} goes on from runs/mine/{name}/version_0/checkpoints/last.ckpt" in output[index]
        words = [*read_member(f"results/mine/{name}.json")["command"], "--run.dir=whole", f"--run.name={name}"]
        subprocess.run([sys.executable, cli.__file__, *words], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        whole = json.loads(Path(f"whole/{name}/version_0/results.json").read_text())
        record = read_member(f"results/mine/{name}.json")
        for field in ("network_sha256", "clean"):
            assert record[field] == whole[field]
    cli.main([*study, "--dry_run"])
    printed = capsys.readouterr().out
    assert "4 members, 3 of them done" in printed
