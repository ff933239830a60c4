"""Ids out of range and empty batches: found where data enter, with array, row, value and range."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradc as gradc_api
from gradc.ir.domains.index_uses import IndexUses
from tests.support.command_line import gradc

# Token ids through a slice, class ids of a loss, ids that are computed, ids per step of a loop, a
# one-hot vector; and integers that are no ids.
PROGRAM = """
dim B, T = 4, V = 10, D = 5, C = 3

model net(
    tokens: int[B, T], y: int[B], pick: int[B, 2], steps: int[T, B], kind: int[B], count: int[B]
) -> float {
    use table = embedding(V, D)
    use out = dense(D, C)
    param t: float[7] ~ normal(1.0)
    param r: float[6, D] ~ normal(1.0)
    scan s in steps carry h = zeros([B, D]) {
        h = h + r[s]
    }
    u = h + sum(table(tokens[:, 1:T]), axis = 1)
    z = mean(t[pick[:, 1] + 1] * cast(count, float)) + mean(one_hot(kind, 4))
    return mean(cross_entropy(out(u), y)) + z
}
"""
SHAPES = {"tokens": (6, 4), "y": (6,), "pick": (6, 2), "steps": (4, 6), "kind": (6,), "count": (6,)}


@pytest.fixture(scope="module")
def net() -> gradc_api.Model:
    return gradc_api.loads(PROGRAM)


def data(rows: int = 6) -> dict[str, Any]:
    sizes = {name: [rows if n == 6 else n for n in shape] for name, shape in SHAPES.items()}
    return {name: np.zeros(shape, np.int32) for name, shape in sizes.items()}


BAD: tuple[tuple[str, tuple[int, ...], int, str], ...] = (
    ("tokens", (2, 3), 10, r"`tokens` holds 10 in row 2, at [2, 3]; the ids of 10 rows are 0 to 9"),
    ("tokens", (5, 1), -1, r"`tokens` holds -1 in row 5, at [5, 1]; the ids of 10 rows are 0 to 9"),
    ("y", (4,), 3, "`y` holds 3 in row 4; the ids of 3 rows are 0 to 2"),
    ("y", (4,), -100, "`y` holds -100 in row 4; the ids of 3 rows are 0 to 2"),
    (
        "pick",
        (3, 1),
        6,
        "an id computed of `pick` is 7, at [3] of them; the ids of 7 rows are 0 to",
    ),
    ("steps", (3, 5), 6, "`steps` holds 6 in row 3, at [3, 5]; the ids of 6 rows are 0 to 5"),
    ("kind", (1,), 4, "`kind` holds 4 in row 1; the ids of 4 rows are 0 to 3"),
)
# What is not used as an id may be anything.
FREE = (("tokens", (2, 0), 99), ("pick", (3, 0), -7), ("count", (0,), 10**6), ("pick", (0, 1), -1))


@pytest.mark.parametrize(("name", "at", "value", "says"), BAD, ids=[f"{b[0]} {b[2]}" for b in BAD])
def test_an_id_out_of_range_is_named_with_row_value_and_range(
    net: gradc_api.Model, name: str, at: tuple[int, ...], value: int, says: str
) -> None:
    given = data()
    given[name][at] = value
    params = net.init()
    step = net.train_step("sgd(lr=0.1)", check_inputs=True)
    state = step.init(params)
    gradient, forward = (f(check_inputs=True) for f in (net.value_and_grad, net.forward))
    for call in (lambda: gradient(params, **given), lambda: step(state, **given)):
        with pytest.raises(gradc_api.DiagnosticError, match="GC0579.*" + re.escape(says)):
            call()
    assert state.step == 0
    with pytest.raises(gradc_api.DiagnosticError, match="GC0579"):
        forward(params, **given)
    # Without the option nothing is looked at: the call is as fast as it was, the loss says that
    # something is wrong.
    loss, _ = net.value_and_grad()(params, **given)
    assert np.isnan(loss) or name == "kind"


def test_what_is_no_id_may_be_anything(net: gradc_api.Model) -> None:
    params, f = net.init(), net.value_and_grad(check_inputs=True)
    for name, at, value in FREE:
        given = data()
        given[name][at] = value
        assert np.isfinite(f(params, **given)[0]), name


def test_every_array_with_a_bad_id_is_named(net: gradc_api.Model) -> None:
    given = data()
    given["tokens"][1, 2], given["y"][0], given["kind"][3] = 77, 9, -2
    with pytest.raises(gradc_api.DiagnosticError) as found:
        net.forward(check_inputs=True)(net.init(), **given)
    assert len(found.value.diagnostics) == 3


def test_uses_of_ids_agree_with_a_search_by_hand(net: gradc_api.Model) -> None:
    """Random data, a tenth of it out of range: what the check finds is what NumPy finds."""
    function = net.lower({"B": 6}).function
    uses = IndexUses(function)
    assert set(uses.inputs) == {"tokens", "y", "pick", "steps", "kind"}
    random = np.random.default_rng(7)
    for _ in range(50):
        given = {n: random.integers(-1, 12, shape) for n, shape in SHAPES.items()}
        wanted = [
            (10, given["tokens"][:, 1:]), (3, given["y"]), (7, given["pick"][:, 1] + 1),
            (6, given["steps"]), (4, given["kind"]),
        ]  # fmt: skip
        found = {use.size: np.asarray(use.ids) for use in uses.uses(given)}
        assert len(found) == len(wanted)
        for size, ids in wanted:
            assert np.array_equal(found[size], ids)


# ---- the command line


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ids")
    (folder / "net.grad").write_text(
        PROGRAM.replace("steps: int[T, B]", "steps: int[B, T]").replace(
            "s in steps", "s in steps.T"
        )
    )
    return folder


def saved(path: Path, rows: int, **bad: tuple[tuple[int, ...], int]) -> Path:
    given = data(rows)
    given["steps"] = given["steps"].T.copy()
    for name, (at, value) in bad.items():
        given[name][at] = value
    np.savez(path, **given)
    return path


@pytest.mark.parametrize(
    "command", ["run", "grad", "diagnose", "explain", "bench", "bisect", "train"]
)
def test_commands_look_at_ids_where_data_enter(work: Path, tmp_path: Path, command: str) -> None:
    file = saved(tmp_path / "bad.npz", 150, y=((133,), 3), steps=((70, 2), 6))
    extra = ["--out", str(tmp_path / "run"), "--batch", "32"] if command == "train" else []
    done = gradc(command, str(work / "net.grad"), "--data", str(file), *extra)
    assert (done.status, done.out) == (1, "")
    assert "GC0579" in done.err
    assert "`steps` holds 6 in row 70, at [70, 2]; the ids of 6 rows are 0 to 5" in done.err
    if command != "train":  # which stops at the first batch that has one
        assert "`y` holds 3 in row 133" in done.err
    assert not (tmp_path / "run").exists()


def test_validation_data_are_looked_at_too(work: Path, tmp_path: Path) -> None:
    good, bad = saved(tmp_path / "a.npz", 50), saved(tmp_path / "b.npz", 50, kind=((49,), -1))
    flags = ["--data", str(good), "--valid", str(bad), "--out", str(tmp_path / "run")]
    done = gradc("train", str(work / "net.grad"), *flags)
    assert "`kind` holds -1 in row 49; the ids of 4 rows are 0 to 3" in done.err


def test_a_gradient_of_nothing_is_refused(work: Path, tmp_path: Path, net: gradc_api.Model) -> None:
    empty = saved(tmp_path / "none.npz", 0)
    for command in ("grad", "bench", "diagnose", "train"):
        extra = ["--out", str(tmp_path / "run")] if command == "train" else []
        done = gradc(command, str(work / "net.grad"), "--data", str(empty), *extra)
        assert (done.status, "GC0803" in done.err) == (1, True), done.err
    with pytest.raises(gradc_api.DiagnosticError, match=r"GC0803.*`tokens` is \[0, 4\]"):
        net.value_and_grad(check_inputs=True)(net.init(), **data(0))
