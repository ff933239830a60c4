"""NumPy functions that are traced: every one against NumPy itself and finite differences; what is
refused, and how.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradc
from gradc.runtime.tracing import trace
from gradc.runtime.tracing.trace import FUNCTIONS, UFUNCS
from gradc.runtime.tracing.transforms import value_and_grad as fill_the_tables
from tests.support.traced_cases import CASES as MORE

RNG = np.random.default_rng(42)
A = RNG.standard_normal((3, 4))
B = RNG.standard_normal((3, 4))
POS = RNG.random((3, 4)) + 0.5
SQ = RNG.standard_normal((4, 4))
ROW = RNG.standard_normal(4)
CUBE = RNG.standard_normal((2, 3, 4))
IDS = np.array([2, 0, 2, 1])
SMALL = A * 1e-9

# What is called, on what. The name before the space is the entry of the tables that the row is
# about.
CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    # elementwise
    "exp": (np.exp, (A,)),
    "exp2": (np.exp2, (A,)),
    "expm1": (np.expm1, (A,)),
    "log": (np.log, (POS,)),
    "log1p": (np.log1p, (POS,)),
    "log2": (np.log2, (POS,)),
    "log10": (np.log10, (POS,)),
    "sqrt": (np.sqrt, (POS,)),
    "sin": (np.sin, (A,)),
    "cos": (np.cos, (A,)),
    "tan": (np.tan, (A / 3,)),
    "tanh": (np.tanh, (A,)),
    "sinh": (np.sinh, (A,)),
    "sinh near zero": (lambda x: np.sinh(x) * 1e9, (SMALL,)),
    "cosh": (np.cosh, (A,)),
    "square": (np.square, (A,)),
    "reciprocal": (np.reciprocal, (POS,)),
    "negative": (np.negative, (A,)),
    "positive": (np.positive, (A,)),
    "absolute": (np.absolute, (A,)),
    "absolute by abs()": (abs, (A,)),
    "fabs": (np.fabs, (A,)),
    "floor": (lambda x: np.floor(x) * x, (A,)),
    "rint": (lambda x: np.rint(x) * x, (A,)),
    "sign": (lambda x: np.sign(x) * x, (A,)),
    "add": (np.add, (A, B)),
    "add of a row": (lambda x, y: x + y, (A, ROW)),
    "add of a number": (lambda x: 2 + x, (A,)),
    "subtract": (np.subtract, (A, ROW)),
    "subtract from a number": (lambda x: 1.5 - x, (A,)),
    "multiply": (np.multiply, (A, B)),
    "multiply columns": (lambda x, y: x[:, None] * y, (A[:, 0], ROW)),
    "divide": (np.divide, (A, POS)),
    "divide a number": (lambda x: 3 / x, (POS,)),
    "divide integers": (lambda x: x * (np.array([1, 2, 3, 4]) / 3), (A,)),
    "power": (np.power, (POS, B)),
    "power by a number": (lambda x: x**3, (A,)),
    "float_power": (np.float_power, (POS, B)),
    "maximum": (np.maximum, (A, B)),
    "minimum": (np.minimum, (A, ROW)),
    "logaddexp": (np.logaddexp, (A, B)),
    "logaddexp far apart": (np.logaddexp, (A * 400, B * 400)),
    "equal": (lambda x, y: np.where(np.equal(np.rint(x), np.rint(y)), x, 2 * y), (A, B)),
    "not_equal": (lambda x, y: np.where(np.rint(x) != np.rint(y), x, 2 * y), (A, B)),
    "less": (lambda x, y: np.where(x < y, x * x, y), (A, B)),
    "less_equal": (lambda x, y: np.where(x <= y, x * x, y), (A, B)),
    "greater": (lambda x, y: np.where(x > y, x * x, y), (A, B)),
    "greater_equal": (lambda x, y: np.where(x >= y, x * x, y), (A, B)),
    "logical_and": (lambda x, y: np.where(np.logical_and(x > 0, y > 0), x, y), (A, B)),
    "logical_or": (lambda x, y: np.where(np.logical_or(x > 0, y > 0), x, y), (A, B)),
    "logical_not": (lambda x, y: np.where(np.logical_not(x > 0), x, y), (A, B)),
    "logical_and of numbers": (lambda x, y: np.where(np.logical_and(np.rint(x), y), x, y), (A, B)),
    # products
    "matmul": (np.matmul, (A, SQ)),
    "matmul in batches": (lambda x, y: x @ y, (CUBE, RNG.standard_normal((2, 4, 5)))),
    "matmul one batch": (lambda x, y: x @ y, (CUBE, SQ)),
    "matmul vector first": (lambda x, y: x @ y, (ROW, SQ)),
    "matmul vector last": (lambda x, y: x @ y, (CUBE, ROW)),
    "matmul vectors": (lambda x, y: x @ y, (ROW, ROW + 1)),
    "dot": (np.dot, (A, SQ)),
    "dot of three axes": (np.dot, (CUBE, RNG.standard_normal((2, 4, 3)))),
    "dot of a number": (lambda x: np.dot(x, 2.0), (A,)),
    "dot vector": (lambda x, y: x.dot(y), (A, ROW)),
    "einsum": (lambda x, y: np.einsum("ij,jk->ki", x, y), (A, SQ)),
    "einsum implicit": (lambda x, y: np.einsum("ij,jk", x, y), (A, SQ)),
    "einsum attention": (
        lambda q, k: np.einsum("bqd,bkd->bkq", q, k),
        (CUBE, RNG.standard_normal((2, 5, 4))),
    ),
    "einsum sums first": (lambda x, y: np.einsum("ij,kl->k", x, y), (A, SQ)),
    "einsum of one": (lambda x: np.einsum("bij->ji", x), (CUBE,)),
    "einsum of three": (lambda x, y, z: np.einsum("ij,j,jk->ik", x, y, z), (A, ROW, SQ)),
    "outer": (np.outer, (A, ROW)),
    "inner": (np.inner, (A, ROW)),
    "inner of matrices": (np.inner, (A, B)),
    "vdot": (np.vdot, (A, B)),
    "tensordot": (lambda x, y: np.tensordot(x, y, 1), (CUBE, SQ)),
    "tensordot of axes": (
        lambda x, y: np.tensordot(x, y, ([0, 2], [1, 0])),
        (CUBE, CUBE[0].T[:, :2]),
    ),
    # reductions
    "sum": (lambda x: np.sum(x, axis=1), (A,)),
    "sum keeps": (lambda x: x - np.sum(x, axis=(0, -1), keepdims=True), (CUBE,)),
    "sum of all": (lambda x: x.sum() * x[0, 0], (A,)),
    "prod": (lambda x: np.prod(x, axis=0), (A,)),
    "prod with a zero": (lambda x: np.prod(x), (np.array([2.0, 0.0, 3.0]),)),
    "max": (lambda x: np.max(x, axis=-1), (A,)),
    "amax": (lambda x: np.amax(x), (A,)),
    "min": (lambda x: x.min(axis=0, keepdims=True), (A,)),
    "amin": (lambda x: np.amin(x, axis=1), (A,)),
    "mean": (lambda x: np.mean(x, axis=0), (A,)),
    "mean of all": (lambda x: np.mean(x * x), (A,)),
    "var": (lambda x: np.var(x, axis=1), (A,)),
    "std": (lambda x: np.std(x, axis=1, keepdims=True), (A,)),
    "argmax": (lambda x: x * np.argmax(x, axis=1)[:, None], (A,)),
    "argmax of all": (lambda x: x * x.argmax(), (A,)),
    "cumsum": (lambda x: np.cumsum(x, axis=1), (A,)),
    "cumsum of all": (lambda x: np.cumsum(x), (A,)),
    # shapes
    "getitem": (lambda x: x[1], (A,)),
    "getitem slices": (lambda x: x[:, 1:3], (A,)),
    "getitem steps": (lambda x: x[::-1, ::2], (A,)),
    "getitem backwards": (lambda x: x[2:0:-1, -1:-4:-2], (A,)),
    "getitem new axes": (lambda x: x[None, :, 0, None], (A,)),
    "getitem ellipsis": (lambda x: x[..., -1], (CUBE,)),
    "getitem beyond": (lambda x: x[1:99, -99:2], (A,)),
    "getitem by ids": (lambda x: x[IDS], (A,)),
    "getitem in a loop": (lambda x: sum(row * n for n, row in enumerate(x)), (A,)),
    "where": (lambda x: np.where(np.array([True, False, True, False]), x, 0.0), (A,)),
    "where untaken": (lambda x: np.where(x > 0, np.sqrt(np.maximum(x, 0)), 0), (A,)),
    "transpose": (lambda x: np.transpose(x, (2, 0, 1)), (CUBE,)),
    "transpose by .T": (lambda x: x.T, (A,)),
    "swapaxes": (lambda x: np.swapaxes(x, 0, -1), (CUBE,)),
    "reshape": (lambda x: np.reshape(x, (2, -1)), (A,)),
    "reshape by method": (lambda x: x.reshape(4, 3), (A,)),
    "ravel": (np.ravel, (A,)),
    "concatenate": (lambda x, y: np.concatenate([x, y[:1], np.ones((1, 4))], axis=0), (A, B)),
    "concatenate last": (lambda x, y: np.concatenate((x, y), axis=-1), (A, B)),
    "stack": (lambda x, y: np.stack([x, y], axis=1), (A, B)),
    "expand_dims": (lambda x: np.expand_dims(x, 1) * ROW[:, None], (A,)),
    "broadcast_to": (lambda x: np.broadcast_to(x, (3, 4)), (ROW,)),
    "squeeze": (lambda x: np.squeeze(x[:, :1]), (A,)),
    "squeeze an axis": (lambda x: x[None, :1].squeeze(axis=0), (A,)),
    "flip": (lambda x: np.flip(x, axis=1), (A,)),
    "flip all": (np.flip, (A,)),
    "split": (lambda x: np.split(x, 2, axis=1)[1], (A,)),
    "split at": (lambda x: np.split(x, [1, 3], axis=1)[1], (A,)),
    "roll": (lambda x: np.roll(x, 1, axis=0), (A,)),
    "roll all": (lambda x: np.roll(x, -3), (A,)),
    "take": (lambda x: np.take(x, IDS, axis=1), (A,)),
    "take of all": (lambda x: np.take(x, [[0, 11], [5, 5]]), (A,)),
    "clip": (lambda x: np.clip(x, -0.5, 0.75), (A,)),
    "clip below": (lambda x: x.clip(0.1), (A,)),
    "zeros_like": (lambda x: np.zeros_like(x) + x, (A,)),
    "ones_like": (lambda x: np.ones_like(x) * x, (A,)),
    "full_like": (lambda x: np.full_like(x, 2.5) * x, (A,)),
    "astype": (lambda x: x.astype("int64") * x, (A * 3,)),
}


# Options that change no number, and what rules that always refuse are given.
WITHOUT_MEANING = {
    *("out", "kind", "order", "stable", "subok", "device", "writeable", "optimize", "casting"),
    *("overwrite_input", "copy", "bias", "ddof", "kth", "tol", "full_matrices"),
}


def test_no_rule_swallows_an_option() -> None:
    """What a caller asks for by name is obeyed or refused, never dropped."""
    dropped = []
    for path in sorted(Path(trace.__file__).parent.glob("*.py")):
        for rule in ast.walk(ast.parse(path.read_text())):
            if not isinstance(rule, ast.FunctionDef) or not rule.args.args:
                continue
            taken = rule.args
            if taken.args[0].arg != "t":
                continue
            named = taken.args[len(taken.args) - len(taken.defaults) :]
            options = [x.arg for x in (*named, *taken.kwonlyargs)]
            options += [taken.kwarg.arg] if taken.kwarg else []
            used = {n.id for line in rule.body for n in ast.walk(line) if isinstance(n, ast.Name)}
            dropped += [(path.name, rule.name, x) for x in {*options} - used - WITHOUT_MEANING]
    assert not dropped


def test_every_traceable_name_is_tried() -> None:
    assert gradc.value_and_grad is fill_the_tables
    tried = {name.split(" ")[0] for name in CASES}
    scipys = {n for n in UFUNCS if not hasattr(np, n)}  # in test_special.py
    tried |= {name.split(" ")[0] for name in MORE}
    assert tried == {*UFUNCS, *FUNCTIONS} - scipys


def weighed(name: str, given: Sequence[Any]) -> Any:
    """A random weighing of the result of one case."""
    function, arrays = CASES[name]
    weights = np.random.default_rng(1).standard_normal(np.shape(function(*arrays)))
    return np.sum(weights * function(*given))


NAMES = list(CASES)
GROUPS = [NAMES[n : n + 10] for n in range(0, len(NAMES), 10)]


@pytest.mark.parametrize("names", GROUPS, ids=lambda group: group[0])
def test_traced_functions_mean_what_numpy_means(names: list[str]) -> None:
    """Value and gradient of every case; ten are compiled together, for speed."""

    def total(signs: Any, arrays: dict[str, list[Any]]) -> Any:
        return sum(signs[n] * weighed(name, arrays[name]) for n, name in enumerate(names))

    given = {name: list(CASES[name][1]) for name in names}
    both = gradc.value_and_grad(total, argnums=(0, 1))
    _, (values, slopes) = both(np.ones(len(names)), given)
    for value, name in zip(values, names, strict=True):
        agrees(name, value, slopes[name])


def agrees(name: str, value: Any, gradients: Sequence[Any]) -> None:
    """With NumPy's value, and with central differences along random directions."""
    arrays = CASES[name][1]
    assert value == pytest.approx(weighed(name, arrays), rel=1e-12, abs=1e-13), name
    rng = np.random.default_rng(2)
    for number, gradient in enumerate(gradients):
        assert gradient.shape == arrays[number].shape
        size = max(float(np.abs(arrays[number]).max()), 1e-300)
        along = rng.standard_normal(gradient.shape) * size
        values = []
        for step in (1e-6, -1e-6):
            moved = list(arrays)
            moved[number] = arrays[number] + step * along
            values.append(weighed(name, moved))
        slope = (values[0] - values[1]) / 2e-6
        assert np.vdot(gradient, along) == pytest.approx(slope, rel=2e-7, abs=2e-8 * size), name


