"""Fusion: ops gathered into ``fusion`` ops that become one kernel each. Tensor IR to tensor IR.

Three steps per block: contractions are given operands that a matrix product can read (copies where
no strides do); ops are grouped (``fuse_groups``); cheap ops move to where they are used
(``fuse_sink``). Regions of ``scan`` are fused on their own; ``checkpoint`` and ``custom`` regions
are opened first, since by now they only say what was decided.

Invariants: the values of the function do not change, not even in the last bit; views cost nothing
inside a group. Non-goals: deciding what to recompute for memory's sake; order of groups
(``place``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

from gradc.ir.loop.kernel import dense_strides
from gradc.ir.ops.attributes import get_pairs
from gradc.ir.ops.needs import NAMES, get_needs, with_needs
from gradc.ir.ops.reduction import reduced_axes
from gradc.ir.ops.registry import (
    Contraction,
    Reduction,
    is_loop,
    is_wrapper,
    lookup,
    reads_memory,
)
from gradc.ir.target.target import GENERIC, Target
from gradc.ir.tensor.core import Attr, Block, Function, Op, Value
from gradc.passes.fuse.demand import values_in_memory
from gradc.passes.fuse.groups import Group, Grouping
from gradc.passes.fuse.sink import Sinking
from gradc.passes.fuse.streams import shared_streams
from gradc.passes.fuse.views import View, Views, is_view
from gradc.passes.lower.gemm import contraction_axes
from gradc.passes.lower.joins import part_shape
from gradc.passes.rewrite import copy_ops

LABELS = {"rows": "rows", "product": "gemm", "mixed": "mixed", "opaque": "opaque"}


def fuse(function: Function, target: Target = GENERIC) -> Function:
    """``function`` with fusion ops, as large as is good for ``target``. All dimensions must be
    bound.
    """
    block = function.block
    first, ops = shared_streams(block.body)
    fused = fuse_block(Block(block.parameters, (*ops, block.terminator)), target)
    return replace(function, block=Block(block.parameters, (*first, *fused.ops)))


def fuse_block(block: Block, target: Target) -> Block:
    """``block`` with fusion ops; terminator and parameters stay."""
    *opened, end = _open_regions(block)
    ops, stored = _legal_contractions(opened, target)
    emitted = _Emission(_scalars_first(ops, block), end.operands, stored, target).run()
    return Block(block.parameters, (*emitted, end))


def _scalars_first(ops: Sequence[Op], block: Block) -> list[Op]:
    """``ops`` with scalars computed from parameters alone at the front, so that every group can
    read them."""
    early: dict[Value, None] = dict.fromkeys(v for v in block.parameters if v.type.size == 1)
    first: list[Op] = []
    rest: list[Op] = []
    for op in ops:
        is_small = all(v.type.size == 1 for v in op.results) and not op.regions
        if is_small and all(x in early for x in op.operands):
            early.update(dict.fromkeys(op.results))
            first.append(op)
        else:
            rest.append(op)
    return first + rest


def _open_regions(block: Block) -> list[Op]:
    """The ops of ``block`` with ``checkpoint`` and ``custom`` regions in place of the ops that held
    them."""
    renamed: dict[Value, Value] = {}
    found: list[Op] = []
    for op in block.ops:
        operands = tuple([renamed.get(x, x) for x in op.operands])
        if is_wrapper(op):
            region = op.regions[0]
            inner = dict(zip(region.parameters, operands, strict=True))
            copies = copy_ops(region.ops[:-1], inner)
            opened = _open_regions(Block((), (*copies, Op("yield", region.outputs, ()))))
            found += opened[:-1]
            renamed.update(zip(op.results, (inner.get(v, v) for v in region.outputs), strict=True))
            continue
        found.append(_simple(op if operands == op.operands else op.on(operands)))
    return found


def _simple(op: Op) -> Op:
    """A reduction over axes of one element is a reshape."""
    if op.name in ("return", "yield") or not isinstance(lookup(op.name).loop, Reduction):
        return op
    shape = op.operands[0].type.static_shape
    if any(shape[axis] != 1 for axis in reduced_axes(op)):
        return op
    return replace(op, name="reshape", attributes={"shape": op.result.type.static_shape})


def _legal_contractions(ops: Sequence[Op], target: Target) -> tuple[list[Op], frozenset[Value]]:
    """Contractions whose operands a matrix product can read, and the views that must be stored for
    it."""
    stored: dict[Value, None] = {}
    found: list[Op] = []
    views = Views(ops, target)
    for op in ops:
        if isinstance(lookup(op.name).loop, Contraction) and op.result.type.dtype.is_float:
            operands = list(op.operands)
            for side in (0, 1):
                copy = _readable(op, side, views)
                if copy is None:
                    continue
                if copy is not operands[side]:
                    found.append(_transposed(op, side, copy))
                operands[side] = copy
                stored[copy] = None
            if any(a is not b for a, b in zip(operands, op.operands, strict=True)):
                op = _with_ordered_operands(op, operands)
        found.append(op)
    return found, frozenset(stored)


def _joined(ops: Sequence[Op], in_memory: frozenset[Value]) -> frozenset[Value]:
    """Values that join others and have to be in memory: what makes the parts can store them
    (``Grouping``)."""
    joins = (op.results[0] for op in ops if len(op.results) == 1 and part_shape(op) is not None)
    return in_memory.intersection(joins)


def _readable(op: Op, side: int, views: Views) -> Value | None:
    """None if operand ``side`` can be read as it is; else the value to store: itself, or a
    transposed copy."""
    value = op.operands[side]
    view = views.view(value)
    if view is not None and _fits(op, side, view.strides):
        return None
    if _fits(op, side, dense_strides(value.type.static_shape)):
        return value if views.is_virtual(value) else None
    order = _axis_order(op, side)
    shape = tuple(value.type.static_shape[axis] for axis in order)
    return Value(value.type.with_shape(shape), value.hint)


def _fits(op: Op, side: int, strides: Sequence[int]) -> bool:
    """Whether the axes of an operand with ``strides`` can be merged as a matrix product needs
    them."""
    axes = contraction_axes(op)
    shape = op.operands[side].type.static_shape
    contract = [pair[side] for pair in axes.contract]
    runs = [contract] if side == 0 else [contract, list(axes.right)]
    return all(_is_run(run, shape, strides) for run in runs)


def _is_run(axes: Sequence[int], shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether ``axes`` in this order are one axis in memory."""
    wide = [axis for axis in axes if shape[axis] != 1]
    return all(strides[a] == strides[b] * shape[b] for a, b in pairwise(wide))


