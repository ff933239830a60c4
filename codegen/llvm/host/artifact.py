"""``gradc compile``: object, shared library, C header and manifest of one or more Plans.

The object holds every entry and its own thread pool, and needs nothing but libc. The
manifest says what is in it: entries, ports, sizes, and digests of source, Plans and files, so that
a certificate can name them.

Invariants: the same Plans give the same bytes; files are written whole or not at all.
Non-goals: which Plans an artifact should have (``runtime``), certificates (``passes.prove``).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from gradc._version import __version__
from gradc.codegen.llvm import amx, driver
from gradc.codegen.llvm.host import header, isolate, jit
from gradc.codegen.llvm.host.symbols import problem
from gradc.codegen.llvm.isa import Isa, select
from gradc.codegen.llvm.pool import pool_text
from gradc.ir.diagnostics.diagnostic import DiagnosticError, error
from gradc.ir.plan.plan import ALIGNMENT, Plan

KINDS = ("object", "shared", "header", "manifest")
_PLACES = {"span", "spans", "scope"}  # where something was written is no part of what it is


def target_of(name: str | None) -> Isa:
    """The instruction set called ``name``: one of the host's, or a foreign one.

    Raises:
        DiagnosticError: GC0577 if there is none of that name.
    """
    if name in isolate.FOREIGN:
        return isolate.FOREIGN[name]
    try:
        return select(name or "native")
    except ValueError as problem:
        help = f"other machines: {', '.join(sorted(isolate.FOREIGN))}"
        raise DiagnosticError([error("GC0577", str(problem), None, help=help)]) from None


def write_artifact(
    plans: Sequence[Plan],
    name: str,
    folder: Path,
    *,
    isa: str | None = None,
    kinds: Sequence[str] = KINDS,
    source: bytes = b"",
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Path]:
    """Writes ``folder/NAME.o``, ``.so``, ``.h`` and ``.json``; returns what was written, by kind.

    ``extra`` is added to the manifest (the certificate's digest, the dims). Of ``kinds``,
    ``shared`` needs a C compiler to link and is left out, with a note in the manifest, where there
    is none or the target is foreign.

    Raises:
        DiagnosticError: GC0577 for an unknown instruction set, GC0578 if linking fails, GC0581 for
            an entry whose name no C program could call.
        PlanError: if a Plan is not complete, or has no scratch for this target.
    """
    target = target_of(isa)
    _refuse_names(plans)
    programs = [(plan, driver.generate(plan, target)) for plan in plans]
    code = object_code([program for _, program in programs], target)
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, Path] = {}
    files: dict[str, bytes] = {"object": code}
    if "header" in kinds:
        files["header"] = header.header_text(name, __version__, plans).encode()
    notes = []
    if "shared" in kinds:
        reason = why_not_shared(target)
        if reason:
            notes.append(f"no shared library: {reason}")
        else:
            files["shared"] = link_shared(code, name)
    suffixes = {"object": ".o", "shared": ".so", "header": ".h", "manifest": ".json"}
    for kind, data in files.items():
        if kind in kinds:
            written[kind] = folder / (name + suffixes[kind])
            _write(written[kind], data, executable=kind == "shared")
    if "manifest" in kinds:
        summary = manifest(name, target, programs, source, notes)
        summary["files"] = {
            written[kind].name: {"bytes": len(files[kind]), "blake2b": digest(files[kind])}
            for kind in written
        }
        summary.update(extra or {})
        written["manifest"] = folder / f"{name}.json"
        text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        _write(written["manifest"], text.encode())
    return written


def _refuse_names(plans: Sequence[Plan]) -> None:
    """Raises DiagnosticError GC0581 for entries that C could not call, or that would replace what
    it calls.
    """
    found = []
    for plan in plans:
        reason = problem(plan.name)
        if reason:
            message = f"an entry cannot be called `{plan.name}` in C: {reason}"
            help = f"give the model another name, such as `{plan.name.strip('_')}_model`"
            found.append(error("GC0581", message, None, help=help))
    if found:
        raise DiagnosticError(found)


def object_code(programs: Sequence[driver.Program], target: Isa) -> bytes:
    """One object with all entries and one thread pool.

    Raises:
        CodegenError: if LLVM refuses the code.
    """
    architecture, linux = target.triple.split("-")[0], "linux" in target.triple
    pool = pool_text(architecture, linux, linkage="weak hidden")
    head = f'target triple = "{target.triple}"\n'
    texts = [program.text for program in programs]
    asks = amx.asking("".join(texts))
    text = jit.linked([*texts, head + pool, *([head + asks] if asks else [])])
    if target.name in isolate.FOREIGN:
        return isolate.compile_isolated(text, target)
    return jit.compile_object(text, target)


def why_not_shared(target: Isa) -> str:
    """Why no shared library can be linked here, or an empty string."""
    if target.name in isolate.FOREIGN:
        return f"link {target.name} code with that machine's own compiler"
    if _compiler() is None:
        return "no C compiler (cc, gcc or clang) on the path; link the object where there is one"
    return ""


def _compiler() -> str | None:
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def link_shared(code: bytes, name: str) -> bytes:
    """The shared library of an object.

    Raises:
        DiagnosticError: GC0578 with the linker's message.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / f"{name}.o", Path(folder) / f"{name}.so"
        source.write_bytes(code)
        options = ["-shared", "-Wl,--as-needed", "-Wl,-z,noexecstack", f"-Wl,-soname,{name}.so"]
        command = [_compiler() or "cc", *options, "-o", str(target), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            notes = tuple(done.stderr.strip().splitlines()[-5:])
            message = f"the linker failed: {' '.join(command[:1])}"
            raise DiagnosticError([error("GC0578", message, None, notes=notes)])
        return target.read_bytes()


def manifest(
    name: str,
    target: Isa,
    programs: Sequence[tuple[Plan, driver.Program]],
    source: bytes,
    notes: Sequence[str],
) -> dict[str, Any]:
    """What is in an artifact, as JSON."""
    return {
        "format": 1,
        "name": name,
        "gradc": __version__,
        "target": {"isa": target.name, "triple": target.triple, "cpu": target.cpu},
        "source_blake2b": digest(source),
        "notes": list(notes),
        "entries": [_entry(plan, program) for plan, program in programs],
    }


def _entry(plan: Plan, program: driver.Program) -> dict[str, Any]:
    names = header.port_names(plan.ports)
    ports = [
        {
            "number": number,
            "name": port.name,
            "c_name": f"{plan.name.upper()}_{c_name}",
            "role": port.role.value,
            "direction": port.direction,
            "dtype": port.dtype.value,
            "shape": list(port.shape),
            "bytes": plan.tensors[port.tensor].nbytes,
        }
        for number, (port, c_name) in enumerate(zip(plan.ports, names, strict=True))
    ]
    return {
        "symbol": plan.name,
        "ports": ports,
        "arena_bytes": plan.arena_bytes,
        "arena_alignment": ALIGNMENT,
        "threads": max(1, plan.threads),
        "peak_bytes": plan.peak_bytes,
        "launches": program.launches,
        "kernels": program.kernels,
        "plan_blake2b": plan_digest(plan),
    }


def digest(data: bytes) -> str:
    """BLAKE2b of ``data``, 32 bytes in hex."""
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def plan_digest(plan: Plan) -> str:
    """A digest of everything a Plan says, places in source text aside."""
    return digest("\n".join(_canonical(plan)).encode())


def _canonical(item: object) -> list[str]:
    """The leaves of a structure of dataclasses and tuples, with its brackets, in order."""
    out: list[str] = []
    stack: list[object] = [item]
    while stack:
        top = stack.pop()
        if isinstance(top, Enum):
            out.append(f"{type(top).__name__}.{top.name}")
        elif is_dataclass(top) and not isinstance(top, type):
            kept = [getattr(top, f.name) for f in fields(top) if f.name not in _PLACES]
            out.append(f"{type(top).__name__} {len(kept)}")
            stack.extend(reversed(kept))
        elif isinstance(top, (tuple, list)):
            out.append(f"tuple {len(top)}")
            stack.extend(reversed(top))
        else:
            out.append(f"{type(top).__name__} {top!r}")
    return out


def _write(path: Path, data: bytes, executable: bool = False) -> None:
    """Replaces ``path`` by ``data`` in one step."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, 0o755 if executable else 0o644)
        os.replace(name, path)
    except OSError:
        os.unlink(name)
        raise
