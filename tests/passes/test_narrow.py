"""Slices that read little of something large made from little: what is planned, and the same values
bit by bit.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gradc
from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.builder import Builder
from gradc.ir.tensor.core import DType, Function, Role, Slot, TensorType, Value
from gradc.passes.simplify.dce import dce
from gradc.passes.simplify.simplify import simplify

F64 = DType.F64
END = "[N*M-3:N*M]"
# What each spelling computes over the last three elements: (form, factor of x[-1], in NumPy over ys
# = y[-3:]).
FORMS = {
    "broadcast": f"reshape(sin(broadcast(x[:, None], [N, M])), [N*M]){END}",
    "ones": f"reshape(sin(x[:, None] * ones([N, M])), [N*M]){END}",
    "outer": f"reshape(sin(x[:, None] * y), [N*M]){END}",
    "exp": f"reshape(exp(sin(x[:, None]) * y), [N*M]){END}",
    "where": f"reshape(where(y > 0, sin(x[:, None]) * y, x[:, None]), [N*M]){END}",
    "transposed": f"reshape(transpose(sin(y[:, None] * x), [1, 0]), [N*M]){END}",
    "stack": "reshape(sin(stack([x, 2 * x], axis=1)[:, :, None] * y), [2*N*M])[2*N*M-3:2*N*M]",
    "concat": "concat([y, reshape(sin(x[:, None] * y), [N*M])], axis=0)[M+N*M-3:M+N*M]",
    "unshaped": "sin(x[:, None] * y)[N-1, M-3:M]",
    "product": f"reshape(sin(x[:, None] @ y[None, :]), [N*M]){END}",
    "product of two": f"reshape(stack([x, 2 * x], axis=1) @ stack([y, y], axis=0), [N*M]){END}",
    "product of batches": 'einsum("nm,nk->nmk", x[:, None], sin(x[:, None] * y))[N-1, 0, M-3:M]',
    "row of a product": "sin(y[:, None] @ x[None, :])[M-3:M, N-1]",
    "twice": f"reshape(reshape(sin(x[:, None] * y), [N // 2, 2*M]), [N*M]){END}",
}
VALUES: dict[str, Callable[..., Any]] = {
    "broadcast": lambda x, y: np.sin(x) + 0 * y,
    "ones": lambda x, y: np.sin(x) + 0 * y,
    "exp": lambda x, y: np.exp(np.sin(x) * y),
    "where": lambda x, y: np.where(y > 0, np.sin(x) * y, x),
    "stack": lambda x, y: np.sin(2 * x * y),
    "product of two": lambda x, y: 3 * x * y,
    "product of batches": lambda x, y: x * np.sin(x * y),
}


def of_product(x: Any, y: Any) -> Any:
    return np.sin(x * y)


def model(form: str, rows: int, columns: int) -> gradc.Model:
    text = f"""dim N = {rows}, M = {columns}

