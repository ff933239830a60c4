"""Verbs of several operations and the 16-bit types over NumPy arrays: NumPy's own bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gradc.codegen.maths import scalars
from gradc.codegen.maths.arrays import ArrayFloats
from gradc.ir.tensor.bf16 import bf16_bits, from_bf16
from gradc.ir.tensor.core import DType
from tests.support.maths_inputs import same_bits, samples

Array = npt.NDArray[Any]
K = ArrayFloats(False)
EVERY = np.arange(1 << 16, dtype=np.uint32)


def wide_samples() -> Array:
    """f64 of every kind, most of them within the range of f16 and many beside a tie of it."""
    rng = np.random.default_rng(9)
    ties = (rng.integers(0, 1 << 16, 4000).astype(np.uint16).view(np.float16)).astype(np.float64)
    steps = rng.choice([0, 2.0**-52, -(2.0**-52), 2.0**-30, 2.0**-11], 4000)
    with np.errstate(invalid="ignore"):
        beside = ties * (1 + steps) * (1 + rng.choice([0, 2.0**-11, 2.0**-8, 2.0**-9], 4000))
    return np.concatenate([beside, samples("exp", DType.F64, 500, rng)])


def test_values_of_all_16_bit_patterns() -> None:
    halves = EVERY.astype(np.uint16).view(np.float16).astype(np.float32)
    assert same_bits(scalars.f16_value(K, EVERY), halves).all()
    assert same_bits(scalars.bf16_value(K, EVERY), from_bf16(EVERY.astype(np.uint16))).all()


def test_floats_are_rounded_once_to_16_bits() -> None:
    with np.errstate(all="ignore"):
        wide = wide_samples()
        x = wide.astype(np.float32)
        pairs: list[tuple[Array, Array]] = [(x, x), (wide, scalars.round_to_odd(K, wide))]
        for given, single in pairs:
            half = scalars.f16_bits(K, single).astype(np.uint16).view(np.float16)
            assert same_bits(half, given.astype(np.float16)).all()
            brain = (scalars.bf16_bits(K, single) >> 16).astype(np.uint16)
            assert same_bits(from_bf16(brain), from_bf16(bf16_bits(given))).all()


def test_verbs_of_several_operations() -> None:
    rng = np.random.default_rng(10)
    x, y = (samples("exp", DType.F32, 300, rng) for _ in range(2))
    y, real = rng.permutation(y), ~np.isnan(x)
    with np.errstate(all="ignore"):
        assert (same_bits(scalars.larger(K, x, y), np.maximum(x, y)) | (x == y)).all()
        assert (same_bits(scalars.smaller(K, x, y), np.minimum(x, y)) | (x == y)).all()
        assert (scalars.sign(K, x)[real] == np.sign(x[real])).all()
        assert same_bits(scalars.rsqrt(K, x), np.float32(1) / np.sqrt(x)).all()
        assert same_bits(scalars.gate(K, x, y), np.where(x == 0, np.float32(0), x * y)).all()
        assert same_bits(scalars.mod(K, x, y), x - np.floor(x / y) * y).all()
        power = np.sqrt(np.abs(x))
        power[x < 0] = np.nan
        power[np.isinf(x)] = np.inf
        assert same_bits(scalars.root(K, x), power).all()
