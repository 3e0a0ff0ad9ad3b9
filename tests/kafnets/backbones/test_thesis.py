import os
from pathlib import Path

import numpy as np
import pytest
import torch

from kafnets.activations import ELU, KAF, ReLU, SiLU
from kafnets.backbones import KafResNet, load_thesis

SHARED = Path(os.environ.get("KAFNETS_SHARED") or Path(__file__).parents[4] / "shared" / "data")
FOLDER = SHARED / "thesis_resnet20"
needs_weights = pytest.mark.skipif(
    not (FOLDER / "reference.npz").is_file(),
    reason=f"the thesis's weights are not in {FOLDER}; set KAFNETS_SHARED to the folder of thesis_resnet20",
)


@needs_weights
@pytest.mark.parametrize("name", ["relu", "kaf", "kaf_free"])
def test_logits_agree_with_tensorflow(name):
    net = load_thesis(FOLDER / f"{name}.npz")
    assert not any(module.training for module in net.modules())
    with np.load(FOLDER / "reference.npz") as reference:
        images = torch.from_numpy(reference["images"]).permute(0, 3, 1, 2) / 255
        expected = torch.from_numpy(reference[f"logits_{name}"])
    with torch.no_grad():
        torch.testing.assert_close(net(images), expected, rtol=0, atol=1e-4)


@needs_weights
@pytest.mark.parametrize(("name", "kind", "free"), [("relu", ReLU, None), ("kaf", KAF, False), ("kaf_free", KAF, True)])
def test_the_file_chooses_the_activation(name, kind, free):
    act = load_thesis(str(FOLDER / f"{name}.npz")).act1
    assert type(act) is kind
    assert getattr(act, "free", None) is free


def keras_layers(net):
    """The arrays of a thesis file for a network, made without the loader's table."""
    arrays = {}
    for name, module in net.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            arrays[f"{name}.kernel"] = module.weight.permute(2, 3, 1, 0)
            arrays[f"{name}.bias"] = module.bias
        elif isinstance(module, torch.nn.Linear):
            arrays[f"{name}.kernel"], arrays[f"{name}.bias"] = module.weight.T, module.bias
        elif isinstance(module, torch.nn.BatchNorm2d):
            arrays[f"{name}.gamma"], arrays[f"{name}.beta"] = module.weight, module.bias
            arrays[f"{name}.mean"], arrays[f"{name}.var"] = module.running_mean, module.running_var
        elif isinstance(module, KAF):
            size = module.alpha.shape[1]
            arrays[f"{name}.mix"] = module.alpha
            arrays[f"{name}.dict"] = module.dictionary.reshape(-1, size)
            arrays[f"{name}.bandwidth"] = module.bandwidth.reshape(-1)
    tags = {"__activation__": np.array("kaf"), "__bn_eps__": np.array(1e-3, dtype=np.float32)}
    return {key: value.detach().numpy().copy() for key, value in arrays.items()} | tags


@pytest.fixture(name="arrays", scope="module")
def fixture_arrays():
    torch.manual_seed(0)
    return keras_layers(KafResNet())


def load(arrays, folder):
    path = folder / "weights.npz"
    np.savez(path, **arrays)
    return load_thesis(path)


@pytest.mark.parametrize("free", [False, True])
def test_round_trip_fills_every_tensor(free, tmp_path):
    torch.manual_seed(1)
    net = KafResNet(activation=lambda channels: KAF(channels, free=free))
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point() and tensor.dim() == 1:
            values = torch.empty_like(tensor).uniform_(0.5, 1.5)
            tensor.copy_(values.sort().values if name.endswith("dictionary") else values)
    loaded = load(keras_layers(net), tmp_path).state_dict()
    for name, value in net.state_dict().items():
        assert torch.equal(loaded[name], value), name


@pytest.mark.parametrize(("tag", "kind"), [("elu", ELU), ("swish", SiLU)])
def test_other_fixed_activations_load(tag, kind, tmp_path):
    torch.manual_seed(1)
    net, x = KafResNet(activation=kind).eval(), torch.rand(1, 3, 32, 32)
    loaded = load(keras_layers(net) | {"__activation__": np.array(tag)}, tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(x), net(x))


