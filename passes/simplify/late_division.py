"""Weights that sum to one are divided after the product they go into, not before.

    contract(e / l, v)  ->  contract(e, v) / l          e = exp(x - max x), l = sum e, along what
                                                        the product sums over

From-stage and to-stage: tensor, before ``differentiate``. The division is one per element of the
result, and the cotangent of l follows from the result and its cotangent:
dl = -sum(dO * O) / l, where it was a sum over all weights (Milakov and Gimelshein 2018, Dao et al.
2022). A mask between division and product, ``select(c, e / l, 0)``, is the one inside the maximum,
x = select(c, y, -inf). It goes under the exponential:

    O = contract(e, v) / l,     e = exp(select(c, x - max x, -inf)), l = sum e, and 1 where that
                                is 0: no column is left

which is the same number: elsewhere e was exp(-inf) = 0, but in rows that are all masked, where l
was NaN and no weight read it.

It is done where 0 <= e <= 1, so that a product with undivided weights is no larger than the sum of
|v|; not in 16 bits, where that sum may be too large or is rounded once more; and where the result
has no more elements than the weights. Non-goals: other normalisations.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from gradc.ir.ops.attributes import get_ints, get_pairs
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.contraction import free_axes
from gradc.ir.ops.registry import (
    Reduction,
    has_own_numbers,
    is_product,
    is_sum,
    lookup,
    number_of,
)
from gradc.ir.ops.traits import Moves
from gradc.ir.tensor.core import Block, DType, Function, Op, Value
from gradc.passes.rewrite import with_control, with_ops
from gradc.passes.simplify.dce import dce


def divide_late(function: Function) -> Function:
    """``function`` with divisions of weights after their products; the same object if there are
    none.
    """
    live = dce(function)  # dead readers of weights would hide that only a product needs them
    block = divided(live.block)
    if block is live.block:
        return function
    return dce(with_ops(live, block.body, block.outputs))


def divided(block: Block) -> Block:
    """``block`` with divisions after the products, and what they replace still there; the same
    object if there are none.
    """
    search = _Search(block)
    ops: list[Op] = []
    for op in block.body:
        found = search.divided(op) if is_product(op) else None
        ops += found or [with_control(op, divided)]
    if all(a is b for a, b in zip(ops, block.body, strict=False)):
        return block
    return Block(block.parameters, (*ops, block.terminator))


class _Search:
    """What is known of the values of one block."""

    def __init__(self, block: Block) -> None:
        self.made = {v: op for op in block.body for v in op.results}
        self.readers: dict[Value, int] = {}
        for op in block.ops:
            for value in op.operands:
                self.readers[value] = self.readers.get(value, 0) + 1

    def divided(self, op: Op) -> list[Op] | None:
        """The ops that replace the product ``op``; None if its weights are not divided."""
        for side in (0, 1):
            found = self._divided(op, side)
            if found is not None:
                return found
        return None

    def _divided(self, op: Op, side: int) -> list[Op] | None:
        weights = op.operands[side]
        if weights.type.dtype not in (DType.F32, DType.F64):
            return None
        summed = tuple(sorted(pair[side] for pair in get_pairs(op.attributes, "contract")))
        places = _places(op, side)
        if not summed or places is None or _size(op.result) > _size(weights):
            return None
        mask, quotient = self._masked(weights)
        division = self._only(quotient, "div")
        if division is None:
            return None
        e, row = division.operands
        total = self._spread(row, summed, weights.type.rank)
        if total is None or not is_sum(total) or total.operands != (e,):
            return None
        shifted = self._shifted(e, summed)
        if shifted is None or (mask is not None and not self._is_mask_of(mask, shifted)):
            return None
        return _written(op, side, places, total, self.made[e], mask)

    def _only(self, value: Value, name: str) -> Op | None:
        """The op called ``name`` that makes ``value``, if nothing else reads that."""
        op = self.made.get(value)
        return op if op is not None and op.name == name and self.readers[value] == 1 else None

    def _masked(self, weights: Value) -> tuple[Value | None, Value]:
        """The mask of ``weights``, and what is left where it holds."""
        op = self._only(weights, "select")
        if op is None or self._number(op.operands[2]) != 0:
            return None, weights
        return op.operands[0], op.operands[1]

    def _number(self, value: Value) -> float | None:
        op = self.made.get(value)
        while op is not None and len(op.operands) == 1 and lookup(op.name).traits.moves:
            op = self.made.get(op.operands[0])
        return None if op is None else number_of(op)

    def _shifted(self, e: Value, summed: Sequence[int]) -> Value | None:
        """x, if ``e`` is exp(x - the greatest x along ``summed``)."""
        exp = self.made.get(e)
        sub = self.made.get(exp.operands[0]) if exp is not None and exp.name == "exp" else None
        if sub is None or sub.name != "sub":
            return None
        x, row = sub.operands
        most = self._spread(row, summed, x.type.rank)
        is_most = most is not None and lookup(most.name).loop == Reduction("max")
        return x if is_most and most is not None and most.operands == (x,) else None

    def _is_mask_of(self, mask: Value, x: Value) -> bool:
        """Whether ``x`` is -infinity where ``mask`` does not hold."""
        op = self.made.get(x)
        if op is None or op.name != "select" or self._number(op.operands[2]) != -inf:
            return False
        return self._is_same(op.operands[0], mask)

    def _is_same(self, a: Value, b: Value) -> bool:
        """Whether two values are one, or repeat one in the same way."""
        while a is not b:
            first, second = self.made.get(a), self.made.get(b)
            if first is None or second is None or not lookup(first.name).traits.moves:
                return False
            if (first.name, first.attributes) != (second.name, second.attributes):
                return False
            if len(first.operands) != 1 or len(second.operands) != 1:
                return False
            (a,), (b,) = first.operands, second.operands
        return True

    def _spread(self, row: Value, summed: Sequence[int], rank: int) -> Op | None:
        """The reduction along ``summed`` whose result ``row`` repeats there, each in its place."""
        chain: list[Op] = []
        op = self.made.get(row)
        while op is not None and not isinstance(lookup(op.name).loop, Reduction):
            is_repeat = lookup(op.name).traits.moves is Moves.REPEATS
            if len(op.operands) != 1 or not (is_repeat or has_own_numbers(op)):
                return None
            chain.append(op)
            op = self.made.get(op.operands[0])
        if op is None or tuple(sorted(get_ints(op.attributes, "axes"))) != tuple(summed):
            return None
        kept = [axis for axis in range(rank) if axis not in summed]
        for number, axis in enumerate(kept):
            if op.result.type.static_shape[number] != 1 and _end(chain, number) != axis:
                return None
        return op


def _end(chain: Sequence[Op], axis: int) -> int | None:
    """Where ``axis`` lies after the ops of ``chain``, the last first; None if it is taken apart."""
    for op in reversed(chain):
        rule = lookup(op.name).axes
        links = () if rule is None else rule.links(op)
        ends = [
            link.result.axis
            for link in links
            if link.operands[0] is not None
            and link.result is not None
            and (link.operands[0].axis, link.operands[0].outer, link.result.outer) == (axis, 1, 1)
            and link.size == op.operands[0].type.static_shape[axis]
            and link.size == op.result.type.static_shape[link.result.axis]
        ]
        if len(ends) != 1:
            return None
        (axis,) = ends
    return axis


def _places(op: Op, side: int) -> tuple[int, ...] | None:
    """Where the axes of an operand that are not summed lie in the result, if in the same order."""
    batch = get_pairs(op.attributes, "batch")
    own = [pair[side] for pair in batch]
    left = free_axes(op.attributes, 0, op.operands[0].type.rank)
    free = free_axes(op.attributes, side, op.operands[side].type.rank)
    first = len(batch) + (len(left) if side else 0)
    at = {axis: number for number, axis in enumerate(own)}
    at.update({axis: first + number for number, axis in enumerate(free)})
    places = tuple(at[axis] for axis in sorted(at))
    return places if list(places) == sorted(places) else None


def _size(value: Value) -> int:
    count = 1
    for extent in value.type.static_shape:
        count *= extent
    return count


def _written(
    op: Op, side: int, places: tuple[int, ...], total: Op, exp: Op, mask: Value | None
) -> list[Op]:
    """The product of the undivided weights that ``exp`` makes, and the division."""
    e = exp.result
    b = Builder()
    with b.at(total.span, total.scope, total.replica):
        row = total.result
        if mask is not None:
            least = b.constant(-inf, e.type.dtype, e.type.shape)
            e = b.same(exp, b.one("select", mask, exp.operands[0], least))
            row = b.same(total, e)
            nothing, one = (b.constant(x, row.type.dtype, row.type.shape) for x in (0.0, 1.0))
            row = b.one("select", b.one("eq", row, nothing), one, row)
    with b.at(op.span, op.scope, op.replica):
        operands = list(op.operands)
        operands[side] = e
        product = b.same(op, *operands)
        shape = op.result.type.shape
        below = b.one("broadcast", row, shape=shape, dims=places)
        b.append("div", (product, below), op.results, {}, ())
    return b.ops
