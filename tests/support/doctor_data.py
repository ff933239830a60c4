"""Small data for the trainings of ``tests/doctor``, drawn from a seed; a call names a set."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.generic]]
Rng = np.random.Generator


def drawn(text: str, seed: int, count: int) -> Arrays:
    """The set that ``text`` names, such as ``clusters(spoil=pixels)``: ``count`` samples."""
    name, _, rest = text.partition("(")
    pairs = re.findall(r"(\w+)=([\w.+-]+)", rest)
    given = {key: float(value) if _is_number(value) else value for key, value in pairs}
    found: Arrays = SETS[name](np.random.default_rng([seed, 7]), count, **given)
    return found


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", text))


def _floats(array: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.ascontiguousarray(array, np.float32)


def clusters(rng: Rng, count: int, spoil: str = "", classes: float = 4) -> Arrays:
    """Eight features, four classes of three clusters each: not linear, and easy for a small net."""
    kinds = int(classes)
    centres = np.random.default_rng(5).normal(size=(kinds, 3, 8)) * 1.6
    y = rng.integers(0, kinds, count)
    x = centres[y, rng.integers(0, 3, count)] + 0.6 * rng.normal(size=(count, 8))
    if spoil == "column":
        x[:, 3] = 3000 * rng.normal(size=count)
    elif spoil == "pixels":
        x = 128 + 30 * x
    elif spoil == "tiny":
        x = 1e-4 * x
    elif spoil == "constant":
        x = np.repeat(x[:1], count, axis=0)
    elif spoil == "shuffled":
        y = rng.permutation(y)
    elif spoil == "one_based":
        y = y + 1
    elif spoil == "nan":
        x[rng.integers(0, count, 5), 2] = np.nan
    elif spoil == "still_column":
        x[:, 3] = 1.0
    elif spoil == "zero_row":
        x[::8] = 0.0
    return {"x": _floats(x), "y": y.astype(np.int32)}


def rare(rng: Rng, count: int, share: float = 0.5) -> Arrays:
    """Two classes that overlap, the second with ``share`` of the samples."""
    y = (rng.random(count) < share).astype(np.int32)
    x = rng.normal(size=(count, 8)) + 0.55 * y[:, None]
    return {"x": _floats(x), "y": y}


def smooth(rng: Rng, count: int, scale: float = 1, shift: float = 0, spoil: str = "") -> Arrays:
    """A smooth function of four features: deviation 1, times ``scale``, plus ``shift``."""
    x = rng.normal(size=(count, 4))
    y = (np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.5 * x[:, 3]) / 1.35
    if spoil == "shuffled":
        y = rng.permutation(y)
    elif spoil == "outlier":
        y[rng.integers(0, count, 3)] = 1e4
    return {"x": _floats(x), "y": _floats(scale * y + shift)}


def crossed(rng: Rng, count: int) -> Arrays:
    """Four classes by the signs of two products of features: no linear map tells them apart."""
    x = rng.uniform(0.3, 1.3, size=(count, 8)) * rng.choice([-1, 1], size=(count, 8))
    y = 2 * (x[:, 0] * x[:, 1] > 0) + (x[:, 2] * x[:, 3] > 0)
    return {"x": _floats(x), "y": y.astype(np.int32)}


def line(rng: Rng, count: int) -> Arrays:
    """Points of [0, 1] and a sine over it."""
    x = rng.random((count, 4))
    return {"x": _floats(x), "y": _floats(np.sin(6 * x[:, 0]) + x[:, 1])}


def recall(rng: Rng, count: int, length: float = 25, noise: float = 0.3) -> Arrays:
    """The class is the sign that stands at the first step; noise follows."""
    x = noise * rng.normal(size=(count, int(length), 2))
    y = rng.integers(0, 2, count)
    x[:, 0, 0] = 2.0 * y - 1
    return {"x": _floats(x), "y": y.astype(np.int32)}


def latest(rng: Rng, count: int, length: float = 10) -> Arrays:
    """The class is the sign that stands at the last step."""
    found = recall(rng, count, length)
    return {"x": np.ascontiguousarray(found["x"][:, ::-1]), "y": found["y"]}


def series(rng: Rng, count: int, length: float = 12) -> Arrays:
    """Sums of two sines of random phase; the next value is the target."""
    t = np.arange(int(length) + 1)
    wave = np.sin(0.7 * t + 6.28 * rng.random((count, 1))) * (0.5 + rng.random((count, 1)))
    return {"x": _floats(wave[:, :-1, None]), "y": _floats(wave[:, -1])}


def lookup(rng: Rng, count: int, length: float = 8, ids: float = 12) -> Arrays:
    """Pairs of key and value; the last id repeats a key, the class is its value."""
    kinds, pairs = int(ids), (int(length) - 1) // 2
    sequences = np.zeros((count, int(length)), np.int32)
    y = np.zeros(count, np.int32)
    for row in range(count):
        keys = rng.permutation(kinds // 2)[:pairs]
        values = kinds // 2 + rng.integers(0, kinds // 2, pairs)
        sequences[row, : 2 * pairs : 2], sequences[row, 1 : 2 * pairs : 2] = keys, values
        chosen = rng.integers(0, pairs)
        sequences[row, -1], y[row] = keys[chosen], values[chosen]
    return {"ids": sequences, "y": y}


def majority(rng: Rng, count: int, length: float = 8, ids: float = 12) -> Arrays:
    """Ids of which one stands three times; it is the class."""
    kinds, size = int(ids), int(length)
    sequences = np.zeros((count, size), np.int32)
    y = rng.integers(0, kinds, count)
    for row in range(count):
        others = rng.permutation([k for k in range(kinds) if k != y[row]])[: size - 3]
        sequences[row] = rng.permutation([*others, y[row], y[row], y[row]])
    return {"ids": sequences, "y": y.astype(np.int32)}


def text(rng: Rng, count: int, length: float = 12, ids: float = 8) -> Arrays:
    """Ids that count up by a step of 1, 2 or 3, with a target one ahead at every place."""
    start, step = rng.integers(0, int(ids), (count, 1)), rng.integers(1, 4, (count, 1))
    found = (start + step * np.arange(int(length) + 1)) % int(ids)
    return {"x": found[:, :-1].astype(np.int32), "y": found[:, 1:].astype(np.int32)}


def bars(rng: Rng, count: int, spoil: str = "") -> Arrays:
    """Images of 8 x 8 with a horizontal or a vertical bar, in noise."""
    x = 0.3 * rng.normal(size=(count, 1, 8, 8))
    y = rng.integers(0, 2, count)
    for row, place in enumerate(rng.integers(0, 8, count)):
        if y[row]:
            x[row, 0, :, place] += 1
        else:
            x[row, 0, place, :] += 1
    if spoil == "shuffled":
        y = rng.permutation(y)
    return {"x": _floats(x), "y": y.astype(np.int32)}


def manifold(rng: Rng, count: int) -> Arrays:
    """Sixteen numbers that lie on a surface of three dimensions."""
    mix = np.random.default_rng(3).normal(size=(3, 16))
    return {"x": _floats(np.tanh(rng.normal(size=(count, 3)) @ mix))}


def noised(rng: Rng, count: int) -> Arrays:
    """The same with noise for a sampler."""
    return {**manifold(rng, count), "noise": _floats(rng.normal(size=(count, 3)))}


def circle(rng: Rng, count: int) -> Arrays:
    """Points near a circle, and noise to make others of."""
    angle = 6.2832 * rng.random(count)
    real = np.stack([np.cos(angle), np.sin(angle)], 1) + 0.05 * rng.normal(size=(count, 2))
    return {"real": _floats(real), "z": _floats(rng.normal(size=(count, 2)))}


def times(rng: Rng, count: int) -> Arrays:
    """Moments between 0 and 3."""
    return {"t": _floats(3 * rng.random(count))}


def ratings(rng: Rng, count: int) -> Arrays:
    """Users, things and ratings of rank 2."""
    fixed = np.random.default_rng(4)
    left, right = fixed.normal(size=(20, 2)), fixed.normal(size=(15, 2))
    u, v = rng.integers(0, 20, count), rng.integers(0, 15, count)
    found = (left[u] * right[v]).sum(1) + 0.1 * rng.normal(size=count)
    return {"u": u.astype(np.int32), "v": v.astype(np.int32), "y": _floats(found)}


def counts(rng: Rng, count: int) -> Arrays:
    """Four features and Poisson counts of an exponential rate."""
    x = rng.normal(size=(count, 4))
    rate = np.exp(0.5 * x[:, 0] - 0.4 * x[:, 1] + 0.5)
    return {"x": _floats(x), "y": _floats(rng.poisson(rate))}


def noisy(rng: Rng, count: int) -> Arrays:
    """Two classes of which the features tell little: a healthy training ends near .6."""
    x = rng.normal(size=(count, 8))
    y = (rng.random(count) < 1 / (1 + np.exp(-1.6 * x[:, 0]))).astype(np.int32)
    return {"x": _floats(x), "y": y}


def pairs(rng: Rng, count: int) -> Arrays:
    """Two noisy views of the same hidden point."""
    hidden = rng.normal(size=(count, 6))
    mix = np.random.default_rng(6).normal(size=(6, 12))
    return {
        "a": _floats(hidden @ mix + 0.3 * rng.normal(size=(count, 12))),
        "b": _floats(hidden @ mix + 0.3 * rng.normal(size=(count, 12))),
    }


def powers(rng: Rng, count: int, size: float = 1) -> Arrays:
    """Numbers up to ``size`` and their fourth powers."""
    x = size * rng.uniform(-1, 1, size=(count, 1))
    return {"x": _floats(x), "y": _floats(x[:, 0] ** 4)}


def slope(rng: Rng, count: int, size: float = 1) -> Arrays:
    """Four features from 0 to ``size`` and a linear target of deviation 1."""
    x = rng.random((count, 4))
    y = (x @ [1.0, -2.0, 0.5, 1.5] + 0.05 * rng.normal(size=count)) / 0.8
    return {"x": _floats(size * x), "y": _floats(y)}


def wide(rng: Rng, count: int) -> Arrays:
    """64 features and a linear target, a third of whose variance is noise."""
    x = rng.normal(size=(count, 64))
    weights = np.random.default_rng(8).normal(size=64) / 8
    return {"x": _floats(x), "y": _floats(x @ weights + 0.7 * rng.normal(size=count))}


def yes_or_no(rng: Rng, count: int, scale: float = 1) -> Arrays:
    """Four features times ``scale`` and 0 or 1 by a plane through them."""
    x = rng.normal(size=(count, 4))
    y = x @ [1.0, -1.0, 2.0, 0.5] + 0.3 * rng.normal(size=count) > 0
    return {"x": _floats(scale * x), "y": _floats(y)}


def first(rng: Rng, count: int, length: float = 8, ids: float = 12) -> Arrays:
    """Ids of which the first is the class."""
    found = rng.integers(0, int(ids), (count, int(length)))
    return {"ids": found.astype(np.int32), "y": found[:, 0].astype(np.int32)}


SETS: dict[str, Callable[..., Arrays]] = (
    {
        f.__name__: f
        for f in (
            clusters,
            rare,
            smooth,
            line,
            recall,
            latest,
            crossed,
            series,
            lookup,
            majority,
            text,
        )
    }
    | {
        f.__name__: f
        for f in (bars, manifold, noised, circle, times, ratings, counts, noisy, pairs)
    }
    | {f.__name__: f for f in (powers, slope, wide, yes_or_no, first)}
)
