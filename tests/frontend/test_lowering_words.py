"""Every word of the language against NumPy in double precision."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support.lowering import evaluate, lowered, value_of

RANDOM = np.random.default_rng(7)
X = RANDOM.normal(size=(3, 4))
Y = RANDOM.normal(size=(3, 4))
P = RANDOM.uniform(0.1, 0.9, size=(3, 4))
CUBE = RANDOM.normal(size=(2, 3, 4))
IDS = np.array([2, 0, 1, 1, 2])
ERF = np.vectorize(math.erf)


def gelu(x: Any) -> Any:
    return 0.5 * x * (1 + ERF(x / math.sqrt(2)))


UNARY: dict[str, Callable[[Any], Any]] = {
    "abs": np.abs,
    "neg": np.negative,
    "exp": np.exp,
    "expm1": np.expm1,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "tanh": np.tanh,
    "erf": ERF,
    "sign": np.sign,
    "round": np.round,
    "floor": np.floor,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "relu": lambda x: np.maximum(x, 0),
    "gelu": gelu,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "stop_gradient": lambda x: x,
}
POSITIVE: dict[str, Callable[[Any], Any]] = {
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
}


@pytest.mark.parametrize("name", [*UNARY, *POSITIVE])
def test_unary_word(name: str) -> None:
    data = P if name in POSITIVE else X
    reference = {**UNARY, **POSITIVE}[name]
    found = value_of(f"{name}(x)", "x: float[3, 4]", x=data)
    np.testing.assert_allclose(found, reference(data), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", [n for n in (*UNARY, *POSITIVE) if n != "gelu"])
def test_unary_word_folds_numbers_to_the_same_value(name: str) -> None:
    reference = {**UNARY, **POSITIVE}[name]
    found = value_of(f"{name}(0.625)")
    np.testing.assert_allclose(found, reference(np.array(0.625)), rtol=1e-13)


SOFT = np.exp(X) / np.exp(X).sum(1, keepdims=True)
ATTENTION = np.exp(X @ Y.T / 2)
EXPRESSIONS: dict[str, tuple[str, Any]] = {
    "sum": ("sum(x)", X.sum()),
    "sum axis": ("sum(x, axis = 0)", X.sum(0)),
    "sum keep": ("sum(x, axis = -1, keepdims = true)", X.sum(1, keepdims=True)),
    "sum axes": ("sum(c, axis = [0, -1])", CUBE.sum((0, 2))),
    "mean": ("mean(x)", X.mean()),
    "mean axis": ("mean(x, axis = 1)", X.mean(1)),
    "var": ("var(x, axis = 0)", X.var(0)),
    "var all": ("var(x)", X.var()),
    "std": ("std(x, axis = 1, keepdims = true)", X.std(1, keepdims=True)),
    "max": ("max(x)", X.max()),
    "max axis": ("max(x, axis = 0)", X.max(0)),
    "min axis": ("min(x, axis = 1, keepdims = true)", X.min(1, keepdims=True)),
    "max of two": ("max(x, y)", np.maximum(X, Y)),
    "min with number": ("min(x, 0.25)", np.minimum(X, 0.25)),
    "prod": ("prod(x, axis = 1)", X.prod(1)),
    "argmax": ("argmax(x, axis = 0)", X.argmax(0)),
    "argmax last": ("argmax(x)", X.argmax(1)),
    "argsort": ("argsort(x, axis = 0)", np.argsort(X, 0, kind="stable")),
    "sort": ("sort(x)", np.sort(X, 1)),
    "sort down": ("-sort(-x, axis = 0)", -np.sort(-X, 0)),
    "sort row": ("sort(x[0])", np.sort(X[0])),
    "cumsum": ("cumsum(x, axis = 0)", X.cumsum(0)),
    "cumsum back": ("cumsum(x, reverse = true)", X[:, ::-1].cumsum(1)[:, ::-1]),
    "logsumexp": ("logsumexp(x, axis = 1)", np.log(np.exp(X).sum(1))),
    "logsumexp keep": ("logsumexp(x, axis = 0, keepdims = true)", np.log(np.exp(X).sum(0))[None]),
    "softmax": ("softmax(x, axis = 1)", SOFT),
    "log_softmax": ("log_softmax(x)", np.log(SOFT)),
    "clip": ("clip(x, -0.5, 0.5)", np.clip(X, -0.5, 0.5)),
    "where": ("where(x > y, x, y)", np.maximum(X, Y)),
    "where number": ("where(x > 0, 1.0, y)", np.where(X > 0, 1.0, Y)),
    "where row": ("where(x[0] > 0, x, 0)", np.where(X[0] > 0, X, 0)),
    "logic": (
        "where(x > 0 and not (y > 0) or x < -1, 1.0, 0.0)",
        np.where((X > 0) & ~(Y > 0) | (X < -1), 1.0, 0.0),
    ),
    "compare": ("cast(x >= y, float) - cast(x != y, float)", (X >= Y) * 1.0 - (X != Y) * 1.0),
    "add": ("x + y * 2 - 1 / x", X + Y * 2 - 1 / X),
    "chain": ("1 - x - y - 2", 1 - X - Y - 2),
    "power 2": ("x^2", X**2),
    "power 3": ("x^3", X**3),
    "power 4": ("x^4", X**4),
    "power -1": ("x^-1", 1 / X),
    "power half": ("p^0.5", P**0.5),
    "power real": ("p^2.5", P**2.5),
    "power 0": ("x^0", X**0),
    "power of array": ("p^x", P**X),
    "number to array": ("2^x", 2**X),
    "power right": ("2^3^2", 512.0),
    "minus power": ("-x^2", -(X**2)),
    "row": ("x + y[0]", X + Y[0]),
    "matmul": ("x @ y.T", X @ Y.T),
    "matvec": ("x @ y[0]", X @ Y[0]),
    "vecmat": ("y[:, 0] @ x", Y[:, 0] @ X),
    "dot": ("x[0] @ y[0]", X[0] @ Y[0]),
    "stack of matrices": ("c @ x.T", CUBE @ X.T),
    "matrix by stack": ("y @ transpose(c, [0, 2, 1])", Y @ CUBE.transpose(0, 2, 1)),
    "vector by stack": ("x[:, 1] @ c", X[:, 1] @ CUBE),
    "stacks": ("c @ transpose(c, [0, 2, 1])", CUBE @ CUBE.transpose(0, 2, 1)),
    "stretched stacks": ("c[None] @ transpose(c, [0, 2, 1])", CUBE[None] @ CUBE.transpose(0, 2, 1)),
    "reshape": ("reshape(x, [2, 6])", X.reshape(2, 6)),
    "reshape rest": ("reshape(c, [-1, 2])", CUBE.reshape(-1, 2)),
    "transpose": ("transpose(c)", CUBE.T),
    "transpose axes": ("transpose(c, [1, 0, -1])", CUBE.transpose(1, 0, 2)),
    "concat": ("concat([x, y, x], axis = 1)", np.concatenate([X, Y, X], 1)),
    "stack": ("stack([x, y], axis = -1)", np.stack([X, Y], -1)),
    "stack numbers": ("stack([x[0, 0], 2.0, 3])", np.array([X[0, 0], 2, 3])),
    "pad": ("pad(x, [(1, 0), (0, 2)])", np.pad(X, [(1, 0), (0, 2)])),
    "pad value": ("pad(x, 1, value = -inf)", np.pad(X, 1, constant_values=-np.inf)),
    "broadcast": ("broadcast(x[0], [2, 3, 4])", np.broadcast_to(X[0], (2, 3, 4))),
    "squeeze": ("squeeze(x[:, None], 1)", X),
    "zeros": ("zeros([2, 3]) + 1", np.ones((2, 3))),
    "ones": ("ones([2]) * 3", np.full(2, 3.0)),
    "full": ("full([2, 2], 0.5)", np.full((2, 2), 0.5)),
    "iota": ("iota(4)", np.arange(4)),
    "iota float": ("iota(4, float) / 2", np.arange(4) / 2),
    "causal_mask": ("where(causal_mask(3), 1.0, 0.0)", np.tril(np.ones((3, 3)))),
    "one_hot": ("one_hot(ids, 3)", np.eye(3)[IDS]),
    "index": ("x[1, -1]", X[1, -1]),
    "index row": ("x[-2]", X[-2]),
    "slice": ("x[1:, :2]", X[1:, :2]),
    "slice step": ("x[:, ::2]", X[:, ::2]),
    "slice negative": ("x[:, -3:-1]", X[:, -3:-1]),
    "slice beyond": ("x[:, 1:99]", X[:, 1:99]),
    "slice empty": ("x[:, 3:1]", X[:, 3:1]),
    "reverse": ("x[::-1]", X[::-1]),
    "rest": ("c[..., 1:]", CUBE[..., 1:]),
    "rest middle": ("c[1, ..., 0]", CUBE[1, ..., 0]),
    "new axis": ("x[:, None, 1:]", X[:, None, 1:]),
    "take rows": ("x[ids]", X[IDS]),
    "take columns": ("x[:, ids]", X[:, IDS]),
    "take then cut": ("c[1, ids, 1:]", CUBE[1][IDS][:, 1:]),
    "einsum product": ('einsum("ij,kj->ik", x, y)', X @ Y.T),
    "einsum batch": ('einsum("bij,bkj->bik", c, c)', np.einsum("bij,bkj->bik", CUBE, CUBE)),
    "einsum order": ('einsum("bij,kj->kbi", c, x)', np.einsum("bij,kj->kbi", CUBE, X)),
    "einsum sum": ('einsum("bij->j", c)', CUBE.sum((0, 1))),
    "einsum outer": ('einsum("i,j->ji", x[0], y[1])', np.outer(Y[1], X[0])),
    "einsum one-sided": ('einsum("ij,kl->il", x, y)', np.einsum("ij,kl->il", X, Y)),
    "einsum three": (
        'einsum("bij,kj,k->bi", c, x, x[:, 0])',
        np.einsum("bij,kj,k->bi", CUBE, X, X[:, 0]),
    ),
    "einsum elementwise": ('einsum("ij,ij->ij", x, y)', X * Y),
    "einsum diagonal": ('einsum("ii->i", x @ y.T)', np.diag(X @ Y.T)),
    "einsum trace": ('einsum("ii->", x @ y.T)', np.trace(X @ Y.T)),
    "einsum dots": ('einsum("...ij,kj->...ik", c, x)', np.einsum("...ij,kj->...ik", CUBE, X)),
    "mse": ("mse(x, y)", ((X - Y) ** 2).mean()),
    "bce": (
        "binary_cross_entropy(p, cast(x > 0, float))",
        -np.where(X > 0, np.log(P), np.log1p(-P)),
    ),
    "bce soft": ("binary_cross_entropy(p, p)", -(P * np.log(P) + (1 - P) * np.log1p(-P))),
    "bce logits": ("binary_cross_entropy_logits(x, p)", np.log1p(np.exp(X)) - X * P),
    "cross entropy ids": ("cross_entropy(x, argmax(y))", -np.log(SOFT)[np.arange(3), Y.argmax(1)]),
    "cross entropy soft": ("cross_entropy(x, p)", -(P * np.log(SOFT)).sum(1)),
    "size": ("x * size(x)", X * 12),
    "size axis": ("x * size(c, axis = 1) + rank(c)", X * 3 + 3),
    "attention": ("scaled_attention(x, y, y)", ATTENTION / ATTENTION.sum(1, keepdims=True) @ Y),
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_word_equals_numpy(name: str) -> None:
    expression, expected = EXPRESSIONS[name]
    arguments = "x: float[3, 4], y: float[3, 4], p: float[3, 4], c: float[2, 3, 4], ids: int[5]"
    found = value_of(expression, arguments, x=X, y=Y, p=P, c=CUBE, ids=IDS)
    assert found.shape == np.shape(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


NUMBERS = {
    "7 // 2": 3,
    "-7 // 2": -4,
    "-7 % 3": 2,
    "7 / 2": 3.5,
    "1 / 0": math.inf,
    "-1 / 0": -math.inf,
    "0 / 0": math.nan,
    "0.0^-1": math.inf,
    "(-8)^0.5": math.nan,
    "log(0)": -math.inf,
    "sqrt(-1)": math.nan,
    "exp(1000)": math.inf,
    "2 * pi": 2 * math.pi,
    "inf - inf": math.nan,
    "where(1 < 2, 3, 4)": 3,
    "max(2, 3.5)": 3.5,
    "7.5 // 2": 3.0,
    "7.5 % 2": 1.5,
    "10^2": 100,
    "2^-1": 0.5,
}


@pytest.mark.parametrize("text", NUMBERS)
def test_compile_time_numbers_follow_ieee(text: str) -> None:
    found = float(value_of(f"{text} + 0.0"))
    expected = NUMBERS[text]
    assert math.isnan(found) if math.isnan(expected) else found == expected


def test_losses_are_stable_at_extreme_inputs() -> None:
    logits = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]])
    arguments = "z: float[2, 3], y: int[2]"
    found = value_of("cross_entropy(z, y)", arguments, z=logits, y=np.array([0, 0]))
    np.testing.assert_allclose(found, [0.0, 2e4])
    single = np.array([-1e4, -90.0, 0.0, 90.0, 1e4])
    zeros = value_of("binary_cross_entropy_logits(z, 0 * z)", "z: float[5]", z=single)
    np.testing.assert_allclose(zeros, np.logaddexp(0, single), rtol=1e-12)
    ends = value_of(
        "binary_cross_entropy(p, y)",
        "p: float[4], y: float[4]",
        p=np.array([0.0, 1.0, 0.0, 1.0]),
        y=np.array([0.0, 1.0, 1.0, 0.0]),
    )
    np.testing.assert_allclose(ends, [0, 0, 69.0775527898, 69.0775527898])


def test_masked_logits_and_impossible_classes() -> None:
    logits = np.array([[0.0, -np.inf, 1.0], [0.0, 1.0, 2.0]])
    found = value_of(
        "cross_entropy(z, y)", "z: float[2, 3], y: int[2]", z=logits, y=np.array([0, 3])
    )
    assert found[0] == pytest.approx(math.log(1 + math.e))
    assert math.isnan(found[1])
    soft = value_of(
        "cross_entropy(z, y)",
        "z: float[2, 3], y: float[2, 3]",
        z=logits,
        y=np.array([[1.0, 0, 0], [0, 0, 1]]),
    )
    assert np.isfinite(soft).all()
    row = value_of("logsumexp(z)", "z: float[2]", z=np.array([-np.inf, -np.inf]))
    assert row == -np.inf
    assert value_of("logsumexp(z)", "z: float[2]", z=np.array([np.inf, 0.0])) == np.inf
    assert np.isnan(value_of("softmax(z)", "z: float[2]", z=np.array([-np.inf, -np.inf]))).all()


def test_convolution_and_pooling_equal_loops() -> None:
    x = RANDOM.normal(size=(2, 4, 6, 5))
    w = RANDOM.normal(size=(6, 2, 3, 2))
    found = value_of(
        "conv2d(x, w, stride = (2, 1), padding = [(1, 0), (0, 1)], dilation = (1, 2), groups = 2)",
        "x: float[2, 4, 6, 5], w: float[6, 2, 3, 2]",
        x=x,
        w=w,
    )
    padded = np.pad(x, [(0, 0), (0, 0), (1, 0), (0, 1)])
    expected = np.zeros((2, 6, 3, 4))
    for o in range(6):
        group = padded[:, 2 * (o // 3) : 2 * (o // 3) + 2]
        for i in range(3):
            for j in range(4):
                window = group[:, :, 2 * i : 2 * i + 3, j : j + 3 : 2]
                expected[:, o, i, j] = (window * w[o]).sum((1, 2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)
    tiles = x[:, :, :, :4].reshape(2, 4, 3, 2, 2, 2)
    arguments = "x: float[2, 4, 6, 5]"
    np.testing.assert_array_equal(value_of("max_pool(x, 2)", arguments, x=x), tiles.max((3, 5)))
    np.testing.assert_allclose(
        value_of("avg_pool(x, 2)", arguments, x=x), tiles.mean((3, 5)), rtol=1e-13
    )
    overlap = np.stack([x[:, :, i : i + 3].max(2) for i in range(4)], 2)
    np.testing.assert_array_equal(
        value_of("max_pool(x, (3, 1), stride = 1)", arguments, x=x), overlap
    )


DROPOUT = """
model m(x: float[N]) -> float {
    a = dropout(x, 0.25)
    b = dropout(x, 0.25)
    output a
    output b
    return sum(a)
}
"""


def test_dropout_keeps_its_share_and_its_mean() -> None:
    model = lowered(DROPOUT, N=20000)
    first = evaluate(model, {"x": np.ones(20000)}, {"rng": np.array([3, 0])})
    again = evaluate(model, {"x": np.ones(20000)}, {"rng": np.array([3, 0])})
    later = evaluate(model, {"x": np.ones(20000)}, {"rng": first["new:rng"]})
    assert set(np.unique(first["a"])) == {0.0, 1 / 0.75}
    assert abs((first["a"] == 0).mean() - 0.25) < 0.015
    np.testing.assert_array_equal(first["a"], again["a"])
    assert 0.3 < (first["a"] != first["b"]).mean() < 0.45
    assert 0.3 < (first["a"] != later["a"]).mean() < 0.45
    np.testing.assert_array_equal(first["new:rng"], [3, 1])
    quiet = lowered(DROPOUT, training=False, N=5)
    assert [spec.path for spec in quiet.parameters] == []
    np.testing.assert_array_equal(evaluate(quiet, {"x": np.arange(5.0)})["a"], np.arange(5.0))
