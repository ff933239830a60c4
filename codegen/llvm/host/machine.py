"""What object code depends on besides its source: versions of Python and LLVM, and the processor as
LLVM sees it.

Asking LLVM means loading it, which takes longer than everything else a warm start does. So the
answer is kept in the object cache, under what the operating system says of the processor and the
versions of Python and llvmlite.

Non-goals: machines whose processor the operating system does not describe in /proc/cpuinfo (LLVM is
asked there).
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import llvmlite

from gradc.codegen.backend import Store
from gradc.codegen.llvm import amx
from gradc.codegen.llvm.host import jit

_CPUINFO = Path("/proc/cpuinfo")
# Lines that say what a processor can do; the others are its place, its speed of the moment and its
# faults.
_LINES = (
    "vendor_id",
    "cpu family",
    "model",
    "model name",
    "stepping",
    "flags",
    "CPU implementer",
    "CPU architecture",
    "CPU variant",
    "CPU part",
    "Features",
    "isa",
)
_PARTS = 6  # of jit.environment()


def environment(store: Store | None) -> tuple[str, ...]:
    """``jit.environment()``, from ``store`` if it was asked for on this machine before."""
    described = processor()
    if store is None or not described:
        return jit.environment()
    may = "may use its matrix unit" if amx.is_permitted() else ""
    key = store.key("machine", sys.version, llvmlite.__version__, described, may)
    entry = store.get(key)
    kept = entry.header.get("environment") if entry is not None else None
    if isinstance(kept, list) and len(kept) == _PARTS:
        return tuple(str(part) for part in kept)
    found = jit.environment()
    store.put(key, {"environment": list(found)}, b"")
    return found


@functools.cache
def processor() -> str:
    """The first processor's lines of /proc/cpuinfo that say what it can do; empty where there is no
    such file.
    """
    try:
        first = _CPUINFO.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return ""
    rows = (line.partition(":") for line in first.splitlines())
    return "\n".join(f"{name.strip()}:{value}" for name, _, value in rows if name.strip() in _LINES)
