"""Rules for the functions of scipy.special that are written in Python.

Non-goals: its ufuncs, which are rows of ``ir/special/table.py``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradc.runtime.tracing.creation import array_of, holds_traced
from gradc.runtime.tracing.foreign import Words, held, scipy
from gradc.runtime.tracing.functions import axes_of
from gradc.runtime.tracing.shapes import traced
from gradc.runtime.tracing.trace import Trace, Traced, refuse


def floats(t: Trace, a: Any) -> Any:
    """A traced array of floating type, of lists of traced values too."""
    is_list = type(a) in (list, tuple) and holds_traced(a)
    return t.wrap(t.as_float((array_of(t, a) if is_list else traced(t, a)).value))


@scipy("special.logsumexp")
def _logsumexp(
    t: Trace,
    a: Any,
    axis: Any = None,
    b: Any = None,
    keepdims: Any = False,
    return_sign: Any = False,
) -> Any:
    """The log of the sum of b exp(a), whose terms may cancel."""
    x = floats(t, a)
    if b is not None:
        x, weights = (t.wrap(v) for v in t.promote([x, floats(t, b)]))
    axes = axes_of(x.value, axis)
    # What has no weight is not the greatest; far above it, it only must not overflow.
    top = _top(t, x if b is None else np.where(weights == 0, -np.inf, x), axes)
    terms = np.exp(x - top) if b is None else weights * np.exp(np.minimum(x - top, 700.0))
    total = np.sum(terms, axis=axes, keepdims=True)
    sign = np.sign(total)
    size = np.abs(total) if return_sign else total
    found = np.log(size) + top
    if not keepdims:
        found, sign = np.squeeze(found, axis=axes), np.squeeze(sign, axis=axes)
    return (found, sign) if return_sign else found


@scipy("special.softmax")
def _softmax(t: Trace, x: Any, axis: Any = None) -> Any:
    value = floats(t, x)
    axes = axes_of(value.value, axis)
    terms = np.exp(value - _top(t, value, axes))
    return terms / np.sum(terms, axis=axes, keepdims=True)


@scipy("special.log_softmax")
def _log_softmax(t: Trace, x: Any, axis: Any = None) -> Any:
    value = floats(t, x)
    axes = axes_of(value.value, axis)
    shifted = value - _top(t, value, axes)
    return shifted - np.log(np.sum(np.exp(shifted), axis=axes, keepdims=True))


def _top(t: Trace, x: Any, axes: Any) -> Any:
    """The greatest along axes, 0 where that is infinite; it cancels, so it has no derivative."""
    top = np.max(x, axis=axes, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    return held(top)


def _order(what: str, n: Any, least: int = 0) -> int:
    """A whole number that is known. Raises DiagnosticError GC0560 for any other."""
    if type(n) is Traced or np.ndim(n) or int(n) != n or int(n) < least:
        message = f"{what} is traced where its order is one known whole number from {least}"
        raise refuse("GC0560", message, "call it once for each order")
    return int(n)


@scipy("special.polygamma")
def _polygamma(t: Trace, n: Any, x: Any) -> Any:
    order, value = _order("scipy.special.polygamma", n), floats(t, x)
    if order == 0:
        return Words(t).psi(value)
    inside: Any = np.where(value > 0, value, 1.0)
    found = t.wrap(t.special("polygamma", inside.value, order=order))
    return np.where(value > 0, found, np.nan)


@scipy("special.multigammaln")
def _multigammaln(t: Trace, a: Any, d: Any) -> Any:
    size, value = _order("scipy.special.multigammaln", d, 1), floats(t, a)
    terms = [Words(t).gammaln(value - j / 2) for j in range(size)]
    found = sum(terms[1:], terms[0]) + size * (size - 1) / 4 * math.log(math.pi)
    return np.where(value > (size - 1) / 2, found, np.nan)


@scipy("special.factorial")
def _factorial(t: Trace, n: Any, exact: Any = False) -> Any:
    if exact is not False:
        raise refuse("GC0560", "scipy.special.factorial with exact= cannot be traced")
    value = floats(t, n)
    return np.where(value < 0, 0.0, Words(t).gamma(np.where(value < 0, 0.0, value) + 1))
