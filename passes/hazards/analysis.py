"""The interval analysis behind ``hazards``: a transfer rule per op, refined by the conditions of
``select`` and ``gate``.

Every op is visited once in order; below a ``select`` or ``gate`` the guarded side is evaluated
again, up to a few ops deep, under what the condition says. Work is linear in the number of ops.

Non-goals: which faults matter (``hazards``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gradc.ir.tensor.core import Block, DType, Op, Value
from gradc.passes.hazards.interval import (
    ANY,
    INF,
    Interval,
    absolute,
    added,
    hull,
    mapped,
    multiplied,
    narrowed,
    negated,
    point,
    reciprocal,
    squared,
)

_DEPTH = 10
_EXTREMA = ("reduce_max", "reduce_min", "max_pool")
_MOST_CONDITIONS = 4
_LARGEST_EXPONENT: Final = {
    DType.F64: 709.78,
    DType.F32: 88.72,
    DType.BF16: 88.5,
    DType.F16: 11.08,
}
_VIEWS: Final = ("broadcast", "reshape", "transpose", "slice", "reverse", "stop_gradient", "cast")
_OPPOSITE: Final = {"gt": "le", "ge": "lt", "lt": "ge", "le": "gt", "eq": "ne", "ne": "eq"}
_SWAPPED: Final = {"gt": "lt", "ge": "le", "lt": "gt", "le": "ge", "eq": "eq", "ne": "ne"}


@dataclass(frozen=True, slots=True)
class Fault:
    """An op whose result may be infinite or NaN although its operands are finite, and how."""

    op: Op
    kind: str


@dataclass(frozen=True, slots=True)
class Env:
    """Conditions that hold (or do not) where a value is looked at, and how many ops deep they are
    still used.
    """

    conditions: tuple[tuple[Value, bool], ...] = ()
    left: int = 0

    def deeper(self) -> Env:
        """The same one op further back."""
        return Env(self.conditions, self.left - 1) if self.left > 1 else EVERYWHERE

    def under(self, *conditions: tuple[Value, bool]) -> Env:
        """With more conditions; the oldest are forgotten."""
        return Env((*self.conditions, *conditions)[-_MOST_CONDITIONS:], _DEPTH)


EVERYWHERE = Env()


class Analysis:
    """Intervals of the values of one function."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self._numbers: dict[tuple[Op, str], int] = {}
        self._makers: dict[Value, Op] = {}
        self._given: dict[Value, Interval] = {}
        self._known: dict[tuple[Value, Env], Interval] = {}

    def run(self, block: Block, operands: Sequence[Interval] = ()) -> None:
        """Visits ``block``, whose parameters may be anything finite unless ``operands`` says
        more.
        """
        for number, parameter in enumerate(block.parameters):
            self._given[parameter] = operands[number] if operands else ANY
        for op in block.body:
            self._makers.update(dict.fromkeys(op.results, op))
            for value in op.results:
                self.of(value)

    def of(self, value: Value, env: Env = EVERYWHERE) -> Interval:
        """The interval of ``value`` where ``env`` holds."""
        key = (value, env)
        found = self._known.get(key)
        if found is None:
            found = self._found(value, env)
            for condition, holds in env.conditions:
                found = self._refined(found, value, condition, holds)
            self._known[key] = found
        return found

    def _found(self, value: Value, env: Env) -> Interval:
        op = self._makers.get(value)
        if op is None:
            return self._given.get(value, ANY)
        if op.regions:
            return self._region(op, value)
        rule = _RULES.get(op.name)
        if rule is not None:
            return rule(self, op, env.deeper())
        operands = [self.of(v, env.deeper()) for v in op.operands]
        return ANY.with_faults(*(o.faults for o in operands))

    def maker(self, value: Value) -> Op | None:
        """The op that makes ``value``."""
        return self._makers.get(value)

    def fault(self, op: Op, kind: str) -> frozenset[int]:
        """A fault of ``op``, as a set of its number."""
        key = (op, kind)
        if key not in self._numbers:
            self._numbers[key] = len(self.faults)
            self.faults.append(Fault(op, kind))
        return frozenset([self._numbers[key]])

    def _region(self, op: Op, value: Value) -> Interval:
        """Region ops: the region once, with loop carries that may be anything finite."""
        place = op.results.index(value)
        if place:
            first = self._known.get((op.results[0], EVERYWHERE))
            if first is None:
                self.of(op.results[0])
        region = op.regions[0]
        if region.body and region.body[0].results[0] in self._makers:
            return self._region_result(op, place)
        operands = [self.of(v).clean() for v in op.operands]
        if op.name == "scan":
            carried = op.attributes["carried"]
            assert isinstance(carried, int)
            operands = [
                ANY if n < carried else replace(o, peak=frozenset()) for n, o in enumerate(operands)
            ]
        self.run(region, operands)
        return self._region_result(op, place)

    def _region_result(self, op: Op, place: int) -> Interval:
        incoming = frozenset[int]().union(*(self.of(v).faults for v in op.operands))
        outputs = op.regions[0].outputs
        found = self.of(outputs[place]) if place < len(outputs) else ANY
        if op.name == "scan":
            carried = op.attributes["carried"]
            assert isinstance(carried, int)
            inner = frozenset[int]().union(*(self.of(v).faults for v in outputs))
            found = (ANY if place < carried else replace(found, peak=frozenset())).with_faults(
                inner
            )
        return found.with_faults(incoming)

    # --- conditions

    def _refined(self, interval: Interval, value: Value, condition: Value, holds: bool) -> Interval:
        op = self._makers.get(condition)
        if op is None:
            return interval
        if op.name in _VIEWS:
            return self._refined(interval, value, op.operands[0], holds)
        if op.name == "logical_not":
            return self._refined(interval, value, op.operands[0], not holds)
        if (op.name == "logical_and" and holds) or (op.name == "logical_or" and not holds):
            for part in op.operands:
                interval = self._refined(interval, value, part, holds)
            return interval
        if op.name not in _OPPOSITE:
            return interval
        relation = op.name if holds else _OPPOSITE[op.name]
        left, right = op.operands
        if self.is_same(value, left):
            return self._compared(interval, relation, right)
        if self.is_same(value, right):
            return self._compared(interval, _SWAPPED[relation], left)
        return self._compared_through(interval, value, relation, left, right)

    def _compared_through(
        self, interval: Interval, value: Value, relation: str, left: Value, right: Value
    ) -> Interval:
        """``relu(x) > 0`` and ``abs(x) > 0`` also say something of x."""
        maker = self._makers.get(left)
        if maker is None or not self.is_same(value, maker.operands[0] if maker.operands else value):
            return interval
        bound = self.of(right)
        if maker.name == "relu" and relation == "gt" and bound.is_point and bound.low >= 0:
            return narrowed(interval, "gt", bound.low)
        return interval

    def is_same(self, value: Value, other: Value) -> bool:
        """Whether both are one number at every place, through broadcasts and equal constants."""
        return value is other or self._root(value) is self._root(other)

    def _root(self, value: Value) -> Value:
        op = self._makers.get(value)
        while op is not None and op.name in ("broadcast", "reshape", "stop_gradient"):
            value = op.operands[0]
            op = self._makers.get(value)
        return value

    def _compared(self, interval: Interval, relation: str, bound: Value) -> Interval:
        known = self.of(bound)
        if relation in ("gt", "ge") and known.low > -INF:
            exact = "ge" if relation == "ge" and not known.low_open else "gt"
            return narrowed(interval, exact, known.low)
        if relation in ("lt", "le") and known.high < INF:
            exact = "le" if relation == "le" and not known.high_open else "lt"
            return narrowed(interval, exact, known.high)
        if relation in ("ne", "eq") and known.is_point:
            if relation == "ne":
                return self._without(interval, known.low)
            return replace(point(known.low), faults=interval.faults)
        return interval

    def _without(self, interval: Interval, number: float) -> Interval:
        """``interval`` without one number; inside it, only a missing 0 is remembered."""
        if interval.low < number < interval.high and number == 0:
            return replace(interval, is_nonzero=True)
        return narrowed(interval, "ne", number)

    def guards(self, ct: Value, depth: int = 12) -> tuple[tuple[Value, bool], ...]:
        """Conditions that hold wherever ``ct`` is not exactly zero."""
        op = self._makers.get(ct)
        if op is None or depth == 0:
            return ()
        if op.name == "select":
            condition, a, b = op.operands
            if self._is_zero(b):
                return ((condition, True), *self.guards(a, depth - 1))
            if self._is_zero(a):
                return ((condition, False), *self.guards(b, depth - 1))
            return ()
        if op.name in ("mul", "gate", "neg", "broadcast", "reshape", "transpose", "cast"):
            parts = op.operands[:2] if op.name == "mul" else op.operands[:1]
            return tuple(g for part in parts for g in self.guards(part, depth - 1))
        return ()

    def _is_zero(self, value: Value) -> bool:
        op = self._makers.get(value)
        return op is not None and op.name == "constant" and op.attributes["value"] == 0

    def maximum_of(self, value: Value) -> Op | None:
        """The ``reduce_max`` that ``value`` is, through views and the guard of ``logsumexp``."""
        op = self._makers.get(value)
        while op is not None and op.name in (*_VIEWS, "select"):
            op = self._makers.get(op.operands[1 if op.name == "select" else 0])
        return op if op is not None and op.name in _EXTREMA else None


