"""Truncated backpropagation through time: where the derivative of a ``scan`` is cut.

``truncate k``: counted from the last trip that runs, every k-th border between trips lets no
derivative pass through the carries. With trips numbered in order of execution, that is the border
before trip t whenever ``trips - t`` is a multiple of k (and ``t > 0``: what comes before the first
trip is no border). So the derivative is exactly that of the unrolled program with ``stop_gradient``
on the carries at those borders: a term of the loss reaches at most k trips back, a term at the end
of the loop exactly k. ``k >= trips`` truncates nothing. Forward mode cuts the same borders, so it
remains the transpose; constants and slices are not cut.
"""

from __future__ import annotations

from dataclasses import replace

from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import is_loop
from gradc.ir.tensor.core import Block, DType, Function, Op, Value, walk
from gradc.passes.differentiate.values import zeros
from gradc.passes.rewrite import Scan, with_regions


def borders(b: Builder, scan: Scan) -> Value:
    """One boolean per trip, stored at its index: whether derivatives pass through the carries
    before it.
    """
    i32 = DType.I32
    shape = (scan.trips,)
    index = b.one("iota", axis=0, dtype=i32, shape=shape)
    # `left` = trips from this one to the last that runs, itself included.
    last = index if scan.is_reverse else b.one("reverse", index, axes=(0,))
    left = b.one("add", last, b.constant(1, i32, shape))
    rest = b.one("mod", left, b.constant(scan.truncate, i32, shape))
    inside = b.one("ne", rest, b.constant(0, i32, shape))
    first = b.one("reverse", index, axes=(0,)) if scan.is_reverse else index
    is_first = b.one("eq", first, b.constant(0, i32, shape))
    return b.one("logical_or", inside, is_first)


def cut(b: Builder, derivative: Value, keep: Value | None) -> Value:
    """``derivative`` where ``keep`` holds, else zeros."""
    if keep is None:
        return derivative
    shape = derivative.type.shape
    mask = b.one("broadcast", keep, shape=shape, dims=()) if shape else keep
    return b.one("select", mask, derivative, zeros(b, derivative))


def loops(function: Function) -> list[Op]:
    """Every truncated ``scan`` of ``function``, in order, those inside others after them."""
    return [op for op in walk(function.block) if is_loop(op) and _window(op)]


def rewindowed(function: Function, factor: int) -> Function:
    """``function`` with every truncation window ``factor`` times as long; 0 takes truncation away.

    The same object if nothing is truncated.
    """
    block = _rewindowed(function.block, factor)
    return function if block is function.block else replace(function, block=block)


def _window(op: Op) -> int:
    window = op.attributes["truncate"]
    assert isinstance(window, int), "a window is a number"
    return window


def _rewindowed(block: Block, factor: int) -> Block:
    ops: list[Op] = []
    for op in block.ops:
        op = with_regions(op, lambda region: _rewindowed(region, factor))
        if is_loop(op) and _window(op):
            op = replace(op, attributes={**op.attributes, "truncate": factor * _window(op)})
        ops.append(op)
    if all(a is b for a, b in zip(ops, block.ops, strict=True)):
        return block
    return Block(block.parameters, tuple(ops))
