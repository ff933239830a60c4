"""bf16 over NumPy, which has no such type: numbers are float32 arrays whose low 16 bits are zero, memory is uint16 bits.

Invariants: rounding is to nearest, half to even; a NaN stays a NaN and becomes quiet; shapes are kept, scalars included.
Non-goals: arithmetic (done in float32 and rounded by the caller).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def bf16_bits(x: NDArray[Any]) -> NDArray[np.uint16]:
    """The bits of the bf16 numbers nearest to ``x``, which is rounded to float32 first."""
    # ascontiguousarray makes vectors of scalars.
    bits = np.ascontiguousarray(x, np.float32).reshape(np.shape(x)).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return np.where(is_nan, quiet, rounded).astype(np.uint16)


def from_bf16(bits: NDArray[Any]) -> NDArray[np.float32]:
    """The float32 values of bf16 bits."""
    return np.asarray(bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def round_to_bf16(x: NDArray[Any]) -> NDArray[np.float32]:
    """``x`` rounded to bf16, as float32 numbers."""
    return from_bf16(bf16_bits(x))
