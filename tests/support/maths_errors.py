"""Errors of the vector mathematics in units of the last place, and whether NumPy arrays and kernel
texts in the simulator have the bits of native code.

    python -m tests.support.maths_errors [--count 1048576] [--only exp,erf] [--every 6e-5 10.2]

Prints a Markdown row per function: ``count`` arguments and more, of all bit patterns, of edges and
of where the function does something (``maths_inputs``), in f32 and f64. The truth is in x87 long
doubles, that of erf in f64 by mpmath (a minute). Exit status 1 if a bound of ``elementary.ULPS`` is
passed or a bit differs.

With ``--every`` it prints the largest error in all f32 of a range instead, with and without fused
multiply-add, the truth in f64.
"""

from __future__ import annotations

import argparse
import importlib
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gradc.codegen.maths.arrays import ArrayFloats
from gradc.codegen.maths.elementary import FUNCTIONS, ULPS, call
from gradc.ir.tensor.core import DType
from tests.support.cuda_functions import simulated
from tests.support.llvm_kernels import Compiled, elementwise
from tests.support.maths_inputs import arguments, same_bits

Array = npt.NDArray[Any]
LONG = np.longdouble


def errors(got: Array, truth: Array) -> Array:
    """Distances in units of the last place of the true result; infinite where inf, NaN or a sign of
    0 is wrong.
    """
    kind = got.dtype.type
    info = np.finfo(kind)
    with np.errstate(all="ignore"):
        rounded = truth.astype(kind)
        size = np.maximum(np.abs(truth), LONG(info.tiny))
        exponent = np.where(np.isfinite(size), np.floor(np.log2(size)), 0).astype(np.int64)
        distance = np.abs(got.astype(LONG) - truth) / np.ldexp(LONG(1), exponent - info.nmant)
    edge = ~np.isfinite(rounded) | ~np.isfinite(got)
    same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    # Rounding to infinity one ulp early or late is an error of that size, not an infinite one.
    near_top = np.isfinite(truth) & (np.abs(truth) > LONG(info.max) * (1 - 2 * LONG(info.eps)))
    edge &= ~near_top
    unsigned = (rounded == 0) & (np.signbit(got) != np.signbit(rounded))
    result: Array = np.where(edge, np.where(same, 0, np.inf), distance).astype(np.float64)
    result[near_top & ~np.isfinite(got)] = 0
    result[unsigned] = np.inf
    return result


def long_truth(name: str, x: Array, *more: Array) -> Array:
    """The function ``name`` in long doubles, erf of f64 by mpmath."""
    with np.errstate(all="ignore"):
        wide = x.astype(LONG)
        if name == "pow":
            return np.asarray(np.power(wide, more[0].astype(LONG)))
        if name != "erf":
            return np.asarray(getattr(np, name)(wide))
    if x.dtype == np.float32:
        return np.array([LONG(math.erf(v)) for v in x])
    mpmath: Any = importlib.import_module("mpmath")
    mpmath.mp.dps = 30
    # Nearly 2 x / sqrt(pi), or 1: to more digits than long doubles have.
    slope = LONG(str(2 / mpmath.sqrt(mpmath.pi)))
    truth = np.where(np.abs(wide) < 1, wide * slope, np.sign(wide))
    truth[np.isnan(wide)] = LONG("nan")
    between = np.flatnonzero((np.abs(wide) > 2.0**-35) & (np.abs(wide) < 9))
    truth[between] = [LONG(str(mpmath.erf(v))) for v in x[between].tolist()]
    return truth


def measured(name: str, dtype: DType, count: int) -> tuple[int, float, int]:
    """Arguments tried, the largest error in ulps, and how many results of arrays or texts have
    other bits.
    """
    rng = np.random.default_rng(7)
    given = arguments(name, dtype, -(-count // (9 if name == "pow" else 6)), rng)
    native = np.empty_like(given[0])
    Compiled([elementwise(name, len(native), [dtype] * len(given), dtype)])([*given, native])
    with np.errstate(all="ignore"):
        arrays = call(ArrayFloats(dtype is DType.F64), name, given)
    worst = float(errors(native, long_truth(name, *given)).max())
    texts = simulated(name, "f64" if dtype is DType.F64 else "f32", given)
    same = same_bits(arrays, native) & same_bits(texts, native)
    return len(native), worst, int((~same).sum())


def every(name: str, low: float, high: float, isa: str) -> tuple[int, float, float]:
    """How many f32 there are from ``low`` to ``high``, both above 0, the largest error of
    ``name`` in them, and where.
    """
    size, worst, place = 1 << 20, 0.0, 0.0
    code = Compiled([elementwise(name, size, [DType.F32], DType.F32)], isa)
    special: Any = importlib.import_module("scipy.special") if name == "erf" else np
    begin, end = (int(v) for v in np.array([low, high], np.float32).view(np.uint32))
    for first in range(begin, end, size):
        x = np.arange(first, first + size, dtype=np.uint32).view(np.float32)
        got = np.empty_like(x)
        code([x, got])
        truth = getattr(special, name)(x.astype(np.float64))
        distance = np.abs(got - truth) / np.ldexp(1.0, np.frexp(truth)[1] - 24)
        if distance.max() > worst:
            worst, place = float(distance.max()), float(x[distance.argmax()])
    return -(-(end - begin) // size) * size, worst, place


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1 << 20)
    parser.add_argument("--only", default=",".join(FUNCTIONS))
    parser.add_argument("--every", nargs=2, type=float, metavar=("LOW", "HIGH"))
    asked = parser.parse_args()
    if asked.every:
        low, high = asked.every
        for name in asked.only.split(","):
            for isa in ("avx2", "sse2"):
                tried, worst, place = every(name, low, high, isa)
                print(f"{name} {isa}: {worst:.3f} ulp at {place!r} of {tried} f32", flush=True)
        return 0
    print("| | f32 ulp | bound | f64 ulp | bound | arguments | bits that differ |")
    print("|---|---|---|---|---|---|---|")
    failed = False
    for name in asked.only.split(","):
        rows = [measured(name, dtype, asked.count) for dtype in (DType.F32, DType.F64)]
        cells = [f"{row[1]:.3f} | {bound}" for row, bound in zip(rows, ULPS[name], strict=True)]
        tried, differ = sum(row[0] for row in rows), sum(row[2] for row in rows)
        print(f"| {name} | {' | '.join(cells)} | {tried} | {differ} |", flush=True)
        failed |= differ > 0 or any(r[1] > b for r, b in zip(rows, ULPS[name], strict=True))
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
