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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import count
from typing import Any, Final, TypeGuard

from gradc.codegen.symbolic.formulas import terms as it
from gradc.codegen.symbolic.formulas.terms import Lookup, Poly, Subscript
from gradc.codegen.symbolic.formulas.verbs import VERBS
from gradc.ir.ops.index.formula import Unsaid
from gradc.ir.ops.registry import has_own_numbers, lookup, number_of
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
                raise Unsaid
            found = self._said(op, at)
        except (Unsaid, ZeroDivisionError, OverflowError):
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

    def _said(self, op: Op, at: tuple[Subscript, ...]) -> Poly:
        """What an op states; a view at the place it shows; a function of what it is applied to."""
        definition = lookup(op.name)
        if definition.formula is not None:
            found: Poly = definition.formula(self, op, at)
            return found
        if _is_moved(op):
            moved = _moved(op, at)
            if moved is None:
                raise Unsaid
            return self.read(op.operands[0], moved)
        if not op.results[0].type.dtype.is_float or any(
            v.type.shape != op.results[0].type.shape for v in op.operands
        ):
            raise Unsaid
        if op.attributes or op.regions or not definition.is_elementwise:
            raise Unsaid
        parts = tuple(self.read(v, at) for v in op.operands)
        verb = VERBS.get(op.name)
        return it.single(it.Call(op.name, parts)) if verb is None else verb(*parts)

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
            if not _is_regrouped(op):
                return shown[0]
            shape = op.result.type.shape
            if all(isinstance(n, int) for n in shape):  # sizes may have been chosen
                return f"reshape({shown[0]})"
            return f"reshape({shown[0]}, [{', '.join(map(str, shape))}])"
        if number_of(op) is not None:
            return f"{number_of(op)}"
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

    def assume_in_range(self, ids: Subscript) -> None:
        """Notes that the formula presumes ids in range."""
        name = ids.name if isinstance(ids, Lookup) else "used as indices"
        self.assume(f"the ids {name} lie in range")

    # --- the algebra, as the rules of ops use it

    def fresh(self, size: int) -> Subscript:
        """An index that occurs nowhere yet, for an axis of ``size``."""
        return fresh_index() if size != 1 else it.UNIT

    def literal(self, value: Any, dtype: DType) -> Poly:
        """A program's constant."""
        return literal(value, dtype)

    def number(self, index: Subscript | Fraction) -> Poly:
        """An index as a number."""
        return it.number(index) if isinstance(index, Fraction) else it.single(it.IndexNumber(index))

    def equals(self, a: Subscript, b: Subscript) -> Poly:
        """1 where two indices are equal, else 0."""
        return it.delta(a, b)

    def product(self, *factors: Poly) -> Poly:
        """The product of formulas."""
        return it.times(*factors)

    def total(self, body: Poly, over: Sequence[tuple[Subscript, int]]) -> Poly:
        """The sum of ``body`` over indices, each with its size."""
        for index, size in over:
            if index != it.UNIT:
                assert isinstance(index, int)
                body = it.total(body, index, size)
        return body

    def chosen(self, holds: Poly, a: Value, b: Value, at: tuple[Subscript, ...]) -> Poly:
        """The element of ``a`` where ``holds``, else that of ``b``; the other is then not read."""
        if holds in (it.ONE, it.ZERO):
            return self.read(a if holds == it.ONE else b, at)
        first, second = self.read(a, at), self.read(b, at)
        return it.plus(it.times(holds, first), it.times(it.minus(it.ONE, holds), second))

    def is_nan(self, value: Value) -> bool:
        """Whether ``value`` is NaN everywhere."""
        made = self.producers.get(value)
        number = None if made is None else number_of(made)
        return isinstance(number, float) and math.isnan(number)

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
        number = number_of(op)
        if number is not None:
            return Fraction(int(number))
        if _is_moved(op):
            moved = _moved(op, place)
            return None if moved is None else self.index(op.operands[0], moved)
        if has_own_numbers(op):
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
                raise Unsaid
            return self.condition(op.operands[0], moved)
        if op.name in ("logical_and", "logical_or", "logical_not"):
            parts = [self.condition(v, at) for v in op.operands]
            if op.name == "logical_not":
                return it.minus(it.ONE, parts[0])
            both = it.times(*parts)
            return both if op.name == "logical_and" else it.minus(it.plus(*parts), both)
        if number_of(op) is not None:
            return it.ONE if number_of(op) else it.ZERO
        if op.name in _COMPARISONS:
            return self._comparison(op, at)
        raise Unsaid

    def truth(self, value: Value, at: tuple[Subscript, ...]) -> Poly:
        """``condition``, or a mask with a name of its own where the algebra has no words for it."""
        try:
            return self.condition(value, at)
        except Unsaid:
            return self._named(value, "keep" if self._is_drawn(value) else "mask", at)

    def _is_drawn(self, value: Value) -> bool:
        """Whether ``value`` comes from random bits."""
        op = self.producers.get(value)
        for _ in range(12):
            if op is None or not op.operands or lookup(op.name).traits.draws:
                break
            op = self.producers.get(op.operands[0])
        return op is not None and lookup(op.name).traits.draws

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
        if op.name == "gt" and not right and _rectifies(rectified):
            # relu(z) > 0 where z > 0; whichever of the two has a name is shown.
            inner = rectified.operands[0]
            a = inner if a not in self.atoms or inner in self.atoms else a
        return it.single(it.Cond(op.name, self.read(a, at), right))

    def _comparison_of_indices(self, op: Op, at: tuple[Subscript, ...]) -> Poly:
        a, b = (self.index(v, at) for v in op.operands)
        if a is None or b is None:
            raise Unsaid
        if isinstance(a, Fraction) or isinstance(b, Fraction):
            if op.name in ("ge", "lt", "gt", "le") and isinstance(a, Lookup):
                self.assume(f"the ids {a.name} lie in range")
                return it.ONE
            if isinstance(a, Fraction) and isinstance(b, Fraction):
                return it.ONE if _compares(op.name, a, b) else it.ZERO
            raise Unsaid
        if op.name == "eq":
            return it.delta(a, b)
        if op.name == "ne":
            return it.minus(it.ONE, it.delta(a, b))
        return it.single(
            it.Cond(op.name, it.single(it.IndexNumber(a)), it.single(it.IndexNumber(b)))
        )


