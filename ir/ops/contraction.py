"""``contract``: the batched matrix product, with any axes batched, contracted and free.

The result's axes are the batch axes, then the free axes of ``a``, then those of ``b``, each in
order. Sums of bf16 and f16 are accumulated in f32. Bilinear: both transposes are contractions
again, over the other operand's free axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gradc.ir.ops import stacks
from gradc.ir.ops.attributes import get_pairs
from gradc.ir.ops.axes import AxisRule, Link, Place, sizes
from gradc.ir.ops.index import readings
from gradc.ir.ops.index.contraction import contract, fit_contract
from gradc.ir.ops.index.element import ElementRule
from gradc.ir.ops.interval import Bounds, Interval, multiplied, squared, total
from gradc.ir.ops.needs import reads_origin
from gradc.ir.ops.registry import Contraction, OpDef, Sample, TypeRuleError, register
from gradc.ir.ops.structural import inverse
from gradc.ir.ops.traits import Traits
from gradc.ir.tensor.core import Attrs, DType, Op, TensorType, Value

if TYPE_CHECKING:
    from gradc.ir.ops.builder import Builder


def free_axes(op_attributes: Attrs, side: int, rank: int) -> tuple[int, ...]:
    """The axes of operand ``side`` (0 for a, 1 for b) that are neither batched nor contracted."""
    pairs = (*get_pairs(op_attributes, "batch"), *get_pairs(op_attributes, "contract"))
    used = {pair[side] for pair in pairs}
    return tuple(axis for axis in range(rank) if axis not in used)


def _infer(types: Sequence[TensorType], attributes: Attrs) -> tuple[TensorType, ...]:
    expected = 3 if reads_origin(attributes) else 2
    if len(types) != expected:
        raise TypeRuleError(f"contract: takes {expected} operands, got {len(types)}")
    a, b, *origin = types
    if any(x.dtype is not DType.I32 for x in origin):
        raise TypeRuleError(f"contract: positions count from i32, not from {origin[0]}")
    batch, contracted = get_pairs(attributes, "batch"), get_pairs(attributes, "contract")
    if a.dtype is not b.dtype or a.dtype is DType.BOOL:
        raise TypeRuleError(f"contract: element types do not multiply, {a} and {b}")
    for side, operand in enumerate((a, b)):
        axes = [pair[side] for pair in (*batch, *contracted)]
        if any(not 0 <= axis < operand.rank for axis in axes) or len(set(axes)) != len(axes):
            raise TypeRuleError(f"contract: axes {tuple(axes)} do not fit {operand}, {a} and {b}")
    for kind, pairs in (("batch", batch), ("inner", contracted)):
        for i, j in pairs:
            if a.shape[i] != b.shape[j]:
                raise TypeRuleError(f"contract: {kind} sizes differ, {a} and {b}")
    shape = (
        *(a.shape[i] for i, _ in batch),
        *(a.shape[i] for i in free_axes(attributes, 0, a.rank)),
        *(b.shape[j] for j in free_axes(attributes, 1, b.rank)),
    )
    return (TensorType(shape, a.dtype),)


def _ct_of(b: Builder, op: Op, ct: Value, side: int) -> Value:
    """The cotangent of operand ``side``: ct contracted with the other operand, axes put back in
    order.
    """
    other_side = 1 - side
    mine, other = op.operands[side], op.operands[other_side]
    batch, contracted = get_pairs(op.attributes, "batch"), get_pairs(op.attributes, "contract")
    my_free = free_axes(op.attributes, side, mine.type.rank)
    other_free = free_axes(op.attributes, other_side, other.type.rank)
    # Where the other operand's free axes lie in ct: after the batch axes, after a's free axes if it
    # is b.
    start = len(batch) + (len(my_free) if side == 0 else 0)
    ct_batch = tuple((n, pair[other_side]) for n, pair in enumerate(batch))
    ct_inner = tuple((start + n, axis) for n, axis in enumerate(other_free))
    order = [pair[side] for pair in batch]
    inner = sorted(contracted, key=lambda pair: pair[other_side])
    if side == 0:
        product = b.one("contract", ct, other, batch=ct_batch, contract=ct_inner)
        order += [*my_free, *(pair[side] for pair in inner)]
    else:
        flipped_batch = tuple((j, i) for i, j in ct_batch)
        flipped_inner = tuple((j, i) for i, j in ct_inner)
        product = b.one("contract", other, ct, batch=flipped_batch, contract=flipped_inner)
        order += [*(pair[side] for pair in inner), *my_free]
    if order == sorted(order):
        return product
    return b.one("transpose", product, perm=inverse(order))


def _vjp(
    b: Builder, op: Op, cts: Sequence[Value | None], needed: Sequence[bool]
) -> Sequence[Value | None]:
    (ct,) = cts
    if ct is None:
        return (None, None)
    return tuple(_ct_of(b, op, ct, side) if needed[side] else None for side in (0, 1))


def _links(op: Op) -> tuple[Link, ...]:
    """Batch axes and free axes go through; the sum is over the contracted ones."""
    batch, summed = get_pairs(op.attributes, "batch"), get_pairs(op.attributes, "contract")
    left, right = (sizes(x) for x in op.operands[:2])
    found = [Link(left[i], (Place(i), Place(j)), Place(n)) for n, (i, j) in enumerate(batch)]
    for i in free_axes(op.attributes, 0, len(left)):
        found.append(Link(left[i], (Place(i), None), Place(len(found))))
    for j in free_axes(op.attributes, 1, len(right)):
        found.append(Link(right[j], (None, Place(j)), Place(len(found))))
    return (*found, *(Link(left[i], (Place(i), Place(j)), None) for i, j in summed))


def bilinear_jvp(b: Builder, op: Op, tangents: Sequence[Value | None]) -> Sequence[Value | None]:
    """The product rule for an op of two operands that is linear in each."""
    left, right = op.operands
    terms: list[Value] = []
    if tangents[0] is not None:
        terms.append(b.same(op, tangents[0], right))
    if tangents[1] is not None:
        terms.append(b.same(op, left, tangents[1]))
    if not terms:
        return (None,)
    return (terms[0] if len(terms) == 1 else b.one("add", *terms),)


def _interval(bounds: Bounds, op: Op) -> Interval:
    """Sums of products: not negative where no product is, as for a product with itself."""
    left, right = op.operands
    terms = multiplied(bounds.of(0), bounds.of(1))
    pairs = (*get_pairs(op.attributes, "batch"), *get_pairs(op.attributes, "contract"))
    if left is right and all(i == j for i, j in pairs):
        terms = squared(bounds.of(0))
    return total(terms, _summed(op))


def _summed(op: Op) -> int:
    """How many products an element of the result is the sum of."""
    shape = op.operands[0].type.static_shape
    return math.prod(shape[i] for i, _ in get_pairs(op.attributes, "contract"))


def _multiplications(op: Op) -> int:
    """One per element of the result and of the axes summed over."""
    return math.prod(op.result.type.static_shape) * _summed(op)


def _sample(
    a: tuple[int, ...],
    b: tuple[int, ...],
    batch: tuple[tuple[int, int], ...],
    contract: tuple[tuple[int, int], ...],
) -> Sample:
    return Sample(
        (TensorType(a, DType.F64), TensorType(b, DType.F64)),
        {"batch": batch, "contract": contract},
        ((-2.0, 2.0), (-2.0, 2.0)),
    )


register(
    OpDef(
        "contract",
        "the sum over contracted axes of a times b, batch axes kept together",
        _infer,
        lambda arrays, op, operands: (
            arrays.contract(
                operands[0],
                operands[1],
                op.attributes["batch"],
                op.attributes["contract"],
                op.result.type.dtype,
            ),
        ),
        bilinear_jvp,
        _vjp,
        Contraction(),
        (
            _sample((2, 3), (3, 4), (), ((1, 0),)),
            _sample((3, 2), (4, 3), (), ((0, 1),)),
            _sample((2, 3, 4), (2, 4, 5), ((0, 0),), ((2, 1),)),
            _sample((4, 2, 3, 2), (2, 3, 5, 4), ((1, 0), (0, 3)), ((2, 1),)),
            _sample((2, 3, 4), (4, 5, 3), (), ((1, 2), (2, 0))),
            _sample((2,), (3,), (), ()),
            _sample((3,), (3,), (), ((0, 0),)),
            _sample((2, 0), (0, 3), (), ((1, 0),)),
        ),
        traits=Traits(
            linear=((0,), (1,)), work=_multiplications, is_layer=True, batched=stacks.contract
        ),
        interval=_interval,
        element=ElementRule(contract, fit_contract),
        formula=readings.contract,
        axes=AxisRule(_links, "they are multiplied with each other"),
    )
)
