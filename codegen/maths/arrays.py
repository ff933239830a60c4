"""The vocabulary of the vector mathematics over NumPy arrays, to the bit: every operation rounded
once, denormals kept, ``fma`` exact.

Non-goals: speed beyond what tests and simulators need.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gradc.codegen.maths.floats import Floats, Opcode, Order, Predicate

Array: TypeAlias = npt.NDArray[Any]


class ArrayFloats(Floats[Array]):
    """Arrays of float64 if ``double``, else of float32; bits are uint64 or uint32.

    NumPy warns of overflow and the like unless the caller has it be quiet.
    """

    def __init__(self, double: bool) -> None:
        super().__init__(double)
        self.dtype: np.dtype[Any] = np.dtype(np.float64 if double else np.float32)
        self.bits_dtype: np.dtype[Any] = np.dtype(np.uint64 if double else np.uint32)
        self.sign = self.i(1 << (63 if double else 31))

    def c(self, value: float) -> Array:
        return np.asarray(value).astype(self.dtype)

    def add(self, a: Array, b: Array) -> Array:
        return np.asarray(np.add(a, b))

    def sub(self, a: Array, b: Array) -> Array:
        return np.asarray(np.subtract(a, b))

    def mul(self, a: Array, b: Array) -> Array:
        return np.asarray(np.multiply(a, b))

    def div(self, a: Array, b: Array) -> Array:
        return np.asarray(np.divide(a, b))

    def neg(self, a: Array) -> Array:
        return self.from_bits(self.to_bits(a) ^ self.sign)

    def abs(self, a: Array) -> Array:
        return self.from_bits(self.to_bits(a) & ~self.sign)

    def sqrt(self, a: Array) -> Array:
        return np.asarray(np.sqrt(a))

    def copysign(self, size: Array, sign: Array) -> Array:
        return np.asarray(np.copysign(size, sign))

    def fma(self, a: Array, b: Array, c: Array) -> Array:
        return fma(a, b, c)

    def rint(self, x: Array) -> Array:
        return np.asarray(np.rint(x))

    def floor(self, x: Array) -> Array:
        return np.asarray(np.floor(x))

    def compare(self, predicate: Predicate, a: Array, b: Array) -> Array:
        return np.asarray(_COMPARISONS[predicate](a, b))

    def both(self, a: Array, b: Array) -> Array:
        return np.asarray(a & b)

    def either(self, a: Array, b: Array) -> Array:
        return np.asarray(a | b)

    def select(self, condition: Array, a: Array, b: Array) -> Array:
        return np.where(condition, a, b)

    def to_bits(self, x: Array) -> Array:
        return np.asarray(x).view(self.bits_dtype)

    def from_bits(self, x: Array) -> Array:
        return np.asarray(x).view(self.dtype)

    def i(self, value: int) -> Array:
        return np.asarray(value & (2 ** (8 * self.bits_dtype.itemsize) - 1)).astype(self.bits_dtype)

    def integer(self, opcode: Opcode, a: Array, b: Array | int) -> Array:
        other = self.i(b) if isinstance(b, int) else b
        return np.asarray(_OPERATIONS[opcode](a, other))

    def compare_bits(self, predicate: Order, a: Array, b: Array) -> Array:
        return np.asarray(_ORDERS[predicate](a, b))

    def has_bit(self, bits: Array, number: int) -> Array:
        return np.asarray((bits & self.i(1 << number)) != 0)

    def wide(self) -> ArrayFloats:
        return ArrayFloats(True)

    def to_wide(self, x: Array) -> Array:
        return x.astype(np.float64)

    def from_wide(self, x: Array) -> Array:
        return x.astype(self.dtype)

    def low_bits(self, bits: Array) -> Array:
        return bits.astype(self.bits_dtype)

    def rarely(
        self,
        condition: Array,
        function: Callable[[Floats[Array], Array], Array],
        x: Array,
        usual: Array,
    ) -> Array:
        found = np.array(np.broadcast_to(usual, condition.shape))
        if condition.any():
            found[condition] = function(self, np.broadcast_to(x, condition.shape)[condition])
        return found


_COMPARISONS: dict[Predicate, Callable[[Array, Array], Array]] = {
    "oeq": np.equal,
    "ogt": np.greater,
    "olt": np.less,
    "one": lambda a, b: (a < b) | (a > b),
    "ord": lambda a, b: ~(np.isnan(a) | np.isnan(b)),
    "ult": lambda a, b: ~(a >= b),
    "une": np.not_equal,
    "uno": lambda a, b: np.isnan(a) | np.isnan(b),
}
_ORDERS: dict[Order, Callable[[Array, Array], Array]] = {
    "uge": np.greater_equal,
    "ugt": np.greater,
    "ult": np.less,
}
_OPERATIONS: dict[Opcode, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "shl": np.left_shift,
    "lshr": np.right_shift,
}


# ---- fma -----------------------------------------------------------------------------------------


def fma(a: Array, b: Array, c: Array) -> Array:
    """``a * b + c`` of float32 or of float64 arrays, rounded once; NumPy does not warn."""
    a, b, c = np.broadcast_arrays(a, b, c)
    with np.errstate(all="ignore"):
        return _fma_f64(a, b, c) if a.dtype == np.float64 else _fma_f32(a, b, c)


def _fma_f32(a: Array, b: Array, c: Array) -> Array:
    """The product is exact in f64; the sum is rounded there to odd, so that rounding it once more
    rounds as if directly (S. Boldo, G. Melquiond: Emulation of FMA and correctly rounded sums, IEEE
    Transactions on Computers 57 (2008)).

    Rounding twice to nearest differs only where the first ends between two f32, which is in bit 28,
    or in a higher one below the normal numbers. Where no element does, the plain sum is taken.
    """
    product, other = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
    total = product + other
    doubtful = total.view(np.int64) & _BELOW_F32 == _BETWEEN_F32
    small = np.abs(total) < _LEAST_F32
    if small.any():
        doubtful |= small & (total != 0)
    if doubtful.any():
        total = _sum_to_odd(product, other)
    return total.astype(np.float32)


_BELOW_F32 = (1 << 29) - 1  # the bits of an f64 that an f32 has not
_BETWEEN_F32 = 1 << 28
_LEAST_F32 = 2.0**-126  # that is normal


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    total = a + b
    shadow = total - a
    return total, (a - (total - shadow)) + (b - shadow)


def _sum_to_odd(a: Array, b: Array) -> Array:
    """The sum of two f64 if it is one, else of the two next to it that whose last bit is set."""
    total, rest = _two_sum(a, b)
    bits = total.view(np.int64)
    even = (bits & 1 == 0) & (rest != 0) & np.isfinite(total)
    # Away from zero if the rest has the sum's sign, else toward it.
    step = np.where((rest > 0) == (total > 0), 1, -1)
    return np.where(even, bits + step, bits).view(np.float64)


_SPLIT = 134217729.0  # 2^27 + 1


def _two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """Product and its error (Dekker), where no part overflows or underflows."""
    product = a * b
    scaled = _SPLIT * a
    a1 = scaled - (scaled - a)
    scaled = _SPLIT * b
    b1 = scaled - (scaled - b)
    a0, b0 = a - a1, b - b1
    return product, ((a1 * b1 - product) + a1 * b0 + a0 * b1) + a0 * b0


def _fma_f64(a: Array, b: Array, c: Array) -> Array:
    """Boldo and Melquiond's sum of product, its error and ``c``; what comes near the ends of the
    range is computed in whole numbers.
    """
    high, low = _two_product(a, b)
    sum_low, rest_low = _two_sum(c, low)
    sum_high, rest_high = _two_sum(high, sum_low)
    result = sum_high + _sum_to_odd(rest_low, rest_high)
    # 0 and what is not finite: one rounding, or none.
    plain = (a == 0) | (b == 0) | ~np.isfinite(a) | ~np.isfinite(b) | ~np.isfinite(c)
    result = np.where(plain, a * b + c, result)
    sizes = [np.abs(v) for v in (a, b, c, high, result)]
    fits = [(v < 2.0**900) & ((v > 2.0**-800) | (v == 0)) for v in sizes]
    exact = plain | (np.logical_and.reduce(fits) & (high != 0))
    if not exact.all():
        flat = result.reshape(-1)
        places = np.flatnonzero(~exact)
        parts = (v.reshape(-1)[places].tolist() for v in (a, b, c))
        flat[places] = [_fma_exact(*one) for one in zip(*parts, strict=True)]
        result = flat.reshape(result.shape)
    return result


def _fma_exact(a: float, b: float, c: float) -> float:
    """By whole numbers; Python rounds their quotient once. None of the three is 0 but ``c``."""
    total = Fraction(a) * Fraction(b) + Fraction(c)
    if total == 0:
        # An exact 0 is +0 unless both are -0, which a product of two that are not 0 never is.
        return 0.0
    try:
        return float(total)
    except OverflowError:
        return float("inf") if total > 0 else float("-inf")
