"""Loop nests of every shape against the reference executor, to the bit, on every instruction set; and random ones."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gradc.codegen.llvm.isa import available
from gradc.ir.core import DType
from gradc.ir.loops import (
    Affine,
    Buffer,
    Const,
    Factor,
    Fold,
    For,
    Gemm,
    Index,
    Kernel,
    Let,
    Load,
    Scalar,
    Stmt,
    Store,
    Var,
)
from gradc.ir.loops_execute import execute_kernel
from gradc.ir.loops_verbs import from_memory
from tests.llvm_kernels import Compiled, empty

Array = npt.NDArray[Any]
SIZES = (0, 1, 2, 3, 5, 15, 16, 17, 31, 63, 64, 65, 127, 130, 257, 1000)
F32, F64, I32, I64, BOOL = DType.F32, DType.F64, DType.I32, DType.I64, DType.BOOL
BF16, F16, U32 = DType.BF16, DType.F16, DType.U32


@pytest.fixture(params=available())
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def at(*terms: tuple[Var, int] | int) -> Affine:
    """The sum of ``(var, factor)`` pairs and constants."""
    total = Affine()
    for term in terms:
        total = total + (term if isinstance(term, int) else Affine.of(term[0]) * term[1])
    return total


def random_array(dtype: DType, size: int, rng: np.random.Generator) -> Array:
    if dtype is BOOL:
        return rng.integers(0, 2, size).astype(bool)
    if not dtype.is_float:
        return rng.integers(0, 100, size).astype(
            {I32: np.int32, I64: np.int64, U32: np.uint32}[dtype]
        )
    values = rng.standard_normal(size)
    values[rng.random(size) < 0.05] = -0.0
    if dtype is BF16:
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype({F64: np.float64, F32: np.float32, F16: np.float16}[dtype])


def check(
    kernels: Sequence[Kernel],
    isa: str,
    seed: int = 0,
    given: dict[str, Array] | None = None,
    code: Compiled | None = None,
) -> None:
    """Runs kernels both ways on the same random buffers and compares every buffer."""
    code = code or Compiled(kernels, isa)
    rng = np.random.default_rng(seed)
    for number, kernel in enumerate(kernels):
        start = []
        for buffer in kernel.buffers:
            if buffer.access == "scratch":
                continue
            fixed = (given or {}).get(buffer.name)
            if fixed is not None:
                start.append(fixed)
            elif buffer.access == "write":
                start.append(empty(buffer.dtype, buffer.size))
            else:
                start.append(random_array(buffer.dtype, buffer.size, rng))
        ours, truth = [a.copy() for a in start], [a.copy() for a in start]
        only = kernel.body[0]
        if isinstance(only, For) and only.kind == "parallel":
            middle = only.extent // 3  # the range may be cut anywhere
            code(ours, number, 0, middle)
            code(ours, number, middle, only.extent)
        else:
            code(ours, number)
        with np.errstate(all="ignore"):
            execute_kernel(kernel, truth)
        shown = [b for b in kernel.buffers if b.access != "scratch"]
        for buffer, x, y in zip(shown, ours, truth, strict=True):
            a, b = from_memory(x, buffer.dtype), from_memory(y, buffer.dtype)
            np.testing.assert_array_equal(a, b, err_msg=f"{kernel.name} {buffer.name} {isa}")


# ---- vector loops ---------------------------------------------------------------------------------


def fold_kernel(size: int, combine: Any, dtype: DType, limited: bool = False) -> Kernel:
    """One result: the fold of ``size`` elements; and the doubled elements, so that the body stores as well."""
    x, y = Buffer("x", dtype, size, "read"), Buffer("y", dtype, size, "update")
    out, bound = Buffer("out", dtype, 1, "write"), Buffer("bound", I64, 1, "read")
    i, a, b, total, n = (
        Var("i", I64),
        Var("a", dtype),
        Var("b", dtype),
        Var("t", dtype),
        Var("n", I64),
    )
    verb = "logical_not" if dtype is BOOL else "add"
    body = (
        Load(a, x, at((i, 1))),
        Let(b, verb, (a,) if dtype is BOOL else (a, a)),
        Store(y, at((i, 1)), b),
    )
    fold = Fold(total, combine, b)
    if not limited:
        loop = For(i, size, "vector", body, (fold,))
        return Kernel(f"fold{size}{combine}{dtype}", (x, y, out), (loop, Store(out, at(), total)))
    loop = For(i, size, "vector", body, (fold,), at((n, 1)))
    statements = (Load(n, bound, at()), loop, Store(out, at(), total))
    return Kernel(f"fold{size}{combine}{dtype}limited", (x, y, out, bound), statements)


@pytest.mark.parametrize("dtype", [F32, F64, I32, U32, I64, BF16, F16, BOOL], ids=str)
def test_vector_folds(dtype: DType, isa: str) -> None:
    # Sums of 16-bit floats are folded in f32.
    folds = ("max", "min") if dtype in (BOOL, BF16, F16) else ("add", "mul", "max", "min")
    check([fold_kernel(n, c, dtype) for n in SIZES for c in folds], isa)


@pytest.mark.parametrize("dtype", [F32, F64, I32], ids=str)
def test_vector_folds_up_to_a_limit(dtype: DType, isa: str) -> None:
    kernels = [fold_kernel(n, c, dtype, limited=True) for n in (17, 130) for c in ("add", "min")]
    code = Compiled(kernels, isa)
    for limit in (-3, 0, 1, 15, 16, 17, 63, 64, 65, 100, 200):
        check(kernels, isa, given={"bound": np.array([limit], np.int64)}, code=code)


def mixed_kernel(size: int) -> Kernel:
    """f32 and f64 folds, an f16 input and a comparison in one loop."""
    x, h = Buffer("x", F32, size, "read"), Buffer("h", F16, size, "read")
    out, wide = Buffer("out", F32, 2, "write"), Buffer("wide", F64, 1, "write")
    i, a, b, c = Var("i", I64), Var("a", F32), Var("b", F16), Var("c", F32)
    d, less, e = Var("d", F64), Var("less", BOOL), Var("e", F32)
    s1, s2, s3 = Var("s1", F32), Var("s2", F64), Var("s3", F32)
    body = (
        Load(a, x, at((i, 1))),
        Load(b, h, at((i, 1))),
        Let(c, "cast", (b,)),
        Let(d, "cast", (a,)),
        Let(less, "lt", (a, c)),
        Let(e, "select", (less, a, Const(1.5, F32))),
    )
    folds = (Fold(s1, "add", e), Fold(s2, "add", d), Fold(s3, "max", c))
    loop = For(i, size, "vector", body, folds)
    tail = (Store(out, at(), s1), Store(wide, at(), s2), Store(out, at(1), s3))
    return Kernel(f"mixed{size}", (x, h, out, wide), (loop, *tail))


def test_types_mix_in_one_loop(isa: str) -> None:
    check([mixed_kernel(n) for n in SIZES], isa)


@pytest.mark.parametrize("dtype", [F32, F64, BF16, BOOL, I32], ids=str)
@pytest.mark.parametrize("stride", [-1, 0, 2, -3, 7])
def test_strides(stride: int, dtype: DType, isa: str) -> None:
    """Loads and stores at every stride, guarded and not."""
    kernels = []
    for size in (1, 5, 16, 17, 40, 130):
        reach = 1 + abs(stride) * (size - 1)
        start = reach - 1 if stride < 0 else 0
        x, g = Buffer("x", dtype, reach, "read"), Buffer("g", BOOL, size, "read")
        y = Buffer("y", dtype, max(reach, size), "update")
        i, a, b, keep = Var("i", I64), Var("a", dtype), Var("b", dtype), Var("keep", BOOL)
        source = at((i, stride), start) if stride else at()
        target = source if stride else at((i, 1))
        body = (
            Load(keep, g, at((i, 1))),
            Load(a, x, source),
            Load(b, x, source, keep),
            Store(y, target, a),
            Store(y, target, b, guard=keep),
        )
        kernels.append(Kernel(f"stride{stride}x{size}", (x, g, y), (For(i, size, "vector", body),)))
    check(kernels, isa)


def test_gather_scatter_and_indices_as_numbers(isa: str) -> None:
    kernels = []
    for size in (1, 15, 33, 64):
        ids, x = Buffer("ids", I32, size, "read"), Buffer("x", F32, 100, "read")
        y, z = Buffer("y", F32, size, "write"), Buffer("z", F32, 2 * size, "update")
        i, n, m, where = Var("i", I64), Var("n", I32), Var("m", I64), Var("where", I64)
        a, k, s = Var("a", F32), Var("k", F32), Var("s", F32)
        body = (
            Load(n, ids, at((i, 1))),
            Let(m, "cast", (n,)),
            Index(where, at((m, -1), 99)),
            Load(a, x, at((where, 1))),
            Let(k, "cast", (i,)),
            Let(s, "add", (a, k)),
            Store(y, at((i, 1)), s),
            Store(z, at((i, 2), 1), s, "add"),
        )
        kernels.append(Kernel(f"gather{size}", (ids, x, y, z), (For(i, size, "vector", body),)))
    check(kernels, isa)


def division_kernel(size: int, divisor: int, form: int) -> Kernel:
    """Quotients and remainders of positions, as numbers and as addresses, in a row loop and a vector loop."""
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
    loop = For(r, rows, "parallel", (For(i, size, "vector", body),))
    return Kernel(f"divide{size}by{divisor}form{form}", (table, *outs, y), (loop,))


@pytest.mark.parametrize("form", range(5))
def test_index_arithmetic(form: int, isa: str) -> None:
    sizes = itertools.product((7, 64, 130), (1, 2, 3, 7, 16, 32, 96, 100, 190))
    check([division_kernel(size, divisor, form) for size, divisor in sizes], isa)


def concat_kernel(parts: tuple[int, ...], kind: Any = "vector") -> Kernel:
    """Several arrays one after the other, by conditions on the index, and whether each side was taken."""
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


# ---- nests ---------------------------------------------------------------------------------------


def rows_kernel(rows: int, columns: int) -> Kernel:
    """A softmax-like kernel by rows: a maximum, a sum of a scratch row, a quotient."""
    x, y = Buffer("x", F32, rows * columns, "read"), Buffer("y", F32, rows * columns, "write")
    keep = Buffer("keep", F32, columns, "scratch")
    r, i, j, m = Var("r", I64), Var("i", I64), Var("j", I64), Var("m", I64)
    a, top, b, c, d, total, e, f = (
        Var(n, F32) for n in ["a", "top", "b", "c", "d", "total", "e", "f"]
    )
    body = (
        For(i, columns, "vector", (Load(a, x, at((r, columns), (i, 1))),), (Fold(top, "max", a),)),
        For(
            j,
            columns,
            "vector",
            (
                Load(b, x, at((r, columns), (j, 1))),
                Let(c, "sub", (b, top)),
                Let(d, "mul", (c, c)),
                Store(keep, at((j, 1)), d),
            ),
            (Fold(total, "add", d),),
        ),
        For(
            m,
            columns,
            "vector",
            (
                Load(e, keep, at((m, 1))),
                Let(f, "div", (e, total)),
                Store(y, at((r, columns), (m, 1)), f),
            ),
        ),
    )
    return Kernel(f"rows{rows}x{columns}", (x, y, keep), (For(r, rows, "parallel", body),))


def test_rows(isa: str) -> None:
    check([rows_kernel(r, c) for r, c in itertools.product((1, 3), SIZES)], isa)


def columns_kernel(rows: int, columns: int, kind: Any, limited: bool = False) -> Kernel:
    """Sums and maxima down the columns: a serial loop inside, with a fold and a uniform load."""
    x, w = Buffer("x", F32, rows * columns, "read"), Buffer("w", F32, max(rows, 1), "read")
    y, z = Buffer("y", F32, columns, "write"), Buffer("z", F32, columns, "write")
    j, i = Var("j", I64), Var("i", I64)
    a, b, c, total, top = (Var(n, F32) for n in ("a", "b", "c", "total", "top"))
    inner = For(
        i,
        rows,
        "serial",
        (
            Load(a, x, at((i, columns), (j, 1))),
            Load(b, w, at((i, 1))),
            Let(c, "mul", (a, b)),
        ),
        (Fold(total, "add", c), Fold(top, "max", b)),
        at((j, 1), 1) if limited else None,
    )
    body = (inner, Store(y, at((j, 1)), total), Store(z, at((j, 1)), top))
    return Kernel(f"columns{rows}x{columns}{kind}", (x, w, y, z), (For(j, columns, kind, body),))


@pytest.mark.parametrize("limited", [False, True])
def test_columns(limited: bool, isa: str) -> None:
    sizes = itertools.product((0, 1, 2, 7), (1, 15, 33, 64, 200), ("vector", "serial"))
    check([columns_kernel(r, c, kind, limited) for r, c, kind in sizes], isa)


def taps_kernel(rows: int, columns: int, taps: int, step: int) -> Kernel:
    """Sums of shifted rows in scratch, ``step`` elements apart: in registers unless they overlap."""
    size = rows * columns
    x, y = Buffer("x", F32, size + taps, "read"), Buffer("y", F32, 2 * taps, "write")
    sums = Buffer("sums", F32, step * taps + columns, "scratch")
    body: list[Stmt] = []
    r = Var("r", I64)
    for tap in range(taps):
        j = Var(f"zero{tap}", I64)
        body.append(
            For(j, columns, "vector", (Store(sums, at((j, 1), tap * step), Const(0, F32)),))
        )
    i, j = Var("i", I64), Var("j", I64)
    inner: list[Stmt] = []
    for tap in range(taps):
        a, b, c = (Var(f"{n}{tap}", F32) for n in "abc")
        inner += [
            Load(a, x, at((i, columns), (j, 1), tap)),
            Load(b, sums, at((j, 1), tap * step)),
            Let(c, "add", (a, b)),
            Store(sums, at((j, 1), tap * step), c),
        ]
    body.append(For(i, rows, "serial", (For(j, columns, "vector", tuple(inner)),)))
    for tap in range(taps):
        j, a, t = Var(f"j{tap}", I64), Var(f"s{tap}", F32), Var(f"t{tap}", F32)
        loads = (Load(a, sums, at((j, 1), tap * step)),)
        body.append(For(j, columns, "vector", loads, (Fold(t, "add", a),)))
        body.append(Store(y, at((r, taps), tap), t))
    whole = For(r, 2, "parallel", tuple(body))
    return Kernel(f"taps{rows}x{columns}x{taps}by{step}", (x, y, sums), (whole,))


def test_scratch_rows_in_registers(isa: str) -> None:
    cases = [(3, 10, 5, 10), (2, 16, 3, 20), (4, 17, 2, 17), (1, 40, 2, 41), (3, 10, 30, 10)]
    cases += [(3, 10, 4, 7), (3, 70, 2, 70), (0, 5, 2, 5)]  # overlapping, long, never stored
    check([taps_kernel(*case) for case in cases], isa)


def test_a_vector_loop_that_holds_another_keeps_its_folds(isa: str) -> None:
    kernels = []
    for rows, columns in ((1, 5), (7, 20), (70, 3), (130, 17)):
        x, out = Buffer("x", F32, rows * columns, "read"), Buffer("out", F32, 2, "write")
        i, j, a, inner = Var("i", I64), Var("j", I64), Var("a", F32), Var("inner", F32)
        s, t = Var("s", F32), Var("t", F32)
        row = For(
            j, columns, "vector", (Load(a, x, at((i, columns), (j, 1))),), (Fold(inner, "add", a),)
        )
        loop = For(i, rows, "vector", (row,), (Fold(s, "add", inner), Fold(t, "max", inner)))
        body = (loop, Store(out, at(), s), Store(out, at(1), t))
        kernels.append(Kernel(f"nested{rows}", (x, out), body))
    check(kernels, isa)


def test_serial_folds_start_at_the_first_value(isa: str) -> None:
    """The sum of one -0 is -0; of nothing, +0."""
    for size, limit in ((1, 1), (3, 3), (3, 0), (3, -1)):
        x, out = Buffer("x", F32, size, "read"), Buffer("out", F32, 1, "write")
        bound = Buffer("bound", I64, 1, "read")
        i, n, a, s = Var("i", I64), Var("n", I64), Var("a", F32), Var("s", F32)
        loop = For(i, size, "serial", (Load(a, x, at((i, 1))),), (Fold(s, "add", a),), at((n, 1)))
        kernel = Kernel("zero", (x, bound, out), (Load(n, bound, at()), loop, Store(out, at(), s)))
        y = np.ones(1, np.float32)
        Compiled([kernel], isa)([np.full(size, -0.0, np.float32), np.array([limit], np.int64), y])
        assert y[0] == 0 and bool(np.signbit(y[0])) == (limit > 0)


def test_guarded_scalars_read_and_write_nothing(isa: str) -> None:
    x, g, y = (
        Buffer("x", F32, 4, "read"),
        Buffer("g", BOOL, 4, "read"),
        Buffer("y", F32, 4, "update"),
    )
    i, keep, a = Var("i", I64), Var("keep", BOOL), Var("a", F32)
    body = (
        Load(keep, g, at((i, 1))),
        Load(a, x, at((i, 1)), keep),
        Store(y, at((i, 1)), a, "add", keep),
    )
    check([Kernel("guarded", (x, g, y), (For(i, 4, "serial", body),))], isa, seed=3)
    # A null pointer behind a false guard is not touched.
    code = Compiled([Kernel("guarded", (x, g, y), (For(i, 4, "vector", body),))], isa)
    nothing = np.zeros(4, bool)
    out = np.full(4, 7, np.float32)
    code._functions[0](None, nothing.ctypes.data, out.ctypes.data, 0, 1)
    assert (out == 7).all()


def test_all_lanes_at_one_address_store_in_order(isa: str) -> None:
    kernels = []
    for size in (3, 16, 40):
        x, y = Buffer("x", F32, size, "read"), Buffer("y", F32, 2, "update")
        i, a = Var("i", I64), Var("a", F32)
        body = (Load(a, x, at((i, 1))), Store(y, at(), a), Store(y, at(1), Const(2.0, F32)))
        kernels.append(Kernel(f"last{size}", (x, y), (For(i, size, "vector", body),)))
    check(kernels, isa)


def test_gemm_among_other_statements(isa: str) -> None:
    """A product into scratch between two loops."""
    m, n, k = 5, 19, 7
    a, b = Buffer("a", F32, m * k, "read"), Buffer("b", F32, k * n, "read")
    keep, y = Buffer("keep", F32, m * n, "scratch"), Buffer("y", F32, m * n, "write")
    i, j, acc, p, v, w = (
        Var("i", I64),
        Var("j", I64),
        Var("acc", F32),
        Var("p", I64),
        Var("v", F32),
        Var("w", F32),
    )
    product = Gemm(
        (),
        (),
        m,
        n,
        k,
        Factor(a, (), k, 1),
        Factor(b, (), n, 1),
        i,
        j,
        acc,
        (Store(keep, at((i, n), (j, 1)), acc),),
    )
    loop = For(
        p,
        m * n,
        "vector",
        (Load(v, keep, at((p, 1))), Let(w, "neg", (v,)), Store(y, at((p, 1)), w)),
    )
    rng = np.random.default_rng(5)
    left, right = rng.standard_normal((m, k)), rng.standard_normal((k, n))
    out = np.empty((m, n), np.float32)
    code = Compiled([Kernel("product", (a, b, y, keep), (product, loop))], isa)
    code([left.astype(np.float32), right.astype(np.float32), out])
    np.testing.assert_allclose(out, -(left @ right), rtol=0, atol=1e-5)


# ---- random kernels ------------------------------------------------------------------------------

EXACT = ["add", "sub", "mul", "max", "min", "neg", "abs", "sign", "gate", "floor", "round", "div"]


class Fuzz:
    """Draws kernels: rows in parallel, in each a few vector or serial loops over random types and strides."""

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
        loop = For(self.row, self.rows, "parallel", tuple(body))
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
