"""JAX as an array domain: a program's own operations traced into JAX, compiled and differentiated
by it.

Used by ``gradc bench --against jax`` and by tests. ``scan`` becomes ``lax.scan``; common
activations, convolution and pooling are JAX's own functions.

Non-goals: ``truncate`` and ``custom`` pullbacks (JAX differentiates what was computed), random
bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gradc.ir.domains.arrays import Arrays, Pairs
from gradc.ir.ops.registry import lookup
from gradc.ir.tensor.core import Block, DType, Op

_DTYPES = {
    DType.F64: jnp.float64,
    DType.F32: jnp.float32,
    DType.BF16: jnp.bfloat16,
    DType.F16: jnp.float16,
    DType.I64: jnp.int64,
    DType.I32: jnp.int32,
    DType.U32: jnp.uint32,
    DType.BOOL: jnp.bool_,
}
_VERBS: dict[str, Callable[..., Any]] = {
    "add": jnp.add,
    "sub": jnp.subtract,
    "mul": jnp.multiply,
    "div": jnp.true_divide,
    "pow": jnp.power,
    "max": jnp.maximum,
    "min": jnp.minimum,
    "mod": jnp.mod,
    "floordiv": jnp.floor_divide,
    "fma": lambda a, b, c: a * b + c,
    "neg": jnp.negative,
    "rsqrt": lax.rsqrt,
    "erf": lax.erf,
    "round": jnp.rint,
    "eq": jnp.equal,
    "ne": jnp.not_equal,
    "lt": jnp.less,
    "le": jnp.less_equal,
    "gt": jnp.greater,
    "ge": jnp.greater_equal,
    "logical_and": jnp.logical_and,
    "logical_or": jnp.logical_or,
    "logical_not": jnp.logical_not,
    "select": jnp.where,
    "stop_gradient": lax.stop_gradient,
    **{
        name: getattr(jnp, name)
        for name in [
            "abs",
            "sign",
            "floor",
            "sqrt",
            "exp",
            "expm1",
            "log",
            "log1p",
            "sin",
            "cos",
            "tan",
            "tanh",
        ]
    },
}
_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "add": jnp.sum,
    "mul": jnp.prod,
    "max": jnp.max,
    "min": jnp.min,
}


class JaxArrays(Arrays):
    """Arrays of JAX, or tracers of them."""

    def verb(self, name: str, *operands: Any) -> Any:
        return _VERBS[name](*operands)

    def run(self, block: Block, operands: Sequence[Any]) -> tuple[Any, ...]:
        """Runs a block with JAX's own functions where it has one for an op."""
        known = dict(zip(block.parameters, operands, strict=True))
        for op in block.body:
            own = _OWN.get(op.name)
            values = [known[v] for v in op.operands]
            found = own(self, op, *values) if own else lookup(op.name).evaluate(self, op, values)
            known.update(zip(op.results, found, strict=True))
        return tuple(known[v] for v in block.outputs)

    def settle(self, x: Any, dtype: DType) -> Any:
        return x

    def cast(self, x: Any, dtype: DType) -> Any:
        return jnp.asarray(x).astype(_DTYPES[dtype])

    def full(self, value: float | bool, shape: Sequence[int], dtype: DType) -> Any:
        return jnp.full(tuple(shape), value, _DTYPES[dtype])

    def zeros_like(self, x: Any) -> Any:
        return jnp.zeros_like(x)

    def iota(self, axis: int, shape: Sequence[int], dtype: DType) -> Any:
        return lax.broadcasted_iota(_DTYPES[dtype], tuple(shape), axis)

    def integers(self, values: Sequence[int]) -> Any:
        return jnp.asarray(list(values), jnp.int32)

    def broadcast(self, x: Any, shape: Sequence[int], dims: Sequence[int]) -> Any:
        wanted = [1] * len(shape)
        for axis, size in zip(dims, x.shape, strict=True):
            wanted[axis] = size
        return jnp.broadcast_to(x.reshape(wanted), tuple(shape))

    def reshape(self, x: Any, shape: Sequence[int]) -> Any:
        return jnp.reshape(x, tuple(shape))

    def transpose(self, x: Any, perm: Sequence[int]) -> Any:
        return jnp.transpose(x, tuple(perm))

    def slice(
        self, x: Any, start: Sequence[int], limit: Sequence[int], stride: Sequence[int]
    ) -> Any:
        return lax.slice(x, tuple(start), tuple(limit), tuple(stride))

    def pad(self, x: Any, low: Sequence[int], high: Sequence[int], interior: Sequence[int]) -> Any:
        return lax.pad(x, jnp.zeros((), x.dtype), list(zip(low, high, interior, strict=True)))

    def concat(self, xs: Sequence[Any], axis: int) -> Any:
        return jnp.concatenate(list(xs), axis)

    def reverse(self, x: Any, axes: Sequence[int]) -> Any:
        return jnp.flip(x, tuple(axes))

    def reduce(self, verb: str, x: Any, axes: Sequence[int], dtype: DType) -> Any:
        return _REDUCTIONS[verb](x, axis=tuple(axes))

    def argmax(self, x: Any, axis: int) -> Any:
        return jnp.argmax(x, axis).astype(jnp.int32)

    def argsort(self, x: Any, axis: int) -> Any:
        return jnp.argsort(x, axis, stable=True).astype(jnp.int32)

    def cumsum(self, x: Any, axis: int, reverse: bool) -> Any:
        return lax.cumsum(x, axis, reverse)

    def contract(self, a: Any, b: Any, batch: Pairs, contract: Pairs, dtype: DType) -> Any:
        sides = [
            tuple(tuple(pair[side] for pair in pairs) for side in (0, 1))
            for pairs in (contract, batch)
        ]
        return lax.dot_general(a, b, (sides[0], sides[1]))

    def take(self, table: Any, ids: Any, axis: int, fill: float) -> Any:
        return jnp.take(table, ids, axis, mode="clip")

    def scatter_add(self, ids: Any, updates: Any, axis: int, size: int) -> Any:
        flat = updates.reshape((*updates.shape[:axis], -1, *updates.shape[axis + ids.ndim :]))
        shape = (*flat.shape[:axis], size, *flat.shape[axis + 1 :])
        place = (slice(None),) * axis + (ids.reshape(-1),)
        return jnp.zeros(shape, updates.dtype).at[place].add(flat, mode="drop")

    def row(self, x: Any, position: int) -> Any:
        return x[position]

    def stack(self, rows: Sequence[Any], shape: Sequence[int], dtype: DType) -> Any:
        return jnp.stack(list(rows)) if rows else jnp.zeros(tuple(shape), _DTYPES[dtype])


