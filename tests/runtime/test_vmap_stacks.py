"""vmap on stacks: beside JAX, value and gradient, and without a loop where ops can be applied to a
stack."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gradc
from gradc.runtime.tracing.record import record_arrays

RNG = np.random.default_rng(3)
X, W = RNG.normal(size=(7, 5)), RNG.normal(size=(5, 5))
A = RNG.normal(size=(7, 4, 4)) + 3 * np.eye(4)
IDS = np.array([[0, 4, -1]] * 3 + [[2, 2, 1]] * 4)

# A function of (NumPy's names, gradc's or JAX's, arguments), its arguments, and their axes.
Case = tuple[Callable[..., Any], tuple[Any, ...], Any]
CASES: dict[str, Case] = {
    "elementwise": (lambda m, k, x: m.where(x > 0, m.tanh(x), -x * x), (X,), 0),
    "softmax": (lambda m, k, x: m.exp(x - m.max(x)) / m.sum(m.exp(x - m.max(x))), (X,), 0),
    "products": (lambda m, k, x, a: (W @ x, a @ x[:4], a[0] @ a, x @ W.T), (X, A), 0),
    "of one side": (
        lambda m, k, a, w: (m.einsum("ij,ij->i", a, w), m.einsum("ij,ij->i", w, a)),
        (A, W[:4, :4]),
        (0, None),
    ),
    "rows by number": (lambda m, k, x, i: x[i] * 2, (X, IDS), 0),
    "a table for all": (lambda m, k, w, i: w[i].sum(0), (W, IDS), (None, 0)),
    "moved": (lambda m, k, x: m.pad(m.roll(m.flip(x), 1), 1).reshape(7, 1).T, (X,), 0),
    "ordered": (lambda m, k, x: (m.sort(x)[1:3], m.cumsum(x), x * m.argmax(x)), (X,), 0),
    "joined": (lambda m, k, x: m.concatenate([x, m.ones(2), x[:2] ** 2]), (X,), 0),
    "gradients": (lambda m, k, x, i: k.grad(lambda y: m.sum(y[i] ** 3))(x), (X, IDS), 0),
    "curvature": (
        lambda m, k, x: k.hessian(lambda y: m.sum(m.sin(y)) * m.prod(y))(x),
        (X[:3, :2],),
        0,
    ),
    "linear algebra": (
        lambda m, k, a: (m.linalg.inv(a), m.linalg.slogdet(a)[1]),
        (A,),
        0,
    ),
    "other axes": (lambda m, k, x, y: x * m.sum(y), (X.T, X), (1, 0)),
    "nested": (lambda m, k, a: k.vmap(lambda r: r / m.sum(r * r))(a), (A,), 0),
}


def _loops(k: Any) -> Any:
    return k if k is gradc else k.lax


CASES["loops"] = (
    lambda m, k, x: _loops(k).scan(lambda c, t: (m.tanh(c * 0.5 + t), c * t), 0.3, x),
    (X,),
    0,
)
CASES["carries of one state"] = (
    lambda m, k, x: _loops(k).fori_loop(0, 3, lambda i, c: m.sin(W @ c) + x[0], m.ones(5)),
    (X,),
    0,
)
ROLLED = ("curvature", "loops", "carries of one state")


def _total(m: Any, tree: Any) -> Any:
    leaves = tree if isinstance(tree, (tuple, list)) else [tree]
    return sum(m.sum(m.sin(leaf)) for leaf in leaves)


@pytest.mark.parametrize("name", CASES)
def test_stacks_are_what_jax_gives(name: str) -> None:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    function, args, axes = CASES[name]
    mine = gradc.vmap(lambda *a: function(np, gradc, *a), axes)
    theirs = jax.vmap(lambda *a: function(jax.numpy, jax, *a), axes)
    both = jax.value_and_grad(lambda *a: _total(jax.numpy, theirs(*a)))
    expected, slopes = jax.jit(both)(*args)  # much sooner than op by op
    value, slope = gradc.value_and_grad(lambda *a: _total(np, mine(*a)))(*args)
    assert float(value) == pytest.approx(float(expected), rel=1e-10)
    np.testing.assert_allclose(slope, slopes, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_no_loop_is_left(name: str) -> None:
    function, args, axes = CASES[name]
    named = {f"a{n}": np.asarray(a) for n, a in enumerate(args)}
    mapped = gradc.vmap(lambda *a: function(np, gradc, *a), axes)
    ops = record_arrays(lambda *a: mapped(*a), named).function.block.body
    assert any(op.name == "scan" for op in ops) is (name in ROLLED)


def test_what_no_stack_takes_is_a_loop() -> None:
    """A transform of Fourier's keeps its loop, and its numbers."""
    found = gradc.vmap(lambda x: np.abs(np.fft.rfft(x)))(X)
    np.testing.assert_allclose(found, np.abs(np.fft.rfft(X)), rtol=1e-12, atol=1e-12)


def test_vmap_may_be_the_first_thing_called() -> None:
    text = "import gradc, numpy as np; print(gradc.vmap(np.tanh)(np.zeros((2, 3))).sum())"
    found = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "0.0"


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(gradc.DiagnosticError, match="one length along their axes; found 5, 7"):
        gradc.vmap(lambda x, y: x + y)(X, W)
