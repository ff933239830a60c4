"""The vocabulary of ``elementary``: arithmetic on one float type, f32 or f64, with its bits.

An interpreter gives the vocabulary a domain ``V``: LLVM instructions (``llvm/maths/floats.py``),
NumPy arrays (``arrays.py``), text of a kernel (``text.py``). A function of ``elementary`` uses
nothing else, so its coefficients, the order of its operations and with them its bits are those of
every backend.

Every abstract method is one IEEE operation, rounded to nearest, ties to even; nothing is
reassociated or contracted and no comparison assumes away NaN. Bits are unsigned integers of the
width of the type and wrap. Conditions are what comparisons give.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, Literal, TypeVar

V = TypeVar("V")
# As LLVM names them: o is false where an operand is NaN, u is true there.
Predicate = Literal["oeq", "ogt", "olt", "one", "ord", "ult", "une", "uno"]
Order = Literal["uge", "ugt", "ult"]
Opcode = Literal["add", "sub", "mul", "and", "or", "xor", "shl", "lshr"]


def round_f32(value: float) -> float:
    """``value`` rounded to the nearest f32; beyond the range, the infinity of its sign."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


class Floats(ABC, Generic[V]):
    """Values of f64 if ``double``, else of f32."""

    def __init__(self, double: bool) -> None:
        self.double = double
        self.mantissa = 52 if double else 23
        self.bias = 1023 if double else 127

    # ---- what an interpreter says ---------------------------------------------------------------

    @abstractmethod
    def c(self, value: float) -> V:
        """A literal, rounded to the type."""

    @abstractmethod
    def add(self, a: V, b: V) -> V: ...

    @abstractmethod
    def sub(self, a: V, b: V) -> V: ...

    @abstractmethod
    def mul(self, a: V, b: V) -> V: ...

    @abstractmethod
    def div(self, a: V, b: V) -> V: ...

    @abstractmethod
    def neg(self, a: V) -> V: ...

    @abstractmethod
    def abs(self, a: V) -> V: ...

    @abstractmethod
    def sqrt(self, a: V) -> V: ...

    @abstractmethod
    def copysign(self, size: V, sign: V) -> V:
        """The size of the first with the sign of the second."""

    @abstractmethod
    def fma(self, a: V, b: V, c: V) -> V:
        """``a * b + c``, rounded once (LLVM: where the processor can)."""

    @abstractmethod
    def rint(self, x: V) -> V:
        """The nearest integer, half to even."""

    @abstractmethod
    def floor(self, x: V) -> V:
        """The integer at or below x."""

    @abstractmethod
    def compare(self, predicate: Predicate, a: V, b: V) -> V:
        """A condition on two floats."""

    @abstractmethod
    def both(self, a: V, b: V) -> V:
        """Whether two conditions hold."""

    @abstractmethod
    def either(self, a: V, b: V) -> V:
        """Whether one of two conditions holds."""

    @abstractmethod
    def select(self, condition: V, a: V, b: V) -> V:
        """``a`` where the condition holds, else ``b``: floats or bits."""

    @abstractmethod
    def to_bits(self, x: V) -> V: ...

    @abstractmethod
    def from_bits(self, x: V) -> V: ...

    @abstractmethod
    def i(self, value: int) -> V:
        """A literal of bits."""

    @abstractmethod
    def integer(self, opcode: Opcode, a: V, b: V | int) -> V:
        """An operation on bits."""

    @abstractmethod
    def compare_bits(self, predicate: Order, a: V, b: V) -> V:
        """A condition on two numbers without sign."""

    @abstractmethod
    def has_bit(self, bits: V, number: int) -> V:
        """Whether a bit is set."""

    @abstractmethod
    def wide(self) -> Floats[V]:
        """The vocabulary of f64."""

    @abstractmethod
    def to_wide(self, x: V) -> V:
        """An f32 as f64."""

    @abstractmethod
    def from_wide(self, x: V) -> V:
        """An f64 rounded to this type."""

    @abstractmethod
    def low_bits(self, bits: V) -> V:
        """The low half of the bits of an f64, as bits of this type."""

    @abstractmethod
    def rarely(
        self,
        condition: V,
        function: Callable[[Floats[V], V], V],
        x: V,
        usual: V,
    ) -> V:
        """``function(x)`` where the condition, which seldom holds, does, else ``usual``."""

    def call(self, function: Callable[..., V], *operands: V) -> V:
        """``function(self, *operands)``, for an interpreter that has functions a call of it."""
        return function(self, *operands)

    def note(self, **values: V) -> None:
        """What values are to be called where they are written out."""

    # ---- what follows ---------------------------------------------------------------------------

    def polynomial(self, x: V, coefficients: Sequence[float]) -> V:
        """Horner's scheme, constant term first."""
        return self.polynomials((x, coefficients))[0]

    def polynomials(self, *pairs: tuple[V, Sequence[float]]) -> list[V]:
        """Horner's scheme of several, a step of each in turn: none waits for its own last step."""
        totals = [self.c(coefficients[-1]) for _, coefficients in pairs]
        for step in range(2, max(len(coefficients) for _, coefficients in pairs) + 1):
            for n, (x, coefficients) in enumerate(pairs):
                if step <= len(coefficients):
                    totals[n] = self.fma(totals[n], x, self.c(coefficients[-step]))
        return totals

    def two_sum(self, a: V, b: V) -> tuple[V, V]:
        """Sum and its rounding error, exact (Knuth)."""
        total = self.add(a, b)
        shadow = self.sub(total, a)
        error = self.add(self.sub(a, self.sub(total, shadow)), self.sub(b, shadow))
        return total, error

    def fast_two_sum(self, a: V, b: V) -> tuple[V, V]:
        """Sum and its rounding error, exact if |a| >= |b| (Dekker)."""
        total = self.add(a, b)
        return total, self.sub(b, self.sub(total, a))

    def two_product(self, a: V, b: V) -> tuple[V, V]:
        """Product and its rounding error, exact."""
        product = self.mul(a, b)
        return product, self.fma(a, b, self.neg(product))

    def at_most(self, x: V, bound: float) -> V:
        """min(x, bound); NaN stays NaN."""
        top = self.c(bound)
        return self.select(self.compare("olt", top, x), top, x)

    def at_least(self, x: V, bound: float) -> V:
        """max(x, bound); NaN stays NaN."""
        low = self.c(bound)
        return self.select(self.compare("ogt", low, x), low, x)

    @property
    def magic(self) -> float:
        """1.5 * 2^mantissa: adding it leaves the nearest integer in the low bits."""
        return 1.5 * 2.0**self.mantissa

    def nearest_multiple(self, x: V, per_unit: float) -> tuple[V, V]:
        """The nearest integer n to ``x * per_unit``: as a float, and as the float whose low bits
        hold it.
        """
        shifted = self.fma(x, self.c(per_unit), self.c(self.magic))
        return self.sub(shifted, self.c(self.magic)), shifted

    def scale_one_and(self, x: V, n: V, shifted: V) -> V:
        """``(1 + x) * 2^n`` for n from ``nearest_multiple`` in [-2 bias, 2 bias] and a sum of about
        1, the sum rounded, and the product once more where it is denormal; infinities right.
        """
        # Two factors of half the exponent each: the first product is exact, so its sum is rounded
        # as 1 + x is. What the magic number leaves in the halves falls off the top.
        bits = self.to_bits(shifted)
        half = self.integer("lshr", bits, 1)
        rest = self.integer("sub", bits, half)
        one = self.bias << self.mantissa
        first, second = (
            self.from_bits(self.integer("add", self.integer("shl", part, self.mantissa), one))
            for part in (half, rest)
        )
        return self.mul(self.fma(first, x, first), second)

    def power_of_two(self, shifted: V, less: int = 0) -> V:
        """``2^(n - less)`` for n from ``nearest_multiple``, where that is a normal number."""
        bits = self.to_bits(shifted)
        base = self.bias - less
        moved = self.integer("shl", bits, self.mantissa)  # the magic number's bits fall off the top
        return self.from_bits(self.integer("add", moved, base << self.mantissa))
