"""Attention, by its structure: a softmax with whose shares weighted values are averaged, by a
product of matrices or by a sum of products.

Its entropy is told as a share of the most that it can be, which is 1 where every key that may be
looked at counts the same, and 0 where one counts alone (Zhai et al. 2023, "Stabilizing transformer
training by preventing attention entropy collapse", for what a small one means).

Non-goals: what it means for a training (``causes``, ``watching``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradc.frontend.model.graph import Graph, axes_of, is_form
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import is_product, is_sum
from gradc.ir.tensor.core import Block, Function, Op, Role, Value
from gradc.passes.rewrite import copy_ops
from gradc.runtime.native.arrays import Array


@dataclass(frozen=True)
class Attention:
    """The quotient of a softmax, the scores that it is of, and the axes of its keys."""

    op: Op
    scores: Value
    axes: tuple[int, ...]


def attentions(function: Function) -> list[Attention]:
    """Every attention of ``function``, those in loops too."""
    pairs = zip(function.parameters, function.block.parameters, strict=True)
    weights = {v for s, v in pairs if s.role is Role.PARAM}
    return list(_attentions(function.block, weights))


def _attentions(block: Block, weights: set[Value]) -> Iterator[Attention]:
    graph = Graph(block)
    weighed: set[Value] | None = None
    for op in block.body:
        found = graph.softmax_axes(op)
        if found is not None:
            weighed = graph.below(weights) if weighed is None else weighed
            total = graph.maker(op.operands[1])
            if total is not None and _averages(graph, op.result, weighed):
                yield Attention(op, found[0], axes_of(total))
        for region in op.regions:  # whatever comes into it may depend on a weight
            yield from _attentions(region, set(region.parameters))


def _averages(graph: Graph, shares: Value, weighed: set[Value]) -> bool:
    """Whether ``shares`` are multiplied with what depends on a weight, and that is summed."""
    waiting, seen = [(shares, False)], {(shares, False)}
    while waiting:
        value, is_multiplied = waiting.pop()
        for op in graph.readers.get(value, []):
            others = [v for v in op.operands if v is not value]
            meets = any(v in weighed and not graph.is_constant(v) for v in others)
            if (is_product(op) and meets) or (is_sum(op) and is_multiplied):
                return True
            if op.name == "mul" or op.name == "select" or is_form(op):
                after = (op.result, is_multiplied or (op.name == "mul" and meets))
                if after not in seen:
                    seen.add(after)
                    waiting.append(after)
    return False


def entropies(shares: Array, axes: tuple[int, ...]) -> Array:
    """The entropy of each query with two keys and more, as a share of the most that it can be.

    Keys at which no sample of the batch looks are taken for masked.
    """
    p = np.asarray(shares, np.float64)
    seen = p > 0
    keys = (seen if 0 in axes else seen.any(axis=0, keepdims=True)).sum(axis=axes)
    spent = np.where(seen, p * np.log(np.where(seen, p, 1.0)), 0.0).sum(axis=axes)
    keys = np.broadcast_to(keys, spent.shape)
    chosen = keys > 1
    return np.asarray(-spent[chosen] / np.log(keys[chosen]))


def scaled_scores(function: Function, factor: float) -> Function:
    """``function`` with the scores of every attention outside of loops times ``factor``."""
    found = [a for a in attentions(function) if a.op in function.block.body]
    scores = {a.scores for a in found}
    b = Builder()
    b.parameters = list(function.block.parameters)
    renamed: dict[Value, Value] = {}
    for value in (v for v in b.parameters if v in scores):
        renamed[value] = _scaled(b, value, factor)
    for op in function.block.body:
        (copied,) = copy_ops([op], renamed)
        b.ops.append(copied)
        for old, new in zip(op.results, copied.results, strict=True):
            if old in scores:
                with b.at(op.span, op.scope, op.replica):
                    renamed[old] = _scaled(b, new, factor)
    outputs: Sequence[Value] = [renamed.get(v, v) for v in function.block.outputs]
    return replace(function, block=b.block(outputs, "return"))


def _scaled(b: Builder, value: Value, factor: float) -> Value:
    number = b.constant(factor, value.type.dtype, value.type.shape)
    return b.one("mul", value, number)
