"""The instructions behind each verb, as NVVM IR: scalars, casts, bits, shuffles.

Written with llvmlite alone: neither Numba nor a GPU is needed, so that the same functions can be
compiled for the CPU and compared with NumPy (``tests/cuda/test_cuda_instructions.py``).

NVVM has no fneg, fabs and copysign: sign bits are turned and cleared as integers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import llvmlite.ir as ll

# builder, the type's name, values -> value
Scalar = Callable[..., Any]

I1, I16, I32, I64 = ll.IntType(1), ll.IntType(16), ll.IntType(32), ll.IntType(64)
F16, F32, F64 = ll.HalfType(), ll.FloatType(), ll.DoubleType()

LLVM_TYPES = {
    "f32": F32, "f64": F64, "i32": I32, "u32": I32, "i64": I64, "u16": I16, "u8": ll.IntType(8),
    "bool": I1,
}  # fmt: skip


def const(type_: Any, value: Any) -> Any:
    return ll.Constant(type_, value)


def is_float(name: str) -> bool:
    return name in ("f32", "f64")


def call(b: Any, name: str, result: Any, *values: Any) -> Any:
    kind = ll.FunctionType(result, [v.type for v in values])
    known = b.module.globals.get(name)
    return b.call(ll.Function(b.module, kind, name) if known is None else known, values)


def _width(name: str) -> str:
    return "f64" if name == "f64" else "f32"


def _sign_mask(name: str) -> tuple[Any, Any, int]:
    """The float's type, that of its bits, and its sign bit."""
    return (F64, I64, 1 << 63) if name == "f64" else (F32, I32, 1 << 31)


def _on_bits(b: Any, name: str, x: Any, change: Callable[[Any, Any, int], Any]) -> Any:
    float_, bits, sign = _sign_mask(name)
    return b.bitcast(change(b.bitcast(x, bits), bits, sign), float_)


def _neg(b: Any, name: str, x: Any) -> Any:
    if not is_float(name):
        return b.sub(const(x.type, 0), x)
    return _on_bits(b, name, x, lambda v, bits, sign: b.xor(v, const(bits, sign)))


def _abs(b: Any, name: str, x: Any) -> Any:
    if is_float(name):
        return _on_bits(b, name, x, lambda v, bits, sign: b.and_(v, const(bits, sign - 1)))
    if name == "u32":
        return x
    zero = const(x.type, 0)
    return b.select(b.icmp_signed("<", x, zero), b.sub(zero, x), x)


def _sign(b: Any, name: str, x: Any) -> Any:
    if not is_float(name):
        zero, one = const(x.type, 0), const(x.type, 1)
        up = b.zext(b.icmp_unsigned("!=", x, zero), x.type)
        if name == "u32":
            return up
        return b.select(b.icmp_signed("<", x, zero), b.sub(zero, one), up)
    one_bits = 0x3FF << 52 if name == "f64" else 127 << 23

    def signed(v: Any, bits: Any, sign: int) -> Any:
        return b.or_(b.and_(v, const(bits, sign)), const(bits, one_bits))

    unit, zero = _on_bits(b, name, x, signed), const(x.type, 0.0)
    result = b.select(b.fcmp_ordered("==", x, zero), zero, unit)
    return b.select(b.fcmp_unordered("uno", x, x), x, result)


def _extreme(greater: bool) -> Scalar:
    order = ">" if greater else "<"

    def emit(b: Any, name: str, x: Any, y: Any) -> Any:
        if name == "bool":
            return b.or_(x, y) if greater else b.and_(x, y)
        if is_float(name):
            chosen = b.select(b.fcmp_ordered(order, x, y), x, y)
            return b.select(b.fcmp_unordered("uno", x, x), x, chosen)
        compare = b.icmp_unsigned if name == "u32" else b.icmp_signed
        return b.select(compare(order, x, y), x, y)

    return emit


def _gate(b: Any, name: str, ct: Any, partial: Any) -> Any:
    if not is_float(name):
        return b.mul(ct, partial)
    zero = const(ct.type, 0.0)
    return b.select(b.fcmp_ordered("==", ct, zero), zero, b.fmul(ct, partial))


