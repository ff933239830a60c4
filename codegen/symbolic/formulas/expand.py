"""Reads tensor IR into the index algebra: the element of a value at given indices, in terms of
named values.

``Reader`` goes back from a value to the nearest values that have a name. What the algebra has no
words for (pooling, loops, gathers along odd axes, ...) is named itself, as an application of its
op, so a formula always comes out.

Assumptions are collected while reading: the standard library guards its logarithms and class ids,
and formulas are those where no guard is hit; sums over class ids presume ids in range.

Non-goals: simplification beyond canonical form (``index_fold``), notation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import count
from typing import Any, Final

from gradc.codegen.symbolic.formulas import terms as it
from gradc.codegen.symbolic.formulas.terms import Lookup, Poly, Subscript
from gradc.ir.ops.attributes import get_pairs
from gradc.ir.ops.registry import lookup
from gradc.ir.tensor.core import DType, Op, Value

_BUDGET = 1500
_MOST_TERMS = 48
_MOST_SIZE = 90
_FRESH = count(1)
_COMPARISONS: Final = ("eq", "ne", "lt", "le", "gt", "ge")
_LIBRARY: Final = "stdlib/"


def fresh_index() -> int:
    """An index that occurs nowhere yet."""
    return next(_FRESH)


class _Opaque(Exception):
    """The op at hand has no reading in the index algebra."""


@dataclass
class Reader:
    """Reads values defined by ``producers``; ``atoms`` are values that stand for themselves, with
    their names.
    """

    producers: Mapping[Value, Op]
    atoms: Mapping[Value, str]
    assumptions: dict[str, None] = field(default_factory=dict)
    opaque: dict[Value, str] = field(default_factory=dict)
    # Names that opaque values have, here and in other readers of the same program.
    known: dict[Value, str] = field(default_factory=dict)
    _left: int = _BUDGET
    _memo: dict[tuple[Value, tuple[Subscript, ...]], Poly] = field(default_factory=dict)

    def formula(self, value: Value, through: bool = False) -> tuple[tuple[int, ...], Poly]:
        """Fresh indices for the axes of ``value`` (0 for those of size 1) and its element there.

        With ``through`` the value's own name is looked through.
        """
        at = tuple(fresh_index() if n != 1 else it.UNIT for n in value.type.shape)
        if through and value in self.producers:
            return at, self._produced(value, at)
        return at, self.read(value, at)

    def read(self, value: Value, at: Sequence[Subscript]) -> Poly:
        """The element of ``value`` at ``at``."""
        place = tuple(i if n != 1 else it.UNIT for i, n in zip(at, value.type.shape, strict=True))
        name = self.atoms.get(value) or self.opaque.get(value)
        if name is not None:
            return it.single(it.Ref(name, place))
        key = (value, place)
        if key not in self._memo:
            self._memo[key] = self._produced(value, place)
        return self._memo[key]

    def _produced(self, value: Value, at: tuple[Subscript, ...]) -> Poly:
        op = self.producers.get(value)
        if op is None:
            return self._named(value, value.hint or "?", at)
        self._left -= 1
        try:
            if self._left < 0:
                raise _Opaque
            rule = _RULES.get(op.name)
            found = rule(self, op, at) if rule is not None else self._applied(op, at)
        except (_Opaque, ZeroDivisionError, OverflowError):
            return self._named(value, self._display(op), at)
        if len(found) > _MOST_TERMS or it.size_of(found) > _MOST_SIZE:
            return self._named(value, self._display(op), at)
        return found

    def _named(self, value: Value, name: str, at: tuple[Subscript, ...]) -> Poly:
        """``value`` under a name that nothing else has: what is called alike must be alike."""
        if value not in self.known:
            taken = {*self.atoms.values(), *self.known.values()}
            if name in taken:
                name = next(n for i in count(2) if (n := f"{name}#{i}") not in taken)
            self.known[value] = name
        self.opaque[value] = name = self.known[value]
        return it.single(it.Ref(name, at))

    def _applied(self, op: Op, at: tuple[Subscript, ...]) -> Poly:
        """An elementwise function without a rule of its own."""
        if not op.results[0].type.dtype.is_float or any(
            v.type.shape != op.results[0].type.shape for v in op.operands
        ):
            raise _Opaque
        if op.attributes or op.regions or not lookup(op.name).is_elementwise:
            raise _Opaque
        return it.single(it.Call(op.name, tuple(self.read(v, at) for v in op.operands)))

    def _display(self, op: Op) -> str:
        """An op applied to its operands, as a name."""
        shown: list[str] = []
        for value in op.operands:
            name = self.atoms.get(value) or self.opaque.get(value)
            if name is None and value in self.producers and len(shown) < 4:
                name = self._display(self.producers[value]) if self._left > 0 else "..."
                self._left -= 1
            shown.append((name or "...").replace("∂", "d"))
        if lookup(op.name).traits.is_silent and shown:
            return shown[0]
        if op.name == "constant":
            return f"{op.attributes['value']}"
        word = lookup(op.name).traits.word or op.name
        text = ", ".join(shown) if len(shown) < 5 else ", ".join([*shown[:4], "..."])
        found = f"{word}({text})"
        if len(found) < 60:
            return found
        known = [
            (self.atoms.get(v) or self.opaque.get(v) or "...").replace("∂", "d")
            for v in op.operands[:4]
        ]
        operands = ", ".join(n if len(n) < 20 else "..." for n in known)
        return f"{word}({operands})"

    def assume(self, text: str) -> None:
        """Notes what the formula presumes."""
        self.assumptions[text] = None

    # --- integers and conditions

    def index(self, value: Value, at: Sequence[Subscript]) -> Subscript | Fraction | None:
        """An integer value as an index, or the constant it is, or None."""
        place = tuple(i if n != 1 else it.UNIT for i, n in zip(at, value.type.shape, strict=True))
        op = self.producers.get(value)
        if value in self.atoms or op is None:
            return Lookup(self.atoms.get(value, value.hint or "?"), place)
        if op.name == "iota":
            axis = op.attributes["axis"]
            assert isinstance(axis, int)
            return place[axis]
        if op.name == "constant":
            number = op.attributes["value"]
            return Fraction(int(number)) if isinstance(number, (int, float)) else None
        if _is_moved(op):
            moved = _moved(op, place)
            return None if moved is None else self.index(op.operands[0], moved)
        if op.name in ("cast", "stop_gradient"):
            return self.index(op.operands[0], place)
        return None

    def condition(self, value: Value, at: tuple[Subscript, ...]) -> Poly:
        """A boolean value as an indicator."""
        op = self.producers.get(value)
        if value in self.atoms or op is None:
            return it.single(it.Ref(self.atoms.get(value, value.hint or "?"), at))
        if _is_moved(op):
            moved = _moved(op, at)
            if moved is None:
                raise _Opaque
            return self.condition(op.operands[0], moved)
        if op.name in ("logical_and", "logical_or", "logical_not"):
            parts = [self.condition(v, at) for v in op.operands]
            if op.name == "logical_not":
                return it.minus(it.ONE, parts[0])
            both = it.times(*parts)
            return both if op.name == "logical_and" else it.minus(it.plus(*parts), both)
        if op.name == "constant":
            return it.ONE if op.attributes["value"] else it.ZERO
        if op.name in _COMPARISONS:
            return self._comparison(op, at)
        raise _Opaque

    def truth(self, value: Value, at: tuple[Subscript, ...]) -> Poly:
        """``condition``, or a mask with a name of its own where the algebra has no words for it."""
        try:
            return self.condition(value, at)
        except _Opaque:
            return self._named(value, "keep" if self._is_drawn(value) else "mask", at)

    def _is_drawn(self, value: Value) -> bool:
        """Whether ``value`` comes from random bits."""
        op = self.producers.get(value)
        for _ in range(12):
            if op is None or not op.operands or op.name == "random_bits":
                break
            op = self.producers.get(op.operands[0])
        return op is not None and op.name == "random_bits"

    def _comparison(self, op: Op, at: tuple[Subscript, ...]) -> Poly:
        a, b = op.operands
        if not a.type.dtype.is_float:
            return self._comparison_of_indices(op, at)
        is_library = op.span is not None and op.span.file.startswith(_LIBRARY)
        right = self.read(b, at)
        if is_library and all(not t.factors or _is_infinite(t) for t in right):
            # A guard of the library: the formula is that of the side where nothing is clamped.
            return it.ZERO if op.name == "eq" else it.ONE
        rectified = self.producers.get(a)
        if op.name == "gt" and not right and rectified is not None and rectified.name == "relu":
            # relu(z) > 0 where z > 0; whichever of the two has a name is shown.
            inner = rectified.operands[0]
            a = inner if a not in self.atoms or inner in self.atoms else a
        return it.single(it.Cond(op.name, self.read(a, at), right))

    def _comparison_of_indices(self, op: Op, at: tuple[Subscript, ...]) -> Poly:
        a, b = (self.index(v, at) for v in op.operands)
        if a is None or b is None:
            raise _Opaque
        if isinstance(a, Fraction) or isinstance(b, Fraction):
            if op.name in ("ge", "lt", "gt", "le") and isinstance(a, Lookup):
                self.assume(f"the ids {a.name} lie in range")
                return it.ONE
            if isinstance(a, Fraction) and isinstance(b, Fraction):
                return it.ONE if _compares(op.name, a, b) else it.ZERO
            raise _Opaque
        if op.name == "eq":
            return it.delta(a, b)
        if op.name == "ne":
            return it.minus(it.ONE, it.delta(a, b))
        return it.single(
            it.Cond(op.name, it.single(it.IndexNumber(a)), it.single(it.IndexNumber(b)))
        )


def _compares(name: str, a: Fraction, b: Fraction) -> bool:
    return {"eq": a == b, "ne": a != b, "lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b}[name]


def _is_infinite(term: it.Monomial) -> bool:
    return len(term.factors) == 1 and term.factors[0][0] == it.Call("inf", ())


# --- rules: the element of an op's result at an index

_Rule = Callable[[Reader, Op, tuple[Subscript, ...]], Poly]


def _constant(reader: Reader, op: Op, _at: tuple[Subscript, ...]) -> Poly:
    return literal(op.attributes["value"], op.results[0].type.dtype)


def literal(value: Any, dtype: DType) -> Poly:
    """A program's constant: the short decimal or fraction that it rounds, if there is one."""
    number = float(value)
    if math.isnan(number):
        return it.single(it.Call("nan", ()))
    if math.isinf(number):
        return it.scaled(it.single(it.Call("inf", ())), 1 if number > 0 else -1)
    short = Fraction(number).limit_denominator(1000)
    if float(short) == number or (number and abs(float(short) / number - 1) < 1e-15):
        return it.number(short)
    return it.number(Fraction(repr(number)))


