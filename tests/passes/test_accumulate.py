"""Gradient accumulation equals the big batch, or is refused with the reason."""

from typing import Any

import numpy as np
import pytest

import gradc
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.verify import verify_function
from gradc.passes.budget import pareto
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.training.accumulate import accumulate
from gradc.runtime.api import loads
from gradc.runtime.bench.compare import random_inputs
from gradc.runtime.model.step import TrainStep
from gradc.runtime.native.compile import pipeline_options
from tests.support.api_models import DEEP
from tests.support.cut_programs import (
    CLASSIFIER,
    NOT_LINEAR,
    RECURRENT,
    TOKENS,
    Inputs,
    whole_batch,
)


def functions(text: str, inputs: Inputs, parts: int, axis: int = 0) -> tuple[Any, ...]:
    """(plain, accumulated, operands): gradients of the whole batch in one and in parts, in f64."""
    net = loads(text, precision="f64")
    whole, axes = whole_batch(net, inputs, parts, axis)
    names = net.select("params")
    params = net.init(3, whole.dims)
    plain = value_and_grad(whole.function, names)
    cut = accumulate(whole.function, axes, names, parts)
    operands = [{**params, **inputs}[slot.name] for slot in whole.function.parameters]
    return plain, cut, operands


IN_BLOCKS = """
dim B, D = 5
model m(x: float[B, D]) -> float {
    use f = dense(D, 6)
    checkpoint { h = tanh(f(x)) * (3 / B) }
    scan t in iota(4) carry h = h { h = sin(h * (1 + 12 / B)) }
    return sum(h^2)
}
"""


def batches(rng: np.random.Generator) -> dict[str, tuple[str, Inputs, int]]:
    return {
        "classifier": (
            CLASSIFIER,
            {"x": rng.normal(size=(12, 5)), "y": rng.integers(0, 4, 12).astype(np.int32)},
            0,
        ),
        "ragged tokens": (
            TOKENS,
            {
                "x": rng.normal(size=(12, 3, 5)),
                "y": rng.integers(0, 7, (12, 3)).astype(np.int32),
                "w": (rng.random((12, 3)) < np.linspace(0.1, 1, 12)[:, None]).astype(float),
            },
            0,
        ),
        "not linear in the sums": (NOT_LINEAR, {"x": rng.normal(size=(12, 5))}, 0),
        "the batch's size inside blocks": (IN_BLOCKS, {"x": rng.normal(size=(12, 5))}, 0),
        "batch on the second axis": (RECURRENT, {"x": rng.normal(size=(6, 12, 5))}, 1),
    }


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 12])
@pytest.mark.parametrize("case", list(batches(np.random.default_rng(0))))
def test_parts_give_the_gradient_of_the_whole(case: str, parts: int) -> None:
    text, inputs, axis = batches(np.random.default_rng(1))[case]
    plain, cut, operands = functions(text, inputs, parts, axis)
    verify_function(cut)
    assert [s.name for s in cut.results] == [s.name for s in plain.results]
    expected, found = (run(NumpyArrays(), f, operands) for f in (plain, cut))
    for e, f in zip(expected, found, strict=True):
        assert np.abs(e - f).max() <= 1e-12 * max(1.0, np.abs(e).max())


def test_ragged_parts_differ_from_the_mean_of_means() -> None:
    """What the naive way gives is wrong here, so agreement above is no accident."""
    text, inputs, _ = batches(np.random.default_rng(1))["ragged tokens"]
    net = loads(text, precision="f64")
    params = net.init(3)
    gradient = net.value_and_grad()
    _, whole = gradient(params, **inputs)
    naive = [
        gradient(params, **{k: v[i : i + 3] for k, v in inputs.items()})[1]["f.w"]
        for i in range(0, 12, 3)
    ]
    assert np.abs(np.mean(naive, axis=0) - whole["f.w"]).max() > 1e-3


