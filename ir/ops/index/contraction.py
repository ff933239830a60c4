"""Elements of products of arrays in the index algebra."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradc.ir.ops.attributes import get_pairs
from gradc.ir.ops.index.element import Elements, Shapes
from gradc.ir.ops.index.sums import (
    ONE,
    Entry,
    Linear,
    LinearIndex,
    times,
)
from gradc.ir.tensor.core import Op, TensorType


def contract(r: Elements, op: Op, index: LinearIndex) -> Entry:
    batch, inner = (get_pairs(op.attributes, name) for name in ("batch", "contract"))
    a, b = op.operands

    def term(bound: LinearIndex) -> Entry:
        places: list[dict[int, Linear]] = [{}, {}]
        rest = iter(index)
        for pair in batch:
            places[0][pair[0]] = places[1][pair[1]] = next(rest)
        for pair, i in zip(inner, bound, strict=True):
            places[0][pair[0]] = places[1][pair[1]] = i
        found = ONE
        for x, known in zip((a, b), places, strict=True):
            for axis in range(x.type.rank):
                if axis not in known:
                    known[axis] = next(rest)
            found = times(found, r.read(x, [known[axis] for axis in range(x.type.rank)]))
        return found

    return r.sum_over([a.type.shape[i] for i, _ in inner], term)


def fit_contract(
    operands: Sequence[TensorType], shapes: Shapes, attributes: dict[str, Any]
) -> None:
    for i, j in (*get_pairs(attributes, "batch"), *get_pairs(attributes, "contract")):
        shapes[1][j] = shapes[0][i]
