"""Elements of ``take`` and ``scatter_add`` in the index algebra: ids are an opaque factor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradc.ir.ops.attributes import get_dim, get_int
from gradc.ir.ops.index.element import Elements, Shapes
from gradc.ir.ops.index.sums import (
    Entry,
    LinearIndex,
    factor,
    times,
)
from gradc.ir.tensor.core import Op, TensorType
from gradc.ir.tensor.dims import symbol


def take(r: Elements, op: Op, index: LinearIndex) -> Entry:
    table, ids = op.operands
    axis = get_int(op.attributes, "axis")
    end = axis + ids.type.rank
    n = table.type.shape[axis]

    def term(inner: LinearIndex) -> Entry:
        (row,) = inner
        met = factor("ids", [row, *index[axis:end]], [n, *ids.type.shape])
        return times(met, r.read(table, [*index[:axis], row, *index[end:]]))

    return r.sum_over([n], term)


def scatter_add(r: Elements, op: Op, index: LinearIndex) -> Entry:
    ids, updates = op.operands
    axis = get_int(op.attributes, "axis")

    def term(places: LinearIndex) -> Entry:
        met = factor("ids", [index[axis], *places], [op.result.type.shape[axis], *ids.type.shape])
        return times(met, r.read(updates, [*index[:axis], *places, *index[axis + 1 :]]))

    return r.sum_over(ids.type.shape, term)


def fit_scatter(operands: Sequence[TensorType], shapes: Shapes, attributes: dict[str, Any]) -> None:
    axis = get_int(attributes, "axis")
    shapes[1][axis : axis + len(shapes[0])] = shapes[0]
    if get_dim(attributes, "size") != 1:
        attributes["size"] = symbol("m")
