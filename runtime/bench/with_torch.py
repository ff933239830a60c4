"""PyTorch as an array domain: a program's own operations run, and are differentiated, by PyTorch.

Used by ``gradc bench --against torch`` and by tests, which compare gradients that share nothing but
the meaning of the operations. Common activations, convolution and pooling are PyTorch's own
functions.

Non-goals: ``truncate`` and ``custom`` pullbacks (PyTorch differentiates what was computed), random
bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as fn

from gradc.ir.domains.arrays import Arrays, Pairs
from gradc.ir.ops.registry import lookup
from gradc.ir.tensor.core import Block, DType, Op

DTYPES = {
    DType.F64: torch.float64,
    DType.F32: torch.float32,
    DType.BF16: torch.bfloat16,
    DType.F16: torch.float16,
    DType.I64: torch.int64,
    DType.I32: torch.int32,
    DType.BOOL: torch.bool,
}
_SAME_NAME = [
    "neg",
    "abs",
    "sign",
    "floor",
    "round",
    "sqrt",
    "rsqrt",
    "exp",
    "expm1",
    "log",
    "log1p",
    "sin",
    "cos",
    "tan",
    "tanh",
    "erf",
]
_VERBS: dict[str, Callable[..., Any]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "pow": torch.pow,
    "max": torch.maximum,
    "min": torch.minimum,
    "mod": torch.remainder,
    "floordiv": lambda a, b: torch.div(a, b, rounding_mode="floor"),
    "fma": lambda a, b, c: a * b + c,
    "eq": torch.eq,
    "ne": torch.ne,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_not": torch.logical_not,
    "select": torch.where,
    "stop_gradient": torch.detach,
    **{name: getattr(torch, name) for name in _SAME_NAME},
}
_REDUCTIONS = {"max": torch.amax, "min": torch.amin, "add": torch.sum}


class TorchArrays(Arrays):
    """Dense tensors on the CPU."""

    def verb(self, name: str, *operands: Any) -> Any:
        return _VERBS[name](*operands)

    def run(self, block: Block, operands: Sequence[Any]) -> tuple[Any, ...]:
        """Runs a block with PyTorch's own functions where it has one for an op."""
        known = dict(zip(block.parameters, operands, strict=True))
        for op in block.body:
            own = _OWN.get(op.name)
            values = [known[v] for v in op.operands]
            found = own(op, *values) if own else lookup(op.name).evaluate(self, op, values)
            known.update(zip(op.results, found, strict=True))
        return tuple(known[v] for v in block.outputs)

    def settle(self, x: Any, dtype: DType) -> Any:
        return x

    def cast(self, x: Any, dtype: DType) -> Any:
        return x.to(DTYPES[dtype])

    def full(self, value: float | bool, shape: Sequence[int], dtype: DType) -> Any:
        return torch.full(tuple(shape), value, dtype=DTYPES[dtype])

    def zeros_like(self, x: Any) -> Any:
        return torch.zeros_like(x)

    def iota(self, axis: int, shape: Sequence[int], dtype: DType) -> Any:
        wanted = [1] * len(shape)
        wanted[axis] = shape[axis]
        line = torch.arange(shape[axis]).to(DTYPES[dtype]).reshape(wanted)
        return line.expand(tuple(shape))

    def integers(self, values: Sequence[int]) -> Any:
        return torch.tensor(list(values), dtype=torch.int64)

    def broadcast(self, x: Any, shape: Sequence[int], dims: Sequence[int]) -> Any:
        wanted = [1] * len(shape)
        for axis, size in zip(dims, x.shape, strict=True):
            wanted[axis] = size
        return x.reshape(wanted).expand(tuple(shape))

    def reshape(self, x: Any, shape: Sequence[int]) -> Any:
        return x.reshape(tuple(shape))

    def transpose(self, x: Any, perm: Sequence[int]) -> Any:
        return x.permute(tuple(perm))

    def slice(
        self, x: Any, start: Sequence[int], limit: Sequence[int], stride: Sequence[int]
    ) -> Any:
        rows = zip(start, limit, stride, strict=True)
        return x[tuple(slice(int(s), int(e), int(k)) for s, e, k in rows)]

    def pad(self, x: Any, low: Sequence[int], high: Sequence[int], interior: Sequence[int]) -> Any:
        rows = list(zip(x.shape, low, high, interior, strict=True))
        wide = [lo + hi + n + max(n - 1, 0) * gap for n, lo, hi, gap in rows]
        result = torch.zeros(wide, dtype=x.dtype)
        result[
            tuple(slice(lo, lo + max(n - 1, 0) * (g + 1) + (n > 0), g + 1) for n, lo, _, g in rows)
        ] = x
        return result

    def concat(self, xs: Sequence[Any], axis: int) -> Any:
        return torch.cat(list(xs), dim=axis)

    def reverse(self, x: Any, axes: Sequence[int]) -> Any:
        return torch.flip(x, tuple(axes))

    def reduce(self, verb: str, x: Any, axes: Sequence[int], dtype: DType) -> Any:
        if not axes:
            return x
        if verb != "mul":
            return _REDUCTIONS[verb](x, dim=tuple(axes))
        for axis in sorted(axes, reverse=True):
            x = torch.prod(x, dim=axis)
        return x

    def argmax(self, x: Any, axis: int) -> Any:
        return torch.argmax(x, dim=axis).to(torch.int32)

    def argsort(self, x: Any, axis: int) -> Any:
        return torch.argsort(x, dim=axis, stable=True).to(torch.int32)

    def cumsum(self, x: Any, axis: int, reverse: bool) -> Any:
        if reverse:
            return torch.flip(torch.cumsum(torch.flip(x, (axis,)), axis), (axis,))
        return torch.cumsum(x, axis)

    def contract(self, a: Any, b: Any, batch: Pairs, contract: Pairs, dtype: DType) -> Any:
        left = list(range(a.ndim))
        right = list(range(a.ndim, a.ndim + b.ndim))
        for i, j in (*batch, *contract):
            right[j] = left[i]
        summed = {i for i, _ in contract}
        front = [i for i, _ in batch]
        free_a = [i for i in left if i not in summed and i not in front]
        free_b = [n for n in right if n >= a.ndim]
        return torch.einsum(a, left, b, right, [*front, *free_a, *free_b])

    def take(self, table: Any, ids: Any, axis: int, fill: float) -> Any:
        picked = torch.index_select(table, axis, ids.reshape(-1).long())
        return picked.reshape((*table.shape[:axis], *ids.shape, *table.shape[axis + 1 :]))

    def scatter_add(self, ids: Any, updates: Any, axis: int, size: int) -> Any:
        flat = updates.reshape((*updates.shape[:axis], -1, *updates.shape[axis + ids.ndim :]))
        shape = (*flat.shape[:axis], size, *flat.shape[axis + 1 :])
        zeros = torch.zeros(shape, dtype=updates.dtype)
        return torch.index_add(zeros, axis, ids.reshape(-1).long(), flat)

    def row(self, x: Any, position: int) -> Any:
        return x[position]

    def stack(self, rows: Sequence[Any], shape: Sequence[int], dtype: DType) -> Any:
        if not rows:
            return torch.zeros(tuple(shape), dtype=DTYPES[dtype])
        return torch.stack([torch.as_tensor(row) for row in rows])