# --- transfer rules

_Rule = Callable[[Analysis, Op, Env], Interval]


def _constant(_a: Analysis, op: Op, _env: Env) -> Interval:
    value = op.attributes["value"]
    return point(float(value)) if isinstance(value, (int, float)) else ANY


def _iota(_a: Analysis, op: Op, _env: Env) -> Interval:
    axis = op.attributes["axis"]
    assert isinstance(axis, int)
    size = op.result.type.static_shape[axis]
    return Interval(0.0, float(max(size - 1, 0)), False, False)


def _same(a: Analysis, op: Op, env: Env) -> Interval:
    return replace(a.of(op.operands[0], env), peak=frozenset())


def _cast(a: Analysis, op: Op, env: Env) -> Interval:
    origin = op.operands[0].type.dtype
    if origin is DType.BOOL:
        return Interval(0.0, 1.0, False, False)
    return a.of(op.operands[0], env)


def _joined(a: Analysis, op: Op, env: Env) -> Interval:
    found = a.of(op.operands[0], env)
    for value in op.operands[1:]:
        found = hull(found, a.of(value, env))
    return replace(found, peak=frozenset())


def _with_zero(a: Analysis, op: Op, env: Env) -> Interval:
    return hull(_same(a, op, env), point(0.0))


def _add(a: Analysis, op: Op, env: Env) -> Interval:
    found = added(*(a.of(v, env) for v in op.operands))
    if found.low == 0 and _counts_winners(a, op.result):
        return replace(found, low=1.0, low_open=False)
    return found


