"""Artifacts: a C program links object and library, gets the bits that Python gets, and needs only
libc.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradc.codegen.llvm.host import artifact, header, isolate, jit
from gradc.codegen.llvm.isa import select
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.plan.plan import Port
from gradc.ir.tensor.core import DType, Role
from gradc.runtime.native import load
from tests.support.native_plans import mlp, mlp_arrays, ready

CC = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
needs_cc = pytest.mark.skipif(CC is None, reason="no C compiler on this machine")

_PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include "net.h"

static float *take(FILE *in, long count) {
  float *array = malloc((size_t)count * sizeof *array);
  if (fread(array, sizeof *array, (size_t)count, in) != (size_t)count) exit(3);
  return array;
}

int main(int argc, char **argv) {
  FILE *in = fopen(argv[1], "rb"), *out = fopen(argv[2], "wb");
  void *arena = aligned_alloc(MLP_ARENA_ALIGNMENT, MLP_ARENA_BYTES);
  void *ports[MLP_PORTS];
  ports[MLP_X] = take(in, MLP_X_SIZE);
  ports[MLP_W1] = take(in, MLP_W1_SIZE);
  ports[MLP_B1] = take(in, MLP_B1_SIZE);
  ports[MLP_W2] = take(in, MLP_W2_SIZE);
  ports[MLP_B2] = take(in, MLP_B2_SIZE);
  ports[MLP_Y] = malloc(MLP_Y_SIZE * sizeof(float));
  for (int repeat = 0; repeat < 3; ++repeat)
    if (mlp(ports, arena, atoi(argv[3])) != 0) return 4;
  fwrite(ports[MLP_Y], sizeof(float), MLP_Y_SIZE, out);
  return argc == 4 ? fclose(out) : 5;
}
"""


