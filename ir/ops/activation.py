"""Activations: compositions of verbs that are ops of their own, because their derivatives reuse
their results.

Meanings are stable for every finite argument; derivatives are written in the result where that
saves work or digits. ``gelu`` is the exact form with erf (Hendrycks and Gimpel, 2016), not the tanh
approximation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gradc.ir.ops.attributes import get_number
from gradc.ir.ops.elementwise_intervals import rectified
from gradc.ir.ops.interval import INF, Bounds, Interval, above, bounded, hull, multiplied, point
from gradc.ir.ops.pointwise import elementwise, same_types
from gradc.ir.ops.registry import Partial, Sample, TypeRuleError
from gradc.ir.ops.traits import Traits
from gradc.ir.tensor.core import Attrs, DType, Op, TensorType

_BENDS = Traits(slope="bends")
_INV_SQRT_2 = 1.0 / math.sqrt(2.0)
_INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)


def _sigmoid(k: Any, x: Any) -> Any:
    # exp overflows to infinity for very negative x, and 1/inf is the right 0.
    one = k.const(1.0)
    return k.div(one, k.add(one, k.exp(k.neg(x))))


def _softplus(k: Any, x: Any) -> Any:
    return k.add(k.max(x, k.const(0.0)), k.log1p(k.exp(k.neg(k.abs(x)))))


def _normal_cdf(k: Any, x: Any) -> Any:
    return k.mul(k.const(0.5), k.add(k.const(1.0), k.erf(k.mul(x, k.const(_INV_SQRT_2)))))


def _gelu_slope(k: Any, y: Any, x: Any) -> Any:
    # exp(-u^2) of the argument u of erf: backends compute erf with the same exponential, so it is
    # free.
    u = k.mul(x, k.const(_INV_SQRT_2))
    density = k.mul(k.const(_INV_SQRT_2PI), k.exp(k.neg(k.mul(u, u))))
    return k.add(_normal_cdf(k, x), k.mul(x, density))


def _silu_slope(k: Any, y: Any, x: Any) -> Any:
    # s + x s (1 - s) with x s = y
    s = _sigmoid(k, x)
    return k.add(s, k.mul(y, k.sub(k.const(1.0), s)))


def _is_positive(k: Any, y: Any, x: Any) -> Any:
    return k.gt(y, k.const(0.0))


relu = elementwise(
    "relu",
    "max(x, 0); its derivative at 0 is 0",
    lambda k, x: k.max(x, k.const(0.0)),
    (
        Partial(
            lambda k, y, x: k.select(_is_positive(k, y, x), k.const(1.0), k.const(0.0)),
            "mask",
            _is_positive,
        ),
    ),
    ranges=((-2.0, 2.0),),
    masks=True,
    traits=replace(_BENDS, rectifies=True),
    interval=rectified,
)


def _infer_leaky_relu(types: Sequence[TensorType], attributes: Attrs) -> tuple[TensorType, ...]:
    if isinstance(get_number(attributes, "slope"), bool):
        raise TypeRuleError("leaky_relu: the slope must be a number, not a truth value")
    return same_types("leaky_relu", 1, "float")(types, attributes)


def _bent(bounds: Bounds, op: Op) -> Interval:
    """Whatever the sign of the slope, between x, slope * x and 0."""
    x = bounds.of(0)
    slope = point(float(get_number(op.attributes, "slope")))
    return x if x.low >= 0 else hull(x, hull(multiplied(x, slope), point(0.0)))


leaky_relu = elementwise(
    "leaky_relu",
    "x where positive, else slope * x; its derivative at 0 is slope",
    lambda k, x, slope: k.select(k.gt(x, k.const(0.0)), x, k.mul(k.const(slope), x)),
    (
        Partial(
            lambda k, y, x, slope: k.select(k.gt(x, k.const(0.0)), k.const(1.0), k.const(slope))
        ),
    ),
    infer=_infer_leaky_relu,
    samples=(
        Sample((TensorType((2, 3), DType.F64),), {"slope": 0.1}, ((-2.0, 2.0),)),
        Sample((TensorType((), DType.F64),), {"slope": 0.0}, ((0.2, 2.0),)),
    ),
    traits=_BENDS,
    interval=_bent,
)

sigmoid = elementwise(
    "sigmoid",
    "1 / (1 + exp(-x))",
    _sigmoid,
    (Partial(lambda k, y, x: k.mul(y, k.sub(k.const(1.0), y))),),
    traits=Traits(slope="saturates"),
    interval=bounded(0.0, 1.0),
)


def _softened(bounds: Bounds, _op: Op) -> Interval:
    """At most log 2 above max(x, 0)."""
    x = bounds.of(0)
    return Interval(0.0, max(x.high, 0.0) + 0.7, False, x.high == INF, x.faults)


softplus = elementwise(
    "softplus",
    "log(1 + exp(x))",
    _softplus,
    # sigmoid(x) = 1 - exp(-y)
    (Partial(lambda k, y, x: k.neg(k.expm1(k.neg(y)))),),
    traits=_BENDS,
    interval=_softened,
)

gelu = elementwise(
    "gelu",
    "x times the standard normal distribution function at x",
    lambda k, x: k.mul(x, _normal_cdf(k, x)),
    (Partial(_gelu_slope),),
    traits=_BENDS,
    interval=above(-0.17),
)

silu = elementwise(
    "silu",
    "x * sigmoid(x)",
    lambda k, x: k.mul(x, _sigmoid(k, x)),
    (Partial(_silu_slope),),
    traits=_BENDS,
    interval=above(-0.2785),
)
