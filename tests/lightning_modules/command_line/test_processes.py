"""What a process says when another one of its run has ended."""

import pytest
from pytorch_lightning.utilities import rank_zero_only
from torch import distributed

from lightning_modules.command_line.processes import lost_process

GLOO = RuntimeError(
    "[/third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]: Connection reset by peer"
)


@pytest.mark.parametrize("error", [GLOO, distributed.DistBackendError("NCCL error: remote process exited")])
def test_a_lost_connection_is_one_line(error):
    line = lost_process(error)
    assert line == (
        "rank 0 has lost another process of this run, which failed or was killed; a fit goes on from its last "
        "finished epoch with --ckpt_path last"
    )


def test_other_errors_are_not_explained():
    assert lost_process(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None


def test_another_rank_leaves_the_line_to_the_first(monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert lost_process(GLOO) == ""
