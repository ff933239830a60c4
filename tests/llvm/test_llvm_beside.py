"""Stores side by side: to the bit against the reference executor, on every instruction set, and
whole vectors instead of every second element.
"""

from __future__ import annotations

import pytest

from gradc.ir.loop.kernel import Buffer, Const, For, Kernel, Let, Load, Stmt, Store, Var
from gradc.ir.tensor.core import DType
from tests.support.llvm_kernels import Compiled, at, check, sets

F32, I64 = DType.F32, DType.I64


def beside(count: int, size: int, dtype: DType, order: int = 1) -> Kernel:
    """``y[count * i + n] = x[i] + n``, the last first where ``order`` is -1."""
    x, y = Buffer("x", dtype, size, "read"), Buffer("y", dtype, count * size + 1, "update")
    i, a = Var("i", I64), Var("a", dtype)
    body: list[Stmt] = [Load(a, x, at((i, 1)))]
    for n in range(count)[::order]:
        made = Var(f"b{n}", dtype)
        if dtype is DType.BOOL:
            body.append(Let(made, "logical_not" if n % 2 else "logical_or", (a, a)[n % 2 :]))
        else:
            body.append(Let(made, "add", (a, Const(n, dtype))))
        body.append(Store(y, at((i, count), 1 + n), made))
    name = f"beside{count}x{size}{dtype}{'' if order > 0 else 'turned'}"
    return Kernel(name, (x, y), (For(i, size, "vector", tuple(body)),))


@pytest.mark.parametrize("isa", sets())
@pytest.mark.parametrize("dtype", [F32, DType.F64, DType.BF16, DType.I32, DType.BOOL], ids=str)
def test_elements_side_by_side(dtype: DType, isa: str) -> None:
    sizes = (1, 5, 16, 17, 40, 131) if dtype is F32 else (5, 40)
    kernels = [beside(count, size, dtype) for count in (2, 3, 4, 5) for size in sizes]
    check([*kernels, *(beside(count, 17, dtype, -1) for count in (2, 4))], isa)


def test_two_vectors_are_joined_before_they_are_stored() -> None:
    code = Compiled([beside(2, 1024, F32)]).text
    assert "extractelement" not in code and "masked.scatter" not in code


def test_what_a_body_reads_again_is_stored_at_once() -> None:
    """A store that a later load of the body must see is not kept back."""
    y, i = Buffer("y", F32, 80, "update"), Var("i", I64)
    a, b, c = Var("a", F32), Var("b", F32), Var("c", F32)
    body = (
        Load(a, y, at((i, 2), 1)),
        Store(y, at((i, 2)), a),
        Load(b, y, at((i, 2))),
        Let(c, "add", (b, b)),
        Store(y, at((i, 2), 1), c),
    )
    check([Kernel("again", (y,), (For(i, 40, "vector", body),))], "native")
