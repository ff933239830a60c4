"""Loop nests of every shape against the reference executor, to the bit, on every instruction set;
and random ones.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gradc.ir.loop.builder import IndexAlgebra, LoopBuilder
from gradc.ir.loop.kernel import (
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
    Stmt,
    Store,
    Var,
)
from gradc.ir.loop.registers import in_registers
from gradc.ir.loop.verify import verify_kernel
from gradc.ir.tensor.core import DType
from tests.support.llvm_kernels import Compiled, at, check, sets

Array = npt.NDArray[Any]
SIZES = (0, 1, 2, 3, 5, 15, 16, 17, 31, 63, 64, 65, 127, 130, 257, 1000)
FEW = (0, 1, 17, 64, 130, 257)
F32, F64, I32, I64, BOOL = DType.F32, DType.F64, DType.I32, DType.I64, DType.BOOL
BF16, F16, U32 = DType.BF16, DType.F16, DType.U32


@pytest.fixture(params=sets())
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# ---- vector loops
# ---------------------------------------------------------------------------------


def fold_kernel(size: int, combine: Any, dtype: DType, limited: bool = False) -> Kernel:
    """One result: the fold of ``size`` elements; and the doubled elements, so that the body stores
    as well.
    """
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
    # Every size for one fold: where a loop is cut does not depend on what it folds.
    sizes = {c: SIZES if n == 0 else FEW for n, c in enumerate(folds)}
    check([fold_kernel(n, c, dtype) for c in folds for n in sizes[c]], isa)


@pytest.mark.parametrize("dtype", [F32, F64, I32], ids=str)
def test_vector_folds_up_to_a_limit(dtype: DType, isa: str) -> None:
    kernels = [fold_kernel(n, c, dtype, limited=True) for n in (17, 130) for c in ("add", "min")]
    code = Compiled(kernels, isa)
    for limit in (-3, 0, 1, 15, 16, 17, 63, 64, 65, 100, 200):
        check(kernels, isa, given={"bound": np.array([limit], np.int64)}, code=code)


def long_kernel(size: int, limited: bool) -> Kernel:
    """Folds of two types under a body so long that it is not written out per accumulator."""
    x, bound = Buffer("x", F32, size, "read"), Buffer("bound", I64, 1, "read")
    y, z = Buffer("y", F32, 2, "write"), Buffer("z", F64, 1, "write")
    i, a, n = Var("i", I64), Var("a", F32), Var("n", I64)
    body: list[Stmt] = [Load(a, x, at((i, 1)))]
    for step in range(120):
        made = Var(f"c{step}", F32)
        before = body[-1]
        assert isinstance(before, (Load, Let))
        body.append(Let(made, ("mul", "sub", "max")[step % 3], (before.var, a)))
    last, wide = body[-1], Var("wide", F64)
    assert isinstance(last, Let)
    body.append(Let(wide, "cast", (last.var,)))
    results = [Var("s", F32), Var("t", F32), Var("u", F64)]
    folds = (
        Fold(results[0], "add", last.var),
        Fold(results[1], "max", last.var),
        Fold(results[2], "add", wide),
    )
    limit = at((n, 1)) if limited else None
    loop = For(i, size, "vector", tuple(body), folds, limit)
    stores = (Store(y, at(), results[0]), Store(y, at(1), results[1]), Store(z, at(), results[2]))
    name = f"long{size}{limited}"
    return Kernel(name, (x, bound, y, z), (Load(n, bound, at()), loop, *stores))


def test_long_bodies_rotate_their_accumulators(isa: str) -> None:
    sizes = (1, 15, 17, 64, 90, 257)
    kernels = [long_kernel(n, limited) for n in sizes for limited in (False, True)]
    code = Compiled(kernels, isa)
    assert len(code.text.splitlines()) < 1500 * len(kernels)
    for limit in (0, 3, 16, 31, 33, 48, 100, 256):
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


@pytest.mark.parametrize(
    ("stride", "dtype"),
    [
        *itertools.product([-1, 0, 2, -3, 7], [F32]), *itertools.product([-1, 2], [F64, BF16, I32]),
        *itertools.product([0, -3], [BOOL]), (7, F64), (0, BF16), (-3, I32),
    ],
    ids=str,
)  # fmt: skip
def test_strides(stride: int, dtype: DType, isa: str) -> None:
    """Loads and stores at every stride and of every type, guarded and not."""
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


# ---- nests ---------------------------------------------------------------------------------------


def rows_kernel(rows: int, columns: int) -> Kernel:
    """A softmax-like kernel by rows: a maximum, a sum of a scratch row, a quotient."""
    x, y = Buffer("x", F32, rows * columns, "read"), Buffer("y", F32, rows * columns, "write")
    keep = Buffer("keep", F32, columns, "update", "thread")
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
    return Kernel(f"rows{rows}x{columns}", (x, y, keep), (For(r, rows, "grid", body),))


def test_rows(isa: str) -> None:
    check([rows_kernel(r, c) for r, c in [(3, n) for n in SIZES] + [(1, n) for n in FEW]], isa)


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
    """Sums of shifted rows in scratch, ``step`` elements apart: in registers unless they
    overlap.
    """
    size = rows * columns
    x, y = Buffer("x", F32, size + taps, "read"), Buffer("y", F32, 2 * taps, "write")
    sums = Buffer("sums", F32, step * taps + columns, "update", "thread")
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
    whole = For(r, 2, "grid", tuple(body))
    kept, buffers = in_registers((whole,), (x, y, sums))
    assert (buffers[-1].memory == "register") == (step >= columns or taps == 1)
    return Kernel(f"taps{rows}x{columns}x{taps}by{step}", buffers, kept)


def test_scratch_rows_in_registers(isa: str) -> None:
    cases = [(3, 10, 5, 10), (2, 16, 3, 20), (4, 17, 2, 17), (1, 40, 2, 41), (3, 10, 30, 10)]
    cases += [(3, 10, 4, 7), (3, 70, 2, 70), (0, 5, 2, 5)]  # overlapping, long, never stored
    check([taps_kernel(*case) for case in cases], isa)


def guards_kernel(rows: int, width: int) -> Kernel:
    """Rows above and below, and neighbours in them: where both are inside, as a filter reads."""
    b = LoopBuilder()
    k = IndexAlgebra(b, F32)
    x = b.buffer("x", F32, rows * width, "read")
    y = b.buffer("y", F32, 9 * rows * width, "write")
    with b.loop(rows, "serial") as i, b.loop(width, "vector") as j:
        for tap, (p, q) in enumerate(itertools.product((-1, 0, 1), repeat=2)):
            place = (i.at + p) * width + j.at + q
            with k.guard(k.both(k.inside(i.at + p, rows), k.inside(j.at + q, width))):
                value = b.load(x, place)
            b.store(y, i.at * width + j.at + tap * rows * width, value)
    return Kernel(f"guards{rows}x{width}", tuple(b.buffers), b.body())


def test_conditions_on_rows_and_on_lanes(isa: str) -> None:
    check([guards_kernel(3, width) for width in (*range(7, 12), 17, 24, 25, 26)], isa)


def blocks_kernel(grid: int, threads: int, columns: int) -> Kernel:
    """Each thread of a block sums its row of squares, kept in memory of its own; then each adds the
    sums of the others in front of it, from memory of the block.
    """
    x = Buffer("x", F32, grid * threads * columns, "read")
    y = Buffer("y", F32, grid * threads, "write")
    row = Buffer("row", F32, columns, "update", "register")
    shared = Buffer("shared", F32, threads, "update", "block")
    g, t, u, v, i, j = (Var(n, I64) for n in "gtuvij")
    a, b, c, d, total, below = (Var(n, F32) for n in ("a", "b", "c", "d", "total", "below"))
    here = at((g, threads * columns), (t, columns), (i, 1))
    square = (Load(a, x, here), Let(b, "mul", (a, a)), Store(row, at((i, 1)), b))
    first = (
        For(i, columns, "vector", square),
        For(j, columns, "vector", (Load(c, row, at((j, 1))),), (Fold(total, "add", c),)),
        Store(shared, at((t, 1)), total),
    )
    front = For(v, threads, "serial", (Load(d, shared, at((v, 1))),), (Fold(below, "add", d),),
                at((u, 1), 1))  # fmt: skip
    second = (front, Store(y, at((g, threads), (u, 1)), below))
    body = (For(t, threads, "block", first), For(u, threads, "block", second))
    name = f"blocks{grid}x{threads}x{columns}"
    return Kernel(name, (x, y, row, shared), (For(g, grid, "grid", body),))


def test_blocks_of_threads(isa: str) -> None:
    kernels = [blocks_kernel(*sizes) for sizes in ((3, 5, 40), (1, 1, 7), (2, 33, 300))]
    for kernel in kernels:
        verify_kernel(kernel)
    check(kernels, isa)


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
    code._functions[0](None, nothing.ctypes.data, out.ctypes.data, None, 0, 1)
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
    keep, y = Buffer("keep", F32, m * n, "update", "thread"), Buffer("y", F32, m * n, "write")
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
