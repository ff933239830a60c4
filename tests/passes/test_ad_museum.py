"""The issue museum: programs on which other systems gave wrong gradients without a word, compiled
here all the way to a Plan.

Each test names the report. The gradient comes from the whole pipeline, executed by the reference
executor of Plans and as machine code, and is compared with central differences of the reference
interpreter or with a formula.
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
from gradc.ir.plan.execute import execute_plan
from gradc.ir.tensor.core import Attr, Block, DType, Function, Role, Slot, TensorType, Value
from gradc.passes.differentiate.transforms import hvp, jvp, value_and_grad
from gradc.passes.pipeline import Options, run_pipeline
from gradc.passes.rewrite import emit_scan
from gradc.runtime.native.arrays import NUMPY_DTYPE
from gradc.runtime.native.load import compile_plan

ARRAYS = NumpyArrays()
F64 = DType.F64
Array = np.ndarray[Any, Any]


def model(shapes: Sequence[tuple[int, ...]], make: Callable[..., Value], *extra: DType) -> Function:
    """A loss of parameters p0, p1, ...; ``extra`` types follow the f64 ones."""
    b = Builder()
    types = [F64] * (len(shapes) - len(extra)) + list(extra)
    values = [b.parameter(TensorType(s, t)) for s, t in zip(shapes, types, strict=True)]
    slots = [Slot(f"p{i}", Role.PARAM) for i in range(len(shapes))]
    return b.function("museum", [make(b, *values)], slots, [Slot("loss", Role.LOSS)])


def compiled(f: Function, arguments: Sequence[Any], wrt: Sequence[str]) -> list[Array]:
    """Loss and gradients of the compiled program; run twice, to see that a replay gives the same,
    and as machine code.
    """
    options = Options(derivative=lambda g: value_and_grad(g, list(wrt)), verify=2)
    plan = run_pipeline(f, options).plan
    values = [np.asarray(a) for a in arguments]
    first = execute_plan(plan, values)
    second = execute_plan(plan, values)
    for a, c in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, c)
    machine = compile_plan(plan, threads=1, cache=False)
    arrays, given = [], iter(values)
    for port in plan.ports:
        dtype = np.dtype(NUMPY_DTYPE[port.dtype])
        if port.direction == "out":
            arrays.append(np.full(port.shape, np.nan if port.dtype.is_float else 0, dtype))
        else:
            arrays.append(np.array(next(given), dtype, order="C").reshape(port.shape))
    machine.call(arrays)
    made = [a for a, port in zip(arrays, plan.ports, strict=True) if port.direction != "in"]
    for a, c in zip(made, first, strict=True):
        size = max(float(np.abs(c).max(initial=0.0)), 1.0)
        np.testing.assert_allclose(a, c, rtol=1e-12, atol=1e-12 * size)
    return [np.asarray(a) for a in first]


def check(f: Function, arguments: Sequence[Array], wrt: Sequence[str] | None = None) -> list[Array]:
    """Gradients against central differences along random directions, one parameter at a time."""
    names = wrt or [s.name for s in f.parameters]
    found = compiled(f, arguments, names)
    source = np.random.default_rng(17)
    for name, grad in zip(names, found[1:], strict=True):
        number = [s.name for s in f.parameters].index(name)
        v = source.normal(size=arguments[number].shape)
        sides = []
        for step in (1e-6, -1e-6):
            moved = list(arguments)
            moved[number] = arguments[number] + step * v
            sides.append(float(run(ARRAYS, f, moved)[0]))
        slope = (sides[0] - sides[1]) / 2e-6
        assert np.sum(grad * v) == pytest.approx(slope, rel=1e-6, abs=1e-8), name
    return found


def total(b: Builder, x: Value) -> Value:
    return b.one("sum", x, axes=tuple(range(x.type.rank)))


def full(b: Builder, number: float, like: Value) -> Value:
    return b.constant(number, like.type.dtype, like.type.shape)


def layernorm(b: Builder, x: Value, gain: Value, bias: Value) -> Value:
    shape = x.type.shape
    width = full(b, 1.0 / x.type.static_shape[1], x)

    def mean(y: Value) -> Value:
        return b.one(
            "broadcast", b.one("sum", b.one("mul", y, width), axes=(1,)), shape=shape, dims=(0,)
        )

    centred = b.one("sub", x, mean(x))
    spread = b.one("rsqrt", b.one("add", mean(b.one("mul", centred, centred)), full(b, 1e-5, x)))
    wide = [b.one("broadcast", p, shape=shape, dims=(1,)) for p in (gain, bias)]
    return b.one("add", b.one("mul", b.one("mul", centred, spread), wide[0]), wide[1])


def draws(seed: int, *shapes: tuple[int, ...]) -> list[Array]:
    source = np.random.default_rng(seed)
    return [source.normal(size=s) for s in shapes]


def test_pytorch_193061_shared_layernorm_parameters() -> None:
    """Two layernorms sharing gain and bias lost part of the gradient in a fused reduction."""

    def make(b: Builder, x: Value, gain: Value, bias: Value, w: Value) -> Value:
        h = layernorm(b, x, gain, bias)
        h = b.one("tanh", b.one("contract", h, w, batch=(), contract=((1, 0),)))
        h = layernorm(b, h, gain, bias)
        return total(b, b.one("mul", h, b.one("sin", h)))

    check(model([(5, 4), (4,), (4,), (4, 4)], make), draws(1, (5, 4), (4,), (4,), (4, 4)))


def test_pytorch_180164_slice_scatter() -> None:
    """y = x with rows 2:4 replaced by z: gradient 0 there for x, and z's own elsewhere."""

    def part(b: Builder, x: Value, low: int, high: int) -> Value:
        return b.one("slice", x, start=(low, 0), limit=(high, 3), stride=(1, 1))

    def make(b: Builder, x: Value, z: Value) -> Value:
        y = b.one("concat", part(b, x, 0, 2), b.one("mul", z, z), part(b, x, 4, 6), axis=0)
        return total(b, b.one("exp", b.one("sin", y)))

    found = check(model([(6, 3), (2, 3)], make), draws(2, (6, 3), (2, 3)))
    assert np.all(found[1][2:4] == 0) and np.all(found[1][:2] != 0)