def _is_moved(op: Op) -> bool:
    """Whether an element of ``op`` is one of its operand's, at a place that formulas can name."""
    definition = lookup(op.name)
    return definition.is_view and definition.traits.is_silent and bool(op.operands)


def _moved(op: Op, at: Sequence[Subscript]) -> tuple[Subscript, ...] | None:
    """Where an element of a view lies in its operand; None for a reshape that mixes axes."""
    shape = op.operands[0].type.static_shape
    if op.name == "broadcast":
        dims = op.attributes["dims"]
        assert isinstance(dims, tuple)
        places = [at[d] for d in dims if isinstance(d, int)]
        return tuple(i if n != 1 else it.UNIT for i, n in zip(places, shape, strict=True))
    if op.name == "transpose":
        perm = op.attributes["perm"]
        assert isinstance(perm, tuple)
        back: list[Subscript] = [it.UNIT] * len(shape)
        for place, axis in zip(at, perm, strict=True):
            assert isinstance(axis, int)
            back[axis] = place
        return tuple(back)
    result = op.results[0].type.static_shape
    if [n for n in shape if n != 1] != [n for n in result if n != 1]:
        return None
    wide = iter([i for i, n in zip(at, result, strict=True) if n != 1])
    return tuple(it.UNIT if n == 1 else next(wide) for n in shape)


