"""The sizes of convolutions: their attributes read and checked, and the type rules of the three
ops of ``convolution``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradc.ir.ops.attributes import get_dim, get_dims, get_pair, get_pairs
from gradc.ir.ops.registry import TypeRuleError
from gradc.ir.tensor.core import Attrs, TensorType
from gradc.ir.tensor.dims import Dim, floordiv


@dataclass(frozen=True, slots=True)
class Geometry:
    """Stride, dilation and low/high padding per spatial axis, and the number of groups."""

    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[tuple[int, int], ...]
    groups: int

    def output(self, axis: int, size: Dim, taps: Dim) -> Dim:
        """How many places a filter of ``taps`` has along an input of ``size``."""
        low, high = self.padding[axis]
        span = (taps - 1) * self.dilation[axis] + 1
        return floordiv(size + low + high - span, self.stride[axis]) + 1


def geometry(name: str, attributes: Attrs) -> Geometry:
    """Reads and checks the attributes that the three ops share. Raises TypeRuleError.

    While programs are checked ``groups`` may be a symbol: type rules read it as an attribute, here
    it counts as 1.
    """
    groups = get_dim(attributes, "groups")
    found = Geometry(
        get_pair(attributes, "stride"),
        get_pair(attributes, "dilation"),
        get_pairs(attributes, "padding"),
        groups if isinstance(groups, int) else 1,
    )
    if min(*found.stride, *found.dilation, found.groups) < 1:
        raise TypeRuleError(f"{name}: stride, dilation and groups must be positive")
    if len(found.padding) != 2 or any(min(pair) < 0 for pair in found.padding):
        raise TypeRuleError(f"{name}: padding must be two pairs that are not negative")
    return found


def _pair_types(name: str, types: Sequence[TensorType]) -> tuple[TensorType, TensorType]:
    if len(types) != 2:
        raise TypeRuleError(f"{name}: takes 2 operands, got {len(types)}")
    a, b = types
    if a.rank != 4 or b.rank != 4 or a.dtype is not b.dtype or not a.dtype.is_float:
        raise TypeRuleError(f"{name}: takes two floating arrays of 4 axes, not {a} and {b}")
    return a, b


def _check(name: str, holds: bool, what: str, a: TensorType, b: TensorType) -> None:
    if not holds:
        raise TypeRuleError(f"{name}: {what}, {a} and {b}")


def _is_divisible(size: Dim, by: Dim) -> bool:
    return not (isinstance(size, int) and isinstance(by, int)) or size % by == 0


def infer_conv2d(types: Sequence[TensorType], attributes: Attrs) -> tuple[TensorType, ...]:
    """The type rule of ``conv2d(x, w)``. Raises TypeRuleError."""
    x, w = _pair_types("conv2d", types)
    g, groups = geometry("conv2d", attributes), get_dim(attributes, "groups")
    _check("conv2d", x.shape[1] == w.shape[1] * groups, "channels differ", x, w)
    _check("conv2d", _is_divisible(w.shape[0], groups), "groups do not divide outputs", x, w)
    sizes = tuple(g.output(axis, x.shape[2 + axis], w.shape[2 + axis]) for axis in (0, 1))
    fits = all(not isinstance(size, int) or size >= 1 for size in sizes)
    _check("conv2d", fits, "the filter is larger than the padded input", x, w)
    return (x.with_shape((x.shape[0], w.shape[0], *sizes)),)


def infer_input(types: Sequence[TensorType], attributes: Attrs) -> tuple[TensorType, ...]:
    """The type rule of ``conv2d_input(ct, w)``. Raises TypeRuleError."""
    ct, w = _pair_types("conv2d_input", types)
    g, size = geometry("conv2d_input", attributes), get_dims(attributes, "size")
    _check("conv2d_input", len(size) == 2, "size must be (height, width)", ct, w)
    _check("conv2d_input", ct.shape[1] == w.shape[0], "channels differ", ct, w)
    for axis in (0, 1):
        fits = g.output(axis, size[axis], w.shape[2 + axis]) == ct.shape[2 + axis]
        _check("conv2d_input", fits, f"size {size[axis]} does not fit", ct, w)
    groups = get_dim(attributes, "groups")
    return (ct.with_shape((ct.shape[0], w.shape[1] * groups, *size)),)


def infer_filter(types: Sequence[TensorType], attributes: Attrs) -> tuple[TensorType, ...]:
    """The type rule of ``conv2d_filter(x, ct)``. Raises TypeRuleError."""
    x, ct = _pair_types("conv2d_filter", types)
    g, size = geometry("conv2d_filter", attributes), get_dims(attributes, "size")
    groups = get_dim(attributes, "groups")
    _check("conv2d_filter", len(size) == 2, "size must be (height, width)", x, ct)
    _check("conv2d_filter", x.shape[0] == ct.shape[0], "batch sizes differ", x, ct)
    _check("conv2d_filter", _is_divisible(x.shape[1], groups), "groups do not divide", x, ct)
    for axis in (0, 1):
        fits = g.output(axis, x.shape[2 + axis], size[axis]) == ct.shape[2 + axis]
        _check("conv2d_filter", fits, f"size {size[axis]} does not fit", x, ct)
    return (x.with_shape((ct.shape[1], floordiv(x.shape[1], groups), *size)),)