def test_pytorch_182012_diagonal_scatter() -> None:
    """Adding a vector to the diagonal came back as zeros; here a scatter into a padded stride."""

    def make(b: Builder, m: Value, d: Value) -> Value:
        diagonal = b.one("pad", d, low=(0,), high=(0,), interior=(4,))
        matrix = b.one("add", m, b.one("reshape", diagonal, shape=(4, 4)))
        return total(b, b.one("tanh", b.one("mul", matrix, matrix)))

    check(model([(4, 4), (4,)], make), draws(3, (4, 4), (4,)))


def _dropout_block(b: Builder, x: Value, key: Value, w: Value, stream: int) -> Value:
    bits = b.one("random_bits", key, stream=stream, shape=x.type.shape)
    keep = b.one("lt", bits, b.constant(3 * 2**30, DType.U32, x.type.shape))
    h = b.one("tanh", b.one("contract", x, w, batch=(), contract=((1, 0),)))
    return b.one(
        "add", x, b.one("select", keep, b.one("mul", h, full(b, 4 / 3, h)), full(b, 0.0, h))
    )


@pytest.mark.parametrize("nested", [False, True])
def test_pytorch_190758_recomputed_dropout(nested: bool) -> None:
    """Recomputation redrew dropout masks. Checkpointed and plain gradients are bitwise equal."""

    def wrap(b: Builder, x: Value, key: Value, w: Value, depth: int) -> Value:
        inner = Builder()
        own, own_key, own_w = (inner.parameter(v.type) for v in (x, key, w))
        if depth:
            value = wrap(inner, own, own_key, own_w, depth - 1)
        else:
            value = _dropout_block(inner, own, own_key, own_w, 3)
            value = _dropout_block(inner, value, own_key, own_w, 4)
        (result,) = b.emit("checkpoint", x, key, w, regions=(inner.block([value]),))
        return result

    def plain(b: Builder, x: Value, w: Value, key: Value) -> Value:
        h = _dropout_block(b, x, key, w, 3)
        return total(b, b.one("sin", _dropout_block(b, h, key, w, 4)))

    def kept(b: Builder, x: Value, w: Value, key: Value) -> Value:
        return total(b, b.one("sin", wrap(b, x, key, w, int(nested))))

    shapes = [(6, 4), (4, 4), (2,)]
    arguments = [*draws(4, (6, 4), (4, 4)), np.array([11, 2], np.uint32)]
    grads = [
        compiled(model(shapes, make, DType.U32), arguments, ["p0", "p1"]) for make in (plain, kept)
    ]
    for a, c in zip(*grads, strict=True):
        np.testing.assert_array_equal(a, c)


