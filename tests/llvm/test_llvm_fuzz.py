"""Index arithmetic, loops cut at conditions, and random kernels, to the bit against the reference
executor.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy.typing as npt
import pytest

from gradc.ir.loop.kernel import (
    Buffer,
    Const,
    Fold,
    For,
    Index,
    Kernel,
    Let,
    Load,
    Scalar,
    Stmt,
    Store,
    Var,
)
from gradc.ir.tensor.core import DType
from tests.support.llvm_kernels import at, check, sets

Array = npt.NDArray[Any]
SIZES = (0, 1, 2, 3, 5, 15, 16, 17, 31, 63, 64, 65, 127, 130, 257, 1000)
F32, F64, I32, I64, BOOL = DType.F32, DType.F64, DType.I32, DType.I64, DType.BOOL
BF16, F16, U32 = DType.BF16, DType.F16, DType.U32


@pytest.fixture(params=sets())
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def division_kernel(size: int, divisor: int, form: int) -> Kernel:
    """Quotients and remainders of positions, as numbers and as addresses, in a row loop and a
    vector loop.
    """
    rows = 3
    table = Buffer("table", F32, 4 * rows * size + 200, "read")
    outs = [Buffer(name, I64, rows * size, "write") for name in ("q", "m", "both")]
    y = Buffer("y", F32, rows * size, "write")
    r, i, x = Var("r", I64), Var("i", I64), Var("x", I64)
    q, m, again, a = Var("q", I64), Var("m", I64), Var("again", I64), Var("a", F32)
    source = (
        at((i, 1)),
        at((r, size), (i, 1)),
        at((i, 1), -5),
        at((i, 2), (r, 16), 3),
        at((i, -3), -1),
    )
    by = Const(divisor, I64)
    where = at((r, size), (i, 1))
    body = (
        Index(x, source[form]),
        Let(q, "floordiv", (x, by)),
        Let(m, "mod", (x, by)),
        Let(again, "mod", (q, Const(4, I64))),
        Store(outs[0], where, q),
        Store(outs[1], where, m),
        Store(outs[2], where, again),
        Load(a, table, at((again, 1), (m, 1), min(0, -divisor) + divisor)),
        Store(y, where, a),
    )
    loop = For(r, rows, "grid", (For(i, size, "vector", body),))
    return Kernel(f"divide{size}by{divisor}form{form}", (table, *outs, y), (loop,))


@pytest.mark.parametrize("form", range(5))
def test_index_arithmetic(form: int, isa: str) -> None:
    sizes = [
        *itertools.product((7, 130), (1, 2, 3, 7, 16, 32, 100, 190)), (64, 1), (64, 16), (64, 96),
    ]  # fmt: skip
    check([division_kernel(size, divisor, form) for size, divisor in sizes], isa)


def concat_kernel(parts: tuple[int, ...], kind: Any = "vector") -> Kernel:
    """Several arrays one after the other, by conditions on the index, and whether each side was
    taken.
    """
    size = sum(parts)
    i = Var("i", I64)
    out, flags = Buffer("out", F32, size, "write"), Buffer("flags", BOOL, size, "write")
    buffers: list[Buffer] = []
    body: list[Stmt] = []
    chosen: Scalar = Const(0.0, F32)
    start, inside = 0, Var("none", BOOL)
    for n, part in enumerate(parts):
        place, low, high = Var(f"p{n}", I64), Var(f"low{n}", BOOL), Var(f"high{n}", BOOL)
        inside, a, b, c = (
            Var(f"in{n}", BOOL),
            Var(f"a{n}", F32),
            Var(f"b{n}", F32),
            Var(f"c{n}", F32),
        )
        source = Buffer(f"x{n}", F32, part, "read")
        buffers.append(source)
        body += [
            Index(place, at((i, 1), -start)),
            Let(low, "ge", (place, Const(0, I64))),
            Let(high, "gt", (Const(part, I64), place)),
            Let(inside, "logical_and", (low, high)),
            Load(a, source, at((i, 1), -start), inside),
            Let(b, "neg", (a,)),
            Let(c, "select", (inside, b, chosen)),
        ]
        chosen, start = c, start + part
    body += [Store(out, at((i, 1)), chosen), Store(flags, at((i, 1)), inside)]
    body.append(Store(out, at((i, 1)), Const(9.0, F32), "add", inside))
    loop = For(i, size, kind, tuple(body))
    return Kernel(f"concat{parts}{kind}", (*buffers, out, flags), (loop,))


def test_loops_are_cut_where_conditions_change(isa: str) -> None:
    cases = [(16, 16), (128, 40, 20), (3, 50), (64,), (17, 33, 65), (1, 1, 1), (20,) * 9]
    check([concat_kernel(parts, kind) for parts in cases for kind in ("vector", "serial")], isa)


def transposed_kernel(rows: int, columns: int, dtype: DType, form: int) -> Kernel:
    """Loops that read down the columns: a copy, one with arithmetic by row, one that adds up along
    the rows.
    """
    n = rows * columns
    x, z = Buffer("x", dtype, n + 3, "read"), Buffer("z", dtype, n, "read")
    y = Buffer("y", dtype, n if form < 3 else columns, "update")
    i, j, p, q = Var("i", I64), Var("j", I64), Var("p", I64), Var("q", I64)
    a, b, c, d = (Var(v, dtype) for v in "abcd")
    number = Var("number", dtype)
    down = at((i, 1), (j, rows), 3) if form != 2 else at((i, 1), (j, -rows), (columns - 1) * rows)
    before: tuple[Stmt, ...] = (Let(p, "mod", (i, Const(4, I64))), Let(number, "cast", (p,)))
    body: tuple[Stmt, ...] = (
        Load(a, x, down),
        Load(b, z, at((i, columns), (j, 1))),
        Let(c, "sub", (a, b)),
        Let(d, "mul", (c, number)),
    )
    if form == 1:
        body = (*body, Index(q, at((j, 1), (i, 1))))
    target = at((i, columns), (j, 1)) if form < 3 else at((j, 1))
    body = (*body, Store(y, target, d, "add" if form == 3 else ""))
    inner = For(j, columns, "vector", body)
    return Kernel(
        f"turned{rows}x{columns}{dtype}{form}",
        (x, z, y),
        (For(i, rows, "serial", (*before, inner)),),
    )


@pytest.mark.parametrize("dtype", [F32, F64, I32], ids=str)
def test_loops_turned_round(dtype: DType, isa: str) -> None:
    sizes = [(16, 16), (17, 40), (33, 16), (48, 50), (8, 8), (5, 70), (16, 3)]
    kernels = [transposed_kernel(r, c, dtype, form) for r, c in sizes for form in range(4)]
    check(kernels, isa)


def narrow_kernel(size: int, dtype: DType, border: int) -> Kernel:
    """f32 values stored in a narrow type: all, and those below ``border`` by a condition on the
    index.
    """
    x = Buffer("x", F32, size, "read")
    y, z = Buffer("y", dtype, size, "write"), Buffer("z", dtype, size, "update")
    i, a, b, below = Var("i", I64), Var("a", F32), Var("b", dtype), Var("below", BOOL)
    body = (
        Load(a, x, at((i, 1))),
        Let(b, "cast", (a,)),
        Let(below, "lt", (i, Const(border, I64))),
        Store(y, at((i, 1)), b),
        Store(z, at((i, 1)), b, guard=below),
    )
    return Kernel(f"narrow{size}{dtype}{border}", (x, y, z), (For(i, size, "vector", body),))


@pytest.mark.parametrize("dtype", [BF16, F16, BOOL], ids=str)
def test_narrow_stores_stay_inside(dtype: DType, isa: str) -> None:
    """LLVM turns a truncating masked store of one lane into a wide one."""
    sizes = [(n, border) for n in (1, 2, 3, 16, 17, 18, 33, 65) for border in (1, n - 16, n)]
    check([narrow_kernel(n, dtype, border) for n, border in sizes], isa)


# ---- random kernels ------------------------------------------------------------------------------

EXACT = ["add", "sub", "mul", "max", "min", "neg", "abs", "sign", "gate", "floor", "round", "div"]


class Fuzz:
    """Draws kernels: rows in parallel, in each a few vector or serial loops over random types and
    strides.
    """

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.rows, self.columns = self.draw.choice((1, 3, 4)), self.draw.choice(SIZES[1:-1])
        self.buffers: list[Buffer] = []
        self.count = 0
        self.row = self.var(I64)
        self.outer: list[Var] = []  # scalars of the row

    def var(self, dtype: DType) -> Var:
        self.count += 1
        return Var(f"v{self.count}", dtype)

    def buffer(self, dtype: DType, access: Any, size: int) -> Buffer:
        buffer = Buffer(f"b{len(self.buffers)}", dtype, size, access)
        self.buffers.append(buffer)
        return buffer

    def kernel(self) -> Kernel:
        body: list[Stmt] = []
        for _ in range(self.draw.randint(1, 3)):
            body += self.loop()
        loop = For(self.row, self.rows, "grid", tuple(body))
        return Kernel(f"random {self.rows}x{self.columns}", tuple(self.buffers), (loop,))

    def loop(self) -> list[Stmt]:
        kind: Any = self.draw.choice(("vector", "vector", "serial"))
        index, n = self.var(I64), self.columns
        row = at((self.row, n))
        body: list[Stmt] = []
        seen: list[Var] = list(self.outer)
        dtypes = self.draw.sample((F32, F32, F64, BF16, F16, I32), 2)
        for _ in range(self.draw.randint(1, 3)):
            dtype = self.draw.choice(dtypes)
            source = self.buffer(dtype, "read", self.rows * n)
            where = at((index, 1)) if self.draw.random() < 0.7 else at((index, -1), n - 1)
            loaded = self.var(dtype)
            body.append(Load(loaded, source, row + where))
            seen.append(loaded)
        for _ in range(self.draw.randint(1, 6)):
            body.append(self.let(seen))
        if kind == "vector" and self.draw.random() < 0.3:
            body.append(self.inner(index, seen))
        target = seen[-1]
        output = self.buffer(target.dtype, "write", self.rows * n)
        body.append(Store(output, row + at((index, 1)), target))
        folds = [v for v in seen if v not in self.outer and v.dtype in (F32, F64, I32)][-2:]
        made = [Fold(self.var(v.dtype), self.draw.choice(("add", "max", "min")), v) for v in folds]
        after: list[Stmt] = []
        for fold in made:
            place = self.buffer(fold.result.dtype, "write", self.rows)
            after.append(Store(place, at((self.row, 1)), fold.result))
        self.outer += [fold.result for fold in made]
        return [For(index, n, kind, tuple(body), tuple(made)), *after]

    def inner(self, outer: Var, seen: list[Var]) -> For:
        index, loaded, total = self.var(I64), self.var(F32), self.var(F32)
        trips = self.draw.choice((1, 2, 5))
        source = self.buffer(F32, "read", trips * self.columns)
        body = (Load(loaded, source, at((index, self.columns), (outer, 1))),)
        seen.append(total)
        return For(index, trips, "serial", body, (Fold(total, "add", loaded),))

    def let(self, seen: list[Var]) -> Let:
        first = self.draw.choice(seen)
        dtype = first.dtype
        verb = self.draw.choice(EXACT)
        if not dtype.is_float:
            verb = self.draw.choice(("add", "mul", "max", "neg", "mod", "floordiv"))
        same: list[Scalar] = [v for v in seen if v.dtype is dtype]
        same.append(Const(3 if not dtype.is_float else 0.75, dtype))
        if self.draw.random() < 0.2:
            other = self.draw.choice([d for d in (F32, F64, BF16) if (dtype, d) != (F64, BF16)])
            made = self.var(other if dtype is not I32 else F64)
            statement = Let(made, "cast", (first,))
        else:
            made = self.var(dtype)
            arity = 1 if verb in ("neg", "abs", "sign", "floor", "round") else 2
            others = [self.draw.choice(same) for _ in range(arity - 1)]
            statement = Let(made, verb, (first, *others))
        seen.append(made)
        return statement


@pytest.mark.parametrize("batch", range(6))
def test_random_kernels(batch: int, isa: str) -> None:
    check([Fuzz(100 * batch + n).kernel() for n in range(12)], isa, seed=batch)
