"""Two processes train the same whoever starts them, and go on after a stop or after the loss of a machine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
FIT = [str(ROOT / "cli.py"), "fit", "--config=kafvgg_swish", "--config=fast_at", "--config=digits", "--config=ddp"]
FIT += ["--trainer.accelerator=cpu", "--model.net.width=4", "--model.net.hidden=8", "--model.val_images=20"]
FIT += ["--model.val_attack.steps=2", "--trainer.max_epochs=2", "--trainer.limit_train_batches=6"]
FIT += ["--run.name=run", "--run.test=false", "--trainer.callbacks+=trouble.Trouble"]
STEPS = 12

# what the environment asks for, in the second epoch of the first run: both processes get a signal, in different steps;
# or the second process and its launcher are killed, as when a machine is lost
TROUBLE = """
import os, pathlib, signal
from pytorch_lightning import Callback

class Trouble(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        trouble, rank = os.environ.get("TROUBLE"), trainer.global_rank
        if trainer.current_epoch != 1 or not trouble or pathlib.Path(f"happened{rank}").exists():
            return
        if batch_idx == 3 - rank:
            pathlib.Path(f"happened{rank}").touch()
            if trouble == "signal":
                os.kill(os.getpid(), signal.SIGUSR1)
            elif rank == 1:
                os.kill(os.getppid(), signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)
"""


def start(folder, *words, **variables):
    folder.mkdir(exist_ok=True)
    (folder / "trouble.py").write_text(TROUBLE)
    environment = os.environ | {"PYTHONPATH": f"{folder}:{ROOT}", "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen(
            list(map(str, words)), cwd=folder, env=environment | variables, stdout=output, stderr=subprocess.STDOUT
        )


def finish(process, folder, status=0):
    found = process.wait(timeout=250)
    assert found == status, (found, (folder / "output.txt").read_text()[-4000:])


def last(folder, version=0):
    return torch.load(folder / f"runs/run/version_{version}/checkpoints/last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The last checkpoint of a run on one machine, started by Lightning."""
    folder = tmp_path_factory.mktemp("whole")
    finish(start(folder, sys.executable, *FIT), folder)
    return last(folder)


@pytest.fixture
def check(whole, assert_same):
    def equal(found):
        assert found["global_step"] == whole["global_step"] == STEPS
        for part in ("state_dict", "optimizer_states", "lr_schedulers"):
            assert_same(found[part], whole[part], part)

    return equal


def srun(folder, *flags, **variables):
    """Two tasks with the variables that SLURM's srun sets."""
    about = {"SLURM_JOB_ID": "1234", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    about |= {"SLURM_NNODES": "1", "SLURM_NODEID": "0", "MASTER_ADDR": "127.0.0.1"} | variables
    words = [sys.executable, *FIT, *flags]
    return [start(folder, *words, **about, SLURM_PROCID=rank, SLURM_LOCALID=rank) for rank in "01"]


@pytest.mark.slow
def test_tasks_of_srun_that_get_a_signal_in_different_steps_stop_together_and_go_on(tmp_path, check):
    for task in srun(tmp_path, TROUBLE="signal"):
        finish(task, tmp_path, 138)
    assert last(tmp_path)["global_step"] == 10  # the second process got it after its ninth step
    assert [run.name for run in (tmp_path / "runs" / "run").iterdir()] == ["version_0"]
    for task in srun(tmp_path, "--ckpt_path=last"):
        finish(task, tmp_path)
    check(last(tmp_path, version=1))


def torchrun(folder, *flags, **variables):
    return start(folder, sys.executable, "-m", "torch.distributed.run", *flags, *FIT, **variables)


@pytest.mark.slow
def test_torchrun_trains_as_lightning_itself(tmp_path, check):
    finish(torchrun(tmp_path, "--standalone", "--nproc-per-node=2"), tmp_path)
    check(last(tmp_path))


@pytest.fixture
def two_machines():
    """The command words of two network namespaces that a virtual cable joins; their addresses end in 1 and 2."""
    if not shutil.which("ip") or os.geteuid() != 0:
        pytest.skip("network namespaces need the program ip and root")
    names = [f"kafnets{os.getpid()}{end}" for end in "ab"]
    made = subprocess.run(["ip", "netns", "add", names[0]], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"this machine makes no network namespaces: {made.stderr.strip()}")
    try:
        subprocess.run(["ip", "netns", "add", names[1]], check=True)
        cable = ["ip", "link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable"]
        subprocess.run([*cable, "netns", names[1]], check=True)
        for end, name in enumerate(names, 1):
            for command in (f"address add 10.77.0.{end}/24 dev cable", "link set cable up", "link set lo up"):
                subprocess.run(["ip", "-n", name, *command.split()], check=True)
        yield [["ip", "netns", "exec", name] for name in names]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.mark.slow
def test_a_lost_machine_comes_back_and_the_run_goes_on(two_machines, tmp_path, check):
    def node(end):
        flags = ["--nnodes=2", "--nproc-per-node=1", "--max-restarts=3", "--rdzv-backend=c10d", "--rdzv-id=1"]
        flags += ["--rdzv-endpoint=10.77.0.1:29400", f"--local-addr=10.77.0.{end}"]
        flags += [f"--rdzv-conf=is_host={int(end == 1)},keep_alive_interval=1"]  # a namespace has no name of its own
        words = [*two_machines[end - 1], sys.executable, "-m", "torch.distributed.run", *flags, *FIT]
        nodes = ["--trainer.num_nodes=2", "--trainer.devices=1", "--ckpt_path=last_if_any"]
        variables = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "GLOO_SOCKET_IFNAME": "cable"}
        return start(tmp_path, *words, *nodes, TROUBLE="kill", **variables)

    first, second = node(1), node(2)
    try:
        finish(second, tmp_path, -9)
        assert last(tmp_path)["global_step"] == STEPS // 2
        second = node(2)
        finish(first, tmp_path)
        finish(second, tmp_path)
    finally:
        first.kill(), second.kill()
    check(last(tmp_path, version=1))
