"""Checks that whole networks can be traced and exported, and that the result computes the same logits."""

import functools
import importlib.util
import itertools

import pytest
import torch

from kafnets import activations as act
from kafnets.backbones import KafVGG
from kafnets.saved import onnx_file, write_onnx

FREE = functools.partial(act.KAF, free=True)
MATERN = functools.partial(act.KAF, kernel=act.Matern52())
# a network has seven places: all kinds in one network take a seventh of the time
PLACES = [act.ReLU, act.SiLU, act.KAF, FREE, act.KWTA, MATERN, act.SReLU]
MISSING = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: pip install {' '.join(MISSING)}")

pytestmark = pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)


def mixed():
    """A factory that builds another kind of activation for each place of a network."""
    places = itertools.cycle(PLACES)
    return lambda channels: next(places)(channels)


def network(activation):
    torch.manual_seed(0)
    return KafVGG(image_size=8, width=4, hidden=8, activation=activation).eval()


@pytest.fixture
def net():
    return network(mixed())


IMAGES, OTHERS = (torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(n)) for n in (3, 5))
BATCHES = ({0: torch.export.Dim("batch")},)


def test_jit_trace(net, tmp_path):
    traced = torch.jit.trace(net, IMAGES)
    torch.testing.assert_close(traced(OTHERS), net(OTHERS), rtol=0, atol=1e-5)
    traced.save(tmp_path / "net.pt")
    torch.testing.assert_close(torch.jit.load(tmp_path / "net.pt")(OTHERS), net(OTHERS), rtol=0, atol=1e-5)


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_torch_export(net, strict, tmp_path):
    exported = torch.export.export(net, (IMAGES,), dynamic_shapes=BATCHES, strict=strict)
    assert "kafnets." not in str(exported.graph)
    torch.export.save(exported, tmp_path / "net.pt2")
    for program in (exported, torch.export.load(tmp_path / "net.pt2")):
        torch.testing.assert_close(program.module()(OTHERS), net(OTHERS), rtol=0, atol=1e-5)


def onnx_logits(path, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])


@needs_onnx
def test_onnx(net, tmp_path):
    assert write_onnx(net, tmp_path / "net.onnx") < 1e-4
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"], "the weights are inside"
    torch.testing.assert_close(onnx_logits(tmp_path / "net.onnx", OTHERS), net(OTHERS), rtol=0, atol=1e-4)


def write_zeros(net, images, path, **settings):
    """Write a file whose logits are 0."""
    import onnx

    shape = {"images": ["N", 3, 8, 8], "logits": [1, 10]}
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, size) for name, size in shape.items()]
    zeros = onnx.numpy_helper.from_array(torch.zeros(1, 10).numpy())
    node = onnx.helper.make_node("Constant", [], ["logits"], value=zeros)
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "zeros", ends[:1], ends[1:]), ir_version=10)
    onnx.save(model, path)


@needs_onnx
def test_a_file_that_computes_other_logits_is_refused(net, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.onnx, "export", write_zeros)
    with pytest.raises(ValueError, match=r"net.onnx computes other logits than PyTorch: they differ by up to \d"):
        write_onnx(net, tmp_path / "net.onnx")


def test_a_missing_package_is_named(net, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs onnx, onnxscript, onnxruntime: pip install 'kafnets\[export\]'"):
        write_onnx(net, tmp_path / "net.onnx")


@needs_onnx
def test_onnx_by_tracing(net, tmp_path):
    path = tmp_path / "net.onnx"
    torch.onnx.export(net, (IMAGES,), path, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "batch"}})
    torch.testing.assert_close(onnx_logits(path, OTHERS), net(OTHERS), rtol=0, atol=1e-4)


@pytest.mark.slow
@needs_onnx
@pytest.mark.parametrize("name", ["ReLU", "SiLU", "KAF", "free KAF", "KWTA", "MultiKAF", "Rational", "Spline", "APL"])
def test_onnx_of_one_activation(name, tmp_path):
    net = network(FREE if name == "free KAF" else getattr(act, name))
    assert write_onnx(net, tmp_path / "net.onnx") < 1e-4
