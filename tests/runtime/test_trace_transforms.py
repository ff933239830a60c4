"""Transforms of NumPy functions as values: composed in every order, cached by what they compare,
true to what they read.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import gradc
from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.runtime.tracing.captures import Captures
from gradc.runtime.tracing.record import Argument, record
from gradc.runtime.tracing.trees import LEAF

RNG = np.random.default_rng(77)
X = 0.5 * RNG.normal(size=3)
V = RNG.normal(size=3)

# ---- every pair of transforms, to third order


def smooth(x: Any) -> Any:
    """R^3 to R^3, mixed."""
    return np.sin(x) * np.sum(x[::-1] * x) + x * x * x


def scalar(x: Any) -> Any:
    return np.sum(smooth(x) * x)


def to_scalar(function: Callable[..., Any]) -> Callable[..., Any]:
    """Any result as a number, so that transforms of transforms all apply."""

    def whole(x: Any) -> Any:
        found = function(x)
        return np.sum(np.cos(found / 4)) if np.ndim(found) else found

    return whole


# Each takes a scalar function of a vector and gives a function of a vector.
STEPS: dict[str, Callable[[Any], Any]] = {
    "grad": lambda f: gradc.grad(f),
    "value_and_grad": lambda f: lambda x: np.multiply(*gradc.value_and_grad(f)(x)),
    "vjp": lambda f: lambda x: gradc.vjp(f, x)[1](1.5)[0],
    "jvp": lambda f: lambda x: gradc.jvp(f, (x,), (V,))[1],
    "hvp": lambda f: lambda x: gradc.hvp(f)(x, V),
    "jacfwd": lambda f: gradc.jacfwd(f),
    "jacrev": lambda f: gradc.jacrev(f),
    "jacobian": lambda f: gradc.jacobian(f),
    "hessian": lambda f: gradc.hessian(f),
    "elementwise_grad": lambda f: gradc.elementwise_grad(f),
    "jit": lambda f: gradc.jit(f),
}


def inner_peers(jax: Any) -> dict[str, Callable[..., Any]]:
    """JAX's transforms of a scalar function; whatever the way, a gradient is one gradient."""
    known: dict[str, Callable[[Any], Any]] = {
        "value_and_grad": lambda f: lambda x: jax.numpy.multiply(*jax.value_and_grad(f)(x)),
        "vjp": lambda f: lambda x: jax.vjp(f, x)[1](1.5)[0],
        "jvp": lambda f: lambda x: jax.jvp(f, (x,), (V,))[1],
        "hvp": lambda f: lambda x: jax.jvp(jax.grad(f), (x,), (V,))[1],
        "hessian": jax.hessian,
        "jit": lambda f: f,
    }
    return {name: known.get(name, jax.grad) for name in STEPS}


def outer_peer(name: str, value: Any, slope: Any, curvature: Any) -> Any:
    """The outer transform by its definition, from value, gradient and Hessian of the inner one."""
    known: dict[str, Callable[[], Any]] = {
        "value_and_grad": lambda: value * slope,
        "vjp": lambda: 1.5 * slope,
        "jvp": lambda: slope @ V,
        "hvp": lambda: curvature @ V,
        "hessian": lambda: curvature,
        "jit": lambda: value,
    }
    return known.get(name, lambda: slope)()


def test_every_transform_of_every_transform_is_jaxs() -> None:
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    known = inner_peers(jax)

    def peer_scalar(x: Any) -> Any:
        return jnp.sum((jnp.sin(x) * jnp.sum(x[::-1] * x) + x * x * x) * x)

    def peer_to_scalar(f: Any) -> Any:
        return lambda x: jnp.sum(jnp.cos(f(x) / 4)) if jnp.ndim(f(x)) else f(x)

    with jax.enable_x64(True):
        whole = {step: peer_to_scalar(step(peer_scalar)) for step in known.values()}
        found = jax.jit(
            lambda x: [(f(x), jax.grad(f)(x), jax.hessian(f)(x)) for f in whole.values()]
        )
        # Called once: what optimising would take is more than it would save.
        quick = found.lower(X).compile({"xla_backend_optimization_level": 0})
        results = [tuple(map(np.asarray, row)) for row in quick(X)]
    expected = dict(zip(whole, results, strict=True))
    for outer, inner in itertools.product(STEPS, STEPS):
        mine = STEPS[outer](to_scalar(STEPS[inner](scalar)))
        theirs = outer_peer(outer, *expected[known[inner]])
        np.testing.assert_allclose(
            np.asarray(interpreted(mine, X), np.float64),
            theirs,
            1e-9,
            1e-9,
            err_msg=f"{outer} of {inner}",
        )