def _view(reader: Reader, op: Op, at: tuple[Subscript, ...]) -> Poly:
    moved = _moved(op, at)
    if moved is None:
        raise _Opaque
    return reader.read(op.operands[0], moved)


def _sum(reader: Reader, op: Op, at: tuple[Subscript, ...]) -> Poly:
    axes, shape = op.attributes["axes"], op.operands[0].type.static_shape
    assert isinstance(axes, tuple)
    kept = iter(at)
    place = [
        (fresh_index() if n != 1 else it.UNIT) if axis in axes else next(kept)
        for axis, n in enumerate(shape)
    ]
    found = reader.read(op.operands[0], place)
    return _summed(found, [(place[a], shape[a]) for a in axes if isinstance(a, int)])


def _summed(poly: Poly, over: Sequence[tuple[Subscript, int]]) -> Poly:
    for index, size in over:
        if index != it.UNIT:
            assert isinstance(index, int)
            poly = it.total(poly, index, size)
    return poly


def _contract(reader: Reader, op: Op, at: tuple[Subscript, ...]) -> Poly:
    a, b = op.operands
    places: list[dict[int, Subscript]] = [{}, {}]
    bound: list[tuple[Subscript, int]] = []
    shape = a.type.static_shape
    result = iter(at)
    for i, j in get_pairs(op.attributes, "batch"):
        places[0][i] = places[1][j] = next(result)
    for i, j in get_pairs(op.attributes, "contract"):
        index = fresh_index() if shape[i] != 1 else it.UNIT
        places[0][i] = places[1][j] = index
        bound.append((index, shape[i]))
    for side, value in enumerate((a, b)):
        for axis in range(value.type.rank):
            if axis not in places[side]:
                places[side][axis] = next(result)
    factors = [
        reader.read(v, [places[side][axis] for axis in range(v.type.rank)])
        for side, v in enumerate((a, b))
    ]
    return _summed(it.times(*factors), bound)