def test_pytorch_187297_norm_and_where_at_zero() -> None:
    """Guarded norm: where(n > 0, sqrt(n), 0) has gradient 0 at the zero row, not NaN."""

    def make(b: Builder, x: Value) -> Value:
        squares = b.one("sum", b.one("mul", x, x), axes=(1,))
        positive = b.one("gt", squares, full(b, 0.0, squares))
        return total(b, b.one("select", positive, b.one("sqrt", squares), full(b, 0.0, squares)))

    x = np.array([[0.0, 0.0], [3.0, 4.0]])
    grad = compiled(model([(2, 2)], make), [x], ["p0"])[1]
    np.testing.assert_allclose(grad, [[0.0, 0.0], [0.6, 0.8]], rtol=1e-14)


def test_tinygrad_16571_replays_give_the_same_gradient() -> None:
    """A memory planner that reuses buffers too early spoils replays: a deep chain, replayed by
    ``compiled``.
    """

    def make(b: Builder, x: Value, w: Value) -> Value:
        h = x
        for _ in range(6):
            h = b.one(
                "add", h, b.one("tanh", b.one("contract", h, w, batch=(), contract=((1, 0),)))
            )
        return total(b, b.one("mul", h, h))

    check(model([(3, 4), (4, 4)], make), draws(5, (3, 4), (4, 4)))


def _power_loop(trips: int) -> Function:
    """x -> x * a, five times: the loss is a**5 times x, whose derivatives in a are known."""
    scalar = TensorType((), F64)
    inner = Builder()
    carry, a = inner.parameter(scalar), inner.parameter(scalar)
    region = inner.block([inner.one("mul", carry, a)])
    attributes: dict[str, Attr] = {
        "trips": trips, "carried": 1, "stacked": 0, "reverse": False, "truncate": 0,
    }  # fmt: skip
    return model([(), ()], lambda b, x, a: emit_scan(b, [x, a], region, attributes)[0])


def test_pytensor_1772_third_derivative_of_a_loop() -> None:
    """Third derivatives of scan came out ten times off: d^3 (x a^5) / d a^3 = 60 x a^2."""
    f = _power_loop(5)
    second = hvp(f, ["p1"])
    third = jvp(second, ["p1"], [len(second.results) - 1])
    plan = run_pipeline(f, Options(derivative=lambda _: third)).plan
    x, a = 0.7, 1.3
    found = execute_plan(plan, [np.asarray(v) for v in (x, a, 1.0, 1.0)])
    assert float(found[1]) == pytest.approx(5 * x * a**4)
    assert float(found[2]) == pytest.approx(20 * x * a**3)
    assert float(found[-1]) == pytest.approx(60 * x * a**2)


def test_warp_1694_value_from_before_the_loop() -> None:
    """A value computed before the loop, read in every trip and after it: no contribution may be
    lost.
    """
    vector = TensorType((3,), F64)
    inner = Builder()
    carry, before = inner.parameter(vector), inner.parameter(vector)
    moved = inner.one("add", inner.one("mul", carry, before), inner.one("sin", before))
    region = inner.block([moved])
    attributes: dict[str, Attr] = {
        "trips": 4, "carried": 1, "stacked": 0, "reverse": False, "truncate": 0,
    }  # fmt: skip

    def make(b: Builder, x: Value) -> Value:
        before = b.one("exp", b.one("mul", x, full(b, -0.5, x)))
        (last,) = emit_scan(b, [x, before], region, attributes)
        return total(b, b.one("mul", last, before))

    check(model([(3,)], make), draws(6, (3,)))


def test_warp_1697_components_overwritten_in_a_loop() -> None:
    """Each trip replaces one component of the state: forty trips, no NaN, the right gradient."""
    vector = TensorType((4,), F64)
    inner = Builder()
    state = inner.parameter(vector)
    index = inner.parameter(TensorType((), DType.I32))
    w = inner.parameter(vector)
    place = inner.one("iota", axis=0, dtype=DType.I32, shape=(4,))
    wide = inner.one("broadcast", index, shape=(4,), dims=())
    here = inner.one("eq", place, wide)
    fresh = inner.one("tanh", inner.one("mul", inner.one("reverse", state, axes=(0,)), w))
    region = inner.block([inner.one("select", here, fresh, state)])
    attributes: dict[str, Attr] = {
        "trips": 40, "carried": 1, "stacked": 1, "reverse": False, "truncate": 0,
    }  # fmt: skip

    def make(b: Builder, x: Value, w: Value) -> Value:
        trips = b.one("iota", axis=0, dtype=DType.I32, shape=(40,))
        ids = b.one("mod", trips, b.constant(4, DType.I32, (40,)))
        (last,) = emit_scan(b, [x, ids, w], region, attributes)
        return total(b, b.one("mul", last, last))

    start, weights = draws(7, (4,), (4,))
    found = check(model([(4,), (4,)], make), [start, 1.5 + 0.1 * weights])
    assert all(np.all(np.isfinite(g)) for g in found)