def interpreted(function: Any, x: Any) -> Any:
    """The result by the reference interpreter: what is asked is the recording, not machine code."""
    recorded = record(
        function, (tuple, None, ((tuple, None, (LEAF,)), (dict, (), ()))), [Argument.of("x", x)]
    )
    (found,) = run(NumpyArrays(), recorded.function, [x, *recorded.captured.values()])
    return found


@pytest.mark.parametrize(
    "names", [("jvp", "grad", "jacfwd"), ("grad", "hvp", "vjp"), ("jacobian", "jit", "hessian")]
)
def test_third_order_is_the_slope_of_second_order(names: tuple[str, str, str]) -> None:
    first, second, third = (STEPS[n] for n in names)
    two = to_scalar(second(to_scalar(third(scalar))))
    slope = gradc.grad(two)(X)
    by_difference = (two(X + 1e-5 * V) - two(X - 1e-5 * V)) / 2e-5
    assert float(slope @ V) == pytest.approx(float(by_difference), rel=1e-6)
    assert np.all(np.isfinite(first(two)(X)))


# ---- a transform is a value


def test_a_transform_of_a_called_transform_starts_anew() -> None:
    """The inner one's cache and options are its own."""
    inner = gradc.grad(lambda x: x**3)
    outer = gradc.grad(inner)
    assert float(inner(3.0)) == 27.0
    assert float(outer(3.0)) == 18.0
    mixed = gradc.grad(gradc.grad(lambda x, y: x * np.sin(y)), argnums=1)
    assert float(mixed(2.0, 3.0)) == pytest.approx(np.cos(3.0))
    other = gradc.grad(gradc.grad(lambda x, y: x * np.sin(y), argnums=1), argnums=0)
    assert float(other(2.0, 3.0)) == pytest.approx(np.cos(3.0))


class Scaled:
    """A callable object whose attributes have names of our own."""

    def __init__(self) -> None:
        self.argnums = 1
        self.options = "none of yours"
        self.kind = "grad"

    def __call__(self, x: Any, y: Any) -> Any:
        return x * x * y


def test_callable_objects_with_our_attribute_names_are_not_misread() -> None:
    slope = gradc.grad(Scaled())
    assert float(slope(3.0, 2.0)) == 12.0
    assert float(gradc.grad(slope)(3.0, 2.0)) == 4.0


def test_a_transform_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="argnums"):
        gradc.grad(np.sum).argnums = 1  # type: ignore[attr-defined]


# ---- keys are values and identities


def test_functions_as_arguments_are_told_apart() -> None:
    slope = gradc.grad(lambda x, f: f(x))
    for number in range(1, 6):
        assert float(slope(1.0, lambda t, k=number: k * t)) == number


class Power:
    def __init__(self, n: int) -> None:
        self.n = n

    def of(self, x: Any) -> Any:
        return x**self.n

    def __repr__(self) -> str:
        return "Power"


def test_bound_methods_and_objects_with_state_are_told_apart() -> None:
    slope = gradc.grad(lambda x, f: f(x))
    power = Power(2)
    found = [float(slope(3.0, power.of)), float(slope(3.0, Power(3).of))]
    power.n = 4
    found.append(float(slope(3.0, power.of)))
    assert found == [6.0, 27.0, 108.0]


def test_options_are_told_apart_by_value_and_type() -> None:
    kinds: list[str] = []

    def f(x: Any, option: Any) -> Any:
        kinds.append(type(option).__name__)
        return x * float(option)

    slope = gradc.grad(f, static_argnums=1)
    assert [float(slope(2.0, o)) for o in (1, 1.0, True, 1, 2)] == [1, 1, 1, 1, 2]
    assert kinds == ["int", "float", "bool", "int"]
    named = gradc.grad(f, static_argnames="option")
    assert float(named(2.0, option=3)) == 3.0
    assert float(named(2.0, 4)) == 4.0


