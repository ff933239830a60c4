"""NumPy's protocols on traced arrays: indexing, assignment, out=, methods, numbers; each against
NumPy itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gradc

RNG = np.random.default_rng(5)
A = RNG.normal(size=(3, 4))
B = RNG.normal(size=(3, 4))
CUBE = RNG.normal(size=(3, 4, 5))
ROW = RNG.normal(size=4)
IDS = np.array([2, -1, 0])
MASK = np.array([True, False, True])

# What is done, on what; each gives an array.
CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    # reading
    "negative ids": (lambda x: x[[0, -1]], (A,)),
    "ids of numpy integers": (lambda x: x[np.int32(1), np.int64(-1)], (A,)),
    "pairs of ids": (lambda x: x[[0, 2, 2], [1, -1, 1]], (A,)),
    "ids apart": (lambda x: x[IDS, :, [0, 1, 4]], (CUBE,)),
    "ids together": (lambda x: x[:, [0, 3], [1, 2]], (CUBE,)),
    "ids and a number": (lambda x: x[0, :, [1, 2]], (CUBE,)),
    "ids and new axes": (lambda x: x[None, IDS, 1:3], (CUBE,)),
    "ids of two axes": (lambda x: x[np.array([[0, 1], [2, -3]])], (A,)),
    "crossed ids": (lambda x: x[np.ix_([0, 2], [1, 3])], (A,)),
    "a mask": (lambda x: x[MASK], (A,)),
    "item": (lambda x: np.array([x.item(1, 2), x[:1, :1].item() * 2, x.item(-1)]), (A,)),
    "tolist": (lambda x: np.array([sum(row) for row in x.tolist()]), (A,)),
    "round": (lambda x: round(x[0, 0] * 7) + round(x[0, 1], 1) * x[0], (A,)),
    "floor of math": (lambda x: math.floor(x[0, 0] * 7) * x[1] + math.ceil(x[0, 2]), (A,)),
    "a mask of all": (lambda x: x[A > 0] * 2, (A,)),
    "a mask behind": (lambda x: x[:, MASK], (A.T,)),
    "true": (lambda x: x[True] * 2, (A,)),
    "false": (lambda x: np.sum(x[False]) + x, (A,)),
    "an ellipsis between": (lambda x: x[0, ..., ::-2], (CUBE,)),
    "traced ids": (lambda x, y: x[np.argmax(y, axis=0) - 3], (A, B)),
    "traced pairs": (lambda x: x[np.argmax(x, axis=0) - 3, np.arange(4)], (A,)),
    "no ids": (lambda x: x[[]], (A,)),
    # assigning
    "zeros filled": (lambda x: _filled(np.zeros(3), x), (ROW,)),
    "empty filled by rows": (lambda x: _rows(np.empty((3, 4)), x), (A,)),
    "an element": (lambda x: _set(x, (1, 2), x[0, 0] ** 2), (A,)),
    "a negative row": (lambda x: _set(x, -1, x[0] * 2), (A,)),
    "a column": (lambda x: _set(x, (slice(None), 1), x[:, 0]), (A,)),
    "steps": (lambda x: _set(x, (slice(None, None, -2), slice(1, 3)), x[:2, :2]), (A,)),
    "ids assigned": (lambda x: _set(x, [0, -1], x[:2]), (A,)),
    "pairs assigned": (lambda x: _set(x, ([0, 0, 2], [1, 1, 3]), x[0, :3]), (A,)),
    "a known mask assigned": (lambda x: _set(x, MASK, 0.5), (A,)),
    "a traced mask assigned": (lambda x: _set(x, x > 0, 0.5), (A,)),
    "a traced mask of rows": (lambda x: _set(x, x[:, 0] > 0, x[0]), (A,)),
    "a traced element": (lambda x: _set(x, (np.argmax(x[:, 0]), slice(1, 3)), x[0, :2]), (A,)),
    "through a view": (lambda x: _through_a_view(x), (A,)),
    "an old view": (lambda x: _old_view(x), (A,)),
    "in place": (lambda x: _in_place(x), (A,)),
    "filled": (lambda x: _fill(x), (A,)),
    "full of a traced value": (lambda x: np.full((2, 3), x[0]) * 2, (ROW,)),
    "like": (lambda x: _filled(np.zeros_like(ROW), x), (ROW,)),
    "array of elements": (lambda x: np.array([x[0], 2.0, x[2] * x[1]]), (ROW,)),
    "array of rows": (lambda x: np.array([[x[0], x[1]], [1, x[3]]]), (ROW,)),
    "array of arrays": (lambda x: np.asarray([x, x * 2, ROW]), (ROW,)),
    "added at": (lambda x: _add_at(x), (ROW,)),
    # out, dtype, where, methods of ufuncs
    "out": (lambda x: np.exp(x, out=np.zeros((3, 4))), (A,)),
    "out by position": (lambda x: np.multiply(x, 2, np.zeros((3, 4))), (A,)),
    "out of a function": (lambda x: np.sum(x, axis=0, out=np.zeros(4)), (A,)),
    "where with out": (lambda x: np.add(x, 1, where=x > 0, out=np.ones((3, 4))), (A,)),
    "reduce": (lambda x: np.add.reduce(x), (A,)),
    "reduce an axis": (lambda x: np.maximum.reduce(x, axis=1), (A,)),
    "accumulate": (lambda x: np.add.accumulate(x, axis=1), (A,)),
    "outer": (lambda x: np.multiply.outer(x, x), (ROW,)),
    "outer of others": (lambda x: np.subtract.outer(ROW, x), (A,)),
    # methods
    "trace of a product": (lambda x: (x @ x.T).trace() * x, (A,)),
    "methods": (lambda x: x.cumprod(axis=1) + x.argsort(axis=1).astype(float), (A,)),
    "more methods": (lambda x: x.mT.repeat(2, axis=0).diagonal() * x.std(ddof=1), (A,)),
    "sorted in place": (lambda x: _sorted(x), (A,)),
    "clip by name": (lambda x: x.clip(max=0.3), (A,)),
    "any of them": (lambda x: np.where(x.any(axis=0), x, 2 * x), (A,)),
    # numbers
    "a number's branch": (lambda x, k: x * k if isinstance(k, float) else x, (A, 2.5)),
    "an array's branch": (lambda x: x * 2 if isinstance(x, np.ndarray) else x, (A,)),
    "iteration": (lambda x: sum(row * n for n, row in enumerate(x)), (A,)),
}


def _filled(y: Any, x: Any) -> Any:
    for i in range(3):
        y[i] = x[i] ** 2
        if i:
            y[i] += y[i - 1]
    return y


def _rows(y: Any, x: Any) -> Any:
    for i in range(len(y)):
        y[i] = np.tanh(x[i]) if i == 0 else y[i - 1] * x[i]
    return y


def _set(x: Any, key: Any, item: Any) -> Any:
    y = x * 1
    y[key] = item
    return y


def _through_a_view(x: Any) -> Any:
    y = x * 2
    part = y[1:]
    part[0, 1:3] = x[0, :2]
    part[1] *= 3
    return y


def _old_view(x: Any) -> Any:
    y = x * 2
    part, turned, copied = y[1], y.T, y[1].copy()
    y[1] = x[0]
    return part + turned[:, 1] + copied


def _in_place(x: Any) -> Any:
    y = x.copy()
    alias = y
    y += x
    y *= 2
    y[1:] /= 3
    return y + alias


def _fill(x: Any) -> Any:
    y = x * 2
    y[0].fill(3)
    return y


def _add_at(x: Any) -> Any:
    y = np.ones(3)
    np.add.at(y, np.array([0, -1, 0, 1]), x)
    return y


def _sorted(x: Any) -> Any:
    y = x.copy()
    y.sort(axis=0)
    return y


@pytest.mark.parametrize("name", list(CASES))
def test_protocols_mean_what_numpys_mean(name: str) -> None:
    function, arrays = CASES[name]
    expected = function(*(np.copy(a) if isinstance(a, np.ndarray) else a for a in arrays))
    weights = np.random.default_rng(1).normal(size=np.shape(expected))

    def weighed(*given: Any) -> Any:
        return np.sum(weights * function(*given))

    numbers = tuple(range(len(arrays)))
    value, gradients = gradc.value_and_grad(weighed, argnums=numbers)(*arrays)
    assert value == pytest.approx(np.sum(weights * expected), rel=1e-12, abs=1e-13)
    along = [np.random.default_rng(2).normal(size=np.shape(a)) for a in arrays]
    moved = [
        weighed(*(a + step * d for a, d in zip(arrays, along, strict=True)))
        for step in (1e-6, -1e-6)
    ]
    slope = sum(float(np.vdot(g, d)) for g, d in zip(gradients, along, strict=True))
    assert slope == pytest.approx((moved[0] - moved[1]) / 2e-6, rel=1e-6, abs=1e-7)


def test_types_are_numpys_by_nep_50() -> None:
    narrow = A.astype(np.float32)
    functions: list[Callable[..., Any]] = [
        lambda x: x * np.float64(0.1),
        lambda x: x * np.array(0.1),
        lambda x: x * np.float32(0.1),
        lambda x: x * 0.1,
        lambda x: x + 1,
        lambda x: x * np.int64(2),
        lambda x: np.sum(x, axis=1, dtype=np.float64),
        lambda x: np.multiply(x, x, dtype=np.float64),
        lambda x: np.concatenate([x, np.ones((1, 4))]),
        lambda x: np.array([x[0], x[1]]),
        lambda x: x.mean() * 2,
    ]
    for number, function in enumerate(functions):
        expected = function(narrow)
        found = gradc.jit(function)(narrow)
        assert found.dtype == expected.dtype, number
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    for scalar, dtype in (
        (2.0, np.float32),
        (np.float64(2), np.float64),
        (np.array(2.0), np.float64),
    ):
        found = gradc.jit(lambda x, k: x * (k * 2))(narrow, scalar)
        assert found.dtype == dtype, scalar


def test_arrays_of_the_caller_are_not_written() -> None:
    x = A.copy()

    def f(x: Any) -> Any:
        x[0] = 1.0
        x *= 2
        return np.sum(x**2)

    slope = gradc.grad(f)(x)
    np.testing.assert_array_equal(x, A)
    expected = 8 * A
    expected[0] = 0
    np.testing.assert_allclose(slope, expected)


def test_numpy_has_its_own_functions_back() -> None:
    before = np.zeros, np.array, np.asarray
    gradc.grad(lambda x: np.sum(_filled(np.zeros(3), x)))(ROW)
    with pytest.raises(gradc.DiagnosticError):
        gradc.grad(lambda x: np.zeros(3)[x])(1.0)
    assert (np.zeros, np.array, np.asarray) == before


def test_extension_modules_get_numpys_own_arrays() -> None:
    """Code without frames of its own (NumPy's random numbers) makes arrays while a function is
    recorded.
    """

    def f(x: Any) -> Any:
        draws = np.random.default_rng(0).standard_normal((3, 4))
        return np.sum(np.zeros((3, 4)) + draws * x)

    expected = np.random.default_rng(0).standard_normal((3, 4))
    np.testing.assert_array_equal(gradc.grad(f)(A), expected)


def test_traces_can_be_printed() -> None:
    said: list[str] = []

    def f(x: Any) -> Any:
        said.append(f"{x} {x[0, 0]:.3f} {x!r}")
        return np.sum(x)

    gradc.grad(f)(A)
    assert said == ["Traced(f64[3, 4]) Traced(f64[]) Traced(f64[3, 4])"]


def test_ids_that_are_not_there_are_numpys_index_error() -> None:
    functions: list[Callable[[Any], Any]] = [
        lambda x: x[3],
        lambda x: x[[0, -4]],
        lambda x: x[0, 0, 0],
        lambda x: x[[0], [4]],
        lambda x: x[1.5],
        lambda x: np.take(x, [12]),
    ]
    for function in functions:
        with pytest.raises(IndexError):
            function(A)
        with pytest.raises(IndexError, match=r"GC0558(.|\n)*test_trace_protocols\.py:\d+"):
            gradc.grad(lambda x, f=function: np.sum(f(x)))(A)


REFUSED: tuple[tuple[str, Callable[[Any], Any], str], ...] = (
    ("a mask's count", lambda x: np.sum(x[x > 0]), "GC0560.*numpy.where"),
    ("if", lambda x: x if np.sum(x) > 0 else -x, "GC0561.*numpy.where.*:\\d+"),
    ("while", lambda x: [1 for _ in iter(lambda: bool(x[0, 0] > 0), 1)], "GC0561.*`while`"),
    ("a real array", lambda x: _into(np.arange(4.0), x), "GC0561.*np.zeros"),
    ("a method", lambda x: x.tobytes(), "GC0560.*ndarray.tobytes"),
    ("a call of an array", lambda x: np.sum(x(0)), "GC0560.*called like a function"),
    ("where alone", lambda x: np.exp(x, where=x > 0), "GC0560.*out="),
    ("a wrong cast", lambda x: np.exp(x, out=x.astype(int)), "GC0558.*i64"),
    ("a wrong shape", lambda x: _set(x, 0, x[:, 0]), "GC0558.*shape"),
    ("reduceat", lambda x: np.add.reduceat(x, [0, 1]), "GC0560.*add.reduceat"),
    ("int()", lambda x: [1, 2][x[0, 0]], "GC0561.*static_argnums"),
)


def _into(y: Any, x: Any) -> Any:
    y[0] = x[0, 0]
    return y


@pytest.mark.parametrize(("what", "function", "message"), REFUSED, ids=[r[0] for r in REFUSED])
def test_what_cannot_be_done_is_said(
    what: str, function: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(gradc.DiagnosticError) as found:
        gradc.jit(function)(A)
    assert re.search(message, str(found.value), re.DOTALL), str(found.value)


def test_brackets_and_lists_that_join() -> None:
    """``r_``, ``c_`` and ``append`` of lists, beside differences of NumPy's own."""
    x = np.array([1.0, -2.0, 3.0])
    functions: list[Callable[[Any], Any]] = [
        lambda x: np.sum(np.r_[x, 2.0, x[0], 0:3] ** 2),
        lambda x: np.sum(np.r_[x] ** 3),
        lambda x: np.sum((np.c_[x, x**2, [4.0, 5.0, 6.0]] @ np.array([1.0, 2.0, 3.0])) ** 2),
        lambda x: np.sum(np.append([x[0], 1.0], x) ** 2),
    ]
    own = np.r_, np.c_
    for function in functions:
        value, slope = gradc.value_and_grad(function)(x)
        assert value == pytest.approx(function(x))
        moves = 1e-6 * np.eye(3)
        expected = [(function(x + h) - function(x - h)) / 2e-6 for h in moves]
        np.testing.assert_allclose(slope, expected, rtol=1e-7, atol=1e-7)
    assert own == (np.r_, np.c_)


def test_what_wants_numbers_is_named() -> None:
    special, stats = (pytest.importorskip(f"scipy.{n}") for n in ("special", "stats"))
    x = np.array([0.5, 1.5])
    asked: list[tuple[Callable[[Any], Any], str]] = [
        (lambda x: np.sum(np.int64(x)), r"numpy.int64\(x\) .* wants its numbers"),
        (lambda x: np.sum(np.append([[x[0]]], [[x[1]]])), "numpy.append wants the numbers"),
        (lambda x: np.sum(np.r_["0,2", x]), "numpy.r_ with directions"),
        (lambda x: np.mean([x[0], 2.0]), r"numpy.mean of a list .*\n.*numpy.mean\(numpy.array"),
        (lambda x: 3, r"a gradient needs a floating number, not i64"),
        (lambda x: np.any(x > 0), r"a gradient needs a floating number, not bool"),
        (lambda x: np.sum(special.boxcox(x, x)), r"scipy.special.boxcox cannot.*\n.*x\*\*a - 1"),
        (lambda x: np.sum(stats.nct.logpdf(x, 2, 1)), r"scipy.stats.nct.logpdf cannot"),
    ]
    for function, text in asked:
        with pytest.raises(gradc.DiagnosticError, match=text):
            gradc.grad(function)(x)