def _floor(b: Any, name: str, x: Any) -> Any:
    return call(b, f"llvm.floor.{_width(name)}", x.type, x) if is_float(name) else x


def _round(b: Any, name: str, x: Any) -> Any:
    """To the nearest integer, ties to even: by a sum whose last bit counts ones. (NVVM has no
    llvm.rint.)
    """
    if not is_float(name):
        return x
    size, whole = _abs(b, name, x), const(x.type, 2.0**52 if name == "f64" else 2.0**23)
    near = b.fsub(b.fadd(size, whole), whole)
    _, bits, sign = _sign_mask(name)
    signs = b.and_(b.bitcast(x, bits), const(bits, sign))
    near = b.bitcast(b.or_(b.bitcast(near, bits), signs), x.type)
    return b.select(b.fcmp_ordered("<", size, whole), near, x)


def _sqrt(b: Any, name: str, x: Any) -> Any:
    return call(b, f"llvm.sqrt.{_width(name)}", x.type, x)


def _rsqrt(b: Any, name: str, x: Any) -> Any:
    return b.fdiv(const(x.type, 1.0), _sqrt(b, name, x))


def fma(b: Any, name: str, x: Any, y: Any, z: Any) -> Any:
    if not is_float(name):
        return b.add(b.mul(x, y), z)
    return call(b, f"llvm.fma.{_width(name)}", x.type, x, y, z)


def _quotient(b: Any, name: str, x: Any, y: Any) -> Any:
    """floor(x / y); of integers 0 for y = 0, and the least integer for itself by -1."""
    if is_float(name):
        return _floor(b, name, b.fdiv(x, y))
    zero, one = const(x.type, 0), const(x.type, 1)
    none = b.icmp_unsigned("==", y, zero)
    if name == "u32":
        return b.select(none, zero, b.udiv(x, b.select(none, one, y)))
    minus = b.icmp_unsigned("==", y, b.sub(zero, one))
    safe = b.select(b.or_(none, minus), one, y)
    down = b.sdiv(x, safe)
    rest = b.sub(x, b.mul(down, safe))
    unlike = b.icmp_signed("<", b.xor(rest, safe), zero)
    lower = b.and_(unlike, b.icmp_unsigned("!=", rest, zero))
    floored = b.select(lower, b.sub(down, one), down)
    return b.select(none, zero, b.select(minus, b.sub(zero, x), floored))


def _mod(b: Any, name: str, x: Any, y: Any) -> Any:
    if is_float(name):
        return b.fsub(x, b.fmul(_quotient(b, name, x, y), y))
    rest = b.sub(x, b.mul(_quotient(b, name, x, y), y))
    zero = const(x.type, 0)
    return b.select(b.icmp_unsigned("==", y, zero), zero, rest)


def _div(b: Any, name: str, x: Any, y: Any) -> Any:
    return b.fdiv(x, y) if is_float(name) else _quotient(b, name, x, y)


def _shift(left: bool) -> Scalar:
    def emit(b: Any, name: str, x: Any, y: Any) -> Any:
        count = b.and_(y, const(y.type, x.type.width - 1))
        if left:
            return b.shl(x, count)
        return b.lshr(x, count) if name == "u32" else b.ashr(x, count)

    return emit


def _mulhi(b: Any, name: str, x: Any, y: Any) -> Any:
    wide = b.mul(b.zext(x, I64), b.zext(y, I64))
    return b.trunc(b.lshr(wide, const(I64, 32)), I32)


def _compare(order: str) -> Scalar:
    def emit(b: Any, name: str, x: Any, y: Any) -> Any:
        if is_float(name):
            return (b.fcmp_unordered if order == "!=" else b.fcmp_ordered)(order, x, y)
        if name in ("u32", "bool", "u16", "u8"):
            return b.icmp_unsigned(order, x, y)
        return b.icmp_signed(order, x, y)

    return emit