def run(*command: Any) -> str:
    """Runs a command that must succeed; returns what it prints."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_cc
@pytest.mark.parametrize("linked", ["object", "shared"])
def test_a_c_program_gets_the_bits_that_python_gets(tmp_path: Path, linked: str) -> None:
    plan = ready(mlp(150, 200, 190, 170), threads=2)
    other = ready(replace(mlp(8, 3, 4, 2), name="small"))
    written = artifact.write_artifact([plan, other], "net", tmp_path)
    arrays = mlp_arrays(plan)
    (tmp_path / "in.bin").write_bytes(b"".join(a.tobytes() for a in arrays[:-1]))
    (tmp_path / "main.c").write_text(_PROGRAM)
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{tmp_path}"]
    binary = tmp_path / "main"
    rest = [f"-Wl,-rpath,{tmp_path}"] if linked == "shared" else ["-pthread"]
    run(CC, *flags, tmp_path / "main.c", written[linked], "-o", binary, *rest)
    load.compile_plan(plan, threads=1, cache=False).call(arrays)
    for threads in (1, 2):
        run(binary, tmp_path / "in.bin", tmp_path / "out.bin", threads)
        found = np.fromfile(tmp_path / "out.bin", np.float32).reshape(arrays[-1].shape)
        assert np.array_equal(found, arrays[-1])


@needs_cc
def test_it_allocates_nothing_and_needs_only_libc(tmp_path: Path) -> None:
    written = artifact.write_artifact([ready(mlp(150, 200, 190, 170))], "net", tmp_path)
    lines = run("nm", "--undefined-only", written["object"]).split("\n")
    undefined = {line.split()[-1] for line in lines if line.strip()} - {"_GLOBAL_OFFSET_TABLE_"}
    assert undefined <= jit.LIBC
    assert not undefined & {"malloc", "calloc", "realloc", "free", "aligned_alloc", "mmap"}
    exported = run("nm", "-D", "--defined-only", written["shared"]).split()
    assert "mlp" in exported and not any(name.startswith("gradc") for name in exported)
    needed = {line.split()[0] for line in run("ldd", written["shared"]).splitlines()}
    allowed = ("linux-vdso.so", "libc.so", "/lib64/ld-linux", "/lib/ld-linux")
    assert all(name.startswith(allowed) for name in needed), needed


@needs_cc
def test_two_artifacts_link_into_one_program(tmp_path: Path) -> None:
    one = artifact.write_artifact([ready(mlp(150, 200, 190, 170))], "net", tmp_path)
    two = artifact.write_artifact(
        [ready(replace(mlp(90, 80, 70, 60), name="two"))], "two", tmp_path
    )
    (tmp_path / "main.c").write_text(
        '#include "net.h"\n#include "two.h"\n'
        "int main(void) { return MLP_PORTS + TWO_PORTS - 12 + (mlp == two); }\n"
    )
    run(CC, tmp_path / "main.c", one["object"], two["object"], "-o", tmp_path / "main")
    run(tmp_path / "main")


@needs_cc
def test_the_header_is_c_and_cplusplus(tmp_path: Path) -> None:
    artifact.write_artifact([ready(mlp(8, 3, 4, 2))], "net", tmp_path, kinds=("header",))
    assert {p.name for p in tmp_path.iterdir()} == {"net.h"}
    for language in ("c", "c++"):
        if language == "c++" and shutil.which("g++") is None:
            continue
        run(CC, "-Wall", "-Werror", "-fsyntax-only", "-x", language, tmp_path / "net.h")


def test_the_manifest_describes_the_files_and_the_plan(tmp_path: Path) -> None:
    plan = ready(mlp(8, 3, 4, 2))
    extra = {"certificate_blake2b": "00"}
    written = artifact.write_artifact([plan], "net", tmp_path, source=b"model", extra=extra)
    found = json.loads(written["manifest"].read_text())
    assert found["source_blake2b"] == artifact.digest(b"model")
    assert found["certificate_blake2b"] == "00"
    (entry,) = found["entries"]
    assert entry["symbol"] == "mlp"
    assert entry["arena_bytes"] == plan.arena_bytes
    assert entry["peak_bytes"] == plan.peak_bytes
    assert [p["shape"] for p in entry["ports"]] == [list(p.shape) for p in plan.ports]
    assert sum(p["bytes"] for p in entry["ports"]) + plan.arena_bytes == plan.peak_bytes
    for kind in ("object", "header"):
        path = written[kind]
        assert found["files"][path.name]["blake2b"] == artifact.digest(path.read_bytes())


def test_the_same_plan_gives_the_same_bytes(tmp_path: Path) -> None:
    one = artifact.write_artifact([ready(mlp(8, 3, 4, 2))], "net", tmp_path / "one")
    two = artifact.write_artifact([ready(mlp(8, 3, 4, 2))], "net", tmp_path / "two")
    for kind, path in one.items():
        assert path.read_bytes() == two[kind].read_bytes(), kind


def test_plan_digests_see_every_change_but_not_where_it_was_written() -> None:
    plan = mlp(8, 3, 4, 2)
    digests = {artifact.plan_digest(p) for p in (plan, mlp(8, 3, 5, 2), mlp(8, 3, 4, 3))}
    bigger = replace(plan, arena_bytes=plan.arena_bytes + 64)
    digests.add(artifact.plan_digest(bigger))
    assert len(digests) == 4
    steps = (replace(s, scope="elsewhere") for s in plan.launches)
    moved = replace(plan, steps=tuple(steps))
    assert artifact.plan_digest(moved) == artifact.plan_digest(mlp(8, 3, 4, 2))


def test_ports_of_the_same_name_get_different_c_names() -> None:
    def port(name: str, role: Role) -> Port:
        return Port(name, role, (), DType.F32, "in", 0)

    ports = [
        port("fc1.w", Role.PARAM),
        port("fc1.w", Role.COTANGENT),
        port("fc1_w", Role.INPUT),
        port("fc1.w", Role.TANGENT),
        port("größe", Role.INPUT),
    ]
    names = header.port_names(ports)
    assert names == ["FC1_W", "FC1_W_CT", "FC1_W_2", "FC1_W_DOT", "GR__E"]


@pytest.mark.parametrize(("isa", "machine"), [("aarch64", 183), ("riscv64", 243)])
def test_objects_for_other_machines_come_from_a_process_of_their_own(
    tmp_path: Path, isa: str, machine: int
) -> None:
    written = artifact.write_artifact(
        [ready(mlp(33, 20, 19, 17), isa=isa)], "net", tmp_path, isa=isa
    )
    assert set(written) == {"object", "header", "manifest"}
    data = written["object"].read_bytes()
    assert data[:4] == b"\x7fELF"
    assert struct.unpack_from("<H", data, 18) == (machine,)
    (note,) = json.loads(written["manifest"].read_text())["notes"]
    assert isa in note


def test_what_kills_llvm_is_an_error_here() -> None:
    bogus = 'define void @f() { call void asm "no such instruction", ""()\n ret void }'
    with pytest.raises(jit.CodegenError, match="ended with"):
        isolate.compile_isolated(bogus, select())
    with pytest.raises(jit.CodegenError, match="ended with an error"):
        isolate.compile_isolated("define void @f() { ret i32 0 }", select())


def test_symbols_outside_the_list_are_refused() -> None:
    text = "declare void @system(ptr)\ndefine void @f() { call void @system(ptr null)\n ret void }"
    with pytest.raises(jit.CodegenError, match="not allowed: system"):
        jit.parse(text)


def test_unknown_instruction_sets_are_named(tmp_path: Path) -> None:
    with pytest.raises(DiagnosticError, match="vax"):
        artifact.write_artifact([mlp(8, 3, 4, 2)], "net", tmp_path, isa="vax")
    assert list(tmp_path.iterdir()) == []
