"""bf16 over NumPy, which has no such type: numbers are float32 arrays whose low 16 bits are zero,
memory is uint16 bits.

Invariants: rounding is to nearest, half to even; a NaN stays a NaN and becomes quiet; shapes are
kept, scalars included.
Non-goals: arithmetic (done in float32 and rounded by the caller).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def bf16_bits(x: NDArray[Any]) -> NDArray[np.uint16]:
    """The bits of the bf16 numbers nearest to ``x``."""
    # ascontiguousarray makes vectors of scalars.
    bits = np.ascontiguousarray(_f32_to_odd(x)).reshape(np.shape(x)).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return np.where(is_nan, quiet, rounded).astype(np.uint16)


def _f32_to_odd(x: NDArray[Any]) -> NDArray[np.float32]:
    """``x`` in float32 such that rounding once more, to fewer bits, rounds as if directly.

    What is not exact is cut off and ends in a one (Boldo and Melquiond: rounding to odd), so it
    lies on no border.
    """
    wide = np.asarray(x)
    with np.errstate(all="ignore"):
        near = np.ascontiguousarray(wide, np.float32)
    if wide.dtype != np.float64:
        return near
    near = near.reshape(wide.shape)
    back = near.astype(np.float64)
    bits = near.view(np.uint32)
    down = np.where(np.abs(back) > np.abs(wide), bits - np.uint32(1), bits)
    inexact = (back != wide) & ~np.isnan(wide)
    odd: NDArray[np.uint32] = np.where(inexact, down | np.uint32(1), bits).astype(np.uint32)
    return odd.view(np.float32)


def from_bf16(bits: NDArray[Any]) -> NDArray[np.float32]:
    """The float32 values of bf16 bits."""
    return np.asarray(bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def round_to_bf16(x: NDArray[Any]) -> NDArray[np.float32]:
    """``x`` rounded to bf16, as float32 numbers."""
    return from_bf16(bf16_bits(x))
