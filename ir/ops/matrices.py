"""Matrix notation over a Builder, and the ops in which programs of linear algebra are written:
loops, regions with a pullback, regions with a kernel.

Leading axes are the batch. Non-goals: the programs themselves (``ir/ops/linalg.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gradc.ir.ops.builder import Builder
from gradc.ir.tensor.core import Block, DType, TensorType, Value


class Matrices:
    """What the programs are written in: matrix notation over a Builder, leading axes being the
    batch.
    """

    def __init__(self, b: Builder) -> None:
        self.b = b

    def full(self, value: float, like: Value, shape: tuple[int, ...] | None = None) -> Value:
        """A splat of the type of ``like``."""
        return self.b.constant(
            value, like.type.dtype, like.type.static_shape if shape is None else shape
        )

    def op(self, name: str, x: Value, *others: Value | float) -> Value:
        """An elementwise op; numbers stretch."""
        values = [o if isinstance(o, Value) else self.full(o, x) for o in others]
        return self.b.one(name, x, *values)

    def spread(self, x: Value, axis: int, size: int) -> Value:
        """``x`` repeated along a new axis."""
        rank = x.type.rank + 1
        axis %= rank
        shape = list(x.type.static_shape)
        shape.insert(axis, size)
        dims = tuple(i for i in range(rank) if i != axis)
        return self.b.one("broadcast", x, shape=tuple(shape), dims=dims)

    def total(self, x: Value, axis: int) -> Value:
        return self.b.one("sum", x, axes=(axis % x.type.rank,))

    def turned(self, x: Value) -> Value:
        """The transposes."""
        rank = x.type.rank
        perm = (*range(rank - 2), rank - 1, rank - 2)
        return self.b.one("transpose", x, perm=perm)

    def dot(self, x: Value, y: Value) -> Value:
        """Products of matrices."""
        rank = x.type.rank - 2
        batch = tuple((i, i) for i in range(rank))
        return self.b.one("contract", x, y, batch=batch, contract=((rank + 1, rank),))

    def count(self, like: Value, axis: int, dtype: DType | None = None) -> Value:
        """The index along ``axis``, in the shape of ``like``."""
        shape = like.type.static_shape
        return self.b.one("iota", axis=axis % len(shape), dtype=dtype or DType.I32, shape=shape)

    def where(self, condition: Value, x: Value, y: Value | float) -> Value:
        return self.b.one("select", condition, x, y if isinstance(y, Value) else self.full(y, x))

    def triangle(self, x: Value, verb: str) -> Value:
        """``x`` where row ``verb`` column holds: "ge" is the lower triangle."""
        return self.where(self.b.one(verb, self.count(x, -2), self.count(x, -1)), x, 0.0)

    def eye(self, like: Value, size: int) -> Value:
        shape = (*like.type.static_shape[:-2], size, size)
        ones = self.full(1.0, like, shape)
        return self.triangle(self.triangle(ones, "ge"), "le")

    def diagonal(self, x: Value) -> Value:
        """The diagonals: what lies elsewhere never counts, NaN or not."""
        return self.total(self.triangle(self.triangle(x, "ge"), "le"), -1)

    def part(self, x: Value, axis: int, start: int, limit: int) -> Value:
        axis %= x.type.rank
        sizes = x.type.static_shape
        low = tuple(start if i == axis else 0 for i in range(len(sizes)))
        high = tuple(limit if i == axis else n for i, n in enumerate(sizes))
        return self.b.one("slice", x, start=low, limit=high, stride=(1,) * len(sizes))

    def join(self, axis: int, *xs: Value) -> Value:
        return self.b.one("concat", *xs, axis=axis % xs[0].type.rank)

    def element(self, x: Value, place: Value, axis: int) -> Value:
        """``x`` at a computed place along ``axis``."""
        return self.b.one("take", x, place, axis=axis % x.type.rank, fill="zero")

    def scale_rows(self, x: Value, by: Value) -> Value:
        return self.op("mul", x, self.spread(by, -1, x.type.static_shape[-1]))

    def scale_columns(self, x: Value, by: Value) -> Value:
        return self.op("mul", x, self.spread(by, -2, x.type.static_shape[-2]))

    def outer(self, x: Value, y: Value) -> Value:
        rows = self.spread(x, -1, y.type.static_shape[-1])
        return self.op("mul", rows, self.spread(y, -2, x.type.static_shape[-1]))

    def symmetric(self, x: Value) -> Value:
        """What the lower triangle says."""
        return self.op("add", self.triangle(x, "ge"), self.turned(self.triangle(x, "gt")))

    def halved(self, x: Value) -> Value:
        """(x + x^T) / 2."""
        return self.op("mul", self.op("add", x, self.turned(x)), 0.5)

    def gathered(self, x: Value, ids: Value) -> Value:
        """Columns of each matrix in an order of its own."""
        shape = x.type.static_shape
        n, rows = shape[-1], shape[-2]
        hot = self.b.one("eq", self.spread(ids, -2, n), self.count(self.spread(ids, -2, n), -2))
        return self.dot(x, self.b.one("cast", hot, dtype=x.type.dtype)) if rows else x


def loop(
    b: Builder,
    trips: int,
    carries: Sequence[Value],
    constants: Sequence[Value],
    body: Callable[[Matrices, list[Value], Value, list[Value]], tuple[list[Value], list[Value]]],
    reverse: bool = False,
) -> tuple[list[Value], list[Value]]:
    """``body(m, carries, number of the trip, constants)`` gives the next carries and what is
    stacked.
    """
    inner = block(b)
    inside = [inner.parameter(v.type) for v in carries]
    place = inner.parameter(TensorType((), DType.I32))
    fixed = [inner.parameter(v.type) for v in constants]
    following, stacked = body(Matrices(inner), inside, place, fixed)
    places = b.one("iota", axis=0, dtype=DType.I32, shape=(trips,))
    results = b.emit(
        "scan",
        *carries,
        places,
        *constants,
        regions=(inner.block([*following, *stacked]),),
        trips=trips,
        carried=len(carries),
        stacked=1,
        reverse=reverse,
        truncate=0,
    )
    return list(results[: len(carries)]), list(results[len(carries) :])


def block(b: Builder) -> Builder:
    made = Builder()
    made.span, made.scope, made.replica = b.span, b.scope, b.replica
    return made


def custom(
    b: Builder,
    operands: Sequence[Value],
    primal: Callable[[Matrices, list[Value]], list[Value]],
    pullback: Callable[[Matrices, list[Value], list[Value], list[Value]], list[Value]],
) -> list[Value]:
    """An op with a pullback of its own: ``pullback(m, operands, results, cotangents)``."""
    first, second = block(b), block(b)
    results = primal(Matrices(first), [first.parameter(v.type) for v in operands])
    regions: list[Block] = [first.block(results)]
    xs, ys, cts = (
        [second.parameter(v.type) for v in values] for values in (operands, results, results)
    )
    regions.append(second.block(pullback(Matrices(second), xs, ys, cts)))
    return list(b.emit("custom", *operands, regions=tuple(regions)))


def native(
    m: Matrices,
    by: str,
    operands: Sequence[Value],
    program: Callable[[Matrices, list[Value]], list[Value]],
    **attributes: bool,
) -> list[Value]:
    """What ``program`` says, by the kernel ``by`` where there are kernels."""
    inner = block(m.b)
    region = inner.block(program(Matrices(inner), [inner.parameter(v.type) for v in operands]))
    return list(m.b.apply("native", operands, {"by": by, **attributes}, (region,)))


def moved_first(m: Matrices, x: Value) -> Value:
    """What was stacked along the first axis, along the last."""
    rank = x.type.rank
    return m.b.one("transpose", x, perm=(*range(1, rank), 0))
