"""The classes of bugs that differentiation systems have had, each as a named test (findings of
other projects' trackers).

Every test fixes what gradc does where others went wrong, against numbers worked out by hand or by
finite differences. Random cotangents throughout: a seed of ones hides forgotten factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.builder import Builder
from gradc.ir.tensor.core import DType, Function, Role, Slot, TensorType, Value, walk
from gradc.passes.differentiate.transforms import (
    DerivativeError,
    hvp,
    jvp,
    unreached,
    value_and_grad,
    vjp,
)
from gradc.passes.pipeline import Options, run_pipeline
from gradc.passes.rewrite import emit_scan

ARRAYS = NumpyArrays()
F64, F32, I32 = DType.F64, DType.F32, DType.I32
Array = np.ndarray[Any, Any]


def function(
    shapes: Sequence[tuple[int, ...]],
    make: Callable[..., Value],
    dtypes: Sequence[DType] | None = None,
) -> Function:
    """``make(b, *parameters)`` as a function; parameters are p0, p1, ...; a scalar result is the
    loss.
    """
    b = Builder()
    dtypes = dtypes or [F64] * len(shapes)
    parameters = [
        b.parameter(TensorType(s, d), f"p{i}")
        for i, (s, d) in enumerate(zip(shapes, dtypes, strict=True))
    ]
    slots = [Slot(f"p{i}", Role.PARAM) for i in range(len(shapes))]
    result = make(b, *parameters)
    role = Role.LOSS if result.type.rank == 0 else Role.OUTPUT
    return b.function("f", [result], slots, [Slot("y", role)])


def pulled(
    f: Function, arguments: Sequence[Any], ct: Any, wrt: Sequence[str] = ("p0",)
) -> list[Array]:
    """Cotangents of ``wrt``, the same through the whole tensor-stage pipeline and without it."""
    plain = vjp(f, list(wrt))
    values = [np.asarray(a) for a in arguments]
    direct = run(ARRAYS, plain, [*values, np.asarray(ct)])
    options = Options(derivative=lambda g: vjp(g, list(wrt)), stop_after="dce")
    result = run_pipeline(f, options).result
    assert isinstance(result, Function)
    optimised = run(ARRAYS, result, [*values, np.asarray(ct)])
    for a, b in zip(direct, optimised, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
    return list(direct[len(f.results) :])


def full(b: Builder, value: float, like: Value) -> Value:
    return b.constant(value, like.type.dtype, like.type.shape)


def total(b: Builder, x: Value) -> Value:
    return b.one("sum", x, axes=tuple(range(x.type.rank)))


def test_class_01_untaken_where_branch() -> None:
    """The untaken side contributes exactly nothing, though its derivative there is infinite or
    NaN.
    """

    def make(name: str) -> Callable[..., Value]:
        def body(b: Builder, x: Value) -> Value:
            safe = b.one("gt", x, full(b, 0.0, x))
            risky = b.one(name, x)
            scaled = b.one("mul", risky, risky)
            return total(b, b.one("select", safe, scaled, b.one("mul", x, full(b, 3.0, x))))

        return body

    x = np.array([-1.0, 0.0, 4.0])
    for name, at_four in (("sqrt", 1.0), ("log", 2 * math.log(4.0) / 4)):
        f = function([(3,)], make(name))
        (ct,) = pulled(f, [x], 1.7)
        np.testing.assert_allclose(ct, 1.7 * np.array([3.0, 3.0, at_four]), rtol=1e-14)


def test_class_01_second_order() -> None:
    """The same for Hessian-vector products: no NaN from the derivative of the silenced
    derivative.
    """

    def body(b: Builder, x: Value) -> Value:
        safe = b.one("gt", x, full(b, 0.0, x))
        risky = b.one("sqrt", b.one("mul", x, b.one("abs", x)))
        return total(b, b.one("select", safe, b.one("exp", b.one("rsqrt", x)), risky))

    f = function([(2,)], body)
    x, v = np.array([0.0, 4.0]), np.array([1.3, 0.7])
    found = run(
        ARRAYS, hvp(function([(2,)], lambda b, x: total(b, _guarded(b, x))), ["p0"]), [x, v]
    )
    expected = np.exp(0.5) * (1 / 256 + 3 / 4 / 32) * 0.7
    np.testing.assert_allclose(found[-1], [0.0, expected], rtol=1e-13)
    assert f.parameters[0].name == "p0"


def _guarded(b: Builder, x: Value) -> Value:
    safe = b.one("gt", x, full(b, 0.0, x))
    return b.one("select", safe, b.one("exp", b.one("rsqrt", x)), full(b, 2.0, x))


def test_class_01_through_products_and_sums() -> None:
    """A masked row stays silent below a matrix product and a sum: sqrt at 0 three ops further
    down.
    """

    def body(b: Builder, x: Value, w: Value) -> Value:
        root = b.one("sqrt", x)
        rows = b.one("contract", root, w, batch=(), contract=((1, 0),))
        keep = b.one("gt", b.one("iota", axis=0, dtype=F64, shape=(2, 2)), full(b, 0.5, rows))
        return total(b, b.one("select", keep, rows, full(b, 0.0, rows)))

    f = function([(2, 3), (3, 2)], body)
    x = np.array([[0.0, 1.0, 4.0], [1.0, 4.0, 9.0]])
    w = np.arange(6.0).reshape(3, 2) + 1
    x_ct, _ = pulled(f, [x, w], 0.9, ["p0", "p1"])
    np.testing.assert_allclose(x_ct[0], 0.0)
    np.testing.assert_allclose(x_ct[1], 0.9 * w.sum(1) * 0.5 / np.sqrt(x[1]), rtol=1e-14)


@pytest.mark.parametrize("name", ["max", "min"])
def test_class_02_ties_of_two(name: str) -> None:
    f = function([(3,), (3,)], lambda b, x, y: b.one(name, x, y))
    x, y, ct = np.array([1.0, 2.0, 5.0]), np.array([1.0, 3.0, 2.0]), np.array([0.4, -2.0, 7.0])
    x_ct, y_ct = pulled(f, [x, y], ct, ["p0", "p1"])
    first_wins = (x > y) if name == "max" else (x < y)
    np.testing.assert_allclose(x_ct, ct * np.where(x == y, 0.5, first_wins))
    np.testing.assert_allclose(x_ct + y_ct, ct)


def test_class_02_ties_of_reductions_and_kinks() -> None:
    """Ties of a reduction share with total weight 1; relu'(0) = 0; abs'(0) = 0; clip at its
    border.
    """
    f = function([(2, 3)], lambda b, x: b.one("reduce_max", x, axes=(1,)))
    x = np.array([[3.0, 3.0, 1.0], [2.0, 2.0, 2.0]])
    (ct,) = pulled(f, [x], np.array([0.6, 0.9]))
    np.testing.assert_allclose(ct, [[0.3, 0.3, 0.0], [0.3, 0.3, 0.3]])
    for name in ("relu", "abs"):
        (ct,) = pulled(
            function([(1,)], lambda b, x, n=name: b.one(n, x)), [np.zeros(1)], np.array([5.0])
        )
        assert ct[0] == 0.0


@pytest.mark.parametrize(
    ("shape", "target", "dims"),
    [
        ((), (2, 3), ()),
        ((3,), (2, 3), (1,)),
        ((2, 1), (2, 3), (0, 1)),
        ((1, 1), (4, 2, 3), (0, 2)),
        ((1,), (1, 3), (0,)),
    ],
)
def test_class_03_broadcast_is_summed_back(
    shape: tuple[int, ...], target: tuple[int, ...], dims: tuple[int, ...]
) -> None:
    f = function([shape], lambda b, x: b.one("broadcast", x, shape=target, dims=dims))
    ct = np.random.default_rng(3).normal(size=target)
    (found,) = pulled(f, [np.ones(shape)], ct)
    wanted = [1] * len(target)
    for axis, size in zip(dims, shape, strict=True):
        wanted[axis] = size
    axes = tuple(a for a, n in enumerate(target) if wanted[a] != n)
    np.testing.assert_allclose(found, ct.sum(axis=axes, keepdims=True).reshape(shape), rtol=1e-14)


def test_class_04_zero_sizes() -> None:
    """Size 1 stretched to 0 is summed back to exact zeros; empty cumsum and prod have
    derivatives.
    """
    f = function([(1, 3)], lambda b, x: b.one("broadcast", x, shape=(0, 3), dims=(0, 1)))
    (ct,) = pulled(f, [np.ones((1, 3))], np.zeros((0, 3)))
    np.testing.assert_array_equal(ct, np.zeros((1, 3)))
    f = function([(0, 2)], lambda b, x: b.one("cumsum", x, axis=0, reverse=False))
    assert pulled(f, [np.ones((0, 2))], np.ones((0, 2)))[0].shape == (0, 2)
    f = function([(2, 0)], lambda b, x: b.one("prod", x, axes=(1,)))
    assert pulled(f, [np.ones((2, 0))], np.ones(2))[0].shape == (2, 0)


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 2), (0, 1, 2), ()])
@pytest.mark.parametrize("name", ["sum", "prod", "reduce_max"])
def test_class_05_reductions_over_any_axes(name: str, axes: tuple[int, ...]) -> None:
    f = function([(2, 3, 2)], lambda b, x: b.one(name, x, axes=axes))
    source = np.random.default_rng(5)
    x, v = source.normal(size=(2, 3, 2)), source.normal(size=(2, 3, 2))
    ct = source.normal(size=run(ARRAYS, f, [x])[0].shape)
    (found,) = pulled(f, [x], ct)
    up, down = (run(ARRAYS, f, [x + s * 1e-6 * v])[0] for s in (1, -1))
    assert np.sum(found * v) == pytest.approx(np.sum(ct * (up - down)) / 2e-6, rel=1e-7)


def test_class_06_prod_with_zeros() -> None:
    """No division by the operand: one zero, two zeros, and the second derivative there."""
    f = function([(4,)], lambda b, x: b.one("prod", x, axes=(0,)))
    (ct,) = pulled(f, [np.array([2.0, 0.0, 3.0, 5.0])], 0.5)
    np.testing.assert_allclose(ct, [0.0, 15.0, 0.0, 0.0])
    (ct,) = pulled(f, [np.array([2.0, 0.0, 0.0, 5.0])], 0.5)
    np.testing.assert_array_equal(ct, np.zeros(4))
    found = run(
        ARRAYS, hvp(f, ["p0"]), [np.array([2.0, 0.0, 0.0, 5.0]), np.array([0.0, 1.5, 0.0, 0.0])]
    )
    np.testing.assert_allclose(found[-1], [0.0, 0.0, 15.0, 0.0])


def _log_softmax(b: Builder, x: Value) -> Value:
    shape, last = x.type.shape, x.type.rank - 1

    def spread(row: Value) -> Value:
        return b.one("broadcast", row, shape=shape, dims=tuple(range(last)))

    top = b.one("stop_gradient", b.one("reduce_max", x, axes=(last,)))
    shifted = b.one("sub", x, spread(top))
    norm = b.one("log", b.one("sum", b.one("exp", shifted), axes=(last,)))
    return b.one("sub", shifted, spread(norm))


def test_class_07_log_softmax_extremes() -> None:
    """Scores of 1e4 and -inf: finite derivatives, ct - softmax * sum(ct)."""
    f = function([(2, 3)], _log_softmax)
    x = np.array([[1e4, 0.0, -1e4], [1.0, -np.inf, 2.0]])
    ct = np.array([[0.3, -0.2, 0.9], [0.5, 0.0, -1.0]])
    (found,) = pulled(f, [x], ct)
    p = np.exp(x - x.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    np.testing.assert_allclose(found, ct - p * ct.sum(1, keepdims=True), atol=1e-15)


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e8])
def test_class_08_variance_of_shifted_rows(offset: float) -> None:
    """Two-pass variance: the derivative 2 (x - mean) / n survives an offset of 1e8; constant rows
    give 0.
    """

    def body(b: Builder, x: Value) -> Value:
        n = full(b, 1 / 4, x)
        mean = b.one("sum", b.one("mul", x, n), axes=(1,))
        d = b.one("sub", x, b.one("broadcast", mean, shape=(2, 4), dims=(0,)))
        return b.one("sum", b.one("mul", b.one("mul", d, d), n), axes=(1,))

    f = function([(2, 4)], body)
    x = offset + np.array([[0.0, 1.0, 2.0, 5.0], [3.0, 3.0, 3.0, 3.0]])
    (found,) = pulled(f, [x], np.array([0.7, 1.3]))
    expected = 0.7 * 2 * (np.array([0.0, 1.0, 2.0, 5.0]) - 2.0) / 4
    np.testing.assert_allclose(found, [expected, np.zeros(4)], rtol=1e-7, atol=1e-12)


def test_class_09_powers_and_roots_at_their_edges() -> None:
    """0**0, negative bases, sqrt at 0 (an honest infinity), log1p and expm1 near 0."""
    f = function([(4,), (4,)], lambda b, x, p: b.one("pow", x, p))
    x, p = np.array([0.0, 0.0, -2.0, 3.0]), np.array([0.0, 2.0, 3.0, 0.0])
    x_ct, p_ct = pulled(f, [x, p], np.full(4, 0.5), ["p0", "p1"])
    np.testing.assert_allclose(x_ct, [0.0, 0.0, 0.5 * 12, 0.0])
    assert p_ct[0] == 0.0 and p_ct[1] == 0.0 and math.isnan(p_ct[2])
    (ct,) = pulled(function([(1,)], lambda b, x: b.one("sqrt", x)), [np.zeros(1)], np.array([0.3]))
    assert ct[0] == np.inf
    for name, slope in (("log1p", 1 / (1 + 1e-18)), ("expm1", math.exp(1e-18))):
        (ct,) = pulled(function([()], lambda b, x, n=name: b.one(n, x)), [1e-18], 0.8)
        assert ct == pytest.approx(0.8 * slope, rel=1e-15)


def test_class_10_no_operand_is_overwritten() -> None:
    """Arguments are bitwise what they were, also where a result is a parameter itself."""
    b = Builder()
    x = b.parameter(TensorType((3,), F64))
    y = b.one("mul", x, x)
    f = b.function(
        "f", [x, y], [Slot("x", Role.PARAM)], [Slot("a", Role.OUTPUT), Slot("b", Role.OUTPUT)]
    )
    value = np.array([1.0, -2.0, 3.0])
    kept = value.copy()
    found = run(
        ARRAYS, vjp(f, ["x"]), [value, np.array([0.1, 0.2, 0.3]), np.array([1.0, 2.0, 3.0])]
    )
    np.testing.assert_array_equal(value, kept)
    np.testing.assert_allclose(found[-1], [0.1 + 2.0, 0.2 - 8.0, 0.3 + 18.0])


def test_class_11_memory_layout_does_not_matter() -> None:
    """Transposed, reversed, strided and read-only arguments give the bits of contiguous ones."""

    def body(b: Builder, x: Value, w: Value) -> Value:
        return total(b, b.one("tanh", b.one("contract", x, w, batch=(), contract=((1, 0),))))

    gradient = value_and_grad(function([(3, 4), (4, 2)], body), ["p0", "p1"])
    source = np.random.default_rng(0)
    x, w = source.normal(size=(3, 4)), source.normal(size=(4, 2))
    wide = np.repeat(x, 2, axis=1)[:, ::2]
    frozen = np.asfortranarray(w)
    frozen.flags.writeable = False
    plain = run(ARRAYS, gradient, [x, w])
    odd = run(ARRAYS, gradient, [np.ascontiguousarray(wide.T).T[::-1][::-1], frozen])
    for a, c in zip(plain, odd, strict=True):
        np.testing.assert_allclose(a, c, rtol=1e-15)


def test_class_12_integers_are_refused() -> None:
    """Asking for the derivative of or by an integer is an error that names it, never a silent
    zero.
    """
    f = function(
        [(3,), (2,)], lambda b, x, ids: total(b, b.one("take", x, ids, axis=0)), [F64, I32]
    )
    with pytest.raises(DerivativeError, match=r"`p1` has type i32\[2\]") as found:
        value_and_grad(f, ["p0", "p1"])
    assert found.value.slot is not None and found.value.slot.name == "p1"
    counted = function([(3,)], lambda b, x: b.one("argmax", x, axis=0))
    with pytest.raises(DerivativeError, match="i32"):
        vjp(counted, ["p0"], ["y"])
    with pytest.raises(DerivativeError, match="scalar loss"):
        value_and_grad(counted, ["p0"])


def test_class_13_recomputation_draws_the_same_numbers() -> None:
    """Dropout inside a checkpoint: the gradient is bitwise that without the checkpoint."""

    def body(b: Builder, x: Value, key: Value) -> Value:
        bits = b.one("random_bits", key, stream=5, shape=(64,))
        keep = b.one("lt", bits, b.constant(2**31, DType.U32, (64,)))
        dropped = b.one("select", keep, b.one("exp", x), full(b, 0.0, x))
        return b.one("tanh", b.one("mul", dropped, x))

    def wrapped(b: Builder, x: Value, key: Value) -> Value:
        inner = Builder()
        own = [inner.parameter(x.type), inner.parameter(key.type)]
        region = inner.block([body(inner, *own)])
        (value,) = b.emit("checkpoint", x, key, regions=(region,))
        return total(b, value)

    dtypes = [F64, DType.U32]
    plain = function([(64,), (2,)], lambda b, x, key: total(b, body(b, x, key)), dtypes)
    kept = function([(64,), (2,)], wrapped, dtypes)
    x = np.random.default_rng(1).normal(size=64)
    key = np.array([7, 3], np.uint32)
    for options in (Options(stop_after="differentiate"), Options(stop_after="dce")):
        grads = []
        for f in (plain, kept):
            o = Options(
                derivative=lambda g: value_and_grad(g, ["p0"]), stop_after=options.stop_after
            )
            result = run_pipeline(f, o).result
            assert isinstance(result, Function)
            grads.append(run(ARRAYS, result, [x, key]))
        for a, c in zip(*grads, strict=True):
            np.testing.assert_array_equal(a, c)
        assert 0 < np.count_nonzero(grads[0][1]) < 64


def test_class_14_repeated_rows_add_in_order() -> None:
    """The gradient of a table read many times at one row is the sum in the order of ids, bitwise
    every time.
    """
    f = function(
        [(2, 1), (50,), (50, 1)],
        lambda b, t, ids, w: total(b, b.one("mul", b.one("take", t, ids, axis=0), w)),
        [F32, I32, F32],
    )
    source = np.random.default_rng(2)
    scales = 10.0 ** source.integers(-3, 6, (50, 1))
    weights = (source.normal(size=(50, 1)) * scales).astype(np.float32)
    arguments = [np.ones((2, 1), np.float32), np.zeros(50, np.int32), weights]
    grads = [run(ARRAYS, value_and_grad(f, ["p0"]), arguments)[1] for _ in range(3)]
    expected = np.float32(0)
    for w in weights[:, 0]:
        expected = np.float32(expected + w)
    for grad in grads:
        assert grad[0, 0] == expected and grad[1, 0] == 0


def test_class_15_nothing_assumes_finite_numbers() -> None:
    """x * 0, x - x and x / x keep NaN and infinity through the default pipeline; --fast-math may
    fold them.
    """

    def body(b: Builder, x: Value) -> Value:
        zero = b.one("mul", x, full(b, 0.0, x))
        return b.one("add", b.one("sub", x, x), b.one("mul", zero, b.one("div", x, x)))

    f = function([(3,)], body)
    x = np.array([np.inf, np.nan, 1.0])
    strict = run_pipeline(f, Options(stop_after="dce")).result
    fast = run_pipeline(f, Options(stop_after="dce", fast_math=True)).result
    assert isinstance(strict, Function) and isinstance(fast, Function)
    np.testing.assert_array_equal(run(ARRAYS, strict, [x])[0], [np.nan, np.nan, 0.0])
    np.testing.assert_array_equal(run(ARRAYS, fast, [x])[0], np.zeros(3))
    assert len(fast.block.ops) < len(strict.block.ops)


def test_class_16_activity() -> None:
    """A value used twice, an unused parameter, a result that is a parameter, a constant result."""
    b = Builder()
    x, _unused = (b.parameter(TensorType((2,), F64)) for _ in range(2))
    constant = b.constant(4.0, F64, (2,))
    results = [b.one("mul", b.one("add", x, x), x), x, constant]
    slots = [Slot(n, Role.OUTPUT) for n in ("twice", "same", "constant")]
    f = b.function("f", results, [Slot("x", Role.PARAM), Slot("unused", Role.PARAM)], slots)
    assert [s.name for s in unreached(f, ["x", "unused"])] == ["unused"]
    cts = [np.array([1.0, 2.0]), np.array([0.5, 0.25]), np.array([9.0, 9.0])]
    value = np.array([3.0, -1.0])
    found = run(ARRAYS, vjp(f, ["x", "unused"]), [value, np.zeros(2), *cts])
    np.testing.assert_allclose(found[3], cts[0] * 4 * value + cts[1])
    np.testing.assert_array_equal(found[4], np.zeros(2))
    assert found[4].dtype == np.float64


@pytest.mark.parametrize("trips", [0, 1, 5])
@pytest.mark.parametrize("is_reverse", [False, True])
def test_class_16_scan_of_few_trips(trips: int, is_reverse: bool) -> None:
    """c <- c * (x_t + w), y_t = c: derivatives of carry, slices and constant at 0, 1 and 5
    trips.
    """
    inner = Builder()
    carry, step, w = (inner.parameter(TensorType((), F64)) for _ in range(3))
    following = inner.one("mul", carry, inner.one("add", step, w))
    region = inner.block([following, following])

    def body(b: Builder, c: Value, xs: Value, weight: Value) -> Value:
        attributes: dict[str, Any] = {
            "trips": trips, "carried": 1, "stacked": 1, "reverse": is_reverse, "truncate": 0,
        }  # fmt: skip
        last, ys = emit_scan(b, [c, xs, weight], region, attributes)
        return b.one("add", last, b.one("mul", total(b, ys), b.constant(0.5, F64)))

    f = function([(), (trips,), ()], body)
    source = np.random.default_rng(trips)
    arguments = [source.normal(size=s) for s in ((), (trips,), ())]
    grads = pulled(f, arguments, 1.3, ["p0", "p1", "p2"])
    v = [source.normal(size=a.shape) for a in arguments]
    up, down = (
        run(ARRAYS, f, [a + s * 1e-6 * d for a, d in zip(arguments, v, strict=True)])[0]
        for s in (1, -1)
    )
    slope = sum(float(np.sum(g * d)) for g, d in zip(grads, v, strict=True))
    assert slope == pytest.approx(1.3 * (up - down) / 2e-6, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("dtype", [F64, F32, DType.BF16, DType.F16])
def test_class_17_gradients_have_the_type_of_the_parameter(dtype: DType) -> None:
    """Also through casts: an f32 loss of parameters in another type."""

    def body(b: Builder, x: Value) -> Value:
        wide = (
            b.one("cast", b.one("mul", x, x), dtype=F32) if dtype is not F32 else b.one("mul", x, x)
        )
        return total(b, wide)

    gradient = value_and_grad(function([(3,)], body, [dtype]), ["p0"])
    assert gradient.block.outputs[1].type == TensorType((3,), dtype)
    x = np.array([0.5, 1.0, -2.0], NumpyArrays.dtype(dtype))
    np.testing.assert_allclose(run(ARRAYS, gradient, [x])[1], 2 * x)


def _straight_through(b: Builder, x: Value) -> Value:
    """round(x) whose pullback says ct * x: a derivative of one's own that depends on the
    operand.
    """
    inner = Builder()
    own = inner.parameter(x.type)
    primal = inner.block([inner.one("round", own)])
    back = Builder()
    operand, _result, ct = (back.parameter(x.type) for _ in range(3))
    pullback = back.block([back.one("mul", ct, operand)])
    (value,) = b.emit("custom", x, regions=(primal, pullback))
    return value


def test_class_18_higher_order_through_custom_rules() -> None:
    """The asserted derivative is x, so the second is 1; forward mode is the transpose of the
    pullback.
    """
    f = function([()], lambda b, x: b.one("mul", _straight_through(b, x), b.one("sin", x)))
    x = 1.3
    (ct,) = pulled(f, [x], 0.7)
    rounded = round(x)
    first = x * math.sin(x) + rounded * math.cos(x)
    assert ct == pytest.approx(0.7 * first)
    assert run(ARRAYS, jvp(f, ["p0"]), [np.asarray(x), np.asarray(0.7)])[1] == pytest.approx(
        0.7 * first
    )
    second = math.sin(x) + x * math.cos(x) + x * math.cos(x) - rounded * math.sin(x)
    gradient = value_and_grad(f, ["p0"])
    twice = vjp(gradient, ["p0"], [1])
    found = run(ARRAYS, twice, [np.asarray(x), np.asarray(0.4)])
    assert found[-1] == pytest.approx(0.4 * second)
    assert run(ARRAYS, hvp(f, ["p0"]), [np.asarray(x), np.asarray(0.4)])[-1] == pytest.approx(
        0.4 * second
    )


def test_class_18_nonlinear_pullbacks_have_no_tangent() -> None:
    """A pullback that clips its cotangent cannot be transposed: forward mode says so, reverse mode
    works.
    """

    def clipped(b: Builder, x: Value) -> Value:
        inner = Builder()
        primal = inner.block([inner.one("neg", inner.parameter(x.type))])
        back = Builder()
        _, _, ct = (back.parameter(x.type) for _ in range(3))
        one = back.constant(1.0, F64, x.type.shape)
        pullback = back.block([back.one("min", ct, one)])
        (value,) = b.emit("custom", x, regions=(primal, pullback))
        return value

    f = function([(2,)], clipped)
    (ct,) = pulled(f, [np.zeros(2)], np.array([5.0, 0.5]))
    np.testing.assert_allclose(ct, [1.0, 0.5])
    with pytest.raises(DerivativeError, match="not linear"):
        jvp(f, ["p0"])


def test_no_replica_is_shared_by_two_recomputations() -> None:
    """Two checkpoints get replica numbers of their own, so CSE cannot merge what they recompute."""

    def body(b: Builder, x: Value) -> Value:
        for _ in range(2):
            inner = Builder()
            own = inner.parameter(x.type)
            region = inner.block([inner.one("sin", inner.one("exp", own))])
            (x,) = b.emit("checkpoint", x, regions=(region,))
        return total(b, x)

    gradient = value_and_grad(function([(2,)], body), ["p0"])
    replicas = {op.replica for op in walk(gradient.block) if op.name == "exp"}
    assert replicas == {0, 1, 2}
