"""Every verb on every element type and instruction set: bitwise NumPy's, with the edge cases the
algebra fixes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gradc.codegen.llvm.isa import select
from gradc.codegen.llvm.text import literal
from gradc.codegen.maths.elementary import UNARY
from gradc.ir.loop.execute import execute_kernel
from gradc.ir.loop.kernel import Affine, Buffer, Const, For, Kernel, Let, Load, Store, Var
from gradc.ir.loop.verbs import from_memory, stored_dtype
from gradc.ir.tensor.algebra import VERBS
from gradc.ir.tensor.core import DType
from tests.support.llvm_kernels import Compiled, elementwise, empty, sets

Array = npt.NDArray[Any]
FLOATS = (DType.F64, DType.F32, DType.BF16, DType.F16)
INTEGERS = (DType.I64, DType.I32, DType.U32)
SIZE = 1009
ONLY_INTEGER = {"bitand", "bitor", "bitxor", "shl", "shr", "mulhi"}
LOGICAL = {"logical_and", "logical_or", "logical_not"}
TRANSCENDENTAL = {*UNARY, "pow"}


def types_of(verb: str) -> list[DType]:
    """The operand types a verb is for."""
    if verb in LOGICAL:
        return [DType.BOOL]
    if verb == "mulhi":
        return [DType.U32]
    if verb in ONLY_INTEGER:
        return [*INTEGERS, DType.BOOL] if verb.startswith("bit") else list(INTEGERS)
    if verb in TRANSCENDENTAL or verb in ("sqrt", "rsqrt", "div", "fma", "round", "floor"):
        return list(FLOATS)
    if verb in ("eq", "ne", "select", "max", "min"):
        return [*FLOATS, *INTEGERS, DType.BOOL]
    return [*FLOATS, *INTEGERS]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """NumPy need not warn of what we ask for on purpose."""
    with np.errstate(all="ignore"):
        yield


CASES = [(verb, dtype) for verb in VERBS for dtype in types_of(verb)]


def draw(dtype: DType, rng: np.random.Generator, size: int = SIZE) -> Array:
    """Ordinary values mixed with every kind of special one."""
    if dtype is DType.BOOL:
        return rng.integers(0, 2, size).astype(bool)
    stored = stored_dtype(dtype)
    if not dtype.is_float:
        limits = np.iinfo(stored)
        wild = rng.integers(limits.min, limits.max, size, dtype=stored, endpoint=True)
        small = rng.integers(0 if dtype is DType.U32 else -5, 6, size).astype(stored)
        edges = np.array([limits.min, limits.max, 0, 1], stored)
        return np.where(
            rng.random(size) < 0.4,
            wild,
            np.where(rng.random(size) < 0.1, rng.choice(edges, size), small),
        )
    bits: Any = np.dtype(f"u{stored.itemsize}")
    wild = rng.integers(0, np.iinfo(bits).max, size, dtype=bits, endpoint=True)
    values = rng.normal(0, 2, size)
    values = np.where(rng.random(size) < 0.2, np.round(values), values)
    special = rng.choice([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 0.5, 2.5], size)
    values = np.where(rng.random(size) < 0.2, special, values)
    if dtype is DType.BF16:
        plain = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    else:
        plain = values.astype(stored)
    return np.where(rng.random(size) < 0.3, wild.view(stored), plain)


def values_of(stored: Array, dtype: DType) -> Array:
    return from_memory(stored, dtype)


@pytest.mark.parametrize("isa", sets())
def test_verbs_give_the_bits_of_numpy(isa: str) -> None:
    cases = [(v, d) for v, d in CASES if v not in TRANSCENDENTAL and v != "fma"]
    kernels, operands = [], []
    for verb, dtype in cases:
        types = [dtype] * VERBS[verb].arity
        if verb == "select":
            types[0] = DType.BOOL
        result = DType.BOOL if VERBS[verb].result == "bool" else dtype
        kernels.append(elementwise(verb, SIZE, types, result))
        operands.append((types, result))
    code = Compiled(kernels, isa)
    rng = np.random.default_rng(7)
    for n, (verb, dtype) in enumerate(cases):
        types, result = operands[n]
        given = [draw(t, rng) for t in types]
        got, truth = empty(result, SIZE), empty(result, SIZE)
        code([*given, got], n)
        execute_kernel(kernels[n], [*given, truth])
        compare(values_of(got, result), values_of(truth, result), f"{verb} {dtype} {isa}", verb)


def c_pow(x: float, y: float) -> float:
    """C's pow, which Python wraps in exceptions."""
    try:
        return math.pow(x, y)
    except OverflowError:
        return math.copysign(math.inf, x if y % 2 == 1 else 1)
    except ValueError:
        return math.copysign(math.inf, x if y % 2 == 1 else 1) if x == 0 else math.nan