# ---- what a function reads from around it

factor = 2.0


class Model:
    def __init__(self) -> None:
        self.k = 2.0
        self.w = np.array([1.0, 2.0, 3.0])

    def loss(self, x: Any) -> Any:
        return self.k * np.sum(self.w * x)

    @gradc.grad
    def slope(self, x: Any) -> Any:
        return self.k * np.sum(x * x)


def test_what_a_function_reads_is_read_again_when_it_changed() -> None:
    k = [2.0]
    table = {"k": 2.0}
    level = 2.0
    zero = np.array(2.0)
    model = Model()

    def by_cell(x: Any) -> Any:
        return level * np.sum(x)

    readers: list[Callable[[Any], Any]] = [
        lambda x: k[0] * np.sum(x),
        lambda x: table["k"] * np.sum(x),
        by_cell,
        lambda x: zero * np.sum(x),
        lambda x: factor * np.sum(x),
        lambda x: model.k * np.sum(x),
        lambda x: scaled(np.sum(x)),
        lambda x: np.float64(zero) * np.sum(x),
        lambda x: np.sum(x) * sum(k),
    ]
    slopes = [gradc.grad(f) for f in readers]
    assert [float(s(X)[0]) for s in slopes] == [2.0] * len(slopes)
    k[0] = table["k"] = level = model.k = 10.0
    zero[()] = 10.0
    globals()["factor"] = 10.0
    try:
        assert [float(s(X)[0]) for s in slopes] == [10.0] * len(slopes)
    finally:
        globals()["factor"] = 2.0


def scaled(x: Any) -> Any:
    return x * factor


def test_a_rebound_array_is_read_and_not_compiled_again() -> None:
    w = np.ones(3)
    recorded = []

    def f(x: Any) -> Any:
        recorded.append(x)
        return np.sum(w * x)

    slope = gradc.grad(f)
    for step in range(4):
        w = np.full(3, float(step))
        np.testing.assert_array_equal(slope(X), w)
    assert len(recorded) == 4
    assert len(slope._compiled) == 1  # type: ignore[attr-defined]
    w *= 2
    np.testing.assert_array_equal(slope(X), w)
    assert len(recorded) == 4


def test_methods_are_decorated_and_follow_their_object() -> None:
    one, two = Model(), Model()
    two.k = 5.0
    np.testing.assert_allclose(one.slope(X), 4 * X)
    np.testing.assert_allclose(two.slope(X), 10 * X)
    one.k = 3.0
    np.testing.assert_allclose(one.slope(X), 6 * X)
    assert one.slope is one.slope
    bound = gradc.grad(one.loss)
    np.testing.assert_allclose(bound(X), 3.0 * one.w)
    one.w = one.w + 1
    np.testing.assert_allclose(bound(X), 3.0 * one.w)


def test_random_numbers_that_freeze_are_said_with_name_and_line() -> None:
    rng = np.random.default_rng(0)
    noisy = gradc.grad(lambda x: np.sum(x * rng.normal(size=3)))
    with pytest.warns(gradc.TraceWarning, match=r"random numbers.*test_trace_transforms\.py:\d+"):
        noisy(X)
    old = gradc.grad(lambda x: np.sum(x * np.random.rand(3)))
    with pytest.warns(gradc.TraceWarning, match=r"`random` .*py:\d+"):
        old(X)


