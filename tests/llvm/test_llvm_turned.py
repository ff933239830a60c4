"""Places that turn over once among the lanes of a vector: rows that are repeated or end between two
lanes. To the bit against the reference executor, on every instruction set, and without a gather.
"""

from __future__ import annotations

import pytest

from gradc.ir.loop.kernel import Buffer, Const, Fold, For, Kernel, Let, Load, Scalar, Store, Var
from gradc.ir.tensor.core import DType
from tests.support.llvm_kernels import Compiled, at, check, sets

F32, I64 = DType.F32, DType.I64


def repeated(width: int, times: int, rows: int, dtype: DType, slack: int = 0) -> Kernel:
    """``y[i] = x[row, column]``: each element of a row of ``width`` ``times`` times, each row
    ``times`` times; rows lie ``slack`` further apart than they are wide; and the sum of it.
    """
    size = rows * width * times * times
    pitch = width + slack
    x, y = Buffer("x", dtype, rows * pitch - slack, "read"), Buffer("y", dtype, size, "write")
    out = Buffer("out", dtype, 1, "write")
    i, a, total = Var("i", I64), Var("a", dtype), Var("t", dtype)
    place, line, row, column = (Var(name, I64) for name in ("place", "line", "row", "column"))

    def by(n: int) -> Scalar:
        return Const(n, I64)

    body = (
        Let(place, "floordiv", (i, by(times))),
        Let(line, "floordiv", (place, by(width))),
        Let(row, "floordiv", (line, by(times))),
        Let(column, "mod", (place, by(width))),
        Load(a, x, at((row, pitch), (column, 1))),
        Store(y, at((i, 1)), a),
    )
    fold = Fold(total, "max" if dtype is DType.BF16 else "add", a)
    loop = For(i, size, "vector", body, (fold,))
    name = f"repeated{width}x{times}x{rows}x{slack}"
    return Kernel(name, (x, y, out), (loop, Store(out, at(), total)))


@pytest.mark.parametrize("isa", sets())
@pytest.mark.parametrize("dtype", [F32, DType.F64, DType.I32, DType.BF16], ids=str)
def test_rows_that_are_repeated(dtype: DType, isa: str) -> None:
    shapes = [(14, 2, 14, 0), (9, 1, 40, 3), (18, 2, 5, 0), (10, 3, 8, 1), (5, 2, 30, 0)]
    check([repeated(w, t, r, dtype, slack) for w, t, r, slack in shapes], isa)


@pytest.mark.parametrize("isa", sets())
def test_a_row_that_ends_between_lanes_is_two_loads(isa: str) -> None:
    code = Compiled([repeated(14, 2, 14, F32)], isa).text
    assert "masked.load" in code and "masked.gather" not in code
