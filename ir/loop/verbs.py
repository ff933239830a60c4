"""The verbs over NumPy arrays of a fixed element type, rounded as a kernel rounds: every result to
its own type.

bf16 values are carried as float32 arrays whose low 16 bits are zero, and stored as the upper 16
bits. Integer division by zero gives 0 here; programs never divide integers by zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gradc.ir.tensor.bf16 import bf16_bits, from_bf16, round_to_bf16
from gradc.ir.tensor.core import DType
from gradc.ir.tensor.numpy_verbs import NUMPY_VERBS

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


def computed_dtype(dtype: DType) -> np.dtype[Any]:
    """The NumPy type in which values of ``dtype`` are held."""
    return np.dtype(_COMPUTED[dtype])


def stored_dtype(dtype: DType) -> np.dtype[Any]:
    """The NumPy type of ``dtype`` in memory; bf16 is its bits."""
    return np.dtype(np.uint16) if dtype is DType.BF16 else np.dtype(_COMPUTED[dtype])


def from_memory(stored: Array, dtype: DType) -> Array:
    """Elements as read from memory, as values."""
    if dtype is not DType.BF16:
        return stored
    return from_bf16(stored)


def to_memory(values: Array, dtype: DType) -> Array:
    """Values as they are written to memory."""
    if dtype is not DType.BF16:
        return np.asarray(values).astype(stored_dtype(dtype), copy=False)
    return bf16_bits(values)


def convert(x: Array, dtype: DType) -> Array:
    """The verb ``cast``: floats to integers toward zero, saturating, NaN to 0; to bool by ``!=
    0``."""
    if dtype is DType.BOOL:
        differs: Array = np.not_equal(np.asarray(x), 0)
        return differs
    if dtype is DType.BF16:
        return round_to_bf16(x)
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


def _floordiv(a: Array, b: Array) -> Array:
    if np.issubdtype(np.asarray(a).dtype, np.floating):
        return np.floor(a / b)
    return np.where(b == 0, 0, a // np.where(b == 0, 1, b)).astype(np.asarray(a).dtype)


def _mod(a: Array, b: Array) -> Array:
    if np.issubdtype(np.asarray(a).dtype, np.floating):
        rest: Array = a - np.floor(a / b) * b
        return rest
    return np.where(b == 0, 0, a % np.where(b == 0, 1, b)).astype(np.asarray(a).dtype)


# As in the NumPy domain, but for division, of which a kernel's meaning is stated in full.
_VERBS: Mapping[str, Callable[..., Any]] = {
    **NUMPY_VERBS,
    "floordiv": _floordiv,
    "mod": _mod,
    "copy": lambda x: x,
}


def apply_verb(verb: str, operands: list[Array], dtype: DType) -> Array:
    """``verb(operands)`` rounded to ``dtype``. Raises KeyError for an unknown verb.

    NumPy warns of overflow and the like, unless the caller has it be quiet.
    """
    if verb == "cast":
        return convert(operands[0], dtype)
    function = _VERBS[verb]
    if dtype is DType.F16:  # computed in f32 and rounded once, like bf16
        operands = [x.astype(np.float32) if x.dtype == np.float16 else x for x in operands]
    result = np.asarray(function(*operands))
    if dtype is DType.BF16:
        return round_to_bf16(result)
    return result.astype(computed_dtype(dtype), copy=False)


def combine(kind: str, a: Array, b: Array) -> Array:
    """One step of a fold or of a combining store."""
    return np.asarray(_VERBS[kind](a, b))
