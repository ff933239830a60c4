"""A Program as machine code: every text to PTX, all of them to one cubin, with the manifest beside
it in one block of bytes, which is what the object cache keeps.

Invariants: the same Program gives the same bytes for a compute capability; reading a block runs no
text, and every place in it is checked against the sizes of arena and ports.
Non-goals: loading (``runner``).
"""

from __future__ import annotations

import functools
import json
import struct
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from gradc.codegen.cuda.program import Program, Text
from gradc.codegen.cuda.toolchain.assemble import architecture, cubin
from gradc.codegen.cuda.toolchain.needs import told, versions

Capability = tuple[int, int]

# What machine code can be made for here: the least that has cp.async, H100 and H200, B200.
CAPABILITIES: dict[str, Capability] = {"sm_80": (8, 0), "sm_90": (9, 0), "sm_100": (10, 0)}

_MAGIC = b"GRADCCUBIN1\n"
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Built:
    """Machine code of a Program for devices of one compute capability."""

    program: Program  # without sources
    architecture: str
    cubin: bytes

    def pack(self) -> bytes:
        """As one block of bytes."""
        facts = {"program": self.program.to_json(), "architecture": self.architecture}
        head = json.dumps(facts, sort_keys=True).encode()
        return b"".join((_MAGIC, _LENGTH.pack(len(head)), head, self.cubin))

    @staticmethod
    def unpack(block: bytes) -> Built:
        """Reads ``pack``'s result back. Raises ValueError for anything else."""
        start = len(_MAGIC) + _LENGTH.size
        if block[: len(_MAGIC)] != _MAGIC or len(block) < start:
            raise ValueError("no machine code for CUDA")
        (length,) = _LENGTH.unpack_from(block, len(_MAGIC))
        try:
            facts = json.loads(block[start : start + length])
            program = Program.from_json(facts["program"])
            return Built(program, str(facts["architecture"]), block[start + length :])
        except (KeyError, TypeError) as problem:
            raise ValueError(f"a manifest that does not fit: {problem}") from None


def build(program: Program, capability: Capability) -> Built:
    """Machine code of ``program``. Seconds a text where it is new to this process.

    Raises:
        DiagnosticError: GC0595 if the extra ``cuda`` is missing.
    """
    code = cubin([ptx(text, capability) for text in program.texts], capability)
    stripped = Program.from_json(program.to_json())
    return Built(stripped, architecture(capability), code)


def ptx(text: Text, capability: Capability) -> str:
    """PTX of one text.

    Raises:
        DiagnosticError: GC0595 if the extra ``cuda`` is missing.
    """
    (found,) = ptx_for(text, (capability,))
    return found


def ptx_for(text: Text, capabilities: tuple[Capability, ...]) -> tuple[str, ...]:
    """PTX of one text for each capability, the same as one at a time, in little more than the time
    of one.

    Raises:
        DiagnosticError: GC0595 if the extra ``cuda`` is missing.
    """
    pointers = tuple(parameter.dtype for parameter in text.parameters)
    bounds = text.threads, text.together
    return _ptx(text.name, text.source, pointers, bounds, capabilities)


@functools.lru_cache(maxsize=512)
def _ptx(
    name: str,
    source: str,
    pointers: tuple[str, ...],
    bounds: tuple[int, int],
    capabilities: tuple[Capability, ...],
) -> tuple[str, ...]:
    with told():
        compiler: Any = import_module("gradc.codegen.cuda.toolchain.numba_texts")
    found: tuple[str, ...] = compiler.compile_text(name, source, pointers, bounds, capabilities)
    return found


def toolchain() -> tuple[str, ...]:
    """What machine code depends on besides its text: the versions of all parts."""
    return tuple(f"{name} {found}" for name, found in versions().items())
