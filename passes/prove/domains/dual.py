"""Dual numbers for proofs: the tangent of a program, found apart from the pass that differentiates.

Slopes are those of ``ir/domains/dual.py``, a table independent of the registry's partials, except
for roots and powers: over a prime field s^2 = x does not hold for an oracle s, so there the
registry's partial is used, and its rule is proved on its own (``prove_rules``).
"""

from __future__ import annotations

from typing import Any

from gradc.ir.domains.arrays import BoundAlgebra
from gradc.ir.domains.dual import Dual, DualArrays
from gradc.ir.ops.registry import lookup
from gradc.ir.tensor.core import DType
from gradc.passes.prove.domains.field import FieldArrays

# Verbs whose slope is taken from the registry.
BY_RULE = ("sqrt", "rsqrt", "pow")


class ProofDuals(DualArrays):
    """Dual numbers over a prime field."""

    def __init__(self, base: FieldArrays) -> None:
        super().__init__(base)
        self._algebra = BoundAlgebra(base, DType.F64)

    def verb(self, name: str, *operands: Dual) -> Dual:
        if name not in BY_RULE:
            return super().verb(name, *operands)
        primals = [x.primal for x in operands]
        y = self.base.verb(name, *primals)
        total: Any = None
        for partial, x in zip(lookup(name).partials or (), operands, strict=True):
            if partial is None or x.tangent is None:
                continue
            slope = partial.value(self._algebra, y, *primals)
            term = self.base.verb("mul", x.tangent, slope)
            total = term if total is None else self.base.verb("add", total, term)
        return Dual(y, total)
