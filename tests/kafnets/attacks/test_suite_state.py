"""The file of an interrupted suite: what it may hold, and whose it is."""

import pytest
import torch
from torch import nn

from kafnets.attacks import FGSM, L1, L2, PGD, Linf, Suite
from kafnets.losses import cross_entropy

X = torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
NET = nn.Linear(3, 3)
Y = NET(X).argmax(1)


class Scaled(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.net, self.scale = NET, scale

    def forward(self, x):
        return self.scale * self.net(x)


def suite(loss=cross_entropy, norm=None, eps=0.05):
    return Suite({"fgsm": FGSM(eps=eps, norm=norm), "pgd": PGD(eps=eps, norm=norm, steps=2, loss=loss)})


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "state.pt"
    suite().evaluate(NET, X, Y, state_file=path)
    return path


def changed(**parts):
    return lambda kept: kept | parts


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (changed(images=X + 0.06), "8 of its 8 images lie outside the ball Linf eps 0.05"),
        (changed(images=X * torch.nan), "8 of its 8 images lie outside the ball"),
        (changed(images=(X * 255).byte()), r"images must be torch.float32 \(8, 3\), got torch.uint8"),
        (changed(images=X[:7]), r"images must be torch.float32 \(8, 3\), got torch.float32 \(7, 3\)"),
        (changed(correct=torch.ones(8)), "correct must be torch.bool"),
        (changed(met=torch.ones(7, dtype=torch.bool)), "met must be torch.bool"),
        (changed(loss=torch.zeros(7)), "loss must be 8 floating point numbers"),
        (changed(counts=[8, -1]), r"counts must fall from 8 images or fewer .* got \[8, -1\]"),
        (changed(counts=[8, 9, 9]), "counts must fall"),
        (changed(counts=[9]), "counts must fall"),
        (changed(counts=[8.0]), "counts must be 1 to 3 integers"),
        (changed(counts=[]), "counts must be 1 to 3 integers"),
        (changed(counts=[8] * 4), "counts must be 1 to 3 integers"),
        (changed(counts=8), "counts must be 1 to 3 integers"),
        (changed(counts=[8, 8], correct=torch.ones(8, dtype=torch.bool), run=3), "no state of a suite"),
        (changed(images=[0.5] * 8), "no state of a suite"),
    ],
)
def test_a_damaged_state_is_refused_and_kept(file, change, says):
    torch.save(change(torch.load(file)), file)
    before = file.read_bytes()
    with pytest.raises(ValueError, match=rf"state.pt is .*{says}.*; delete it or name another state file"):
        suite().evaluate(NET, X, Y, state_file=file)
    assert file.read_bytes() == before


def test_bits_that_flip_in_storage_are_found(file):
    whole = file.read_bytes()
    position = whole.index(torch.load(file)["loss"].numpy().tobytes())
    file.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
    with pytest.raises(ValueError, match="is no state of a suite of attacks"):
        suite().evaluate(NET, X, Y, state_file=file)


def test_another_lambda_or_attribute_is_another_run(tmp_path):
    def run(scale=1.0, sign=1):
        return suite(lambda z, y: sign * cross_entropy(z, y)).evaluate(
            Scaled(scale), X, Y, state_file=tmp_path / "state.pt"
        )

    first = run()
    assert torch.equal(run().images, first.images)
    with pytest.raises(ValueError, match=r"another run: its attacks\.pgd\.loss\.sign differ"):
        run(sign=-1)
    with pytest.raises(ValueError, match=r"another run: its network\.scale differ"):
        run(scale=2.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize(("norm", "eps"), [(Linf(), 0.05), (L2(), 0.1), (L1(), 0.2)])
def test_what_a_run_has_written_can_be_read(tmp_path, dtype, norm, eps):
    net = lambda x: NET(x.float())  # noqa: E731
    wrapped = nn.Sequential(nn.Identity())
    wrapped.forward = net
    state = {"state_file": tmp_path / "state.pt"}
    runs = [suite(norm=norm, eps=eps).evaluate(wrapped, X.to(dtype), Y, **state) for _ in range(2)]
    assert torch.equal(runs[0].images, runs[1].images)
