"""The processes that a launcher has started are those that the run expects, and Lightning does not requeue."""

import os
import signal
from types import SimpleNamespace

import pytest
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

import cli
from lightning_modules.command_line import launcher

SRUN = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
TWO = SRUN | {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "RANK": "0"}


@pytest.fixture
def set_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC_")):
            monkeypatch.delenv(name)
    return lambda variables: [monkeypatch.setenv(*pair) for pair in variables.items()]


@pytest.mark.parametrize(
    ("variables", "devices", "nodes", "expected"),
    [
        (TWO, 1, 1, "srun has started 1 x 2 processes .* expects 1 x 1; set --trainer.num_nodes=1 --trainer.devices=2"),
        (TWO, [0, 1], 2, "or start it by #SBATCH --nodes=2 and --ntasks-per-node=2"),
        (SRUN | {"SLURM_NTASKS": "2"}, 2, 1, "write --nodes=1 --ntasks-per-node=2 instead of --ntasks=2"),
        (TORCHRUN, 2, 1, "torchrun has started 2 x 2 processes .* torchrun --nnodes=1 --nproc-per-node=2"),
    ],
)
def test_other_processes_than_expected_are_refused(set_environment, variables, devices, nodes, expected):
    set_environment(variables)
    with pytest.raises(launcher.LauncherError, match=expected):
        launcher.check_processes(SimpleNamespace(devices=devices, num_nodes=nodes))


def test_the_expected_processes_pass(set_environment):
    set_environment(TWO)
    launcher.check_processes(SimpleNamespace(devices="2", num_nodes=1))
    launcher.check_processes(SimpleNamespace(devices="auto", num_nodes=1))


def test_a_run_of_one_process_among_two_tasks_is_one_line(set_environment, refused, tmp_path, monkeypatch, tiny_flags):
    set_environment(TWO)
    monkeypatch.chdir(tmp_path)
    assert "srun has started 1 x 2 processes" in refused(["fit", "--config=kafvgg_fast_at", *tiny_flags])
    assert not os.listdir()


@pytest.mark.parametrize(
    ("variables", "kind"),
    [(TWO, SLURMEnvironment), ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, LightningEnvironment), ({}, None)],
    ids=["srun", "without srun", "no job"],
)
def test_lightning_learns_its_ranks_from_srun_alone_and_does_not_requeue(set_environment, variables, kind):
    set_environment(variables)
    assert [type(found) for found in launcher.environments([])] == ([kind] if kind else [])
    assert not any(getattr(found, "auto_requeue", False) for found in launcher.environments([]))
    if kind:
        assert launcher.environments([kind()]) == []


def test_a_run_in_a_job_keeps_its_own_signal_handler(set_environment, tmp_path, monkeypatch, tiny_flags):
    set_environment(SRUN | {"SLURM_NTASKS": "1", "SLURM_NNODES": "1"})
    found = []

    class Stop(cli.CLI):
        def fit(self, *_, **__):
            environment = self.trainer._accelerator_connector.cluster_environment
            found.extend([signal.getsignal(signal.SIGUSR1).__module__, environment.auto_requeue])
            raise SystemExit(0)

    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGINT)}
    monkeypatch.setattr(cli, "CLI", Stop)
    try:
        with pytest.raises(SystemExit):
            cli.main(["fit", "--config=kafvgg_fast_at", *tiny_flags, f"--run.dir={tmp_path}"])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert found == ["lightning_modules.command_line.signals", False]