def compare(got: Array, truth: Array, name: str, verb: str) -> None:
    """Equal bits but for the payload of NaN, and the sign of a zero that is the maximum of two."""
    np.testing.assert_array_equal(got, truth, err_msg=name)
    if np.issubdtype(got.dtype, np.floating) and verb not in ("max", "min"):
        some = ~np.isnan(truth)
        np.testing.assert_array_equal(np.signbit(got[some]), np.signbit(truth[some]), err_msg=name)


@pytest.mark.parametrize("isa", sets())
def test_fma_is_rounded_once_where_the_machine_can(isa: str) -> None:
    size, once = 64, select(isa).fma
    code = Compiled([elementwise("fma", size, [d] * 3, d) for d in (DType.F32, DType.F64)], isa)
    for n, (kind, eps) in enumerate(((np.float32, 2.0**-20), (np.float64, 2.0**-40))):
        x = np.full(size, 1 + eps, kind)
        c = np.full(size, -1 - 2 * eps, kind)
        y = np.empty_like(x)
        code([x, x, c, y], n)
        assert (y == (kind(eps * eps) if once else 0)).all()


@pytest.mark.parametrize("isa", sets())
@pytest.mark.parametrize("dtype", [DType.BF16, DType.F16], ids=str)
def test_narrow_transcendentals_are_the_f32_ones_rounded(dtype: DType, isa: str) -> None:
    rng = np.random.default_rng(8)
    names = sorted(UNARY)
    code = Compiled([elementwise(v, SIZE, [dtype], dtype) for v in names], isa)
    for n, name in enumerate(names):
        x = draw(dtype, rng)
        got = empty(dtype, SIZE)
        code([x, got], n)
        wide = values_of(x, dtype).astype(np.float64)
        truth = np.vectorize(math.erf)(wide) if name == "erf" else getattr(np, name)(wide)
        value = values_of(got, dtype).astype(np.float64)
        np.testing.assert_array_equal(np.isnan(value), np.isnan(truth), err_msg=name)
        # Half a unit of the narrow type, and the few f32 units of the function.
        unit = 2.0**-8 if dtype is DType.BF16 else 2.0**-11
        least = 2.0**-133 if dtype is DType.BF16 else 2.0**-24
        finite = np.isfinite(value) & np.isfinite(truth)
        allowed = np.maximum(np.abs(truth) * unit, least / 2) * (1 + 2.0**-10)
        assert (np.abs(value - truth) <= allowed)[finite].all(), name


CASTS = [(a, b) for a in DType for b in DType if a is not b]


@pytest.mark.parametrize("isa", sets())
def test_casts_saturate_and_round_once(isa: str) -> None:
    kernels = [elementwise("cast", SIZE, [a], b) for a, b in CASTS]
    code = Compiled(kernels, isa)
    rng = np.random.default_rng(9)
    for n, (a, b) in enumerate(CASTS):
        x = draw(a, rng)
        got, truth = empty(b, SIZE), empty(b, SIZE)
        code([x, got], n)
        execute_kernel(kernels[n], [x, truth])
        np.testing.assert_array_equal(
            values_of(got, b), values_of(truth, b), err_msg=f"{a} to {b} {isa}"
        )


