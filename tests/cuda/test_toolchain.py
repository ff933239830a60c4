"""Kernel texts as machine code, without a GPU: repeatable, nothing contracted, no spill, and said
well where the extra is missing.
"""

from __future__ import annotations

import sys

import pytest

from gradc.codegen.backend import Signature
from gradc.codegen.cuda.printer.plans import PROCESSORS
from gradc.codegen.cuda.program import Launch, Parameter, Place, Program, Text
from gradc.codegen.cuda.toolchain import assemble, build, needs, sass
from gradc.codegen.cuda.verbs import TEXT_VERBS
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.plan.plan import Port
from gradc.ir.tensor.core import DType, Role
from tests.support.golden_files import check_golden

ADD = """
def twice(x):
    return x + x

def each(a, b, out):
    i = block() * 1024 + thread() * 4
    x0, x1, x2, x3 = load4(a, i)
    y0, y1, y2, y3 = load4(b, i)
    store4(out, i, x0 * y0 + x1, twice(x1) + y1, x2 + y2, fma(x3, y3, f32(0.5)))
"""

# Sixteen threads own a row of 64: four chains a thread, then the tree of the fold.
ROW = """
def row(a, out):
    s = shared(f32, 256)
    t = thread()
    x0, x1, x2, x3 = load4(a, block() * 1024 + t * 4)
    x0 = x0 + shuffle_xor(x0, 4)
    x0 = x0 + shuffle_xor(x0, 8)
    store(s, t, x0 + x2 + (x1 + x3))
    barrier()
    total = f32(0.0)
    for k in range(16):
        total = total + load(s, bitand(t, 240) + k)
    if t == 0:
        store(out, block(), total)
"""


def text(name: str, source: str, *names: str, shared: int = 0) -> Text:
    written = names[-1]
    parameters = tuple(
        Parameter(n, "f32", "write" if n == written else "read", 4096) for n in names
    )
    return Text(name, source, parameters, 256, shared)


def program() -> Program:
    texts = (text("each", ADD, "a", "b", "out"), text("row", ROW, "a", "out", shared=1024))
    ports = tuple(
        Port(name, role, (4096,), DType.F32, way, n)  # type: ignore[arg-type]
        for n, (name, role, way) in enumerate(
            [("a", Role.INPUT, "in"), ("b", Role.INPUT, "in"), ("out", Role.OUTPUT, "out")]
        )
    )
    a, b, out = (Place("port", n, 0) for n in range(3))
    room = Place("arena", 0, 0)
    steps = (Launch(0, 4, (a, b, room)), Launch(1, 4, (room, out)))
    return Program(texts, steps, 4096 * 4, Signature("p", ports, 4096 * 4, 1, 2, 2, "sm_90"))


@pytest.mark.parametrize("name", build.CAPABILITIES)
def test_machine_code_repeats_and_is_as_expected(name: str) -> None:
    pytest.importorskip("numba_cuda")
    capability = build.CAPABILITIES[name]
    made = build.build(program(), capability)
    build._ptx.cache_clear()
    assert build.build(program(), capability).pack() == made.pack()
    found = sass.statistics(made.cubin)
    assert list(found) == ["each", "row"] or list(found) == ["row", "each"]
    each, row = found["each"], found["row"]
    assert (each.wide, each.narrow, each.stack, each.local, each.f64) == (3, 0, 0, 0, 0)
    assert each.fused == 1 and each.registers <= 32
    assert (row.stack, row.local, row.f64, row.fused) == (0, 0, 0, 0)
    assert row.shared >= 1024 and row.occupancy(256, PROCESSORS["sm_90"]) == 8


def test_nothing_is_contracted_or_flushed() -> None:
    pytest.importorskip("numba_cuda")
    code = build.ptx(program().texts[0], (9, 0))
    assert code.count("fma.rn") == 1 and code.count("mul.rn.f32") == 1
    assert ".ftz" not in code and ".approx" not in code and "_ZN" not in code
    assert ".entry each(" in code


