"""The order of elements: ``argsort``, from which sorting, quantiles and the like are composed with
``take``.

Stable, NaN last (as NumPy has it), so the result is one permutation and no way of computing it
shows in a bit. It is constant almost everywhere: derivatives go through what is then taken by
number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gradc.ir.loop.kernel import Affine, Scalar
from gradc.ir.ops import stacks
from gradc.ir.ops.attributes import get_int
from gradc.ir.ops.axes import AxisRule, kept
from gradc.ir.ops.interval import unrelated
from gradc.ir.ops.registry import Nest, OpDef, TypeRuleError, register, zero_jvp, zero_vjp
from gradc.ir.ops.traits import Traits
from gradc.ir.ops.view import check_axes, one_operand, sample
from gradc.ir.tensor.core import Attrs, DType, Op, TensorType

if TYPE_CHECKING:
    from gradc.ir.loop.nest import NestContext

_RUN = 16  # elements that are put in order by counting, all pairs at once
_MOST = 2**31 - 1  # places are i32


def _infer_argsort(types: Sequence[TensorType], attributes: Attrs) -> tuple[TensorType, ...]:
    operand, axis = one_operand("argsort", types), get_int(attributes, "axis")
    check_axes("argsort", (axis,), operand)
    if operand.dtype is DType.BOOL:
        raise TypeRuleError(f"argsort: takes numbers, not {operand}")
    size = operand.shape[axis]
    if isinstance(size, int) and size > _MOST:
        raise TypeRuleError(f"argsort: places are i32, and axis {axis} of {operand} has more")
    return (TensorType(operand.shape, DType.I32),)


class _Line:
    """One line being put in order: keys and their places in two halves of scratch, from one of
    which the other is merged.

    The merge sort goes from the bottom up. Runs of ``_RUN`` come from counting, without branches;
    a merge takes the next element of two runs by selection, and keeps its two positions in memory.
    """

    def __init__(self, nest: NestContext, dtype: DType, size: int) -> None:
        self.nest, self.size, self.dtype = nest, size, dtype
        self.k = nest.algebra(DType.I64)
        # A position may be one behind the end, where nothing is.
        self.keys = nest.scratch(2 * size + 1, dtype)
        self.places = nest.scratch(2 * size + 1, DType.I32)
        self.state = nest.scratch(2, DType.I64)

    def before(self, a: Scalar, b: Scalar) -> Scalar:
        """Whether key ``a`` must stand before key ``b``."""
        k = self.k
        is_less = k.lt(a, b)
        if not self.dtype.is_float:
            return is_less
        return k.logical_or(is_less, k.logical_and(k.ne(b, b), k.eq(a, a)))

    def runs(self) -> None:
        """Puts runs of the first half in order, into the second."""
        nest, k, size = self.nest, self.k, self.size
        with nest.loop(-(-size // _RUN), "serial") as block:
            start = block.at * _RUN
            left = start * -1 + size
            with nest.loop(_RUN, "vector", left) as mine:
                key = nest.load(self.keys, start + mine.at)
                here = k.number(mine.at)
                with nest.loop(_RUN, "serial", left) as other:
                    rival = nest.load(self.keys, start + other.at)
                    is_tied = k.logical_not(
                        k.logical_or(self.before(rival, key), self.before(key, rival))
                    )
                    is_earlier = k.lt(k.number(other.at), here)
                    wins = k.logical_or(self.before(rival, key), k.logical_and(is_tied, is_earlier))
                    rank = other.fold("add", k.select(wins, k.const(1), k.const(0)))
                at = start + k.affine(rank) + size
                nest.store(self.keys, at, key)
                nest.store(self.places, at, k.number(start + mine.at, DType.I32))

    def merge(self) -> Affine:
        """Merges runs until there is one; gives where it begins."""
        nest, k, size = self.nest, self.k, self.size
        passes = (-(-size // _RUN) - 1).bit_length()
        with nest.loop(passes, "serial") as turn:
            _, is_odd = k.divmod(turn.at, 2)
            source, target = is_odd * -size + size, is_odd * size
            width = k.shl(k.const(_RUN), k.number(turn.at))
            both = k.mul(width, k.const(2))
            pairs = k.floordiv(k.add(both, k.const(size - 1)), both)
            with nest.loop(-(-size // (2 * _RUN)), "serial", k.affine(pairs)) as pair:
                first = k.mul(k.number(pair.at), both)
                middle = k.min(k.add(first, width), k.const(size))
                end = k.min(k.add(first, both), k.const(size))
                self._pair(k.affine(first), middle, end, source, target)
        return Affine(size if passes % 2 == 0 else 0)

    def _pair(
        self, first: Affine, middle: Scalar, end: Scalar, source: Affine, target: Affine
    ) -> None:
        nest, k = self.nest, self.k
        nest.store(self.state, Affine(0), k.number(first))
        nest.store(self.state, Affine(1), middle)
        with nest.loop(self.size, "serial", k.affine(end) + first * -1) as step:
            left, right = (nest.load(self.state, Affine(i)) for i in (0, 1))
            mine, other = (nest.load(self.keys, source + k.affine(x)) for x in (left, right))
            has_left, has_right = k.lt(left, middle), k.lt(right, end)
            is_next = k.logical_not(k.logical_and(has_right, self.before(other, mine)))
            takes_left = k.logical_and(has_left, is_next)
            taken = k.affine(k.select(takes_left, left, right))
            at = target + first + step.at
            place = nest.load(self.places, source + taken)
            nest.store(self.keys, at, k.select(takes_left, mine, other))
            nest.store(self.places, at, place)
            one = k.select(takes_left, k.const(1), k.const(0))
            nest.store(self.state, Affine(0), k.add(left, one))
            nest.store(self.state, Affine(1), k.add(right, k.sub(k.const(1), one)))


def _argsort_nest(nest: NestContext, op: Op) -> None:
    axis = get_int(op.attributes, "axis")
    shape, dtype = op.result.type.static_shape, op.operands[0].type.dtype
    size = shape[axis]
    with nest.parallel((*shape[:axis], *shape[axis + 1 :])) as outer:

        def index(i: Affine) -> list[Affine]:
            return [*outer[:axis], i, *outer[axis:]]

        line = _Line(nest, dtype, size)
        with nest.loop(size, "vector") as i:
            nest.store(line.keys, i.at, nest.read(0, index(i.at)))
        line.runs()
        start = line.merge()
        with nest.loop(size, "vector") as i:
            nest.write(index(i.at), nest.load(line.places, start + i.at))


register(
    OpDef(
        "argsort",
        "the places (i32) along `axis` in rising order; equals keep theirs, NaN comes last",
        _infer_argsort,
        lambda arrays, op, operands: (arrays.argsort(operands[0], op.attributes["axis"]),),
        zero_jvp,
        zero_vjp,
        Nest(_argsort_nest, lambda op: 0),
        (
            sample((2, 3), axis=1),
            sample((37,), axis=0),
            sample((2, 0), axis=1),
            sample((3, 1, 2), axis=0),
        ),
        traits=Traits(batched=stacks.along_axis),
        interval=unrelated,
        without={
            "element": "places in an order are no polynomials of elements",
            "symbols": "the order of symbols is not known",
        },
        axes=AxisRule(
            lambda op: kept(op, [get_int(op.attributes, "axis")]),
            "they are compared with each other",
        ),
    )
)