def test_types_follow_numpys_rules() -> None:
    """float32 stays, numbers adapt, float64 wins, integers that meet a function become float64."""
    narrow = A.astype(np.float32)
    functions: list[Callable[[Any], Any]] = [
        lambda x: x * 2.5 + 1,
        lambda x: x + np.float64(1.0) * np.ones(4, np.float32),
        lambda x: x + B,
        lambda x: x * np.arange(4),
        lambda x: x * np.sqrt(np.arange(4)),
        lambda x: x * np.arange(4, dtype=np.int32),
        lambda x: np.mean(x) + np.float32(1),
    ]
    for number, function in enumerate(functions):
        expected = function(narrow)

        def total(x: Any, function: Callable[[Any], Any] = function) -> Any:
            return np.sum(function(x))

        value, gradient = gradc.value_and_grad(total)(narrow)
        assert np.asarray(value).dtype == np.sum(expected).dtype, number
        assert gradient.dtype == np.float32
        assert value == pytest.approx(float(np.sum(expected, dtype=np.float64)), rel=1e-5)


# ---- structures, options, nesting


def network(params: dict[str, Any], x: Any, *, power: int = 2) -> Any:
    hidden = x
    for layer in params["layers"]:
        hidden = np.tanh(hidden @ layer["w"] + layer["b"])
    return np.mean(hidden**power) * params["scale"]


