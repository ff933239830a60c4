"""The verbs over NumPy arrays of a fixed element type, rounded as a kernel rounds: every result to
its own type.

bf16 values are carried as float32 arrays whose low 16 bits are zero, and stored as the upper 16
bits. Integer division by zero gives 0 here; programs never divide integers by zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gradc.ir.core import DType

Array: TypeAlias = npt.NDArray[Any]

_COMPUTED: Mapping[DType, type[np.generic]] = {
    DType.F64: np.float64,
    DType.F32: np.float32,
    DType.BF16: np.float32,
    DType.F16: np.float16,
    DType.I64: np.int64,
    DType.I32: np.int32,
    DType.U32: np.uint32,
    DType.BOOL: np.bool_,
}

erf = np.frompyfunc(math.erf, 1, 1)


def computed_dtype(dtype: DType) -> np.dtype[Any]:
    """The NumPy type in which values of ``dtype`` are held."""
    return np.dtype(_COMPUTED[dtype])


def stored_dtype(dtype: DType) -> np.dtype[Any]:
    """The NumPy type of ``dtype`` in memory; bf16 is its bits."""
    return np.dtype(np.uint16) if dtype is DType.BF16 else np.dtype(_COMPUTED[dtype])


def round_bf16(x: Array) -> Array:
    """float32 values rounded to bf16, to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    values: Array = np.where(np.isnan(x), np.uint32(0x7FC00000), rounded).astype(np.uint32)
    return values.view(np.float32).reshape(np.shape(x))


def from_memory(stored: Array, dtype: DType) -> Array:
    """Elements as read from memory, as values."""
    if dtype is not DType.BF16:
        return stored
    return (stored.astype(np.uint32) << 16).view(np.float32)


def to_memory(values: Array, dtype: DType) -> Array:
    """Values as they are written to memory."""
    if dtype is not DType.BF16:
        return np.asarray(values).astype(stored_dtype(dtype), copy=False)
    rounded = np.ascontiguousarray(round_bf16(np.asarray(values, np.float32)))
    return (rounded.view(np.uint32) >> 16).astype(np.uint16).reshape(np.shape(values))


def convert(x: Array, dtype: DType) -> Array:
    """The verb ``cast``: floats to integers toward zero, saturating, NaN to 0; to bool by ``!=
    0``."""
    if dtype is DType.BOOL:
        differs: Array = np.not_equal(np.asarray(x), 0)
        return differs
    if dtype is DType.BF16:
        return round_bf16(np.asarray(x).astype(np.float32))
    target = computed_dtype(dtype)
    if not dtype.is_float and np.issubdtype(np.asarray(x).dtype, np.floating):
        limits = np.iinfo(target)
        wide = np.nan_to_num(np.asarray(x, np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf)
        top = np.trunc(wide) >= float(limits.max)
        bottom = np.trunc(wide) <= float(limits.min)
        inside = np.where(top | bottom, 0.0, wide).astype(np.int64)
        clipped = np.where(top, limits.max, np.where(bottom, limits.min, inside))
        saturated: Array = clipped.astype(target)
        return saturated
    return np.asarray(x).astype(target)


def _gate(ct: Array, partial: Array) -> Array:
    return np.where(ct == 0, np.zeros_like(ct), ct * partial)


def _floordiv(a: Array, b: Array) -> Array:
    if np.issubdtype(np.asarray(a).dtype, np.floating):
        return np.floor(a / b)
    return np.where(b == 0, 0, a // np.where(b == 0, 1, b)).astype(np.asarray(a).dtype)


def _mod(a: Array, b: Array) -> Array:
    if np.issubdtype(np.asarray(a).dtype, np.floating):
        rest: Array = a - np.floor(a / b) * b
        return rest
    return np.where(b == 0, 0, a % np.where(b == 0, 1, b)).astype(np.asarray(a).dtype)


def _mulhi(a: Array, b: Array) -> Array:
    return ((a.astype(np.uint64) * b.astype(np.uint64)) >> np.uint64(32)).astype(np.uint32)


def _rsqrt(x: Array) -> Array:
    return np.ones_like(x) / np.sqrt(x)


def _shift(
    function: Callable[[Array, Array], Array],
) -> Callable[[Array, Array], Array]:
    """A shift whose count is taken modulo the width."""
    return lambda a, b: function(a, b.astype(a.dtype) & a.dtype.type(8 * a.dtype.itemsize - 1))


def _erf(x: Array) -> Array:
    return np.asarray(erf(np.asarray(x, np.float64)), np.float64).astype(np.asarray(x).dtype)


_VERBS: Mapping[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "pow": np.power,
    "max": np.maximum,
    "min": np.minimum,
    "gate": _gate,
    "neg": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "floor": np.floor,
    "round": np.rint,
    "sqrt": np.sqrt,
    "rsqrt": _rsqrt,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "tanh": np.tanh,
    "erf": _erf,
    "floordiv": _floordiv,
    "mod": _mod,
    "bitand": np.bitwise_and,
    "bitor": np.bitwise_or,
    "bitxor": np.bitwise_xor,
    "shl": _shift(np.left_shift),
    "shr": _shift(np.right_shift),
    "mulhi": _mulhi,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_not": np.logical_not,
    "select": np.where,
    "fma": lambda a, b, c: a * b + c,
    "copy": lambda x: x,
}


def verb_names() -> tuple[str, ...]:
    """The verbs this interpreter knows, ``copy`` included."""
    return tuple(_VERBS)


def apply_verb(verb: str, operands: list[Array], dtype: DType) -> Array:
    """``verb(operands)`` rounded to ``dtype``. Raises KeyError for an unknown verb."""
    if verb == "cast":
        return convert(operands[0], dtype)
    function = _VERBS[verb]
    if dtype is DType.F16:  # computed in f32 and rounded once, like bf16
        operands = [x.astype(np.float32) if x.dtype == np.float16 else x for x in operands]
    with np.errstate(all="ignore"):
        result = np.asarray(function(*operands))
    if dtype is DType.BF16:
        return round_bf16(result.astype(np.float32))
    return result.astype(computed_dtype(dtype), copy=False)


def combine(kind: str, a: Array, b: Array) -> Array:
    """One step of a fold or of a combining store."""
    with np.errstate(all="ignore"):
        return np.asarray(_VERBS[kind](a, b))