def _select(reader: Reader, op: Op, at: tuple[Subscript, ...]) -> Poly:
    condition, a, b = op.operands
    for branch, other in ((a, b), (b, a)):
        made = reader.producers.get(branch)
        if made is not None and made.name == "constant":
            value = made.attributes["value"]
            if isinstance(value, float) and math.isnan(value):
                reader.condition(condition, at)
                return reader.read(other, at)
    holds = reader.truth(condition, at)
    if holds == it.ONE:
        return reader.read(a, at)
    if holds == it.ZERO:
        return reader.read(b, at)
    first, second = reader.read(a, at), reader.read(b, at)
    return it.plus(it.times(holds, first), it.times(it.minus(it.ONE, holds), second))


def _cast(reader: Reader, op: Op, at: tuple[Subscript, ...]) -> Poly:
    origin = op.operands[0].type.dtype
    if origin.is_float:
        return reader.read(op.operands[0], at)
    if origin is DType.BOOL:
        return reader.condition(op.operands[0], at)
    index = reader.index(op.operands[0], at)
    if index is None:
        raise _Opaque
    return it.number(index) if isinstance(index, Fraction) else it.single(it.IndexNumber(index))


def _take(reader: Reader, op: Op, at: tuple[Subscript, ...]) -> Poly:
    table, ids = op.operands
    axis = op.attributes["axis"]
    assert isinstance(axis, int)
    index = reader.index(ids, at[axis : axis + ids.type.rank])
    if index is None or isinstance(index, Fraction):
        raise _Opaque
    reader.assume(f"the ids {_name(index)} lie in range")
    return reader.read(table, (*at[:axis], index, *at[axis + ids.type.rank :]))


def _scatter(reader: Reader, op: Op, at: tuple[Subscript, ...]) -> Poly:
    ids, updates = op.operands
    axis = op.attributes["axis"]
    assert isinstance(axis, int)
    shape = ids.type.static_shape
    over = [fresh_index() if n != 1 else it.UNIT for n in shape]
    index = reader.index(ids, over)
    if index is None or isinstance(index, Fraction):
        raise _Opaque
    update = reader.read(updates, (*at[:axis], *over, *at[axis + 1 :]))
    body = it.times(it.delta(index, at[axis]), update)
    return _summed(body, list(zip(over, shape, strict=True)))


def _name(index: Subscript) -> str:
    return index.name if isinstance(index, Lookup) else "used as indices"


def _pow(reader: Reader, op: Op, at: tuple[Subscript, ...]) -> Poly:
    base, exponent = (reader.read(v, at) for v in op.operands)
    if len(exponent) == 1 and not exponent[0].factors:
        return it.power(base, exponent[0].coefficient)
    return it.single(it.Call("pow", (base, exponent)))


def exponential(poly: Poly) -> Poly:
    """e to the ``poly``: a product over its terms, so that constant shifts cancel."""
    factors = []
    for term in poly:
        base, exponent = term, Fraction(1)
        if term.coefficient.denominator == 1 and term.factors:
            base, exponent = it.Monomial(Fraction(1), term.factors), term.coefficient
        head = term.factors[0][0] if len(term.factors) == 1 else None
        if isinstance(head, it.Call) and head.name == "log" and term.factors[0][1] == 1:
            factors.append(it.power(head.arguments[0], exponent))
        elif isinstance(head, it.Call) and head.name == "softplus" and term.factors[0][1] == 1:
            grown = it.plus(it.ONE, exponential(head.arguments[0]))
            factors.append(it.power(grown, exponent))
        else:
            factors.append(it.single(it.Call("exp", ((base,),)), exponent))
    return it.times(it.ONE, *factors)


