"""Matrices between products lie turned round where their rows would be long.

    S = contract(Q, K);  P = exp(S - m);  dV = contract(P, dO)      S[i, j], j contiguous
    S = contract(K, Q);  P = exp(S - m);  dV = contract(P, dO)      S[j, i], i contiguous

From-stage and to-stage: tensor, after all simplification. Few rows of thousands of columns, as a
tile of attention has them, lie a page apart: a product that goes down their columns reads another
page, and the same few sets of a cache, at every step. Turned round, such a matrix is a column of
short rows, which products read one after the other. What is turned is everything between products:
elementwise ops on values of that form, with what they read that is made from something smaller.

Invariants: every element is computed by the same operations, and the sums of a product are the same
whichever way its operands lie, so bits are the same; on graphics processors too, whose tiles read
both ways by 16 bytes. Non-goals: matrices whose rows are folded, or that something else reads
(parameters, results, loops).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from gradc.ir.ops.attributes import get_dims, get_ints, get_pairs
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.contraction import free_axes
from gradc.ir.ops.registry import is_product, lookup, number_of
from gradc.ir.ops.traits import Moves
from gradc.ir.tensor.core import Block, Function, Op, Value
from gradc.ir.tensor.dims import Dim
from gradc.passes.rewrite import each_once, with_control, with_ops
from gradc.passes.simplify.dce import dce
from gradc.passes.simplify.simplify import simplify

# Rows of so many bytes are long: a page, and a multiple of the sets of a first cache.
PAGE = 4096
# Rows of the turned matrix fill vectors, and there are more of them than they are long.
LEAST_ROWS = 32


def turn(function: Function) -> Function:
    """``function`` with long-rowed matrices between products turned round; the same object if there
    are none.
    """
    block = _turned(function.block)
    if block is function.block:
        return function
    return dce(simplify(with_ops(function, block.body, block.outputs)))


def _turned(block: Block) -> Block:
    region = each_once(_turned)
    ops = [with_control(op, region) for op in block.body]
    search = _Search(Block(block.parameters, (*ops, block.terminator)))
    for op in ops:
        search.look_at(op)
    if search.members:
        ops = list(_written(ops, search))
    elif all(a is b for a, b in zip(ops, block.body, strict=True)):
        return block
    return Block(block.parameters, (*ops, block.terminator))


class _Search:
    """The values of a block that are turned (``members``, products and what is computed of them)
    and what they read that is made turned as well (``leaves``).
    """

    def __init__(self, block: Block) -> None:
        self.block = block
        self.members: dict[Value, None] = {}
        self.leaves: dict[Value, None] = {}
        self.seen: set[Value] = set()

    @cached_property
    def readers(self) -> dict[Value, dict[Op, None]]:
        """Who reads a value, the terminator among them."""
        found: dict[Value, dict[Op, None]] = {}
        for op in self.block.ops:
            for value in op.operands:
                found.setdefault(value, {})[op] = None
        return found

    @cached_property
    def made(self) -> dict[Value, Op]:
        """What makes a value."""
        return {v: op for op in self.block.body for v in op.results}

    def look_at(self, op: Op) -> None:
        """Turns what ``op`` makes, and all that must lie like it, if that can be and pays."""
        if not is_product(op) or op.result in self.seen or not _is_long(op.result):
            return
        found = self._group(op.result)
        if found is not None:
            self.members.update(found[0])
            self.leaves.update(found[1])

    def _group(self, first: Value) -> tuple[dict[Value, None], dict[Value, None]] | None:
        """All values that must lie as ``first`` does, and what they read; None if one cannot."""
        form = _form(first)
        members: dict[Value, None] = {}
        leaves: dict[Value, None] = {}
        ends = False
        is_possible = True
        stack = [first]
        while stack:
            value = stack.pop()
            if value in members or value in leaves:
                continue
            op = self.made.get(value)
            if op is None or _form(value) != form:
                is_possible = False
                continue
            if not is_product(op) and not lookup(op.name).is_elementwise and not _spreads(op, form):
                leaves[value] = None
                is_possible &= _is_leaf(op)
                continue
            members[value] = None
            self.seen.add(value)
            if is_product(op):
                is_possible &= _is_plain(op)
            else:
                stack += op.operands
            for reader in self.readers.get(value, ()):
                if is_product(reader):
                    row, column = _is_summed(reader, value)
                    ends |= row
                    is_possible &= row or column
                elif reader.results and (
                    lookup(reader.name).is_elementwise or _spreads(reader, form)
                ):
                    stack += reader.results
                else:
                    is_possible = False
        return (members, leaves) if is_possible and ends else None


def _form(value: Value) -> tuple[int, int]:
    shape = value.type.static_shape
    return (shape[-2], shape[-1]) if value.type.rank > 1 else (0, 0)


def _is_long(value: Value) -> bool:
    """Whether rows are long and few."""
    rows, columns = _form(value)
    return LEAST_ROWS <= rows <= columns and columns * value.type.dtype.itemsize >= PAGE


def _is_plain(op: Op) -> bool:
    """Whether the result is one axis of each operand after the batch, so that operands may change
    places.
    """
    sides = (free_axes(op.attributes, n, x.type.rank) for n, x in enumerate(op.operands))
    return all(len(axes) == 1 for axes in sides)


def _is_summed(op: Op, value: Value) -> tuple[bool, bool]:
    """Whether the product ``op`` sums over the rows of ``value``, and over its columns."""
    rank = value.type.rank
    pairs = get_pairs(op.attributes, "contract")
    axes = {p[n] for n, x in enumerate(op.operands) if x is value for p in pairs}
    return rank - 2 in axes, rank - 1 in axes


def _spreads(op: Op, form: tuple[int, int]) -> bool:
    """Whether ``op`` repeats a matrix of this form along axes before it."""
    if lookup(op.name).traits.moves is not Moves.REPEATS or _form(op.operands[0]) != form:
        return False
    rank = op.result.type.rank
    return get_ints(op.attributes, "dims")[-2:] == (rank - 2, rank - 1)


def _is_leaf(op: Op) -> bool:
    """Whether ``op`` makes its result of nothing, or repeats something smaller."""
    definition = lookup(op.name)
    return definition.is_source or definition.traits.moves is Moves.REPEATS


def _written(ops: list[Op], search: _Search) -> Iterator[Op]:
    """The ops of a block with what was found turned round."""
    turned: dict[Value, Value] = {}
    for op in ops:
        b = Builder()
        with b.at(op.span, op.scope, op.replica):
            value = op.results[0] if op.results else None
            if value in search.leaves:
                yield op
                turned[value] = _leaf(b, op)
            elif value in search.members and is_product(op):
                b.ops.append(_with_turned(b, op, turned))
                turned[value] = _across(b, value)
            elif value in search.members:
                given = [turned[x] for x in op.operands]
                attributes = dict(op.attributes)
                if "shape" in attributes:
                    attributes["shape"] = _swapped(get_dims(attributes, "shape"))
                turned[value] = b.one(op.name, *given, hint=value.hint, **attributes)
            else:
                b.ops.append(_with_turned(b, op, turned))
        yield from b.ops


def _leaf(b: Builder, op: Op) -> Value:
    """What a leaf makes, turned."""
    result = op.result
    number = number_of(op)
    if number is not None:
        return b.constant(number, result.type.dtype, _swapped(result.type.shape))
    if not op.operands:
        return _across(b, result)
    (operand,) = op.operands
    last = result.type.rank - 1
    new = {last: last - 1, last - 1: last}
    dims = [new.get(axis, axis) for axis in get_ints(op.attributes, "dims")]
    perm = sorted(range(len(dims)), key=lambda axis: dims[axis])
    if perm != list(range(len(dims))):
        operand = b.one("transpose", operand, perm=tuple(perm))
    return b.one("broadcast", operand, shape=_swapped(result.type.shape), dims=tuple(sorted(dims)))


def _with_turned(b: Builder, op: Op, turned: dict[Value, Value]) -> Op:
    """``op``, its turned operands turned back (``simplify`` makes that how a product reads)."""
    if not any(x in turned for x in op.operands) or not is_product(op):
        return op
    given = [_across(b, turned[x]) if x in turned else x for x in op.operands]
    return op.on(tuple(given))


def _across(b: Builder, value: Value) -> Value:
    """``value`` with its last two axes exchanged."""
    rank = value.type.rank
    return b.one("transpose", value, perm=(*range(rank - 2), rank - 1, rank - 2))


def _swapped(shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
    return (*shape[:-2], shape[-1], shape[-2])