def _plain(of_floats: str, of_integers: str, of_bools: str = "") -> Scalar:
    def emit(b: Any, name: str, x: Any, y: Any) -> Any:
        method = of_floats if is_float(name) else of_integers
        if name == "bool":
            method = of_bools
        if not method:
            raise TypeError(f"{name} has no such verb")
        return getattr(b, method)(x, y)

    return emit


def _not(b: Any, name: str, x: Any) -> Any:
    return b.xor(x, const(I1, 1))


SCALARS: Mapping[str, Scalar] = {
    "add": _plain("fadd", "add", "or_"),
    "sub": _plain("fsub", "sub"),
    "mul": _plain("fmul", "mul", "and_"),
    "div": _div,
    "max": _extreme(True),
    "min": _extreme(False),
    "gate": _gate,
    "neg": _neg,
    "abs": _abs,
    "sign": _sign,
    "floor": _floor,
    "round": _round,
    "sqrt": _sqrt,
    "rsqrt": _rsqrt,
    "floordiv": _quotient,
    "mod": _mod,
    "bitand": _plain("", "and_", "and_"),
    "bitor": _plain("", "or_", "or_"),
    "bitxor": _plain("", "xor", "xor"),
    "shl": _shift(True),
    "shr": _shift(False),
    "mulhi": _mulhi,
    "eq": _compare("=="),
    "ne": _compare("!="),
    "lt": _compare("<"),
    "le": _compare("<="),
    "gt": _compare(">"),
    "ge": _compare(">="),
    "logical_and": _plain("", "", "and_"),
    "logical_or": _plain("", "", "or_"),
    "logical_not": _not,
    "select": lambda b, name, c, x, y: b.select(c, x, y),
    "fma": fma,
}


# ---- casts and bits -----------------------------------------------------------------------------


def _saturated(b: Any, source: str, x: Any, low: int, high: int, signed: bool, target: Any) -> Any:
    """Toward zero, at most to the ends of the range; NaN gives 0.

    Compared in the source's type: the first float beyond the top is a power of two.
    """
    top, bottom = const(x.type, float(high + 1)), const(x.type, float(low))
    over = b.fcmp_ordered(">=", x, top)
    under = b.fcmp_ordered("<=", x, bottom)
    inside = b.fcmp_ordered("ord", x, x)
    safe = b.select(b.or_(over, under), const(x.type, 0.0), x)
    safe = b.select(inside, safe, const(x.type, 0.0))
    whole = (b.fptosi if signed else b.fptoui)(safe, target)
    whole = b.select(under, const(target, low), whole)
    return b.select(over, const(target, high), whole)


_RANGES = {
    "i32": (-(1 << 31), (1 << 31) - 1, True),
    "u32": (0, (1 << 32) - 1, False),
    "i64": (-(1 << 63), (1 << 63) - 1, True),
}
_UNSIGNED = ("u32", "u16", "u8", "bool")


def cast(b: Any, source: str, target: str, x: Any) -> Any:
    """``x`` as ``target``, as ``codegen.cuda.verbs`` says."""
    kind = LLVM_TYPES[target]
    if source == target:
        return x
    if is_float(target):
        if is_float(source):
            return b.fpext(x, kind) if target == "f64" else b.fptrunc(x, kind)
        return (b.uitofp if source in _UNSIGNED else b.sitofp)(x, kind)
    if is_float(source):
        if target not in _RANGES:
            raise TypeError(f"no {target} of {source}: by way of i32")
        low, high, signed = _RANGES[target]
        return _saturated(b, source, x, low, high, signed, kind)
    if kind.width == x.type.width:
        return x
    if kind.width < x.type.width:
        return b.trunc(x, kind)
    return (b.zext if source in _UNSIGNED else b.sext)(x, kind)


def _odd(b: Any, x: Any) -> Any:
    """An f64 as an f32 rounded to odd: rounded once more, it is as if it had been rounded once."""
    near = b.fptrunc(x, F32)
    back, bits = b.fpext(near, F64), b.bitcast(near, I32)
    is_even = b.icmp_unsigned("==", b.and_(bits, const(I32, 1)), const(I32, 0))
    differs = b.fcmp_ordered("!=", back, x)
    # The neighbour on x's side has an odd last bit: one down in magnitude, or one up.
    size = const(I64, (1 << 63) - 1)
    far, true = (b.and_(b.bitcast(v, I64), size) for v in (back, x))
    one = const(I32, 1)
    moved = b.select(b.icmp_unsigned(">", far, true), b.sub(bits, one), b.add(bits, one))
    return b.bitcast(b.select(b.and_(differs, is_even), moved, bits), F32)


