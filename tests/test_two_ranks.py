"""Two processes train every objective as one process does with the same images at every step.

The network has no batch norm, whose statistics are those of a process's own images, and computes in float64, in which
rounding cannot turn the sign of an input gradient. Run as a script, this file is one of the two processes.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from photographs import write_photographs
from pytorch_lightning import Callback, Trainer

from datamodules import Digits, ImageNetFolder
from kafnets.activations import KAF
from kafnets.attacks import PGD
from kafnets.backbones import LightNet
from kafnets.objectives import AWP, ELLE, MART, NFGSM, TRADES, Adversarial, Clean, Free, GradAlign
from kafnets.threat import ThreatModel
from lightning_modules import AdversarialTraining

OBJECTIVES = {
    "clean": Clean,
    "fast_at": Adversarial,
    "pgd_at": lambda: Adversarial(attack=PGD(steps=2)),
    "n_fgsm": NFGSM,
    "free": lambda: Free(replays=2),
    "grad_align": GradAlign,
    "elle": lambda: ELLE(weight=100.0),
    "elle_constant": lambda: ELLE(weight=100.0, adaptive=False),
    "trades": lambda: TRADES(steps=2),
    "mart": lambda: MART(steps=2),
    "awp": lambda: AWP(objective=Adversarial()),
}
pytestmark = pytest.mark.slow
BATCHES = 5
# name of the job: settings of the trainer; five batches make steps of three and of two
JOBS = {name: {} for name in OBJECTIVES} | {"fast_at accumulated": {"accumulate_grad_batches": 3}}
JOBS |= {"fast_at photographs": {}}  # decoded and cropped by worker processes


class Spy(Callback):
    """Keeps the gradients of every step."""

    def __init__(self):
        self.gradients = []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.gradients.append(torch.cat([p.grad.flatten() for p in module.net.parameters()]))


def images(job, ranks, folder):
    """The data of a job."""
    if "photographs" not in job:
        return Digits(batch_size=32 // ranks)
    folder = Path(folder)
    return ImageNetFolder(
        folder / "photographs", batch_size=32 // ranks, image_size=8, cache=folder, num_workers=ranks - 1
    )


def train(job, ranks, folder):
    """The gradients of every step of a short training with 32 images per batch, and weights and buffers after it."""
    torch.manual_seed(0)
    data = images(job, ranks, folder)
    net = LightNet(activation=KAF, image_size=8, in_channels=data.in_channels, dropout=(0.0, 0.0))
    module = AdversarialTraining(
        net=net,
        objective=OBJECTIVES[job.split()[0]](),
        optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
        threat=ThreatModel(eps=0.1),
    )
    spy = Spy()
    trainer = Trainer(
        accelerator="cpu", devices=ranks, strategy="ddp" if ranks > 1 else "auto", precision="64-true", max_epochs=1,
        limit_train_batches=BATCHES, limit_val_batches=0, callbacks=[spy], use_distributed_sampler=False,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, **JOBS[job],
    )  # fmt: skip
    trainer.fit(module, data)
    kept = [*module.net.parameters(), *module.objective.buffers()]
    weights = torch.cat([tensor.detach().flatten() for tensor in kept])
    return {"gradients": torch.stack(spy.gradients), "weights": weights}


if __name__ == "__main__":
    found = {job: train(job, 2, sys.argv[1]) for job in JOBS}
    torch.save(found, Path(sys.argv[1]) / f"rank{os.environ.get('LOCAL_RANK', 0)}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes has found in every job."""
    folder = tmp_path_factory.mktemp("ranks")
    write_photographs(folder / "photographs", train=60)
    root = Path(__file__).parents[1]
    path = os.environ | {"PYTHONPATH": f"{root}:{root / 'tests' / 'datamodules'}"}
    done = subprocess.run(
        [sys.executable, __file__, str(folder)], cwd=folder, env=path, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("job", JOBS)
def test_the_ranks_agree(job, ranks):
    first, second = (rank[job] for rank in ranks)
    assert torch.equal(first["weights"], second["weights"])
    assert torch.equal(first["gradients"], second["gradients"])


@pytest.mark.parametrize("job", JOBS)
def test_gradients_are_those_of_one_process(job, ranks, tmp_path):
    if "photographs" in job:
        write_photographs(tmp_path / "photographs", train=60)
    one = train(job, 1, tmp_path)
    assert len(one["gradients"]) == (2 if "accumulated" in job else BATCHES * (2 if job == "free" else 1))
    torch.testing.assert_close(ranks[0][job]["gradients"], one["gradients"], rtol=0, atol=1e-6)
    torch.testing.assert_close(ranks[0][job]["weights"], one["weights"], rtol=0, atol=1e-6)