def _sub(a: Analysis, op: Op, env: Env) -> Interval:
    left, right = op.operands
    found = added(a.of(left, env), negated(a.of(right, env)))
    top = a.maximum_of(right)
    if top is not None and top.name == "reduce_max" and a.is_same(top.operands[0], left):
        axes = top.attributes["axes"]
        assert isinstance(axes, tuple)
        peak = frozenset(axis for axis in axes if isinstance(axis, int))
        return Interval(found.low, 0.0, found.low_open, False, found.faults, peak)
    return found


def _mul(a: Analysis, op: Op, env: Env) -> Interval:
    left, right = op.operands
    if left is right:
        return squared(a.of(left, env))
    return multiplied(a.of(left, env), a.of(right, env))


def _gate(a: Analysis, op: Op, env: Env) -> Interval:
    ct, partial = op.operands
    inner = env.under(*a.guards(ct)) if a.guards(ct) else env
    return hull(multiplied(a.of(ct, env), a.of(partial, inner)), point(0.0))


def _select(a: Analysis, op: Op, env: Env) -> Interval:
    condition, first, second = op.operands
    return hull(
        a.of(first, env.under((condition, True))), a.of(second, env.under((condition, False)))
    )


def _div(a: Analysis, op: Op, env: Env) -> Interval:
    above, below = (a.of(v, env) for v in op.operands)
    if not op.result.type.dtype.is_float:
        return ANY
    if below.spans_zero:
        return ANY.with_faults(above.faults, below.faults, a.fault(op, "division"))
    return multiplied(above, reciprocal(below))


def _fma(a: Analysis, op: Op, env: Env) -> Interval:
    x, y, z = (a.of(v, env) for v in op.operands)
    return added(multiplied(x, y), z)


def _extreme(choose: Callable[[float, float], float]) -> _Rule:
    def rule(a: Analysis, op: Op, env: Env) -> Interval:
        x, y = (a.of(v, env) for v in op.operands)
        low, high = choose(x.low, y.low), choose(x.high, y.high)
        low_open = all(i.low_open for i in (x, y) if i.low == low)
        high_open = all(i.high_open for i in (x, y) if i.high == high)
        return Interval(low, high, low_open, high_open, x.faults | y.faults)

    return rule