def _axis_order(op: Op, side: int) -> tuple[int, ...]:
    """Batch axes, then (left) free and contracted or (right) contracted and free ones."""
    axes = contraction_axes(op)
    batch = [pair[side] for pair in axes.batch]
    contract = [pair[side] for pair in axes.contract]
    free = list(axes.left if side == 0 else axes.right)
    return tuple(batch + free + contract) if side == 0 else tuple(batch + contract + free)


def _transposed(op: Op, side: int, copy: Value) -> Op:
    return replace(
        op,
        name="transpose",
        operands=(op.operands[side],),
        results=(copy,),
        attributes={"perm": _axis_order(op, side)},
    )


def _with_ordered_operands(op: Op, operands: Sequence[Value]) -> Op:
    """``op`` reading transposed copies, its axis numbers adapted."""
    attributes = dict(op.attributes)
    for name in ("batch", "contract"):
        attributes[name] = tuple(
            tuple(_moved(op, side, axis, operands) for side, axis in enumerate(pair))
            for pair in get_pairs(op.attributes, name)
        )
    for name in NAMES:
        needs = get_needs(op.attributes, name)
        if needs:
            moved = [n.moved(lambda a: (a[0], _moved(op, *a, operands))) for n in needs]
            attributes = with_needs(attributes, name, moved)
    return replace(op, operands=tuple(operands), attributes=attributes)


def _moved(op: Op, side: int, axis: int, operands: Sequence[Value]) -> int:
    if operands[side] is op.operands[side]:
        return axis
    return _axis_order(op, side).index(axis)


