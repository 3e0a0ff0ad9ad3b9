import logging
import os
import platform
import re
import shutil
import warnings

import pytest
import torch

from kafnets import ops
from kafnets.activations import KAF, KWTA, Normal
from kafnets.ops import dispatch
from kafnets.ops.eager import EagerSweep
from kafnets.ops.native import KWTA_SOURCE, BuildError, NativeSweep, build
from kafnets.ops.native import kaf as native_kaf

CPU = torch.device("cpu")


@pytest.fixture
def no_choice_yet(monkeypatch):
    """The state of a process that has not chosen an engine yet."""
    monkeypatch.delenv(dispatch.SETTING, raising=False)
    caches = (dispatch._best, dispatch._missing, build.load, native_kaf.library)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.fixture
def nothing_built(no_choice_yet, monkeypatch, tmp_path):
    """The same, with an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_the_choice_is_logged_once(no_choice_yet, caplog, monkeypatch):
    monkeypatch.setattr(dispatch, "_no_native", lambda: "")
    monkeypatch.setattr(dispatch, "_details", lambda name: "")
    with caplog.at_level(logging.INFO, logger="kafnets"):
        assert [ops.engine_for(CPU) for _ in range(3)] == ["native"] * 3
    assert caplog.messages == ["activations on cpu: engine native"]


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"CXX": "no-such-compiler"}, r"no C\+\+ compiler \(looked for no-such-compiler\)"),
        ({"CXX": "false"}, r"false failed: "),
        ({"PATH": ""}, r"no C\+\+ compiler \(looked for g\+\+, clang\+\+, c\+\+\)"),
        ({"XDG_CACHE_HOME": os.devnull}, r"cannot write into .*set XDG_CACHE_HOME to a folder of yours"),
    ],
    ids=["unknown compiler", "broken compiler", "no compiler", "nowhere to write"],
)
def test_a_failed_build_is_warned_about_once_and_eager_takes_over(nothing_built, monkeypatch, environment, reason):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    layer, x = KAF(3), torch.randn(2, 3)
    with pytest.warns(UserWarning) as said:
        y = layer(x)
    (message,) = (str(warning.message) for warning in said)
    assert re.search(rf"activations on cpu: not the engine 'native', because .*{reason}", message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(layer(x), y) and ops.engine_for(CPU) == "eager"
    with pytest.raises(BuildError, match=reason):
        build.load(KWTA_SOURCE)


def test_forcing(monkeypatch):
    monkeypatch.setenv(dispatch.SETTING, "eager")
    assert ops.engine_for(CPU) == "eager"
    with ops.force("native"):
        if not dispatch._no_native():
            assert ops.engine_for(CPU) == "native"
    with (
        ops.force("triton"),
        pytest.raises(ValueError, match=r"'triton' is forced, but Triton .*; unset KAFNETS_ENGINE"),
    ):
        ops.engine_for(CPU)
    monkeypatch.setenv(dispatch.SETTING, "fast")
    with pytest.raises(ValueError, match="KAFNETS_ENGINE must be one of native, triton, eager, reference, got 'fast'"):
        KAF(1)(torch.zeros(1, 1))


def test_state_dicts_do_not_depend_on_the_engine():
    one, other, x = KAF(3), KAF(3), torch.randn(4, 3)
    other.load_state_dict(one.state_dict())
    with ops.force("eager"):
        expected = one(x)
    torch.testing.assert_close(other(x), expected)


def test_the_error_names_a_broken_library(nothing_built, monkeypatch):
    monkeypatch.setattr(build, "_compiler", lambda: "c++")  # it is not called: a library of this name exists
    monkeypatch.setattr(build, "_fingerprint", lambda source, command: "cut")
    (build._folder() / "kwta-cut.so").write_bytes(b"")
    with pytest.raises(BuildError, match=r"cannot be loaded .*delete it to have it built again"):
        build.load(KWTA_SOURCE)


def test_a_library_with_wrong_values_is_not_used(no_choice_yet, monkeypatch):
    if reason := dispatch._no_native():
        pytest.skip(reason)
    right = NativeSweep.sweep
    monkeypatch.setattr(NativeSweep, "sweep", lambda *a, **k: tuple(1.001 * t for t in right(*a, **k)))
    assert dispatch._no_native().startswith("its values are wrong")


def test_the_same_source_in_another_folder_is_not_built_again(no_choice_yet, monkeypatch, tmp_path):
    if reason := dispatch._no_native():
        pytest.skip(reason)
    shutil.copytree(KWTA_SOURCE.parent, tmp_path / "copy")
    monkeypatch.setattr(build, "_compile", lambda command, file: pytest.fail(f"compiles {file}"))
    monkeypatch.setattr(build, "HEADERS", tmp_path / "copy")
    build.load(tmp_path / "copy" / KWTA_SOURCE.name)


@pytest.mark.slow
@pytest.mark.parametrize(("march", "name"), [("x86-64-v3", "AVX2"), ("x86-64", "plain")])
@pytest.mark.parametrize("shape", [(5, 3, 7, 9), (2, 3, 40, 41), (33, 19)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_instruction_sets_of_older_processors(march, name, shape, dtype, monkeypatch):
    if platform.machine() != "x86_64" or dispatch._no_native():
        pytest.skip("x86-64 and a compiler are needed")
    monkeypatch.setattr(NativeSweep, "march", march)
    assert NativeSweep.describe() == name
    torch.manual_seed(0)
    layer = KAF(shape[1], init=Normal(1.0)).double() if dtype == torch.float64 else KAF(shape[1], init=Normal(1.0))
    x, a = 2 * torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    found, expected = (
        engine(layer.dictionary, layer.bandwidth, layer.grid).sweep(
            x, a, None, layer.alpha.detach().unsqueeze(0), 1, want=(True, True, True)
        )
        for engine in (NativeSweep, EagerSweep)
    )
    for f, e in zip(found, expected, strict=True):
        assert (f - e).abs().max() <= {torch.float32: 5e-6, torch.float64: 1e-13, torch.bfloat16: 0.01}[
            dtype
        ] * e.abs().max()


@pytest.mark.parametrize("layer", [KAF, KWTA])
def test_the_meta_device_without_warnings(layer, recwarn):
    with torch.device("meta"):
        y = layer(3)(torch.empty(2, 3, 4, 4))
    assert y.shape == (2, 3, 4, 4) and not recwarn.list
