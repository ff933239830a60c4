"""Products that a loop only hands out: done once for all trips, after the loop.

Where a yield is ``contract(v, w)`` of a value of the trip with a constant (the cotangent of a
loop's input, ``d_t @ wx^T``) and nothing else reads it, the loop hands out ``v`` instead, and one
large product follows. Only where ``v`` is handed out anyway or takes no more memory than the
product does.
"""

from __future__ import annotations

from dataclasses import replace

from gradc.ir.ops.attributes import get_pairs
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import is_product
from gradc.ir.tensor.core import Block, Op, Value
from gradc.passes.hoist.sums import LoopBody
from gradc.passes.rewrite import Scan


def hoist_yields(b: Builder, op: Op) -> tuple[Op, dict[Value, Value]]:
    """Takes such products out of the scan ``op``, the last one in ``b``; returns it and what its
    old results became.
    """
    scan = Scan.of(op)
    loop = LoopBody(scan)
    gone: dict[Value, Op] = {}
    for output in scan.step_outputs:
        product = loop.defining.get(output)
        if product is not None and _only_handed_out(loop, product):
            (varying,) = (v for v in product.operands if v not in loop.constants)
            loop.hand_out(varying)
            gone[output] = product
    if not gone:
        return op, {}
    body = scan.body
    stay = [i for i, v in enumerate(body.outputs) if i < scan.carried or v not in gone]
    outputs = (*(body.outputs[i] for i in stay), *loop.extra)
    results = (*(op.results[i] for i in stay), *(loop.outer[v] for v in loop.extra))
    ops = [inner for inner in body.body if not (inner.results and inner.results[0] in gone)]
    region = Block(body.parameters, (*ops, replace(body.terminator, operands=outputs)))
    shorter = replace(op, regions=(region,), results=results)
    b.ops[b.ops.index(op)] = shorter
    found: dict[Value, Value] = {}
    for output, result in zip(scan.step_outputs, op.results[scan.carried :], strict=True):
        if output in gone:
            with b.at(gone[output].span, gone[output].scope, gone[output].replica):
                found[result] = _after(b, scan, loop, gone[output])
    return shorter, found


def _after(b: Builder, scan: Scan, loop: LoopBody, product: Op) -> Value:
    """``product`` of the stack that the loop hands out."""
    outside = dict(zip(scan.body.parameters, scan.op.operands, strict=True))
    left, right = product.operands
    if left in loop.constants:
        return stacked_product(b, product, (outside[left], loop.outer[right]), False)
    return stacked_product(b, product, (loop.outer[left], outside[right]), True)


def _only_handed_out(loop: LoopBody, op: Op) -> bool:
    if not is_product(op) or get_pairs(op.attributes, "batch"):
        return False
    if loop.uses[op.result] != 1 or op.replica != loop.scan.op.replica:
        return False
    varying = [v for v in op.operands if v not in loop.constants]
    if len(varying) != 1:
        return False
    return loop.is_out(varying[0]) or _is_no_larger(varying[0], op.result)


def _is_no_larger(a: Value, b: Value) -> bool:
    left, right = a.type.size, b.type.size
    return isinstance(left, int) and isinstance(right, int) and left <= right


def stacked_product(
    b: Builder, op: Op, operands: tuple[Value, Value], trips_in_first: bool
) -> Value:
    """``op``, a contract without batch axes, for all trips: one operand is stacked, the result is
    too.

    The stacked operand comes first, so that the trips are the leading axis; then the axes are put
    in order again.
    """
    pairs = get_pairs(op.attributes, "contract")
    hint = op.result.hint
    if trips_in_first:
        moved = tuple((i + 1, j) for i, j in pairs)
        return b.one("contract", *operands, hint=hint, batch=(), contract=moved)
    flipped = tuple((j + 1, i) for i, j in pairs)
    a, x = operands
    product = b.one("contract", x, a, hint=hint, batch=(), contract=flipped)
    left = a.type.rank - len(pairs)
    rank = product.type.rank
    perm = (0, *range(rank - left, rank), *range(1, rank - left))
    return b.one("transpose", product, perm=perm)