model m(x: float[N], y: float[M], c: float[3]) -> float {{
    return sum({form} * c)
}}
"""
    return gradc.loads(text)


@pytest.mark.parametrize("name", FORMS)
def test_the_whole_is_not_planned(name: str) -> None:
    """17 GB or 34 GB if it were made; neither is its cotangent."""
    large = model(FORMS[name], 1 << 16, 1 << 16)
    assert large.plan(wrt="inputs", threads=2).peak_bytes < 5 << 20


@pytest.mark.parametrize("name", FORMS)
def test_values_and_gradients_against_numpy(name: str) -> None:
    rng = np.random.default_rng(5)
    small = model(FORMS[name], 34, 57)
    x, y, c = (rng.normal(size=n) for n in (34, 57, 3))
    read: Callable[..., Any] = VALUES.get(name, of_product)

    def loss(end: float, last: Any) -> float:
        return float(np.sum(read(end, last) * c))

    arrays = {"x": x.astype(np.float32), "y": y.astype(np.float32), "c": c.astype(np.float32)}
    value, grads = small.value_and_grad("inputs")({}, **arrays)
    assert value == pytest.approx(loss(x[-1], y[-3:]), rel=1e-5, abs=1e-6)
    step = 1e-6
    wanted = {"x": np.zeros(34), "y": np.zeros(57)}
    wanted["x"][-1] = (loss(x[-1] + step, y[-3:]) - loss(x[-1] - step, y[-3:])) / (2 * step)
    for at in range(3):
        moved = step * np.eye(3)[at]
        up, down = loss(x[-1], y[-3:] + moved), loss(x[-1], y[-3:] - moved)
        wanted["y"][54 + at] = (up - down) / (2 * step)
    for key, array in wanted.items():
        np.testing.assert_allclose(grads[key], array, rtol=1e-4, atol=1e-5)


# A cut in the language, and in NumPy for so many rows and columns.
CUTS: dict[str, Callable[[int, int], Any]] = {
    "[M-2:M, 3:5]": lambda m, n: np.s_[m - 2 : m, 3:5],
    "[5, N-1:N]": lambda m, n: np.s_[5, n - 1 : n],
    "[0:M:200, 7:8]": lambda m, n: np.s_[0:m:200, 7:8],
    "[M-1:M, :]": lambda m, n: np.s_[m - 1 : m, :],
    "[:, 300:301]": lambda m, n: np.s_[:, 300:301],
}


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("depth", [1, 5])
def test_a_cut_product_has_the_bits_of_the_whole(precision: str, depth: int) -> None:
    """In machine code, whatever tiles either takes; of one row, of one column, of transposes."""
    rows, columns = 601, 515
    text = f"""dim M = {rows}, N = {columns}, K = {depth}
    model m(a: float[M, K], b: float[K, N], c: float[K, M]) -> float {{
        p = a @ b
        q = c.T @ b
        output p
        output q
        LINES
        return 0.0
    }}"""
    source = np.random.default_rng(depth)
    kind = np.float64 if precision == "f64" else np.float32
    shapes = {"a": (rows, depth), "b": (depth, columns), "c": (depth, rows)}
    arrays = {name: source.standard_normal(shape).astype(kind) for name, shape in shapes.items()}
    whole = gradc.loads(text.replace("LINES", ""), precision=precision)
    found = whole.forward(["p", "q"])({}, **arrays)
    for name, product in (("p", "a @ b"), ("q", "c.T @ b")):
        lines = [f"{name}{n} = ({product}){cut}\noutput {name}{n}" for n, cut in enumerate(CUTS)]
        names = [f"{name}{n}" for n in range(len(CUTS))]
        parts = gradc.loads(text.replace("LINES", "\n".join(lines)), precision=precision)
        made = parts.forward(names)({}, **arrays)
        for part, cut in zip(names, CUTS.values(), strict=True):
            np.testing.assert_array_equal(made[part], found[name][cut(rows, columns)], part)


@pytest.mark.parametrize("precision", ["f32", "bf16", "f64"])
@pytest.mark.parametrize("depth", [255, 1100, 17_000])
def test_the_bits_of_a_product_depend_on_k_alone(precision: str, depth: int) -> None:
    """What lets a cut move to the operands: any rows and columns give those of the whole."""
    text = "model f(a: float[M, K], b: float[K, N]) -> float[M, N] { return a @ b }"
    source = np.random.default_rng(depth)
    kind = np.float64 if precision == "f64" else np.float32
    a = source.standard_normal((65, depth)).astype(kind)
    b = source.standard_normal((depth, 70)).astype(kind)
    model = gradc.loads(text, precision=precision)

    def product(left: Any, right: Any) -> Any:
        return model.forward(threads=1)({}, a=left, b=right)["result"]

    whole = product(a, b)
    for rows, columns in (((0, 1), (0, 70)), ((3, 65), (69, 70)), ((64, 65), (1, 2))):
        part = product(a[slice(*rows)], b[:, slice(*columns)])
        np.testing.assert_array_equal(part, whole[slice(*rows), slice(*columns)])
    np.testing.assert_array_equal(product(a[::9], b[:, ::9]), whole[::9, ::9])


# --- the moves themselves -------------------------------------------------------------------------


def _random_split(rng: random.Random, size: int) -> tuple[int, ...]:
    """Some shape of ``size`` elements, with axes of size 1 in it."""
    shape: list[int] = []
    while size > 1:
        factor = rng.choice([d for d in range(2, size + 1) if size % d == 0])
        shape += [1] * (rng.random() < 0.15) + [factor]
        size //= factor
    return (*shape, *([1] * (rng.random() < 0.15)))


def _random_chain(rng: random.Random) -> Function:
    """A broadcast, taken through reshapes, transposes and elementwise ops, of which a slice is
    read.
    """
    b = Builder()
    sizes = rng.choice([(6, 10, 12), (16, 30), (4, 4, 9, 8), (48, 1, 15)])
    x = b.parameter(TensorType((sizes[0],), F64), "x")
    y = b.parameter(TensorType((sizes[-1],), F64), "y")
    ends = (b.one("broadcast", v, shape=sizes, dims=(d,)) for v, d in ((x, 0), (y, len(sizes) - 1)))
    value = b.one("mul", *ends)
    for _ in range(rng.randrange(1, 5)):
        kind = rng.choice(("reshape", "reshape", "transpose", "sin", "add"))
        if kind == "reshape":
            size = math.prod(value.type.static_shape)
            value = b.one("reshape", value, shape=_random_split(rng, size))
        elif kind == "transpose":
            axes = list(range(value.type.rank))
            rng.shuffle(axes)
            value = b.one("transpose", value, perm=tuple(axes))
        else:
            value = (
                b.one("sin", value) if kind == "sin" else b.one("add", value, b.one("exp", value))
            )
    start: list[int] = []
    limit: list[int] = []
    stride: list[int] = []
    for size in value.type.static_shape:
        low = rng.randrange(size)
        high = min(size, low + rng.choice((1, 1, 2, 5)))
        start, limit, stride = [*start, low], [*limit, high], [*stride, rng.choice((1, 1, 2))]
    read = b.one("slice", value, start=tuple(start), limit=tuple(limit), stride=tuple(stride))
    slots = [Slot("x", Role.PARAM), Slot("y", Role.PARAM)]
    return b.function("f", [read], slots, [Slot("r", Role.OUTPUT)])


def test_random_chains_keep_every_bit() -> None:
    hits: Counter[str] = Counter()
    for seed in range(300):
        f = _random_chain(random.Random(seed))
        g = dce(simplify(f, hits=hits))
        arguments = [
            np.random.default_rng(seed).normal(size=v.type.static_shape) for v in f.block.parameters
        ]
        for a, b in zip(
            run(NumpyArrays(), f, arguments), run(NumpyArrays(), g, arguments), strict=True
        ):
            np.testing.assert_array_equal(a, b)
    for kind in ("reshape", "transpose", "broadcast", "an elementwise op"):
        assert hits[f"narrow slice of {kind}"] > 20, kind


def _made(value: Value, b: Builder, parameters: list[Value], read: tuple[int, int]) -> Function:
    rest = value.type.static_shape[1:]
    part = b.one(
        "slice",
        value,
        start=(read[0], *(0 for _ in rest)),
        limit=(read[1], *rest),
        stride=(1,) * value.type.rank,
    )
    slots = [Slot(f"p{n}", Role.PARAM) for n in range(len(parameters))]
    return b.function("f", [part], slots, [Slot("r", Role.OUTPUT)])


def test_what_is_read_of_a_computed_matrix_is_not_computed_twice() -> None:
    """A row of ``sin(w)``, and half of what a broadcast was made into, are read from the whole."""
    b = Builder()
    w = b.parameter(TensorType((64, 64), F64), "w")
    f = _made(b.one("sin", w), b, [w], (3, 4))
    assert simplify(f) is f
    b = Builder()
    x = b.parameter(TensorType((64,), F64), "x")
    f = _made(b.one("sin", b.one("broadcast", x, shape=(64, 64), dims=(0,))), b, [x], (0, 32))
    assert simplify(f) is f


def test_shared_operands_are_cut_once() -> None:
    """``v = v * v`` twelve times would be 2^12 slices."""
    b = Builder()
    x = b.parameter(TensorType((64,), F64), "x")
    value = b.one("broadcast", x, shape=(64, 64), dims=(0,))
    for _ in range(12):
        value = b.one("mul", b.one("sin", value), b.one("cos", value))
    g = simplify(_made(value, b, [x], (3, 4)))
    assert len(g.block.body) < 150
