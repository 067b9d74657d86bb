"""Compiles the C++ kernels on first use, and decides between them and their eager twins.

The library lies in torch's extension cache (`TORCH_EXTENSIONS_DIR`) under a name that is the hash
of its sources, flags and torch version, so an existing file is always the right one. A process
builds in a folder of its own and renames the result into place: two processes at once repeat the
work but never wait for, or break, each other.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils import cpp_extension

_LOG = logging.getLogger(__name__)
_HERE = Path(__file__).parent
_SOURCES = ("acting.cpp", "adam.cpp", "attention.cpp", "gru.cpp", "losses.cpp", "mlp.cpp")
_HEADERS = ("blocks.h", "normalize.h", "operations.h", "simd.h")
# No -ffast-math: NaN must come out where NaN goes in.
_FLAGS = ("-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fopenmp")
# Named instruction sets, not -march=native: the cache may be shared by machines that differ.
_CAPABILITY_FLAGS = {
    "AVX2": ("-mavx2", "-mfma"),
    "AVX512": ("-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
}


@dataclass
class _Switch:
    """Whether the kernels are wanted, and what became of the build."""

    enabled: bool = os.environ.get("HMASD_KERNELS", "1") != "0"
    loaded: bool = False
    failure: str = ""  # why the build failed; empty if it did not, or was not tried


_switch = _Switch()


def set_fast(enabled: bool) -> None:
    """Turn the compiled kernels on or off for this process (`HMASD_KERNELS=0` starts with off)."""
    _switch.enabled = enabled


def fast_available() -> bool:
    """Whether the compiled kernels are to be used; builds them at the first call that asks."""
    if not _switch.enabled:
        return False
    if not _switch.loaded and not _switch.failure:
        _load_or_explain()
    return _switch.loaded


def status() -> str:
    """Which path is in use, and why, in one line."""
    if not _switch.enabled:
        return "eager: the kernels are switched off (HMASD_KERNELS=0 or set_fast(False))"
    if _switch.failure:
        return f"eager: the kernels could not be built ({_switch.failure})"
    if _switch.loaded:
        return f"fast: compiled for {torch.backends.cpu.get_cpu_capability()}"
    return "fast: will be compiled on first use"


def _load_or_explain() -> None:
    try:
        library = _library_path()
        if library.exists():
            torch.ops.load_library(str(library))
        else:
            _build(library)
        _switch.loaded = True
    except Exception as error:  # whatever went wrong, the eager twin still works
        lines = str(error).strip().splitlines()
        _switch.failure = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
        _LOG.warning("The kernels run eager and slower: %s", _switch.failure)
        _LOG.debug("The whole error", exc_info=error)


def _build(library: Path) -> None:
    """Compile into a folder of this process, load, and rename to `library`."""
    _LOG.info("Compiling the CPU kernels, once for this machine (about 30 s): %s", library)
    library.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{library.stem}_", dir=library.parent))
    path = os.environ.get("PATH", "")
    try:
        # pip installs ninja beside Python, which PATH does not name unless the venv is activated.
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), path])
        cpp_extension.load(
            name=library.stem,
            sources=[str(_HERE / source) for source in _SOURCES],
            extra_cflags=list(_compile_flags()),
            build_directory=str(folder),
            is_python_module=False,
        )
        (folder / f"{library.stem}.so").replace(library)
    finally:
        os.environ["PATH"] = path
        shutil.rmtree(folder, ignore_errors=True)


def _library_path() -> Path:
    digest = hashlib.sha256()
    for part in (torch.__version__, platform.machine(), *_compile_flags()):
        digest.update(part.encode())
    for name in (*_SOURCES, *_HEADERS):
        digest.update((_HERE / name).read_bytes())
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root()
    return Path(root) / f"hmasd_kernels_{digest.hexdigest()[:16]}.so"


def _compile_flags() -> tuple[str, ...]:
    return (*_FLAGS, *_CAPABILITY_FLAGS.get(torch.backends.cpu.get_cpu_capability(), ()))
