"""Machine numbers as a processor has them: the verbs of ``ir.loop.verbs``, with exact fused
multiply-adds, and the order of equals in ``max`` and ``min`` that texts promise.
"""

from __future__ import annotations

import numpy as np

from gradc.codegen.maths import scalars
from gradc.codegen.maths.arrays import ArrayFloats, fma
from gradc.ir.loop.execute import Scalars
from gradc.ir.loop.verbs import Array, apply_verb
from gradc.ir.tensor.core import DType

_DECIDED = ("max", "min", "sign")  # verbs whose zeros and NaN texts promise


class Exact(Scalars):
    """Machine numbers with what ``ir.loop.verbs`` leaves open decided."""

    def verb(self, name: str, operands: list[Array], dtype: DType) -> Array:
        if name == "fma" and dtype.is_float:
            return fma(*operands)
        if name in _DECIDED and dtype.is_float:
            found: Array = scalars.VERBS[name](ArrayFloats(dtype is DType.F64), *operands)
            return found
        return apply_verb(name, operands, dtype)

    def combine(self, kind: str, a: Array, b: Array) -> Array:
        if not np.issubdtype(np.asarray(a).dtype, np.floating):
            return super().combine(kind, a, b)
        is_double = np.asarray(a).dtype == np.float64
        return self.verb(kind, [a, b], DType.F64 if is_double else DType.F32)


EXACT = Exact()
