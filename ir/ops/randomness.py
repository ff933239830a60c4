"""Counter-based random bits: Threefry-2x32 with 20 rounds, written in integer verbs.

Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3 (SC11); constants and test
vectors from Random123 (``kat_vectors``). Element i of ``random_bits(key) {stream}`` is the first
word of threefry(key, counter = (i, stream)): it depends on nothing but key, stream and position, so
drawing again when an op is recomputed, on another thread or on another machine gives the same bits.
The stream is an attribute, or a second operand u32[]: fusion makes it one, so that layers that
differ in nothing else share their kernels.

A part of a larger draw: with a key u32[3], whose last word numbers the part, ``{whole, axis}`` say
of what shape the draw is a part, cut along which axis; i is then the position in the whole. So a
batch cut into parts draws what it would have drawn in one. Without these attributes the third word
is not used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gradc.ir.loop.kernel import Affine, Scalar, row_major_offset
from gradc.ir.ops.attributes import get_dims, get_int
from gradc.ir.ops.axes import AxisRule, Link, invented, shortened, sizes
from gradc.ir.ops.interval import unrelated
from gradc.ir.ops.registry import (
    ByIndex,
    OpDef,
    Read,
    Sample,
    TypeRuleError,
    register,
    zero_jvp,
    zero_vjp,
)
from gradc.ir.ops.traits import Traits
from gradc.ir.tensor.core import Attrs, DType, Op, TensorType
from gradc.ir.tensor.dims import Dim, product

if TYPE_CHECKING:
    from gradc.ir.loop.builder import IndexAlgebra

_PARITY = 0x1BD11BDA
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_U32 = 1 << 32


def _rotate_left(k: Any, x: Any, by: int) -> Any:
    left = k.shl(x, k.const(by, DType.U32))
    return k.bitor(left, k.shr(x, k.const(32 - by, DType.U32)))


def threefry2x32(k: Any, key: tuple[Any, Any], counter: tuple[Any, Any]) -> tuple[Any, Any]:
    """The two output words of Threefry-2x32-20, over any algebra of u32."""
    parity = k.bitxor(k.const(_PARITY, DType.U32), k.bitxor(key[0], key[1]))
    schedule = (key[0], key[1], parity)
    x0, x1 = k.add(counter[0], key[0]), k.add(counter[1], key[1])
    for group in range(5):
        for by in _ROTATIONS[group % 2]:
            x0 = k.add(x0, x1)
            x1 = k.bitxor(_rotate_left(k, x1, by), x0)
        x0 = k.add(x0, schedule[(group + 1) % 3])
        injected = k.add(schedule[(group + 2) % 3], k.const(group + 1, DType.U32))
        x1 = k.add(x1, injected)
    return x0, x1


def _infer(types: Sequence[TensorType], attributes: Attrs) -> tuple[TensorType, ...]:
    shown = ", ".join(str(t) for t in types)
    keys = (TensorType((2,), DType.U32), TensorType((3,), DType.U32))
    if not types or types[0] not in keys or len(types) > 2:
        raise TypeRuleError(f"random_bits: takes a key u32[2] or u32[3], not ({shown})")
    if len(types) == 2 and types[1] != TensorType((), DType.U32):
        raise TypeRuleError(f"random_bits: takes a stream u32[] after the key, not ({shown})")
    if len(types) == 2 and "stream" in attributes:
        raise TypeRuleError("random_bits: the stream is given twice")
    if len(types) == 1 and not 0 <= get_int(attributes, "stream") < _U32:
        raise TypeRuleError("random_bits: stream must be a u32")
    shape = get_dims(attributes, "shape")
    size = product(shape)
    if "whole" in attributes or "axis" in attributes:
        size = product(_checked_whole(types[0], shape, attributes))
    if isinstance(size, int) and size > _U32:
        raise TypeRuleError(f"random_bits: {TensorType(shape, DType.U32)} is larger than a stream")
    return (TensorType(shape, DType.U32),)


def _checked_whole(key: TensorType, shape: Sequence[Dim], attributes: Attrs) -> tuple[Dim, ...]:
    """The shape of which ``shape`` is a part. Raises TypeRuleError if it cannot be."""
    whole, axis = get_dims(attributes, "whole"), get_int(attributes, "axis")
    if key.shape != (3,):
        raise TypeRuleError("random_bits: a part has its number in a key u32[3]")
    others = [(d, i) for i, d in enumerate(shape) if i != axis]
    if not 0 <= axis < len(shape) or others != [(d, i) for i, d in enumerate(whole) if i != axis]:
        raise TypeRuleError(f"random_bits: {shape} is not a part of {whole} along axis {axis}")
    return whole


def _whole(op: Op) -> tuple[tuple[int, ...], int]:
    """The shape in which positions count, and how many elements one part is further than the one
    before.
    """
    shape = op.result.type.static_shape
    if "whole" not in op.attributes:
        return shape, 0
    axis = get_int(op.attributes, "axis")
    whole = tuple(d for d in get_dims(op.attributes, "whole") if isinstance(d, int))
    return whole, shape[axis] * math.prod(whole[axis + 1 :])


def _evaluate(arrays: Any, op: Op, operands: Sequence[Any]) -> tuple[Any, ...]:
    shape = op.result.type.static_shape
    whole, further = _whole(op)
    k = arrays.at(DType.U32)
    key = (arrays.row(operands[0], 0), arrays.row(operands[0], 1))
    if not further:
        size = op.result.type.nbytes // op.result.type.dtype.itemsize
        position = arrays.reshape(arrays.iota(0, (size,), DType.U32), shape)
    else:
        position = k.mul(arrays.row(operands[0], 2), k.const(further, DType.U32))
        for axis in range(len(shape)):
            stride = k.const(math.prod(whole[axis + 1 :]), DType.U32)
            position = k.add(k.mul(arrays.iota(axis, shape, DType.U32), stride), position)
    stream = operands[1] if len(operands) == 2 else k.const(get_int(op.attributes, "stream"))
    return (threefry2x32(k, key, (position, stream))[0],)


def _element(k: IndexAlgebra, op: Op, index: Sequence[Affine], read: Read) -> Scalar:
    whole, further = _whole(op)
    position = k.number(row_major_offset(index, whole), DType.U32)
    if further:
        start = k.mul(read(0, [Affine(2)]), k.const(further, DType.U32))
        position = k.add(position, start)
    key = (read(0, [Affine(0)]), read(0, [Affine(1)]))
    stream: Scalar
    if len(op.operands) == 2:
        stream = read(1, [])
    else:
        stream = k.const(get_int(op.attributes, "stream"), DType.U32)
    found: Scalar = threefry2x32(k, key, (position, stream))[0]
    return found


def _links(op: Op) -> tuple[Link, ...]:
    """Every axis can be drawn in parts, once."""
    axes = () if "whole" in op.attributes else range(op.result.type.rank)
    return invented(op, axes, is_drawn=True)


def _part(op: Op, link: Link, parts: int) -> Attrs:
    assert link.result is not None, "every link of a draw is in the result"
    shorter = shortened("shape")(op, link, parts)
    return {**shorter, "whole": sizes(op.result), "axis": link.result.axis}


register(
    OpDef(
        "random_bits",
        "uniform u32, a function of key, stream and position only",
        _infer,
        _evaluate,
        zero_jvp,
        zero_vjp,
        ByIndex(_element),
        (
            Sample((TensorType((2,), DType.U32),), {"stream": 7, "shape": (2, 3)}, ((0.0, 4e9),)),
            Sample((TensorType((2,), DType.U32),), {"stream": 0, "shape": ()}, ((0.0, 4e9),)),
            Sample(
                (TensorType((2,), DType.U32), TensorType((), DType.U32)),
                {"shape": (2, 3)},
                ((0.0, 4e9), (0.0, 4e9)),
            ),
            Sample(
                (TensorType((3,), DType.U32),),
                {"stream": 3, "shape": (2, 2, 3), "whole": (2, 8, 3), "axis": 1},
                ((0.0, 3.0),),
            ),
        ),
        traits=Traits(draws=True),
        interval=unrelated,
        without={"element": "bits of a cipher are no polynomials"},
        axes=AxisRule(_links, "a draw depends on its position", _part),
    )
)
