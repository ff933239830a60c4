"""The reference interpreter: runs functions over any array domain (``ir/domains/arrays.py``).

Every op is evaluated by the one meaning its ``OpDef`` states, in order, values freed after their
last use; regions are run through ``arrays.run``. Blocks are walked with a loop; only nested regions
recurse. After each op its results are settled in their element type, so bf16 and f16 round where a
program says they do.

Non-goals: speed, and any check that the verifier makes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import gradc.ir.ops  # noqa: F401  (fills the registry)
from gradc.ir.ops.registry import lookup
from gradc.ir.tensor.core import Block, Function, Op, Value

if TYPE_CHECKING:
    from gradc.ir.domains.arrays import Arrays

# Called after each op with its results: reports, tracers and bisection watch through it.
Observer: TypeAlias = Callable[[Op, Sequence[Any]], None]


def run_block(
    arrays: Arrays, block: Block, operands: Sequence[Any], observe: Observer | None = None
) -> tuple[Any, ...]:
    """What the terminator of ``block`` hands out when its parameters are ``operands``.

    Raises ValueError if the numbers of operands and parameters differ.
    """
    known: dict[Value, Any] = dict(zip(block.parameters, operands, strict=True))
    last_use = _last_uses(block)
    for position, op in enumerate(block.body):
        found = lookup(op.name).evaluate(arrays, op, [known[v] for v in op.operands])
        settled = [
            arrays.settle(x, value.type.dtype) for x, value in zip(found, op.results, strict=True)
        ]
        known.update(zip(op.results, settled, strict=True))
        if observe is not None:
            observe(op, settled)
        for value in (*op.operands, *op.results):
            if last_use.get(value, -1) <= position:
                known.pop(value, None)
    return tuple(known[v] for v in block.outputs)


def _last_uses(block: Block) -> dict[Value, int]:
    """The position of the op that reads each value last."""
    return {v: position for position, op in enumerate(block.ops) for v in op.operands}


def run(
    arrays: Arrays, function: Function, operands: Sequence[Any], observe: Observer | None = None
) -> tuple[Any, ...]:
    """The results of ``function``, in the domain ``arrays``, for operands of that domain."""
    with arrays.quiet():
        return run_block(arrays, function.block, operands, observe)
