"""Small results that nobody holds are handed out again; what anybody holds never changes."""

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gradc.runtime.api import loads

MODEL = """
dim N
model m(x: float[N]) -> float {
    param w: float[N] ~ ones
    output y = w * x
    return sum(w * w * x)
}
"""
SHARED = """
dim N
model m(x: float[N]) -> float {
    param w: float[1] ~ ones
    return mean(w * w * tanh(exp(tanh(x * 0 + 9)) * 1e3) * x)
}
"""
Call = Callable[[int], tuple[Any, dict[str, Any]]]


@pytest.fixture(scope="module")
def call() -> Call:
    """Loss, and gradients that are 6 n, of inputs that are n."""
    net = loads(MODEL)
    f = net.value_and_grad()
    params = {"w": np.full(5, 3, np.float32)}
    return lambda n: f(params, x=np.full(5, n, np.float32))


def test_what_is_dropped_is_used_again(call: Call) -> None:
    call(0)  # compiles, perhaps
    places = {call(n)[1]["w"].ctypes.data for n in range(20)}
    assert len(places) <= 2


@pytest.mark.parametrize(
    "hold",
    [
        lambda found: found,
        lambda found: found[1],
        lambda found: found[1]["w"],
        lambda found: found[1]["w"][1:],
        lambda found: memoryview(found[1]["w"]),
        lambda found: np.from_dlpack(found[1]["w"]),
        lambda found: found[1].values(),
    ],
)
def test_what_is_held_does_not_change(call: Call, hold: Callable[[Any], Any]) -> None:
    def numbers(held: Any) -> list[float]:
        if isinstance(held, tuple):
            held = held[1]
        if isinstance(held, dict):
            held = held["w"]
        array = next(iter(held)) if type(held).__name__ == "dict_values" else held
        return [float(x) for x in np.asarray(array)]

    kept = [hold(call(n)) for n in range(8)]
    for n, held in enumerate(kept):
        assert set(numbers(held)) == {6.0 * n}


def _reshaped(g: dict[str, Any]) -> None:
    g["w"].resize((1, 5), refcheck=False)


def _frozen(g: dict[str, Any]) -> None:
    g["w"].flags.writeable = False


@pytest.mark.parametrize(
    "spoil",
    [
        lambda g: g.pop("w"),
        lambda g: g.clear(),
        lambda g: g.update(w=np.zeros(5, np.float32)),
        lambda g: g.update(other=1),
        lambda g: g["w"].fill(7),
        _reshaped,
        _frozen,
    ],
)
def test_what_was_changed_is_new_again(call: Call, spoil: Callable[[Any], Any]) -> None:
    for n in range(6):
        loss, grads = call(n)
        assert loss == 45 * n
        assert list(grads) == ["w"]
        assert grads["w"].shape == (5,)
        assert grads["w"].flags.writeable
        assert set(grads["w"]) == {6.0 * n}
        spoil(grads)


@pytest.mark.parametrize("size", [5, 6000])
def test_several_threads_do_not_share_results(size: int) -> None:
    """The larger program gives up the GIL while it runs; its results are as small."""
    f = loads(SHARED).value_and_grad()
    params = {"w": np.full(1, 3, np.float32)}
    wrong: list[int] = []

    def run(first: int) -> None:
        held: list[Any] = []
        for n in range(first, first + 400):
            loss, grads = f(params, x=np.full(size, n, np.float32))
            held = [*held[-2:], (n, grads["w"])]
            fits = [loss / 9 - n, *(g[0] / 6 - m for m, g in held)]
            wrong.extend(() if max(map(abs, fits)) < 0.1 else (n,))

    threads = [threading.Thread(target=run, args=(1000 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("count", [5, 50_000])
def test_nothing_is_kept_of_large_results_nor_after_the_program(count: int) -> None:
    f: Any = loads(MODEL).value_and_grad()
    params = {"w": np.ones(count, np.float32)}
    results = [f(params, x=np.ones(count, np.float32))[1]["w"] for _ in range(3)]
    watched = [weakref.ref(array) for array in results]
    results.clear()
    gc.collect()
    assert sum(ref() is not None for ref in watched) <= (2 if count == 5 else 0)
    del f
    gc.collect()
    assert all(ref() is None for ref in watched)
