"""What ought to ride on a product: values that are stored soon after it, not those a later
reduction reads again.

Every value has an age: how many contractions precede it, and how many reductions since the last of
them. An elementwise op belongs to the epilogue of a product if its result must be stored (for a
contraction, an opaque op or the caller), is the start of a transcendental, or leads to such a value
at the same age. Otherwise the rows kernel that needs it computes it from the product's own result,
which is stored only once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gradc.ir.ops.registry import (
    ByIndex,
    Contraction,
    Pointwise,
    Reduction,
    has_epilogue,
    lookup,
)
from gradc.ir.tensor.core import Op, Value
from gradc.passes.fuse.views import Views, is_view
from gradc.passes.lower.joins import part_shape


def epilogue_values(ops: Sequence[Op], views: Views, outputs: Iterable[Value]) -> frozenset[Value]:
    """Results of elementwise ops that belong to the product that makes their operands, if one
    does."""
    age = _ages(ops)
    wanted: dict[Value, None] = dict.fromkeys(b for v in outputs for b in views.bases(v))
    found: dict[Value, None] = {}
    for op in reversed(ops):
        form = lookup(op.name).loop
        if all(views.is_virtual(v) for v in op.results) and op.results:
            continue
        if isinstance(form, Reduction):
            continue
        if not isinstance(form, Pointwise):
            wanted.update(dict.fromkeys(views.read_by(op)))
            continue
        is_wanted = op.result in wanted
        if is_wanted:
            found[op.result] = None
        if is_wanted or views.verbs(op).transcendental > 0:
            own = age[op.result]
            wanted.update((base, None) for base in views.read_by(op) if age[base] == own)
    return frozenset(found)


def values_in_memory(ops: Sequence[Op], outputs: Iterable[Value]) -> frozenset[Value]:
    """Values that are stored whatever is fused: operands of contractions and of opaque ops, results
    of the block. Of what joins others that is the whole, not its parts."""
    makers = {value: op for op in ops for value in op.results}
    found: dict[Value, None] = {}
    seen: dict[Value, None] = {}
    stack = list(outputs)
    for op in ops:
        if not isinstance(lookup(op.name).loop, (Pointwise, Reduction, ByIndex)):
            stack.extend(op.operands)
    while stack:
        value = stack.pop()
        if value in seen:
            continue
        seen[value] = None
        maker = makers.get(value)
        if maker is not None and is_view(maker) and part_shape(maker) is None:
            stack.extend(maker.operands)
        else:
            found[value] = None
    return frozenset(found)


def _ages(ops: Sequence[Op]) -> dict[Value, tuple[int, int]]:
    """Contractions before each value, and reductions since the last of them."""
    age: dict[Value, tuple[int, int]] = {}
    for op in ops:
        form = lookup(op.name).loop
        contractions, reductions = max((age.get(x, (0, 0)) for x in op.operands), default=(0, 0))
        if has_epilogue(op) or isinstance(form, Contraction):
            contractions, reductions = contractions + 1, 0
        elif isinstance(form, Reduction):
            reductions += 1
        for x in op.operands:
            age.setdefault(x, (0, 0))
        age.update(dict.fromkeys(op.results, (contractions, reductions)))
    return age
