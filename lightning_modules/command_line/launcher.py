"""The processes of a run: started by Lightning, by SLURM's ``srun``, or by ``torchrun``."""

import os
from typing import Any

from lightning_fabric.plugins.environments import ClusterEnvironment, LightningEnvironment, SLURMEnvironment

FIRST_RESERVED_STEP = 0xFFFFFFF0  # SLURM's numbers from here on mean a batch script and the like


class LauncherError(ValueError):
    """The processes that a launcher has started are not those that the run expects; raised in all of them."""


def by_torchrun() -> bool:
    """Whether ``torchrun`` has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def by_srun() -> bool:
    """Whether SLURM's ``srun`` has started this process, and not only a script or an interactive shell around it."""
    step = os.environ.get("SLURM_STEP_ID", "")
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return step.isdigit() and int(step) < FIRST_RESERVED_STEP and not interactive


def check_processes(trainer: Any) -> None:
    """Check that the launcher has started as many processes as the run expects.

    Args:
        trainer: the settings ``devices`` and ``num_nodes``.

    Raises:
        LauncherError: if it has not, or if they are not told how many there are on a node.
    """
    if by_torchrun():
        world, here = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
        _compare(trainer, "torchrun", max(1, world // here), here, "torchrun --nnodes={} --nproc-per-node={}")
    elif by_srun():
        tasks = int(os.environ.get("SLURM_NTASKS", "1"))
        nodes = int(os.environ.get("SLURM_NNODES", "1"))
        if tasks > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
            raise LauncherError(
                f"srun has started {tasks} tasks without --ntasks-per-node; write "
                f"--nodes={nodes} --ntasks-per-node={max(1, tasks // nodes)} instead of --ntasks={tasks}"
            )
        _compare(trainer, "srun", nodes, max(1, tasks // nodes), "#SBATCH --nodes={} and --ntasks-per-node={}")


def _compare(trainer: Any, launcher: str, nodes: int, here: int, fix: str) -> None:
    devices = _count(trainer.devices)
    if devices is not None and (trainer.num_nodes, devices) != (nodes, here):
        raise LauncherError(
            f"{launcher} has started {nodes} x {here} processes (nodes x processes per node), and the run expects "
            f"{trainer.num_nodes} x {devices}; set --trainer.num_nodes={nodes} --trainer.devices={here}, or start it "
            f"by {fix.format(trainer.num_nodes, devices)}"
        )


def _count(devices: Any) -> int | None:
    """How many devices a setting means; None if that depends on the machine."""
    if isinstance(devices, list):
        return len(devices)
    return int(devices) if str(devices).isdigit() else None


def environments(plugins: list[Any]) -> list[ClusterEnvironment]:
    """Return the plugin by which Lightning learns its ranks; none if the user has one, or Lightning finds it itself.

    Lightning must not requeue a SLURM job: it would write checkpoints of its own within a signal handler, and the
    script of the job requeues already. Within a job, but without ``srun``, a run is one process or starts its own.
    """
    if by_torchrun() or any(isinstance(plugin, ClusterEnvironment) for plugin in plugins):
        return []
    if by_srun():
        return [SLURMEnvironment(auto_requeue=False)]
    return [LightningEnvironment()] if "SLURM_JOB_ID" in os.environ else []
