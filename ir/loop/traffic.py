"""``traffic``: the bytes that a kernel must move, each element counted once however often it is
touched.

What is read is counted for buffers whose elements the kernel does not make itself; what is written
is counted once. Of a buffer of which a part is touched, as far as addresses are affine in the
loops, that part counts; of one that is read by computed ids at most as many elements as ids ask
for. Scratch never leaves the caches and counts nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gradc.ir.loop.kernel import (
    Affine,
    Buffer,
    Const,
    Factor,
    For,
    Gemm,
    Let,
    Load,
    Stmt,
    Store,
    Var,
)


@dataclass(frozen=True, slots=True)
class _Touch:
    """Elements of a buffer within ``low`` and ``high``, at most ``count`` of them."""

    buffer: Buffer
    is_write: bool
    is_update: bool
    low: int
    high: int
    count: int


def traffic(body: Sequence[Stmt]) -> int:
    """Bytes that one launch of a kernel with ``body`` reads and writes, at least."""
    touches = list(_touches(body, {}))
    made = {t.buffer for t in touches if t.is_write and not t.is_update}
    total = 0
    for is_write in (False, True):
        sides: dict[Buffer, list[_Touch]] = {}
        for touch in touches:
            is_read = not touch.is_write or touch.is_update
            if touch.is_write if is_write else is_read and touch.buffer not in made:
                sides.setdefault(touch.buffer, []).append(touch)
        total += sum(_elements(b, found) * b.dtype.itemsize for b, found in sides.items())
    return total


def _elements(buffer: Buffer, touches: Sequence[_Touch]) -> int:
    """Distinct elements: within each run of overlapping stretches no more than it is long."""
    total = 0
    low, high, count = 0, -1, 0
    for touch in sorted(touches, key=lambda t: t.low):
        if touch.low > high:
            total += min(count, high - low + 1)
            low, high, count = touch.low, touch.high, 0
        high = max(high, touch.high)
        count += touch.count
    return min(total + min(count, high - low + 1), buffer.size)


def _touches(body: Sequence[Stmt], loops: Mapping[Var, int]) -> Iterator[_Touch]:
    for statement in body:
        if isinstance(statement, For):
            yield from _touches(statement.body, {**loops, statement.index: statement.extent})
        elif isinstance(statement, Gemm):
            batch = dict(zip(statement.batch_index, statement.batch, strict=True))
            sides = ((statement.left, statement.m, statement.k),
                     (statement.right, statement.k, statement.n))  # fmt: skip
            for factor, rows, columns in sides:
                if not factor.buffer.is_private:
                    yield _factor(factor, (*statement.batch, rows, columns), loops)
            for buffer in statement.read[2:]:
                yield _Touch(buffer, False, False, 0, buffer.size - 1, 1)
            inner = {**loops, **batch, statement.i: statement.m, statement.j: statement.n}
            yield from _touches(statement.epilogue, inner)
        elif isinstance(statement, Let):
            extent = _digit(statement, loops)
            loops = loops if extent is None else {**loops, statement.var: extent}
        elif isinstance(statement, (Load, Store)):
            is_write = isinstance(statement, Store)
            is_update = isinstance(statement, Store) and statement.combine != ""
            if not statement.buffer.is_private:
                yield _touch(statement.buffer, statement.offset, loops, is_write, is_update)


def _digit(let: Let, loops: Mapping[Var, int]) -> int | None:
    """How many values a quotient or a remainder of an index takes; None if it is neither."""
    match let.verb, let.operands:
        case ("mod", (Var() as index, Const(value=int(count)))) if index in loops and count > 0:
            return min(loops[index], count)
        case ("floordiv", (Var() as index, Const(value=int(by)))) if index in loops and by > 0:
            return -(-loops[index] // by)
    return None


def _factor(factor: Factor, extents: Sequence[int], loops: Mapping[Var, int]) -> _Touch:
    if any(var not in loops for var, _ in factor.at.terms):
        return _Touch(factor.buffer, False, False, 0, factor.buffer.size - 1, factor.buffer.size)
    moves = [(step, loops[var]) for var, step in factor.at.terms]
    if factor.patch is not None:
        count = len(factor.batch_strides)
        inside = factor.patch.reach
        steps = [*zip(factor.batch_strides, extents[:count], strict=True), *moves]
        steps += [(stride, extent) for extent, stride in inside]
        return _stretch(factor.buffer, factor.offset, iter(steps), False, False)
    strides = (*factor.batch_strides, factor.row, factor.column)
    steps = [*moves, *zip(strides, extents, strict=True)]
    return _stretch(factor.buffer, factor.offset, iter(steps), False, False)


def _touch(
    buffer: Buffer, offset: Affine, loops: Mapping[Var, int], is_write: bool, is_update: bool
) -> _Touch:
    if all(var in loops for var, _ in offset.terms):
        steps = ((step, loops[var]) for var, step in offset.terms)
        return _stretch(buffer, offset.constant, steps, is_write, is_update)
    count = 1
    for extent in loops.values():
        count *= extent
    return _Touch(buffer, is_write, is_update, 0, buffer.size - 1, min(count, buffer.size))


def _stretch(
    buffer: Buffer, first: int, steps: Iterator[tuple[int, int]], is_write: bool, is_update: bool
) -> _Touch:
    """All of ``first + sum(step * i)``, each i below its extent, that lie in the buffer."""
    low = high = first
    count = 1
    for step, extent in steps:
        if extent <= 0:
            return _Touch(buffer, is_write, is_update, 0, -1, 0)
        low += min(0, step * (extent - 1))
        high += max(0, step * (extent - 1))
        count *= extent if step else 1
    low, high = max(low, 0), min(high, buffer.size - 1)
    return _Touch(buffer, is_write, is_update, low, high, min(count, max(high - low + 1, 0)))
