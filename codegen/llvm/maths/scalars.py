"""The verbs of the algebra as LLVM instructions, on scalars and on vectors of any width.

A value of element type f64, f32, i32, u32, i64 or bool is computed as ``double``, ``float``,
``i32``, ``i32``, ``i64`` or ``i1``; bf16 and f16 are computed in ``float`` and rounded to their
type after every verb (to nearest, ties to even, NaN kept), so what is computed is what a store
would keep. In memory bool is a byte, bf16 and f16 are 16 bits.

Invariants: exactly as IEEE 754 says (nothing is reassociated, or contracted but the verb ``fma``);
division of integers never traps; shifts take their count modulo the width; casts to integers
saturate.
Non-goals: transcendentals (``codegen/maths``), memory (``nest``).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence

import numpy as np

from gradc.codegen.llvm.isa import Isa
from gradc.codegen.llvm.maths.floats import Floats
from gradc.codegen.llvm.text import (
    Function,
    Value,
    bits_suffix,
    constant,
    lanes_of,
    vector,
    with_element,
)
from gradc.codegen.maths import elementary, scalars
from gradc.codegen.maths.floats import round_f32
from gradc.ir.tensor.algebra import VERBS
from gradc.ir.tensor.bf16 import round_to_bf16
from gradc.ir.tensor.core import DType

COMPUTE: dict[DType, str] = {
    DType.F64: "double",
    DType.F32: "float",
    DType.BF16: "float",
    DType.F16: "float",
    DType.I64: "i64",
    DType.I32: "i32",
    DType.U32: "i32",
    DType.BOOL: "i1",
}
STORED: dict[DType, str] = {**COMPUTE, DType.BF16: "i16", DType.F16: "i16", DType.BOOL: "i8"}
_NARROW = (DType.BF16, DType.F16)
# Verbs whose result is one of their operands, or needs no more bits than they have.
_EXACT = {"max", "min", "neg", "abs", "sign", "select", "floor", "round", "copy"}
_ORDER = {"eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge"}


def round_literal(value: float, dtype: DType) -> float:
    """``value`` rounded to a float type."""
    if dtype is DType.F64:
        return float(value)
    if dtype is DType.F16:
        try:
            return float(struct.unpack("<e", struct.pack("<e", value))[0])
        except OverflowError:
            return math.copysign(math.inf, value)
    if dtype is DType.BF16:
        return float(round_to_bf16(np.asarray(value, np.float64)))
    return round_f32(float(value))


class Scalars:
    """Emits verbs into ``fn``."""

    def __init__(self, fn: Function, isa: Isa) -> None:
        self.fn = fn
        self.isa = isa

    def floats(self, type_: str) -> Floats:
        return Floats(self.fn, self.isa, type_)

    def const(self, value: float | bool, dtype: DType, lanes: int = 0) -> Value:
        """A literal of an element type, rounded to it."""
        exact = round_literal(float(value), dtype) if dtype.is_float else value
        return constant(vector(COMPUTE[dtype], lanes), exact)

    def even(self, operands: Sequence[Value]) -> list[Value]:
        """The operands with scalars spread to the lanes of the vectors among them."""
        lanes = max(lanes_of(v.type) for v in operands)
        return [self.fn.splat(v, lanes) for v in operands]

    def verb(
        self, name: str, result: DType, operands: Sequence[Value], dtypes: Sequence[DType]
    ) -> Value:
        """``name(operands)``, rounded to ``result``. Raises ValueError for a verb its operands do
        not have.
        """
        if name == "copy":
            return operands[0]
        if name == "cast":
            return self.cast(operands[0], dtypes[0], result)
        if name not in VERBS or len(operands) != VERBS[name].arity:
            raise ValueError(f"no verb {name} of {len(operands)} operands")
        if name == "pow":
            short = self._power(result, operands)
            if short is not None:
                return self.round_to(short, result)
        values = self.even(operands)
        dtype = dtypes[-1]
        if name == "select":
            return self.fn.select(*values)
        if name in _ORDER:
            return self._compare(name, dtype, values)
        if name.startswith("logical_") or dtype is DType.BOOL:
            return self._boolean(name, values)
        if not dtype.is_float:
            return self._integer(name, dtype, values)
        value = self._float(name, values)
        return value if name in _EXACT else self.round_to(value, result, plain=True)

    def combine(self, how: str, a: Value, b: Value, dtype: DType) -> Value:
        """``a`` and ``b`` folded by ``add``, ``mul``, ``max`` or ``min``."""
        return self.verb(how, dtype, (a, b), (dtype, dtype))

    # ---- families -------------------------------------------------------------------------------

    def _compare(self, name: str, dtype: DType, values: list[Value]) -> Value:
        if dtype.is_float:
            kind = f"fcmp {'une' if name == 'ne' else 'o' + name}"
        elif name in ("eq", "ne"):
            kind = f"icmp {name}"
        else:
            kind = f"icmp {'u' if dtype in (DType.U32, DType.BOOL) else 's'}{name}"
        return self.fn.compare(kind, *values)

    def _boolean(self, name: str, values: list[Value]) -> Value:
        opcode = {
            "logical_and": "and",
            "logical_or": "or",
            "bitand": "and",
            "bitor": "or",
            "bitxor": "xor",
            "max": "or",
            "min": "and",
            "add": "or",
            "mul": "and",
        }.get(name)
        if name == "logical_not":
            return self.fn.binary("xor", values[0], constant(values[0].type, True))
        if opcode is None:
            raise ValueError(f"bool has no {name}")
        return self.fn.binary(opcode, *values)

    def _integer(self, name: str, dtype: DType, values: list[Value]) -> Value:
        fn, first = self.fn, values[0]
        signed = dtype is not DType.U32
        simple = {"add": "add", "sub": "sub", "mul": "mul", "bitand": "and", "bitor": "or"}
        simple["bitxor"] = "xor"
        zero = constant(first.type, 0)
        if name in simple:
            return fn.binary(simple[name], *values)
        if name in ("max", "min"):
            return fn.intrinsic(f"llvm.{'s' if signed else 'u'}{name}", *values)
        if name in ("shl", "shr"):
            width = dtype.itemsize * 8
            count = fn.binary("and", values[1], constant(first.type, width - 1))
            opcode = "shl" if name == "shl" else "ashr" if signed else "lshr"
            return fn.binary(opcode, first, count)
        if name in ("floordiv", "mod", "div"):
            quotient = self._quotient(values[0], values[1], dtype)
            if name != "mod":
                return quotient
            rest = fn.binary("sub", values[0], fn.binary("mul", quotient, values[1]))
            return fn.select(fn.compare("icmp eq", values[1], zero), zero, rest)
        if name == "neg":
            return fn.binary("sub", zero, first)
        if name == "abs":
            negative = fn.compare("icmp slt", first, zero)
            return fn.select(negative, fn.binary("sub", zero, first), first) if signed else first
        if name == "sign":
            up = fn.convert("zext", fn.compare("icmp ne", first, zero), first.type)
            down = fn.compare("icmp slt", first, zero)
            return fn.select(down, constant(first.type, -1), up) if signed else up
        if name in ("floor", "round"):
            return first
        if name == "mulhi":
            wide = with_element(first.type, "i64")
            a, b = (fn.convert("zext", v, wide) for v in values)
            high = fn.binary("lshr", fn.binary("mul", a, b), constant(wide, 32))
            return fn.convert("trunc", high, first.type)
        if name == "gate":
            return fn.binary("mul", *values)
        raise ValueError(f"{dtype} has no {name}")

    def _quotient(self, a: Value, b: Value, dtype: DType) -> Value:
        """floor(a/b); 0 for b = 0. In f64 for 32 bits: a quotient that is no integer is 2^-32 away
        from the next.
        """
        fn = self.fn
        zero, one = constant(a.type, 0), constant(a.type, 1)
        none = fn.compare("icmp eq", b, zero)
        if dtype is DType.I64:
            minus = fn.compare("icmp eq", b, constant(a.type, -1))
            safe = fn.select(fn.binary("or", none, minus), one, b)
            down = fn.binary("sdiv", a, safe)
            rest = fn.binary("sub", a, fn.binary("mul", down, safe))
            unlike = fn.compare("icmp slt", fn.binary("xor", rest, safe), zero)
            lower = fn.binary("and", unlike, fn.compare("icmp ne", rest, zero))
            floored = fn.select(lower, fn.binary("sub", down, one), down)
            floored = fn.select(minus, fn.binary("sub", zero, a), floored)
            return fn.select(none, zero, floored)
        k = self.floats(with_element(a.type, "double"))
        opcode = "uitofp" if dtype is DType.U32 else "sitofp"
        x, y = (fn.convert(opcode, v, k.type) for v in (a, fn.select(none, one, b)))
        floor = k.floor(k.div(x, y))
        # The one quotient that does not fit, -2^31 / -1, wraps to -2^31 like its 64-bit image.
        if dtype is DType.U32:
            return fn.select(none, zero, fn.convert("fptoui", floor, a.type))
        top = k.compare("oeq", floor, k.c(2147483648.0))
        whole = fn.convert("fptosi", k.select(top, k.c(-2147483648.0), floor), a.type)
        return fn.select(none, zero, whole)

    def _float(self, name: str, values: list[Value]) -> Value:
        k = self.floats(values[0].type)
        if name in elementary.UNARY or name == "pow":
            return elementary.call(k, name, values)
        plain: dict[str, Callable[..., Value]] = {
            "add": k.add,
            "sub": k.sub,
            "mul": k.mul,
            "div": k.div,
            "neg": k.neg,
            "abs": k.abs,
            "sqrt": k.sqrt,
            "floor": k.floor,
            "round": k.rint,
        }
        if name in plain:
            return plain[name](*values)
        if name in ("max", "min"):
            return self._extreme(k, name, *values)
        if name in scalars.VERBS:
            result: Value = scalars.VERBS[name](k, *values)
            return result
        if name == "fma":
            return k.fma(*values)
        raise ValueError(f"floats have no {name}")

    def _extreme(self, k: Floats, name: str, a: Value, b: Value) -> Value:
        """The larger or smaller; NaN if either is. Of equals (the two zeros) the second."""
        if not a.name.startswith("%"):
            a, b = b, a
        if not b.name.startswith("%") and b != k.c(math.nan):
            # With the literal first, one instruction passes NaN on.
            return k.select(k.compare("ogt" if name == "max" else "olt", b, a), b, a)
        result: Value = scalars.VERBS[name](k, a, b)
        return result

    def _power(self, dtype: DType, operands: Sequence[Value]) -> Value | None:
        """x to a literal power of which products or one square root are right in every case."""
        x, y = operands
        if not dtype.is_float or y.name.startswith("%"):
            return None
        k = self.floats(x.type)
        if y.type != x.type:
            y = self.fn.splat(y, lanes_of(x.type))
        for power, make in scalars.POWERS.items():
            if y == k.c(power):
                result: Value = make(k, x)
                return result
        return None

    # ---- types ----------------------------------------------------------------------------------

    def cast(self, x: Value, source: DType, target: DType) -> Value:
        """``x`` as another element type."""
        fn = self.fn
        type_ = with_element(x.type, COMPUTE[target])
        if source is target:
            return x
        if target is DType.BOOL:
            zero = constant(x.type, 0.0 if source.is_float else 0)
            return fn.compare("fcmp une" if source.is_float else "icmp ne", x, zero)
        if source is DType.BOOL:
            one, zero = (constant(type_, v) for v in ((1.0, 0.0) if target.is_float else (1, 0)))
            return fn.select(x, one, zero)
        if target.is_float:
            return self._to_float(x, source, target, type_)
        if source.is_float:
            return self._to_integer(x, target, type_)
        if source.itemsize == target.itemsize:
            return x
        if target.itemsize < source.itemsize:
            return fn.convert("trunc", x, type_)
        return fn.convert("zext" if source is DType.U32 else "sext", x, type_)

    def _to_float(self, x: Value, source: DType, target: DType, type_: str) -> Value:
        fn = self.fn
        if not source.is_float:
            opcode = "uitofp" if source is DType.U32 else "sitofp"
            if target not in _NARROW:
                return fn.convert(opcode, x, type_)
            x = fn.convert(opcode, x, with_element(x.type, "double"))
            source = DType.F64
        if source is DType.F64:
            if target in _NARROW:
                return self.round_to(scalars.round_to_odd(self.floats(type_), x), target)
            return fn.convert("fptrunc", x, type_)
        if target is DType.F64:
            return fn.convert("fpext", x, type_)
        return self.round_to(x, target)

    def _to_integer(self, x: Value, target: DType, type_: str) -> Value:
        name = "llvm.fptoui.sat" if target is DType.U32 else "llvm.fptosi.sat"
        suffix = f".{bits_suffix(type_)}.{bits_suffix(x.type)}"
        full = self.fn.module.declare(name + suffix, type_, [x.type])
        return self.fn.op(f"call {type_} @{full}({x})", type_)

    def round_to(self, x: Value, dtype: DType, plain: bool = False) -> Value:
        """A ``float`` rounded to a 16-bit type, still a ``float``; other types unchanged.

        ``plain`` says that x was computed from values of that type: its NaN is quiet and its lower
        half zero.
        """
        if dtype not in _NARROW or not x.name.startswith("%"):
            return x  # literals were rounded when they were made
        if dtype is DType.BF16:
            return scalars.bf16_rounded(self.floats(x.type), x, plain)
        return self.widen(self.narrow(x, dtype), dtype)

    def narrow(self, x: Value, dtype: DType) -> Value:
        """A computed value, rounded to its type already, as it lies in memory."""
        fn = self.fn
        type_ = with_element(x.type, STORED[dtype])
        if dtype is DType.BOOL:
            return fn.convert("zext", x, type_)
        if dtype is DType.BF16:
            k = self.floats(x.type)
            return fn.convert("trunc", k.integer("lshr", k.to_bits(x), 16), type_)
        if dtype is DType.F16:
            if self.isa.half:
                half = fn.convert("fptrunc", x, with_element(x.type, "half"))
                return fn.convert("bitcast", half, type_)
            return fn.convert("trunc", scalars.f16_bits(self.floats(x.type), x), type_)
        return x

    def widen(self, x: Value, dtype: DType) -> Value:
        """What lies in memory as it is computed with."""
        fn = self.fn
        type_ = with_element(x.type, COMPUTE[dtype])
        if dtype is DType.BOOL:
            return fn.compare("icmp ne", x, constant(x.type, 0))
        if dtype is DType.BF16:
            k = self.floats(type_)
            return scalars.bf16_value(k, fn.convert("zext", x, k.bits_type))
        if dtype is DType.F16:
            if self.isa.half:
                half = fn.convert("bitcast", x, with_element(x.type, "half"))
                return fn.convert("fpext", half, type_)
            k = self.floats(type_)
            return scalars.f16_value(k, fn.convert("zext", x, k.bits_type))
        return x
