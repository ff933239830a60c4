"""The sizes of convolutions: their attributes read and checked, and the type rules of the ops of
``convolution``, three for each number of spatial axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradc.ir.ops.attributes import get_dim, get_dims, get_ints, get_pairs
from gradc.ir.ops.registry import TypeRuleError
from gradc.ir.tensor.core import Attrs, TensorType
from gradc.ir.tensor.dims import Dim, floordiv


@dataclass(frozen=True, slots=True)
class Geometry:
    """Stride, dilation and low/high padding per spatial axis, and the number of groups."""

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    groups: int

    @property
    def axes(self) -> range:
        """The spatial axes, counted from the first of them."""
        return range(len(self.stride))

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
        get_ints(attributes, "stride"),
        get_ints(attributes, "dilation"),
        get_pairs(attributes, "padding"),
        groups if isinstance(groups, int) else 1,
    )
    if not len(found.stride) == len(found.dilation) == len(found.padding) > 0:
        raise TypeRuleError(f"{name}: stride, dilation and padding are one for each spatial axis")
    if min(*found.stride, *found.dilation, found.groups) < 1:
        raise TypeRuleError(f"{name}: stride, dilation and groups must be positive")
    if any(min(pair) < 0 for pair in found.padding):
        raise TypeRuleError(f"{name}: padding must not be negative")
    return found


def _read(
    name: str, spatial: int, types: Sequence[TensorType], attributes: Attrs
) -> tuple[TensorType, TensorType, Geometry]:
    """Both operands, of ``spatial`` axes besides two, and how windows move."""
    if len(types) != 2:
        raise TypeRuleError(f"{name}: takes 2 operands, got {len(types)}")
    a, b = types
    rank = 2 + spatial
    if a.rank != rank or b.rank != rank or a.dtype is not b.dtype or not a.dtype.is_float:
        raise TypeRuleError(f"{name}: takes two floating arrays of {rank} axes, not {a} and {b}")
    found = geometry(name, attributes)
    if len(found.stride) != spatial:
        raise TypeRuleError(f"{name}: has {spatial} spatial axes, and {len(found.stride)} strides")
    return a, b, found


def _check(name: str, holds: bool, what: str, a: TensorType, b: TensorType) -> None:
    if not holds:
        raise TypeRuleError(f"{name}: {what}, {a} and {b}")


def _is_divisible(size: Dim, by: Dim) -> bool:
    return not (isinstance(size, int) and isinstance(by, int)) or size % by == 0


def infer_convolution(
    name: str, spatial: int, types: Sequence[TensorType], attributes: Attrs
) -> tuple[TensorType, ...]:
    """The type rule of a convolution ``name(x, w)``. Raises TypeRuleError."""
    x, w, g = _read(name, spatial, types, attributes)
    groups = get_dim(attributes, "groups")
    _check(name, x.shape[1] == w.shape[1] * groups, "channels differ", x, w)
    _check(name, _is_divisible(w.shape[0], groups), "groups do not divide outputs", x, w)
    sizes = tuple(g.output(axis, x.shape[2 + axis], w.shape[2 + axis]) for axis in g.axes)
    fits = all(not isinstance(size, int) or size >= 1 for size in sizes)
    _check(name, fits, "the filter is larger than the padded input", x, w)
    return (x.with_shape((x.shape[0], w.shape[0], *sizes)),)


def infer_input(
    name: str, spatial: int, types: Sequence[TensorType], attributes: Attrs
) -> tuple[TensorType, ...]:
    """The type rule of the transpose in the image, ``name(ct, w)``. Raises TypeRuleError."""
    ct, w, g = _read(name, spatial, types, attributes)
    size = _size(name, g, attributes, ct, w)
    _check(name, ct.shape[1] == w.shape[0], "channels differ", ct, w)
    for axis in g.axes:
        fits = g.output(axis, size[axis], w.shape[2 + axis]) == ct.shape[2 + axis]
        _check(name, fits, f"size {size[axis]} does not fit", ct, w)
    groups = get_dim(attributes, "groups")
    return (ct.with_shape((ct.shape[0], w.shape[1] * groups, *size)),)


def infer_filter(
    name: str, spatial: int, types: Sequence[TensorType], attributes: Attrs
) -> tuple[TensorType, ...]:
    """The type rule of the transpose in the filter, ``name(x, ct)``. Raises TypeRuleError."""
    x, ct, g = _read(name, spatial, types, attributes)
    size, groups = _size(name, g, attributes, x, ct), get_dim(attributes, "groups")
    _check(name, x.shape[0] == ct.shape[0], "batch sizes differ", x, ct)
    _check(name, _is_divisible(x.shape[1], groups), "groups do not divide", x, ct)
    for axis in g.axes:
        fits = g.output(axis, x.shape[2 + axis], size[axis]) == ct.shape[2 + axis]
        _check(name, fits, f"size {size[axis]} does not fit", x, ct)
    return (x.with_shape((ct.shape[1], floordiv(x.shape[1], groups), *size)),)


def _size(
    name: str, g: Geometry, attributes: Attrs, a: TensorType, b: TensorType
) -> tuple[Dim, ...]:
    size = get_dims(attributes, "size")
    _check(name, len(size) == len(g.stride), "size is one for each spatial axis", a, b)
    return size