def parameters() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    layers = [{"w": rng.standard_normal((4, 4)), "b": rng.standard_normal(4)} for _ in range(2)]
    return {"layers": layers, "scale": 2.0, "note": None}


def test_gradients_have_the_structure_of_the_arguments() -> None:
    params = parameters()
    value, grads = gradc.value_and_grad(network)(params, A)
    assert value == pytest.approx(network(params, A), rel=1e-13)
    assert list(grads) == ["layers", "scale", "note"]
    assert [list(layer) for layer in grads["layers"]] == [["w", "b"], ["w", "b"]]
    assert grads["note"] is None
    assert float(grads["scale"]) == pytest.approx(value / 2)
    step = 1e-6
    moved = parameters()
    moved["layers"][0]["w"][1, 2] += step
    slope = (network(moved, A) - network(params, A)) / step
    assert grads["layers"][0]["w"][1, 2] == pytest.approx(slope, rel=1e-4)


def test_argnums_choose_the_arguments() -> None:
    def f(a: Any, b: Any, c: Any) -> Any:
        return np.sum(a * b * b * c)

    both = gradc.grad(f, argnums=(0, -1))(A, B, POS)
    np.testing.assert_allclose(both[0], B * B * POS, rtol=1e-13)
    np.testing.assert_allclose(both[1], A * B * B, rtol=1e-13)
    np.testing.assert_allclose(gradc.grad(f, argnums=1)(A, B, POS), 2 * A * B * POS, rtol=1e-13)


