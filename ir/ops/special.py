"""``function1`` and ``function2``: the elementwise functions of ``ir/special/table.py``, named by
an attribute.

One op per arity stands for all of them, so a new function is a row of the table and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradc.ir.special.bessel
import gradc.ir.special.elementary
import gradc.ir.special.gamma  # noqa: F401  (they fill the table)
from gradc.ir.ops.attributes import get_int, get_str
from gradc.ir.ops.pointwise import elementwise, same_types
from gradc.ir.ops.registry import Partial, Sample, TypeRule, TypeRuleError
from gradc.ir.special.table import TABLE, Words, meaning_of
from gradc.ir.tensor.core import Attrs, DType, TensorType

_IT_DEPENDS = "it depends on the function, which an attribute names"
_EITHER = {"interval": _IT_DEPENDS, "linear": _IT_DEPENDS}


def _infer(name: str, arity: int) -> TypeRule:
    same = same_types(name, arity, "float")

    def infer(types: Sequence[TensorType], attributes: Attrs) -> tuple[TensorType, ...]:
        function = get_str(attributes, "function")
        row = TABLE.get(function)
        shown = " and ".join(str(t) for t in types)
        if row is None or len(row.slopes) != arity:
            raise TypeRuleError(f"{name}: no function of {arity} is called {function!r} ({shown})")
        if get_int(attributes, "order") < 0:
            raise TypeRuleError(f"{name}: the order of {function} is negative ({shown})")
        return same(types, attributes)

    return infer


def _meaning(k: Any, *operands: Any, function: str, order: int) -> Any:
    return meaning_of(k, function, *operands, order=order)


def _partial(position: int) -> Partial:
    def value(k: Any, y: Any, *operands: Any, function: str, order: int) -> Any:
        row = TABLE[function]
        slope = row.slopes[position]
        if slope is None:
            return k.const(0.0)
        words = Words(k)
        if row.ordered:
            return slope(words, y, *operands, order=order)
        return slope(words, y, *operands)

    return Partial(value)


def _samples(function: str, *ranges: tuple[float, float]) -> tuple[Sample, ...]:
    shapes: tuple[tuple[int, ...], ...] = ((2, 3), (), (0, 2))
    attributes: Attrs = {"function": function, "order": 0}
    return tuple(
        Sample((TensorType(shape, DType.F64),) * len(ranges), attributes, ranges)
        for shape in shapes
    )


elementwise(
    "function1",
    "the function of one operand that `function` names",
    _meaning,
    (_partial(0),),
    infer=_infer("function1", 1),
    samples=_samples("expit", (-2.0, 2.0)),
    without=_EITHER,
)
elementwise(
    "function2",
    "the function of two operands that `function` names",
    _meaning,
    (_partial(0), _partial(1)),
    infer=_infer("function2", 2),
    samples=_samples("xlogy", (-2.0, 2.0), (0.3, 2.0)),
    without=_EITHER,
)