def _sqrt(a: Analysis, op: Op, env: Env) -> Interval:
    x = a.of(op.operands[0], env)
    if x.has_negative:
        x = narrowed(x, "ge", 0.0).with_faults(a.fault(op, "negative"))
    return mapped(x, math.sqrt(x.low), math.sqrt(x.high), x.low_open, x.high_open)


def _rsqrt(a: Analysis, op: Op, env: Env) -> Interval:
    x = a.of(op.operands[0], env)
    if x.has_negative:
        x = narrowed(x, "ge", 0.0).with_faults(a.fault(op, "negative"))
    root = mapped(x, math.sqrt(x.low), math.sqrt(x.high), x.low_open, x.high_open)
    if root.has_zero:
        return ANY.with_faults(root.faults, a.fault(op, "division"))
    return reciprocal(root).with_faults(x.faults)


def _exp(a: Analysis, op: Op, env: Env) -> Interval:
    x = a.of(op.operands[0], env)
    limit = _LARGEST_EXPONENT.get(op.result.type.dtype, 88.0)
    faults = x.faults
    if x.high > limit:
        faults |= a.fault(op, "overflow")
        high, high_open = INF, False
    else:
        high, high_open = math.exp(x.high), x.high_open
    low = math.exp(x.low) if x.low > -limit else 0.0
    low_open = x.low_open if x.low > -limit else False
    if op.name == "expm1":
        low, high = low - 1, high - 1
    return Interval(low, high, low_open, high_open, faults, x.peak)


def _log(a: Analysis, op: Op, env: Env) -> Interval:
    x = a.of(op.operands[0], env)
    if op.name == "log1p":
        x = added(x, point(1.0))
    if x.has_zero or x.has_negative:
        x = narrowed(x, "ge", 0.0).with_faults(a.fault(op, "log"))
    low = math.log(x.low) if x.low > 0 else -INF
    high = INF if x.high == INF else math.log(x.high) if x.high > 0 else -INF
    return Interval(low, high, x.low_open, x.high_open, x.faults)


def _pow(a: Analysis, op: Op, env: Env) -> Interval:
    base, exponent = (a.of(v, env) for v in op.operands)
    faults = base.faults | exponent.faults
    is_whole = exponent.is_point and float(exponent.low).is_integer()
    if base.low < 0 and not is_whole:
        return ANY.with_faults(faults, a.fault(op, "power"))
    if base.has_zero and exponent.low < 0:
        return ANY.with_faults(faults, a.fault(op, "power"))
    if is_whole and exponent.low > 0:
        even = squared(base)
        return replace(even if exponent.low % 2 == 0 else base, faults=faults)
    return replace(Interval(0.0, INF, not base.has_zero, True), faults=faults)


def _bounded(low: float, high: float, keeps_faults: bool = False) -> _Rule:
    """A function whose values lie between two bounds, both attained by rounding."""

    def rule(a: Analysis, op: Op, env: Env) -> Interval:
        x = a.of(op.operands[0], env)
        faults = x.faults if keeps_faults else frozenset[int]()
        return Interval(low, high, False, high == INF, faults)

    return rule


def _sum(a: Analysis, op: Op, env: Env) -> Interval:
    x = a.of(op.operands[0], env)
    axes = op.attributes["axes"]
    assert isinstance(axes, tuple)
    count = float(
        math.prod(op.operands[0].type.static_shape[i] for i in axes if isinstance(i, int))
    )
    if count == 0:
        return point(0.0)
    low, high = _times(x.low, count), _times(x.high, count)
    low_open = x.low_open
    if x.low >= 0 and x.peak and x.peak <= frozenset(axes):
        low, low_open = max(low, x.high), False
    if _counts_winners(a, op.result):
        low, low_open = 1.0, False
    return Interval(low, high, low_open, x.high_open, x.faults)