@pytest.mark.parametrize("tag", ["kaf_relu", "kaf_elu", "kaf_swish", "kaf_free"])
def test_a_kaf_may_be_named_after_what_it_began_as(tag, arrays, tmp_path):
    act = load(arrays | {"__activation__": np.array(tag)}, tmp_path).act1
    np.testing.assert_array_equal(act.alpha.detach(), arrays["act1.mix"])


def test_an_uneven_dictionary_is_used(arrays, tmp_path):
    odd = np.sort(np.random.default_rng(0).uniform(-3, 3, (1, 20))).astype(np.float32)
    net = load(arrays | {"act1.dict": odd, "act1.bandwidth": np.array([0.7], np.float32)}, tmp_path)
    x = torch.randn(5, 16)
    kernel = torch.exp(-0.7 * (x[..., None] - torch.from_numpy(odd[0])) ** 2)
    torch.testing.assert_close(net.act1(x), (net.act1.alpha * kernel).sum(-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc.bias": None}, r"lacks 1 of the \d+ tensors.*: fc.bias"),
        ({"block9_9.conv_a.bias": np.zeros(3)}, r"has unknown 1 of.*: block9_9.conv_a.bias"),
        ({"__activation__": None}, "needs __activation__ to be one of relu, elu, swish, kaf, .* got 'None'"),
        (
            {"__activation__": np.array("tanh")},
            "to be one of relu, elu, swish, kaf, .* got 'tanh'",
        ),
        ({"__activation__": np.array("relu")}, "has unknown 57 of"),
        ({"__bn_eps__": np.array(1e-5)}, "needs __bn_eps__ 1e-3"),
        ({"__bn_eps__": None}, "needs __bn_eps__ 1e-3"),
        ({"__bn_eps__": np.array("1e-3")}, "needs __bn_eps__ 1e-3"),
        ({"bn1.var": np.full(16, -1, np.float32)}, "bn1.var must hold variances >= 0, got -1"),
        ({"fc.bias": np.full(10, 1e300)}, "fc.bias must hold finite"),
        ({"act1.bandwidth": np.array([-1.0], np.float32)}, "holds no thesis ResNet20: .* act1.bandwidth must"),
        ({"act1.dict": np.zeros((1, 20), np.float32)}, "holds no thesis ResNet20: .* act1.dictionary must"),
        ({"fc.bias": np.zeros(11, np.float32)}, r"fc.bias has shape \(11,\)"),
        ({"fc.bias": np.zeros((1, 10), np.float32)}, r"fc.bias has shape \(1, 10\)"),
        ({"conv1.kernel": np.zeros((16, 3, 3, 3), np.float32)}, r"conv1.kernel has shape"),
        ({"fc.bias": np.full(10, np.nan, np.float32)}, "fc.bias must hold finite"),
        ({"fc.bias": np.array(["a"] * 10)}, "fc.bias must hold finite"),
        ({"act1.mix": np.zeros((16, 7), np.float32)}, "has shape"),
        ({"act1.mix": np.zeros((), np.float32)}, "act1.mix has shape"),
    ],
)
def test_wrong_contents_get_one_clear_line(change, message, arrays, tmp_path):
    changed = {key: value for key, value in (arrays | change).items() if value is not None}
    with pytest.raises(ValueError, match=message) as error:
        load(changed, tmp_path)
    assert "\n" not in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weight file .*nowhere\.npz"):
        load_thesis(tmp_path / "nowhere.npz")


def damaged(kind, arrays, folder):
    path = folder / "weights.npz"
    np.savez(path, **arrays)
    content = path.read_bytes()
    if kind == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "flipped":
        middle = len(content) // 2
        path.write_bytes(
            content[:middle] + bytes(b ^ 255 for b in content[middle : middle + 64]) + content[middle + 64 :]
        )
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("404: not found")
    elif kind == "pickle":
        np.savez(path, **arrays, secret=np.array([{}], dtype=object))
    elif kind == "npy":
        np.save(path.with_suffix(".npy"), np.zeros(3))
        path.with_suffix(".npy").rename(path)
    return path


@pytest.mark.parametrize("kind", ["cut", "flipped", "empty", "text", "pickle", "npy"])
def test_damaged_files_get_one_clear_line(kind, arrays, tmp_path):
    with pytest.raises(ValueError, match=r"weights\.npz is no readable .npz archive") as error:
        load_thesis(damaged(kind, arrays, tmp_path))
    assert "\n" not in str(error.value)
