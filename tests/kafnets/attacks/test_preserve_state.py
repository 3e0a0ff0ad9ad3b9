"""A network that was attacked is unchanged."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from kafnets.attacks import PGD
from kafnets.attacks.preserve_state import preserve_state


def mixed_net():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.BatchNorm2d(4)).train()
    net[3].eval()
    return net


@pytest.mark.parametrize("eval_mode", [True, False])
def test_modes_inside_and_after(eval_mode):
    net = mixed_net()
    modes = [module.training for module in net.modules()]
    with preserve_state(net, eval_mode=eval_mode):
        inside = [module.training for module in net.modules()]
    assert inside == ([False] * len(modes) if eval_mode else modes)
    assert [module.training for module in net.modules()] == modes


@pytest.mark.parametrize("eval_mode", [True, False])
def test_restored_after_an_exception(eval_mode):
    net, x = mixed_net(), torch.rand(4, 3, 6, 6)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(RuntimeError, match="stop"), preserve_state(net, eval_mode=eval_mode):
        net(x)
        raise RuntimeError("stop")
    assert net[1].training
    assert not net[3].training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_batch_norm_statistics_change_inside_only():
    net = mixed_net()
    with preserve_state(net, eval_mode=False):
        net(torch.rand(4, 3, 6, 6))
        assert net[1].num_batches_tracked == 1
    assert net[1].num_batches_tracked == 0
    assert not net[1].running_mean.any()


class Counter(nn.Module):
    """Puts a new tensor in the place of one buffer and fills another that was empty."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("last", None, persistent=False)

    def forward(self, x):
        if self.training:
            self.calls, self.last = self.calls + 1, x.detach()
        return x


def test_replaced_buffers_are_put_back():
    net = Counter()
    calls = net.calls
    with preserve_state(net, eval_mode=False):
        net(torch.rand(2))
        assert net.calls == 1
    assert net.calls is calls
    assert net.calls == 0
    assert net.last is None


@pytest.mark.parametrize("eval_mode", [True, False])
def test_a_graph_built_before_the_attack_can_be_differentiated_after_it(eval_mode):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).train()
    x, y = torch.rand(8, 3, 6, 6), torch.randint(5, (8,))
    net(x).sum().backward()
    expected = net[0].weight.grad.clone()
    net.zero_grad()
    loss = net(x).sum()
    PGD(steps=2).craft(net, x, y, eval_mode=eval_mode)
    loss.backward()
    torch.testing.assert_close(net[0].weight.grad, expected)


def test_gradients_can_be_taken_inside_inference_mode():
    net = mixed_net()
    with torch.inference_mode():
        with preserve_state(net, eval_mode=True):
            x = torch.rand(2, 3, 6, 6, requires_grad=True)
            assert torch.autograd.grad(net(x).sum(), x)[0].shape == x.shape
        assert torch.is_inference_mode_enabled()


def test_eval_mode_decides_which_network_is_attacked():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5)).train()
    x, y, keys = torch.rand(8, 3, 6, 6), torch.randint(5, (8,)), torch.arange(8)
    found = [PGD(steps=2).craft(net, x, y, keys=keys, eval_mode=eval_mode) for eval_mode in (True, False)]
    assert not torch.equal(*found)
    net.eval()
    assert torch.equal(found[0], PGD(steps=2).craft(net, x, y, keys=keys))


def test_a_plain_function_is_accepted():
    with preserve_state(lambda x: x, eval_mode=True):
        assert torch.is_grad_enabled()


class Copies(TorchDispatchMode):
    """Counts copies as a device runs them: one for a list of tensors."""

    count = 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.count += op._schema.name in ("aten::clone", "aten::copy_", "aten::_foreach_copy_")
        return op(*args, **(kwargs or {}))


def test_buffers_of_one_dtype_are_saved_and_restored_by_one_copy_each():
    net = nn.Sequential(*(nn.BatchNorm2d(channels) for channels in range(1, 9)))
    with Copies() as copies, preserve_state(net, eval_mode=False):
        pass
    assert copies.count == 4  # float32 and int64, there and back
