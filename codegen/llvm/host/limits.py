"""Small loops that show what a processor can do: multiply-adds on registers, and data that streams.

Each loop is a function as the thread pool calls it, ``void (ptr args, i64 begin, i64 end, i64
worker)``; its unit is a fixed piece of work that no other unit shares memory with.

* ``fma_f32``, ``fma_f64``, ``fma_bf16``: a unit is ``FMA_STEPS`` rounds of ``chains`` independent
  multiply-adds on vectors, or on tiles of a matrix unit. Nothing is read or written.
* ``read``, ``triad``, ``stream``: a unit goes ``repeats`` times over its own ``unit`` bytes of the
  arena: sums them; writes ``a = b + s*c`` over three thirds; the same with stores that go past the
  caches.

``args`` points to the arena's address, the bytes of a unit and the repeats; the last word takes
what keeps the work from being left out.

Non-goals: running them (``runtime.native.limits``).
"""

from __future__ import annotations

from gradc.codegen.llvm import amx
from gradc.codegen.llvm.isa import Isa

FMA_STEPS = 20_000
# Vectors that one step of a stream takes from each array.
_WAYS = 4
_TILES = 4  # of sums of the matrix unit, in flight
_ELEMENT = {"f64": ("double", 8), "f32": ("float", 4), "bf16": ("float", 4)}
STREAMS = ("read", "triad", "stream")


def chains(isa: Isa) -> int:
    """Multiply-adds in flight: enough for any latency, few enough for the registers."""
    return 24 if isa.registers >= 32 else 12


def fma_flops(precision: str, isa: Isa) -> int:
    """Floating-point operations of one unit of ``fma_PRECISION``."""
    if precision == "bf16" and isa.matrix:
        return FMA_STEPS * _TILES * 2 * amx.ROWS * amx.ROWS * 2 * amx.PAIRS
    lanes = isa.vector_bytes // _ELEMENT[precision][1]
    each = 4 if precision == "bf16" else 2
    return FMA_STEPS * chains(isa) * lanes * each


def precisions(isa: Isa) -> tuple[str, ...]:
    """What there are loops for."""
    return ("f64", "f32", "bf16") if isa.pairs else ("f64", "f32")


def limits_text(isa: Isa) -> str:
    """The module with all loops for ``isa``."""
    parts = [f'target triple = "{isa.triple}"\n']
    parts += [_fma(precision, isa) for precision in precisions(isa)]
    parts += [_stream(kind, isa) for kind in STREAMS]
    parts.append(_DECLARED.format(a=isa.attributes))
    parts.append("!0 = !{i32 1}\n")
    return "".join(parts)


_DECLARED = "attributes #0 = {{ {a} }}\n"


def exports(isa: Isa) -> tuple[str, ...]:
    """The names of the loops."""
    return (*(f"fma_{precision}" for precision in precisions(isa)), *STREAMS)


def _matrix() -> str:
    """``fma_bf16`` on the matrix unit: a chain is a tile of sums."""
    products = [
        f"  call void @{amx.MULTIPLY}(i8 {n}, i8 {_TILES + n // 2}, i8 {_TILES + 2 + n % 2})"
        for n in range(_TILES)
    ]
    return "\n".join(
        [
            f"@tiles = {amx.SIZES}",
            "declare void @llvm.x86.ldtilecfg(ptr)",
            "declare void @llvm.x86.tilerelease()",
            f"declare void @{amx.MULTIPLY}(i8 immarg, i8 immarg, i8 immarg)",
            "define void @fma_bf16(ptr %args, i64 %begin, i64 %end, i64 %worker) #0 {",
            "entry:",
            "  %units = sub i64 %end, %begin",
            f"  %steps = mul i64 %units, {FMA_STEPS}",
            "  call void @llvm.x86.ldtilecfg(ptr @tiles)",
            "  br label %loop",
            "loop:",
            "  %i = phi i64 [ 0, %entry ], [ %i.next, %loop ]",
            *products,
            "  %i.next = add i64 %i, 1",
            "  %more = icmp ult i64 %i.next, %steps",
            "  br i1 %more, label %loop, label %out",
            "out:",
            "  call void @llvm.x86.tilerelease()",
            "  ret void",
            "}\n",
        ]
    )


def _fma(precision: str, isa: Isa) -> str:
    if precision == "bf16" and isa.matrix:
        return _matrix()
    element, size = _ELEMENT[precision]
    lanes = isa.vector_bytes // size
    vector, count = f"<{lanes} x {element}>", chains(isa)
    name = f"llvm.fma.v{lanes}f{8 * size}"
    declare = f"declare {vector} @{name}({vector}, {vector}, {vector})\n"
    if precision == "bf16":
        pair = "<32 x bfloat>"
        name = "llvm.x86.avx512bf16.dpbf16ps.512"
        declare = f"declare {vector} @{name}({vector}, {pair}, {pair})\n"
    lines = [
        declare,
        f"define void @fma_{precision}(ptr %args, i64 %begin, i64 %end, i64 %worker) #0 {{",
        "entry:",
        "  %units = sub i64 %end, %begin",
        f"  %steps = mul i64 %units, {FMA_STEPS}",
        "  %factor_cell = getelementptr i8, ptr %args, i64 64",
        f"  %m = load {pair if precision == 'bf16' else vector}, ptr %factor_cell, align 64",
        "  br label %loop",
        "loop:",
        "  %i = phi i64 [ 0, %entry ], [ %i.next, %loop ]",
    ]
    for n in range(count):
        start = f"zeroinitializer, %entry ], [ %b{n}, %loop"
        lines.append(f"  %a{n} = phi {vector} [ {start} ]")
    for n in range(count):
        lines += _step(n, vector, name, precision, isa)
    lines += [
        "  %i.next = add i64 %i, 1",
        "  %more = icmp ult i64 %i.next, %steps",
        "  br i1 %more, label %loop, label %out",
        "out:",
        *_sum(count, vector, element),
        "  ret void",
        "}\n",
    ]
    return "\n".join(lines)


