"""Rules for scipy.integrate: ``odeint``, and sums over samples.

``odeint`` takes steps of Dormand and Prince's fifth order: ``mxstep`` (32 if left out) between one
time and the next, whatever the numbers. Each step estimates its error; where one is above SciPy's
tolerances, what follows is NaN, and more steps are wanted. The derivative is that of the steps.

Non-goals: adaptive quadrature; stiff systems, which want many steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gradc.runtime.tracing.control import scan
from gradc.runtime.tracing.creation import array_of, holds_traced
from gradc.runtime.tracing.foreign import refusing, scipy, with_functions
from gradc.runtime.tracing.functions import axis_of
from gradc.runtime.tracing.scipy_special import floats
from gradc.runtime.tracing.shapes import traced
from gradc.runtime.tracing.trace import Trace, current_trace, refuse

_STEPS = 32
# Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, table 5.2.
_NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def _reads_traced(items: list[Any], call: Any) -> bool:
    """Whether arguments are traced, or what the user's function gives at one point."""
    return holds_traced(items) or holds_traced(call())


def _step(rates: Any, now: Any, y: Any, h: Any) -> tuple[Any, Any]:
    """One step, and its estimated error."""
    slopes: list[Any] = []
    for node, row in zip(_NODES, _STAGES, strict=True):
        at = y + h * sum(c * k for c, k in zip(row, slopes, strict=True) if c) if row else y
        slopes.append(rates(at, now + node * h))
    error = sum(c * k for c, k in zip(_ERROR, slopes, strict=True) if c)
    return at, h * error


@scipy("integrate.odeint")
@with_functions
def _odeint(
    t: Trace,
    func: Any,
    y0: Any,
    t_: Any,
    args: Any = (),
    rtol: Any = None,
    atol: Any = None,
    mxstep: Any = 0,
    tfirst: Any = False,
) -> Any:
    more = args if isinstance(args, tuple) else (args,)

    def called(y: Any, now: Any) -> Any:
        return func(now, y, *more) if tfirst else func(y, now, *more)

    if not _reads_traced([y0, t_, *more], lambda: called(np.atleast_1d(y0), t_[0])):
        return NotImplemented
    start, times = np.ravel(floats(t, y0)).astype(np.float64), floats(t, t_).astype(np.float64)
    relative, absolute = (1.49012e-8 if bound is None else bound for bound in (rtol, atol))
    count = int(mxstep) or _STEPS

    def rates(y: Any, now: Any) -> Any:
        found = called(y, now)
        inner = current_trace()
        assert inner is not None, "the steps are recorded"
        made = array_of(inner, found)
        if np.size(made) != y.size:
            message = f"the function of odeint gives {np.size(made)} rates for {y.size} numbers"
            raise refuse("GC0558", message)
        return np.reshape(made, y.shape)

    def between(y: Any, ends: Any) -> Any:
        first, last = ends
        h = (last - first) / count

        def step(y: Any, n: Any) -> Any:
            new, error = _step(rates, first + n * h, y, h)
            bound = relative * np.maximum(np.abs(y), np.abs(new)) + absolute
            return np.where(np.all(np.abs(error) <= bound), new, np.nan), None

        found = scan(step, y, np.arange(float(count)))[0]
        return found, found

    _, found = scan(between, start, (times[:-1], times[1:]))
    return np.concatenate([start[None], found], axis=0)


@scipy("integrate.fixed_quad")
@with_functions
def _fixed_quad(t: Trace, func: Any, a: Any, b: Any, args: Any = (), n: Any = 5) -> Any:
    if not _reads_traced([a, b, *args], lambda: func(np.array([a, b], np.float64), *args)):
        return NotImplemented
    places, weights = np.polynomial.legendre.leggauss(int(n))
    at = (b - a) * (places + 1) / 2 + a
    return (b - a) / 2 * np.sum(weights * func(at, *args), axis=-1), None


def _adaptive(name: str, instead: str) -> Any:
    help = f"its points follow from values; use {instead}"
    return refuse("GC0560", f"scipy.integrate.{name} cannot be traced", help)


