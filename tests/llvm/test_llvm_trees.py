"""Long sums in machine code against the reference executor, to the bit: leaves, nodes, and what is
left over.
"""

from __future__ import annotations

import numpy as np
import pytest

from gradc.ir.loop.kernel import (
    Buffer,
    Fold,
    For,
    Kernel,
    Let,
    Load,
    Store,
    Var,
)
from gradc.ir.loop.order import LEAF, node_spans
from gradc.ir.tensor.core import DType
from tests.llvm.test_llvm_nest import fold_kernel, long_kernel, mixed_kernel
from tests.support.llvm_kernels import Compiled, at, check, sets

F32, F64, I64 = DType.F32, DType.F64, DType.I64
# Around the ends of leaves and nodes of both types: 64 x 16, 32 x 16, and further levels.
SIZES = (512, 513, 1024, 1025, 2050, 8200, 16_400, 64**3 + 1025)


@pytest.fixture(params=sets())
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_spans_of_nodes() -> None:
    assert node_spans(0) == node_spans(1) == node_spans(LEAF) == ()
    assert node_spans(LEAF + 1) == node_spans(LEAF**2) == (16,)
    assert node_spans(10_000_000) == (1 << 20, 1 << 16, 4096, 256, 16)
    assert node_spans(20_000, 256, 64) == (16_384, 256)


def test_vector_sums_are_trees(isa: str) -> None:
    kernels = [fold_kernel(n, "add", dtype) for n in SIZES for dtype in (F32, F64)]
    check([*kernels, fold_kernel(9000, "mul", F32), *(mixed_kernel(n) for n in SIZES[1:5])], isa)


def test_vector_sums_up_to_a_limit(isa: str) -> None:
    kernels = [fold_kernel(13_000, "add", dtype, limited=True) for dtype in (F32, F64)]
    kernels += [long_kernel(5000, limited) for limited in (False, True)]
    code = Compiled(kernels, isa)
    for limit in (-1, 5, 1030, 4097, 4130, 12_999):
        check(kernels, isa, given={"bound": np.array([limit], np.int64)}, code=code)


def serial_kernel(size: int, dtype: DType, limited: bool) -> Kernel:
    """The sum and the maximum of ``size`` elements one after the other."""
    x, bound = Buffer("x", dtype, size, "read"), Buffer("bound", I64, 1, "read")
    y = Buffer("y", dtype, 2, "write")
    i, a, n = Var("i", I64), Var("a", dtype), Var("n", I64)
    s, m = Var("s", dtype), Var("m", dtype)
    folds = (Fold(s, "add", a), Fold(m, "max", a))
    limit = at((n, 1)) if limited else None
    loop = For(i, size, "serial", (Load(a, x, at((i, 1))),), folds, limit)
    stores = (Store(y, at(), s), Store(y, at(1), m))
    name = f"serial{size}{dtype}{limited}"
    return Kernel(name, (x, bound, y), (Load(n, bound, at()), loop, *stores))


def columns_kernel(rows: int, columns: int) -> Kernel:
    """Sums over rows in lanes, each sum a serial loop."""
    x, y = Buffer("x", F32, rows * columns, "read"), Buffer("y", F32, columns, "write")
    i, j, a, s = Var("i", I64), Var("j", I64), Var("a", F32), Var("s", F32)
    load = Load(a, x, at((i, columns), (j, 1)))
    inner = For(i, rows, "serial", (load,), (Fold(s, "add", a),))
    body = (inner, Store(y, at((j, 1)), s))
    return Kernel(f"columns{rows}x{columns}", (x, y), (For(j, columns, "vector", body),))


def test_serial_sums_are_trees(isa: str) -> None:
    kernels = [serial_kernel(n, F32, False) for n in (15, 16, 17, 130, 300)]
    kernels += [serial_kernel(200, dtype, False) for dtype in (F64, DType.I32)]
    kernels += [columns_kernel(rows, n) for rows, n in ((17, 1), (60, 5), (300, 40))]
    limited = [serial_kernel(300, F32, True)]
    check(kernels, isa)
    code = Compiled(limited, isa)
    for limit in (-1, 0, 1, 16, 65, 299):
        check(limited, isa, given={"bound": np.array([limit], np.int64)}, code=code)


def nested_kernel(rows: int, columns: int) -> Kernel:
    """A vector loop whose fold is over the sums of another one: it runs one iteration at a time."""
    x, y = Buffer("x", F32, rows * columns, "read"), Buffer("y", F64, 2, "write")
    i, j, a, b = Var("i", I64), Var("j", I64), Var("a", F32), Var("b", F64)
    s, t = Var("s", F32), Var("t", F64)
    total = Var("total", F32)
    inner = For(j, columns, "vector", (Load(a, x, at((i, columns), (j, 1))),), (Fold(s, "add", a),))
    body = (inner, Let(b, "cast", (s,)))
    loop = For(i, rows, "vector", body, (Fold(t, "add", b), Fold(total, "add", s)))
    wide = Var("wide", F64)
    after = (Let(wide, "cast", (total,)), Store(y, at(), t), Store(y, at(1), wide))
    return Kernel(f"nested{rows}x{columns}", (x, y), (loop, *after))


def test_sums_of_sums_are_trees(isa: str) -> None:
    check([nested_kernel(n, 3) for n in (600, 1030)], isa)