def _counts_winners(a: Analysis, value: Value, depth: int = 64) -> bool:
    """Whether ``value`` counts the places where an extremum is attained: there is at least one."""
    op = a.maker(value)
    if op is None or depth == 0:
        return False
    if op.name == "add":
        return all(_counts_winners(a, v, depth - 1) for v in op.operands)
    if op.name in ("sum", *_VIEWS) and op.operands[0].type.dtype is not DType.BOOL:
        return _counts_winners(a, op.operands[0], depth - 1)
    compared = a.maker(op.operands[0]) if op.name == "cast" else None
    if compared is None or compared.name != "eq":
        return False
    return any(a.maximum_of(v) is not None for v in compared.operands)


def _times(x: float, count: float) -> float:
    return 0.0 if x == 0 else x * count


def _contract(a: Analysis, op: Op, env: Env) -> Interval:
    left, right = op.operands
    x, y = a.of(left, env), a.of(right, env)
    product = multiplied(x, y)
    if left is right:
        pairs = (op.attributes["batch"], op.attributes["contract"])
        if all(i == j for p in pairs if isinstance(p, tuple) for i, j in _pairs(p)):
            product = squared(x)
    if product.low >= 0:
        return Interval(_times(product.low, 1.0), INF, product.low_open, True, product.faults)
    return ANY.with_faults(product.faults)


def _pairs(attribute: tuple[object, ...]) -> list[tuple[object, object]]:
    return [(p[0], p[1]) for p in attribute if isinstance(p, tuple)]


def _running(a: Analysis, op: Op, env: Env) -> Interval:
    x = a.of(op.operands[-1], env)
    if x.low >= 0:
        return Interval(0.0, INF, False, True, x.faults)
    return ANY.with_faults(x.faults)


def _linear(a: Analysis, op: Op, env: Env) -> Interval:
    return ANY.with_faults(*(a.of(v, env).faults for v in op.operands))


def _silent(_a: Analysis, _op: Op, _env: Env) -> Interval:
    return ANY


def _floor(a: Analysis, op: Op, env: Env) -> Interval:
    x = a.of(op.operands[0], env)
    low = math.floor(x.low) if math.isfinite(x.low) else x.low
    high = math.ceil(x.high) if math.isfinite(x.high) else x.high
    return Interval(low, high, not math.isfinite(low), not math.isfinite(high), x.faults)


def _relu(a: Analysis, op: Op, env: Env) -> Interval:
    x = a.of(op.operands[0], env)
    if x.low > 0 or (x.low == 0 and x.low_open):
        return x
    return Interval(0.0, max(x.high, 0.0), False, x.high_open and x.high > 0, x.faults)


_RULES: Final[Mapping[str, _Rule]] = {
    "constant": _constant,
    "iota": _iota,
    "cast": _cast,
    **dict.fromkeys(("broadcast", "reshape", "transpose", "slice", "reverse"), _same),
    **dict.fromkeys(("reduce_max", "reduce_min", "max_pool"), _same),
    "stop_gradient": lambda a, op, env: a.of(op.operands[0], env),
    **dict.fromkeys(("pad", "avg_pool"), _with_zero),
    "take": _same,
    "concat": _joined,
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "gate": _gate,
    "select": _select,
    "div": _div,
    "fma": _fma,
    "neg": lambda a, op, env: negated(a.of(op.operands[0], env)),
    "abs": lambda a, op, env: absolute(a.of(op.operands[0], env)),
    "max": _extreme(max),
    "min": _extreme(min),
    "relu": _relu,
    "sqrt": _sqrt,
    "rsqrt": _rsqrt,
    "exp": _exp,
    "expm1": _exp,
    "log": _log,
    "log1p": _log,
    "pow": _pow,
    "floor": _floor,
    "round": _floor,
    **dict.fromkeys(("sin", "cos"), _bounded(-1.0, 1.0, keeps_faults=True)),
    **dict.fromkeys(("tanh", "erf", "sign"), _bounded(-1.0, 1.0)),
    "sigmoid": _bounded(0.0, 1.0),
    "softplus": _bounded(0.0, INF, keeps_faults=True),
    "sum": _sum,
    "contract": _contract,
    "cumsum": _running,
    "scatter_add": _running,
    **dict.fromkeys(("conv2d", "conv2d_input", "conv2d_filter", "gelu", "silu"), _linear),
    **dict.fromkeys(("leaky_relu", "prod", "tan", "fft"), _linear),
    **dict.fromkeys(("argmax", "argsort", "random_bits"), _silent),
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge"), _silent),
    **dict.fromkeys(("logical_and", "logical_or", "logical_not"), _silent),
}