def _padded(op: Op, x: Any, fill: float = 0.0) -> Any:
    sides = [n for pair in reversed(_attribute(op, "padding")) for n in pair]
    return fn.pad(x, sides, value=fill) if any(sides) else x


def _attribute(op: Op, name: str) -> Any:
    return op.attributes[name]


def _convolution(op: Op, x: Any, w: Any) -> tuple[Any, ...]:
    stride, dilation, groups = (_attribute(op, n) for n in ("stride", "dilation", "groups"))
    return (getattr(fn, op.name)(_padded(op, x), w, None, stride, 0, dilation, groups),)


def _transposed(op: Op, ct: Any, w: Any) -> tuple[Any, ...]:
    """PyTorch pads both ends alike: whole results, of which the padding is cut off."""
    stride, dilation, groups = (_attribute(op, n) for n in ("stride", "dilation", "groups"))
    apply = getattr(fn, f"conv_transpose{w.ndim - 2}d")
    whole = apply(ct, w, None, stride, 0, 0, groups, dilation)
    for axis, (size, (low, _)) in enumerate(
        zip(op.result.type.static_shape[2:], _attribute(op, "padding"), strict=True), 2
    ):
        short = low + size - whole.shape[axis]
        if short > 0:  # places that no window meets
            whole = fn.pad(whole, [0, 0] * (whole.ndim - 1 - axis) + [0, short])
        whole = whole.narrow(axis, low, size)
    return (whole,)


def _max_pool(op: Op, x: Any) -> tuple[Any, ...]:
    wide = _padded(op, x, -torch.inf)
    return (fn.max_pool2d(wide, _attribute(op, "size"), _attribute(op, "stride")),)


def _avg_pool(op: Op, x: Any) -> tuple[Any, ...]:
    return (fn.avg_pool2d(_padded(op, x), _attribute(op, "size"), _attribute(op, "stride")),)


_OWN: dict[str, Callable[..., tuple[Any, ...]]] = {
    "relu": lambda op, x: (torch.relu(x),),
    "sigmoid": lambda op, x: (torch.sigmoid(x),),
    "softplus": lambda op, x: (fn.softplus(x),),
    "gelu": lambda op, x: (fn.gelu(x),),
    "silu": lambda op, x: (fn.silu(x),),
    **{f"conv{n}d": _convolution for n in (1, 2, 3)},
    **{f"conv{n}d_input": _transposed for n in (1, 2, 3)},
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
}