@pytest.mark.parametrize("is_reverse", [False, True])
def test_taichi_8802_reads_of_the_previous_trip(is_reverse: bool) -> None:
    """x_i <- sin(x_{i-1}) * x_i + y_i, in place elsewhere: loop-carried reads and their
    gradient.
    """
    scalar = TensorType((), F64)
    inner = Builder()
    carry, x, y = (inner.parameter(scalar) for _ in range(3))
    following = inner.one("add", inner.one("mul", inner.one("sin", carry), x), y)
    region = inner.block([following, following])
    attributes: dict[str, Attr] = {
        "trips": 7, "carried": 1, "stacked": 2, "reverse": is_reverse, "truncate": 0,
    }  # fmt: skip

    def make(b: Builder, start: Value, xs: Value, ys: Value) -> Value:
        _, found = emit_scan(b, [start, xs, ys], region, attributes)
        return total(b, b.one("mul", found, found))

    check(model([(), (7,), (7,)], make), draws(8, (), (7,), (7,)))


def test_theano_4652_truncated_gradient_of_inputs() -> None:
    """With truncation, the gradient of inputs before the border is their own step's, not zero and
    not the full one.
    """
    scalar = TensorType((), F64)
    inner = Builder()
    carry, x = inner.parameter(scalar), inner.parameter(scalar)
    following = inner.one("add", inner.one("mul", carry, inner.constant(0.5, F64)), x)
    region = inner.block([following, following])

    def make(k: int) -> Callable[..., Value]:
        attributes: dict[str, Attr] = {
            "trips": 6, "carried": 1, "stacked": 1, "reverse": False, "truncate": k,
        }  # fmt: skip

        def body(b: Builder, start: Value, xs: Value) -> Value:
            return total(b, emit_scan(b, [start, xs], region, attributes)[1])

        return body

    arguments = draws(9, (), (6,))
    full_grad = compiled(model([(), (6,)], make(0)), arguments, ["p1"])[1]
    cut = compiled(model([(), (6,)], make(2)), arguments, ["p1"])[1]
    np.testing.assert_allclose(full_grad, [2 - 0.5**n for n in range(5, -1, -1)])
    np.testing.assert_allclose(cut, [1.5, 1.0] * 3)


def test_transformers_34191_accumulation_with_unequal_token_counts() -> None:
    """Loss per token over micro-batches of 7, 1 and 4 tokens: the loop's gradient is the big
    batch's to 1e-12.
    """
    counts = (7, 1, 4)
    weight = np.zeros((3, 7))
    for number, count in enumerate(counts):
        weight[number, :count] = 1.0

    def errors(b: Builder, x: Value, w: Value, mask: Value) -> Value:
        predicted = b.one("contract", x, w, batch=(), contract=((x.type.rank - 1, 0),))
        return total(b, b.one("mul", b.one("softplus", predicted), mask))

    def big(b: Builder, xs: Value, mask: Value, w: Value) -> Value:
        return b.one("div", errors(b, xs, w, mask), total(b, mask))

    row, line = TensorType((7, 5), F64), TensorType((7,), F64)
    inner = Builder()
    sums = [inner.parameter(TensorType((), F64)) for _ in range(2)]
    x, mask, w = (inner.parameter(t) for t in (row, line, TensorType((5,), F64)))
    region = inner.block(
        [
            inner.one("add", sums[0], errors(inner, x, w, mask)),
            inner.one("add", sums[1], total(inner, mask)),
        ]
    )
    attributes: dict[str, Attr] = {
        "trips": 3, "carried": 2, "stacked": 2, "reverse": False, "truncate": 0,
    }  # fmt: skip

    def accumulated(b: Builder, xs: Value, mask: Value, w: Value) -> Value:
        zero = b.constant(0.0, F64)
        loss, tokens = emit_scan(b, [zero, zero, xs, mask, w], region, attributes)
        return b.one("div", loss, tokens)

    data, start = draws(10, (3, 7, 5), (5,))
    shapes = [(3, 7, 5), (3, 7), (5,)]
    grads = [
        compiled(model(shapes, make), [data, weight, start], ["p2"]) for make in (big, accumulated)
    ]
    for a, c in zip(*grads, strict=True):
        np.testing.assert_allclose(a, c, rtol=1e-12)
    averaged = np.mean(
        [
            compiled(
                model([(1, 7, 5), (1, 7), (5,)], big),
                [data[i : i + 1], weight[i : i + 1], start],
                ["p2"],
            )[1]
            for i in range(3)
        ],
        axis=0,
    )
    assert np.max(np.abs(averaged - grads[0][1])) > 1e-3, "the mean of means is something else"


