"""Values of all ops against references that share no code with them: scalar formulas, loops over
indices, published vectors.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.randomness import threefry2x32
from gradc.ir.ops.registry import lookup
from gradc.ir.tensor.bf16 import round_to_bf16
from gradc.ir.tensor.core import DType, Op, TensorType, Value
from tests.support.op_cases import ARRAYS, CASES, Array, Case

U32 = 2**32


def floordiv(a: int, b: int) -> int:
    return math.floor(a / b) if b else 0


# Scalar formulas on Python numbers.
SCALAR: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": math.pow,
    "max": lambda a, b: max(b, a),
    "min": lambda a, b: min(b, a),
    "gate": lambda ct, p: 0.0 if ct == 0 else ct * p,
    "fma": lambda a, b, c: a * b + c,
    "neg": lambda x: -x,
    "abs": lambda x: -x if x < 0 else x,
    "sign": lambda x: (x > 0) - (x < 0),
    "floor": math.floor,
    "round": round,
    "sqrt": lambda x: x**0.5,
    "rsqrt": lambda x: x**-0.5,
    "exp": lambda x: math.e**x,
    "expm1": math.expm1,
    "log": math.log,
    "log1p": math.log1p,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "tanh": lambda x: 1 - 2 / (math.exp(2 * x) + 1),
    "erf": lambda x: 1 - math.erfc(x),
    "floordiv": floordiv,
    "mod": lambda a, b: a - b * floordiv(a, b),
    "bitand": lambda a, b: a & b,
    "bitor": lambda a, b: a | b,
    "bitxor": lambda a, b: a ^ b,
    "shl": lambda a, b: a * 2**b,
    "shr": lambda a, b: floordiv(a, 2**b),
    "mulhi": lambda a, b: a * b // U32,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "logical_and": lambda a, b: a and b,
    "logical_or": lambda a, b: a or b,
    "logical_not": lambda x: not x,
    "select": lambda c, a, b: a if c else b,
    "stop_gradient": lambda x: x,
    "cast": lambda x, dtype: int(x) if dtype is DType.I32 else x,
    "relu": lambda x: x if x > 0 else 0.0,
    "leaky_relu": lambda x, slope: x if x > 0 else slope * x,
    "sigmoid": lambda x: 0.5 + 0.5 * math.tanh(x / 2),
    "softplus": lambda x: math.log(1 + math.exp(x)),
    "gelu": lambda x: x * 0.5 * math.erfc(-x / math.sqrt(2)),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "function1": lambda x, function, order: 0.5 + 0.5 * math.tanh(x / 2),  # of `expit`
    "function2": lambda x, y, function, order: x * math.log(y),  # of `xlogy`
}


def indices(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return product(*(range(n) for n in shape))


def filled(shape: Sequence[int], element: Callable[[tuple[int, ...]], Any]) -> Array:
    found = np.empty(tuple(shape), dtype=object)
    for at in indices(shape):
        found[at] = element(at)
    return found


def flat(at: Sequence[int], shape: Sequence[int]) -> int:
    total = 0
    for i, n in zip(at, shape, strict=True):
        total = total * n + i
    return total


def group(values: Sequence[Any], start: Any, combine: Callable[[Any, Any], Any]) -> Any:
    for value in values:
        start = combine(start, value)
    return start


def along(x: Array, at: Sequence[int], axes: Sequence[int]) -> list[Any]:
    """The elements of ``x`` that a reduction over ``axes`` puts together at ``at``."""
    found = []
    for place in indices([x.shape[a] for a in sorted(axes)]):
        rest, inner = iter(at), iter(place)
        found.append(x[tuple(next(inner) if a in axes else next(rest) for a in range(x.ndim))])
    return found


def reduction(start: Any, combine: Callable[[Any, Any], Any]) -> Callable[..., Array]:
    def reference(shape: Sequence[int], x: Array, axes: Sequence[int]) -> Array:
        return filled(shape, lambda at: group(along(x, at, axes), start, combine))

    return reference


def pad(shape: Any, x: Array, low: Any, high: Any, interior: Any) -> Array:
    found = np.zeros(tuple(shape), dtype=object)
    for at in indices(x.shape):
        place = (a + i * (g + 1) for i, a, g in zip(at, low, interior, strict=True))
        found[tuple(place)] = x[at]
    return found


def contract(shape: Any, a: Array, b: Array, batch: Any, contract: Any) -> Array:
    """numpy.einsum with letters worked out here."""
    letters = iter("abcdefghijklmnop")
    left, right = [""] * a.ndim, [""] * b.ndim
    for i, j in (*batch, *contract):
        left[i] = right[j] = next(letters)
    shared = {left[i] for i, _ in contract}
    left = [name or next(letters) for name in left]
    right = [name or next(letters) for name in right]
    out = [left[i] for i, _ in batch]
    out += [n for n in left if n not in out and n not in shared]
    out += [n for n in right if n not in out and n not in shared]
    return np.asarray(np.einsum(f"{''.join(left)},{''.join(right)}->{''.join(out)}", a, b))


def take(shape: Any, table: Array, ids: Array, axis: int, fill: str = "nan") -> Array:
    def element(at: tuple[int, ...]) -> Any:
        row = int(ids[at[axis : axis + ids.ndim]])
        if not 0 <= row < table.shape[axis]:
            return 0.0 if fill == "zero" else math.nan
        return table[(*at[:axis], row, *at[axis + ids.ndim :])]

    return filled(shape, element)


def scatter_add(shape: Any, ids: Array, updates: Array, axis: int, size: int) -> Array:
    found = np.zeros(tuple(shape), dtype=object)
    for at in indices(updates.shape):
        row = int(ids[at[axis : axis + ids.ndim]])
        if 0 <= row < size:
            found[(*at[:axis], row, *at[axis + ids.ndim :])] += updates[at]
    return found


def concat(shape: Any, *xs: Array, axis: int) -> Array:
    rows = [row for x in xs for row in np.moveaxis(x, axis, 0)]
    return np.moveaxis(np.array(rows), 0, axis)


def fft(shape: Any, x: Array, axis: int) -> Array:
    n, z = shape[axis], x[0] + 1j * x[1]

    def element(at: tuple[int, ...]) -> float:
        place, k = list(at[1:]), at[axis]
        total = 0j
        for j in range(n):
            place[axis - 1] = j
            total += z[tuple(place)] * cmath.exp(-2j * math.pi * (j * k % n) / n)
        return total.imag if at[0] else total.real

    return filled(shape, element)


def cumsum(shape: Any, x: Array, axis: int, reverse: bool) -> Array:
    def element(at: tuple[int, ...]) -> Any:
        span = range(at[axis], x.shape[axis]) if reverse else range(at[axis] + 1)
        return sum(x[(*at[:axis], i, *at[axis + 1 :])] for i in span)

    return filled(shape, element)


def conv_terms(x: Any, w: Any, ct: Any, at: dict[str, Any]) -> Iterator[tuple[Any, Any, Any]]:
    """Index triples (of x, of w, of ct) whose product the trilinear form adds up."""
    n, o, *places = ct
    _, c, *taps = w
    per_group = o // at["groups"]
    for i, f, k, *spatial in indices((n, o, c, *places, *taps)):
        y, p = spatial[: len(places)], spatial[len(places) :]
        rows = zip(y, p, at["stride"], at["dilation"], at["padding"], strict=True)
        met = [a * step + b * gap - low for a, b, step, gap, (low, _) in rows]
        if all(0 <= a < size for a, size in zip(met, x[2:], strict=True)):
            yield (i, f // per_group * c + k, *met), (f, k, *p), (i, f, *y)


def convolution(shape: Any, x: Array, w: Array, **at: Any) -> Array:
    found = np.zeros(tuple(shape))
    for i, j, k in conv_terms(x.shape, w.shape, shape, at):
        found[k] += x[i] * w[j]
    return found


def convolution_input(shape: Any, ct: Array, w: Array, size: Any, **at: Any) -> Array:
    found = np.zeros(tuple(shape))
    for i, j, k in conv_terms(shape, w.shape, ct.shape, at):
        found[i] += ct[k] * w[j]
    return found


def convolution_filter(shape: Any, x: Array, ct: Array, size: Any, **at: Any) -> Array:
    found = np.zeros(tuple(shape))
    for i, j, k in conv_terms(x.shape, shape, ct.shape, at):
        found[j] += x[i] * ct[k]
    return found


def windows(x: Array, at: tuple[int, ...], size: Any, stride: Any, padding: Any) -> list[Any]:
    """The elements of one pooling window that lie in the image."""
    found = []
    for p, q in indices(size):
        y, z = at[2] * stride[0] + p - padding[0][0], at[3] * stride[1] + q - padding[1][0]
        if 0 <= y < x.shape[2] and 0 <= z < x.shape[3]:
            found.append(x[at[0], at[1], y, z])
    return found


# reference(shape of the result, *operands, **attributes)
REFERENCES: dict[str, Callable[..., Array]] = {
    "constant": lambda shape, value, dtype, **_: filled(shape, lambda at: value),
    "iota": lambda shape, axis, dtype, **_: filled(shape, lambda at: at[axis]),
    "broadcast": lambda shape, x, dims, **_: filled(
        shape,
        lambda at: x[tuple(at[d] if n > 1 else 0 for n, d in zip(x.shape, dims, strict=True))],
    ),
    "reshape": lambda shape, x, **_: filled(shape, lambda at: list(x.flat)[flat(at, shape)]),
    "transpose": lambda shape, x, perm: filled(
        shape, lambda at: x[tuple(at[perm.index(a)] for a in range(x.ndim))]
    ),
    "slice": lambda shape, x, start, limit, stride: filled(
        shape, lambda at: x[tuple(s + i * d for i, s, d in zip(at, start, stride, strict=True))]
    ),
    "pad": pad,
    "concat": concat,
    "reverse": lambda shape, x, axes: filled(
        shape,
        lambda at: x[
            tuple(
                n - 1 - i if a in axes else i
                for a, (i, n) in enumerate(zip(at, x.shape, strict=True))
            )
        ],
    ),
    "sum": reduction(0.0, lambda a, b: a + b),
    "prod": reduction(1.0, lambda a, b: a * b),
    "reduce_max": reduction(-math.inf, max),
    "reduce_min": reduction(math.inf, min),
    "argmax": lambda shape, x, axis: filled(
        shape, lambda at: max(range(x.shape[axis]), key=lambda i: (along(x, at, [axis])[i], -i))
    ),
    "argsort": lambda shape, x, axis: filled(
        shape,
        lambda at: sorted(
            range(x.shape[axis]), key=lambda i: along(x, (*at[:axis], *at[axis + 1 :]), [axis])[i]
        )[at[axis]],
    ),
    "cumsum": cumsum,
    "fft": fft,
    "all_to_all": lambda _shape, x: x,  # of one rank
    "all_gather": lambda shape, x, ranks: filled(shape, lambda at: x[at[1:]]),
    "contract": contract,
    "take": take,
    "scatter_add": scatter_add,
    **{f"conv{n}d": convolution for n in (1, 2, 3)},
    **{f"conv{n}d_input": convolution_input for n in (1, 2, 3)},
    **{f"conv{n}d_filter": convolution_filter for n in (1, 2, 3)},
    "max_pool": lambda shape, x, **at: filled(shape, lambda i: max(windows(x, i, **at))),
    "avg_pool": lambda shape, x, size, **at: filled(
        shape, lambda i: sum(windows(x, i, size, **at)) / (size[0] * size[1])
    ),
}


def reference(case: Case, operands: Sequence[Array]) -> Array:
    name, attributes = case.definition.name, case.sample.attributes
    shape = case.function().block.outputs[0].type.static_shape
    if name in SCALAR:
        return filled(
            shape, lambda at: SCALAR[name](*(x[at].item() for x in operands), **attributes)
        )
    assert name in REFERENCES, f"{__file__}: no row for {name}: the same in plain Python"
    rest = {key: value for key, value in attributes.items() if key != "shape"}
    return REFERENCES[name](shape, *operands, **rest)


@pytest.mark.parametrize("case", [c for c in CASES if c.definition.name != "random_bits"], ids=str)
def test_values(case: Case) -> None:
    """Every op at every sample: f64 to 1e-14, integers and booleans exactly."""
    operands = case.operands(11)
    (value,) = run(ARRAYS, case.function(), operands)
    expected = reference(case, operands)
    assert value.shape == expected.shape
    if value.dtype.kind == "f":
        np.testing.assert_allclose(value, expected.astype(np.float64), rtol=2e-14, atol=2e-14)
    else:
        assert value.tolist() == expected.tolist()


def evaluated(
    name: str, *operands: Any, dtype: DType, to: DType | None = None, **attributes: Any
) -> Any:
    """One op on arrays of ``dtype``; ``to`` is the attribute of a cast."""
    if to is not None:
        attributes["dtype"] = to
    arrays = [np.asarray(x, NumpyArrays.dtype(dtype)) for x in operands]
    types = [TensorType(x.shape, dtype) for x in arrays]
    definition = lookup(name)
    (result,) = definition.infer(types, attributes)
    op = Op(name, tuple(Value(t) for t in types), (Value(result),), attributes)
    with ARRAYS.quiet():
        return ARRAYS.settle(definition.evaluate(ARRAYS, op, arrays)[0], result.dtype).tolist()


def test_ieee_edges() -> None:
    nan, inf = math.nan, math.inf
    assert math.isnan(evaluated("max", nan, 1.0, dtype=DType.F64))
    assert math.isnan(evaluated("min", 1.0, nan, dtype=DType.F32))
    assert math.isnan(evaluated("reduce_max", [1.0, nan, 3.0], dtype=DType.F64, axes=(0,)))
    assert evaluated("argmax", [1.0, nan, 3.0], dtype=DType.F64, axis=0) == 1
    assert evaluated("round", [0.5, 1.5, -0.5, 2.5], dtype=DType.F32) == [0.0, 2.0, -0.0, 2.0]
    assert evaluated("div", [1.0, -1.0], [0.0, 0.0], dtype=DType.F32) == [inf, -inf]
    assert evaluated("pow", [0.0, -8.0], [0.0, 2.0], dtype=DType.F64) == [1.0, 64.0]
    assert evaluated("gate", [0.0, -0.0, 2.0], [inf, nan, 3.0], dtype=DType.F64) == [0.0, 0.0, 6.0]
    assert evaluated("sigmoid", [-1e4, 1e4], dtype=DType.F32) == [0.0, 1.0]
    assert evaluated("softplus", [-1e4, 1e4], dtype=DType.F32) == [0.0, 1e4]


def test_integers_wrap_and_never_trap() -> None:
    least = -(2**31)
    i32 = DType.I32
    assert evaluated("floordiv", [7, -7, 7, 5, least], [2, 2, -2, 0, -1], dtype=i32) == [
        3,
        -4,
        -4,
        0,
        least,
    ]
    assert evaluated("mod", [7, -7, 7, 5], [2, 2, -2, 0], dtype=i32) == [1, 1, -1, 0]
    assert evaluated("add", [2**31 - 1], [1], dtype=i32) == [least]
    assert evaluated("shl", [1, 3], [33, 31], dtype=i32) == [2, least]
    assert evaluated("shr", [-8], [1], dtype=i32) == [-4]
    assert evaluated("shr", [U32 - 8], [1], dtype=DType.U32) == [2**31 - 4]
    assert evaluated("cast", [1e20, -1e20, math.nan, 2.9, -2.9], dtype=DType.F64, to=i32) == [
        2**31 - 1,
        least,
        0,
        2,
        -2,
    ]
    assert evaluated("cast", [9.3e18, -9.3e18], dtype=DType.F32, to=DType.I64) == [
        2**63 - 1,
        -(2**63),
    ]


def test_reductions_over_nothing() -> None:
    empty = np.zeros((2, 0))
    for name, value in (
        ("sum", 0.0),
        ("prod", 1.0),
        ("reduce_max", -math.inf),
        ("reduce_min", math.inf),
    ):
        assert evaluated(name, empty, dtype=DType.F64, axes=(1,)) == [value, value]
    assert evaluated("reduce_max", empty, dtype=DType.I32, axes=(1,)) == [-(2**31)] * 2


def test_bf16_rounds_half_to_even() -> None:
    """1 + 2**-8 lies half way between two bf16; above it rounds up."""
    x = np.asarray([1 + 2**-8, 1 + 2**-8 + 2**-16, 1 + 3 * 2**-8, np.inf, 3.4e38], np.float32)
    expected = [1.0, 1 + 2**-7, 1 + 2 * 2**-7, np.inf, np.inf]
    assert round_to_bf16(x).tolist() == expected
    assert np.isnan(round_to_bf16(np.asarray([np.nan], np.float32))).all()
    assert evaluated("add", [1.0], [2**-8], dtype=DType.BF16) == [1.0]
    assert evaluated("add", [1.0], [2**-11], dtype=DType.F16) == [1.0]


# Random123, kat_vectors: threefry2x32 with 20 rounds (counter, key, result).
THREEFRY = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize("counter, key, expected", THREEFRY)
def test_threefry_vectors(counter: Any, key: Any, expected: Any) -> None:
    k = ARRAYS.at(DType.U32)
    words = [tuple(np.asarray(w, np.uint32) for w in pair) for pair in (key, counter)]
    with ARRAYS.quiet():
        found = threefry2x32(k, (words[0][0], words[0][1]), (words[1][0], words[1][1]))
    assert [int(x) for x in found] == list(expected)


def test_random_bits_depend_on_key_stream_and_position_only() -> None:
    def bits(key: list[int], stream: int, shape: tuple[int, ...]) -> Any:
        return np.array(evaluated("random_bits", key, dtype=DType.U32, stream=stream, shape=shape))

    whole = bits([3, 4], 7, (4, 6))
    assert (bits([3, 4], 7, (24,)) == whole.ravel()).all()
    assert (bits([3, 4], 7, (2, 6)) == whole[:2]).all()
    for other in (bits([3, 5], 7, (4, 6)), bits([2, 4], 7, (4, 6)), bits([3, 4], 8, (4, 6))):
        assert (other != whole).sum() >= 20
    many = bits([1, 0], 0, (20000,)) / U32
    assert abs(many.mean() - 0.5) < 0.01 and abs(many.var() - 1 / 12) < 0.003
