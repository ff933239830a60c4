"""Steps that visit only the rows which a batch touches: the bits of the dense program, for whatever
ids, parameters and recipes, and the dense program where zeros may change something.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gradc
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.touched import touched_sums, touched_update
from gradc.ir.tensor.core import DType, Function, Role, Slot, TensorType
from gradc.passes.pipeline import Options, run_pipeline
from gradc.passes.training import step as composer
from gradc.runtime.model.state import StoppedStep
from gradc.runtime.native.arrays import NUMPY_DTYPE
from gradc.runtime.native.load import compile_plan

TEXT = """
dim B, K, V, D
model m(one: int[B], more: int[B, K], x: float[B, D]) -> float {
    param table: float[V, D] ~ normal(1)
    param other: float[V, D] ~ normal(1)
    param w: float[D, D] ~ normal(1)
    h = tanh(table[one] @ w + x)
    return mean(h * sum(other[more], axis=1))
}
optimizer moved(lr = 0.1) {
    state c ~ zeros
    update(p, g, t) {
        c = c - g * g
        return p - lr * g
    }
}
"""
DIMS = {"V": 40, "D": 3, "K": 2}
RECIPES: list[dict[str, Any]] = [
    {"optimizer": "sgd(lr=0.1)"},
    {"optimizer": "moved(lr=0.1)", "clip_value": 0.01},
    {"optimizer": "sgd(lr=0.1)", "loss_scale": 1024.0},
    {"optimizer": "gd(lr=0.1)", "guard": False},
]
WHOLE: list[tuple[str, dict[str, Any]]] = [
    ("sgd(lr=0.1, momentum=0.9)", {}),
    ("sgd(lr=-0.1)", {}),  # -0.0 - -0.0 is 0.0
    ("adam(lr=0.1)", {}),
    ("sgd(lr=0.1, decay=0.1)", {}),
    ("sgd(lr=0.1)", {"clip_norm": 1.0}),
    ("sgd(lr=0.1)", {"schedule": "cosine(peak=0.1, total=9)"}),
    ("sgd(lr=0.1)", {"loss_scale": "dynamic"}),
]


def batch(rng: np.random.Generator, b: int, v: int, dims: dict[str, int]) -> dict[str, Any]:
    """Ids of which some are out of range and many are equal."""
    ids = rng.integers(-1, v // 4 + 2, (b, 1 + dims["K"])).astype(np.int32)
    ids[rng.random(ids.shape) < 0.1] = v + 3
    x = rng.normal(size=(b, dims["D"]))
    return {"one": ids[:, 0].copy(), "more": ids[:, 1:].copy(), "x": x.astype(np.float32)}


def dense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composer, "touched", lambda _maker: None)


def same_steps(
    monkeypatch: pytest.MonkeyPatch,
    net: gradc.Model,
    recipe: dict[str, Any],
    batches: list[dict[str, Any]],
    **options: Any,
) -> None:
    """Both steps give the same bits of everything, in turns on their own states."""
    params = net.init(1)
    for value, row in ((-0.0, 0), (np.inf, -2), (np.nan, -1)):
        params["table"][row] = params["other"][row] = value
    dims = {"B": len(batches[0]["one"])}
    step = net.train_step(**recipe, use_cache=False, **options)
    assert step.updates(dims) == {"table": "rows", "other": "rows"}
    state = step.init(params)
    losses = [step(state, **data)[0] for data in batches]
    with monkeypatch.context() as patch:
        dense(patch)
        whole = net.train_step(**recipe, use_cache=False, **options)
        expected = whole.init(params)
        wanted = [whole(expected, **data)[0] for data in batches]
    assert np.array_equal(losses, wanted)
    for name, array in expected.arrays.items():
        assert array.tobytes() == state.arrays[name].tobytes(), name
    assert state.arrays["table"][:-2].tobytes() != params["table"][:-2].tobytes()


def in_range(batches: list[dict[str, Any]], v: int) -> list[dict[str, Any]]:
    """The batches without ids that make a loss that is no number."""
    return [
        {n: np.clip(a, 0, v - 3) if n != "x" else a for n, a in data.items()} for data in batches
    ]


@pytest.mark.parametrize("recipe", RECIPES)
def test_steps_have_the_bits_of_the_dense_program(
    monkeypatch: pytest.MonkeyPatch, recipe: dict[str, Any]
) -> None:
    rng = np.random.default_rng(3)
    net = gradc.loads(TEXT, dims=DIMS)
    batches = in_range([batch(rng, 7, 40, DIMS) for _ in range(4)], 40)
    same_steps(monkeypatch, net, recipe, batches, threads=1)


@pytest.mark.parametrize(
    ("precision", "target"), [("f64", "cpu"), ("bf16", "cpu"), ("f32", "reference")]
)
def test_any_type_and_backend(monkeypatch: pytest.MonkeyPatch, precision: str, target: str) -> None:
    rng = np.random.default_rng(4)
    net = gradc.loads(TEXT, dims=DIMS, precision=precision)
    batches = in_range([batch(rng, 5, 40, DIMS) for _ in range(2)], 40)
    same_steps(monkeypatch, net, RECIPES[0], batches, target=target)


@pytest.mark.parametrize("threads", [1, 2])
def test_ids_that_come_a_thousand_times(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """Sums of several levels, in blocks of columns."""
    dims = {"V": 20_000, "D": 37, "K": 1}
    rng = np.random.default_rng(5)
    net = gradc.loads(TEXT, dims=dims)
    data = batch(rng, 5_000, 12, dims)
    same_steps(monkeypatch, net, RECIPES[0], in_range([data], 12), threads=threads)


def both_programs(dtype: DType, count: int, rows: int, width: int) -> list[Function]:
    """The rows that ids name and a table minus all rows, by visiting few rows and by all."""
    found = []
    for is_dense in (False, True):
        b = Builder()
        ids = b.parameter(TensorType((count,), DType.I32), "ids")
        updates = b.parameter(TensorType((count, width), dtype), "updates")
        table = b.parameter(TensorType((rows, width), dtype), "table")
        scatter = b.one("scatter_add", ids, updates, axis=0, size=rows)
        (maker,) = [op for op in b.ops if scatter in op.results]
        if is_dense:
            sums = b.one("take", scatter, ids, axis=0, fill="zero")
            new = b.one("sub", table, scatter)
        else:
            sums = touched_sums(b, maker)
            (new,) = touched_update(
                b, maker, [table], [], lambda k, g, olds, _: [k.one("sub", olds[0], g)]
            )
        slots = [Slot("ids", Role.INPUT), Slot("updates", Role.INPUT), Slot("table", Role.STATE)]
        results = [Slot("sums", Role.OUTPUT), Slot("table", Role.STATE)]
        found.append(b.function("f", [sums, new], slots, results))
    return found


@pytest.mark.parametrize(("dtype", "count"), [(DType.F32, 9), (DType.F32, 700), (DType.F16, 70)])
def test_kernels_have_the_bits_of_their_regions(dtype: DType, count: int) -> None:
    """With ids out of range as well, which read 0 and write nothing."""
    rows, width, rng = 4 * count, 5, np.random.default_rng(count)
    ids = rng.integers(-2, 9, count).astype(np.int32)
    ids[::7] = rows
    updates = rng.normal(size=(count, width)).astype(NUMPY_DTYPE[dtype])
    table = rng.normal(size=(rows, width)).astype(NUMPY_DTYPE[dtype])
    results = []
    for function in both_programs(dtype, count, rows, width):
        native = compile_plan(run_pipeline(function, Options()).plan, threads=1, cache=False)
        sums, changed = np.empty_like(updates), table.copy()
        native.call([ids, updates, changed, sums])
        results.append((sums.tobytes(), changed.tobytes()))
    assert results[0] == results[1]
    inside = (ids >= 0) & (ids < rows)
    added = np.zeros((rows, width))
    np.add.at(added, ids[inside], updates[inside].astype(np.float64))
    near = 2e-2 if dtype is DType.F16 else 1e-4
    np.testing.assert_allclose(changed, table - added, rtol=near, atol=near)


def test_no_array_of_the_tables_size_is_made() -> None:
    net = gradc.loads(TEXT, dims={"V": 10_000, "D": 16, "K": 2})
    step = net.train_step("sgd(lr=0.1)", threads=1)
    plan = step.plan({"B": 8})
    assert plan.arena_bytes < 10_000 * 16 * 4 // 2
    assert not plan.check()
    assert net.train_step("adam(lr=0.1)", threads=1).plan({"B": 8}).arena_bytes > 10_000 * 16 * 4


def test_a_table_that_is_read_after_its_update_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing reads the new rows in place of the old ones."""
    text = TEXT.replace("    return mean", "    output all = table * 2\n    return mean")
    net = gradc.loads(text, dims=DIMS)
    data = in_range([batch(np.random.default_rng(7), 6, 40, DIMS)], 40)[0]
    step = net.train_step("sgd(lr=0.1)")
    params = net.init(1)
    _, state = step(step.init(params), **data)
    assert np.array_equal(state.metrics["all"], params["table"] * 2)
    same_steps(monkeypatch, net, RECIPES[0], [data])


