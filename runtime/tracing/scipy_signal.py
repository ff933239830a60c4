"""Rules for convolutions in scipy.signal.

They mean sums of products, however SciPy computes them; many terms are summed by Fourier
transforms, as there.

Non-goals: filters with feedback, windows, wavelets.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gradc.runtime.tracing.foreign import scipy
from gradc.runtime.tracing.functions import axes_of
from gradc.runtime.tracing.shapes import moved, traced
from gradc.runtime.tracing.trace import Trace, refuse

# From so many products per result on, transforms are cheaper than windows.
_MOST_TAPS = 256


def _convolved(t: Trace, in1: Any, in2: Any, mode: str, name: str) -> Any:
    x, y = (t.wrap(v) for v in t.common([traced(t, in1), traced(t, in2)]))
    if x.ndim != y.ndim:
        raise refuse("GC0558", f"{name}: {x.ndim} axes and {y.ndim}; they must be as many")
    if mode not in ("full", "same", "valid"):
        raise refuse("GC0558", f"{name}: the mode {mode!r} is none of full, same, valid")
    if not x.ndim:
        return x * y
    if not x.size or not y.size:
        return np.zeros(0)
    first = x.shape
    pairs = list(zip(x.shape, y.shape, strict=True))
    if mode == "valid" and any(a < b for a, b in pairs) and any(a > b for a, b in pairs):
        raise refuse("GC0558", f"{name}: with mode valid one array holds the other")
    if y.size > x.size:
        x, y = y, x
    whole = tuple(a + b - 1 for a, b in zip(x.shape, y.shape, strict=True))
    if y.size <= _MOST_TAPS or x.dtype.kind not in "fc":
        found = _windows(t, x, y, whole)
    else:
        axes = tuple(range(x.ndim))
        sums = np.fft.rfftn(x, whole, axes) * np.fft.rfftn(y, whole, axes)
        found = np.fft.irfftn(sums, whole, axes).astype(x.dtype)
    sizes = whole
    if mode == "same":
        sizes = first
    elif mode == "valid":
        sizes = tuple(abs(a - b) + 1 for a, b in zip(x.shape, y.shape, strict=True))
    starts = [(n - m) // 2 for n, m in zip(whole, sizes, strict=True)]
    return found[tuple(slice(s, s + n) for s, n in zip(starts, sizes, strict=True))]


def _windows(t: Trace, x: Any, y: Any, whole: tuple[int, ...]) -> Any:
    """A row of the elements of ``x`` for each result, times ``y`` turned around."""
    wide = np.pad(x, tuple((n - 1, n - 1) for n in y.shape))
    table = np.arange(wide.size).reshape(wide.shape)
    rows = np.lib.stride_tricks.sliding_window_view(table, y.shape).reshape(*whole, y.size)
    windows = moved(t, wide, lambda ids: ids.ravel()[rows])
    return np.matmul(windows, np.ravel(y)[::-1])


@scipy("signal.convolve")
def _convolve(t: Trace, in1: Any, in2: Any, mode: Any = "full", method: Any = "auto") -> Any:
    if method not in ("auto", "direct", "fft"):
        raise refuse("GC0558", f"signal.convolve: {method!r} is no method")
    return _convolved(t, in1, in2, mode, "signal.convolve")


@scipy("signal.correlate")
def _correlate(t: Trace, in1: Any, in2: Any, mode: Any = "full", method: Any = "auto") -> Any:
    y = traced(t, in2)
    if method not in ("auto", "direct", "fft"):
        raise refuse("GC0558", f"signal.correlate: {method!r} is no method")
    x = traced(t, in1)
    if mode == "valid" and all(a <= b for a, b in zip(x.shape, y.shape, strict=False)):
        return np.flip(_convolved(t, y, np.flip(x), mode, "signal.correlate"))
    return _convolved(t, x, np.flip(y), mode, "signal.correlate")


@scipy("signal.fftconvolve", "signal.oaconvolve")
def _fftconvolve(t: Trace, in1: Any, in2: Any, mode: Any = "full", axes: Any = None) -> Any:
    if axes is not None and len(axes_of(traced(t, in1).value, axes)) < np.ndim(in1):
        raise refuse("GC0560", "signal.fftconvolve along some axes cannot be traced", "all axes")
    return _convolved(t, in1, in2, mode, "signal.fftconvolve")


@scipy("signal.convolve2d")
def _convolve2d(t: Trace, in1: Any, in2: Any, mode: Any = "full") -> Any:
    return _convolved(t, in1, in2, mode, "signal.convolve2d")


@scipy("signal.correlate2d")
def _correlate2d(t: Trace, in1: Any, in2: Any, mode: Any = "full") -> Any:
    return _correlate(t, in1, in2, mode)
