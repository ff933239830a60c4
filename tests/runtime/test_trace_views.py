"""Sharing memory: what is written through a view, and what a view reads afterwards, is what NumPy
has; copies stay as they are. NumPy itself is what everything is compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gradc
import gradc.runtime.tracing.tables
from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.runtime.tracing.record import record_arrays
from gradc.runtime.tracing.views import is_dense

A = np.random.default_rng(5).normal(size=(4, 6))

# Arrays to take views of, each of the function's own.
BASES: dict[str, Callable[[Any], Any]] = {
    "copied": lambda x: x.copy(),
    "zeros": lambda x: _assigned(np.zeros((4, 6)), x),
    "rows": lambda x: x.copy()[::2],
    "columns": lambda x: x.copy()[:, 1:5],
    "turned": lambda x: x.copy().T,
    "turned and copied": lambda x: x.T.copy(),
    "backwards": lambda x: x.copy()[::-1],
    "reshaped": lambda x: x.copy().reshape(6, 4),
    "stacked": lambda x: np.array([x[0], x[1]]),
    "computed": lambda x: x[:, :4] + 1,
    "by ids": lambda x: x[:, [0, 2, 3, 5]],
}
# What may share memory with its argument, or may not.
MAKERS: dict[str, Callable[[Any], Any]] = {
    "reshape": lambda y: y.reshape(-1, 2),
    "reshape in one": lambda y: np.reshape(y, -1),
    "ravel": lambda y: y.ravel(),
    "flat": lambda y: y.flat,
    "flatten": lambda y: y.flatten(),
    "T": lambda y: y.T,
    "T.ravel": lambda y: y.T.ravel(),
    "swapaxes": lambda y: np.swapaxes(y[None], 0, 2),
    "moveaxis": lambda y: np.moveaxis(y, 1, 0)[1:],
    "squeeze": lambda y: np.squeeze(y[:, None]),
    "expand_dims": lambda y: np.expand_dims(y, 1),
    "flip": lambda y: np.flip(y, 1),
    "rot90": lambda y: np.rot90(y),
    "atleast": lambda y: np.atleast_3d(y),
    "atleast of two": lambda y: np.atleast_2d(y[0], y[1])[1],
    "split": lambda y: np.split(y, 2)[1],
    "array_split": lambda y: np.array_split(y, 3, axis=1)[1],
    "hsplit": lambda y: np.hsplit(y, 2)[0],
    "unstack": lambda y: np.unstack(y)[1],
    "iterated": lambda y: list(y)[1],
    "turned einsum": lambda y: np.einsum("ij->ji", y),
    "einsum of a part": lambda y: np.einsum("ii->i", y[:2, :2]),
    "einsum with a sum": lambda y: np.einsum("ij->j", y),
    "real": lambda y: np.real(y),
    "positive": lambda y: +y,
    "copy": lambda y: np.copy(y),
    "array": lambda y: np.array(y),
    "array, no copy": lambda y: np.array(y, copy=None),
    "asarray": lambda y: np.asarray(y),
    "ascontiguousarray": lambda y: np.ascontiguousarray(y),
    "astype": lambda y: y.astype(float),
    "astype, no copy": lambda y: y.astype(float, copy=False),
    "nan_to_num": lambda y: np.nan_to_num(y),
    "nan_to_num, no copy": lambda y: np.nan_to_num(y, copy=False),
    "round": lambda y: np.round(y, 3),
    "clip": lambda y: np.clip(y, None, None if y is None else 9.0),
    "roll": lambda y: np.roll(y, 0),
    "take": lambda y: np.take(y, [0, 1], axis=0),
    "ids": lambda y: y[[0, 1]],
    "meshgrid": lambda y: np.meshgrid(y[0], y[1])[0],
    "concatenate": lambda y: np.concatenate([y]),
    "delete": lambda y: np.delete(y, 0, axis=0),
    "resize": lambda y: np.resize(y, (2, 2)),
    "diag of a vector": lambda y: np.diag(y[0]),
}


# Where it depends on how an array lies that is not recorded: numpy.take lays columns by columns.
UNKNOWN = {"reshape", "reshape in one", "ravel", "T.ravel", "ascontiguousarray"}


def _assigned(y: Any, x: Any) -> Any:
    y[:] = x
    return y


def _written(base: Any, view: Any, x: Any) -> Any:
    """Both are written, each is read after the other was."""
    before = base * 1, view[:] * 1
    view[...] = view[:] * 3 + 1
    between = base * 1
    base[...] = base * base - x[0, 0]
    after = view[:] * 1
    view[0] *= 5
    part = base[1:]
    part += 0.5
    return [*before, between, after, base * 1, view[:] * 1]


@pytest.mark.parametrize("maker", MAKERS)
def test_what_is_written_through_views_is_numpys(maker: str) -> None:
    refused = []
    for base, made in BASES.items():

        def function(x: Any, made: Callable[[Any], Any] = made) -> Any:
            y = made(x)
            return _written(y, MAKERS[maker](y), x)

        expected = function(A.copy())
        try:
            recorded = record_arrays(function, {"x": A})
        except gradc.DiagnosticError as problem:
            assert "not known here" in str(problem), base
            refused.append(base)
            continue
        found = run(NumpyArrays(), recorded.function, [A, *recorded.captured.values()])
        for n, (a, b) in enumerate(zip(found, expected, strict=True)):
            np.testing.assert_allclose(a, b, rtol=1e-12, err_msg=f"{base}, {n}")
    assert refused == (["by ids"] if maker in UNKNOWN else [])


ORDERS: dict[str, Callable[[Any, Any], Any]] = {
    "copy": lambda x, _: np.copy(x),
    "where": lambda x, y: np.where(x > 0, x, y),
    "clip": lambda x, _: np.clip(x, -1, 1),
    "astype": lambda x, _: x.astype(np.float32),
    "matmul": lambda x, y: np.matmul(x, y.T.copy()),
    "dot": lambda x, y: np.dot(x, y.T.copy()),
    "outer": lambda x, y: np.outer(x, y),
    "sum": lambda x, y: np.sum(np.array([x, y]), axis=0),
    "cumsum": lambda x, _: np.cumsum(x, axis=0),
    "cumprod": lambda x, _: np.cumprod(x, axis=0),
    "concatenate": lambda x, y: np.concatenate([x, y], axis=1),
    "stack": lambda x, y: np.stack([x, y], axis=1),
    "vstack": lambda x, y: np.vstack([x, y]),
    "hstack": lambda x, y: np.hstack([x, y]),
    "zeros_like": lambda x, _: np.zeros_like(x),
    "full_like": lambda x, _: np.full_like(x, 2.0),
    "nan_to_num": lambda x, _: np.nan_to_num(x),
    "round": lambda x, _: np.round(x, 1),
    "tril": lambda x, _: np.tril(x),
    "tile": lambda x, _: np.tile(x, (2, 2)),
    "add": lambda x, y: x[:1] + y[:, :1],
}


@pytest.mark.parametrize("name", ORDERS)
def test_what_is_said_to_lie_in_order_does(name: str) -> None:
    seen: list[bool] = []

    def function(x: Any, y: Any) -> Any:
        made = ORDERS[name](x, y), ORDERS[name](x[:, 1:4], y[:, :3])
        seen.extend(is_dense([one]) for one in made)
        return list(made)

    record_arrays(function, {"x": A, "y": A + 1})
    made = ORDERS[name](A, A + 1), ORDERS[name](A[:, 1:4], (A + 1)[:, :3])
    for said, one in zip(seen, made, strict=True):
        assert one.flags.c_contiguous or not said
    assert seen[0]


def test_parts_of_complex_numbers_are_written_through() -> None:
    def function(x: Any) -> Any:
        z = x + 1j * x[::-1]
        turned, part = z.T, z.real
        turned[1] *= 2j
        part += 1
        pieces = np.split(z, 2)
        pieces[1][0] = part[0]
        return [z.real, z.imag, turned.real * 1]

    recorded = record_arrays(function, {"x": A})
    found = run(NumpyArrays(), recorded.function, [A, *recorded.captured.values()])
    for a, b in zip(found, function(A), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def _clipped(x: Any) -> Any:
    y = np.zeros_like(x)
    np.clip(x, -0.5, 0.5, y)
    x.clip(-0.2, 0.2, x)
    return y * x


def _summed(x: Any) -> Any:
    y = np.zeros(6)
    x.sum(0, None, y)
    np.cumsum(y, 0, None, y)
    return y


def _parted(x: Any) -> Any:
    x.partition(2, axis=1)
    return x.compress([True, False, True], axis=1)


@pytest.mark.parametrize("function", [_clipped, _summed, _parted])
def test_methods_and_results_by_position_write_what_numpys_write(function: Any) -> None:
    recorded = record_arrays(function, {"x": A})
    found = run(NumpyArrays(), recorded.function, [A, *recorded.captured.values()])
    expected = function(np.sort(A, axis=1) if function is _parted else A.copy())
    np.testing.assert_allclose(found[0], expected, rtol=1e-12)


def _eliminated(x: Any) -> Any:
    lower, upper = np.eye(4), x[:, :4] + 9 * np.eye(4)
    for k in range(4):
        lower[k + 1 :, k] = upper[k + 1 :, k] / upper[k, k]
        upper[k + 1 :] -= np.outer(lower[k + 1 :, k], upper[k])
    return lower + upper


def _filled(x: Any) -> Any:
    y, z = np.zeros((4, 6)), np.ones((4, 4))
    np.copyto(y, x, where=x > 0)
    np.put(y, [3, -1], x[0, :2])
    np.fill_diagonal(z, x[:, 1])
    return z @ y + np.lib.stride_tricks.sliding_window_view(y, (4, 1)).sum(axis=(0, 2))[:, ::-1].T


def _listed(x: Any) -> Any:
    turn = np.eye(3)
    turn[:2, :2] = [[np.cos(x[0, 0]), -np.sin(x[0, 0])], [np.sin(x[0, 0]), np.cos(x[0, 0])]]
    turn[2] = (x[1, 1], 2, x[2, 2] * 3.0)
    return turn @ [x[0, 1], 1, x[3, 0]] + np.maximum([x[0, 1], 0.1, 2], x[0, :3])


@pytest.mark.parametrize("function", [_eliminated, _filled, _listed])
def test_arrays_that_are_made_and_filled_are_numpys(function: Any) -> None:
    recorded = record_arrays(function, {"x": A})
    found = run(NumpyArrays(), recorded.function, [A, *recorded.captured.values()])
    np.testing.assert_allclose(found[0], function(A), rtol=1e-12)


REFUSED: dict[str, Callable[[Any], Any]] = {
    "shape": lambda x: setattr(x, "shape", (6, 4)),
    "type": lambda x: setattr(x, "dtype", np.float32),
    "resize": lambda x: x.resize((6, 4)),
    "lets be read": lambda x: np.diagonal(x).__setitem__(0, 1.0),
}


@pytest.mark.parametrize("word", REFUSED)
def test_what_changes_an_array_in_other_ways_is_refused(word: str) -> None:
    def function(x: Any) -> Any:
        REFUSED[word](x)
        return x

    with pytest.raises(gradc.DiagnosticError, match=f"GC056.*{word}"):
        record_arrays(function, {"x": A})
