"""numpy.fft on the op ``fft`` of the IR; results are complex where NumPy's are.

Importing this module adds to ``trace.FUNCTIONS``. Transforms of real arrays compute the whole
spectrum and hand out half. ``irfft`` ignores the imaginary parts that a real signal cannot have, as
NumPy does.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradc.ir.ops import fourier as programs
from gradc.ir.tensor.core import DType, Value
from gradc.runtime.tracing.complexes import whole
from gradc.runtime.tracing.functions import axis_of
from gradc.runtime.tracing.pairs import pair
from gradc.runtime.tracing.shapes import traced
from gradc.runtime.tracing.trace import FUNCTIONS, WITH_COMPLEX, Trace, refuse, user_span


def _scale(norm: Any, n: int, is_inverse: bool) -> float:
    if norm not in (None, "backward", "ortho", "forward"):
        raise refuse("GC0558", f"fft: the norm {norm!r} is none of backward, ortho, forward")
    if norm == "ortho":
        return 1 / math.sqrt(n)
    return 1 / n if is_inverse == (norm != "forward") else 1.0


def _sized(x: Any, n: Any, axis: int) -> Any:
    """``x`` with ``n`` elements along ``axis``: cut, or with zeros behind."""
    size = x.shape[axis]
    n = size if n is None else operator.index(n)
    if n < 1:
        raise refuse("GC0558", f"fft: {n} points along an axis")
    if n < size:
        return x[(slice(None),) * axis + (slice(0, n),)]
    return np.pad(x, [(0, n - size if i == axis else 0) for i in range(x.ndim)]) if n > size else x


def _floating(t: Trace, a: Any) -> Any:
    x = traced(t, a)
    if x.dtype.kind in "fc" and x.dtype != np.float16:
        return x
    return x.astype(np.float32 if x.dtype == np.float16 else np.float64)


def _transform(t: Trace, x: Any, axis: int, is_inverse: bool, scale: float) -> Any:
    re, im = whole(t, x.value)
    b = t.builder
    with b.at(user_span()):
        made = programs.fourier(b, programs.joined(b, (re, im)), axis + 1, is_inverse)
        found = pair(*programs.parts_of(b, made))
    return t.wrap(found) * _number(scale, re) if scale != 1.0 else t.wrap(found)


def _number(scale: float, like: Value) -> Any:
    return np.float64(scale) if like.type.dtype is DType.F64 else np.float32(scale)


def _fft(is_inverse: bool) -> Any:
    def rule(t: Trace, a: Any, n: Any = None, axis: int = -1, norm: Any = None) -> Any:
        x = _floating(t, a)
        axis = axis_of(x.value, axis)
        x = _sized(x, n, axis)
        return _transform(t, x, axis, is_inverse, _scale(norm, x.shape[axis], is_inverse))

    return rule


def _half(x: Any, axis: int, n: int) -> Any:
    return x[(slice(None),) * axis + (slice(0, n),)]


def _real(name: str, a: Any) -> None:
    if a.dtype.kind == "c":
        message = f"fft.{name} takes real numbers, as NumPy's does"
        raise refuse("GC0560", message, "use numpy.fft.fft")


def rfft(t: Trace, a: Any, n: Any = None, axis: int = -1, norm: Any = None) -> Any:
    """The half that says all of the spectrum of a real array."""
    x = _floating(t, a)
    _real("rfft", x)
    axis = axis_of(x.value, axis)
    found = _fft(False)(t, x, n, axis, norm)
    return _half(found, axis, found.shape[axis] // 2 + 1)


def irfft(t: Trace, a: Any, n: Any = None, axis: int = -1, norm: Any = None) -> Any:
    """The real array of which half a spectrum is given."""
    x = _floating(t, a)
    axis = axis_of(x.value, axis)
    n = 2 * (x.shape[axis] - 1) if n is None else operator.index(n)
    if n < 1:
        raise refuse("GC0558", f"fft.irfft: {n} points along an axis")
    x = _sized(x, n // 2 + 1, axis)
    re, im = (t.wrap(part) for part in whole(t, x.value))
    head = (slice(None),) * axis
    # What stands at 0, and in the middle of an even spectrum, is real.
    alone = np.zeros(n // 2 + 1, bool)
    alone[[0, -1] if n % 2 == 0 else [0]] = True
    odd: Any = np.where(alone.reshape((-1,) + (1,) * (x.ndim - axis - 1)), im.dtype.type(0), im)
    rest = (*head, slice(n - n // 2 - 1, 0, -1))
    both = [np.concatenate([p, sign * p[rest]], axis) for p, sign in ((re, 1), (odd, -1))]
    spectrum = t.wrap(pair(*map(t.lift, both)))
    return np.real(_transform(t, spectrum, axis, True, _scale(norm, n, True)))


_SWAPPED = {None: "forward", "backward": "forward", "ortho": "ortho", "forward": "backward"}


def _hfft(t: Trace, a: Any, n: Any = None, axis: int = -1, norm: Any = None) -> Any:
    return irfft(t, np.conj(_floating(t, a)), n, axis, _SWAPPED.get(norm, norm))


def _ihfft(t: Trace, a: Any, n: Any = None, axis: int = -1, norm: Any = None) -> Any:
    return np.conj(rfft(t, a, n, axis, _SWAPPED.get(norm, norm)))


# --- several axes


def _axes(x: Any, s: Any, axes: Any) -> tuple[list[int], list[Any]]:
    if axes is None:
        axes = range(x.ndim) if s is None else range(-len(s), 0)
    chosen = [axis_of(x.value, a) for a in axes]
    sizes: Sequence[Any] = [None] * len(chosen) if s is None else list(s)
    if len(sizes) != len(chosen):
        raise refuse("GC0558", f"fft: {len(sizes)} sizes for {len(chosen)} axes")
    return chosen, [None if n == -1 else n for n in sizes]


def _each(is_inverse: bool, default: Any) -> Any:
    one = _fft(is_inverse)

    def rule(t: Trace, a: Any, s: Any = None, axes: Any = default, norm: Any = None) -> Any:
        x = _floating(t, a)
        chosen, sizes = _axes(x, s, axes)
        for axis, n in reversed(list(zip(chosen, sizes, strict=True))):
            x = one(t, x, n, axis, norm)
        return x.astype(np.complex64 if x.dtype.itemsize == 4 else x.dtype) if not chosen else x

    return rule


def _rfftn(default: Any) -> Any:
    def rule(t: Trace, a: Any, s: Any = None, axes: Any = default, norm: Any = None) -> Any:
        x = _floating(t, a)
        chosen, sizes = _axes(x, s, axes)
        x = rfft(t, x, sizes[-1], chosen[-1], norm)
        for axis, n in reversed(list(zip(chosen[:-1], sizes[:-1], strict=True))):
            x = _fft(False)(t, x, n, axis, norm)
        return x

    return rule


def _irfftn(default: Any) -> Any:
    def rule(t: Trace, a: Any, s: Any = None, axes: Any = default, norm: Any = None) -> Any:
        x = _floating(t, a)
        chosen, sizes = _axes(x, s, axes)
        for axis, n in zip(chosen[:-1], sizes[:-1], strict=True):
            x = _fft(True)(t, x, n, axis, norm)
        return irfft(t, x, sizes[-1], chosen[-1], norm)

    return rule


_TWO = (-2, -1)
_RULES: dict[str, Any] = {
    "fft": _fft(False),
    "ifft": _fft(True),
    "rfft": rfft,
    "irfft": irfft,
    "hfft": _hfft,
    "ihfft": _ihfft,
    "fft2": _each(False, _TWO),
    "ifft2": _each(True, _TWO),
    "fftn": _each(False, None),
    "ifftn": _each(True, None),
    "rfft2": _rfftn(_TWO),
    "rfftn": _rfftn(None),
    "irfft2": _irfftn(_TWO),
    "irfftn": _irfftn(None),
}
FUNCTIONS.update({f"fft.{name}": rule for name, rule in _RULES.items()})
WITH_COMPLEX.update({f"fft.{name}": None for name in _RULES})
