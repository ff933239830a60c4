"""Modes and their bookkeeping: Jacobians by the cheaper mode, truncation, residuals, spans, linear
compile time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.verify import verify_function
from gradc.ir.tensor.core import (
    Attr,
    DType,
    Function,
    Op,
    Role,
    Slot,
    Span,
    TensorType,
    Value,
    walk,
)
from gradc.passes.differentiate.jacobian import jacobian, jacobian_plan
from gradc.passes.differentiate.transforms import (
    DerivativeError,
    hvp,
    jvp,
    unreached,
    value_and_grad,
    vjp,
)
from gradc.passes.pipeline import Options, run_pipeline
from gradc.passes.recompute.residuals import residuals, total_bytes
from gradc.passes.rewrite import emit_scan
from tests.support.ad_programs import draw, program

ARRAYS = NumpyArrays()
F64 = DType.F64
Array = np.ndarray[Any, Any]


def finish(b: Builder, result: Value, count: int, role: Role | None = None) -> Function:
    role = role or (Role.LOSS if result.type.rank == 0 else Role.OUTPUT)
    slots = [Slot(f"p{i}", Role.PARAM) for i in range(count)]
    return b.function("f", [result], slots, [Slot("y", role)])


def count_ops(function: Function) -> int:
    return sum(1 for _ in walk(function.block))


# --- Jacobians ------------------------------------------------------------------------------------


def test_w20_many_to_one_takes_one_reverse_pass() -> None:
    b = Builder()
    x = b.parameter(TensorType((1_000_000,), DType.F32))
    f = finish(b, b.one("sum", b.one("mul", x, x), axes=(0,)), 1)
    plan = jacobian_plan(f, ["p0"], "y")
    assert (plan.mode, plan.passes, plan.forward_passes) == ("reverse", 1, 1_000_000)
    g = jacobian(f, ["p0"], "y")
    assert not any(op.name == "scan" for op in g.block.body)
    value = np.linspace(0, 1, 1_000_000, dtype=np.float32)
    np.testing.assert_array_equal(run(ARRAYS, g, [value])[1], 2 * value)


def test_w20_one_to_many_takes_one_forward_pass() -> None:
    b = Builder()
    x = b.parameter(TensorType((), F64))
    ramp = b.one("iota", axis=0, dtype=F64, shape=(1000,))
    wide = b.one("broadcast", x, shape=(1000,), dims=())
    f = finish(b, b.one("sin", b.one("mul", wide, ramp)), 1)
    plan = jacobian_plan(f, ["p0"], "y")
    assert (plan.mode, plan.passes, plan.reverse_passes) == ("forward", 1, 1000)
    g = jacobian(f, ["p0"], "y")
    assert not any(op.name in ("scan", "pad", "contract") for op in g.block.body)
    ramp_values = np.arange(1000.0)
    np.testing.assert_allclose(run(ARRAYS, g, [0.3])[1], ramp_values * np.cos(0.3 * ramp_values))


@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize("seed", range(12))
def test_jacobians_of_random_programs(mode: Any, seed: int) -> None:
    """Both modes give the matrix of central differences, one column per element of the
    parameters.
    """
    f = program(seed, size=5, regions=seed % 2 == 0)
    if any(op.name == "stop_gradient" or op.attributes.get("truncate", 0) for op in walk(f.block)):
        f = program(seed + 300, size=5, regions=False)
    if any(op.name == "stop_gradient" for op in walk(f.block)):
        pytest.skip("derivative cut by request")
    g = jacobian(f, ["p0", "p2"], "last", mode)
    verify_function(g)
    arguments = draw(f, seed)
    found = run(ARRAYS, g, arguments)[2:]
    target = run(ARRAYS, f, arguments)[1]
    for number, matrix in zip((0, 2), found, strict=True):
        assert matrix.shape == (*target.shape, *arguments[number].shape)
        expected = np.empty_like(matrix)
        for place in np.ndindex(arguments[number].shape):
            sides = []
            for step in (1e-6, -1e-6):
                moved = [a.copy() for a in arguments]
                moved[number][place] += step
                sides.append(run(ARRAYS, f, moved)[1])
            expected[(..., *place)] = (sides[0] - sides[1]) / 2e-6
        np.testing.assert_allclose(matrix, expected, rtol=2e-6, atol=2e-6)


def test_jacobian_runs_the_forward_sweep_once() -> None:
    """Only what depends on the seed is in the loop: no tanh there, no contract with the other
    operand.
    """
    b = Builder()
    x = b.parameter(TensorType((4,), F64))
    w = b.parameter(TensorType((4, 3), F64))
    f = finish(b, b.one("tanh", b.one("contract", x, w, batch=(), contract=((0, 0),))), 2)
    g = jacobian(f, ["p0"], "y")
    (scan,) = [op for op in g.block.body if op.name == "scan"]
    inside = [op.name for op in scan.regions[0].body]
    assert scan.attributes["trips"] == 3 and "tanh" not in inside
    assert [op.name for op in g.block.body].count("tanh") == 1
    arguments = draw(f, 1)
    y = run(ARRAYS, f, arguments)[0]
    expected = (1 - y**2)[:, None] * arguments[1].T
    np.testing.assert_allclose(run(ARRAYS, g, arguments)[1], expected, rtol=1e-14)


def test_worked_figure_w5_forward_mode() -> None:
    """f = x1 x2 + sin x1 at (2, 3), seed (1, 0): 6.909 and cos 2 + 3 = 2.584."""
    b = Builder()
    x1, x2 = (b.parameter(TensorType((), F64)) for _ in range(2))
    f = finish(b, b.one("add", b.one("mul", x1, x2), b.one("sin", x1)), 2)
    value, tangent = run(ARRAYS, jvp(f, ["p0", "p1"]), [2.0, 3.0, 1.0, 0.0])
    assert (round(float(value), 3), round(float(tangent), 3)) == (6.909, 2.584)


# --- truncation -----------------------------------------------------------------------------------


def rnn(trips: int, truncate: int, is_reverse: bool) -> Function:
    """h <- tanh(w h + u x_t); the loss weighs every h and the last one."""
    b = Builder()
    h, xs, w, u = (b.parameter(TensorType(s, F64)) for s in ((), (trips,), (), ()))
    inner = Builder()
    own = [inner.parameter(TensorType((), F64)) for _ in range(4)]
    total = inner.one("add", inner.one("mul", own[2], own[0]), inner.one("mul", own[3], own[1]))
    following = inner.one("tanh", total)
    region = inner.block([following, following])
    attributes: dict[str, Attr] = {
        "trips": trips, "carried": 1, "stacked": 1, "reverse": is_reverse, "truncate": truncate,
    }  # fmt: skip
    last, hs = emit_scan(b, [h, xs, w, u], region, attributes)
    ramp = b.one(
        "add", b.one("iota", axis=0, dtype=F64, shape=(trips,)), b.constant(1.0, F64, (trips,))
    )
    weighted = b.one("sum", b.one("mul", hs, ramp), axes=(0,))
    return finish(b, b.one("add", weighted, b.one("mul", last, b.constant(0.7, F64))), 4)


def unrolled(trips: int, truncate: int, is_reverse: bool) -> Function:
    """The same without a loop: stop_gradient stands where the truncated sweep stops."""
    b = Builder()
    h, xs, w, u = (b.parameter(TensorType(s, F64)) for s in ((), (trips,), (), ()))
    loss = b.constant(0.0, F64)
    for trip in range(trips):
        index = trips - 1 - trip if is_reverse else trip
        if trip > 0 and truncate and (trips - trip) % truncate == 0:
            h = b.one("stop_gradient", h)
        row = b.one("slice", xs, start=(index,), limit=(index + 1,), stride=(1,))
        x = b.one("reshape", row, shape=())
        h = b.one("tanh", b.one("add", b.one("mul", w, h), b.one("mul", u, x)))
        loss = b.one("add", loss, b.one("mul", h, b.constant(index + 1.0, F64)))
    return finish(b, b.one("add", loss, b.one("mul", h, b.constant(0.7, F64))), 4)


@pytest.mark.parametrize("is_reverse", [False, True])
@pytest.mark.parametrize(
    ("trips", "truncate"), [(6, 2), (7, 3), (5, 1), (4, 4), (4, 9), (1, 1), (0, 2), (8, 0)]
)
def test_truncated_bptt_is_the_unrolled_program_with_stops(
    trips: int, truncate: int, is_reverse: bool
) -> None:
    """Gradients, tangents and second derivatives of the truncated loop are those of the cut
    program.
    """
    loop, flat = (make(trips, truncate, is_reverse) for make in (rnn, unrolled))
    wrt = ["p0", "p1", "p2", "p3"]
    source = np.random.default_rng(trips)
    arguments = [source.normal(size=s) for s in ((), (trips,), (), ())]
    v = [source.normal(size=s) for s in ((), (trips,), (), ())]
    for a, c in zip(
        run(ARRAYS, value_and_grad(loop, wrt), arguments),
        run(ARRAYS, value_and_grad(flat, wrt), arguments),
        strict=True,
    ):
        np.testing.assert_allclose(a, c, rtol=1e-12, atol=1e-14)
    for derive in (jvp, hvp):
        ours = run(ARRAYS, derive(loop, wrt), [*arguments, *v])
        theirs = run(ARRAYS, derive(flat, wrt), [*arguments, *v])
        for a, c in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, c, rtol=1e-11, atol=1e-13)


def test_truncation_matters_and_saves_nothing_wrong() -> None:
    """The truncated gradient differs from the full one, and truncation at the full length does
    not.
    """
    arguments = draw(rnn(6, 0, False), 3)
    full, cut, whole = (
        run(ARRAYS, value_and_grad(rnn(6, k, False), ["p2"]), arguments)[1] for k in (0, 2, 6)
    )
    assert abs(full - cut) > 1e-3
    assert full == whole


def test_worked_figure_w19_rnn_is_the_product_of_jacobians() -> None:
    """d h_T / d h_0 = prod diag(1 - h_t^2) Wh, exactly."""
    b = Builder()
    h0, wh = b.parameter(TensorType((3,), F64)), b.parameter(TensorType((3, 3), F64))
    inner = Builder()
    h, w = inner.parameter(h0.type), inner.parameter(wh.type)
    product = inner.one("contract", w, h, batch=(), contract=((1, 0),))
    region = inner.block([inner.one("tanh", product)])
    attributes: dict[str, Attr] = {
        "trips": 6, "carried": 1, "stacked": 0, "reverse": False, "truncate": 0,
    }  # fmt: skip
    f = finish(b, emit_scan(b, [h0, wh], region, attributes)[0], 2)
    start, weights = draw(f, 2)
    state, expected = start, np.eye(3)
    for _ in range(6):
        state = np.tanh(weights @ state)
        expected = (1 - state**2)[:, None] * weights @ expected
    found = run(ARRAYS, jacobian(f, ["p0"], "y"), [start, weights])[1]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


# --- residuals ------------------------------------------------------------------------------------


def located(b: Builder, line: int) -> Any:
    return b.at(Span("net.grad", line, 1, line, 9))


def test_residuals_are_what_the_reverse_sweep_reads() -> None:
    """tanh saves its result, mul its operands; parameters and constants cost nothing."""
    b = Builder()
    x = b.parameter(TensorType((8,), DType.F32), "x")
    with located(b, 3):
        h = b.one("tanh", x, hint="h")
    with located(b, 4):
        y = b.one("mul", h, b.one("sin", h, hint="s"), hint="y")
    f = finish(b, b.one("sum", y, axes=(0,)), 1)
    found = residuals(value_and_grad(f, ["p0"]))
    rows = [(r.name, r.nbytes, r.span.line if r.span else 0, r.decision) for r in found]
    assert rows == [("h", 32, 3, "saved"), ("s", 32, 4, "saved")]
    assert total_bytes(found) == 64


def test_checkpoint_saves_its_inputs_only() -> None:
    """What is inside is recomputed and listed so; nothing of it crosses from the forward sweep."""
    b = Builder()
    x = b.parameter(TensorType((8,), F64), "x")
    inner = Builder()
    own = inner.parameter(x.type)
    with located(inner, 6):
        first = inner.one("tanh", own, hint="first")
        region = inner.block([inner.one("sin", inner.one("exp", first, hint="second"))])
    (y,) = b.emit("checkpoint", b.one("cos", x, hint="entry"), regions=(region,))
    f = finish(b, b.one("sum", y, axes=(0,)), 1)
    options = Options(derivative=lambda g: value_and_grad(g, ["p0"]), stop_after="dce")
    outcome = run_pipeline(f, options).result
    assert isinstance(outcome, Function)
    found = residuals(outcome)
    assert [r.name for r in found if r.decision == "saved"] == ["entry"]
    recomputed = [r.name for r in found if r.decision == "recomputed"]
    assert recomputed == ["first", "second"]


# --- places and activity --------------------------------------------------------------------------


def test_adjoint_ops_carry_span_and_scope_of_their_primal_op() -> None:
    b = Builder()
    x = b.parameter(TensorType((4,), F64))
    with b.at(Span("net.grad", 7, 5, 7, 12), scope="blocks.0"):
        y = b.one("sin", x)
    with b.at(Span("net.grad", 8, 5, 8, 12), scope="head"):
        loss = b.one("sum", b.one("mul", y, y), axes=(0,))
    gradient = value_and_grad(finish(b, loss, 1), ["p0"])
    places = {(op.name, op.span.line if op.span else 0, op.scope) for op in gradient.block.body}
    assert ("cos", 7, "blocks.0") in places and ("broadcast", 8, "head") in places
    assert all(op.span is not None for op in gradient.block.body if op.name != "constant")


def test_only_what_is_asked_for_is_computed() -> None:
    """wrt = [b] of x @ w + b needs no contract in the reverse sweep; of = [y] ignores other
    results.
    """
    b = Builder()
    x, w, bias = (b.parameter(TensorType(s, F64)) for s in ((5, 3), (3, 4), (5, 4)))
    product = b.one("contract", x, w, batch=(), contract=((1, 0),))
    y = b.one("tanh", b.one("add", product, bias))
    other = b.one("exp", b.one("sin", w))
    slots = [Slot(n, Role.PARAM) for n in "xwb"]
    f = b.function("f", [y, other], slots, [Slot("y", Role.OUTPUT), Slot("o", Role.OUTPUT)])
    counts = {}
    for wrt in (["b"], ["w"], ["x", "w"]):
        ops = [op.name for op in vjp(f, wrt, ["y"]).block.body]
        counts[tuple(wrt)] = ops.count("contract")
        assert "cos" not in ops
    assert counts == {("b",): 1, ("w",): 2, ("x", "w"): 3}
    assert [s.name for s in unreached(f, ["x", "w", "b"], ["o"])] == ["x", "b"]


def test_unknown_names_are_refused() -> None:
    f = program(0, size=2)
    with pytest.raises(DerivativeError, match="no parameter called `q`"):
        value_and_grad(f, ["q"])
    with pytest.raises(DerivativeError, match="no result called `q`"):
        vjp(f, ["p0"], ["q"])


def test_names_of_higher_derivatives_stay_apart() -> None:
    f = program(2, size=2)
    twice = vjp(vjp(f, ["p0"]), ["p0"])
    verify_function(twice)
    slots = [(s.role, s.name) for s in (*twice.parameters, *twice.results)]
    assert len(slots) == len(set(slots))


# --- linear compile time --------------------------------------------------------------------------


def chain(depth: int) -> Function:
    b = Builder()
    x = b.parameter(TensorType((2, 4), F64))
    w = b.parameter(TensorType((4, 4), F64))
    h = x
    for _ in range(depth):
        product = b.one("contract", h, w, batch=(), contract=((1, 0),))
        h = b.one("add", h, b.one("tanh", product))
    return finish(b, b.one("sum", h, axes=(0, 1)), 2)


def slope(depths: Sequence[int], sizes: Sequence[float]) -> float:
    return float(np.polyfit([math.log(d) for d in depths], [math.log(s) for s in sizes], 1)[0])


@pytest.mark.parametrize("derive", ["grad", "jvp", "hvp", "pipeline"])
def test_size_and_work_grow_linearly(derive: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ops made, and Op objects built on the way (a count, not a clock), have log-log slope at most
    1.1.
    """
    depths, sizes, work = (20, 80, 320), [], []
    made = 0
    original = Op.__init__

    def counting(self: Op, *args: Any, **kwargs: Any) -> None:
        nonlocal made
        made += 1
        original(self, *args, **kwargs)

    monkeypatch.setattr(Op, "__init__", counting)
    derivatives = {
        "grad": lambda f: value_and_grad(f, ["p0", "p1"]),
        "jvp": lambda f: jvp(f, ["p0", "p1"]),
        "hvp": lambda f: hvp(f, ["p0", "p1"]),
    }
    for depth in depths:
        f = chain(depth)
        made = 0
        if derive == "pipeline":
            options = Options(derivative=derivatives["grad"], stop_after="dce", verify=0)
            result = run_pipeline(f, options).result
            assert isinstance(result, Function)
        else:
            result = derivatives[derive](f)
        sizes.append(count_ops(result))
        work.append(made)
    assert slope(depths, sizes) <= 1.05
    assert slope(depths, work) <= 1.1


def test_long_programs_need_no_recursion() -> None:
    """Six thousand ops in a row, far beyond the depth of Python's stack."""
    b = Builder()
    x = b.parameter(TensorType((), F64))
    h = x
    for _ in range(6_000):
        h = b.one("sin", h)
    f = finish(b, h, 1)
    options = Options(derivative=lambda g: value_and_grad(g, ["p0"]), stop_after="dce", verify=1)
    result = run_pipeline(f, options).result
    assert isinstance(result, Function)
    value, grad = run(ARRAYS, result, [0.5])
    expected, state = 1.0, 0.5
    for _ in range(6_000):
        expected *= math.cos(state)
        state = math.sin(state)
    assert grad == pytest.approx(expected, rel=1e-9) and value == pytest.approx(state)
