"""The update of a parameter as one op: what a guarded step does with each parameter after its last
gradient.

A step of thousands of small parameters is mostly updates, all alike. Where every op of an update
works element by element, it is a ``fusion`` from the start, one kernel as it would become anyway,
and all parameters of a type share its region: passes look at it once.

What depends on the step number, the rate and other scalars alone stays outside, once for all
parameters of a type.

Non-goals: updates that reduce over their parameter, or that ranks share: these are written out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradc.ir.ops.builder import Builder
from gradc.ir.ops.inline import inline_function, inline_ops
from gradc.ir.ops.registry import ByIndex, Pointwise, lookup
from gradc.ir.tensor.core import Block, DType, Function, Op, Role, Slot, TensorType, Value
from gradc.ir.tensor.dims import Dim
from gradc.passes.simplify.cse import cse
from gradc.passes.simplify.dce import dce
from gradc.passes.simplify.simplify import simplify
from gradc.passes.training.precision import master_type

# Scalars beside those of an update: whether the step is finite, and of ``Limits``.
FINITE, LOSS_SCALE, FACTOR = "finite", "loss scale", "clip factor"
_ORDER = (Role.COTANGENT, Role.PARAM, Role.SLOT, Role.HYPER)


@dataclass(frozen=True, slots=True)
class Limits:
    """What is done with gradients before updates see them: divided by the scale of the loss, cut at
    ``value``, and multiplied by the factor that limits their norm.
    """

    loss_scale: Value | None
    value: float | None
    factor: Value | None

    def apply(self, b: Builder, ct: Value) -> Value:
        """``ct``, in the type of its master, within these limits."""
        ct = unscaled(b, ct, self.loss_scale)
        if self.value is not None:
            ct = by_value(b, ct, self.value)
        return ct if self.factor is None else scaled(b, ct, self.factor)

    @property
    def scalars(self) -> dict[str, Value]:
        """Those there are, by name."""
        pairs = ((LOSS_SCALE, self.loss_scale), (FACTOR, self.factor))
        return {name: value for name, value in pairs if value is not None}


def unscaled(b: Builder, ct: Value, loss_scale: Value | None) -> Value:
    """The gradient in the master type, divided by the scale (exactly, for powers of two)."""
    wide = b.cast(ct, master_type(ct.type).dtype)
    if loss_scale is None:
        return wide
    return scaled(b, wide, b.one("div", b.constant(1.0, DType.F32), loss_scale))


def by_value(b: Builder, ct: Value, limit: float) -> Value:
    """``ct`` between ``-limit`` and ``limit``."""
    high = b.constant(limit, ct.type.dtype, ct.type.shape)
    low = b.constant(-limit, ct.type.dtype, ct.type.shape)
    return b.one("max", b.one("min", ct, high), low)


def scaled(b: Builder, ct: Value, scale: Value) -> Value:
    """``ct`` times a scalar, which is rounded to its type."""
    factor = b.cast(scale, ct.type.dtype)
    if ct.type.rank:
        factor = b.one("broadcast", factor, shape=ct.type.shape, dims=())
    return b.one("mul", ct, factor)


def kept(b: Builder, finite: Value, new: Value, old: Value) -> Value:
    """``new``, or ``old`` where the step is skipped."""
    chosen = finite
    if new.type.rank:
        chosen = b.one("broadcast", finite, shape=new.type.shape, dims=())
    return b.one("select", chosen, new, old)


def zero(b: Builder, like: Value) -> Value:
    """Zeros of the type of ``like``."""
    return b.constant(0, like.type.dtype, like.type.shape)


@dataclass(frozen=True, slots=True)
class Outline:
    """An update behind its guard as one op. ``region`` takes whether the step is finite, gradient,
    parameter and slots, then ``shared``; it gives the new parameter and slots. ``first`` are the
    ops that make ``shared`` of ``scalars``, which are those of the update and of ``Limits``.
    """

    region: Block
    scalars: Mapping[str, Value]
    first: tuple[Op, ...]
    shared: tuple[Value, ...]

    def apply(self, b: Builder, own: Sequence[Value], shared: Sequence[Value]) -> Sequence[Value]:
        """The new parameter and slots of the parameter whose operands are ``own``."""
        return b.apply("fusion", (*own, *shared), {"kind": "rows"}, (self.region,))

    def compute_shared(self, b: Builder, given: Mapping[str, Value]) -> tuple[Value, ...]:
        """``shared``, made of scalars by name."""
        mapping = {value: given[name] for name, value in self.scalars.items()}
        inline_ops(b, self.first, mapping)
        return tuple(mapping[v] for v in self.shared)


def outline(
    update: Function, ct: TensorType, limits: Limits, fixed: Mapping[str, float]
) -> Outline | None:
    """``update`` of a gradient of type ``ct``, cut by ``limits``; None if it is not one kernel.
    ``fixed`` are the scalars that are known already.
    """
    whole = dce(cse(simplify(_guarded(update, ct, limits, fixed))))
    pairs = list(zip(whole.parameters, whole.block.parameters, strict=True))
    scalars = {s.name: v for s, v in pairs if s.role is Role.HYPER and s.name != FINITE}
    own = [v for s, v in pairs if s.name not in scalars]
    outside = dict.fromkeys(scalars.values())
    first, inside = list[Op](), list[Op]()
    for op in whole.block.body:
        is_scalar = not any(v.type.rank for v in op.results) and not op.regions
        if is_scalar and all(x in outside for x in op.operands):
            first.append(op)
            outside.update(dict.fromkeys(op.results))
        else:
            inside.append(op)
    if not all(_fits(op, own[1].type.shape) for op in inside):
        return None
    return _closed(whole.block, own, scalars, first, inside)


def _closed(
    block: Block,
    own: Sequence[Value],
    scalars: Mapping[str, Value],
    first: Sequence[Op],
    inside: Sequence[Op],
) -> Outline:
    """The outline of a block whose ops are ``first``, outside, and ``inside``."""
    outside = dict.fromkeys((*scalars.values(), *(v for op in first for v in op.results)))
    needed = (*(x for op in inside for x in op.operands), *block.outputs)
    read = dict.fromkeys(x for x in needed if x in outside)
    # A constant costs nothing where it is used.
    constants = {op.result: op for op in first if not op.operands}
    shared = tuple(v for v in read if v not in constants)
    body = (*(constants[v] for v in read if v in constants), *inside)
    region = Block((*own, *shared), (*body, Op("yield", block.outputs, ())))
    return Outline(region, scalars, tuple(first), shared)


def _fits(op: Op, shape: tuple[Dim, ...]) -> bool:
    """Whether ``op`` works element by element on values of ``shape``."""
    definition = lookup(op.name)
    if op.regions or any(v.type.shape != shape for v in op.results):
        return False
    if isinstance(definition.loop, Pointwise):
        return True
    is_moved = isinstance(definition.loop, ByIndex) and (definition.is_view or not op.operands)
    return is_moved and not any(x.type.rank for x in op.operands)


def _guarded(
    update: Function, ct: TensorType, limits: Limits, fixed: Mapping[str, float]
) -> Function:
    """``update`` behind a guard, its parameters in the order of ``_ORDER``."""
    b = Builder()
    slots = [Slot(FINITE, Role.HYPER)]
    finite = b.parameter(TensorType((), DType.BOOL), FINITE)
    pairs = zip(update.parameters, update.block.parameters, strict=True)
    given, olds, gradient = dict[str, Value](), list[Value](), ""
    for slot, value in sorted(pairs, key=lambda pair: _ORDER.index(pair[0].role)):
        if slot.role is Role.HYPER and slot.name in fixed:
            given[slot.name] = b.constant(fixed[slot.name], value.type.dtype)
            continue
        is_gradient = slot.role is Role.COTANGENT
        own = b.parameter(ct if is_gradient else value.type, slot.name)
        given[slot.name] = own
        slots.append(slot)
        if is_gradient:
            gradient = slot.name
        elif slot.role is not Role.HYPER:
            olds.append(own)
    inner = dict[str, Value]()
    for name, value in limits.scalars.items():
        if name in fixed:
            inner[name] = b.constant(fixed[name], value.type.dtype)
        else:
            inner[name] = b.parameter(value.type, name)
            slots.append(Slot(name, Role.HYPER))
    own_limits = Limits(inner.get(LOSS_SCALE), limits.value, inner.get(FACTOR))
    limited = own_limits.apply(b, given[gradient])
    given[gradient] = kept(b, finite, limited, zero(b, limited))
    made = inline_function(b, update, given)
    outputs = [kept(b, finite, new, old) for new, old in zip(made, olds, strict=True)]
    return b.function(update.name, outputs, slots, update.results)
