"""Functions with a derivative of their own: against JAX's custom_vjp, differences, and the
derivative of the function itself.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import gradc
from gradc.ir.ops.registry import has_pullback
from gradc.ir.tensor.core import DType, TensorType
from gradc.passes.prove.rules.pullback import pullback_verdict
from gradc.runtime.tracing.trace import Trace

RNG = np.random.default_rng(5)
X = RNG.normal(size=4)
V = RNG.normal(size=4)
W = RNG.normal(size=(3, 4))


def softplus(x: Any) -> Any:
    return np.log1p(np.exp(x))


smooth = gradc.custom_vjp(softplus, lambda ct, x: ct / (1 + np.exp(-x)))


@gradc.custom_vjp
def gated(p: Any, x: Any, power: Any) -> Any:
    """A function of a tree and of an option, with two results."""
    h = np.tanh(p["w"] @ x + p["b"]) ** power
    return h, np.sum(h) * x


def gated_forward(p: Any, x: Any, power: Any) -> Any:
    u = np.tanh(p["w"] @ x + p["b"])
    return (u**power, np.sum(u**power) * x), (p, x, u, power)


def gated_backward(residuals: Any, cts: Any) -> Any:
    p, x, u, power = residuals
    gh = cts[0] + cts[1] @ x
    du = gh * power * u ** (power - 1) * (1 - u * u)
    slope = {"w": np.outer(du, x), "b": du}
    return slope, p["w"].T @ du + np.sum(u**power) * cts[1], None


gated.defvjp(gated_forward, gated_backward)


def loss(p: Any, x: Any) -> Any:
    h, y = gated(p, x, 3)
    return np.sum(h * h) + np.sum(np.sin(y))


def plain(p: Any, x: Any) -> Any:
    h, y = gated.__wrapped__(p, x, 3)
    return np.sum(h * h) + np.sum(np.sin(y))


P = {"w": W, "b": RNG.normal(size=3)}


@pytest.fixture(autouse=True)
def _no_warnings() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_a_right_pullback_is_the_derivative_in_every_transform() -> None:
    def f(x: Any) -> Any:
        return np.sum(smooth(x) * V) * x[0]

    def g(x: Any) -> Any:
        return np.sum(softplus(x) * V) * x[0]

    for transform in (gradc.grad, gradc.hessian, gradc.jit, gradc.jacfwd, gradc.jacrev):
        np.testing.assert_allclose(transform(f)(X), transform(g)(X), rtol=1e-13)
    for ours, theirs in zip(gradc.jvp(f, (X,), (V,)), gradc.jvp(g, (X,), (V,)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-13)
    np.testing.assert_allclose(gradc.hvp(f)(X, V), gradc.hvp(g)(X, V), rtol=1e-13)
    mapped = gradc.grad(lambda w: np.sum(gradc.vmap(f)(w)))
    np.testing.assert_allclose(mapped(W), gradc.vmap(gradc.grad(g))(W), rtol=1e-13)
    assert smooth(X).tolist() == softplus(X).tolist()


def test_trees_options_and_several_results() -> None:
    for argnums in (0, 1):
        ours = gradc.grad(loss, argnums=argnums)(P, X)
        theirs = gradc.grad(plain, argnums=argnums)(P, X)
        for name in P if argnums == 0 else [...]:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-12)
    step = 1e-6
    for n in range(4):
        e = np.eye(4)[n] * step
        slope = (plain(P, X + e) - plain(P, X - e)) / (2 * step)
        assert gradc.grad(loss, argnums=1)(P, X)[n] == pytest.approx(slope, rel=1e-6)


def _clipped(np: Any, custom_vjp: Any, **options: Any) -> Any:
    """The known use: a gradient that is clipped, with an option that is not differentiated."""
    f = custom_vjp(lambda limit, x: np.sin(x) * x, nondiff_argnums=(0,), **options)
    f.defvjp(
        lambda limit, x: (np.sin(x) * x, (np.cos(x) * x + np.sin(x),)),
        lambda limit, res, ct: (np.clip(ct * res[0], -limit, limit) * np.exp(res[0]),),
    )
    return f


def test_jax_gives_the_same_where_the_pullback_is_another_function() -> None:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    ours = _clipped(np, gradc.custom_vjp, asserted=True)
    theirs = _clipped(jax.numpy, jax.custom_vjp)
    for f, g, x in (
        (lambda x: np.sum(ours(0.7, x) * V), lambda x: (theirs(0.7, x) * V).sum(), X),
        (
            lambda w: np.sum(gradc.vmap(lambda r: ours(0.7, r))(w) * W),
            lambda w: (jax.vmap(lambda r: theirs(0.7, r))(w) * W).sum(),
            W,
        ),
    ):
        np.testing.assert_allclose(gradc.grad(f)(x), jax.grad(g)(x), rtol=1e-13)
        second = gradc.jacrev(gradc.grad(f))(x)
        np.testing.assert_allclose(second, jax.jacrev(jax.grad(g))(x), rtol=1e-12)


def test_a_second_derivative_takes_the_pullback_again() -> None:
    """JAX differentiates ``fwd`` for it, so that f would have another slope inside a gradient than
    outside.
    """
    doubled = gradc.custom_vjp(np.sin, lambda ct, x: 2 * ct * np.cos(x), asserted=True)
    x = 0.3  # the gradient of f^2 is 2 f f', with f' = 2 cos
    expected = 2 * (2 * np.cos(x)) ** 2 - 4 * np.sin(x) ** 2
    found = gradc.grad(gradc.grad(lambda x: doubled(x) ** 2))(x)
    assert found == pytest.approx(expected, rel=1e-13)


def test_a_forward_function_may_call_the_function_itself() -> None:
    """As JAX's documentation writes it; the result then is the op's own, also for higher
    derivatives.
    """

    @gradc.custom_vjp
    def root(x: Any, n: int) -> Any:
        return x ** (1 / n) if n > 1 else root(x, 2) ** 2

    def forward(x: Any, n: int) -> Any:
        y = root(x, n)
        return y, (x, y, n)

    root.defvjp(forward, lambda res, ct: (ct * res[1] / (res[2] * res[0]), None))
    for n in (1, 3):
        power = 1 / n
        slope = gradc.grad(lambda x, n=n: root(x, n))(2.0)
        assert slope == pytest.approx(power * 2.0 ** (power - 1), rel=1e-13)
        second = gradc.grad(gradc.grad(lambda x, n=n: root(x, n)))(2.0)
        assert second == pytest.approx(power * (power - 1) * 2.0 ** (power - 2), abs=1e-13)
    tripled = gradc.custom_vjp(np.exp, lambda ct, x: 3 * ct * tripled(x), asserted=True)
    assert gradc.grad(gradc.grad(tripled))(1.0) == pytest.approx(9 * np.e, rel=1e-13)


def test_a_wrong_pullback_is_told_once_with_the_point() -> None:
    wrong = gradc.custom_vjp(softplus, lambda ct, x: ct * x)
    slope = gradc.grad(wrong)
    with pytest.warns(
        gradc.TraceWarning, match=r"softplus.*gives .* for args\[0\].*at args\[0\] ="
    ):
        assert slope(2.0) == 2.0
    assert gradc.value_and_grad(wrong)(2.0)[1] == 2.0  # not told again
    asserted = gradc.custom_vjp(softplus, lambda ct, x: ct * x, asserted=True)
    assert gradc.grad(asserted)(2.0) == 2.0
    through = gradc.custom_vjp(np.round, lambda ct, x: ct)  # a step: its derivative says nothing
    assert gradc.grad(lambda x: through(x) * x)(1.75) == 3.75


def test_a_verdict_on_a_pullback_has_the_name_of_its_function() -> None:
    with Trace() as trace:
        smooth(trace.wrap(trace.argument("x", TensorType((3,), DType.F64))))
    (op,) = [op for op in trace.builder.ops if has_pullback(op)]
    verdict = pullback_verdict(op)
    assert verdict.subject.startswith("softplus at ") and verdict.status.name.startswith("PROVED")


def test_entries_without_a_derivative_are_not_compared() -> None:
    root = gradc.custom_vjp(np.sqrt, lambda ct, x: np.where(x > 0, ct * 0.5 / np.sqrt(x), 0.0))
    assert gradc.grad(root)(0.0) == 0.0
    assert gradc.grad(root)(4.0) == 0.25


def test_integers_methods_keywords_and_what_is_read() -> None:
    class Model:
        def __init__(self) -> None:
            self.scale = 3.0

        def f(self, x: Any, n: Any) -> Any:
            return self.scale * x**2 * n

        f = gradc.custom_vjp(f, lambda ct, self, x, n: (None, ct * self.scale * 2 * x * n, None))

    model = Model()
    slope = gradc.grad(lambda x, n: model.f(x, n=n))
    assert slope(2.0, np.int64(5)) == 60.0
    model.scale = 1.0
    assert slope(2.0, np.int64(5)) == 20.0
    factor = [2.0]
    f = gradc.custom_vjp(lambda x: x, lambda ct, x: ct * factor[0], asserted=True)
    g = gradc.grad(f)
    assert g(1.0) == 2.0
    factor[0] = 5.0
    assert g(1.0) == 5.0
    table = np.arange(4.0)
    h = gradc.custom_vjp(lambda x: x @ table, lambda ct, x: ct * table)
    assert gradc.grad(h)(X).tolist() == table.tolist()
    table[0] = 7.0
    assert gradc.grad(h)(X).tolist() == [7, 1, 2, 3]


def closing(x: Any) -> Any:
    return gradc.custom_vjp(lambda y: y * x, lambda ct, y: ct * x)(x)


def _of(pullback: Any, function: Any = softplus) -> Any:
    return gradc.grad(lambda x: np.sum(gradc.custom_vjp(function, pullback)(x)))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: gradc.grad(closing)(1.0), "GC0562.*none of its arguments"),
        (lambda: gradc.grad(gradc.custom_vjp(softplus))(1.0), "GC0565.*has no derivative"),
        (lambda: _of(lambda ct, x: (ct, ct))(X), "GC0566.*per argument, 1: 2"),
        (lambda: _of(lambda ct, x: ct[:2])(X), r"GC0566.*`args\[0\]` has shape \[2\].*\[4\]"),
        (lambda: _of(lambda ct, x: {"a": ct})(X), "GC0566.*another structure"),
    ],
)  # fmt: skip
def test_what_a_pullback_cannot_be(call: Any, said: str) -> None:
    with pytest.raises(gradc.DiagnosticError, match=f"(?s){said}"):
        call()


def test_a_derivative_is_given_once() -> None:
    with pytest.raises(TypeError, match="has its derivative already"):
        smooth.defvjp(softplus, softplus)
    with pytest.raises(gradc.DiagnosticError, match=r"GC0565.*residuals"):
        f = gradc.custom_vjp(softplus)
        f.defvjp(softplus, lambda res, ct: (ct,))
        gradc.grad(f)(1.0)


def test_arguments_that_are_written_into_are_refused() -> None:
    @gradc.custom_vjp
    def filled(x: Any) -> Any:
        x[0] = 2.0
        return np.sum(x * x)

    filled.defvjps(lambda y, x: lambda ct: 2 * x * ct)
    with pytest.raises(gradc.DiagnosticError, match=r"writes into .* which its caller would not"):
        gradc.grad(lambda x: filled(x) + x[0])(np.ones(3))


def test_a_derivative_per_argument_as_autograd_has_it() -> None:
    extend = pytest.importorskip("autograd.extend")
    peer = pytest.importorskip("autograd")

    def f(x: Any, y: Any, k: Any) -> Any:
        return x**2 * y + k

    makers = (
        lambda z, x, y, k: lambda ct: ct * 2 * x * y,
        lambda z, x, y, k: lambda ct: ct * x**2,
    )
    theirs = extend.primitive(f)
    extend.defvjp(theirs, *makers, argnums=(0, 1))
    mine = gradc.custom_vjp(f, asserted=True)
    mine.defvjps(*makers)
    for n in (0, 1):
        expected = peer.grad(lambda x, y: theirs(x, y, 1.0) ** 2, n)(1.5, -0.5)
        found = gradc.grad(lambda x, y: mine(x, y, 1.0) ** 2, n)(1.5, -0.5)
        assert float(found) == pytest.approx(float(expected), rel=1e-13)
    assert float(gradc.grad(mine, 2)(1.0, 2.0, 3.0)) == 0.0  # no maker, no slope
    with pytest.raises(TypeError, match="has its derivative already"):
        mine.defvjps(*makers)
