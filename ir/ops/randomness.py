"""Counter-based random bits: Threefry-2x32 with 20 rounds, written in integer verbs.

Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3 (SC11); constants and test vectors from
Random123 (``kat_vectors``). Element i of ``random_bits(key) {stream}`` is the first word of
threefry(key, counter = (i, stream)): it depends on nothing but key, stream and position, so drawing again when
an op is recomputed, on another thread or on another machine gives the same bits. The stream is an attribute, or
a second operand u32[]: fusion makes it one, so that layers that differ in nothing else share their kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gradc.ir.attributes import get_dims, get_int
from gradc.ir.core import Attrs, DType, Op, TensorType
from gradc.ir.dims import product
from gradc.ir.loops import Affine, Scalar, row_major_offset
from gradc.ir.registry import (
    Access,
    OpDef,
    Read,
    Sample,
    TypeRuleError,
    register,
    zero_jvp,
    zero_vjp,
)

if TYPE_CHECKING:
    from gradc.ir.loopbuilder import IndexAlgebra

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
    if not types or types[0] != TensorType((2,), DType.U32) or len(types) > 2:
        raise TypeRuleError(f"random_bits: takes a key u32[2], not ({shown})")
    if len(types) == 2 and types[1] != TensorType((), DType.U32):
        raise TypeRuleError(f"random_bits: takes a stream u32[] after the key, not ({shown})")
    if len(types) == 2 and "stream" in attributes:
        raise TypeRuleError("random_bits: the stream is given twice")
    if len(types) == 1 and not 0 <= get_int(attributes, "stream") < _U32:
        raise TypeRuleError("random_bits: stream must be a u32")
    shape = get_dims(attributes, "shape")
    size = product(shape)
    if isinstance(size, int) and size > _U32:
        raise TypeRuleError(f"random_bits: {TensorType(shape, DType.U32)} is larger than a stream")
    return (TensorType(shape, DType.U32),)


def _evaluate(arrays: Any, op: Op, operands: Sequence[Any]) -> tuple[Any, ...]:
    shape = op.result.type.static_shape
    size = op.result.type.nbytes // op.result.type.dtype.itemsize
    k = arrays.at(DType.U32)
    position = arrays.reshape(arrays.iota(0, (size,), DType.U32), shape)
    key = (arrays.row(operands[0], 0), arrays.row(operands[0], 1))
    stream = operands[1] if len(operands) == 2 else k.const(get_int(op.attributes, "stream"))
    return (threefry2x32(k, key, (position, stream))[0],)


def _element(k: IndexAlgebra, op: Op, index: Sequence[Affine], read: Read) -> Scalar:
    position = k.number(row_major_offset(index, op.result.type.static_shape), DType.U32)
    key = (read(0, [Affine(0)]), read(0, [Affine(1)]))
    stream: Scalar
    if len(op.operands) == 2:
        stream = read(1, [])
    else:
        stream = k.const(get_int(op.attributes, "stream"), DType.U32)
    found: Scalar = threefry2x32(k, key, (position, stream))[0]
    return found


register(
    OpDef(
        "random_bits",
        "uniform u32, a function of key, stream and position only",
        _infer,
        _evaluate,
        zero_jvp,
        zero_vjp,
        Access(_element),
        (
            Sample((TensorType((2,), DType.U32),), {"stream": 7, "shape": (2, 3)}, ((0.0, 4e9),)),
            Sample((TensorType((2,), DType.U32),), {"stream": 0, "shape": ()}, ((0.0, 4e9),)),
            Sample(
                (TensorType((2,), DType.U32), TensorType((), DType.U32)),
                {"shape": (2, 3)},
                ((0.0, 4e9), (0.0, 4e9)),
            ),
        ),
    )
)