def _attribute(op: Op, name: str) -> Any:
    return op.attributes[name]


def _scan(arrays: JaxArrays, op: Op, *operands: Any) -> tuple[Any, ...]:
    carried, stacked, trips = (_attribute(op, n) for n in ("carried", "stacked", "trips"))
    constants = operands[carried + stacked :]

    def step(carries: Any, slices: Any) -> tuple[Any, Any]:
        found = arrays.run(op.regions[0], [*carries, *slices, *constants])
        return tuple(found[:carried]), tuple(found[carried:])

    carries, rows = lax.scan(
        step,
        tuple(operands[:carried]),
        tuple(operands[carried : carried + stacked]),
        length=trips,
        reverse=bool(_attribute(op, "reverse")),
    )
    return (*carries, *rows)


def _convolution(arrays: JaxArrays, op: Op, x: Any, w: Any) -> tuple[Any, ...]:
    found = lax.conv_general_dilated(
        x,
        w,
        _attribute(op, "stride"),
        _attribute(op, "padding"),
        rhs_dilation=_attribute(op, "dilation"),
        feature_group_count=_attribute(op, "groups"),
    )
    return (found,)


def _transposed(arrays: JaxArrays, op: Op, ct: Any, w: Any) -> tuple[Any, ...]:
    like = jax.ShapeDtypeStruct(op.result.type.static_shape, ct.dtype)
    return jax.linear_transpose(lambda x: _convolution(arrays, op, x, w)[0], like)(ct)  # type: ignore[no-any-return]


def _windows(op: Op, x: Any, start: float, combine: Callable[..., Any]) -> Any:
    size, stride = ((1, 1, *_attribute(op, n)) for n in ("size", "stride"))
    padding = ((0, 0), (0, 0), *_attribute(op, "padding"))
    return lax.reduce_window(x, start, combine, size, stride, padding)


def _avg_pool(arrays: JaxArrays, op: Op, x: Any) -> tuple[Any, ...]:
    height, width = _attribute(op, "size")
    return (_windows(op, x, 0.0, lax.add) / (height * width),)


_OWN: dict[str, Callable[..., tuple[Any, ...]]] = {
    "relu": lambda arrays, op, x: (jax.nn.relu(x),),
    "sigmoid": lambda arrays, op, x: (jax.nn.sigmoid(x),),
    "softplus": lambda arrays, op, x: (jax.nn.softplus(x),),
    "gelu": lambda arrays, op, x: (jax.nn.gelu(x, approximate=False),),
    "silu": lambda arrays, op, x: (jax.nn.silu(x),),
    "scan": _scan,
    **{f"conv{n}d": _convolution for n in (1, 2, 3)},
    **{f"conv{n}d_input": _transposed for n in (1, 2, 3)},
    "max_pool": lambda arrays, op, x: (_windows(op, x, -jnp.inf, lax.max),),
    "avg_pool": _avg_pool,
}