class _Emission:
    """Writes the groups of one block as ops."""

    def __init__(
        self,
        ops: Sequence[Op],
        outputs: Sequence[Value],
        stored: frozenset[Value],
        target: Target,
    ) -> None:
        self.ops = ops
        self.target = target
        in_memory = values_in_memory(ops, outputs)
        self.views = Views(ops, target, stored | _joined(ops, in_memory), in_memory)
        self.grouping = Grouping(ops, self.views, outputs, target)
        self.outputs = outputs
        self.results = dict.fromkeys(outputs)
        self.sinking = Sinking(ops, self.grouping, self.views, outputs)
        self.emitted: list[Op] = []
        self.done: dict[Op, None] = {}

    def run(self) -> list[Op]:
        for group, ops in zip(self.grouping.groups, self.sinking.contents(), strict=True):
            if not ops:
                continue
            if group.kind == "opaque":
                self._opaque(ops[0])
            else:
                self._group(group, ops)
        for value in self.outputs:
            self._store(value)
        return self.emitted

    def _opaque(self, op: Op) -> None:
        for operand in op.operands:
            self._store(operand)
        if is_loop(op):
            op = replace(
                op, regions=tuple(fuse_block(region, self.target) for region in op.regions)
            )
        self.emitted.append(op)

    def _store(self, value: Value) -> None:
        """Computes a virtual value that something needs in memory."""
        chain = self.views.chain(value)
        if not chain or chain[-1] in self.done:
            return
        view = self.views.view(value)
        if len(chain) == 1 or (view is not None and _is_contiguous(view, value)):
            for op in chain:
                if op not in self.done:
                    self.done[op] = None
                    self.emitted.append(op)
            return
        self.done[chain[-1]] = None
        self._fusion({"kind": "map"}, list(chain), [value], chain[-1])

    def _group(self, group: Group, ops: list[Op]) -> None:
        results = [v for op in ops for v in op.results]
        outputs = [v for v in results if group.holds(v) and self._is_needed(v, group)]
        inside = dict.fromkeys(ops)
        for op in ops:
            for operand in op.operands:
                if reads_memory(op):
                    self._store(operand)
                else:
                    inside.update(dict.fromkeys(self.views.chain(operand)))
        outputs += self._kept_along(group, inside)
        body = _in_order_of_need(inside, outputs)
        if len(body) == 1 and tuple(outputs) == body[0].results:
            self.emitted.append(body[0])
            return
        attributes: dict[str, Attr] = {"kind": LABELS[group.kind]}
        if group.space is not None:
            attributes["space"] = group.space.shape
            attributes["columns"] = group.space.column_axes
        self._fusion(attributes, body, outputs, ops[0])

    def _kept_along(self, group: Group, inside: Iterable[Op]) -> list[Value]:
        """Results of the block that are views which the group reads element by element anyway: it
        stores them beside its own, and nobody reads them again to copy them.
        """
        if group.kind != "rows" or group.space is not None:
            return []
        found: list[Value] = []
        for op in inside:
            if op in self.done or not is_view(op):
                continue
            value = op.results[0]
            view = self.views.view(value) if value in self.results else None
            if view is None or value.type.static_shape != group.shape:
                continue
            is_whole = value.type.size == view.base.type.size and _is_contiguous(view, value)
            if not group.holds(view.base) and not is_whole:
                self.done[op] = None
                found.append(value)
        return found

    def _is_needed(self, value: Value, group: Group) -> bool:
        maker = self.views.makers[value]
        return group in self.sinking.homes[maker] and self.sinking.escapes(value)

    def _fusion(
        self,
        attributes: dict[str, Attr],
        body: Sequence[Op],
        outputs: Sequence[Value],
        like: Op,
    ) -> None:
        made = {v: None for op in body for v in op.results}
        inputs = dict.fromkeys(x for op in body for x in op.operands if x not in made)
        mapping = {x: Value(x.type, x.hint) for x in inputs}
        parameters = tuple(mapping.values())
        copies = copy_ops(body, mapping)
        region = Block(parameters, (*copies, Op("yield", tuple(mapping[v] for v in outputs), ())))
        self.emitted.append(
            Op(
                "fusion",
                tuple(inputs),
                tuple(outputs),
                attributes,
                (region,),
                like.span,
                like.scope,
                like.replica,
            )
        )


def _in_order_of_need(ops: Iterable[Op], outputs: Sequence[Value]) -> list[Op]:
    """``ops`` in the order in which ``outputs`` need them: the same for isomorphic groups, however
    they were written."""
    makers = {value: op for op in ops for value in op.results}
    found: dict[Op, None] = {}
    stack = [(makers[v], 0) for v in reversed(outputs)]
    while stack:
        op, position = stack.pop()
        if op in found:
            continue
        if position == len(op.operands):
            found[op] = None
            continue
        stack.append((op, position + 1))
        maker = makers.get(op.operands[position])
        if maker is not None and maker not in found:
            stack.append((maker, 0))
    return list(found)


def _is_contiguous(view: View, value: Value) -> bool:
    shape = value.type.static_shape
    pairs = zip(shape, view.strides, dense_strides(shape), strict=True)
    return all(extent == 1 or stride == wanted for extent, stride, wanted in pairs)
