"""Arithmetic on one float type (f32 or f64, scalar or vector), with its bits: the vocabulary of
``vecmath``.

Every method emits one IEEE operation unless its docstring says otherwise; nothing is reassociated
and no comparison assumes away NaN. ``fma`` is fused where the processor can and a product and a sum
where it cannot, so results may differ in the last place between processors with and without it, and
nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradc.codegen.llvm.isa import Isa
from gradc.codegen.llvm.text import (
    Function,
    Value,
    constant,
    element_of,
    lanes_of,
    vector,
    with_element,
)


class Floats:
    """Emits into ``fn`` for values of ``type_``."""

    def __init__(self, fn: Function, isa: Isa, type_: str) -> None:
        self.fn = fn
        self.isa = isa
        self.type = type_
        self.double = element_of(type_) == "double"
        self.bits_type = with_element(type_, "i64" if self.double else "i32")
        self.mantissa = 52 if self.double else 23
        self.bias = 1023 if self.double else 127

    def of(self, type_: str) -> Floats:
        """The same vocabulary for another type."""
        return Floats(self.fn, self.isa, type_)

    # ---- constants and arithmetic --------------------------------------------------------------

    def c(self, value: float) -> Value:
        return constant(self.type, value)

    def add(self, a: Value, b: Value) -> Value:
        return self.fn.binary("fadd", a, b)

    def sub(self, a: Value, b: Value) -> Value:
        return self.fn.binary("fsub", a, b)

    def mul(self, a: Value, b: Value) -> Value:
        return self.fn.binary("fmul", a, b)

    def div(self, a: Value, b: Value) -> Value:
        return self.fn.binary("fdiv", a, b)

    def neg(self, a: Value) -> Value:
        return self.fn.op(f"fneg {a}", a.type)

    def abs(self, a: Value) -> Value:
        return self.fn.intrinsic("llvm.fabs", a)

    def sqrt(self, a: Value) -> Value:
        return self.fn.intrinsic("llvm.sqrt", a)

    def copysign(self, size: Value, sign: Value) -> Value:
        return self.fn.intrinsic("llvm.copysign", size, sign)

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """``a * b + c``, fused where the processor has it."""
        return self.fn.intrinsic("llvm.fma" if self.isa.fma else "llvm.fmuladd", a, b, c)

    def polynomial(self, x: Value, coefficients: Sequence[float]) -> Value:
        """Horner's scheme, constant term first."""
        total = self.c(coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            total = self.fma(total, x, self.c(coefficient))
        return total

    def two_sum(self, a: Value, b: Value) -> tuple[Value, Value]:
        """Sum and its rounding error, exact (Knuth)."""
        total = self.add(a, b)
        shadow = self.sub(total, a)
        error = self.add(self.sub(a, self.sub(total, shadow)), self.sub(b, shadow))
        return total, error

    def fast_two_sum(self, a: Value, b: Value) -> tuple[Value, Value]:
        """Sum and its rounding error, exact if |a| >= |b| (Dekker)."""
        total = self.add(a, b)
        return total, self.sub(b, self.sub(total, a))

    def two_product(self, a: Value, b: Value) -> tuple[Value, Value]:
        """Product and its rounding error, exact (fma, or Dekker's splitting)."""
        product = self.mul(a, b)
        if self.isa.fma:
            return product, self.fma(a, b, self.neg(product))
        (a1, a0), (b1, b0) = self._halves(a), self._halves(b)
        error = self.sub(self.mul(a1, b1), product)
        error = self.add(self.add(error, self.mul(a1, b0)), self.mul(a0, b1))
        return product, self.add(error, self.mul(a0, b0))

    def _halves(self, a: Value) -> tuple[Value, Value]:
        scaled = self.mul(a, self.c(134217729.0 if self.double else 4097.0))
        high = self.sub(scaled, self.sub(scaled, a))
        return high, self.sub(a, high)

    # ---- choices --------------------------------------------------------------------------------

    def compare(self, predicate: str, a: Value, b: Value) -> Value:
        """``olt``, ``ogt``, ``oeq``, ``uno``, ..."""
        return self.fn.compare(f"fcmp {predicate}", a, b)

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        return self.fn.select(condition, a, b)

    def at_most(self, x: Value, bound: float) -> Value:
        """min(x, bound); NaN stays NaN."""
        top = self.c(bound)
        return self.select(self.compare("olt", top, x), top, x)

    def at_least(self, x: Value, bound: float) -> Value:
        """max(x, bound); NaN stays NaN."""
        low = self.c(bound)
        return self.select(self.compare("ogt", low, x), low, x)

    def any(self, condition: Value) -> Value:
        """Whether any lane is true, as a scalar i1."""
        lanes = lanes_of(condition.type)
        if not lanes:
            return condition
        packed = self.fn.convert("bitcast", condition, f"i{lanes}")
        return self.fn.compare("icmp ne", packed, Value(packed.type, "0"))

    # ---- rounding, bits and exponents -----------------------------------------------------------

    @property
    def magic(self) -> float:
        """1.5 * 2^mantissa: adding it leaves the nearest integer in the low bits."""
        return 1.5 * 2.0**self.mantissa

    def to_bits(self, x: Value) -> Value:
        return self.fn.convert("bitcast", x, self.bits_type)

    def from_bits(self, x: Value) -> Value:
        return self.fn.convert("bitcast", x, self.type)

    def i(self, value: int) -> Value:
        return constant(self.bits_type, value)

    def integer(self, opcode: str, a: Value, b: Value | int) -> Value:
        """``add``, ``sub``, ``and``, ``or``, ``shl``, ``lshr``, ``ashr`` on the bits."""
        return self.fn.binary(opcode, a, constant(a.type, b) if isinstance(b, int) else b)

    def rint(self, x: Value) -> Value:
        """The nearest integer, half to even, for any x; needs no library."""
        if self.isa.rounds:
            return self.fn.intrinsic("llvm.rint", x)
        step = self.copysign(self.c(2.0**self.mantissa), x)
        near = self.copysign(self.sub(self.add(x, step), step), x)
        small = self.compare("olt", self.abs(x), self.c(2.0**self.mantissa))
        return self.select(small, near, x)

    def floor(self, x: Value) -> Value:
        """The integer at or below x; needs no library."""
        if self.isa.rounds:
            return self.fn.intrinsic("llvm.floor", x)
        near = self.rint(x)
        lower = self.sub(near, self.c(1.0))
        return self.select(self.compare("ogt", near, x), lower, near)

    def nearest_multiple(self, x: Value, per_unit: float) -> tuple[Value, Value]:
        """The nearest integer n to ``x * per_unit``: as a float, and as the float whose low bits
        hold it.
        """
        shifted = self.fma(x, self.c(per_unit), self.c(self.magic))
        return self.sub(shifted, self.c(self.magic)), shifted

    def scale(self, x: Value, n: Value, shifted: Value) -> Value:
        """``x * 2^n``, rounded once, for n from ``nearest_multiple`` in [-2 bias, 2 bias];
        infinities and denormals right.
        """
        lanes = lanes_of(self.type)
        native = 8 if self.double else 16
        if self.isa.masks and lanes and lanes % native == 0:
            return self._scale_native(x, n, lanes, native)
        # Two factors of half the exponent each: the first product is exact.
        offset = 1 << 12
        count = self.integer("sub", self.to_bits(shifted), self.to_bits(self.c(self.magic)))
        half = self.integer("lshr", self.integer("add", count, 2 * offset), 1)
        rest = self.integer("sub", self.integer("add", count, offset), half)
        factors = [
            self.from_bits(
                self.integer(
                    "shl", self.integer("add", part, self.bias - offset + fix), self.mantissa
                )
            )
            for part, fix in ((half, 0), (rest, offset))
        ]
        return self.mul(self.mul(x, factors[0]), factors[1])

    def _scale_native(self, x: Value, n: Value, lanes: int, native: int) -> Value:
        kind, mask = ("pd", "i8") if self.double else ("ps", "i16")
        chunk = vector(element_of(self.type), native)
        name = f"llvm.x86.avx512.mask.scalef.{kind}.512"
        self.fn.module.declare(name, chunk, [chunk, chunk, chunk, mask, "i32"])
        parts = []
        for start in range(0, lanes, native):
            a, b = (self.part(v, start, native) for v in (x, n))
            text = f"call {chunk} @{name}({a}, {b}, {chunk} poison, {mask} -1, i32 4)"
            parts.append(self.fn.op(text, chunk))
        return self.join(parts)

    def power_of_two(self, shifted: Value, less: int = 0) -> Value:
        """``2^(n - less)`` for n from ``nearest_multiple``, where that is a normal number."""
        bits = self.to_bits(shifted)
        base = self.bias - less
        moved = self.integer("shl", bits, self.mantissa)  # the magic number's bits fall off the top
        return self.from_bits(self.integer("add", moved, base << self.mantissa))

    def part(self, x: Value, start: int, count: int) -> Value:
        """``count`` lanes of ``x``; ``x`` itself if that is all."""
        if lanes_of(x.type) == count:
            return x
        return self.fn.shuffle(x, None, range(start, start + count))

    def join(self, parts: Sequence[Value]) -> Value:
        """The parts (a power of two of them) side by side."""
        row = list(parts)
        while len(row) > 1:
            width = 2 * lanes_of(row[0].type)
            row = [
                self.fn.shuffle(a, b, range(width))
                for a, b in zip(row[::2], row[1::2], strict=True)
            ]
        return row[0]
