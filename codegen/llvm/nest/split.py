"""Cutting a vector loop where its conditions on the index change: each piece has them as constants.

A concatenation or a padding is a loop in which every element asks where it lies. Cut at the
borders, the pieces ask nothing: guards vanish, and with them the loads and the arithmetic of the
other sides.

Only loops without folds, with a static extent and a straight-line body are cut, and only into
pieces of at least ``_LEAST`` iterations. Non-goals: conditions that depend on anything but the
index and literals.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from itertools import pairwise

from gradc.ir.loop.kernel import (
    Affine,
    Const,
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
from gradc.ir.tensor.core import DType

_LEAST = 16
_MOST = 8

_ORDER = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}


def split(loop: For) -> Sequence[For]:
    """The pieces of ``loop`` in order; the loop itself where cutting does not pay."""
    if loop.kind != "vector" or loop.folds or loop.limit is not None:
        return (loop,)
    if any(isinstance(s, (For, Gemm)) for s in loop.body):
        return (loop,)
    borders = sorted({b for b in _borders(loop) if 0 < b < loop.extent})
    edges = [0, *borders, loop.extent]
    lengths = [b - a for a, b in pairwise(edges)]
    if not borders or len(lengths) > _MOST or min(lengths) < _LEAST:
        return (loop,)
    return [_piece(loop, a, b - a) for a, b in pairwise(edges)]


def _positions(loop: For) -> dict[Var, int]:
    """The variables that are the index plus a constant, each with that constant."""
    found = {loop.index: 0}
    for statement in loop.body:
        if isinstance(statement, Index) and statement.value.terms == ((loop.index, 1),):
            found[statement.var] = statement.value.constant
    return found


def _threshold(statement: Stmt, positions: dict[Var, int]) -> tuple[int, bool] | None:
    """``(t, below)``: the condition is ``below`` for an index under t and its opposite from t on;
    None if it is no such.
    """
    if not isinstance(statement, Let) or statement.verb not in _ORDER:
        return None
    left, right = statement.operands
    verb = statement.verb
    if isinstance(left, Const):
        left, right, verb = right, left, _ORDER[verb]
    if not (isinstance(left, Var) and left in positions and isinstance(right, Const)):
        return None
    # index + shift compared with bound
    bound = int(right.value) - positions[left]
    return bound + (verb in ("le", "gt")), verb in ("lt", "le")


def _borders(loop: For) -> Iterable[int]:
    positions = _positions(loop)
    for statement in loop.body:
        found = _threshold(statement, positions)
        if found is not None:
            yield found[0]


def _piece(loop: For, start: int, length: int) -> For:
    """Iterations [start, start + length) as a loop from 0, its conditions decided."""
    body = _Piece(loop, start).statements()
    return dataclasses.replace(loop, extent=length, body=tuple(_alive(body)))


class _Piece:
    """Rewrites a body for one stretch of the index. ``known`` replaces variables by literals and by
    each other.
    """

    def __init__(self, loop: For, start: int) -> None:
        self.loop = loop
        self.start = start
        self.known: dict[Var, Scalar] = {}
        self.moved = Var(f"{loop.index.name}.at{start}", DType.I64)

    def statements(self) -> list[Stmt]:
        """The body, with the index as a number defined first."""
        out: list[Stmt] = [Index(self.moved, Affine.of(self.loop.index) + self.start)]
        positions = _positions(self.loop)
        for statement in self.loop.body:
            found = _threshold(statement, positions)
            if found is not None and isinstance(statement, Let):
                border, below = found
                self.known[statement.var] = Const((self.start < border) == below, DType.BOOL)
            elif isinstance(statement, Let):
                self._let(statement, out)
            elif isinstance(statement, Index):
                out.append(Index(statement.var, self._affine(statement.value)))
            elif isinstance(statement, Load):
                self._load(statement, out)
            elif isinstance(statement, Store):
                self._store(statement, out)
        return out

    def _scalar(self, x: Scalar) -> Scalar:
        if isinstance(x, Const):
            return x
        return self.moved if x is self.loop.index else self.known.get(x, x)

    def _affine(self, affine: Affine) -> Affine:
        return affine + affine.coefficient(self.loop.index) * self.start

    def _let(self, statement: Let, out: list[Stmt]) -> None:
        operands = tuple(self._scalar(x) for x in statement.operands)
        decided = _decide(statement.verb, operands)
        if decided is None:
            out.append(Let(statement.var, statement.verb, operands))
        else:
            self.known[statement.var] = decided

    def _guard(self, guard: Var | None) -> tuple[Var | None, bool]:
        """The guard that is left, and whether anything happens at all."""
        if guard is None:
            return None, True
        found = self._scalar(guard)
        if isinstance(found, Const):
            return None, bool(found.value)
        return found, True

    def _load(self, statement: Load, out: list[Stmt]) -> None:
        guard, happens = self._guard(statement.guard)
        dtype = statement.var.dtype
        if not happens:
            self.known[statement.var] = Const(0.0 if dtype.is_float else 0, dtype)
            return
        offset = self._affine(statement.offset)
        out.append(Load(statement.var, statement.buffer, offset, guard))

    def _store(self, statement: Store, out: list[Stmt]) -> None:
        guard, happens = self._guard(statement.guard)
        if happens:
            out.append(
                dataclasses.replace(
                    statement,
                    offset=self._affine(statement.offset),
                    value=self._scalar(statement.value),
                    guard=guard,
                )
            )


def _decide(verb: str, operands: tuple[Scalar, ...]) -> Scalar | None:
    """What a verb is worth when conditions among its operands are known; None if that is not
    known.
    """
    first = operands[0]
    if verb == "select" and isinstance(first, Const):
        return operands[1] if first.value else operands[2]
    if verb == "logical_not" and isinstance(first, Const):
        return Const(not first.value, DType.BOOL)
    if verb in ("logical_and", "logical_or"):
        decisive = verb == "logical_or"
        for x, other in (operands, operands[::-1]):
            if isinstance(x, Const):
                return x if bool(x.value) == decisive else other
    return None


def _alive(body: Sequence[Stmt]) -> list[Stmt]:
    """The statements whose results are used, and the stores."""
    used: set[Var] = set()
    kept: list[Stmt] = []
    for statement in reversed(body):
        if isinstance(statement, (Let, Index, Load)) and statement.var not in used:
            continue
        kept.append(statement)
        if isinstance(statement, Let):
            used.update(x for x in statement.operands if isinstance(x, Var))
        elif isinstance(statement, Index):
            used.update(var for var, _ in statement.value.terms)
        elif isinstance(statement, (Load, Store)):
            used.update(var for var, _ in statement.offset.terms)
            if statement.guard is not None:
                used.add(statement.guard)
            if isinstance(statement, Store) and isinstance(statement.value, Var):
                used.add(statement.value)
    return kept[::-1]
