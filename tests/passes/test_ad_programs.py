"""Differentiation of 120 random programs: against itself, finite differences, dual numbers and
torch; first and second order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.tensor.core import DType, Function, walk
from gradc.passes.differentiate.transforms import hvp, jvp, value_and_grad, vjp
from tests.support.ad_programs import Array, draw, program

NAMES = ("p0", "p1", "p2")
SEEDS = range(120)
ARRAYS = NumpyArrays()


def has_cut(function: Function) -> bool:
    """Whether the derivative is not that of the values, by request."""
    return any(
        op.name == "stop_gradient" or op.attributes.get("truncate", 0) != 0
        for op in walk(function.block)
    )


def directions(arguments: Sequence[Array], seed: int) -> list[Array]:
    source = np.random.default_rng(1000 + seed)
    return [source.normal(size=a.shape) for a in arguments]


def dot(xs: Sequence[Array], ys: Sequence[Array]) -> float:
    return float(sum(np.sum(x * y) for x, y in zip(xs, ys, strict=True)))


def moved(arguments: Sequence[Array], by: Sequence[Array], step: float) -> list[Array]:
    return [a + step * v for a, v in zip(arguments, by, strict=True)]


@pytest.mark.parametrize("seed", SEEDS)
def test_first_order(seed: int) -> None:
    """<ct, J v> = <J^T ct, v> with random ct for every result, and both equal a central
    difference.
    """
    function = program(seed)
    arguments = draw(function, seed)
    v = directions(arguments, seed)
    values = run(ARRAYS, function, arguments)
    cts = directions(values, seed + 1)
    dots = run(ARRAYS, jvp(function, NAMES), [*arguments, *v])
    pulled = run(ARRAYS, vjp(function, NAMES), [*arguments, *cts])
    for ours, plain in zip((*dots[:2], *pulled[:2]), (*values, *values), strict=True):
        np.testing.assert_array_equal(ours, plain)
    forward, reverse = dot(dots[2:], cts), dot(pulled[2:], v)
    scale = max(1.0, abs(forward))
    assert abs(forward - reverse) <= 1e-11 * scale
    if not has_cut(function):
        step = 1e-6
        up = run(ARRAYS, function, moved(arguments, v, step))
        down = run(ARRAYS, function, moved(arguments, v, -step))
        difference = (dot(up, cts) - dot(down, cts)) / (2 * step)
        assert abs(forward - difference) <= 2e-6 * scale


@pytest.mark.parametrize("seed", SEEDS)
def test_second_order(seed: int) -> None:
    """Forward over reverse = reverse over reverse = the difference of gradients; the Hessian is
    symmetric.
    """
    function = program(seed)
    arguments = draw(function, seed)
    v, u = directions(arguments, seed), directions(arguments, seed + 7)
    gradient = value_and_grad(function, NAMES)
    first = len(function.results)
    products = run(ARRAYS, hvp(function, NAMES), [*arguments, *v])[-3:]
    twice = vjp(gradient, NAMES, range(first, first + 3))
    reversed_twice = run(ARRAYS, twice, [*arguments, *u])[-3:]
    scale = max(1.0, abs(dot(products, u)))
    assert abs(dot(products, u) - dot(reversed_twice, v)) <= 1e-10 * scale
    if not has_cut(function):
        other = run(ARRAYS, hvp(function, NAMES), [*arguments, *u])[-3:]
        assert abs(dot(products, u) - dot(other, v)) <= 1e-10 * scale
        step = 1e-6
        up = run(ARRAYS, gradient, moved(arguments, v, step))[first:]
        down = run(ARRAYS, gradient, moved(arguments, v, -step))[first:]
        difference = (dot(up, u) - dot(down, u)) / (2 * step)
        assert abs(dot(products, u) - difference) <= 5e-6 * scale


@pytest.mark.parametrize("seed", range(20))
def test_third_order(seed: int) -> None:
    """Forward over forward over reverse against a difference of Hessian-vector products."""
    function = program(seed, size=4)
    if has_cut(function):
        function = program(seed + 500, size=4, regions=False)
    if has_cut(function):
        pytest.skip("derivative cut by request")
    arguments = draw(function, seed)
    v, u, w = (directions(arguments, seed + n) for n in (0, 7, 9))
    second = hvp(function, NAMES)
    count = len(second.results)
    third = jvp(second, NAMES, range(count - 3, count))
    ours = run(ARRAYS, third, [*arguments, *v, *w])[-3:]
    step = 1e-6
    up = run(ARRAYS, second, [*moved(arguments, w, step), *v])[-3:]
    down = run(ARRAYS, second, [*moved(arguments, w, -step), *v])[-3:]
    difference = (dot(up, u) - dot(down, u)) / (2 * step)
    assert abs(dot(ours, u) - difference) <= 1e-5 * max(1.0, abs(difference))


def _untruncated(seed: int, dtype: DType) -> Function:
    """A program that torch can differentiate: no truncation."""
    while True:
        function = program(seed, dtype=dtype)
        if not any(op.attributes.get("truncate", 0) for op in walk(function.block)):
            return function
        seed += 1000


@pytest.mark.parametrize("seed", range(120, 210))
def test_against_torch(seed: int) -> None:
    """Values, gradients and Hessian-vector products in f64; gradients in f32."""
    torch = pytest.importorskip("torch")
    from tests.support.ad_torch import TorchArrays, to_torch

    function = _untruncated(seed, DType.F64)
    arguments = draw(function, seed)
    leaves = [to_torch(a) for a in arguments]
    loss, _ = run(TorchArrays(), function, leaves)
    grads = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True)
    ours = run(ARRAYS, value_and_grad(function, NAMES), arguments)
    np.testing.assert_allclose(ours[0], loss.detach().numpy(), rtol=1e-12, atol=1e-12)
    compare(ours[2:], grads, 1e-12)
    v = directions(arguments, seed)
    products = run(ARRAYS, hvp(function, NAMES), [*arguments, *v])[-3:]
    weighted = sum(
        (g * to_torch(d, False)).sum() for g, d in zip(grads, v, strict=True) if g is not None
    )
    if torch.is_tensor(weighted) and weighted.requires_grad:
        compare(products, torch.autograd.grad(weighted, leaves, allow_unused=True), 1e-11)


@pytest.mark.parametrize("seed", range(60))
def test_against_torch_f32(seed: int) -> None:
    torch = pytest.importorskip("torch")
    from tests.support.ad_torch import TorchArrays, to_torch

    function = _untruncated(seed, DType.F32)
    arguments = [a.astype(np.float32) for a in draw(function, seed)]
    leaves = [to_torch(a) for a in arguments]
    loss, _ = run(TorchArrays(), function, leaves)
    grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    ours = run(ARRAYS, value_and_grad(function, NAMES), arguments)
    assert all(o.dtype == np.float32 for o in ours)
    compare(ours[2:], grads, 1e-5)


def compare(ours: Sequence[Array], theirs: Sequence[Any], tolerance: float) -> None:
    """Equal within ``tolerance`` of the largest entry of all; None of theirs is zeros."""
    arrays = [
        np.zeros_like(o) if t is None else t.detach().numpy()
        for o, t in zip(ours, theirs, strict=True)
    ]
    largest = max(1.0, *(float(np.max(np.abs(a), initial=0.0)) for a in arrays))
    for o, a in zip(ours, arrays, strict=True):
        assert o.shape == a.shape
        np.testing.assert_allclose(o, a, rtol=0, atol=tolerance * largest)
