"""Dimensions small enough to draw random points at.

Structure (layers, heads) stays; sizes shrink. A verdict found at such dimensions says so.
Non-goals: which dimensions a program has (the caller gives a function that lowers).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.ops.registry import is_loop, lookup
from gradc.ir.tensor.core import Function, Op, walk

# Field operations one evaluation may cost.
MOST_WORK = 40_000
_FACTORS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_LEAST = 4
_LARGE = 8


def work(function: Function) -> int:
    """About how many field operations one evaluation takes."""
    return sum(_op_work(op) for op in walk(function.block))


def _op_work(op: Op) -> int:
    if not op.results:  # the end of a block, which is no op of the registry
        return 0
    trips = op.attributes.get("trips")
    if is_loop(op) and isinstance(trips, int):
        return trips * sum(_op_work(inner) for inner in walk(op.regions[0]))
    total = sum(_elements(v.type.static_shape) for v in op.results)
    found = lookup(op.name).traits.work
    return total if found is None else total + found(op)


def _elements(shape: tuple[int, ...]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


def probe_dims(
    dims: Mapping[str, int],
    lower: Callable[[Mapping[str, int]], Function],
    most: int = MOST_WORK,
) -> tuple[dict[str, int], Function]:
    """``dims``, or the largest common reduction of the big ones at which an evaluation is cheap
    enough.

    Dimensions below eight are left alone, and so are those that count layers.
    """
    function = lower(dims)
    best = dict(dims), function
    if work(function) <= most:
        return best
    fixed = {k for k, n in dims.items() if n < _LARGE or is_structural(k, dims, function, lower)}
    for factor in _FACTORS:
        if work(best[1]) <= most:
            break
        smaller = {k: n if k in fixed else max(_LEAST, n // factor) for k, n in dims.items()}
        try:
            found = lower(smaller)
        except DiagnosticError:
            continue
        best = smaller, found
    return best


def is_structural(
    name: str,
    dims: Mapping[str, int],
    function: Function,
    lower: Callable[[Mapping[str, int]], Function],
) -> bool:
    """Whether the parameters are others when this dimension is smaller: it counts layers."""
    size = dims[name]
    smaller = max(_LEAST, size // 2) if size > _LEAST else max(1, size // 2)
    try:
        found = lower({**dims, name: smaller})
    except DiagnosticError:
        return False
    return [s.name for s in found.parameters] != [s.name for s in function.parameters]


def points_for(function: Function) -> int:
    """How many random points to try: more where a program is so small that few guards are seen at
    once.
    """
    cost = work(function)
    return 24 if cost < 600 else 8 if cost < 20_000 else 3
