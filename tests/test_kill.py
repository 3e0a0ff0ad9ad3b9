"""Runs killed by SIGKILL at random steps, under different objectives, equal uninterrupted ones when they are resumed.

Run as a script, this file trains all of them, each in a fork: one process imports the libraries.
"""

import os
import random
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback

FLAGS = ["fit", "--config=kafvgg_elu", "--config=short", "--config=digits", "--trainer.accelerator=cpu"]
FLAGS += ["--model.net.width=4", "--model.net.hidden=8", "--model.net.head_norm=true", "--model.threat.eps=0.2"]
FLAGS += ["--trainer.max_epochs=3", "--trainer.limit_train_batches=6", "--data.batch_size=32", "--run.test=false"]
FLAGS += [
    "--model.val_images=20",
    "--model.val_attack.steps=2",
    "--run.dir=.",
    "--run.name=run",
    "--trainer.callbacks+=test_kill.Kill",
]
GUARD = ["--trainer.callbacks+=OverfittingGuard", "--trainer.callbacks.every=2", "--trainer.callbacks.images=20"]
GUARD += ["--trainer.callbacks.gap=0.01", "--trainer.callbacks.fallback=NFGSM"]
CASES = {name: [] for name in ("fast_at", "n_fgsm", "free_at", "grad_align", "elle", "trades", "mart", "awp")}
CASES |= {"fast_at, averaged": ["--config=ema"], "fast_at, guarded": GUARD}
HOOKS = ["on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end"]


class Kill(Callback):
    """Kills the process in the epoch, batch and hook that the environment names."""


def _hook(name):
    def kill(self, trainer, *rest):
        if os.environ.get("KILL") == f"{trainer.current_epoch} {trainer.fit_loop.batch_idx} {name}":
            os.kill(os.getpid(), signal.SIGKILL)

    return kill


for _name in HOOKS:
    setattr(Kill, _name, _hook(_name))


def run(folder, case, *flags, kill=""):
    """The exit status of a command line in a fork, negative for a signal."""
    folder.mkdir(exist_ok=True)
    if (child := os.fork()) == 0:
        try:
            os.chdir(folder)
            os.environ["KILL"] = kill
            with open("output.txt", "a") as output:
                os.dup2(output.fileno(), 1), os.dup2(output.fileno(), 2)
            cli.main([*FLAGS, f"--config={case.split(',')[0]}", *CASES[case], *flags])
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    import cli

    draw = random.Random(23)
    for number, case in enumerate(CASES):
        where = f"{draw.randint(1, 2)} {draw.randrange(6)} {draw.choice(HOOKS)}"  # no checkpoint before epoch 1
        whole, broken = (Path(sys.argv[1]) / f"{kind}{number}" for kind in ("whole", "broken"))
        statuses = run(whole, case), run(broken, case, kill=where), run(broken, case, "--ckpt_path=last")
        print(case, "|", where, "|", *statuses, flush=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kill")
    path = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, __file__, str(folder)], env=path, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", range(len(CASES)), ids=CASES)
def test_a_killed_run_goes_on_bit_for_bit(number, runs, assert_same):
    folder, lines = runs
    whole, broken = folder / f"whole{number}", folder / f"broken{number}"
    assert lines[number].endswith("| 0 -9 0"), lines[number] + (broken / "output.txt").read_text()[-2000:]
    first, second = (
        torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)
        for path in (whole / "run" / "version_0", broken / "run" / "version_1")
    )
    assert first["global_step"] == second["global_step"] == 18
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "record", "live_net"):
        assert_same(first.get(part), second.get(part), part)
    for name in ("OverfittingGuard", "WeightAverage"):
        assert_same(first["callbacks"].get(name), second["callbacks"].get(name), name)