def test_only_what_the_seeds_need_is_computed_first() -> None:
    """The first loop counts tokens; the network runs once."""
    text, inputs, _ = batches(np.random.default_rng(1))["ragged tokens"]
    _, cut, _ = functions(text, inputs, 4)
    scans = [op for op in cut.block.body if op.name == "scan"]
    assert [any(o.name == "contract" for o in s.regions[0].body) for s in scans] == [False, True]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("use n = batchnorm(D)\n    return mean(n(x * g)^3)", "statistic of the whole batch"),
        ("return mean((x[1:] - x[:-1])^2) * g", "shifted"),
        ("return sum((x * g) @ (x * g).T)", "compared with every other"),
        ("return g * max(sum(x, axis = 1))", "not a sum"),
        ("return mean(cumsum(x * g, axis = 0)^2)", "one by one"),
        ("checkpoint { h = x * g - mean(x * g, axis = 0) }\n    return mean(h^3)", "inside a loop"),
        (
            "scan t in iota(3) carry h = x * g { h = h - mean(h, axis = 0) }\n    return mean(h^2)",
            "inside a loop",
        ),
        (
            (
                "hs = scan row in x carry h = g * ones([D]) { h = h + row; yield h }\n    return "
                "sum(hs)"
            ),
            "runs over the samples",
        ),
        (
            "s = sum(x * g, axis = 1)\n    return sum((s - mean(s))^2)",
            "statistic of the whole batch",
        ),
        (
            (
                "k = ones([1, 1, 3, 1])\n    return sum(conv2d(reshape(x * g, [1, 1, B, D]), k, "
                "padding = 1)^2)"
            ),
            "`conv2d`: a convolution runs over them",
        ),
        ("return sum(max_pool(reshape(x * g, [1, 1, B, D]), 3)^2)", "a window runs over them"),
        (
            "r = reshape(x * g, [D, B])\n    return sum((r * g * cast(iota(D), float)[:, None])^2)",
            "`reshape`: their elements are dealt to other rows",
        ),
        (
            "return sum((x * g * cast(iota(B), float)[:, None])^2)",
            "`iota`: their positions are used",
        ),
        ("return sum(x * g + x[::-1])", "`reverse`"),
        (
            "scan row in x carry a = g * zeros([D]) { a = a + row }\n    return sum(a)",
            "runs over the samples",
        ),
    ],
)
def test_coupled_samples_are_refused_with_the_reason(body: str, reason: str) -> None:
    text = (
        "dim B, D = 5\nmodel m(x: float[B, D]) -> float {\n    param g: float ~ ones\n    "
        f"{body}\n}}"
    )
    with pytest.raises(DiagnosticError) as refused:
        functions(text, {"x": np.random.default_rng(0).normal(size=(12, 5))}, 3)
    (found,) = refused.value.diagnostics
    assert found.code == "GC0807"
    assert reason in found.message


# Samples whose axis is reshaped, moved or joined with others, and that still stay apart.
FOLLOWED = """
dim B, D = 5
fn straight(v: float[...]) -> float[...] {
    r = 2 * tanh(v)
    return r
    pullback(ct) { return ct * (1 + r^2) }
}
fn scaled(v: float[R, C], s: float[C]) -> float[R, C] {
    r = v * s
    return r
    pullback(ct) { return ct * s, sum(ct * v, axis = 0) }
}
model m(x: float[B, 2, D], t: float[3, B]) -> float {
    param g: float[D] ~ normal(1)
    param k: float[2, 1, 1, 2] ~ normal(1)
    use f = dense(D, 3)
    rows = straight(f(scaled(reshape(x, [B * 2, D]), g)))
    flat = reshape(transpose(reshape(rows, [B, 2, 3]), [2, 0, 1]), [3, B * 2])
    output flat
    maps = conv2d(reshape(x, [B, 1, 2, D]), k)
    scan row in t carry h = zeros([B, 3]) { h = sin(h + row[:, None] + maps[:, 0, 0, :3]) }
    picked = reshape(flat, [3, B, 2])[1:, :, ::-1] + reshape(t[1:], [2, B, 1])
    return mean(h^2) * sum(sin(picked)) + sum(max_pool(maps, 2)) / B
}
"""


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_samples_are_followed_through_reshapes_loops_and_pullbacks(parts: int) -> None:
    rng = np.random.default_rng(8)
    inputs = {"x": rng.normal(size=(6, 2, 5)), "t": rng.normal(size=(3, 6))}
    net = loads(FOLLOWED, precision="f64")
    whole = net.lower(net.bind({k: v.shape for k, v in inputs.items()}))
    names = net.select("params")
    plain = value_and_grad(whole.function, names)
    cut = accumulate(whole.function, {"x": 0, "t": 1}, names, parts)
    verify_function(cut)
    params = net.init(3, whole.dims)
    operands = [{**params, **inputs}[slot.name] for slot in whole.function.parameters]
    expected, found = (run(NumpyArrays(), f, operands) for f in (plain, cut))
    for e, f in zip(expected, found, strict=True):
        np.testing.assert_allclose(f, e, rtol=1e-11, atol=1e-12)


def test_a_pullback_that_is_not_a_sum_over_samples_is_refused() -> None:
    text = """
    dim B, D = 5
    fn scaled(v: float[R, C], s: float[C]) -> float[R, C] {
        r = v * s
        return r
        pullback(ct) { return ct * s, max(ct * v, axis = 0) }
    }
    model m(x: float[B, D]) -> float {
        param g: float[D] ~ normal(1)
        return sum(scaled(x, g)^2)
    }
    """
    with pytest.raises(DiagnosticError, match="GC0807"):
        functions(text, {"x": np.ones((6, 5))}, 3)


