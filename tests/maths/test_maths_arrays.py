"""The vector mathematics over NumPy arrays has the bits of native code; its ``fma`` is exact."""

from __future__ import annotations

import importlib
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gradc.codegen.llvm.isa import select
from gradc.codegen.maths import scalars
from gradc.codegen.maths.arrays import ArrayFloats, fma
from gradc.codegen.maths.elementary import UNARY, call
from gradc.ir.tensor.core import DType
from tests.support.llvm_kernels import Compiled, elementwise
from tests.support.maths_inputs import FLOAT, arguments, same_bits

Array = npt.NDArray[Any]


@pytest.mark.skipif(not select().fma, reason="this processor rounds fma twice")
@pytest.mark.parametrize("dtype", [DType.F32, DType.F64], ids=str)
def test_arrays_give_the_bits_of_native_code(dtype: DType) -> None:
    rng = np.random.default_rng(4)
    names = (*UNARY, "pow")
    given = {name: arguments(name, dtype, 400, rng) for name in names}
    kernels = [elementwise(n, len(x[0]), [dtype] * len(x), dtype) for n, x in given.items()]
    code, k = Compiled(kernels), ArrayFloats(dtype is DType.F64)
    for number, (name, operands) in enumerate(given.items()):
        native = np.empty_like(operands[0])
        code([*operands, native], number)
        with np.errstate(all="ignore"):
            found = call(k, name, operands)
        wrong = np.flatnonzero(~same_bits(found, native))
        assert not len(wrong), f"{name} {[x[wrong[0]] for x in operands]}"


@pytest.mark.skipif(not select().fma, reason="this processor rounds fma twice")
@pytest.mark.parametrize("dtype", [DType.BF16, DType.F16], ids=str)
def test_16_bit_types_are_computed_in_f32_and_rounded(dtype: DType) -> None:
    k, bits = ArrayFloats(False), np.arange(0, 1 << 16, 7, dtype=np.uint32)
    is_brain = dtype is DType.BF16
    value = scalars.bf16_value if is_brain else scalars.f16_value
    stored = bits.astype(np.uint16)
    given = stored if is_brain else stored.view(np.float16)
    code = Compiled([elementwise(name, len(bits), [dtype], dtype) for name in UNARY])
    for number, name in enumerate(UNARY):
        native = np.empty_like(given)
        code([given, native], number)
        with np.errstate(all="ignore"):
            result = call(k, name, [value(k, bits)])
        found = scalars.bf16_bits(k, result) >> 16 if is_brain else scalars.f16_bits(k, result)
        truth = native.view(np.uint16).astype(np.uint32)
        assert same_bits(value(k, found), value(k, truth)).all(), name


def rounded(a: float, b: float, c: float, dtype: DType) -> float:
    """``a b + c`` in whole numbers, rounded once to the type."""
    total = Fraction(a) * Fraction(b) + Fraction(c)
    if dtype is DType.F64:
        return float(total)
    info = np.finfo(np.float32)
    size = max(int(np.floor(np.log2(float(abs(total))))), info.minexp) if total else 0
    step = Fraction(2) ** (size - info.nmant)
    return float(round(total / step) * step)


@pytest.mark.parametrize("dtype", [DType.F32, DType.F64], ids=str)
def test_fma_is_rounded_once(dtype: DType) -> None:
    rng, kind, size = np.random.default_rng(5), FLOAT[dtype], 3000
    low, high = (-60, 40) if dtype is DType.F32 else (-520, 300)
    a = (rng.normal(size=size) * 2.0 ** rng.integers(low, high, size)).astype(kind)
    b = (rng.normal(size=size) * 2.0 ** rng.integers(low, high, size)).astype(kind)
    # Near -a b, so that what the product lost decides; or far from it; or a half unit beside it.
    near = -(a * b) * (1 + rng.integers(-3, 4, size) * np.finfo(kind).eps)
    tie = (a * b) * rng.choice([0.5, 1, 2.0**22, 2.0**24, 2.0**53], size)
    c = np.choose(rng.integers(0, 3, size), [near.astype(kind), tie, b]).astype(kind)
    finite = np.isfinite(c) & np.isfinite(a * b)
    a, b, c = a[finite], b[finite], c[finite]
    truth = [rounded(*one, dtype) for one in zip(a.tolist(), b.tolist(), c.tolist(), strict=True)]
    found = fma(a, b, c)
    assert len(found) > size // 2
    np.testing.assert_array_equal(found, np.array(truth).astype(kind))


def test_fma_of_each_alone_is_that_among_others() -> None:
    """Where none ends between two floats the plain sum is taken, which its neighbours must not
    tell: numbers of few bits, whose products end there, also below the normal numbers, and a term
    far below that decides.
    """
    rng, size = np.random.default_rng(6), 600
    scale = 2.0 ** np.repeat([0.0, -74.0, -75.0], size // 3)
    a = (scale * rng.integers(1 << 12, 1 << 13, size) / 4096).astype(np.float32)
    b = (scale * (2 * rng.integers(1 << 11, 1 << 12, size) + 1) / 4096).astype(np.float32)
    least = np.where(scale == 1, 2.0**-40, 2.0**-149)
    c = (rng.integers(-2, 3, size) * least).astype(np.float32)
    alone = [fma(*one)[0] for one in zip(*(x.reshape(-1, 1) for x in (a, b, c)), strict=True)]
    values = zip(a.tolist(), b.tolist(), c.tolist(), strict=True)
    truth = np.array([rounded(*one, DType.F32) for one in values]).astype(np.float32)
    np.testing.assert_array_equal(np.array(alone), truth)
    np.testing.assert_array_equal(fma(a, b, c), truth)


def test_fma_of_zeros_and_of_what_is_not_finite() -> None:
    inf, nan = np.inf, np.nan
    rows = [
        (0.0, -1.0, 0.0, 0.0),
        (0.0, -1.0, -0.0, -0.0),
        (2.0, 3.0, -6.0, 0.0),
        (inf, 0.0, 1.0, nan),
        (inf, 1.0, -inf, nan),
        (inf, -1.0, 5.0, -inf),
        (nan, 1.0, 1.0, nan),
        (1.0, 1.0, inf, inf),
    ]
    for kind in (np.float32, np.float64):
        a, b, c, truth = (np.array(column, kind) for column in zip(*rows, strict=True))
        assert same_bits(fma(a, b, c), truth).all()


# The numbers of each type that come nearest to a multiple of pi/2, and the largest.
HARDEST = {
    DType.F32: (16367173 * 2.0**72, 3.4028234663852886e38, 2.0**19 + 0.0625),
    DType.F64: (6381956970095103 * 2.0**797, 1.7976931348623157e308, 5e15 + 0.5),
}


@pytest.mark.parametrize("dtype", [DType.F32, DType.F64], ids=str)
def test_far_angles_are_reduced_to_the_last_place(dtype: DType) -> None:
    mpmath: Any = importlib.import_module("mpmath")
    k = ArrayFloats(dtype is DType.F64)
    x = np.array([*HARDEST[dtype], *(-v for v in HARDEST[dtype])], FLOAT[dtype])
    for name, most in (("sin", 1.5), ("cos", 1.5), ("tan", 3.0)):
        with np.errstate(all="ignore"):
            found = call(k, name, [x])
        with mpmath.workprec(1200):
            truth = [getattr(mpmath, name)(mpmath.mpf(float(v))) for v in x]
            for one, right in zip(found, truth, strict=True):
                unit = float(np.spacing(np.abs(FLOAT[dtype](right))))
                assert abs(mpmath.mpf(float(one)) - right) <= most * unit, f"{name}: {one} {right}"
