"""Statements of a loop or an epilogue: walking them, about how many instructions they are, and the
same ones over other buffers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from gradc.codegen.llvm.isa import Isa
from gradc.ir.loop.kernel import Buffer, Factor, For, Gemm, Let, Load, Stmt, Store
from gradc.ir.target.costs import Costs

_LATENCY_BOUND = 25  # instructions of a body from which on its latency shows


def walk(statements: Iterable[Stmt]) -> Iterator[Stmt]:
    for statement in statements:
        yield statement
        if isinstance(statement, For):
            yield from walk(statement.body)


def is_long(body: Sequence[Stmt], isa: Isa) -> bool:
    """Whether one vector of a body at a time would wait for its own results, and registers allow
    for two.
    """
    verbs = [isa.costs.of(s.verb) for s in walk(body) if isinstance(s, Let)]
    return weight(body, isa.costs) >= _LATENCY_BOUND and not any(v.is_crowded for v in verbs)


def weight(body: Sequence[Stmt], costs: Costs) -> int:
    """About how many instructions one vector of the body takes."""
    total = 0
    for statement in walk(body):
        total += costs.of(statement.verb).instructions if isinstance(statement, Let) else 1
    return total


def rebind(product: Gemm, buffers: dict[Buffer, Buffer]) -> Gemm:
    """The same product with other buffers."""

    def factor(old: Factor) -> Factor:
        return dataclasses.replace(old, buffer=buffers[old.buffer])

    def statement(old: Stmt) -> Stmt:
        if isinstance(old, (Load, Store)):
            return dataclasses.replace(old, buffer=buffers[old.buffer])
        return old

    return dataclasses.replace(
        product,
        within=product.within and product.within.rebound(buffers),
        left=factor(product.left),
        right=factor(product.right),
        epilogue=tuple(statement(s) for s in product.epilogue),
    )
