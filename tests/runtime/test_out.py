"""Results in arrays that the caller gives: the same bits there, nothing else touched, and all
that does not fit refused before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gradc
from gradc.ir.diagnostics.diagnostic import DiagnosticError

TEXT = """
dim N
model m(x: float[N, 3]) -> float {
    param w: float[3, 4] ~ normal(1)
    param b: float[4] ~ normal(1)
    y = tanh(x @ w + b)
    output y
    output top = max(y, axis=0)
    return mean(y * y)
}
"""


@pytest.fixture(scope="module", params=["cpu", "reference"])
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def net() -> gradc.Model:
    return gradc.loads(TEXT)


def start(net: gradc.Model, n: int = 5) -> tuple[dict[str, Any], np.ndarray]:
    return net.init(3), np.random.default_rng(n).normal(size=(n, 3)).astype(np.float32)


def like(found: dict[str, Any]) -> dict[str, Any]:
    return {name: np.full_like(a, 7) for name, a in found.items() if np.ndim(a)}


def check(plain: dict[str, Any], given: dict[str, Any], out: dict[str, Any]) -> None:
    """The results of ``plain`` lie in ``out``, which ``given`` has."""
    for name, array in out.items():
        assert given[name] is array
        assert np.array_equal(plain[name], array), name


def test_gradients_lie_in_the_arrays_given(net: gradc.Model, target: str) -> None:
    params, x = start(net)
    f = net.value_and_grad(target=target)
    for n in (5, 0):
        x = start(net, n)[1]
        loss, plain = f(params, x=x)
        kept = {name: a.copy() for name, a in plain.items()}
        for _ in range(3):  # in Python, then in machine code
            out = like(params)
            again, given = f(params, x=x, out=out)
            assert given is out
            assert np.array_equal(loss, again, equal_nan=True)
            for name, array in out.items():
                assert np.array_equal(kept[name], array, equal_nan=True)
        assert np.array_equal(plain["w"], kept["w"], equal_nan=True)


def test_every_call_with_results_by_name_takes_room_for_them(net: gradc.Model, target: str) -> None:
    params, x = start(net)
    seeds = {"loss": np.array(2, np.float32), "y": x @ params["w"], "top": params["b"]}
    calls: list[tuple[Callable[..., Any], tuple[Any, ...], Callable[[Any], Any]]] = [
        (net.forward(target=target), (), lambda found: found),
        (net.forward(["top"], target=target), (), lambda found: found),
        (net.value_and_grad("inputs", target=target, aux=True), (), lambda found: found[1]),
        (net.vjp(target=target), (seeds,), lambda found: found[1]),
        (net.jvp(target=target), (params,), lambda found: found[1]),
        (net.hvp(target=target), (params,), lambda found: found[2]),
        (net.value_and_grad(target=target, check_inputs=True), (), lambda found: found[1]),
    ]
    for call, more, last in calls:
        plain = last(call(params, *more, x=x))
        out = {n: np.full_like(a, 7) for n, a in plain.items() if isinstance(a, np.ndarray)}
        for _ in range(2):
            check(plain, last(call(params, *more, x=x, out=out)), out)


def test_many_steps_write_losses_and_metrics_where_they_are_told(
    net: gradc.Model, target: str
) -> None:
    params, x = start(net)
    step = net.train_step("adam(lr=1e-2)", clip_norm=1.0, target=target)
    queue = np.stack([x, -x, x + 1])
    losses, state = step.many(3, step.init(params), x=queue)
    out = {n: np.empty_like(a) for n, a in {"loss": losses, **state.metrics}.items()}
    out["grad_norm"] = np.empty(6, np.float32)[::2]
    found, told = step.many(3, step.init(params), x=queue, out=out)
    assert found is out["loss"]
    assert np.array_equal(found, losses)
    check(state.metrics, told.metrics, {n: a for n, a in out.items() if n != "loss"})
    with pytest.raises(DiagnosticError, match="GC0553"):
        step.many(3, step.init(params), x=queue, out={})


def test_what_cannot_be_written_in_place_is_copied(net: gradc.Model, target: str) -> None:
    params, x = start(net)
    f = net.value_and_grad(target=target)
    _, plain = f(params, x=x)
    raw = np.zeros(4 * 4 + 1, np.uint8)
    rooms: list[dict[str, Any]] = [
        {"w": np.zeros((3, 8), np.float32)[:, ::2], "b": np.zeros(4, np.float32)[::-1]},
        {
            "w": np.zeros((4, 3), np.float32).T,
            "b": np.zeros(4, np.dtype(np.float32).newbyteorder()),
        },
        {"w": np.zeros((3, 4), np.float32), "b": raw[1:].view(np.float32)},
    ]
    for out in rooms:
        for _ in range(2):
            check(plain, f(params, x=x, out=out)[1], out)
    half = gradc.loads(TEXT, precision="bf16").value_and_grad(target=target)
    _, rounded = half(params, x=x)
    out = like(rounded)
    for _ in range(2):
        check(rounded, half(params, x=x, out=out)[1], out)


def same_memory(a: np.ndarray) -> dict[str, Any]:
    return {"w": a, "b": a[2]}


BAD: list[tuple[str, Callable[[dict[str, Any], np.ndarray], dict[str, Any]]]] = [
    ("GC0552", lambda p, x: {**like(p), "w": np.zeros((3, 4))}),
    ("GC0555", lambda p, x: {**like(p), "w": np.zeros((4, 3), np.float32)}),
    ("GC0551", lambda p, x: {**like(p), "w": [[0.0] * 4] * 3}),
    ("GC0553", lambda p, x: {"w": np.zeros((3, 4), np.float32)}),
    ("GC0554", lambda p, x: {**like(p), "v": np.zeros(4, np.float32)}),
    ("GC0554", lambda p, x: {"w": like(p)["w"], "v": np.zeros(4, np.float32)}),
    ("GC0557", lambda p, x: {**like(p), "b": np.broadcast_to(np.float32(0), 4)}),
    ("GC0557", lambda p, x: {**like(p), "b": p["w"][1]}),
    ("GC0557", lambda p, x: {**like(p), "b": x.reshape(-1)[:4]}),
    ("GC0557", lambda p, x: same_memory(np.zeros((3, 4), np.float32))),
]


@pytest.mark.parametrize(("code", "room"), BAD)
def test_what_does_not_fit_is_refused_and_nothing_is_written(
    net: gradc.Model, target: str, code: str, room: Callable[..., Any]
) -> None:
    params, x = start(net)
    f = net.value_and_grad(target=target)
    f(params, x=x)
    before = {name: a.copy() for name, a in params.items()}
    good = like(params)
    f(params, x=x, out=good)  # the machine code has seen these addresses
    for array in good.values():
        array[...] = 7
    out = room(params, x)
    kept = {n: np.array(a) for n, a in out.items()}
    with pytest.raises(DiagnosticError, match=code):
        f(params, x=x, out=out)
    assert all(np.array_equal(params[name], before[name]) for name in before)
    assert all(np.array_equal(a, kept[n]) for n, a in out.items())
    with pytest.raises(TypeError, match="dictionary of arrays"):
        f(params, x=x, out=params["w"])


def test_strided_arrays_between_each_other_lie_apart(net: gradc.Model) -> None:
    params, x = start(net)
    both = np.zeros((5, 6), np.float32)
    both[:, ::2] = x
    f = net.value_and_grad("inputs")
    _, plain = f(params, x=x)
    out = {"x": both[:, 1::2]}
    check(plain, f(params, x=both[:, ::2], out=out)[1], out)


def test_a_model_with_an_input_called_out_keeps_it() -> None:
    net = gradc.loads("model m(out: float[3]) -> float {\n param w: float[3] ~ ones\n"
                      " return sum(w * out)\n}")  # fmt: skip
    x = np.arange(3, dtype=np.float32)
    f = net.value_and_grad()
    for _ in range(2):
        assert np.array_equal(f(net.init(), out=x)[1]["w"], x)


def test_gradients_of_functions_take_a_tree_of_arrays() -> None:
    rng = np.random.default_rng(1)
    x, p = rng.normal(size=(4, 2)), {"w": rng.normal(size=2), "b": np.array(0.5)}

    def loss(p: Any, x: Any) -> Any:
        return np.mean((x @ p["w"] + p["b"]) ** 2)

    f = gradc.value_and_grad(loss)
    value, plain = f(p, x)
    for strided in (False, True):
        out = {"w": np.zeros((2, 3))[:, 1] if strided else np.zeros(2), "b": np.zeros(())}
        again, found = f(p, x, out=out)
        assert again == value
        check(plain, found, out)
    pair = gradc.grad(lambda a, b: np.sum(a * b), argnums=(0, 1))
    rooms = (np.zeros(2), np.zeros(2))
    assert pair(p["w"], x[0], out=rooms)[1] is rooms[1]
    assert np.array_equal(rooms[0], x[0])
    z, turned = rng.normal(size=2) + 1j, np.zeros(2, complex)
    slope = gradc.grad(lambda z: np.sum(np.abs(z) ** 2))
    assert slope(z, out=turned) is turned
    assert np.array_equal(turned, slope(z))


def test_room_that_a_function_cannot_use_is_refused() -> None:
    w = np.ones(3)
    slope = gradc.grad(lambda w: np.sum(w**2))
    for out, what in ((np.zeros(2), "GC0555"), (w, "GC0557"), (np.zeros(3, np.float32), "GC0552")):
        with pytest.raises(DiagnosticError, match=what):
            slope(w, out=out)
    with pytest.raises(TypeError, match="structure of the gradient"):
        slope(w, out=(np.zeros(3),))

    def takes_it(w: Any, out: Any) -> Any:
        return np.sum(w * out)

    assert np.array_equal(gradc.grad(takes_it)(w, out=2 * w), 2 * w)


def test_a_jacobian_has_no_room(net: gradc.Model) -> None:
    params, x = start(net)
    jacobian = net.jacobian("inputs")
    plain = jacobian(params, x=x)
    with pytest.raises(TypeError, match="has no `out`"):
        jacobian(params, x=x, out=like(plain))