def test_decorators_keep_the_name_and_take_options() -> None:
    @gradc.value_and_grad(argnums=1, threads=1)
    def cost(w: Any, x: Any) -> Any:
        """Costs."""
        return np.sum(w * x**2)

    assert (cost.__name__, cost.__doc__) == ("cost", "Costs.")
    value, slope = cost(2.0, 3.0)
    assert (float(value), float(slope)) == (18.0, 12.0)


def test_new_shapes_types_and_options_are_traced_anew() -> None:
    seen = []

    @gradc.grad
    def f(x: Any, flag: str = "") -> Any:
        seen.append((x.shape, str(x.dtype), flag))
        return np.sum(x**2) if flag == "square" else np.sum(x)

    f(A)
    f(A + 1)
    f(A[:2])
    f(A.astype(np.float32))
    np.testing.assert_allclose(f(A, "square"), 2 * A)
    f(A, "square")
    assert len(seen) == 4


def test_hessians_jacobians_and_forward_mode() -> None:
    def f(x: Any) -> Any:
        return np.sum(np.sin(x) * x[::-1] ** 2)

    x = ROW
    hessian = gradc.hessian(f)(x)
    slope = gradc.grad(f)
    for axis in range(4):
        along = np.eye(4)[axis] * 1e-6
        by_difference = (slope(x + along) - slope(x - along)) / 2e-6
        np.testing.assert_allclose(hessian[axis], by_difference, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-12)
    jacobian = gradc.jacobian(lambda v: np.outer(v, v)[0] * v)(x)
    value, dot = gradc.jvp(lambda v: np.outer(v, v)[0] * v, (x,), (B[0],))
    np.testing.assert_allclose(value, x[0] * x * x, rtol=1e-13)
    np.testing.assert_allclose(jacobian @ B[0], dot, rtol=1e-12)