def test_large_arrays_that_numpy_alone_reads_are_said() -> None:
    big = np.ones(1000)
    with pytest.warns(gradc.TraceWarning, match=r"`big` .*py:\d+"):
        gradc.grad(lambda x: np.sum(x * np.exp(big).sum()))(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradc.grad(lambda x: np.sum(x[0] * big))(X)


def test_installed_libraries_are_not_looked_into() -> None:
    """A function that names a library is compared no more often than the user's own names ask
    for.
    """
    found = Captures(lambda x: pytest.approx(x) == np.sum(x) and warnings.catch_warnings())
    assert found._walk._count == 1


def test_a_value_that_keeps_changing_is_said() -> None:
    k = [0.0]
    slope = gradc.grad(lambda x: k[0] * x)

    def in_a_loop() -> list[float]:
        found = []
        for step in range(9):
            k[0] = float(step)
            found.append(float(slope(1.0)))
        return found

    with pytest.warns(gradc.TraceWarning, match=r"`k` .*keeps changing"):
        assert in_a_loop() == list(range(9))


# ---- trees


class Pair(NamedTuple):
    a: Any
    b: Any


@dataclasses.dataclass(frozen=True)
class Layer:
    w: Any
    name: str
    b: Any = 0.0


class Ordered(collections.OrderedDict[str, Any]):
    pass


class Box:
    def __init__(self, item: Any) -> None:
        self.item = item


gradc.register_tree(Box, lambda box: ((box.item,), None), lambda _, items: Box(items[0]))


def test_gradients_have_the_type_of_what_they_belong_to() -> None:
    trees: list[tuple[Any, Callable[[Any], Any]]] = [
        (Pair(X, X + 1), lambda t: np.sum(t.a * t.b)),
        (Layer(X, "first", 2.0), lambda t: np.sum(t.w * t.b) if t.name == "first" else 0.0),
        (Ordered(a=X, b=V), lambda t: np.sum(t["a"] * t["b"])),
        (collections.defaultdict(list, a=X), lambda t: np.sum(t["a"] ** 2)),
        (Box(X), lambda t: np.sum(t.item**2)),
        ({"deep": [Pair((X,), None)]}, lambda t: np.sum(t["deep"][0].a[0] ** 2)),
    ]
    for tree, function in trees:
        slope = gradc.grad(function)(tree)
        assert type(slope) is type(tree)
    pair = gradc.grad(lambda t: np.sum(t.a * t.b))(Pair(X, X + 1))
    np.testing.assert_allclose(pair.a, X + 1)
    np.testing.assert_allclose(pair.b, X)
    layer = gradc.grad(trees[1][1])(trees[1][0])
    assert layer.name == "first" and float(layer.b) == pytest.approx(X.sum())


def test_functions_that_return_trees() -> None:
    def f(x: Any) -> Any:
        return {"sin": np.sin(x), "more": Pair(np.sum(x), None)}

    found = gradc.jit(f)(X)
    np.testing.assert_allclose(found["sin"], np.sin(X))
    assert isinstance(found["more"], Pair) and found["more"].b is None
    jac = gradc.jacobian(f)(X)
    np.testing.assert_allclose(jac["sin"], np.diag(np.cos(X)))
    np.testing.assert_allclose(jac["more"].a, np.ones(3))
    value, dot = gradc.jvp(f, (X,), (V,))
    np.testing.assert_allclose(dot["sin"], np.cos(X) * V)
    assert float(dot["more"].a) == pytest.approx(V.sum())
    _, pull = gradc.vjp(f, X)
    (back,) = pull({"sin": V, "more": Pair(2.0, None)})
    np.testing.assert_allclose(back, np.cos(X) * V + 2)
    assert value["sin"].shape == (3,)


def test_hessians_of_trees_are_trees_of_trees() -> None:
    def f(p: Any) -> Any:
        return p["a"] ** 2 * np.sum(p["b"] ** 3)

    found = gradc.hessian(f)({"a": 2.0, "b": X})
    assert float(found["a"]["a"]) == pytest.approx(2 * np.sum(X**3))
    np.testing.assert_allclose(found["a"]["b"], 4 * 3 * X**2)
    np.testing.assert_allclose(found["b"]["a"], 4 * 3 * X**2)
    np.testing.assert_allclose(found["b"]["b"], 4 * np.diag(6 * X))


# ---- conventions


def test_arguments_by_name_and_choices() -> None:
    def f(a: Any, b: Any = 2.0, *, c: Any = 1.0) -> Any:
        return np.sum(a * a * b * c)

    np.testing.assert_allclose(gradc.grad(f)(a=X), 4 * X)
    np.testing.assert_allclose(gradc.grad(f)(X, c=3.0), 12 * X)
    second: Any = np.int64(1)
    found = gradc.grad(f, argnums=second)(X, b=3.0)
    assert float(found) == pytest.approx(np.sum(X * X))
    by_name = gradc.grad(f, argnames=("c", "a"))(X, 2.0, c=3.0)
    assert float(by_name[0]) == pytest.approx(2 * np.sum(X * X))
    np.testing.assert_allclose(by_name[1], 12 * X)
    assert float(gradc.grad(f, argnames="c")(X, c=1.0)) == pytest.approx(2 * np.sum(X * X))


def test_results_besides_the_loss() -> None:
    def f(x: Any) -> Any:
        y = np.sin(x)
        return np.sum(y), {"y": y, "n": 3, "note": "kept"}

    (value, more), slope = gradc.value_and_grad(f, has_aux=True)(X)
    assert float(value) == pytest.approx(np.sin(X).sum())
    np.testing.assert_allclose(more["y"], np.sin(X))
    assert more["n"] == 3 and more["note"] == "kept"
    np.testing.assert_allclose(slope, np.cos(X))
    slope, more = gradc.grad(f, has_aux=True)(X)
    np.testing.assert_allclose(more["y"], np.sin(X))


def test_a_kept_jvp_compiles_once() -> None:
    recorded = []

    def f(x: Any) -> Any:
        recorded.append(x)
        return x * x

    along = gradc.jvp(f)
    for number in range(3):
        _, dot = along((X + number,), (V,))
        np.testing.assert_allclose(dot, 2 * (X + number) * V)
        gradc.jvp(f, (X,), (V,))
        gradc.jvp(lambda x: f(x), (X,), (V,))
    assert len(recorded) == 3


def test_a_refusal_cannot_be_swallowed() -> None:
    def f(x: Any) -> Any:
        try:
            return x if x > 0 else -x
        except Exception:  # noqa: BLE001
            return x * 0

    with pytest.raises(gradc.DiagnosticError, match="GC0561"):
        gradc.grad(f)(1.0)


WRONG: tuple[tuple[str, Callable[[], Any], type[Exception], str], ...] = (
    ("an unknown option", lambda: gradc.grad(np.sum, budgett=1), TypeError, "budgett.*`budget`"),  # type: ignore[call-arg]
    ("no function", lambda: gradc.grad(3), TypeError, "takes a function"),  # type: ignore[arg-type]
    (
        "a wrong number",
        lambda: gradc.grad(np.sum, argnums=1.5),  # type: ignore[arg-type]
        TypeError,
        "whole",
    ),
    ("twice", lambda: gradc.grad(np.sum, argnums=(0, 0))(X), gradc.DiagnosticError, "twice"),
    ("a wrong name", lambda: gradc.grad(scalar, argnames="y")(X), gradc.DiagnosticError, "`x`"),
    ("no pair", lambda: gradc.grad(scalar, has_aux=True)(X), gradc.DiagnosticError, "GC0565"),
    (
        "a cotangent of another shape",
        lambda: gradc.vjp(smooth, X)[1](np.ones(2)),
        gradc.DiagnosticError,
        "cotangent.*shape",
    ),
)


@pytest.mark.parametrize(("what", "call", "kind", "message"), WRONG, ids=[w[0] for w in WRONG])
def test_wrong_calls_are_said(
    what: str, call: Callable[[], Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=f"(?s){message}"):
        call()


def test_directions_are_tuples() -> None:
    """The rows of an array are no arguments."""
    x = np.ones(3)
    with pytest.raises(TypeError, match="args is a tuple with an entry per argument"):
        gradc.jvp(np.sin, x, (x,))
    with pytest.raises(TypeError, match="tangents is a tuple"):
        gradc.jvp(np.sin)((x,), x)


def test_compiling_alone_takes_whole_numbers() -> None:
    """Nothing is differentiated, so nothing must have a derivative."""
    twice = gradc.jit(lambda x, at: (x * 2, x[at]))
    ids = np.array([2, 0])
    doubled, taken = twice(ids, np.array([1]))
    np.testing.assert_array_equal(doubled, [4, 0])
    assert doubled.dtype == ids.dtype
    with pytest.raises(gradc.DiagnosticError, match="GC0562"):
        gradc.grad(lambda x: np.sum(gradc.jit(lambda y: y * 2)(x)))(ids)
    np.testing.assert_array_equal(taken, [0])
