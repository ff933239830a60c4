"""The vocabulary of the vector mathematics (``codegen/maths``) as LLVM instructions, on scalars and
on vectors of any width.

Every method emits one IEEE operation unless its docstring says otherwise. ``fma`` is fused where
the processor can and a product and a sum where it cannot, so results may differ in the last place
between processors with and without it, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
from gradc.codegen.maths import floats
from gradc.codegen.maths.floats import Opcode, Order, Predicate


class Floats(floats.Floats[Value]):
    """Emits into ``fn`` for values of ``type_``."""

    def __init__(self, fn: Function, isa: Isa, type_: str) -> None:
        super().__init__(element_of(type_) == "double")
        self.fn = fn
        self.isa = isa
        self.type = type_
        self.bits_type = with_element(type_, "i64" if self.double else "i32")

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

    def two_product(self, a: Value, b: Value) -> tuple[Value, Value]:
        """By fma, or Dekker's splitting."""
        if self.isa.fma:
            return super().two_product(a, b)
        product = self.mul(a, b)
        (a1, a0), (b1, b0) = self._halves(a), self._halves(b)
        error = self.sub(self.mul(a1, b1), product)
        error = self.add(self.add(error, self.mul(a1, b0)), self.mul(a0, b1))
        return product, self.add(error, self.mul(a0, b0))

    def _halves(self, a: Value) -> tuple[Value, Value]:
        scaled = self.mul(a, self.c(134217729.0 if self.double else 4097.0))
        high = self.sub(scaled, self.sub(scaled, a))
        return high, self.sub(a, high)

    # ---- choices --------------------------------------------------------------------------------

    def compare(self, predicate: Predicate, a: Value, b: Value) -> Value:
        return self.fn.compare(f"fcmp {predicate}", a, b)

    def both(self, a: Value, b: Value) -> Value:
        return self.fn.binary("and", a, b)

    def either(self, a: Value, b: Value) -> Value:
        return self.fn.binary("or", a, b)

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        return self.fn.select(condition, a, b)

    def any(self, condition: Value) -> Value:
        """Whether any lane is true, as a scalar i1."""
        lanes = lanes_of(condition.type)
        if not lanes:
            return condition
        packed = self.fn.convert("bitcast", condition, f"i{lanes}")
        return self.fn.compare("icmp ne", packed, Value(packed.type, "0"))

    # ---- rounding, bits and exponents -----------------------------------------------------------

    def to_bits(self, x: Value) -> Value:
        return self.fn.convert("bitcast", x, self.bits_type)

    def from_bits(self, x: Value) -> Value:
        return self.fn.convert("bitcast", x, self.type)

    def i(self, value: int) -> Value:
        return constant(self.bits_type, value)

    def integer(self, opcode: Opcode, a: Value, b: Value | int) -> Value:
        return self.fn.binary(opcode, a, constant(a.type, b) if isinstance(b, int) else b)

    def compare_bits(self, predicate: Order, a: Value, b: Value) -> Value:
        return self.fn.compare(f"icmp {predicate}", a, b)

    def has_bit(self, bits: Value, number: int) -> Value:
        masked = self.integer("and", bits, 1 << number)
        return self.fn.compare("icmp ne", masked, constant(bits.type, 0))

    def rint(self, x: Value) -> Value:
        """Needs no library."""
        if self.isa.rounds:
            return self.fn.intrinsic("llvm.rint", x)
        step = self.copysign(self.c(2.0**self.mantissa), x)
        near = self.copysign(self.sub(self.add(x, step), step), x)
        small = self.compare("olt", self.abs(x), self.c(2.0**self.mantissa))
        return self.select(small, near, x)

    def floor(self, x: Value) -> Value:
        """Needs no library."""
        if self.isa.rounds:
            return self.fn.intrinsic("llvm.floor", x)
        near = self.rint(x)
        lower = self.sub(near, self.c(1.0))
        return self.select(self.compare("ogt", near, x), lower, near)

    def scale_one_and(self, x: Value, n: Value, shifted: Value) -> Value:
        """By the processor's own instruction where it has one."""
        lanes = lanes_of(self.type)
        native = 8 if self.double else 16
        if self.isa.masks and lanes and lanes % native == 0:
            return self._scale_native(self.add(self.c(1.0), x), n, lanes, native)
        return super().scale_one_and(x, n, shifted)

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

    # ---- other types ----------------------------------------------------------------------------

    def of(self, type_: str) -> Floats:
        """The same vocabulary for another type."""
        return Floats(self.fn, self.isa, type_)

    def wide(self) -> Floats:
        return self.of(with_element(self.type, "double"))

    def to_wide(self, x: Value) -> Value:
        return self.fn.convert("fpext", x, with_element(self.type, "double"))

    def from_wide(self, x: Value) -> Value:
        return self.fn.convert("fptrunc", x, self.type)

    def low_bits(self, bits: Value) -> Value:
        return self.fn.convert("trunc", bits, self.bits_type)

    # ---- seldom ---------------------------------------------------------------------------------

    def rarely(
        self,
        condition: Value,
        function: Callable[[floats.Floats[Value], Value], Value],
        x: Value,
        usual: Value,
    ) -> Value:
        """A call behind a branch that is taken if the condition holds in any lane."""
        with self.fn.branch(self.any(condition), [usual]) as arm:
            slow = self.fn.call(self._lane_by_lane(function), self.type, x)
            arm.next = [self.select(condition, slow, usual)]
        return arm.results[0]

    def _scalar(self, function: Callable[[floats.Floats[Value], Value], Value]) -> str:
        """The name of ``function`` of one element; made once per module and type."""
        element = element_of(self.type)
        own = f"gradc.{function.__name__}.{element}"
        if own not in self.fn.module.functions:
            # Not optimised: it is seldom called, and hundreds of instructions take time.
            fn = self.fn.module.function(
                own, element, [(element, "x")], attributes="noinline cold optnone"
            )
            fn.ret(function(Floats(fn, self.isa, element), fn.parameters[0]))
        return own

    def _lane_by_lane(self, function: Callable[[floats.Floats[Value], Value], Value]) -> str:
        """The name of ``function`` of each lane; made once per module and type."""
        element, lanes = element_of(self.type), lanes_of(self.type)
        one = self._scalar(function)
        if not lanes:
            return one
        own = f"{one}.{lanes}"
        if own not in self.fn.module.functions:
            fn = self.fn.module.function(
                own, self.type, [(self.type, "x")], attributes="noinline cold"
            )
            spill = fn.alloca(self.type)
            fn.store(fn.parameters[0], spill, 64)
            with fn.loop(Value("i64", "0"), Value("i64", str(lanes)), 1, nonempty=True) as loop:
                slot = fn.address(spill, element, loop.index)
                fn.store(fn.call(one, element, fn.load(slot, element, 4)), slot, 4)
            fn.ret(fn.load(spill, self.type, 64))
        return own

    # ---- lanes ----------------------------------------------------------------------------------

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