def test_every_verb_can_be_compiled() -> None:
    """One text of all verbs of one type each; ptxas takes the result."""
    pytest.importorskip("numba_cuda")
    calls = []
    for verb in TEXT_VERBS.values():
        kinds: tuple[str, ...] = (
            ("u32", "i32", "i64") if verb.name in _OF_INTEGERS else ("f32", "f64")
        )
        if verb.name == "mulhi":
            kinds = ("u32",)
        if verb.kind == "scalar" and not verb.name.startswith("logical_"):
            for kind in kinds:
                each = ["c" if t == "bool" else f"x_{kind}" for t in verb.takes]
                calls.append(_kept(f"{verb.name}({', '.join(each)})", verb.gives, kind))
    lines = ["def all_verbs(f32s, f64s, i32s, u32s, i64s, u16s):", "    t = thread()"]
    for kind in ("f32", "f64", "i32", "u32", "i64"):
        lines.append(f"    x_{kind} = load({kind}s, t)")
    lines += ["    c = logical_not(logical_or(x_f32 < f32(NAN), logical_and(x_f64 > f64(0.5),"]
    lines[-1] += " x_i64 == 3)))"
    lines += calls
    lines += [
        "    store(u16s, t, bf16_bits(x_f64))",
        "    store(u16s, t + 1, f16_bits(bf16_value(load(u16s, t + 2))))",
        "    store(f32s, t, f16_value(load(u16s, t + 3)) + f32_of(f32_bits(x_f32)))",
        "    store(f64s, t, f64_of(f64_bits(x_f64)) + shuffle_xor(x_f64, 3))",
        "    p = local(i64, 8)",
        "    store(p, 1, shuffle_xor(x_i64, 1))",
        "    store(i64s, t, load(p, t) + i64(shuffle_xor(x_u32, 2)) + i64(u8(x_i32)))",
        "    total = each_sum(outer(zeros(f64, 2), (x_f64, f64(2)), (x_f64,)), zeros(f64, 2))",
        "    store(f64s, t + 8, total[0] + total[1])",
        "    room = dynamic(f64, 64, 1024)",
        "    store(room, t, x_f64)",
        "    barrier()",
        "    store(f64s, t + 16, load(room, bitxor(t, 1)))",
    ]
    kinds_ = ("f32", "f64", "i32", "u32", "i64", "u16")
    parameters = tuple(Parameter(f"{k}s", k, "update", 64) for k in kinds_)
    made = Text("all_verbs", "\n".join(lines) + "\n", parameters, 32)
    code = assemble.cubin([build.ptx(made, (8, 0))], (8, 0))
    assert sass.statistics(code)["all_verbs"].instructions > 200


_OF_INTEGERS = ("shl", "shr", "bitand", "bitor", "bitxor")


def _kept(call: str, gives: str, kind: str) -> str:
    """A line that uses what ``call`` gives."""
    value = f"select({call}, x_{kind}, load({kind}s, t + 9))" if gives == "bool" else call
    return (
        f"    store({kind}s, t * 2, {value} + load({kind}s, t * 3))"
        if kind[0] in "f"
        else (f"    store({kind}s, t * 2, add({value}, load({kind}s, t * 3)))")
    )


def test_what_is_packed_comes_back_and_nothing_else() -> None:
    stripped = Program.from_json(program().to_json())
    made = build.Built(stripped, "sm_90", b"\x7fELF code")
    assert build.Built.unpack(made.pack()) == made
    for damaged in (
        b"",
        b"GRADCCUBIN1\n",
        made.pack()[:40],
        made.pack().replace(b"each", b"\0\0\0"),
    ):
        with pytest.raises(ValueError):
            build.Built.unpack(damaged)


def test_a_missing_extra_is_said(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Which parts, and how to get them; a part that cannot be loaded likewise."""
    monkeypatch.setattr(needs, "_version", lambda name: None if "numba" in name else "1")
    monkeypatch.setitem(sys.modules, "gradc.codegen.cuda.toolchain.numba_texts", None)
    build._ptx.cache_clear()
    with pytest.raises(DiagnosticError) as caught:
        build.build(program(), (9, 0))
    check_golden("diagnostics/GC0595.txt", f"{caught.value}\n", request.config)
    monkeypatch.setattr(needs, "_version", lambda name: "1")
    with pytest.raises(DiagnosticError, match=r"None in sys\.modules"):
        build.build(program(), (9, 0))
