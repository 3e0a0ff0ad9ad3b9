"""The check of the compiled library."""

import pytest

from kafnets.fused.native import library
from kafnets.ops import dispatch
from kafnets.ops.native.build import BuildError

if reason := dispatch._no_native():
    pytest.skip(reason, allow_module_level=True)


def test_a_library_that_convolves_wrongly_is_refused(monkeypatch):
    weights = library.frequencies
    monkeypatch.setattr(library, "frequencies", lambda *a, **k: 1.01 * weights(*a, **k))
    with pytest.raises(BuildError, match="convolutions are wrong"):
        library.conv_library.__wrapped__()
