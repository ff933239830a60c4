"""What is said where a part of the CUDA toolchain is missing: the extra, or a version of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

from gradc.ir.diagnostics.diagnostic import Diagnostic, DiagnosticError, error

INSTALL = 'install it: python -m pip install "gradc[cuda]"'
# What the extra brings, by the name of its distribution: what writes and reads machine code.
PARTS = (
    "numba-cuda",
    "cuda-bindings",
    "nvidia-nvvm",
    "nvidia-nvjitlink",
    "nvidia-cuda-nvdisasm",
)


def versions() -> dict[str, str | None]:
    """The version of each part; None where it is not installed."""
    return {name: _version(name) for name in PARTS}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def absent(reason: str = "") -> Diagnostic:
    """GC0595: which parts are missing, or why one that is there cannot be loaded."""
    missing = [name for name, found in versions().items() if found is None]
    what = f"{', '.join(missing)} not installed" if missing else reason or "it cannot be loaded"
    message = f"making machine code for CUDA needs the extra `cuda`: {what}"
    return error("GC0595", message, None, help=INSTALL)


@contextmanager
def told() -> Iterator[None]:
    """Inside, a part that is missing or broken is told with what to do.

    Raises:
        DiagnosticError: GC0595.
    """
    try:
        yield
    except (ImportError, OSError) as problem:
        reason = str(problem).strip().partition("\n")[0]
        raise DiagnosticError([absent(reason)]) from None