@pytest.mark.parametrize("parts", [2, 4])
def test_compiled_steps_agree_and_need_less_memory(parts: int) -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(256, 5)), rng.integers(0, 4, 256).astype(np.int32)
    found = []
    for count in (1, parts):
        net = loads(CLASSIFIER, precision="f64", dims={"H": 200})
        step = net.train_step("adam(lr=1e-2)", clip_norm=0.5, accumulate=count)
        state = step.init(net.init(0))
        for _ in range(4):
            loss, state = step(state, x=x, y=y)
        arena = step.entry({"x": x, "y": y}).native.signature.arena_bytes
        found.append((float(loss), state.params, arena))
    (loss, params, arena), (cut_loss, cut_params, cut_arena) = found
    assert abs(loss - cut_loss) < 1e-12
    for name, value in params.items():
        assert np.abs(value - cut_params[name]).max() < 1e-10
    assert cut_arena < arena


def test_a_batch_that_cannot_be_cut_evenly_is_refused() -> None:
    net = loads(CLASSIFIER)
    step = net.train_step("sgd(lr=0.1)", accumulate=5)
    state = step.init(net.init(0))
    with pytest.raises(DiagnosticError, match="cannot be cut into 5 equal parts"):
        step(state, x=np.zeros((12, 5), np.float32), y=np.zeros(12, np.int32))


DRAWN = """
dim B, T = 3, D = 5
layer part(D) {
    use f = dense(D, D)
    apply(h: float[B, D]) -> float[B, D] { return h + dropout(tanh(f(dropout(h, 0.2))), 0.4) }
}
model m(x: float[B, D], xs: float[T, B, D]) -> float {
    param g: float[D] ~ ones
    use parts = part(D) * 2
    h = x * dropout(g, 0.5)
    for p in parts { checkpoint { h = p(h) } }
    scan row in xs carry h = h {
        h = tanh(h + dropout(row, 0.3))
        scan t in iota(2) carry h = h { h = dropout(h, 0.1) + row }
    }
    z = dropout(transpose(h, [1, 0]), 0.2)
    output z
    return mean(z^2)
}
"""


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_draw_what_the_whole_batch_draws(parts: int) -> None:
    """Dropout of inputs, parameters, in checkpoints, loops, loops in loops, and with the batch on
    another axis.
    """
    rng = np.random.default_rng(4)
    x, xs = rng.normal(size=(8, 5)), rng.normal(size=(3, 8, 5))
    found = []
    for count in (1, parts):
        net = loads(DRAWN, precision="f64")
        step = net.train_step("gd(lr=0.2)", accumulate=count)
        state = step.init(net.init(2))
        for _ in range(3):
            loss, state = step(state, x=x, xs=xs)
        found.append((float(loss), {**state.params, "z": state.metrics["z"]}))
    (loss, params), (cut_loss, cut_params) = found
    assert abs(loss - cut_loss) < 1e-12
    assert (params["z"] == 0).any()
    for name, value in params.items():
        np.testing.assert_allclose(cut_params[name], value, rtol=1e-11, atol=1e-12)


# ---- budgets


NOISY = DEEP.replace("sin(tanh(fc(h)))", "dropout(sin(tanh(fc(h))), 0.25)")


@pytest.mark.parametrize(
    ("program", "dims"),
    [(NOISY, {"B": 16, "L": 4})],
    ids=["dropout"],
)
def test_budgets_bind_inside_the_parts(program: str, dims: dict[str, int]) -> None:
    """Parts are recomputed as whole batches are: fewer bytes, the same bits after two steps,
    dropout included.
    """
    net = gradc.loads(program, dims=dims)
    inputs = random_inputs(net, {}, 1)

    def after(step: TrainStep) -> list[np.ndarray]:
        state = step.init(net.init(0))
        for _ in range(2):
            loss, state = step(state, **inputs)
        assert step.entry(inputs).native.measured_bytes == step.plan().peak_bytes
        return [loss, *state.arrays.values()]

    plain = net.train_step("adamw(lr=1e-2)", clip_norm=1.0, accumulate=4)
    program_of = plain.program()
    options = pipeline_options(program_of.derive, plain.options, gradient=program_of.gradient)
    points = pareto(program_of.source, options)
    assert len(points) >= 2 and points[-1].arena_bytes < 0.97 * points[0].arena_bytes
    expected = after(plain)
    for budget in (points[-1].peak_bytes, (points[0].peak_bytes + points[1].peak_bytes) // 2):
        frugal = net.train_step("adamw(lr=1e-2)", clip_norm=1.0, accumulate=4, budget=budget)
        plan = frugal.plan()
        assert plan.peak_bytes <= budget and plan.check() == ()
        assert any(d.why == "to keep the budget" for d in plan.decisions)
        assert all(map(np.array_equal, after(frugal), expected))
    impossible = net.train_step("sgd(lr=1e-2)", accumulate=4, budget=points[-1].peak_bytes // 8)
    with pytest.raises(gradc.DiagnosticError, match="GC0602"):
        impossible(impossible.init(net.init(0)), **inputs)
