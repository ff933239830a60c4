"""Concurrent calls of compiled functions: each gives the bits that it gives alone.

    python -m benchmarks.soak_threads --count 20000

Eight threads draw functions (loss and gradients of a model in two sizes, a forward program, a
training step on a state of the thread's own, a traced NumPy function) and arguments; every result
is compared with the one of a single thread.
"""

from __future__ import annotations

import random
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

import gradc
from benchmarks.soak_common import HANG, Tally, command
from tests.support.api_models import MLP, batch

THREADS, VARIANTS = 8, 4

# What one call gives, as arrays to be compared bit for bit.
Call = Callable[[], list[Any]]


def calls() -> dict[str, Call]:
    """Every call by name; calling one twice gives the same bits."""
    net = gradc.loads(MLP)
    params = net.init(0)
    gradient, forward = net.value_and_grad(threads=2), net.forward(threads=1)
    step = net.train_step("adam(lr=0.01)", threads=1)
    traced = gradc.value_and_grad(_loss, argnums=0)
    found: dict[str, Call] = {}
    for number in range(VARIANTS):
        for size in (5, 64):
            data = {n: _single(a) for n, a in batch(number, size).items()}
            found[f"gradient {size} {number}"] = _gradient(gradient, params, data)
            found[f"forward {size} {number}"] = _forward(forward, params, data)
        found[f"step {number}"] = _step(step, params, data)
        w = np.random.default_rng(number).normal(size=(6, 3))
        found[f"traced {number}"] = _traced(traced, w, data["x"].astype(np.float64))
    return found


def _single(array: Any) -> Any:
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _loss(w: Any, x: Any) -> Any:
    return np.mean(np.tanh(x @ w) ** 2)


def _gradient(f: Any, params: Any, data: Any) -> Call:
    def call() -> list[Any]:
        loss, grads = f(params, **data)
        return [loss, *grads.values()]

    return call


def _forward(f: Any, params: Any, data: Any) -> Call:
    return lambda: list(f(params, **data).values())


def _step(step: Any, params: Any, data: Any) -> Call:
    def call() -> list[Any]:
        state = step.init(params)
        losses = [step(state, **data)[0] for _ in range(2)]
        return [*losses, *state.arrays.values()]

    return call


def _traced(f: Any, w: Any, x: Any) -> Call:
    return lambda: list(f(w, x))


def threads(count: int, seed: int, seconds: float) -> Tally:
    """``count`` calls, shared out."""
    tally = Tally("threads", seed)
    made = calls()
    wanted = {name: call() for name, call in made.items()}
    lock = threading.Lock()
    started = time.monotonic()
    limit = started + seconds

    def work(number: int) -> None:
        rng = random.Random(f"{seed}/{number}")
        for _ in range(count // THREADS + (number < count % THREADS)):
            name = rng.choice(list(made))
            begun = time.monotonic()
            if begun > limit:
                return
            try:
                found = made[name]()
            except Exception:  # noqa: BLE001  (any exception at all is what is looked for)
                with lock:
                    tally.tracebacks.append(f"{name}: {traceback.format_exc(limit=-6)}")
                continue
            took = time.monotonic() - begun
            same = all(np.array_equal(a, b) for a, b in zip(found, wanted[name], strict=True))
            with lock:
                tally.cases += 1
                tally.kinds[name.split()[0]] += 1
                if took > HANG:
                    tally.hangs.append(f"{name} took {took:.0f} s")
                if not same:
                    tally.lost.append(f"{name}: other bits than alone")

    workers = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(THREADS)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        before = tally.cases
        next(w for w in workers if w.is_alive()).join(HANG) if _any_alive(workers) else None
        tally.seconds = time.monotonic() - started
        print(f"\r{tally.line()}", end="", file=sys.stderr, flush=True)
        if tally.cases == before and _any_alive(workers):
            tally.hangs.append(f"no call came back within {HANG:.0f} s")
            break
    tally.seconds = time.monotonic() - started
    return tally


def _any_alive(workers: list[threading.Thread]) -> bool:
    return any(worker.is_alive() for worker in workers)


if __name__ == "__main__":
    sys.exit(command(__doc__, 20_000, threads, keeps_state=False))
