"""The derivative rule of each op as a formula: what its pullback makes of a cotangent, read off the
rule itself.

The rule is applied to one op on operands called ``x`` (or ``a``, ``b``, ``c``) with result ``y``;
what it emits is written in matrix notation. Ops whose pullback the index algebra has no words for
(pools, loops, gathers along odd axes) are shown as the ops they are made of.

Non-goals: proving rules.
"""

from __future__ import annotations

from functools import cache

from gradc.codegen.symbolic.formulas.expand import Reader
from gradc.codegen.symbolic.formulas.fold import Folder
from gradc.codegen.symbolic.formulas.notation import COTANGENT, Notation
from gradc.codegen.symbolic.formulas.print import Writer
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import lookup
from gradc.ir.tensor.core import TensorType

_NAMES = {1: ("x",), 2: ("a", "b"), 3: ("a", "b", "c")}


@cache
def rule_formulas(name: str) -> tuple[Notation, ...]:
    """One equation per operand that gets a cotangent; none for ops without a derivative."""
    definition = lookup(name)
    sample = next((s for s in definition.samples if _is_telling(s.operands)), None)
    if sample is None:
        sample = definition.samples[0] if definition.samples else None
    if sample is None:
        return ()
    b = Builder()
    operands = [b.parameter(t) for t in sample.operands]
    results = b.apply(name, operands, sample.attributes)
    if len(results) != 1 or not results[0].type.dtype.is_float:
        return ()
    op = b.ops[-1]
    ct = b.parameter(results[0].type)
    needed = [v.type.dtype.is_float for v in operands]
    found = definition.vjp(b, op, (ct,), needed)
    names = _NAMES.get(len(operands), tuple(f"x{i}" for i in range(len(operands))))
    atoms = dict(zip(operands, names, strict=True))
    atoms |= {results[0]: "y", ct: f"{COTANGENT}y"}
    producers = {r: o for o in b.ops for r in o.results}
    equations = []
    for value, operand in zip(found, names, strict=True):
        if value is None:
            continue
        reader = Reader(producers, atoms)
        at, poly = reader.formula(value)
        short = Folder((), most_states=24).shortest(poly)
        sizes = value.type.static_shape
        equations.append(Writer().equation(f"{COTANGENT}{operand}", at, short, sizes))
    return tuple(equations)


def _is_telling(types: tuple[TensorType, ...]) -> bool:
    """Whether a sample is neither scalar nor empty nor of size 1 anywhere."""
    return bool(types) and all(
        t.dtype.is_float and t.rank and all(isinstance(d, int) and d > 1 for d in t.shape)
        for t in types
    )