def test_part_of_a_product_may_be_the_result() -> None:
    """A product of which one row is handed out has nowhere else to go but memory of its own."""
    direction = B[0]
    value, dot = gradc.jvp(lambda v: np.outer(v, v)[0], (ROW,), (direction,))
    np.testing.assert_allclose(value, ROW[0] * ROW, rtol=1e-13)
    np.testing.assert_allclose(dot, direction[0] * ROW + ROW[0] * direction, rtol=1e-12)


def test_gradients_of_gradients() -> None:
    def f(x: Any) -> Any:
        return np.sum(np.tanh(x) ** 3)

    def penalty(x: Any) -> Any:
        return np.sum(gradc.grad(f)(x) ** 2)

    value, slope = gradc.value_and_grad(penalty)(ROW)
    y = np.tanh(ROW)
    first = 3 * y**2 * (1 - y**2)
    assert value == pytest.approx(np.sum(first**2), rel=1e-12)
    second = (6 * y - 12 * y**3) * (1 - y**2)
    np.testing.assert_allclose(slope, 2 * first * second, rtol=1e-10)
    third = gradc.grad(gradc.grad(gradc.grad(lambda x: x**5)))(2.0)
    assert float(third) == pytest.approx(60 * 4)


def test_inputs_of_other_libraries() -> None:
    torch = pytest.importorskip("torch")
    found = gradc.grad(lambda x: np.sum(x**2))(torch.tensor(A))
    np.testing.assert_allclose(found, 2 * A, rtol=1e-14)


# ---- what cannot be traced is said