def bf16_bits(b: Any, x: Any) -> Any:
    """To nearest, ties to even; NaN keeps its upper bits and becomes quiet."""
    if x.type == F64:
        x = _odd(b, x)
    bits = b.bitcast(x, I32)
    last = b.and_(b.lshr(bits, const(I32, 16)), const(I32, 1))
    rounded = b.add(bits, b.add(const(I32, 0x7FFF), last))
    quiet = b.or_(bits, const(I32, 1 << 22))
    chosen = b.select(b.fcmp_unordered("uno", x, x), quiet, rounded)
    return b.trunc(b.lshr(chosen, const(I32, 16)), I16)


def bf16_value(b: Any, x: Any) -> Any:
    return b.bitcast(b.shl(b.zext(x, I32), const(I32, 16)), F32)


def f16_bits(b: Any, x: Any) -> Any:
    if x.type == F64:
        x = _odd(b, x)
    return call(b, "llvm.convert.to.fp16.f32", I16, x)


def f16_value(b: Any, x: Any) -> Any:
    return call(b, "llvm.convert.from.fp16.f32", F32, x)


def copied(b: Any, to: Any, source: Any, nbytes: int, condition: Any) -> None:
    """``nbytes`` from global to shared memory, in flight; zeros where ``condition`` does not hold:
    then nothing is read.
    """
    shared = b.addrspacecast(to, ll.PointerType(to.type.pointee, 3))
    given = b.ptrtoint(shared, I32), b.ptrtoint(source, I64)
    # Sixteen bytes pass by the first cache, which they would only fill.
    cache = "cg" if nbytes == 16 else "ca"
    text = f"cp.async.{cache}.shared.global [$0], [$1], {nbytes}, $2;"
    size = b.select(condition, const(I32, nbytes), const(I32, 0))
    _assembled(b, text, "r,l,r,~{memory}", *given, size)


def committed(b: Any) -> None:
    _assembled(b, "cp.async.commit_group;", "~{memory}")


def waited(b: Any, groups: int) -> None:
    _assembled(b, f"cp.async.wait_group {groups};", "~{memory}")


def matrices(b: Any, place: Any, is_turned: bool) -> list[Any]:
    """Four matrices of 8 x 8 half words, a register each."""
    shared = b.addrspacecast(place, ll.PointerType(place.type.pointee, 3))
    turned = ".trans" if is_turned else ""
    text = f"ldmatrix.sync.aligned.m8n8.x4{turned}.shared.b16 {{$0, $1, $2, $3}}, [$4];"
    four = ll.LiteralStructType([I32] * 4)
    rule = "=r,=r,=r,=r,r,~{memory}"
    found = _assembled(b, text, rule, b.ptrtoint(shared, I32), result=four)
    return [b.extract_value(found, n) for n in range(4)]


def mma(b: Any, kind: str, total: list[Any], left: list[Any], right: list[Any]) -> list[Any]:
    """One product of 16 x 16 by 16 x 8 on a tensor core, added to ``total``."""
    text = (
        f"mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32 "
        "{$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};"
    )
    four = ll.LiteralStructType([F32] * 4)
    rule = "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f"
    kinds = [v.type for v in (*left, *right, *total)]
    asm = ll.InlineAsm(ll.FunctionType(four, kinds), text, rule, side_effect=False)
    found = b.call(asm, [*left, *right, *total])
    return [b.extract_value(found, n) for n in range(4)]


# ---- products of groups of 128 threads (sm_90a) -------------------------------------------------


def published(b: Any) -> None:
    _assembled(b, "fence.proxy.async.shared::cta;", "~{memory}")