def _exp(reader: Reader, op: Op, at: tuple[Subscript, ...]) -> Poly:
    return exponential(reader.read(op.operands[0], at))


def _arithmetic(combine: Callable[..., Poly]) -> _Rule:
    def rule(reader: Reader, op: Op, at: tuple[Subscript, ...]) -> Poly:
        if not op.results[0].type.dtype.is_float:
            raise _Opaque
        return combine(*(reader.read(v, at) for v in op.operands))

    return rule


def _logarithm(poly: Poly) -> Poly:
    """The logarithm; of a product with exponentials and their sums it is taken factor by factor."""
    if len(poly) != 1 or poly[0].coefficient != 1:
        return it.single(it.Call("log", (poly,)))
    factors = poly[0].factors
    if len(factors) == 1 and factors[0][1] == 1 and not _is_exponential(factors[0][0]):
        return it.single(it.Call("log", (poly,)))
    if not all(_is_exponential(b) or _is_sum_of_exponentials(b) for b, _ in factors):
        return it.single(it.Call("log", (poly,)))
    parts = []
    for base, exponent in factors:
        if isinstance(base, it.Call) and base.name == "exp":
            parts.append(it.scaled(base.arguments[0], exponent))
        else:
            parts.append(it.scaled(it.single(it.Call("log", (it.single(base),))), exponent))
    return it.plus(*parts)


def _is_exponential(base: it.Base) -> bool:
    return isinstance(base, it.Call) and base.name == "exp"


def _is_sum_of_exponentials(base: it.Base) -> bool:
    return isinstance(base, it.Sigma) and all(_is_exponential(b) for b, _ in base.factors)


def _divided(a: Poly, b: Poly) -> Poly:
    return it.times(a, it.power(b, -1))


_RULES: Final[Mapping[str, _Rule]] = {
    "constant": _constant,
    "broadcast": _view,
    "reshape": _view,
    "transpose": _view,
    "sum": _sum,
    "contract": _contract,
    "select": _select,
    "cast": _cast,
    "take": _take,
    "scatter_add": _scatter,
    "pow": _pow,
    "exp": _exp,
    "stop_gradient": lambda reader, op, at: reader.read(op.operands[0], at),
    "add": _arithmetic(it.plus),
    "sub": _arithmetic(it.minus),
    "mul": _arithmetic(it.times),
    "gate": _arithmetic(it.times),
    "neg": _arithmetic(lambda x: it.scaled(x, -1)),
    "div": _arithmetic(_divided),
    "fma": _arithmetic(lambda a, b, c: it.plus(it.times(a, b), c)),
    "sqrt": _arithmetic(lambda x: it.power(x, Fraction(1, 2))),
    "rsqrt": _arithmetic(lambda x: it.power(x, Fraction(-1, 2))),
    "log": _arithmetic(_logarithm),
    "log1p": _arithmetic(lambda x: _logarithm(it.plus(it.ONE, x))),
    "expm1": _arithmetic(lambda x: it.minus(exponential(x), it.ONE)),
}

# Masks, which have no other words. Formulas may name convolutions too.
_MASKS: Final = ("keep", "mask")


def is_readable(op: Op) -> bool:
    """Whether formulas have words for ``op`` and for its derivative."""
    if _is_moved(op):
        return _moved(op, range(1, op.results[0].type.rank + 1)) is not None
    definition = lookup(op.name)
    plain = definition.is_elementwise and not op.attributes
    is_named = op.name in _RULES or definition.multiplies_windows
    return plain or is_named or not op.results[0].type.dtype.is_float


def is_said(op: Op | None, atoms: Mapping[Value, str], name: str) -> bool:
    """Whether ``name``, which a reader gave the result of ``op``, says all there is to say: an op
    on names, a mask.
    """
    if name.partition("#")[0] in _MASKS:
        return True
    return (
        op is not None
        and lookup(op.name).multiplies_windows
        and all(v in atoms for v in op.operands)
    )
