"""NumPy's protocols on traced arrays: ``out=``, ``dtype=``, ``where=``, and the methods of ufuncs.

Non-goals: ``reduceat``; the functions themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gradc.ir.tensor.core import DType
from gradc.runtime.tracing.functions import truth
from gradc.runtime.tracing.pairs import holds_complex
from gradc.runtime.tracing.trace import (
    FUNCTIONS,
    NAMES,
    PROTOCOLS,
    UFUNCS,
    Trace,
    Traced,
    refuse,
    unsupported,
)

# A ufunc's method is a function of another name.
_REDUCE = {
    "add": "sum",
    "multiply": "prod",
    "maximum": "max",
    "minimum": "min",
    "logical_and": "all",
    "logical_or": "any",
}
_ACCUMULATE = {"add": "cumsum", "multiply": "cumprod"}


def _ufunc(
    t: Trace, ufunc: np.ufunc, method: str, inputs: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    """A call of a ufunc that is more than ``ufunc(a, b)``."""
    if method == "__call__":
        return _with_options(t, ufunc, inputs, options)
    if method == "outer" and len(inputs) == 2:
        a, b = (x if isinstance(x, Traced) else t.wrap(t.lift(x)) for x in inputs)
        return ufunc(a.reshape(*a.shape, *(1 for _ in b.shape)), b, **options)
    if method == "at" and ufunc is np.add and type(inputs[0]) is Traced:
        return _added_at(t, *inputs)
    known = {"reduce": _REDUCE, "accumulate": _ACCUMULATE}.get(method, {})
    name = known.get(ufunc.__name__)
    if name is None or name not in FUNCTIONS:
        raise unsupported(f"{ufunc.__name__}.{method}", FUNCTIONS)
    if method == "reduce" or len(inputs) < 2:
        options.setdefault("axis", 0)
    out = options.pop("out", None)
    found = FUNCTIONS[name](t, *inputs, **options)
    return found if out is None else _stored(t, found, out)


def _with_options(
    t: Trace, ufunc: np.ufunc, inputs: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    rule = UFUNCS.get(ufunc.__name__)
    if rule is None:
        raise unsupported(ufunc.__name__, UFUNCS)
    out = options.pop("out", None)
    if len(inputs) > ufunc.nin:  # the arrays for the result may come by position
        inputs, out = inputs[: ufunc.nin], inputs[ufunc.nin :]
    dtype, where = options.pop("dtype", None), options.pop("where", True)
    for name in ("casting", "order", "subok", "signature"):
        options.pop(name, None)
    if options:
        raise unsupported(ufunc.__name__, UFUNCS, f" with {', '.join(options)}=")
    if dtype is not None:
        inputs = tuple(FUNCTIONS["astype"](t, x, dtype) for x in inputs)
    if holds_complex(inputs):
        rule = PROTOCOLS["complex ufunc"](ufunc, rule)
    found = rule(t, *inputs)
    if isinstance(found, tuple):
        if out is not None or where is not True:
            raise unsupported(ufunc.__name__, UFUNCS, " with out= or where=")
        return tuple(map(t.wrap, found))
    result = t.wrap(found)
    if where is not True:
        result = _where(t, result, where, out)
    return result if out is None else _stored(t, result, out)


def _where(t: Trace, result: Traced, where: Any, out: Any) -> Any:
    """The result where the mask holds, and what ``out`` held elsewhere."""
    if out is None:
        help = "numpy.where(mask, result, 0), or out= an array with values for the other places"
        raise refuse("GC0560", "where= without out= leaves elements undefined", help)
    other = out[0] if isinstance(out, tuple) else out
    chosen = truth(t, t.lift(where))
    return FUNCTIONS["where"](t, t.wrap(chosen), result, other)


def _stored(t: Trace, found: Any, out: Any) -> Any:
    """``found`` put into the array given as ``out``, in its type; NumPy's rule of casting holds."""
    target = out[0] if isinstance(out, tuple) else out
    if type(target) is not Traced:
        help = "make it inside the function, e.g. by np.zeros, or use the result"
        raise refuse("GC0560", "out= takes an array of the function's own", help)
    value = t.lift(found)
    wanted = target.value.type
    if not np.can_cast(NAMES[value.type.dtype], NAMES[wanted.dtype], "same_kind"):
        raise refuse("GC0558", f"{value.type} cannot be put into an array of {wanted.dtype}")
    if value.type.static_shape != wanted.static_shape:
        message = f"a result of shape {list(value.type.static_shape)} does not fit {wanted}"
        try:
            fits = np.broadcast_shapes(value.type.static_shape, target.shape) == target.shape
        except ValueError:
            fits = False
        if not fits:
            raise refuse("GC0558", message)
    target.store(t.broadcast(t.cast(value, wanted.dtype), wanted.static_shape))
    return target


def _added_at(t: Trace, target: Traced, ids: Any, values: Any) -> None:
    """``numpy.add.at`` of one array of ids on the first axis: equal ids add up."""
    places = t.lift(ids if isinstance(ids, Traced) else np.asarray(ids))
    if isinstance(ids, tuple) or places.type.dtype.is_float or places.type.dtype is DType.BOOL:
        raise refuse("GC0560", "numpy.add.at is traced with one array of integers")
    size, dtype = target.shape[0], target.value.type.dtype
    places = t.cast(places, DType.I64)
    shape = places.type.static_shape
    is_low = t.emit("lt", places, t.constant(0, DType.I64, shape))
    wrapped = t.emit("add", places, t.constant(size, DType.I64, shape))
    places = t.cast(t.emit("select", is_low, wrapped, places), DType.I32)
    given = t.broadcast(t.cast(t.lift(values, dtype), dtype), (*shape, *target.shape[1:]))
    added = t.emit("scatter_add", places, given, axis=0, size=size)
    target.store(t.emit("add", target.value, added))


_RULES: dict[str, Callable[..., Any]] = {"ufunc": _ufunc, "out": _stored}
PROTOCOLS.update(_RULES)