def _rectifies(op: Op | None) -> TypeGuard[Op]:
    return op is not None and lookup(op.name).traits.rectifies


def _compares(name: str, a: Fraction, b: Fraction) -> bool:
    return {"eq": a == b, "ne": a != b, "lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b}[name]


def _is_infinite(term: it.Monomial) -> bool:
    return len(term.factors) == 1 and term.factors[0][0] == it.Call("inf", ())


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
    """Where an element of a view lies in its operand; None where axes mix."""
    rule, shape = lookup(op.name).axes, op.operands[0].type.static_shape
    result = op.results[0].type.static_shape
    found: dict[int, Subscript] = {axis: it.UNIT for axis, n in enumerate(shape) if n == 1}
    for link in () if rule is None else rule.links(op):
        (own,) = link.operands
        if own is None or link.result is None or shape[own.axis] == 1:
            continue
        if shape[own.axis] == result[link.result.axis] == link.size:
            found[own.axis] = at[link.result.axis]
    if len(found) < len(shape):
        return None
    return tuple(found[axis] for axis in range(len(shape)))


# Masks, which have no other words. Formulas may name convolutions too.
_MASKS: Final = ("keep", "mask")


def is_readable(op: Op) -> bool:
    """Whether formulas have words for ``op`` and for its derivative."""
    if _is_moved(op):
        return _moved(op, range(1, op.results[0].type.rank + 1)) is not None
    definition = lookup(op.name)
    plain = definition.is_elementwise and not op.attributes
    is_named = definition.formula is not None or definition.multiplies_windows
    return plain or is_named or not op.results[0].type.dtype.is_float


def is_said(op: Op | None, atoms: Mapping[Value, str], name: str) -> bool:
    """Whether ``name``, which a reader gave the result of ``op``, says all there is to say: an op
    on names, a mask.
    """
    if name.partition("#")[0] in _MASKS:
        return True
    return (
        op is not None
        and (lookup(op.name).multiplies_windows or _is_regrouped(op))
        and all(v in atoms for v in op.operands)
    )


def _is_regrouped(op: Op) -> bool:
    """Whether ``op`` deals the elements of its operand to other axes in their order: which, the
    place tells where it stands.
    """
    if op.name != "reshape":
        return False
    before, after = ([n for n in v.type.shape if n != 1] for v in (op.operands[0], op.result))
    return before != after
