"""Copying IR: a block's ops into a builder, with operands in place of parameters.

Ops are copied as they are (attributes, regions, spans, scopes, replica numbers); only values are
new. Regions are closed and immutable, so they are shared, not copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gradc.ir.ops.builder import Builder
from gradc.ir.tensor.core import Block, Function, Op, Value


def inline_block(
    b: Builder, block: Block, operands: Sequence[Value], *, replica: int | None = None
) -> tuple[Value, ...]:
    """Emits the ops of ``block`` with ``operands`` as its parameters; returns what its terminator
    hands out.

    ``replica`` replaces the ops' own replica number. Raises ValueError if counts or types do not
    fit.
    """
    expected = [v.type for v in block.parameters]
    given = [v.type for v in operands]
    if expected != given:
        raise ValueError(f"the block takes {_shown(expected)}, not {_shown(given)}")
    mapping = dict(zip(block.parameters, operands, strict=True))
    inline_ops(b, block.body, mapping, replica=replica)
    return tuple(mapping[v] for v in block.outputs)


def _shown(types: Sequence[object]) -> str:
    return "(" + ", ".join(str(t) for t in types) + ")"


def inline_ops(
    b: Builder, ops: Sequence[Op], mapping: dict[Value, Value], *, replica: int | None = None
) -> None:
    """Emits copies of ``ops``; ``mapping`` says what stands for their operands and learns their
    results.
    """
    for op in ops:
        results = tuple([Value(v.type, v.hint) for v in op.results])
        copied = Op(
            op.name,
            tuple([mapping[v] for v in op.operands]),
            results,
            op.attributes,
            op.regions,
            op.span,
            op.scope,
            op.replica if replica is None else replica,
        )
        b.ops.append(copied)
        mapping.update(zip(op.results, results, strict=True))


def inline_function(
    b: Builder, function: Function, operands: Mapping[str, Value] | Sequence[Value]
) -> tuple[Value, ...]:
    """Emits the body of ``function``; operands by parameter name or in order. Returns its results
    in order.

    Raises KeyError for a parameter that the mapping lacks, ValueError where types do not fit.
    """
    if isinstance(operands, Mapping):
        operands = [operands[slot.name] for slot in function.parameters]
    return inline_block(b, function.block, operands)