# --- Hessian-vector products against JAX ----------------------------------------------------------


def _attention(b: Builder, x: Value, wq: Value, wk: Value, wv: Value) -> Value:
    q, k, v = (b.one("contract", x, w, batch=(), contract=((1, 0),)) for w in (wq, wk, wv))
    scores = b.one("contract", q, k, batch=(), contract=((1, 1),))
    shape = scores.type.shape
    rows, columns = (b.one("iota", axis=a, dtype=DType.I32, shape=shape) for a in (0, 1))
    masked = b.one("select", b.one("ge", rows, columns), scores, full(b, -math.inf, scores))
    top = b.one("stop_gradient", b.one("reduce_max", masked, axes=(1,)))
    e = b.one("exp", b.one("sub", masked, b.one("broadcast", top, shape=shape, dims=(0,))))
    norm = b.one("broadcast", b.one("sum", e, axes=(1,)), shape=shape, dims=(0,))
    mixed = b.one("contract", b.one("div", e, norm), v, batch=(), contract=((1, 0),))
    return total(b, b.one("gelu", mixed))


def _recurrent(b: Builder, xs: Value, h: Value, w: Value) -> Value:
    inner = Builder()
    carry, x, own = (inner.parameter(t) for t in (h.type, h.type, w.type))
    product = inner.one("contract", own, carry, batch=(), contract=((1, 0),))
    following = inner.one("tanh", inner.one("add", product, x))
    region = Block(tuple(inner.parameters), inner.block([following, following]).ops)
    attributes: dict[str, Attr] = {
        "trips": 5, "carried": 1, "stacked": 1, "reverse": False, "truncate": 0,
    }  # fmt: skip
    last, hs = emit_scan(b, [h, xs, w], region, attributes)
    return b.one("add", total(b, b.one("mul", hs, hs)), total(b, b.one("sin", last)))


def _perceptron(b: Builder, x: Value, w1: Value, w2: Value) -> Value:
    h = b.one("silu", b.one("contract", x, w1, batch=(), contract=((1, 0),)))
    y = b.one("contract", h, w2, batch=(), contract=((1, 0),))
    return total(b, b.one("softplus", b.one("mul", y, y)))


def _jax_models() -> dict[str, Callable[..., Any]]:
    import jax
    import jax.numpy as jnp

    def attention(x: Any, wq: Any, wk: Any, wv: Any) -> Any:
        scores = (x @ wq) @ (x @ wk).T
        masked = jnp.where(jnp.tril(jnp.ones(scores.shape, bool)), scores, -jnp.inf)
        return jnp.sum(jax.nn.gelu(jax.nn.softmax(masked, axis=1) @ (x @ wv), approximate=False))

    def recurrent(xs: Any, h: Any, w: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            following = jnp.tanh(w @ carry + x)
            return following, following

        last, hs = jax.lax.scan(step, h, xs)
        return jnp.sum(hs * hs) + jnp.sum(jnp.sin(last))

    def perceptron(x: Any, w1: Any, w2: Any) -> Any:
        return jnp.sum(jax.nn.softplus((jax.nn.silu(x @ w1) @ w2) ** 2))

    return {"attention": attention, "recurrent": recurrent, "perceptron": perceptron}


@pytest.mark.parametrize(
    ("name", "make", "shapes"),
    [
        ("attention", _attention, [(4, 3), (3, 2), (3, 2), (3, 3)]),
        ("recurrent", _recurrent, [(5, 3), (3,), (3, 3)]),
        ("perceptron", _perceptron, [(4, 3), (3, 5), (5, 2)]),
    ],
)
def test_hessian_vector_products_equal_jax(
    name: str, make: Callable[..., Value], shapes: list[tuple[int, ...]]
) -> None:
    """Values, gradients and forward-over-reverse products in f64, compiled to a Plan."""
    jax = pytest.importorskip("jax")
    f = model(shapes, make)
    wrt = [s.name for s in f.parameters]
    arguments, v = draws(11, *shapes), draws(12, *shapes)
    plan = run_pipeline(f, Options(derivative=lambda g: hvp(g, wrt))).plan
    found = execute_plan(plan, [*arguments, *v])
    with jax.enable_x64(True):
        theirs = _jax_models()[name]
        everything = tuple(range(len(shapes)))
        both = jax.value_and_grad(theirs, argnums=everything)
        (value, grads), (_, products) = jax.jit(lambda a, t: jax.jvp(both, a, t))(
            tuple(arguments), tuple(v)
        )
        expected = [np.asarray(x) for x in (value, *grads, *products)]
    for a, c in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, c, rtol=1e-10, atol=1e-12)
