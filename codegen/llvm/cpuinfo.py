"""The processor as the operating system describes it.

Non-goals: systems that do not describe it in /proc/cpuinfo.
"""

from __future__ import annotations

import functools
from pathlib import Path

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


@functools.cache
def processor() -> str:
    """The first processor's lines that say what it can do; empty where there is no such file."""
    try:
        first = _CPUINFO.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return ""
    rows = (line.partition(":") for line in first.splitlines())
    return "\n".join(f"{name.strip()}:{value}" for name, _, value in rows if name.strip() in _LINES)
