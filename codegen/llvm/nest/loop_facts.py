"""What a loop is like: what varies from lane to lane, whether it can be vectorised, how wide, how
often written out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from gradc.codegen.llvm.bodies import is_long, walk
from gradc.codegen.llvm.isa import COMPUTE_BYTES, Isa
from gradc.ir.loop.kernel import (
    For,
    Gemm,
    Index,
    Let,
    Load,
    Scalar,
    Stmt,
    Store,
    Var,
)
from gradc.ir.loop.order import LANE_BYTES
from gradc.ir.target.costs import Costs
from gradc.ir.tensor.core import DType


def _reads(statement: Stmt) -> Iterator[Var]:
    """The variables that decide what a statement computes."""
    scalars: list[Scalar | None] = []
    if isinstance(statement, Let):
        scalars += statement.operands
    elif isinstance(statement, Index):
        scalars += [var for var, _ in statement.value.terms]
    elif isinstance(statement, Load):
        scalars += [statement.guard, *(var for var, _ in statement.offset.terms)]
    elif isinstance(statement, For) and statement.limit is not None:
        scalars += [var for var, _ in statement.limit.terms]
    yield from (x for x in scalars if isinstance(x, Var))


def varying(statements: Iterable[Stmt], sources: set[Var]) -> set[Var]:
    """The variables that differ from lane to lane, given those that do."""
    known = set(sources)
    for statement in statements:
        if isinstance(statement, (Let, Index, Load)):
            if any(var in known for var in _reads(statement)):
                known.add(statement.var)
        elif isinstance(statement, For):
            known |= varying(statement.body, known)
            known |= {fold.result for fold in statement.folds if fold.value in known}
    return known


def can_vectorise(loop: For) -> bool:
    """Whether all lanes can run the body together."""
    uneven = varying(loop.body, {loop.index})
    for statement in walk(loop.body):
        if isinstance(statement, Gemm):
            return False
        differs = isinstance(statement, For) and any(var in uneven for var in _reads(statement))
        if differs or (isinstance(statement, For) and statement.kind == "vector"):
            return False
    return True


def _types(loop: For) -> set[DType]:
    """The element types that a body computes in, addresses aside."""
    found = {fold.result.dtype for fold in loop.folds}
    for statement in walk(loop.body):
        if isinstance(statement, (Let, Load)):
            found.add(statement.var.dtype)
        elif isinstance(statement, Store):
            found.add(statement.buffer.dtype)
        elif isinstance(statement, For):
            found |= {fold.result.dtype for fold in statement.folds}
    return found - {DType.BOOL, DType.I64} or {DType.F32}


def lanes_of_body(loop: For) -> int:
    """LANE_BYTES of the narrowest type that a body computes in."""
    return LANE_BYTES // min(COMPUTE_BYTES[dtype] for dtype in _types(loop))


def width_of(loop: For, isa: Isa) -> int:
    """Iterations per vector: LANE_BYTES of the narrowest type; more around inner loops; fewer if
    there are fewer.
    """
    width = lanes_of_body(loop)
    inner = [s for s in loop.body if isinstance(s, For)]
    spare = isa.registers * isa.vector_bytes // LANE_BYTES
    if inner:
        longest = max(sum(1 for _ in walk(s.body)) for s in inner)
        if longest <= 12 and spare >= 8:
            width *= 4 if spare >= 16 and longest <= 6 else 2
    elif spare >= 8 and is_long(loop.body, isa):
        # One vector at a time would wait for itself: two are interleaved.
        width *= 2 if _divides_well(loop, 2 * width) else 1
    if loop.limit is None and loop.extent < width:
        width = max(2, 1 << math.ceil(math.log2(max(loop.extent, 1))))
    return width


def _divides_well(loop: For, width: int) -> bool:
    """Whether vectors of ``width`` leave no rest, or one that is small against the whole."""
    return loop.limit is None and (loop.extent % width == 0 or loop.extent >= 8 * width)


def unroll_of(loop: For, costs: Costs) -> int:
    """Vectors per round of a loop whose folds do not ask for a number of them."""
    statements = list(walk(loop.body))
    if any(isinstance(s, For) for s in statements):
        return 1
    if any(isinstance(s, Let) and costs.of(s.verb).cycles > 1 for s in statements):
        return 1
    if len(statements) <= 8:
        return 4
    return 2 if len(statements) <= 16 else 1
