"""The vector mathematics in units of the last place against x87 long doubles and mpmath, on every
instruction set.
"""

from __future__ import annotations

import numpy as np
import pytest

from gradc.codegen.llvm.isa import available
from gradc.codegen.maths import coefficients, fit
from gradc.codegen.maths.elementary import ULPS, UNARY
from gradc.ir.tensor.core import DType
from tests.support.llvm_kernels import Compiled, elementwise, sets
from tests.support.maths_errors import LONG, errors, long_truth
from tests.support.maths_inputs import FLOAT, powers, samples, specials

SAMPLES = 20_000
BOUNDS = {
    dtype: {name: bounds[n] for name, bounds in ULPS.items()}
    for n, dtype in enumerate((DType.F32, DType.F64))
}

pytestmark = pytest.mark.skipif(
    np.finfo(LONG).nmant < 63, reason="no extended precision to compare with"
)


@pytest.mark.parametrize("isa", sets())
@pytest.mark.parametrize("dtype", [DType.F32, DType.F64], ids=str)
@pytest.mark.parametrize("name", sorted(UNARY))
def test_unary_is_within_its_bound(name: str, dtype: DType, isa: str) -> None:
    rng = np.random.default_rng(20)
    x = samples(name, dtype, SAMPLES, rng)
    if name == "erf" and dtype is DType.F64:
        x = np.concatenate(
            [specials(dtype), rng.uniform(-6.2, 6.2, 1500), rng.normal(0, 1e-3, 200)]
        )
    y = np.empty_like(x)
    Compiled([elementwise(name, len(x), [dtype], dtype)], isa)([x, y])
    found = errors(y, long_truth(name, x))
    worst = int(np.argmax(found))
    assert found[worst] <= BOUNDS[dtype][name], f"{name}({x[worst]!r}) = {y[worst]!r}"


@pytest.mark.parametrize("isa", sets())
@pytest.mark.parametrize("dtype", [DType.F32, DType.F64], ids=str)
def test_pow_is_within_its_bound(dtype: DType, isa: str) -> None:
    x, y = powers(dtype, SAMPLES, np.random.default_rng(21))
    out = np.empty_like(x)
    Compiled([elementwise("pow", len(x), [dtype, dtype], dtype)], isa)([x, y, out])
    found = errors(out, long_truth("pow", x, y))
    worst = int(np.argmax(found))
    assert found[worst] <= BOUNDS[dtype]["pow"], f"{x[worst]!r} ** {y[worst]!r} = {out[worst]!r}"


@pytest.mark.parametrize("name", sorted(UNARY))
def test_scalar_code_gives_the_bits_of_vector_code(name: str) -> None:
    rng = np.random.default_rng(22)
    for dtype in (DType.F32, DType.F64):
        x = np.concatenate([specials(dtype), rng.normal(0, 2, 300).astype(FLOAT[dtype])])
        results = []
        for vector in (True, False):
            y = np.empty_like(x)
            Compiled([elementwise(name, len(x), [dtype], dtype, vector)])([x, y])
            results.append(y)
        np.testing.assert_array_equal(results[0], results[1])


def test_instruction_sets_with_fma_agree_to_the_bit() -> None:
    wide = [isa for isa in available() if isa != "sse2"]
    x = np.random.default_rng(23).normal(0, 3, 5000).astype(np.float32)
    kernels = [elementwise(name, len(x), [DType.F32], DType.F32) for name in UNARY]
    codes = [Compiled(kernels, isa) for isa in wide]
    for n, name in enumerate(UNARY):
        results = []
        for code in codes:
            y = np.empty_like(x)
            code([x, y], n)
            results.append(y)
        for other in results[1:]:
            np.testing.assert_array_equal(results[0], other, err_msg=name)


def test_coefficients_are_those_of_the_fit() -> None:
    rows = {**fit.constants(), **{name: fit.fit(row) for name, row in fit.FITS.items()}}
    for name, values in rows.items():
        assert getattr(coefficients, name) == values, name


@pytest.mark.parametrize("name", sorted(fit.FITS))
def test_polynomials_are_as_near_as_their_place_asks(name: str) -> None:
    # What an error of the polynomial weighs in the function: it is multiplied by this at most.
    weight = {
        "EXP": 0.06,
        "LOG": 0.04,
        "ATAN": 0.01,
        "SIN": 0.11,
        "COS": 0.03,
        "ERF_": 0.2,
        "ERFC_F32": 0.21,
    }
    scale = next((w for prefix, w in weight.items() if name.startswith(prefix)), 0.16)
    row = fit.FITS[name]
    allowed = 2.0**-36 if name.endswith("MIDDLE") else 0.25 * 2.0 ** -(row.bits - 1)
    assert fit.error(row, fit.fit(row)) * scale <= allowed
