"""The codes of examples/functions beside autograd and JAX: equal in f64, and how long a call
takes.

``python -m benchmarks.functions [NAME ...]`` prints the table of docs/functions.md: the processor
time of the first gradient (tracing and compiling), then the best of several calls, in one
interleaved run. A
peer that is not installed or cannot run a code has a dash.

Non-goals: whole programs; what is timed is one value and gradient at the starting point.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gradc

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "functions"
ROUNDS = 15


def loaded(name: str) -> Any:
    """The module of one code."""
    spec = importlib.util.spec_from_file_location(f"functions_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def leaves(tree: Any) -> list[Any]:
    return [tree[k] for k in sorted(tree)] if isinstance(tree, dict) else [tree]


def _gradc(module: Any) -> Callable[..., Any]:
    return gradc.value_and_grad(module.objective)


def _autograd(module: Any) -> Callable[..., Any]:
    peer: Any = importlib.import_module("autograd")
    module.np = importlib.import_module("autograd.numpy")
    if hasattr(module, "gammaln"):
        module.gammaln = importlib.import_module("autograd.scipy.special").gammaln
    made: Callable[..., Any] = peer.value_and_grad(module.objective)
    return made


def _jax(module: Any) -> Callable[..., Any]:
    peer: Any = importlib.import_module("jax")
    module.np = peer.numpy
    if hasattr(module, "gammaln"):
        module.gammaln = peer.scipy.special.gammaln
    compiled = peer.jit(peer.value_and_grad(module.objective))
    return lambda *args: peer.block_until_ready(compiled(*args))


PEERS: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "gradc": _gradc,
    "autograd": _autograd,
    "jax": _jax,
}


def measured(name: str) -> str:
    """One row: first call and best call of each, after the gradients were found equal."""
    calls, first, results = {}, {}, {}
    for peer, make in PEERS.items():
        module = loaded(name)
        arguments = module.start()
        began = time.process_time()
        if peer == "jax" and importlib.util.find_spec("jax"):
            importlib.import_module("jax").config.update("jax_enable_x64", True)
        try:
            calls[peer] = (make(module), arguments)
            results[peer] = calls[peer][0](*arguments)
        except (ImportError, TypeError, ValueError, NotImplementedError):
            calls.pop(peer, None)
            continue
        first[peer] = time.process_time() - began
    for peer, (value, slopes) in results.items():
        mine = results["gradc"]
        np.testing.assert_allclose(float(value), float(mine[0]), rtol=1e-10, err_msg=peer)
        for a, b in zip(leaves(slopes), leaves(mine[1]), strict=True):
            size = max(float(np.max(np.abs(b))), 1.0)
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11 * size, err_msg=peer)
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(ROUNDS):
        for peer, (call, arguments) in calls.items():
            began = time.perf_counter()
            call(*arguments)
            best[peer] = min(best[peer], time.perf_counter() - began)
    cells = []
    for peer in PEERS:
        shown = f"{first[peer]:.2f} s, {1e6 * best[peer]:.0f} us" if peer in best else "-"
        cells.append(shown)
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Prints the table."""
    names = sys.argv[1:] or sorted(p.stem for p in FOLDER.glob("*.py"))
    print("| code | " + " | ".join(f"{peer}: first, then" for peer in PEERS) + " |")
    print("|---|---|---|---|")
    for name in names:
        print(measured(name), flush=True)


if __name__ == "__main__":
    main()
