"""Long sums are exact to a few roundings whatever they sum, and have the same bits for any number
of threads.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gradc
from benchmarks.accuracy import CASES, KINDS, Case, ours, terms
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.tensor.bf16 import round_to_bf16
from gradc.runtime.reports.accuracy import measure

Array = NDArray[Any]
# A trip of a loop, and an image, cost more than an element.
LONGEST = {"scan cotangent": 20_000, "filter gradient": 100_000}


def _error(case: Case, kind: str, count: int) -> float:
    inputs = case.inputs(terms(kind, count, case.shape, seed=count))
    exact, scale = case.exact(inputs), case.scale(inputs)
    return float(np.max(np.abs(ours(case, inputs).astype(np.float64) - exact) / scale))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_long_sums_are_exact_to_a_few_roundings(case: Case) -> None:
    most = LONGEST.get(case.name, 10**6)
    for kind in KINDS:
        assert _error(case, kind, most) < (case.aim if kind == "equal" else 5e-7), kind


def _model(text: str, **dims: int) -> Any:
    return gradc.loads(text, dims=dims)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (1, 40), (16, 1), (17, 3), (255, 40), (257, 1), (1023, 3), (1023, 40), (1024, 1),
        (1024, 40), (4097, 3), (9001, 1), (9001, 40),
    ],
)  # fmt: skip
def test_sums_over_rows_are_trees_of_16(rows: int, columns: int) -> None:
    """Column sums by hand, to the bit, alone and fused with a row reduction; for one and two
    threads.
    """
    text = f"""model f(x: float[R, {columns}], g: float[{columns}], h: float[R]) -> float {{
        return sum((g + 1.0) * x) + sum(h * max(x, axis = 1))
    }}"""
    x = np.random.default_rng(rows).standard_normal((rows, columns), np.float32)
    inputs = {"x": x, "g": np.ones(columns, np.float32), "h": np.ones(rows, np.float32)}
    large = rows * columns >= 32_768
    leaf = min(16, -(-rows // 16)) if large else 16
    expected = list(x)
    while len(expected) > 1:
        groups = [expected[n : n + leaf] for n in range(0, len(expected), leaf)]
        expected = [sum(group[1:], group[0]) for group in groups]
        leaf = 16
    for threads in (1, 2):
        for wrt in (["g"], ["g", "h"]):
            run = _model(text, R=rows).value_and_grad(wrt=wrt, threads=threads)
            found = run({}, **inputs)[1]["g"]
            np.testing.assert_array_equal(found, expected[0])


@pytest.mark.parametrize("images, height, width", [(1, 1, 1), (0, 2, 3), (300, 1, 5), (517, 33, 2)])
def test_filter_gradients_have_bits_of_their_own(images: int, height: int, width: int) -> None:
    """For one and two threads, alone and beside the image's gradient, close to float64."""
    source = np.random.default_rng(images)
    x = source.random((images, 2, height + 1, width + 2), np.float32)
    u = source.random((images, 3, height, width), np.float32)
    text = f"""model f(x: float[N, 2, {height + 1}, {width + 2}], u: float[N, 3, {height}, {width}],
        w: float[3, 2, 2, 3]) -> float {{ return sum(conv2d(x, w) * u) }}"""
    inputs = {"x": x, "u": u, "w": np.ones((3, 2, 2, 3), np.float32)}
    model, found = _model(text, N=images), []
    for threads, wrt in ((1, ["w"]), (2, ["w"]), (2, ["x", "w"])):
        run = model.value_and_grad(wrt=wrt, threads=threads)
        found.append(np.asarray(run({}, **inputs)[1]["w"]))
    assert all(np.array_equal(found[0], other) for other in found)
    taps = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), (height, width), (2, 3))
    exact = np.einsum("ncpqij,noij->ocpq", taps, u.astype(np.float64))
    np.testing.assert_allclose(found[0], exact, 5e-7)


@pytest.mark.parametrize("precision", ["f32", "bf16", "f16"])
def test_gradients_of_rows_by_number_do_not_stagnate(precision: str) -> None:
    """A Zipf vocabulary and ids out of range: rows hit once, 64 times, and thousands of times."""
    source = np.random.default_rng(3)
    ids = np.minimum(source.zipf(1.3, 6000) - 1, 70).astype(np.int32)
    ids[::977] = -1
    ids[::1013] = 99
    u = source.random((6000, 70), np.float32)
    text = "model f(t: float[50, 70], i: int[N], u: float[N, 70]) -> float { return sum(t[i] * u) }"
    model = gradc.loads(text, dims={"N": 6000}, precision=precision)
    inside = (ids >= 0) & (ids < 50)
    rounded = u if precision == "f32" else _rounded(u, precision)
    exact = np.zeros((50, 70))
    np.add.at(exact, ids[inside], rounded[inside].astype(np.float64))
    found = []
    for threads in (1, 2):
        run = model.value_and_grad(wrt=["t"], threads=threads)
        table = np.zeros((50, 70), np.float32)
        found.append(np.asarray(run({}, t=table, i=ids, u=u)[1]["t"], np.float64))
    np.testing.assert_array_equal(found[0], found[1])
    bound = {"f32": 4e-7, "bf16": 2.0**-8, "f16": 2.0**-10}[precision]
    np.testing.assert_allclose(found[0], exact, bound, 1e-3 if precision == "f16" else 0)


def _rounded(x: Array, precision: str) -> Array:
    return round_to_bf16(x) if precision == "bf16" else x.astype(np.float16).astype(np.float32)


def test_bf16_is_rounded_once() -> None:
    """From f64 to the nearest bf16, not through f32; against rational arithmetic."""
    assert round_to_bf16(np.asarray(1 + 2**-8 + 2**-30)) == 1.0078125
    source = np.random.default_rng(0)
    values = source.standard_normal(2000) * np.exp2(source.integers(-140, 126, 2000))
    ties = (source.integers(-255, 256, 2000) + 0.5) * 2.0**-7
    for value in (*values, *ties, *np.nextafter(ties, 10.0)):
        unit = Fraction(2) ** max(int(np.frexp(value)[1]) - 8, -133)
        assert float(round_to_bf16(np.asarray(value, np.float64))) == float(
            round(Fraction(value) / unit) * unit
        )


def test_counting_past_the_type_is_refused() -> None:
    text = "model f(x: float) -> float { return x * cast(max(iota(2147483649)), float) }"
    with pytest.raises(DiagnosticError, match="i64 holds it"):
        gradc.loads(text)
    text = "dim N\nmodel f(x: float) -> float { return x * cast(max(iota(N)), float) }"
    with pytest.raises(DiagnosticError, match="i64 holds it"):
        gradc.loads(text, dims={"N": 2**31 + 1}).plan()


def test_a_gradient_that_its_precision_does_not_explain_is_named() -> None:
    """In f16 a loss this small has gradients that are flushed to zero; f32 and bf16 hold them."""
    text = "model f(x: float[8], w: float[8]) -> float { return sum(tanh(w * x)) * 1e-9 }"
    found = {}
    for precision in ("f32", "bf16", "f16"):
        (row,) = measure(gradc.loads(text, precision=precision), {}, ["w"])
        found[precision] = row.is_explained
    assert found == {"f32": True, "bf16": True, "f16": False}
