"""More of NumPy that can be traced: products of any kind, pieces and turns of arrays.

Importing this module adds to ``trace.FUNCTIONS``, as ``functions`` does.

Non-goals: einsum of three operands in a clever order (they are taken from left to right).
"""

from __future__ import annotations

import itertools
import math
import operator
import string
from collections.abc import Sequence
from typing import Any, SupportsIndex, cast

import numpy as np

from gradc.ir.tensor.core import Value
from gradc.runtime.tracing.functions import reshape
from gradc.runtime.tracing.trace import FUNCTIONS, Trace, Traced, refuse

# --- products

Factor = tuple[str, Value]
_LETTERS = string.ascii_letters


def _einsum(t: Trace, *operands: Any, optimize: object = False, **options: object) -> Traced:
    """numpy.einsum: ellipses and repeated letters are worked off first, then operands are
    contracted from left to right.
    """
    if options:
        raise refuse("GC0560", f"numpy.einsum cannot be traced with {', '.join(options)}")
    subscripts, items = _as_letters(operands)
    values = [t.lift(v) for v in items] if len(items) == 1 else _alike(t, items)
    terms, result, values = _terms(t, subscripts, values)
    done, made = terms[0], values[0]
    for number in range(1, len(terms)):
        later = set("".join((result, *terms[number + 1 :])))
        done, made = _contracted(t, (done, made), (terms[number], values[number]), later)
    done, made = _summed(t, done, made, set(result))
    perm = tuple(done.index(letter) for letter in result)
    return t.wrap(made if perm == tuple(range(len(perm))) else t.emit("transpose", made, perm=perm))


def _alike(t: Trace, items: Sequence[object]) -> list[Value]:
    """Operands in their common type, shapes as they are."""
    return t.common(items)


def _as_letters(operands: tuple[Any, ...]) -> tuple[str, list[object]]:
    """The subscripts as text, also from the form with lists of numbers."""
    if isinstance(operands[0], str):
        return operands[0].replace(" ", ""), list(operands[1:])
    pairs = list(operands)
    result = pairs.pop() if len(pairs) % 2 else None

    def text(labels: Any) -> str:
        return "".join("..." if x is Ellipsis else _LETTERS[operator.index(x)] for x in labels)

    terms = ",".join(text(labels) for labels in pairs[1::2])
    return terms + ("" if result is None else f"->{text(result)}"), list(pairs[::2])


def _terms(t: Trace, subscripts: str, values: list[Value]) -> tuple[list[str], str, list[Value]]:
    """Letters of each operand, none twice, and of the result; operands to suit."""
    left, arrow, result = subscripts.partition("->")
    terms = left.split(",")
    if len(terms) != len(values):
        raise refuse("GC0558", f"einsum: `{subscripts}` is for {len(terms)} operands")
    spare = [c for c in _LETTERS if c not in subscripts]
    extra = [v.type.rank - len(s.replace("...", "")) for s, v in zip(terms, values, strict=True)]
    widest = max((n for s, n in zip(terms, extra, strict=True) if "..." in s), default=0)
    dots = "".join(spare[:widest])
    if not arrow:
        plain = left.replace("...", "").replace(",", "")
        result = ("..." if "..." in left else "") + "".join(
            sorted(c for c in set(plain) if plain.count(c) == 1)
        )
    shown = [
        s.replace("...", dots[widest - max(n, 0) :]) for s, n in zip(terms, extra, strict=True)
    ]
    for term, value in zip(shown, values, strict=True):
        if len(term) != value.type.rank:
            raise refuse("GC0558", f"einsum: `{term}` does not suit {value.type}")
    result = result.replace("...", dots)
    if not set(result) <= set("".join(shown)) or len(set(result)) != len(result):
        raise refuse("GC0558", f"einsum: the result of `{subscripts}` has letters of no operand")
    fitted = [_fitted(t, s, v, _extents(shown, values)) for s, v in zip(shown, values, strict=True)]
    return [s for s, _ in fitted], result, [v for _, v in fitted]


def _extents(terms: Sequence[str], values: Sequence[Value]) -> dict[str, int]:
    """The size of each letter: the one that is not 1, where axes of 1 stretch."""
    found: dict[str, int] = {}
    for term, value in zip(terms, values, strict=True):
        for letter, size in zip(term, value.type.static_shape, strict=True):
            found[letter] = size if found.get(letter, 1) == 1 else found[letter]
    return found


def _fitted(t: Trace, term: str, value: Value, extents: dict[str, int]) -> Factor:
    """One operand with every letter once, and no axis of 1 where others have more."""
    once = "".join(dict.fromkeys(term))
    if once != term:
        shape = value.type.static_shape
        size = math.prod(shape)
        try:
            places = np.einsum(f"{term}->{once}", np.arange(size).reshape(shape))
        except ValueError as problem:
            raise refuse("GC0558", f"einsum: {problem}") from None
        flat = reshape(t, value, (size,))
        value = t.emit("take", flat, t.lift(np.array(places)), axis=0)
    squeezed = [c for c, n in zip(once, value.type.static_shape, strict=True) if n == extents[c]]
    if len(squeezed) != len(once):
        kept = tuple(extents[c] for c in squeezed)
        value = reshape(t, value, kept)
    return "".join(squeezed), value


def _contracted(t: Trace, a: Factor, b: Factor, later: set[str]) -> Factor:
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


def _summed(t: Trace, letters: str, value: Value, kept: set[str]) -> Factor:
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
    return t.wrap(reshape(t, value, (count,)))


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
    return t.wrap(reshape(t, value, tuple(n for i, n in enumerate(shape) if i not in axes)))


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
    }
)
