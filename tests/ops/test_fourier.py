"""The transform of ``ir/ops/fourier.py`` at every kind of length, compiled.

Against NumPy, against a longer type, as the adjoint of itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.fourier import fourier, good_size, prime_factors, radices
from gradc.ir.plan.execute import execute_plan
from gradc.ir.tensor.core import DType, Function, Role, Slot, TensorType
from gradc.passes.differentiate.transforms import vjp
from gradc.passes.inspect.check import check_plan
from gradc.passes.lower.plan import to_loops
from gradc.passes.place.place import place
from gradc.runtime.model.call import Entry
from gradc.runtime.native.compile import compile_function, compile_options

# Powers, products, one prime (written out, in a loop, by a chirp), few and many lines, uneven ones.
SHAPES = [
    ((2, 1), 1),
    ((2, 8), 1),
    ((2, 60, 3), 1),
    ((2, 5, 26), 2),
    ((2, 17, 2), 1),
    ((2, 61), 1),
    ((2, 2, 67), 2),
    ((2, 3, 20, 20), 2),
    ((2, 3, 20, 20), 3),
    ((2, 19, 2, 9), 1),
    ((2, 39, 64), 2),
    ((2, 0, 6), 2),
]


def transform(
    shape: tuple[int, ...], axis: int, dtype: DType = DType.F64, inverse: bool = False
) -> Function:
    b = Builder()
    x = b.parameter(TensorType(shape, dtype), "x")
    y = fourier(b, x, axis, inverse)
    return b.function("transform", [y], [Slot("x", Role.INPUT)], [Slot("y", Role.OUTPUT)])


def draw(shape: tuple[int, ...], seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


def compiled(function: Function, *operands: Any, **options: Any) -> list[Any]:
    entry = Entry(compile_function(function, lambda f: f, compile_options(**options)))
    kinds = {DType.F64: np.float64, DType.F32: np.float32}
    results = [np.empty(p.shape, kinds[p.dtype]) for p in entry.made]
    assert entry.fast(*operands, *results) is None
    return results


@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
def test_kernels_mean_the_transform(shape: tuple[int, ...], axis: int) -> None:
    """Loop form and interpreter against NumPy, on memory that is NaN before it is written."""
    x = draw(shape)
    z = x[0] + 1j * x[1]
    for inverse in (False, True):
        function = transform(shape, axis, inverse=inverse)
        wanted = np.zeros(z.shape, complex)
        if z.size:
            n = shape[axis]
            wanted = np.fft.ifft(z, axis=axis - 1) * n if inverse else np.fft.fft(z, axis=axis - 1)
        (meant,) = run(NumpyArrays(), function, [x])
        plan = place(to_loops(function))
        assert not check_plan(plan)
        (found,) = execute_plan(plan, [x], poison=True)
        np.testing.assert_allclose(meant, [wanted.real, wanted.imag], rtol=0, atol=1e-13)
        np.testing.assert_allclose(found, [wanted.real, wanted.imag], rtol=0, atol=1e-13)


@pytest.mark.parametrize("n", [100_000, 9_973])
def test_long_lines_are_as_right_as_numpys(n: int) -> None:
    """Beside a transform in a longer type: within 4 times of NumPy's error (20 by a chirp)."""
    x = draw((2, n), n)
    z = x[0] + 1j * x[1]
    wide = np.fft.fft(z.astype(np.clongdouble))
    if np.finfo(np.longdouble).eps > 1e-18 or wide.dtype != np.clongdouble:
        pytest.skip("NumPy has no longer type here")
    (found,) = compiled(transform((2, n), 1), x)
    error = float(np.linalg.norm(found[0] + 1j * found[1] - wide) / np.linalg.norm(wide))
    numpys = float(np.linalg.norm(np.fft.fft(z) - wide) / np.linalg.norm(wide))
    by_chirp = max(radices(n)) > 61
    assert error < (20 if by_chirp else 4) * max(numpys, 1e-16), (error, numpys)


@pytest.mark.parametrize("n", [1000, 134])
def test_narrow_types_are_rounded_once(n: int) -> None:
    x = draw((2, n), 3).astype(np.float32)
    (found,) = compiled(transform((2, n), 1, DType.F32), x)
    exact = np.fft.fft(x[0].astype(np.float64) + 1j * x[1])
    np.testing.assert_array_max_ulp(found[0], exact.real.astype(np.float32), 1)
    np.testing.assert_array_max_ulp(found[1], exact.imag.astype(np.float32), 1)


@pytest.mark.parametrize(("shape", "axis"), [((2, 6, 5), 1), ((2, 67), 1), ((2, 9, 34), 2)])
def test_the_transpose_is_the_conjugate(shape: tuple[int, ...], axis: int) -> None:
    """<ct, F x> = <F' ct, x>, for what differentiation makes of it, compiled."""
    function = transform(shape, axis)
    x, ct = draw(shape, 1), draw(shape, 2)
    y, back = compiled(vjp(function, [0], [0]), x, ct)
    np.testing.assert_allclose(np.sum(ct * y), np.sum(back * x), rtol=1e-12)
    z = np.conj(np.fft.fft(ct[0] - 1j * ct[1], axis=axis - 1))
    np.testing.assert_allclose(back, [z.real, z.imag], atol=1e-12)


def test_bits_do_not_depend_on_threads() -> None:
    function, x = transform((2, 50, 96), 2), draw((2, 50, 96))
    one, three = (compiled(function, x, threads=n)[0] for n in (1, 3))
    np.testing.assert_array_equal(one, three)


def test_passes_and_sizes() -> None:
    for n in range(1, 400):
        assert np.prod(radices(n)) == n and all(r in (1, 2, 4, 8) or r % 2 for r in radices(n))
        assert np.prod(prime_factors(n), initial=1) == n
        size = good_size(n)
        assert n <= size and set(prime_factors(size)) <= {2, 3, 5}
    assert good_size(1025) == 1080 and good_size(121) == 125