@scipy("integrate.quad")
@with_functions
@refusing
def _quad(t: Trace, func: Any, a: Any, b: Any, args: Any = ()) -> Any:
    more = args if isinstance(args, tuple) else (args,)
    middle = 0.5 if holds_traced([a, b]) or not np.isfinite(a + b) else (a + b) / 2
    if not _reads_traced([a, b, *more], lambda: func(middle, *more)):
        return NotImplemented
    raise _adaptive("quad", "scipy.integrate.fixed_quad(func, a, b, n=50) with finite ends")


@scipy("integrate.solve_ivp")
@with_functions
@refusing
def _solve_ivp(t: Trace, fun: Any, t_span: Any, y0: Any, args: Any = None) -> Any:
    more = tuple(args or ())
    if not _reads_traced([t_span, y0, *more], lambda: fun(t_span[0], np.asarray(y0), *more)):
        return NotImplemented
    raise _adaptive("solve_ivp", "scipy.integrate.odeint(fun, y0, t, tfirst=True)")


# --- sums over samples


def _widths(t: Trace, y: Any, x: Any, dx: Any, axis: int) -> Any:
    """Distances between samples, in a shape that broadcasts along ``axis``."""
    if x is None:
        return dx
    gaps = np.diff(traced(t, x), axis=-1 if np.ndim(x) == 1 else axis)
    if gaps.ndim > 1 or y.ndim == 1:
        return gaps
    shape = [1] * y.ndim
    shape[axis] = gaps.shape[0]
    return np.reshape(gaps, tuple(shape))


def _cut(y: Any, axis: int, first: int, last: int | None) -> Any:
    key = [slice(None)] * y.ndim
    key[axis] = slice(first, last)
    return y[tuple(key)]


@scipy("integrate.trapezoid")
def _trapezoid(t: Trace, y: Any, x: Any = None, dx: Any = 1.0, axis: Any = -1) -> Any:
    value = floats(t, y)
    along = axis_of(value.value, axis)
    middle = (_cut(value, along, 1, None) + _cut(value, along, 0, -1)) / 2
    return np.sum(_widths(t, value, x, dx, along) * middle, axis=along)


@scipy("integrate.cumulative_trapezoid")
def _cumulative(
    t: Trace, y: Any, x: Any = None, dx: Any = 1.0, axis: Any = -1, initial: Any = None
) -> Any:
    value = floats(t, y)
    along = axis_of(value.value, axis)
    middle = (_cut(value, along, 1, None) + _cut(value, along, 0, -1)) / 2
    found = np.cumsum(_widths(t, value, x, dx, along) * middle, axis=along)
    if initial is None:
        return found
    return np.concatenate([np.zeros_like(_cut(value, along, 0, 1)) + initial, found], axis=along)


@scipy("integrate.simpson")
def _simpson(t: Trace, y: Any, x: Any = None, dx: Any = 1.0, axis: Any = -1) -> Any:
    value = np.moveaxis(floats(t, y), axis, -1)
    count = value.shape[-1]
    if x is None:
        gaps: Any = np.full(count - 1, 1.0) * dx
    else:
        gaps = np.diff(traced(t, x) if np.ndim(x) == 1 else np.moveaxis(traced(t, x), axis, -1))
    if count < 3:
        return np.sum(gaps * (value[..., 1:] + value[..., :-1]) / 2, axis=-1)
    pairs = (count - 1) // 2
    a, b = gaps[..., 0 : 2 * pairs : 2], gaps[..., 1 : 2 * pairs : 2]
    left, mid, right = (value[..., n : 2 * pairs - 1 + n : 2] for n in range(3))
    both = (a + b) / 6
    found = both * (left * (2 - b / a) + mid * (a + b) ** 2 / (a * b) + right * (2 - a / b))
    total = np.sum(found, axis=-1)
    if count % 2:
        return total
    # One interval is left: that of the parabola through the last three (Cartwright).
    h0, h1 = gaps[..., -2], gaps[..., -1]
    last = (2 * h1**2 + 3 * h0 * h1) / (6 * (h1 + h0)) * value[..., -1]
    last = last + (h1**2 + 3 * h1 * h0) / (6 * h0) * value[..., -2]
    return total + last - h1**3 / (6 * h0 * (h0 + h1)) * value[..., -3]
