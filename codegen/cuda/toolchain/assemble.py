"""From PTX to one cubin, without a driver: nvJitLink, which has ptxas in it.

Non-goals: loading the cubin (``runner``), reading it (``sass``).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from gradc.codegen.cuda.toolchain.needs import told

Capability = tuple[int, int]


def suffix(capability: Capability) -> str:
    """What follows an architecture's name where its own instructions are used: products of groups
    of threads, which only 9.0 has.
    """
    return "a" if capability == (9, 0) else ""


def architecture(capability: Capability) -> str:
    """``sm_80``, ``sm_90a`` and so on."""
    return f"sm_{capability[0]}{capability[1]}{suffix(capability)}"


def cubin(texts: Sequence[str], capability: Capability) -> bytes:
    """Machine code of all entries of the PTX ``texts``.

    Raises:
        DiagnosticError: GC0595 if the extra is missing.
        AssemblyError: with what ptxas said.
    """
    with told():
        linker: Any = import_module("cuda.bindings.nvjitlink")
    handle = linker.create(2, [f"-arch={architecture(capability)}", "-O3"])
    try:
        for number, text in enumerate(texts):
            code = text.encode()
            linker.add_data(handle, linker.InputType.PTX, code, len(code), f"text{number}.ptx")
        linker.complete(handle)
        found = bytearray(linker.get_linked_cubin_size(handle))
        linker.get_linked_cubin(handle, found)
    except linker.nvJitLinkError as problem:
        log = bytearray(linker.get_error_log_size(handle))
        linker.get_error_log(handle, log)
        said = log.rstrip(b"\0").decode(errors="replace").strip()
        raise AssemblyError(f"{problem}: {said}") from None
    finally:
        linker.destroy(handle)
    return bytes(found)


class AssemblyError(Exception):
    """PTX that ptxas refuses: a fault of gradc."""