def products_committed(b: Any) -> None:
    _assembled(b, "wgmma.commit_group.sync.aligned;", "~{memory}")


def through(b: Any, text: str, sums: list[Any], values: Sequence[Any] = ()) -> list[Any]:
    """``text`` with ``sums`` in registers that it may change: what is read afterwards comes from
    it, so that nothing moves across. It names them $0, $1, ..., ``values`` from twice as many on.
    """
    count = len(sums)
    tied = ",".join(map(str, range(count)))
    kinds = "".join(",l" for _ in values)
    rule = f"{','.join(['=f'] * count)},{tied}{kinds},~{{memory}}"
    found = _assembled(b, text, rule, *sums, *values, result=ll.LiteralStructType([F32] * count))
    return [b.extract_value(found, n) for n in range(count)]


def ready(b: Any, sums: list[Any]) -> list[Any]:
    return through(b, "wgmma.fence.sync.aligned;", sums)


def products_waited(b: Any, sums: list[Any], groups: int) -> list[Any]:
    return through(b, f"wgmma.wait_group.sync.aligned {groups};", sums)


def group_mma(
    b: Any, kind: str, sums: list[Any], left: tuple[Any, int], right: tuple[Any, int]
) -> list[Any]:
    """One product of 64 x 16 by 16 x 64, begun: factors are places in shared memory, and whether
    they are turned.
    """
    count = len(sums)
    registers = ", ".join(f"${n}" for n in range(count))
    text = (
        "{ .reg .pred adds; setp.ne.b32 adds, 1, 0; "
        f"wgmma.mma_async.sync.aligned.m64n64k16.f32.{kind}.{kind} {{{registers}}}, "
        f"${2 * count}, ${2 * count + 1}, adds, 1, 1, {left[1]}, {right[1]}; }}"
    )
    return through(b, text, sums, [_described(b, *left), _described(b, *right)])


def _described(b: Any, place: Any, is_turned: int) -> Any:
    """The descriptor of a matrix (PTX ISA 9.0, 9.7.15.5.1): where it begins, how far eight lines of
    it lie from the next eight, and how chunks of 16 bytes are swapped: as in lines of 64 bytes
    where k is fast, of 128 bytes where it is not.
    """
    lines, swap = (1024, 1) if is_turned else (512, 2)
    shared = b.addrspacecast(place, ll.PointerType(place.type.pointee, 3))
    begin = b.zext(b.lshr(b.and_(b.ptrtoint(shared, I32), const(I32, 0x3FFFF)), const(I32, 4)), I64)
    return b.or_(begin, const(I64, (1 << 16) | (lines >> 4 << 32) | (swap << 62)))


def _assembled(b: Any, text: str, constraints: str, *values: Any, result: Any = None) -> Any:
    """PTX as it stands, which is neither moved nor left out."""
    kind = ll.FunctionType(result or ll.VoidType(), [v.type for v in values])
    return b.call(ll.InlineAsm(kind, text, constraints, side_effect=True), values)


def shuffled(b: Any, x: Any, mask: int) -> Any:
    """``x`` of the lane whose number differs in ``mask``, 32 bits at a time."""
    all_lanes = [const(I32, v) for v in (0xFFFFFFFF, mask, 31)]
    width = x.type.width if isinstance(x.type, ll.IntType) else 64 if x.type == F64 else 32

    def word(v: Any) -> Any:
        return call(b, "llvm.nvvm.shfl.sync.bfly.i32", I32, all_lanes[0], v, *all_lanes[1:])

    if width == 64:
        bits = b.bitcast(x, I64) if x.type == F64 else x
        low = b.zext(word(b.trunc(bits, I32)), I64)
        high = b.zext(word(b.trunc(b.lshr(bits, const(I64, 32)), I32)), I64)
        whole = b.or_(low, b.shl(high, const(I64, 32)))
        return b.bitcast(whole, F64) if x.type == F64 else whole
    bits = b.bitcast(x, I32) if x.type == F32 else x
    if width < 32:
        return b.trunc(word(b.zext(bits, I32)), x.type)
    return b.bitcast(word(bits), F32) if x.type == F32 else word(bits)
