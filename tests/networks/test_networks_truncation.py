"""Truncated backpropagation as compiled: the exact truncated gradient, and the ledger of what it
drops.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.verify import verify_function
from gradc.ir.tensor.core import DType, Role, Slot, TensorType
from gradc.passes.differentiate.transforms import jvp, value_and_grad
from gradc.passes.differentiate.window import last_windows
from gradc.runtime.api import load, loads
from gradc.runtime.cli import main
from tests.support.networks_torch import torch

ROOT = Path(__file__).resolve().parent.parent.parent
W19 = ROOT / "examples" / "worked" / "w19.grad"

LSTM = """
dim T, B, I = 3, H = 4
model m(x: float[T, B, I], goal: float[T, B, H]) -> float {
    param wx: float[I, 4*H] ~ glorot_uniform
    param wh: float[H, 4*H] ~ orthogonal
    param b: float[4*H] ~ zeros
    hs = scan row in x carry h = zeros([B, H]), c = zeros([B, H]) WINDOW {
        i, f, g, o = split(row @ wx + h @ wh + b, 4, axis = -1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(c)
        yield h
    }
    return mean((hs - goal)^2)
}
"""


def torch_gradient(params: Any, x: Any, goal: Any, window: int) -> Any:
    """Unrolled in torch, the carries detached at the borders, counted from the end."""
    leaves = {n: torch.tensor(a, requires_grad=True) for n, a in params.items()}
    trips, batch, _ = x.shape
    h = c = torch.zeros(batch, 4, dtype=torch.float64)
    rows = []
    for t in range(trips):
        if t and window and (trips - t) % window == 0:
            h, c = h.detach(), c.detach()
        z = torch.tensor(x[t]) @ leaves["wx"] + h @ leaves["wh"] + leaves["b"]
        i, f, g, o = z.chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        rows.append(h)
    ((torch.stack(rows) - torch.tensor(goal)) ** 2).mean().backward()
    return {n: leaf.grad.numpy() for n, leaf in leaves.items()}


@pytest.mark.parametrize(("trips", "window"), [(7, 1), (7, 3), (9, 3), (20, 6), (5, 5), (5, 8)])
def test_the_compiled_gradient_and_the_ledger_equal_torch_with_detached_carries(
    trips: int, window: int
) -> None:
    rng = np.random.default_rng(trips)
    x, goal = rng.normal(size=(trips, 2, 3)), rng.normal(size=(trips, 2, 4))
    net = loads(LSTM.replace("WINDOW", f"truncate {window}"), precision="f64")
    params = net.init(0)
    params["b"] = rng.normal(size=16)
    kept, whole = (torch_gradient(params, x, goal, k) for k in (window, 0))
    _, grads = net.value_and_grad()(params, x=x, goal=goal)
    ledger = net.truncation(params, x=x, goal=goal)
    assert [(w.size, w.trips) for w in ledger.windows] == (
        [(window, trips)] if window < trips else []
    )
    assert [row.name for row in ledger.parameters] == ["wx", "wh", "b"]
    for row in ledger.parameters:
        np.testing.assert_allclose(grads[row.name], kept[row.name], rtol=1e-10, atol=1e-13)
        expected = [np.linalg.norm(a[row.name]) for a in (whole, kept)]
        dropped = np.linalg.norm(whole[row.name] - kept[row.name])
        np.testing.assert_allclose([row.whole, row.kept], expected, rtol=1e-10)
        np.testing.assert_allclose(row.dropped, dropped, rtol=1e-9, atol=1e-14)
        assert (row.dropped > 1e-6) == (window < trips)


LAST = LSTM.replace("hs = scan row in x", "scan row in x").replace(
    "mean((hs - goal)^2)", "mean((h - goal[T - 1])^2)"
)
LAST = LAST.replace("        yield h\n", "")


@pytest.mark.parametrize(("trips", "window"), [(7, 1), (7, 3), (9, 3), (20, 6), (5, 5), (5, 8)])
def test_a_loss_of_the_last_state_is_that_of_the_last_window(trips: int, window: int) -> None:
    """Only the last window is kept and reversed; the gradient is torch's with detached carries."""
    rng = np.random.default_rng(trips)
    x, goal = rng.normal(size=(trips, 2, 3)), rng.normal(size=(trips, 2, 4))
    net = loads(LAST.replace("WINDOW", f"truncate {window}"), precision="f64")
    params = net.init(0)
    params["b"] = rng.normal(size=16)
    leaves = {n: torch.tensor(a, requires_grad=True) for n, a in params.items()}
    h = c = torch.zeros(2, 4, dtype=torch.float64)
    for t in range(trips):
        if t and (trips - t) % window == 0:
            h, c = h.detach(), c.detach()
        z = torch.tensor(x[t]) @ leaves["wx"] + h @ leaves["wh"] + leaves["b"]
        i, f, g, o = z.chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
    loss = ((h - torch.tensor(goal[-1])) ** 2).mean()
    loss.backward()
    found, grads = net.value_and_grad(["wx", "wh", "b", "x"])(params, x=x, goal=goal)
    np.testing.assert_allclose(found, loss.item(), rtol=1e-12)
    for name, leaf in leaves.items():
        np.testing.assert_allclose(grads[name], leaf.grad.numpy(), rtol=1e-10, atol=1e-13)
    assert not grads["x"][: max(0, trips - window)].any()
    assert np.abs(grads["x"][max(0, trips - window) :]).min(axis=(1, 2)).all()


def test_memory_does_not_grow_with_what_a_window_cuts_off() -> None:
    """Residuals are those of one window: the arena of ten times as many trips is the same."""

    def arena(window: str, trips: int) -> int:
        net = loads(LAST.replace("WINDOW", window), dims={"T": trips, "B": 8})
        return net.plan(threads=1).arena_bytes

    cut, longer = arena("truncate 8", 50), arena("truncate 8", 500)
    assert longer == cut < arena("", 50) / 3
    assert arena("", 500) > 9 * arena("", 50)
    # What every trip yields needs every window.
    yielded = loads(LSTM.replace("WINDOW", "truncate 8"), dims={"T": 500, "B": 8})
    assert yielded.plan(threads=1).arena_bytes > 20 * cut


def test_the_last_row_of_a_stack_is_the_last_carry() -> None:
    """`hs[-1]` has a cotangent of one state: as much memory and the same bits as the carry
    itself.
    """
    row = LAST.replace("{\n        i, f", "{\n        i, f").replace(
        "scan row in x", "hs = scan row in x"
    )
    row = row.replace("tanh(c)\n    }", "tanh(c)\n        yield h\n    }").replace(
        "(h - goal", "(hs[-1] - goal"
    )
    assert "yield h" in row and "hs[-1]" in row
    for window in ("", "truncate 8"):
        nets = [loads(t.replace("WINDOW", window), dims={"T": 60, "B": 8}) for t in (LAST, row)]
        assert len({net.plan(threads=1).arena_bytes for net in nets}) == 1
        rng = np.random.default_rng(1)
        x, goal = (rng.normal(size=(60, 8, n)).astype(np.float32) for n in (3, 4))
        params = nets[0].init(0)
        found = [net.value_and_grad()(params, x=x, goal=goal) for net in nets]
        assert found[0][0] == found[1][0]
        assert all(np.array_equal(found[0][1][n], found[1][1][n]) for n in params)


@pytest.mark.parametrize("is_reverse", [False, True])
def test_loops_in_two_compute_what_they_computed(is_reverse: bool) -> None:
    """The same results and derivatives in f64 as the loop in one piece, whichever way it runs."""
    b = Builder()
    types = [
        TensorType((3,), DType.F64),
        TensorType((7, 3), DType.F64),
        TensorType((3, 3), DType.F64),
    ]
    start, rows, weight = (b.parameter(t, n) for t, n in zip(types, ("h", "x", "w"), strict=True))
    inner = Builder()
    h, x, w = (inner.parameter(TensorType(s, DType.F64)) for s in ((3,), (3,), (3, 3)))
    product = inner.one("contract", h, w, batch=(), contract=((0, 0),))
    region = inner.block([inner.one("tanh", inner.one("add", product, x))])
    attributes: dict[str, Any] = {
        "trips": 7, "carried": 1, "stacked": 1, "reverse": is_reverse, "truncate": 3,
    }  # fmt: skip
    (last,) = b.emit("scan", start, rows, weight, regions=(region,), **attributes)
    slots = [Slot(n, Role.PARAM) for n in ("h", "x", "w")]
    loss = b.one("sum", last, axes=(0,))
    function = b.function("loop", [loss], slots, [Slot("loss", Role.LOSS)])
    split = last_windows(function)
    verify_function(split)
    assert split is not function and last_windows(split) is split
    assert [op.attributes["trips"] for op in split.block.body if op.name == "scan"] == [4, 3]
    rng = np.random.default_rng(4)
    values = [rng.normal(size=t.static_shape) for t in types]
    tangents = [rng.normal(size=t.static_shape) for t in types]
    (plain,), (again,) = (run(NumpyArrays(), f, values) for f in (function, split))
    assert plain == again
    # Forward mode is left in one piece: its derivative along a direction is that of the gradient.
    dots = run(NumpyArrays(), jvp(function, ["h", "x", "w"]), [*values, *tangents])[-1]
    grads = run(NumpyArrays(), value_and_grad(function, ["h", "x", "w"]), values)[1:]
    np.testing.assert_allclose(
        dots, sum((g * t).sum() for g, t in zip(grads, tangents, strict=True)), rtol=1e-12
    )
    assert not grads[0].any()


def test_w19_the_ledger_of_the_worked_figure() -> None:
    """Of the six steps' products of diag(1 - h^2) wh the window keeps those of the last two."""
    rng = np.random.default_rng(19)
    net = load(W19, entry="windowed", precision="f64")
    params = net.init(1)
    xs, y = rng.normal(size=(6, 3)), rng.normal(size=4)
    states = [np.zeros(4)]
    for x in xs:
        states.append(np.tanh(params["wh"] @ states[-1] + params["wx"] @ x + params["b"]))
    ct, terms = 2 * (states[-1] - y), []
    for t in range(6, 0, -1):
        dz = (1 - states[t] ** 2) * ct
        terms.append(dz)
        ct = params["wh"].T @ dz
    ledger = net.truncation(params, xs=xs, y=y)
    row = next(r for r in ledger.parameters if r.name == "b")
    found = [row.whole, row.kept, row.dropped]
    expected = [np.linalg.norm(sum(part)) for part in (terms, terms[:2], terms[2:])]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert "w19.grad:22: truncate 2 of 6 steps" in ledger.report()
    assert ledger.to_json()["loops"][0]["window"] == 2
    assert ledger.peaks is not None
    peaks = [
        load(W19, entry=e, precision="f64").plan().peak_bytes for e in ("recurrent", "windowed")
    ]
    assert list(ledger.peaks) == peaks
    assert f"{peaks[0] - peaks[1]} saved" in ledger.report()


def test_a_model_without_truncation_drops_nothing() -> None:
    net = load(W19, entry="recurrent", precision="f64")
    rng = np.random.default_rng(0)
    ledger = net.truncation(net.init(0), xs=rng.normal(size=(6, 3)), y=rng.normal(size=4))
    assert ledger.windows == () and ledger.share == 0


def test_diagnose_tells_what_is_dropped_and_tries_a_longer_window(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    model, data = tmp_path / "m.grad", tmp_path / "x.npz"
    text = LSTM.replace("WINDOW", "truncate 1").replace("T, B", "T = 12, B", 1)
    model.write_text(text)
    x, goal = rng.normal(size=(12, 2, 3)), np.zeros((12, 2, 4))
    goal[-1] = 5.0
    np.savez(data, x=x.astype(np.float32), goal=goal.astype(np.float32))
    assert main(["diagnose", str(model), "--data", str(data), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in found["truncation"]["parameters"]}
    net = load(model, precision="f64")
    ledger = net.truncation(net.init(0), x=x.astype("f4"), goal=goal)
    for row in ledger.parameters:
        assert rows[row.name]["dropped"] == pytest.approx(row.dropped, rel=1e-6)
    finding = next(f for f in found["findings"] if f["kind"] == "truncation")
    assert "`truncate 1` leaves out" in finding["message"] and finding["line"].startswith(
        f"{model}:7"
    )
    window = int(finding["remedy"].split("truncate ")[1].split("`")[0])
    longer = load(_with(model, window), precision="f64")
    assert longer.truncation(net.init(0), x=x.astype("f4"), goal=goal).share < 0.1
    assert main(["diagnose", str(model), "--data", str(data)]) == 0
    assert "left out by truncation" in capsys.readouterr().out


def _with(model: Path, window: int) -> Path:
    other = model.with_name("other.grad")
    other.write_text(model.read_text().replace("truncate 1 ", f"truncate {window} "))
    return other
