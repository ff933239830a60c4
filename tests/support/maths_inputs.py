"""Arguments of the vector mathematics for tests and counts: all bit patterns, edges, and where each
function does something.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gradc.codegen.maths.reduction import TRIG_LIMIT
from gradc.ir.tensor.core import DType

Array = npt.NDArray[Any]
FLOAT: dict[DType, type[np.floating[Any]]] = {DType.F32: np.float32, DType.F64: np.float64}


def specials(dtype: DType) -> Array:
    """Zeros, denormals, ends of the range, and the places where functions change their method."""
    info = np.finfo(FLOAT[dtype])
    sizes: list[Any] = [0, 1, 0.5, 2, 3, 20, 1e-30, 88.9, 103.9, 709.9, 745.2, np.inf, np.nan]
    sizes += [info.tiny, info.smallest_subnormal, info.max, info.eps, 1 + info.eps, 1 - info.epsneg]
    sizes += [TRIG_LIMIT, np.pi, np.pi / 2, np.pi / 4, 1e22]
    with np.errstate(over="ignore"):
        positive = np.array(sizes, np.float64).astype(FLOAT[dtype])
    return np.concatenate([positive, -positive])


def samples(name: str, dtype: DType, count: int, rng: np.random.Generator) -> Array:
    """Special values, and ``count`` of each: all bit patterns, the neighbourhood of 0 and 1, the
    range where the function ``name`` does something.
    """
    kind = FLOAT[dtype]
    bits: Any = np.uint32 if dtype is DType.F32 else np.uint64
    wild = rng.integers(0, np.iinfo(bits).max, count, dtype=bits, endpoint=True).view(kind)
    edge = 105.0 if dtype is DType.F32 else 746.0
    signs = rng.choice([-1.0, 1.0], count)
    parts = [
        rng.uniform(-1, 1, count),
        rng.normal(0, 3, count),
        rng.uniform(-edge, edge, count),
        signs * 10.0 ** rng.uniform(-8, 2, count),
        rng.uniform(0.4, 2, count) - (name == "log1p"),
    ]
    if name in ("sin", "cos", "tan"):
        parts += [
            rng.uniform(-1.5 * TRIG_LIMIT, 1.5 * TRIG_LIMIT, count),
            np.round(rng.uniform(0, 1e5, count)) * np.pi / 2,
        ]
    with np.errstate(over="ignore"):
        return np.concatenate([specials(dtype), wild, *(part.astype(kind) for part in parts)])


def powers(dtype: DType, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Bases and exponents: every pair of special values, all patterns, results within the range,
    whole numbers.
    """
    kind = FLOAT[dtype]
    a, b = np.meshgrid(specials(dtype), specials(dtype))
    scale = 80 if dtype is DType.F32 else 700
    base = 10 ** rng.uniform(-30, 30, count)
    patterns = samples("pow", dtype, count, rng)
    pairs = [
        (a.ravel(), b.ravel()),
        (patterns, rng.permutation(samples("pow", dtype, count, rng))),
        (base, rng.uniform(-1, 1, count) * scale / np.log(base)),
        (rng.uniform(0.5, 2, count), rng.uniform(-scale, scale, count)),
        (rng.integers(-20, 20, count), rng.integers(-30, 30, count)),
    ]
    x, y = (np.concatenate([np.asarray(p[n]).astype(kind) for p in pairs]) for n in (0, 1))
    return x, y


def arguments(name: str, dtype: DType, count: int, rng: np.random.Generator) -> tuple[Array, ...]:
    """The operands of the function ``name``."""
    if name == "pow":
        return powers(dtype, count, rng)
    return (samples(name, dtype, count, rng),)


def same_bits(a: Array, b: Array) -> Array:
    """Where two arrays of floats have the same bits, or NaN of any kind."""
    kind: Any = np.dtype(f"u{a.dtype.itemsize}")
    same: Array = (a.view(kind) == b.view(kind)) | (np.isnan(a) & np.isnan(b))
    return same
