"""Machine numbers as a processor has them: the verbs of ``ir.loop.verbs``, with exact fused
multiply-adds, and the order of equals in ``max`` and ``min`` that texts promise.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gradc.codegen.maths.arrays import fma
from gradc.ir.loop.execute import Scalars
from gradc.ir.loop.verbs import Array, apply_verb
from gradc.ir.tensor.core import DType


def _extreme(name: str, a: Array, b: Array) -> Array:
    """The larger or smaller, of equals the second, NaN if either is."""
    first = np.greater(a, b) if name == "max" else np.less(a, b)
    found = np.where(first, a, b)
    if np.issubdtype(found.dtype, np.floating):
        found = np.where(np.isnan(a), a, found)
    return found


class Exact(Scalars):
    """Machine numbers with what ``ir.loop.verbs`` leaves open decided."""

    def verb(self, name: str, operands: list[Array], dtype: DType) -> Array:
        if name in ("max", "min"):
            return _extreme(name, *operands)
        if name == "fma" and dtype.is_float:
            return fma(*operands)
        if name == "sign" and dtype.is_float:
            (x,) = operands
            one = np.copysign(np.asarray(1, x.dtype), x)
            found = np.where(x == 0, np.zeros((), x.dtype), one)
            return np.where(np.isnan(x), x, found)
        return apply_verb(name, operands, dtype)

    def combine(self, kind: str, a: Array, b: Array) -> Array:
        return self.verb(kind, [a, b], _dtype(a))


def _dtype(x: Any) -> DType:
    return DType.F64 if np.asarray(x).dtype == np.float64 else DType.F32


EXACT = Exact()
