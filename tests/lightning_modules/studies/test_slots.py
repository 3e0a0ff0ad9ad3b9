"""Members that run at once share cores and GPUs."""

import os

import pytest

from lightning_modules.studies import slots as slots_module
from lightning_modules.studies.slots import slots


@pytest.fixture
def machine(monkeypatch):
    """A machine of eight cores and some GPUs, of which some are visible."""

    def make(gpus=0, visible=None):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
        monkeypatch.setattr(slots_module.torch.cuda, "device_count", lambda: gpus)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return make


def test_cores_are_shared_equally_unless_the_user_has_said_how_many(machine, monkeypatch):
    machine()
    assert slots(3) == [{"OMP_NUM_THREADS": "2"}] * 3
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert slots(1) == [{"OMP_NUM_THREADS": "1"}]


def test_every_slot_has_a_gpu_of_its_own_as_long_as_there_are_any(machine):
    machine(gpus=2)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots(3)] == ["0", "1", "0"]
    machine(gpus=2, visible="5,7")
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots(2)] == ["5", "7"]


def test_more_members_than_cores_are_refused(machine):
    machine()
    with pytest.raises(ValueError, match=r"--jobs must lie in \[1, 8\], the cores of this machine, got 9"):
        slots(9)
