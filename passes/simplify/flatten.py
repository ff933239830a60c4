"""Takes ``checkpoint`` and ``custom`` apart once nothing will be differentiated any more.

From-stage and to-stage: tensor. Their regions have served their purpose: what a checkpoint
recomputes stands in the reverse sweep under a replica number of its own, and a pullback has been
inlined. Left in place they would hide their ops from every other pass. Works inside ``scan`` too.
Once nothing will be differentiated any more, ``stop_gradient`` is what it stops, and a copy is
neither fused around nor stored.

Invariants: ops keep their replica numbers, so CSE cannot undo a recomputation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gradc.ir.ops.registry import is_wrapper, lookup
from gradc.ir.tensor.core import Block, Function, Op, Value
from gradc.passes.rewrite import copy_ops, renamed, with_ops


def flatten(
    function: Function, is_opened: Callable[[Op], bool] = is_wrapper, is_final: bool = False
) -> Function:
    """``function`` without checkpoint and custom ops, or those that ``is_opened`` names, and, if it
    ``is_final``, without what stops derivatives; the same object if it has none.
    """
    block = _block(function.block, is_opened, is_final)
    if block is function.block:
        return function
    return with_ops(function, block.body, block.outputs)


def _block(block: Block, is_opened: Callable[[Op], bool], is_final: bool) -> Block:
    found = (op.regions or (is_final and lookup(op.name).is_barrier) for op in block.body)
    if not any(found):
        return block
    mapping: dict[Value, Value] = {}
    ops: list[Op] = []
    is_changed = False
    for op in block.body:
        operands = renamed(op.operands, mapping)
        if is_final and lookup(op.name).is_barrier:
            mapping[op.result] = operands[0]
            is_changed = True
            continue
        if is_opened(op):
            region = _block(op.regions[0], is_opened, is_final)
            inner = dict(zip(region.parameters, operands, strict=True))
            ops += copy_ops(region.body, inner)
            outputs = (inner.get(v, v) for v in region.outputs)
            mapping.update(zip(op.results, outputs, strict=True))
            is_changed = True
            continue
        regions = tuple([_block(region, is_opened, is_final) for region in op.regions])
        # Values and blocks compare by identity.
        if operands != op.operands or regions != op.regions:
            op = op.on(operands, regions)
            is_changed = True
        ops.append(op)
    if not is_changed:
        return block
    end = replace(block.terminator, operands=renamed(block.outputs, mapping))
    return Block(block.parameters, (*ops, end))
