"""What the data alone say before a step: arrays that do not vary, that lie far from what weights
start for, classes that hardly occur, targets that no output can reach.

Each is a fact with its numbers; whether it is why a training fails is tried by ``checkup``.

Non-goals: NaN and ids out of range, which are refused where data enter (``runtime.files``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradc.ir.ops.interval import Interval
from gradc.runtime.doctor.roles import Roles
from gradc.runtime.files.batches import Samples
from gradc.runtime.native.arrays import Array

# A column this many times as large as the middle one, or a size this far from 1, is told.
_APART, _LARGE, _SMALL = 100.0, 30.0, 1e-2
_RARE, _CLASSES = 0.05, 20
# A target this many quartile distances from the median.
_OUTLYING = 50.0


@dataclass(frozen=True)
class Fact:
    """One thing about one array."""

    kind: str  # constant, unscaled, target-scale, target-outlier, imbalance
    name: str
    message: str


def facts(samples: Samples, roles: Roles) -> list[Fact]:
    """What is remarkable about ``samples``."""
    found: list[Fact | None] = []
    for name, array in samples.batched.items():
        if array.dtype.kind == "f" and name in roles.features and array.ndim > 1:
            found += [_constant(name, array) or _unscaled(name, array)]
        if array.dtype.kind == "f" and name == roles.squared:
            found += [_outlying(name, array) or _far(name, array)]
        if array.dtype.kind in "iu" and name in roles.targets:
            found.append(_rare(name, array))
    return [fact for fact in found if fact is not None]


def _constant(name: str, array: Array) -> Fact | None:
    if len(array) > 1 and bool((array == array[:1]).all()):
        message = f"every sample of `{name}` is the same: nothing can be learned from it"
        return Fact("constant", name, message)
    return None


def _columns(array: Array) -> Array:
    """The root mean square of each column that varies."""
    flat = array.reshape(len(array), -1).astype(np.float64)
    varies = flat.std(axis=0) > 0
    found: Array = np.sqrt(np.square(flat[:, varies]).mean(axis=0))
    return found


def _unscaled(name: str, array: Array) -> Fact | None:
    sizes = _columns(array)
    if not sizes.size:
        return None
    middle, top = float(np.median(sizes)), float(sizes.max())
    if middle > 0 and top / middle > _APART:
        message = (
            f"one feature of `{name}` is {top / middle:.0f} times as large as most: its size is "
            f"{top:.3g}, theirs {middle:.3g}"
        )
        return Fact("unscaled", name, message)
    if middle > _LARGE or middle < _SMALL:
        message = f"the values of `{name}` have the size {middle:.3g}; weights start for about 1"
        return Fact("unscaled", name, message)
    return None


def _far(name: str, array: Array) -> Fact | None:
    flat = array.astype(np.float64)
    mean, spread = float(flat.mean()), float(flat.std())
    is_far = abs(mean) > 5 * spread and abs(mean) > 5
    if spread > 0 and (is_far or spread > _LARGE or max(spread, abs(mean)) < _SMALL):
        message = f"the target `{name}` has the mean {mean:.3g} and the deviation {spread:.3g}"
        return Fact("target-scale", name, message)
    return None


def outlying(array: Array) -> Array:
    """Which samples have a target far outside of what the others have."""
    flat = array.reshape(len(array), -1).astype(np.float64)
    low, middle, high = np.quantile(flat, (0.25, 0.5, 0.75))
    far: Array = (np.abs(flat - middle) > _OUTLYING * max(high - low, 1e-300)).any(axis=1)
    return far


def _outlying(name: str, array: Array) -> Fact | None:
    far = outlying(array)
    count = int(far.sum())
    if not 0 < count <= max(1, len(array) // 50):
        return None
    rows = np.argwhere(far).reshape(-1)
    message = (
        f"{count} of {len(array)} targets in `{name}` lie far from all others: the first in row "
        f"{int(rows[0])} is {float(array.reshape(len(array), -1)[rows[0]].max()):.3g}"
    )
    return Fact("target-outlier", name, message)


def rarest(array: Array) -> tuple[int, float]:
    """The class with the fewest samples and its share."""
    kinds, counts = np.unique(array, return_counts=True)
    place = int(np.argmin(counts))
    return int(kinds[place]), float(counts[place] / array.size)


def _rare(name: str, array: Array) -> Fact | None:
    kinds = np.unique(array)
    if not 2 <= len(kinds) <= _CLASSES:
        return None
    kind, share = rarest(array)
    if share >= _RARE / max(1, len(kinds) / 4):
        return None
    message = f"class {kind} of `{name}` has {share:.1%} of the samples"
    return Fact("imbalance", name, message)


# --- what a program's output can be

_OUTSIDE = 0.05


def unreachable(guess: Interval, samples: Samples, name: str) -> str | None:
    """A message if many targets lie outside of what the output can be."""
    array = samples.batched[name].astype(np.float64)
    share = float(((array < guess.low) | (array > guess.high)).mean())
    if share <= _OUTSIDE:
        return None
    ends = (f"at least {guess.low:g}", f"at most {guess.high:g}")
    told = [t for t, end in zip(ends, (guess.low, guess.high), strict=True) if math.isfinite(end)]
    return f"the output is {' and '.join(told)}, and {share:.0%} of `{name}` lie outside"


def standardised(array: Array) -> tuple[Array, float]:
    """``array`` with mean 0 and deviation 1 over all, and the deviation it had."""
    flat = array.astype(np.float64)
    spread = float(flat.std()) or 1.0
    return ((flat - flat.mean()) / spread).astype(array.dtype), spread


def normalised(array: Array) -> Array:
    """``array`` with mean 0 and deviation 1 per column; what does not vary becomes 0."""
    flat = array.reshape(len(array), -1).astype(np.float64)
    spread = flat.std(axis=0)
    spread[spread == 0] = 1.0
    found: Array = ((flat - flat.mean(axis=0)) / spread).astype(array.dtype).reshape(array.shape)
    return found
