"""Compiles C++ sources for this machine's processor, once, and loads them.

A library is kept in ``$XDG_CACHE_HOME/kafnets/native`` (``~/.cache`` by default) under a name that depends on its
sources, the compiler and the processor: machines that share a home folder never load each other's libraries.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from kafnets.files import written_whole

HEADERS = Path(__file__).parent  # sources in other folders may include these too
# Of these flags only fused multiply-adds change results: infinities, NaN and the order of additions are kept.
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-fopenmp", "-ffp-contract=fast", "-fno-math-errno")
COMPILERS = ("g++", "clang++", "c++")
SECONDS = 300


class BuildError(RuntimeError):
    """A native library cannot be built or loaded; the message says why."""


@cache
def load(source: Path, march: str = "native") -> ctypes.CDLL:
    """The library of a C++ file; if it is not in the cache, it is compiled, which takes seconds.

    Args:
        source: the file; it may include headers of its own folder and of this module's.
        march: the processor to compile for, as the compiler names it.

    Raises:
        BuildError: if there is no compiler, it fails, the cache cannot be written or the library cannot be loaded.
    """
    compiler = _compiler()
    command = [compiler, *FLAGS, f"-march={march}"]
    file = _folder() / f"{source.stem}-{_fingerprint(source, command)}.so"
    if not file.is_file():
        _compile([*command, f"-I{HEADERS}", str(source)], file)
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


def _fingerprint(source: Path, command: list[str]) -> str:
    """A hash of everything that the library's instructions depend on; the folder of the source is not part of it."""
    version = subprocess.run([command[0], "--version"], capture_output=True, text=True, check=False).stdout
    headers = sorted({*HEADERS.glob("*.h"), *source.parent.glob("*.h")})
    contents = [file.read_bytes() for file in [source, *headers]]
    facts = [*command, version, platform.platform(), _processor()]
    return hashlib.sha256(b"\0".join([*contents, *(fact.encode() for fact in facts)])).hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _compile(command: list[str], file: Path) -> None:
    """Compile into a temporary file and move it: processes that build at once never see half a library."""
    if not os.access(file.parent, os.W_OK):
        raise BuildError(f"cannot write into {file.parent}; set XDG_CACHE_HOME to a folder of yours")
    try:
        with written_whole(file) as part:
            build = [*command, "-o", str(part)]
            done = subprocess.run(build, capture_output=True, text=True, timeout=SECONDS, check=False)
            if done.returncode:
                lines = done.stderr.splitlines() or ["?"]
                first = next((line for line in lines if "error" in line), lines[0])
                raise BuildError(f"{command[0]} failed: {first.strip()}")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} failed: {error}") from error


if sys.platform == "darwin":  # Apple's compiler has no OpenMP: one thread
    FLAGS = tuple(flag for flag in FLAGS if flag != "-fopenmp")
