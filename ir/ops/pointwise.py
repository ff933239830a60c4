"""The factory of elementwise ops: everything that follows from a scalar meaning and its partials.

An elementwise op states ``meaning(k, *operands, **attributes)`` and one ``Partial`` per operand,
both in the verbs of ``ir/tensor/algebra.py``. Type rule, evaluation, JVP, VJP and loop form follow
here. Operands have equal types: broadcasting is an op of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from gradc.ir.ops.axes import AxisRule, kept
from gradc.ir.ops.index.element import ElementRule
from gradc.ir.ops.index.formula import FormulaRule
from gradc.ir.ops.interval import IntervalRule
from gradc.ir.ops.registry import (
    OpDef,
    Partial,
    Pointwise,
    Sample,
    TypeRule,
    TypeRuleError,
    lookup,
    register,
    zero_jvp,
    zero_vjp,
)
from gradc.ir.ops.traits import PLAIN, Traits
from gradc.ir.tensor.core import Attr, Attrs, DType, Op, TensorType, Value

if TYPE_CHECKING:
    from gradc.ir.ops.builder import Builder

Meaning: TypeAlias = Callable[..., Any]
Accepts: TypeAlias = Literal["float", "number", "integer", "u32", "bool", "any"]

ONE = Partial(lambda k, y, *xs: k.const(1.0), "one")
MINUS_ONE = Partial(lambda k, y, *xs: k.const(-1.0), "minus_one")

ONE_BY_ONE = AxisRule(kept, "elements are combined one by one")
_ACCEPTED: Mapping[Accepts, str] = {
    "float": "a floating type",
    "number": "numbers",
    "integer": "integers",
    "u32": "u32",
    "bool": "bool",
    "any": "any type",
}


def accepts_dtype(accepts: Accepts, dtype: DType) -> bool:
    """Whether ``dtype`` is in the class of element types called ``accepts``."""
    if accepts == "any":
        return True
    if accepts == "float":
        return dtype.is_float
    if accepts == "bool":
        return dtype is DType.BOOL
    if accepts == "u32":
        return dtype is DType.U32
    if accepts == "integer":
        return not dtype.is_float and dtype is not DType.BOOL
    return dtype is not DType.BOOL


def same_types(
    name: str, arity: int, accepts: Accepts, result: Literal["same", "bool"] = "same"
) -> TypeRule:
    """The type rule of an elementwise op: ``arity`` operands of one accepted type."""

    def infer(types: Sequence[TensorType], attributes: Attrs) -> tuple[TensorType, ...]:
        if len(types) != arity:
            raise TypeRuleError(f"{name}: takes {arity} operands, got {len(types)}")
        first = types[0]
        for other in types[1:]:
            if other != first:
                raise TypeRuleError(f"{name}: operand types differ, {first} and {other}")
        if not accepts_dtype(accepts, first.dtype):
            shown = " and ".join(str(t) for t in types)
            raise TypeRuleError(f"{name}: takes {_ACCEPTED[accepts]}, not {shown}")
        return (first.with_dtype(DType.BOOL) if result == "bool" else first,)

    return infer


def elementwise(
    name: str,
    doc: str,
    meaning: Meaning,
    partials: tuple[Partial | None, ...],
    *,
    accepts: Accepts = "float",
    result: Literal["same", "bool"] = "same",
    ranges: tuple[tuple[float, float], ...] | None = None,
    attributes: Mapping[str, Attr] | None = None,
    infer: TypeRule | None = None,
    samples: tuple[Sample, ...] | None = None,
    commutative: bool = False,
    masks: bool = False,
    is_barrier: bool = False,
    traits: Traits = PLAIN,
    interval: IntervalRule | None = None,
    element: ElementRule | None = None,
    formula: FormulaRule | None = None,
    without: Mapping[str, str] | None = None,
) -> OpDef:
    """Registers an elementwise op; ``partials`` has one entry per operand, None for an identically
    zero one.
    """
    arity = len(partials)
    is_smooth = any(partial is not None for partial in partials)
    if samples is None:
        samples = default_samples(accepts, ranges or ((-2.0, 2.0),) * arity, attributes or {})

    def evaluate(arrays: Any, op: Op, operands: Sequence[Any]) -> tuple[Any, ...]:
        k = arrays.at(op.result.type.dtype)
        return (meaning(k, *operands, **op.attributes),)

    return register(
        OpDef(
            name,
            doc,
            infer or same_types(name, arity, accepts, result),
            evaluate,
            elementwise_jvp if is_smooth else zero_jvp,
            elementwise_vjp if is_smooth else zero_vjp,
            Pointwise(meaning),
            samples,
            commutative,
            masks,
            partials=partials,
            traits=traits,
            axes=ONE_BY_ONE,
            interval=interval,
            element=element,
            formula=formula,
            without=without or {},
            is_barrier=is_barrier,
        )
    )


def default_samples(
    accepts: Accepts, ranges: tuple[tuple[float, float], ...], attributes: Mapping[str, Attr]
) -> tuple[Sample, ...]:
    """A matrix, a scalar and an empty array of a type that ``accepts`` names."""
    dtypes = {"integer": DType.I32, "u32": DType.U32, "bool": DType.BOOL}
    dtype = dtypes.get(accepts, DType.F64)
    types = (TensorType((2, 3), dtype), TensorType((), dtype), TensorType((0, 2), dtype))
    return tuple(Sample((t,) * len(ranges), attributes, ranges) for t in types)


def elementwise_jvp(b: Builder, op: Op, tangents: Sequence[Value | None]) -> Sequence[Value | None]:
    """The sum over operands of partial times tangent; zero tangents contribute nothing."""
    total: Value | None = None
    for partial, tangent in zip(_partials(op), tangents, strict=True):
        if partial is None or tangent is None:
            continue
        term = apply_partial(b, op, partial, tangent, masked=False)
        total = term if total is None else b.one("add", total, term)
    return (total,)


def elementwise_vjp(
    b: Builder,
    op: Op,
    cts: Sequence[Value | None],
    needed: Sequence[bool],
    masked: bool = False,
) -> Sequence[Value | None]:
    """Per operand, partial times cotangent; with ``masked`` an exactly zero cotangent stays zero
    (``gate``).
    """
    (ct,) = cts
    if ct is None:
        return (None,) * len(op.operands)
    return tuple(
        apply_partial(b, op, partial, ct, masked) if wanted and partial is not None else None
        for partial, wanted in zip(_partials(op), needed, strict=True)
    )


def _partials(op: Op) -> tuple[Partial | None, ...]:
    partials = lookup(op.name).partials
    assert partials is not None, f"{op.name} is not elementwise"
    return partials


def apply_partial(b: Builder, op: Op, partial: Partial, ct: Value, masked: bool) -> Value:
    """``ct`` (or a tangent) times ``partial`` at ``op``, in as few ops as its kind allows."""
    if partial.kind == "one":
        return ct
    if partial.kind == "minus_one":
        return b.one("neg", ct)
    k = b.algebra(op.result.type)
    if partial.kind == "mask" and partial.condition is not None:
        condition = partial.condition(k, op.result, *op.operands, **op.attributes)
        return b.one("select", condition, ct, k.const(0.0))
    dtype = op.result.type.dtype
    if dtype in (DType.BF16, DType.F16) and _is_composite(b, op, partial):
        # As the op itself is computed: in f32, rounded once at the end.
        k = b.algebra(op.result.type.with_dtype(DType.F32))
        result, *operands = (
            k.cast(x, DType.F32) if x.type.dtype is dtype else x for x in (op.result, *op.operands)
        )
        value = k.cast(partial.value(k, result, *operands, **op.attributes), dtype)
    else:
        value = partial.value(k, op.result, *op.operands, **op.attributes)
    if partial.kind == "gates":
        return b.one("gate", value, ct)
    return b.one("gate" if masked or partial.kind == "gated" else "mul", ct, value)


def _is_composite(b: Builder, op: Op, partial: Partial) -> bool:
    """Whether a partial derivative takes several ops, each of which would round."""
    probe = type(b)()  # a builder of its own, thrown away
    partial.value(probe.algebra(op.result.type), op.result, *op.operands, **op.attributes)
    return len(probe.ops) > 1
