"""Compiles the C++ sources beside this file for the processor at hand, once, and loads them.

A library is kept in ``$XDG_CACHE_HOME/kafnets/native`` (``~/.cache`` by default) under a name made of its sources, the
compiler and the processor: machines of a cluster that share a home folder never run each other's instructions.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parent
# No flag changes a result but fused multiply-adds: infinities, NaN and the order of additions are kept.
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-fopenmp", "-ffp-contract=fast", "-fno-math-errno")
COMPILERS = ("g++", "clang++", "c++")
SECONDS = 300


class BuildError(RuntimeError):
    """No native library, and why."""


@cache
def load(name: str, march: str = "native") -> ctypes.CDLL:
    """The library made of ``<name>.cpp``, compiled if it is not in the cache; takes seconds then.

    Args:
        name: a source file beside this module, without its ending.
        march: the processor to compile for, as the compiler names it; one with fewer instructions for tests.

    Raises:
        BuildError: if there is no compiler, it fails, nothing can be written or the result cannot be loaded.
    """
    compiler = _compiler()
    command = [compiler, *FLAGS, f"-march={march}", str(SOURCES / f"{name}.cpp")]
    file = _folder() / f"{name}-{_fingerprint(name, command)}.so"
    if not file.is_file():
        _compile(command, file)
    try:
        return ctypes.CDLL(str(file))
    except OSError as error:
        raise BuildError(f"{file} cannot be loaded ({error}); delete it to have it built again") from error


def _compiler() -> str:
    """The compiler's path: ``$CXX``, or the first of the usual ones."""
    wanted = os.environ.get("CXX")
    for name in (wanted,) if wanted else COMPILERS:
        if found := shutil.which(name):
            return found
    raise BuildError(f"no C++ compiler (looked for {wanted or ', '.join(COMPILERS)})")


def _folder() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kafnets" / "native"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(f"cannot write into {folder} ({error}); set XDG_CACHE_HOME to a folder of yours") from error
    return folder


def _fingerprint(name: str, command: list[str]) -> str:
    """Of all that the library's instructions depend on."""
    version = subprocess.run([command[0], "--version"], capture_output=True, text=True, check=False).stdout
    contents = [file.read_bytes() for file in [SOURCES / f"{name}.cpp", *sorted(SOURCES.glob("*.h"))]]
    facts = [*command, version, platform.platform(), _processor()]
    return hashlib.sha256(b"\0".join([*contents, *(fact.encode() for fact in facts)])).hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _compile(command: list[str], file: Path) -> None:
    """Into a temporary file first: processes that build at once each leave a whole library."""
    try:
        descriptor, name = tempfile.mkstemp(dir=file.parent, suffix=".so")
        os.close(descriptor)
    except OSError as error:
        raise BuildError(f"cannot write into {file.parent} ({error})") from error
    try:
        done = subprocess.run([*command, "-o", name], capture_output=True, text=True, timeout=SECONDS, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["?"]
            raise BuildError(f"{command[0]} failed: {lines[0].strip()}")
        os.replace(name, file)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} failed: {error}") from error
    finally:
        Path(name).unlink(missing_ok=True)


if sys.platform == "darwin":  # Apple's compiler has no OpenMP; one thread is what is left
    FLAGS = tuple(flag for flag in FLAGS if flag != "-fopenmp")