@pytest.mark.parametrize("isa", sets())
def test_f64_to_narrow_rounds_once(isa: str) -> None:
    # Just above a tie of the narrow type, by less than f32 can hold: rounding twice would round to
    # even.
    x = np.array([1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-11 + 2.0**-40, -1 - 2.0**-8 - 2.0**-40])
    code = Compiled([elementwise("cast", 3, [DType.F64], d) for d in (DType.BF16, DType.F16)], isa)
    bf16, f16 = empty(DType.BF16, 3), empty(DType.F16, 3)
    code([x, bf16], 0)
    code([x, f16], 1)
    up = 1 + 2.0**-7
    assert values_of(bf16, DType.BF16).tolist() == [up, 1.0, -up]
    assert f16.astype(float).tolist() == [1 + 2.0**-8, 1 + 2.0**-10, -1 - 2.0**-8]


@pytest.mark.parametrize("isa", sets())
@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16], ids=str)
def test_all_narrow_values_survive_and_all_ties_are_even(dtype: DType, isa: str) -> None:
    patterns = np.arange(2**16, dtype=np.uint16)
    size = len(patterns)
    code = Compiled(
        [
            elementwise("cast", size, [dtype], DType.F32),
            elementwise("cast", size, [DType.F32], dtype),
        ],
        isa,
    )
    stored = patterns.view(stored_dtype(dtype))
    wide, back = np.empty(size, np.float32), empty(dtype, size)
    code([stored, wide], 0)
    np.testing.assert_array_equal(wide, values_of(stored, dtype).astype(np.float32))
    code([wide, back], 1)
    same = ~np.isnan(wide)
    np.testing.assert_array_equal(back.view(np.uint16)[same], patterns[same])
    # Midpoints between neighbours, and a little to each side.
    positive = np.sort(wide[np.isfinite(wide) & (wide >= 0)]).astype(np.float64)
    middle = ((positive[:-1] + positive[1:]) / 2).astype(np.float32)
    points = np.concatenate(
        [middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(np.inf))]
    )
    points = np.concatenate([points, -points])
    kernel = elementwise("cast", len(points), [DType.F32], dtype)
    got, truth = empty(dtype, len(points)), empty(dtype, len(points))
    Compiled([kernel], isa)([points, got])
    execute_kernel(kernel, [points, truth])
    np.testing.assert_array_equal(got.view(np.uint16), truth.view(np.uint16))


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 3.0, -1.0, 2.5])
def test_literal_powers_have_the_edges_of_pow(power: float) -> None:
    x = draw(DType.F64, np.random.default_rng(10))
    source, target = Buffer("x", DType.F64, SIZE, "read"), Buffer("y", DType.F64, SIZE, "write")
    i, a, r = Var("i", DType.I64), Var("a", DType.F64), Var("r", DType.F64)
    body = (
        Load(a, source, Affine.of(i)),
        Let(r, "pow", (a, Const(power, DType.F64))),
        Store(target, Affine.of(i), r),
    )
    y = np.empty_like(x)
    Compiled([Kernel("power", (source, target), (For(i, SIZE, "vector", body),))])([x, y])
    truth = np.array([c_pow(v, power) for v in x.tolist()])
    np.testing.assert_allclose(y, truth, rtol=4e-16, atol=0)
    some = ~np.isnan(truth)
    np.testing.assert_array_equal(np.signbit(y[some]), np.signbit(truth[some]))


def test_unknown_verbs_are_refused() -> None:
    with pytest.raises(ValueError, match="no verb conjugate"):
        Compiled([elementwise("conjugate", 4, [DType.F32], DType.F32)])
    with pytest.raises(ValueError, match="i32 has no exp"):
        Compiled([elementwise("exp", 4, [DType.I32], DType.I32)])
    with pytest.raises(ValueError, match="no verb add of 1"):
        Compiled([elementwise("add", 4, [DType.F32], DType.F32)])


def test_literals_are_exact() -> None:
    assert literal("float", 0.1) == "0x3FB99999A0000000"
    assert literal("double", 0.1) == "0x3FB999999999999A"
    assert literal("float", 1e300) == "0x7FF0000000000000"
    assert literal("i32", 2**32 - 1) == "-1"
    assert literal("i1", True) == "true"
