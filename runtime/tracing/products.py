"""More of NumPy that can be traced: products of any kind, pieces and turns of arrays.

Importing this module adds to ``trace.FUNCTIONS``, as ``functions`` does.

Non-goals: einsum of three operands in a clever order (they are taken from left to right), repeated letters in one operand.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from typing import SupportsIndex, cast

import numpy as np

from gradc.ir.core import DType, Value
from gradc.runtime.tracing.trace import DTYPES, FUNCTIONS, NAMES, Trace, Traced, refuse

# --- products


def _einsum(t: Trace, subscripts: object, *operands: object) -> Traced:
    """numpy.einsum of distinct letters: operands are contracted from left to right."""
    terms, result = _letters(subscripts, len(operands))
    like = next((i.value.type.dtype for i in operands if isinstance(i, Traced)), None)
    values = [t.lift(item, like) for item in operands]
    common = DTYPES[np.result_type(*(NAMES[v.type.dtype] for v in values)).name]
    for term, value in zip(terms, values, strict=True):
        if len(term) != value.type.rank:
            raise refuse("GC0558", f"einsum: `{term}` does not suit {value.type}")
    done, made = terms[0], t.cast(values[0], common)
    for number in range(1, len(terms)):
        later = set("".join((result, *terms[number + 1 :])))
        value = t.cast(values[number], common)
        done, made = _contracted(t, (done, made), (terms[number], value), later)
    done, made = _summed(t, done, made, set(result))
    perm = tuple(done.index(letter) for letter in result)
    return t.wrap(made if perm == tuple(range(len(perm))) else t.emit("transpose", made, perm=perm))


def _letters(subscripts: object, count: int) -> tuple[list[str], str]:
    """The letters of each operand and of the result."""
    if not isinstance(subscripts, str) or "." in subscripts:
        raise refuse("GC0560", "numpy.einsum is traced with letters only, such as 'ij,jk->ik'")
    left, arrow, result = subscripts.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow:
        once = sorted(c for c in set(left) - {","} if left.count(c) == 1)
        result = "".join(once)
    whole = [*terms, result]
    if len(terms) != count or any(len(set(term)) != len(term) for term in whole):
        help = "give each operand letters of its own axes, none twice in one operand"
        raise refuse("GC0560", f"numpy.einsum cannot be traced with `{subscripts}`", help)
    if not set(result) <= set(left):
        raise refuse("GC0558", f"einsum: the result of `{subscripts}` has letters of no operand")
    return terms, result


Term = tuple[str, Value]


def _contracted(t: Trace, a: Term, b: Term, later: set[str]) -> Term:
    """Two operands as one; what only one of them has, and nobody reads later, is summed before."""
    left, x = _summed(t, *a, later | set(b[0]))
    right, y = _summed(t, *b, later | set(left))
    shared = [letter for letter in left if letter in right]
    batch = tuple((left.index(c), right.index(c)) for c in shared if c in later)
    inner = tuple((left.index(c), right.index(c)) for c in shared if c not in later)
    for i, j in (*batch, *inner):
        if x.type.shape[i] != y.type.shape[j]:
            raise refuse("GC0558", f"einsum: `{left[i]}` differs between {x.type} and {y.type}")
    made = t.emit("contract", x, y, batch=batch, contract=inner)
    free = [c for c in left + right if c not in shared]
    return "".join([*(left[i] for i, _ in batch), *free]), made


def _summed(t: Trace, letters: str, value: Value, kept: set[str]) -> Term:
    axes = tuple(i for i, letter in enumerate(letters) if letter not in kept)
    if not axes:
        return letters, value
    return "".join(c for c in letters if c in kept), t.emit("sum", value, axes=axes)


_AXES = "abcdefghijklmnopqrstuvwxyz"


def _outer(t: Trace, a: object, b: object) -> Traced:
    return _einsum(t, "a,b->ab", _flat(t, a), _flat(t, b))


def _vdot(t: Trace, a: object, b: object) -> Traced:
    return _einsum(t, "a,a->", _flat(t, a), _flat(t, b))


def _flat(t: Trace, a: object) -> Traced:
    value = t.lift(a)
    count = math.prod(value.type.static_shape)
    return t.wrap(_reshape(t, value, (count,)))


def _inner(t: Trace, a: object, b: object) -> Traced:
    """numpy.inner: the last axes are contracted."""
    x, y = t.lift(a), t.lift(b)
    if x.type.rank == 0 or y.type.rank == 0:
        return t.wrap(t.emit("mul", *t.promote([a, b])))
    return _tensordot(t, a, b, ([x.type.rank - 1], [y.type.rank - 1]))


def _tensordot(t: Trace, a: object, b: object, axes: object = 2) -> Traced:
    x, y = t.lift(a), t.lift(b)
    if isinstance(axes, (tuple, list)):
        left, right = (_axis_list(part) for part in axes)
    else:
        count = operator.index(cast("SupportsIndex", axes))
        left, right = list(range(x.type.rank - count, x.type.rank)), list(range(count))
    first = list(_AXES[: x.type.rank])
    second = list(_AXES[x.type.rank : x.type.rank + y.type.rank])
    for i, j in zip(left, right, strict=True):
        second[j] = first[i]
    gone = {first[i] for i in left}
    result = [c for c in (*first, *second) if c not in gone]
    return _einsum(t, f"{''.join(first)},{''.join(second)}->{''.join(result)}", a, b)


def _axis_list(part: object) -> list[int]:
    items = part if isinstance(part, (tuple, list)) else (part,)
    return [operator.index(cast("SupportsIndex", item)) for item in items]


# --- pieces and turns


def _reshape(t: Trace, value: Value, shape: tuple[int, ...]) -> Value:
    return value if value.type.shape == shape else t.emit("reshape", value, shape=shape)


def _axis(value: Value, axis: object) -> int:
    found = operator.index(cast("SupportsIndex", axis))
    if not -value.type.rank <= found < value.type.rank:
        raise refuse("GC0558", f"axis {found} does not suit an array of {value.type.rank} axes")
    return found % value.type.rank


def _squeeze(t: Trace, a: object, axis: object = None) -> Traced:
    value = t.lift(a)
    shape = value.type.static_shape
    given = axis if isinstance(axis, (tuple, list)) else (axis,)
    axes = (
        [i for i, n in enumerate(shape) if n == 1]
        if axis is None
        else [_axis(value, x) for x in given]
    )
    if any(shape[i] != 1 for i in axes):
        raise refuse("GC0558", f"squeeze: axis {axis} of {value.type} is not of size 1")
    return t.wrap(_reshape(t, value, tuple(n for i, n in enumerate(shape) if i not in axes)))


def _flip(t: Trace, m: object, axis: object = None) -> Traced:
    value = t.lift(m)
    given = range(value.type.rank) if axis is None else axis
    items = given if isinstance(given, (tuple, list, range)) else (given,)
    return t.wrap(t.emit("reverse", value, axes=tuple(sorted(_axis(value, x) for x in items))))


def _part(t: Trace, value: Value, axis: int, start: int, limit: int) -> Value:
    sizes = value.type.static_shape
    low = tuple(start if i == axis else 0 for i in range(len(sizes)))
    high = tuple(limit if i == axis else n for i, n in enumerate(sizes))
    return t.emit("slice", value, start=low, limit=high, stride=(1,) * len(sizes))


def _split(t: Trace, ary: object, indices_or_sections: object, axis: int = 0) -> list[Traced]:
    """numpy.split: equal parts, or cut at the given places."""
    value = t.lift(ary)
    where = _axis(value, axis)
    size = value.type.static_shape[where]
    if isinstance(indices_or_sections, (Sequence, np.ndarray)):
        cuts = [operator.index(cast("SupportsIndex", i)) for i in indices_or_sections]
    else:
        count = operator.index(cast("SupportsIndex", indices_or_sections))
        if count < 1 or size % count:
            raise refuse("GC0558", f"an axis of {size} cannot be split into {count} equal parts")
        cuts = [size // count * n for n in range(1, count)]
    # Places count as in a slice: negative ones from the end.
    spans = [slice(*ends).indices(size) for ends in itertools.pairwise([0, *cuts, None])]
    return [t.wrap(_part(t, value, where, low, max(low, high))) for low, high, _ in spans]


def _roll(t: Trace, a: object, shift: int, axis: object = None) -> Traced:
    value = t.lift(a)
    if axis is None:
        shape = value.type.static_shape
        rolled = _roll(t, _flat(t, a), shift, 0).value
        return t.wrap(_reshape(t, rolled, shape))
    where = _axis(value, axis)
    size = value.type.static_shape[where]
    cut = (size - operator.index(shift)) % size if size else 0
    pieces = [_part(t, value, where, cut, size), _part(t, value, where, 0, cut)]
    return t.wrap(t.emit("concat", *pieces, axis=where))


def _take(t: Trace, a: object, indices: object, axis: int | None = None) -> Traced:
    """numpy.take; an id out of range gives NaN."""
    value = t.lift(a) if axis is not None else _flat(t, a).value
    ids = t.lift(indices)
    if ids.type.dtype is DType.BOOL or ids.type.dtype.is_float:
        raise refuse("GC0560", f"take needs integers, not {ids.type}")
    where = _axis(value, 0 if axis is None else axis)
    return t.wrap(t.emit("take", value, t.cast(ids, DType.I32), axis=where))


def _full_like(t: Trace, a: object, fill_value: object) -> Traced:
    value = t.lift(a)
    filled = t.cast(t.lift(fill_value, value.type.dtype), value.type.dtype)
    return t.wrap(t.broadcast(filled, value.type.static_shape))


FUNCTIONS.update(
    {
        "einsum": _einsum,
        "outer": _outer,
        "vdot": _vdot,
        "inner": _inner,
        "tensordot": _tensordot,
        "squeeze": _squeeze,
        "flip": _flip,
        "split": _split,
        "roll": _roll,
        "take": _take,
        "full_like": _full_like,
    }
)