REFUSED: tuple[tuple[str, Callable[[Any], Any], Any, str], ...] = (
    ("an if on a value", lambda x: x if x > 0 else -x, 1.0, "GC0561.*`if`.*numpy.where"),
    ("a while on a value", lambda x: _loop(x), 1.0, "GC0561.*`while`"),
    ("float()", lambda x: float(x), 1.0, "GC0561.*Python number"),
    ("int()", lambda x: int(x), 1.0, "GC0561.*Python number"),
    ("as an index", lambda x: [1, 2][x], 1.0, "GC0561.*index"),
    ("len of a scalar", lambda x: len(x), 1.0, "GC0561.*no length"),
    ("an unknown ufunc", lambda x: np.spacing(x), A, "GC0560.*numpy.spacing"),
    ("an unknown function", lambda x: np.unique(x), SQ, "GC0560.*unique"),
    ("an unknown keyword", lambda x: np.ravel(x, order="C"), A, "GC0560.*numpy.ravel.*order"),
    (
        "quantiles with weights",
        lambda x: np.quantile(x, 0.5, weights=np.ones(A.size), method="inverted_cdf"),
        A.ravel(),
        "GC0560.*quantiles with weights",
    ),
    ("shapes that do not broadcast", lambda x: np.sum(x + np.ones(3)), A, "GC0558.*broadcast"),
    ("inner sizes", lambda x: np.sum(x @ x), A, "GC0558"),
    ("a wrong axis", lambda x: np.sum(x, axis=5), A, "GC0558.*axis 5"),
    ("an axis twice", lambda x: np.sum(np.sum(x, axis=(0, 0))), A, "GC0558.*axis"),
    ("an index too many", lambda x: x[0, 0, 0], A, "GC0558.*too many indices"),
    ("an index out of range", lambda x: x[7, 0], A, "GC0558.*7 is out of range"),
    ("a mask as index", lambda x: np.sum(x[x > 0]), A, "GC0560.*numpy.where"),
    ("a reshape of another size", lambda x: np.sum(x.reshape(5, 5)), A, "GC0558.*reshaped"),
    ("an uneven split", lambda x: np.sum(np.split(x, 3, axis=1)[0]), A, "GC0558.*split"),
    ("einsum of uneven diagonals", lambda x: np.einsum("ii->", x), A, "GC0558.*einsum"),
    ("einsum of other ranks", lambda x: np.sum(np.einsum("ijk->i", x)), A, "GC0558.*`ijk`"),
    ("a result that is a tuple", lambda x: (x, x), 1.0, "GC0565.*tuple"),
    ("a result that is None", lambda x: None, 1.0, "GC0565.*NoneType"),
    ("a result that is an array", lambda x: x * 2, A, "GC05.*scalar|number"),
    ("an integer argument", lambda x: np.sum(x), np.arange(3), "GC0562.*integers.*astype"),
    ("a complex argument", lambda x: np.sum(x), A * 1j, "GC0562.*complex result"),
    ("a text argument", lambda x: np.sum(x), np.array(["a"]), "GC0551"),
    ("a longdouble argument", lambda x: np.sum(x), A.astype(np.longdouble), "GC0557.*dtype"),
)


def _loop(x: Any) -> Any:
    while x < 10:
        x = x * 2
    return x


@pytest.mark.parametrize(
    ("what", "function", "given", "message"), REFUSED, ids=[r[0] for r in REFUSED]
)
def test_what_cannot_be_traced_is_said(
    what: str, function: Callable[[Any], Any], given: Any, message: str
) -> None:
    with pytest.raises(gradc.DiagnosticError) as found:
        gradc.value_and_grad(function)(given)
    assert re.search(message, str(found.value), re.DOTALL), str(found.value)


def test_a_refusal_names_the_users_line() -> None:
    with pytest.raises(gradc.DiagnosticError, match=r"test_runtime_traced\.py:\d+"):
        gradc.grad(lambda x: np.unique(x))(SQ)


WRONG: tuple[tuple[str, Callable[[], Any], str], ...] = (
    ("argnums beyond", lambda: gradc.grad(np.sum, argnums=3)(A), "GC0566.*argnums 3"),
    ("tangents of another structure", lambda: gradc.jvp(np.sum, (A,), ([A, A],)), "GC0566"),
    ("a bad option", lambda: gradc.grad(np.sum, budget="none")(A), "GC0601"),
    ("bad threads", lambda: gradc.grad(np.sum, threads=0)(A), "GC0563"),
)


@pytest.mark.parametrize(("what", "call", "message"), WRONG, ids=[w[0] for w in WRONG])
def test_wrong_uses_are_diagnostics(what: str, call: Callable[[], Any], message: str) -> None:
    with pytest.raises(gradc.DiagnosticError, match=f"(?s){message}"):
        call()