def test_a_stopped_step_changes_no_row() -> None:
    net = gradc.loads(TEXT, dims=DIMS)
    data = in_range([batch(np.random.default_rng(8), 6, 40, DIMS)], 40)[0]
    step = net.train_step("sgd(lr=0.1)")
    state = step.init(net.init(1))
    state.arrays["other"][data["more"][0, 0]] = np.inf
    before = {name: array.copy() for name, array in state.arrays.items()}
    with pytest.raises(StoppedStep):
        step(state, **data)
    assert all(a.tobytes() == before[n].tobytes() for n, a in state.arrays.items())


@pytest.mark.parametrize(("optimizer", "more"), WHOLE)
def test_what_zeros_may_change_is_updated_whole(optimizer: str, more: dict[str, Any]) -> None:
    net = gradc.loads(TEXT, dims=DIMS)
    told = net.train_step(optimizer, **more).updates({"B": 7})
    assert set(told) == {"table", "other"}
    assert "rows" not in told.values()


def test_tables_that_are_more_than_rows_say_nothing_or_why() -> None:
    few = gradc.loads(TEXT, dims={**DIMS, "V": 8}).train_step("sgd(lr=0.1)")
    assert few.updates({"B": 7})["table"] == "7 ids may be most of its rows"
    tied = TEXT.replace("x: float[B, D]", "x: float[B, V]").replace("+ x)", "+ x @ table)")
    net = gradc.loads(tied, dims=DIMS)
    assert net.train_step("sgd(lr=0.1)").updates({"B": 7}) == {"other": "rows"}
    with pytest.raises(DiagnosticError):
        net.train_step("sgd(lr=0.1)").updates()
