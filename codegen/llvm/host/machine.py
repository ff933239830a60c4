"""What object code depends on besides its source: versions of Python and LLVM, and the processor as
LLVM sees it.

Asking LLVM means loading it, which takes longer than everything else a warm start does. So the
answer is kept in the object cache, under what the operating system says of the processor and the
versions of Python and llvmlite.

Non-goals: machines whose processor the operating system does not describe in /proc/cpuinfo (LLVM is
asked there).
"""

from __future__ import annotations

import sys

import llvmlite

from gradc.codegen.backend import Store
from gradc.codegen.llvm import amx
from gradc.codegen.llvm.cpuinfo import processor
from gradc.codegen.llvm.host import jit

_PARTS = 6  # of jit.environment()


def environment(store: Store | None) -> tuple[str, ...]:
    """``jit.environment()``, from ``store`` if it was asked for on this machine before."""
    described = processor()
    if store is None or not described:
        return jit.environment()
    key = store.key("machine", sys.version, llvmlite.__version__, amx.usable(described))
    entry = store.get(key)
    kept = entry.header.get("environment") if entry is not None else None
    if isinstance(kept, list) and len(kept) == _PARTS:
        return tuple(str(part) for part in kept)
    found = jit.environment()
    store.put(key, {"environment": list(found)}, b"")
    return found
