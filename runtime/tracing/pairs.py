"""Complex arrays while a function is recorded: pairs of real values of the IR, which knows no
complex numbers.

A ``Pair`` is a value whose type says ``c128`` or ``c64``; it never enters the IR. In memory, as an
argument, a result or the operand of a region, it is a real array [..., 2], which a dense complex
array of NumPy's is as well: nothing is copied. An imaginary part that is zero because the value was
made of a real one is None, so that nothing is computed with it.

Non-goals: what ops mean on pairs (``complexes``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeGuard, cast

import numpy as np

from gradc.ir.diagnostics.diagnostic import DiagnosticError, error
from gradc.ir.ops.builder import Builder
from gradc.ir.tensor.core import DType, TensorType, Value
from gradc.runtime.native.arrays import Array, as_array


class ComplexType(Enum):
    """Element types of pairs."""

    C128 = "c128"
    C64 = "c64"

    __hash__ = object.__hash__

    @property
    def is_float(self) -> bool:
        """It has derivatives, as floating types have."""
        return True

    @property
    def part(self) -> DType:
        """The type of real and imaginary parts."""
        return DType.F64 if self is ComplexType.C128 else DType.F32

    @property
    def itemsize(self) -> int:
        return 2 * self.part.itemsize

    def __str__(self) -> str:
        return str(self.value)


# Where the types of the IR are meant, these stand beside them; ops on them go through `complexes`.
COMPLEX_TYPES = {
    "complex128": cast(DType, ComplexType.C128),
    "complex64": cast(DType, ComplexType.C64),
}


@dataclass(frozen=True, slots=True, eq=False)
class Pair(Value):
    """A complex value; ``source`` is the stored value that it was read from, if any."""

    parts: tuple[Value, Value | None] = cast(Any, None)
    source: Value | None = None

    @property
    def re(self) -> Value:
        return self.parts[0]

    @property
    def im(self) -> Value | None:
        """None where it is zero for certain."""
        return self.parts[1]


def is_pair(dtype: object) -> TypeGuard[ComplexType]:
    """Whether an element type is that of pairs."""
    return type(dtype) is ComplexType


def stored_type(type_: TensorType) -> TensorType:
    """The type that a value of the IR has for it: [..., 2] for a pair."""
    dtype: Any = type_.dtype
    return TensorType((*type_.shape, 2), dtype.part) if is_pair(dtype) else type_


def pair(re: Value, im: Value | None, source: Value | None = None) -> Pair:
    """The complex value of two real ones of one type, f64 or f32."""
    name = "complex128" if re.type.dtype is DType.F64 else "complex64"
    hint = source.hint if source is not None else re.hint
    return Pair(TensorType(re.type.shape, COMPLEX_TYPES[name]), hint, (re, im), source)


def zeros(b: Builder, like: Value) -> Value:
    """Zeros of the type of a real value."""
    return b.constant(0.0, like.type.dtype, like.type.shape)


def pair_of_parts(b: Builder, stored: Value) -> Pair:
    """What a real value [..., 2] stands for."""
    *shape, _ = stored.type.static_shape
    parts = []
    for place in (0, 1):
        low, high = (*(0 for _ in shape), place), (*shape, place + 1)
        cut = b.one("slice", stored, start=low, limit=high, stride=(1,) * len(high))
        parts.append(b.one("reshape", cut, shape=tuple(shape)))
    return pair(parts[0], parts[1], stored)


def seen(b: Builder, stored: Value, type_: TensorType) -> Value:
    """What a stored value stands for: a pair where ``type_`` is complex."""
    return pair_of_parts(b, stored) if is_pair(type_.dtype) else stored


def parts_together(b: Builder, value: Pair) -> Value:
    """A pair as a real value [..., 2]."""
    if value.source is not None:
        return value.source
    return stacked(b, value.re, zeros(b, value.re) if value.im is None else value.im)


def stacked(b: Builder, re: Value, im: Value) -> Value:
    """Two real values along a new last axis."""
    wide = (*re.type.static_shape, 1)
    parts = [b.one("reshape", part, shape=wide) for part in (re, im)]
    return b.one("concat", *parts, axis=len(wide) - 1)


# --- arrays of the caller's


def is_complex(item: Any) -> bool:
    """Whether an object is a complex number or an array of them, traced or not."""
    if isinstance(item, complex):
        return True
    kind = getattr(getattr(item, "dtype", None), "kind", "")
    return bool(kind == "c")


def holds_complex(items: Iterable[Any]) -> bool:
    """Whether any of the objects, or of those in lists and tuples among them, is complex."""
    for item in items:
        if is_complex(item) or (type(item) in (list, tuple) and holds_complex(item)):
            return True
    return False


_ARITHMETIC = ("__mul__", "__matmul__", "__add__", "__array_ufunc__", "__array_function__")


def _computes(kind: type) -> bool:
    """Whether a class of arrays says itself what its operators mean."""
    return any(getattr(kind, name) is not getattr(np.ndarray, name) for name in _ARITHMETIC)


def array_of(name: str, value: object) -> Array:
    """``as_array`` that lets complex numbers through.

    Raises:
        DiagnosticError: GC0551 if it is not an array of numbers, or its class has arithmetic of its
            own (``numpy.matrix``), which would not be recorded.
    """
    if type(value) is not np.ndarray and isinstance(value, np.ndarray) and _computes(type(value)):
        as_array(name, value)  # may know better what is wrong with it
        message = f"`{name}` is an array with arithmetic of its own: {type(value).__name__}"
        raise DiagnosticError([error("GC0551", message, None, help="pass numpy.asarray(x)")])
    if holds_complex((value,)):
        try:
            array = np.asarray(value)
        except (ValueError, TypeError):
            return as_array(name, value)
        return array if array.dtype.kind == "c" else as_array(name, array)
    return as_array(name, value)


def as_parts(array: Array) -> Array:
    """A complex array as a real one [..., 2]: a view where it is dense, a copy elsewhere."""
    dense = np.asarray(array, order="C")
    if not dense.dtype.isnative:
        dense = dense.astype(dense.dtype.newbyteorder("="))
    part = np.dtype(np.float64 if dense.dtype.itemsize == 16 else np.float32)
    return dense.reshape((*dense.shape, 1)).view(part)


def as_complex(parts: Array) -> Array:
    """A dense real array [..., 2] as the complex one that it holds."""
    kind = np.dtype(np.complex128 if parts.dtype.itemsize == 8 else np.complex64)
    return parts.view(kind).reshape(parts.shape[:-1])


__all__ = [
    "COMPLEX_TYPES",
    "ComplexType",
    "Pair",
    "array_of",
    "as_complex",
    "as_parts",
    "holds_complex",
    "is_complex",
    "is_pair",
    "pair",
    "pair_of_parts",
    "parts_together",
    "seen",
    "stacked",
    "stored_type",
    "zeros",
]