def _sum(count: int, vector: str, element: str) -> list[str]:
    """Hands on something that all ``count`` results go into, so that none is left out."""
    return [
        f"  %s0 = fadd {vector} %b0, zeroinitializer",
        *(f"  %s{n} = fadd {vector} %s{n - 1}, %b{n}" for n in range(1, count)),
        f"  %first = extractelement {vector} %s{count - 1}, i32 0",
        "  %cell = getelementptr i8, ptr %args, i64 192",
        f"  store volatile {element} %first, ptr %cell",
    ]


def _step(n: int, vector: str, name: str, precision: str, isa: Isa) -> list[str]:
    """One multiply-add of chain ``n``."""
    if precision == "bf16":
        pair = "<32 x bfloat>"
        return [f"  %b{n} = call {vector} @{name}({vector} %a{n}, {pair} %m, {pair} %m)"]
    if isa.fma:
        return [f"  %b{n} = call {vector} @{name}({vector} %a{n}, {vector} %m, {vector} %m)"]
    return [f"  %p{n} = fmul {vector} %a{n}, %m", f"  %b{n} = fadd {vector} %p{n}, %m"]


def _stream(kind: str, isa: Isa) -> str:
    """A loop over the bytes of each unit in turn."""
    lanes, size = isa.vector_bytes // 4, isa.vector_bytes
    vector = f"<{lanes} x float>"
    arrays = 1 if kind == "read" else 3
    lines = [
        f"define void @{kind}(ptr %args, i64 %begin, i64 %end, i64 %worker) #0 {{",
        "entry:",
        "  %arena = load ptr, ptr %args",
        "  %unit_cell = getelementptr i64, ptr %args, i64 1",
        "  %unit = load i64, ptr %unit_cell",
        "  %repeats_cell = getelementptr i64, ptr %args, i64 2",
        "  %repeats = load i64, ptr %repeats_cell",
        f"  %array = udiv i64 %unit, {arrays}",
        "  br label %each",
        "each:",
        "  %u = phi i64 [ %begin, %entry ], [ %u.next, %done ]",
        "  %at = mul i64 %u, %unit",
        "  %base0 = getelementptr i8, ptr %arena, i64 %at",
        "  %base1 = getelementptr i8, ptr %base0, i64 %array",
        "  %base2 = getelementptr i8, ptr %base1, i64 %array",
        "  br label %again",
        "again:",
        "  %r = phi i64 [ 0, %each ], [ %r.next, %swept ]",
        "  br label %loop",
        "loop:",
        "  %i = phi i64 [ 0, %again ], [ %i.next, %loop ]",
    ]
    if kind == "read":
        lines += [
            f"  %a{n} = phi {vector} [ zeroinitializer, %again ], [ %b{n}, %loop ]"
            for n in range(_WAYS)
        ]
    for n in range(_WAYS):
        lines += _read(n, vector, size) if kind == "read" else _triad(n, vector, size, kind)
    lines += [
        f"  %i.next = add i64 %i, {_WAYS * size}",
        "  %more = icmp ult i64 %i.next, %array",
        "  br i1 %more, label %loop, label %swept",
        "swept:",
    ]
    if kind == "read":
        lines += _sum(_WAYS, vector, "float")
    lines += [
        "  %r.next = add i64 %r, 1",
        "  %anew = icmp ult i64 %r.next, %repeats",
        "  br i1 %anew, label %again, label %done",
        "done:",
        "  %u.next = add i64 %u, 1",
        "  %others = icmp ult i64 %u.next, %end",
        "  br i1 %others, label %each, label %out",
        "out:",
        "  ret void",
        "}\n",
    ]
    return "\n".join(lines)


def _place(n: int, base: int, size: int) -> list[str]:
    """The address of vector ``n`` of this step in array ``base``."""
    return [
        f"  %o{base}.{n} = add i64 %i, {n * size}",
        f"  %q{base}.{n} = getelementptr i8, ptr %base{base}, i64 %o{base}.{n}",
    ]


def _read(n: int, vector: str, size: int) -> list[str]:
    return [
        *_place(n, 0, size),
        f"  %x{n} = load {vector}, ptr %q0.{n}, align {size}",
        f"  %b{n} = fadd {vector} %a{n}, %x{n}",
    ]


def _triad(n: int, vector: str, size: int, kind: str) -> list[str]:
    past = ", !nontemporal !0" if kind == "stream" else ""
    return [
        *(line for base in range(3) for line in _place(n, base, size)),
        f"  %x{n} = load {vector}, ptr %q1.{n}, align {size}",
        f"  %y{n} = load {vector}, ptr %q2.{n}, align {size}",
        f"  %p{n} = fmul {vector} %y{n}, %x{n}",
        f"  %z{n} = fadd {vector} %p{n}, %x{n}",
        f"  store {vector} %z{n}, ptr %q0.{n}, align {size}{past}",
    ]
