"""The verbs as ops: every verb of ``ir/tensor/algebra.py`` is an op of the same name, and so are
``cast``, ``select`` and ``stop_gradient``.

Conventions at kinks: ``max`` and ``min`` give each of two equal operands half of the cotangent;
``abs`` and ``sign`` have derivative 0 at 0. Formulas of derivatives: any table (Abramowitz and
Stegun 4.2-4.5, 7.1.19 for erf).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from gradc.ir.ops import elementwise_intervals as range_of
from gradc.ir.ops.attributes import get_dtype
from gradc.ir.ops.index import elementwise as elements
from gradc.ir.ops.index import readings
from gradc.ir.ops.index.element import ElementRule
from gradc.ir.ops.interval import IntervalRule, bounded, unrelated
from gradc.ir.ops.registry import (
    OpDef,
    Partial,
    Pointwise,
    Sample,
    TypeRuleError,
    register,
)
from gradc.ir.ops.traits import ALL, PLAIN, Traits
from gradc.ir.tensor.algebra import VERBS
from gradc.ir.tensor.core import Attrs, DType, Op, TensorType, Value

if TYPE_CHECKING:
    from gradc.ir.ops.builder import Builder

from gradc.ir.ops.pointwise import MINUS_ONE, ONE, ONE_BY_ONE, Accepts, Meaning, elementwise


def _verb(name: str) -> Meaning:
    """The meaning of the op called like a verb: that verb."""

    def meaning(k: Any, *operands: Any) -> Any:
        return getattr(k, name)(*operands)

    return meaning


def _smooth(
    name: str,
    doc: str,
    *partials: Callable[..., Any] | Partial,
    accepts: Accepts = "float",
    ranges: tuple[tuple[float, float], ...] | None = None,
    commutative: bool = False,
    masks: bool = False,
    traits: Traits = PLAIN,
    interval: IntervalRule | None = None,
    element: ElementRule | None = None,
    without: Mapping[str, str] | None = None,
) -> OpDef:
    wrapped = tuple(p if isinstance(p, Partial) else Partial(p) for p in partials)
    return elementwise(
        name,
        doc,
        _verb(name),
        wrapped,
        accepts=accepts,
        ranges=ranges,
        commutative=commutative,
        masks=masks,
        traits=traits,
        interval=interval,
        element=element,
        without=without,
    )


def _flat(
    name: str,
    doc: str,
    accepts: Accepts = "number",
    commutative: bool = False,
    interval: IntervalRule | None = unrelated,
    element: ElementRule | None = None,
) -> OpDef:
    """A verb whose derivative is zero wherever it has one."""
    verb = VERBS[name]
    result: Literal["same", "bool"] = "bool" if verb.result == "bool" else "same"
    partials = (None,) * verb.arity
    # Shift counts and divisors are drawn from small positive numbers.
    ranges: tuple[tuple[float, float], ...] | None
    ranges = ((-9.0, 9.0), (1.0, 9.0)) if accepts == "integer" and verb.arity == 2 else None
    if accepts == "u32":
        ranges = ((0.0, 4e9),) * verb.arity
    return elementwise(
        name,
        doc,
        _verb(name),
        partials,
        accepts=accepts,
        result=result,
        ranges=ranges,
        commutative=commutative,
        interval=interval,
        element=element,
    )


def _tie(name: str) -> tuple[Partial, Partial]:
    """Partials of max or min: 1 for the winner, 1/2 for each of two equals."""
    wins = {"max": "gt", "min": "lt"}[name]

    def share(k: Any, mine: Any, other: Any) -> Any:
        tied = k.select(k.eq(mine, other), k.const(0.5), k.const(0.0))
        return k.select(getattr(k, wins)(mine, other), k.const(1.0), tied)

    return (
        Partial(lambda k, y, a, b: share(k, a, b)),
        Partial(lambda k, y, a, b: share(k, b, a)),
    )


def _pow_base(k: Any, y: Any, x: Any, p: Any) -> Any:
    # p * x**(p-1), but 0 where p is 0: 0**0 is 1 in every direction of x.
    slope = k.mul(p, k.pow(x, k.sub(p, k.const(1.0))))
    return k.select(k.eq(p, k.const(0.0)), k.const(0.0), slope)


def _pow_exponent(k: Any, y: Any, x: Any, p: Any) -> Any:
    # y * log(x), whose limit at x = 0 is 0 for p > 0; p = 0 there is given 0 as well.
    at_zero = k.logical_and(k.eq(x, k.const(0.0)), k.ge(p, k.const(0.0)))
    safe = k.select(at_zero, k.const(1.0), x)
    return k.select(at_zero, k.const(0.0), k.mul(y, k.log(safe)))


_POSITIVE = (0.3, 2.0)
_ANY = (-2.0, 2.0)

_SUM = Traits(cost="cheap", linear=ALL)
_EITHER = ((0,), (1,))  # linear in one operand while the other is fixed

_smooth(
    "add",
    "a + b",
    ONE,
    ONE,
    accepts="number",
    commutative=True,
    traits=_SUM,
    interval=range_of.add,
    element=ElementRule(elements.add),
)
_smooth(
    "sub",
    "a - b",
    ONE,
    MINUS_ONE,
    accepts="number",
    traits=_SUM,
    interval=range_of.sub,
    element=ElementRule(elements.sub),
)
_smooth(
    "mul",
    "a * b",
    lambda k, y, a, b: b,
    lambda k, y, a, b: a,
    accepts="number",
    commutative=True,
    traits=Traits(cost="cheap", linear=_EITHER),
    interval=range_of.mul,
    element=ElementRule(elements.mul),
)
_smooth(
    "div",
    "a / b",
    lambda k, y, a, b: k.div(k.const(1.0), b),
    lambda k, y, a, b: k.neg(k.mul(y, k.div(k.const(1.0), b))),
    ranges=(_ANY, _POSITIVE),
    traits=Traits(linear=((0,),)),
    interval=range_of.div,
    element=ElementRule(elements.div),
)
_smooth(
    "pow",
    "a ** b as in C",
    _pow_base,
    _pow_exponent,
    ranges=(_POSITIVE, _ANY),
    interval=range_of.power,
)
for _name, _choose in (("max", max), ("min", min)):
    elementwise(
        _name,
        f"the {_name}imum of a and b; NaN if either is",
        _verb(_name),
        _tie(_name),
        accepts="number",
        commutative=True,
        masks=True,
        interval=range_of.extreme(_choose),
    )
# gate is linear in ct and in the partial; both of its own derivatives stay silent where ct is 0.
_smooth(
    "gate",
    "ct * partial, exactly 0 where ct is exactly 0",
    Partial(lambda k, y, ct, p: p, "gated"),
    Partial(lambda k, y, ct, p: ct, "gates"),
    ranges=(_POSITIVE, _ANY),
    masks=True,
    traits=Traits(linear=_EITHER),
    interval=range_of.gate,
    element=ElementRule(elements.mul),
)
_smooth(
    "fma",
    "a * b + c, rounded once",
    lambda k, y, a, b, c: b,
    lambda k, y, a, b, c: a,
    ONE,
    ranges=(_ANY, _ANY, _ANY),
    traits=Traits(linear=((0, 2), (1, 2))),
    interval=range_of.fma,
)
_smooth(
    "neg",
    "-x",
    MINUS_ONE,
    accepts="number",
    traits=_SUM,
    interval=range_of.neg,
    element=ElementRule(elements.neg),
)
_smooth(
    "abs",
    "|x|",
    lambda k, y, x: k.sign(x),
    accepts="number",
    ranges=((0.2, 2.0),),
    interval=range_of.magnitude,
)
_flat("sign", "-1, 0 or 1; NaN of NaN", interval=bounded(-1.0, 1.0))
_flat("floor", "the greatest integer not above x", accepts="float", interval=range_of.whole)
_flat("round", "the nearest integer, half to even", accepts="float", interval=range_of.whole)
_smooth(
    "sqrt",
    "square root",
    lambda k, y, x: k.div(k.const(0.5), y),
    ranges=(_POSITIVE,),
    interval=range_of.sqrt,
)
_smooth(
    "rsqrt",
    "1 / sqrt(x)",
    lambda k, y, x: k.mul(k.const(-0.5), k.mul(y, k.mul(y, y))),
    ranges=(_POSITIVE,),
    interval=range_of.rsqrt,
)
_smooth(
    "exp",
    "e ** x",
    lambda k, y, x: y,
    traits=Traits(slope="bends"),
    interval=range_of.exponential(0.0),
)
_smooth(
    "expm1",
    "e ** x - 1 without cancellation",
    lambda k, y, x: k.add(y, k.const(1.0)),
    interval=range_of.exponential(-1.0),
)
_smooth(
    "log",
    "natural logarithm",
    lambda k, y, x: k.div(k.const(1.0), x),
    ranges=(_POSITIVE,),
    interval=range_of.logarithm(0.0),
)
_smooth(
    "log1p",
    "log(1 + x) without cancellation",
    lambda k, y, x: k.div(k.const(1.0), k.add(k.const(1.0), x)),
    ranges=((-0.7, 2.0),),
    interval=range_of.logarithm(1.0),
)
_smooth("sin", "sine", lambda k, y, x: k.cos(x), interval=bounded(-1.0, 1.0, True))
_smooth("cos", "cosine", lambda k, y, x: k.neg(k.sin(x)), interval=bounded(-1.0, 1.0, True))
_smooth(
    "tan",
    "tangent",
    lambda k, y, x: k.add(k.const(1.0), k.mul(y, y)),
    ranges=((-1.2, 1.2),),
    without={"interval": "it has every value between two poles"},
)
_smooth(
    "tanh",
    "hyperbolic tangent",
    lambda k, y, x: k.sub(k.const(1.0), k.mul(y, y)),
    traits=Traits(slope="saturates"),
    interval=bounded(-1.0, 1.0),
)
_smooth(
    "erf",
    "2/sqrt(pi) times the integral of exp(-t**2) from 0 to x",
    lambda k, y, x: k.mul(k.const(2.0 / math.sqrt(math.pi)), k.exp(k.neg(k.mul(x, x)))),
    interval=bounded(-1.0, 1.0),
)
_flat("floordiv", "integer quotient toward minus infinity; 0 where b is 0", accepts="integer")
_flat("mod", "a - b * floordiv(a, b)", accepts="integer")
_flat("bitand", "bitwise and", accepts="integer", commutative=True)
_flat("bitor", "bitwise or", accepts="integer", commutative=True)
_flat("bitxor", "bitwise exclusive or", accepts="integer", commutative=True)
_flat("shl", "a * 2**b, modulo the width", accepts="integer")
_flat("shr", "a shifted right by b, arithmetically for signed types", accepts="integer")
_flat("mulhi", "the high 32 bits of the 64-bit product", accepts="u32", commutative=True)
_flat("eq", "a = b", accepts="any", commutative=True)
_flat("ne", "a differs from b", accepts="any", commutative=True)
_flat("lt", "a < b")
_flat("le", "a <= b")
_flat("gt", "a > b")
_flat("ge", "a >= b")
_flat(
    "logical_and",
    "both hold",
    accepts="bool",
    commutative=True,
    element=ElementRule(elements.mul),
)
_flat("logical_or", "at least one holds", accepts="bool", commutative=True)
_flat(
    "logical_not",
    "it does not hold",
    accepts="bool",
    element=ElementRule(elements.negation),
)


def _infer_select(types: Sequence[TensorType], _attributes: Attrs) -> tuple[TensorType, ...]:
    if len(types) != 3:
        raise TypeRuleError(f"select: takes 3 operands, got {len(types)}")
    condition, a, b = types
    if condition.dtype is not DType.BOOL:
        raise TypeRuleError(f"select: the condition must be bool, not {condition}")
    if a != b or condition.shape != a.shape:
        raise TypeRuleError(f"select: operand types differ, {condition}, {a} and {b}")
    return (a,)


def _select_samples() -> tuple[Sample, ...]:
    shapes: tuple[tuple[int, ...], ...] = ((2, 3), (), (0, 2))
    return tuple(
        Sample(
            (TensorType(s, DType.BOOL), TensorType(s, DType.F64), TensorType(s, DType.F64)),
            {},
            ((0.0, 1.0), _ANY, _ANY),
        )
        for s in shapes
    )


elementwise(
    "select",
    "a where the condition holds, else b",
    _verb("select"),
    (
        None,
        Partial(
            lambda k, y, c, a, b: k.select(c, k.const(1.0), k.const(0.0)),
            "mask",
            lambda k, y, c, a, b: c,
        ),
        Partial(
            lambda k, y, c, a, b: k.select(c, k.const(0.0), k.const(1.0)),
            "mask",
            lambda k, y, c, a, b: k.logical_not(c),
        ),
    ),
    infer=_infer_select,
    samples=_select_samples(),
    masks=True,
    traits=Traits(linear=((1, 2),)),
    interval=range_of.select,
    element=ElementRule(elements.select),
    formula=readings.select,
)


def _infer_cast(types: Sequence[TensorType], attributes: Attrs) -> tuple[TensorType, ...]:
    if len(types) != 1:
        raise TypeRuleError(f"cast: takes 1 operand, got {len(types)}")
    return (types[0].with_dtype(get_dtype(attributes)),)


def _cast_jvp(b: Builder, op: Op, tangents: Sequence[Value | None]) -> Sequence[Value | None]:
    (tangent,) = tangents
    to = op.result.type.dtype
    if tangent is None or not to.is_float:
        return (None,)
    return (b.one("cast", tangent, dtype=to),)


def _cast_vjp(
    b: Builder, op: Op, cts: Sequence[Value | None], needed: Sequence[bool]
) -> Sequence[Value | None]:
    (ct,) = cts
    origin = op.operands[0].type.dtype
    if ct is None or not needed[0] or not origin.is_float:
        return (None,)
    return (b.one("cast", ct, dtype=origin),)


register(
    OpDef(
        "cast",
        "the same numbers in another element type; float to integer truncates and saturates, NaN "
        "gives 0",
        _infer_cast,
        lambda arrays, op, operands: (arrays.cast(operands[0], op.result.type.dtype),),
        _cast_jvp,
        _cast_vjp,
        Pointwise(lambda k, x, dtype: k.cast(x, dtype)),
        (
            Sample((TensorType((2, 3), DType.F64),), {"dtype": DType.F64}, (_ANY,)),
            Sample((TensorType((2, 3), DType.F64),), {"dtype": DType.I32}, ((-9.0, 9.0),)),
            Sample((TensorType((3,), DType.I32),), {"dtype": DType.F64}, ((-9.0, 9.0),)),
        ),
        traits=Traits(
            linear=ALL,
            is_same_numbers=True,
            is_silent=True,
            stacked=lambda attributes, _n: attributes,
        ),
        interval=range_of.cast,
        element=ElementRule(elements.cast),
        formula=readings.cast,
        axes=ONE_BY_ONE,
    )
)

elementwise(
    "stop_gradient",
    "x, whose derivative counts as zero",
    lambda k, x: k.stop_gradient(x),
    (None,),
    accepts="any",
    is_barrier=True,
    traits=Traits(is_same_numbers=True, is_silent=True),
    interval=range_of.unchanged,
    formula=readings.same,
)
