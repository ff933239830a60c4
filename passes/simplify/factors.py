"""What a sum does not run over is applied to the sum, not to every term.

    sum(c * x) -> c * sum(x)        sum(-x) -> -sum(x)        sum(x + x) -> sum(x) + sum(x)

where c repeats along the summed axes. From-stage and to-stage: tensor, after ``differentiate``:
cotangents of what was repeated (a mean that was taken off, a bias before a scale) are sums of such
terms, and what is left under them is summed already, or can be together with what is: the reverse
sweep of a batch normalisation reads its input once less.

An op is taken out where its definition says that it is linear in what is summed alone. Terms and
factors of numbers meet one rounding each either way, in another order. Invariants: whether it is
done depends on the terms, never on who else reads them, so not on what a budget recomputes; not in
16 bits, where a sum without its factor may be too large, and not for factors that are numbers of
the program, by which somebody may have kept a sum in range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradc.ir.ops.attributes import get_ints
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import is_sum, lookup, number_of
from gradc.ir.ops.traits import ALL, Moves
from gradc.ir.tensor.core import Block, DType, Function, Op, Value
from gradc.passes.rewrite import each_once, with_ops, with_regions

_DEEP = 8  # ops that are taken out of one sum, and looked through for what repeats, at most


def take_out(function: Function) -> Function:
    """``function`` with factors after its sums; the same object if there are none."""
    block = _block(function.block)
    if block is function.block:
        return function
    return with_ops(function, block.body, block.outputs)


def _block(block: Block) -> Block:
    """``block`` with factors after its sums."""
    region = each_once(_block)
    search = _Search({v: op for op in block.body for v in op.results})
    found: list[Op] = []
    for op in block.body:
        found += (search.taken(op) if is_sum(op) else None) or [with_regions(op, region)]
    if len(found) == len(block.body) and all(map(lambda a, b: a is b, found, block.body)):
        return block
    return Block(block.parameters, (*found, block.terminator))


@dataclass(frozen=True)
class _Step:
    """An op that leaves a sum: ``places`` are its operands that are summed, all one value."""

    op: Op
    places: tuple[int, ...]

    @property
    def summed(self) -> Value:
        return self.op.operands[self.places[0]]


@dataclass(frozen=True)
class _Search:
    """What makes the values of one block."""

    made: dict[Value, Op]

    def taken(self, op: Op) -> list[Op] | None:
        """The ops that replace a sum; None if all it sums depends on where it stands."""
        value = op.operands[0]
        if value.type.dtype not in (DType.F32, DType.F64):
            return None
        axes = get_ints(op.attributes, "axes")
        steps: list[_Step] = []
        while len(steps) < _DEEP and (step := self._step(value, axes)) is not None:
            steps.append(step)
            value = step.summed
        return self._written(op, value, steps, axes) if steps else None

    def _step(self, value: Value, axes: Sequence[int]) -> _Step | None:
        op = self.made.get(value)
        if op is None or not lookup(op.name).is_elementwise:
            return None
        linear = lookup(op.name).traits.linear
        for places in (range(len(op.operands)),) if linear == ALL else linear:
            inner = {op.operands[n] for n in places}
            others = [x for n, x in enumerate(op.operands) if n not in places]
            fits = len(inner) == 1 and all(x.type == value.type for x in inner)
            if not fits or any(self._repeats(x, axes) for x in inner):
                continue
            if all(self._repeats(x, axes) and not self._is_number(x) for x in others):
                return _Step(op, tuple(places))
        return None

    def _is_number(self, value: Value) -> bool:
        op = self.made.get(value)
        while op is not None and lookup(op.name).traits.moves is Moves.REPEATS:
            op = self.made.get(op.operands[0])
        return op is not None and number_of(op) is not None

    def _repeats(self, value: Value, axes: Sequence[int], deep: int = _DEEP) -> bool:
        """Whether ``value`` is the same all along ``axes``, and is made from what says so."""
        op = self.made.get(value)
        if op is None or deep == 0:
            return False
        if lookup(op.name).traits.moves is Moves.REPEATS:
            shape = op.operands[0].type.static_shape
            places = zip(get_ints(op.attributes, "dims"), shape, strict=True)
            return all(size == 1 for axis, size in places if axis in axes)
        if number_of(op) is not None:
            return True
        is_plain = lookup(op.name).is_elementwise and len(op.results) == 1
        return is_plain and all(self._repeats(x, axes, deep - 1) for x in op.operands)

    def _written(
        self, op: Op, value: Value, steps: Sequence[_Step], axes: Sequence[int]
    ) -> list[Op]:
        b = Builder()
        with b.at(op.span, op.scope, op.replica):
            total = b.same(op, value)
        for step in reversed(steps):
            with b.at(step.op.span, step.op.scope, op.replica):
                operands = [
                    total if n in step.places else self._once(b, x, axes, op.result)
                    for n, x in enumerate(step.op.operands)
                ]
                if step is not steps[0]:
                    total = b.same(step.op, *operands)
                else:
                    b.append(step.op.name, operands, op.results, step.op.attributes, ())
        return b.ops

    def _once(self, b: Builder, value: Value, axes: Sequence[int], like: Value) -> Value:
        """``value``, which repeats along ``axes``, without them: of the shape of ``like``."""
        op = self.made[value]
        shape = like.type.static_shape
        number = number_of(op)
        if number is not None:
            return b.constant(number, value.type.dtype, shape)
        if lookup(op.name).traits.moves is not Moves.REPEATS:
            return b.same(op, *(self._once(b, x, axes, like) for x in op.operands))
        (source,) = op.operands
        dims = get_ints(op.attributes, "dims")
        kept = [axis for axis in range(value.type.rank) if axis not in axes]
        left = [n for n, axis in enumerate(dims) if axis in kept]
        if len(left) < len(dims):
            sizes = tuple(source.type.static_shape[n] for n in left)
            source = b.one("reshape", source, shape=sizes)
        if source.type.static_shape == shape:
            return source
        return b.one(
            "broadcast", source, shape=shape, dims=tuple(kept.index(dims[n]) for n in left)
        )
