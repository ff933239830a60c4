"""Another valid order of the ops of every block, drawn from a seed: exposes passes that depend on
the order by accident.

From-stage and to-stage: tensor. Values and meaning stay; only the order of independent ops changes.
For tests and for the strictest level of verification.
"""

from __future__ import annotations

import random
from dataclasses import replace

from gradc.ir.tensor.core import Block, Function, Op
from gradc.passes.rewrite import with_ops


def shuffle(function: Function, seed: int) -> Function:
    """``function`` with the ops of its blocks in another order."""
    block = _block(function.block, random.Random(seed))
    return with_ops(function, block.body, block.outputs)


def _block(block: Block, source: random.Random) -> Block:
    """A random topological order: any op whose operands are there may come next."""
    body = [
        replace(op, regions=tuple(_block(region, source) for region in op.regions))
        if op.regions
        else op
        for op in block.body
    ]
    makers = {value: number for number, op in enumerate(body) for value in op.results}
    waiting: list[int] = []
    readers: dict[int, list[int]] = {}
    for number, op in enumerate(body):
        needs = {makers[v] for v in op.operands if v in makers}
        waiting.append(len(needs))
        for maker in needs:
            readers.setdefault(maker, []).append(number)
    ready = [number for number, count in enumerate(waiting) if count == 0]
    order: list[Op] = []
    while ready:
        chosen = source.randrange(len(ready))
        ready[chosen], ready[-1] = ready[-1], ready[chosen]
        number = ready.pop()
        order.append(body[number])
        for reader in sorted(readers.get(number, ())):
            waiting[reader] -= 1
            if waiting[reader] == 0:
                ready.append(reader)
    return Block(block.parameters, (*order, block.terminator))
