"""Sums of products of elements at affine indices, and when two of them are the same for every size.

A ``Sum`` is a number times a sum over bound indices of a product of factors: elements of named
tensors, each at a list of linear forms of the indices, under linear equations between them. A
tensor is zero outside its shape. An ``Entry``, one element of a program, is a list of Sums. Sizes
are symbols: monomials of sizes are unknowns of the linear forms.

``normal_form`` says which entries meet: a system of equations between the places ("slots") of all
factors, brought to
reduced row echelon form. Sound because: bound indices whose range is that of an axis they stand at
are determined by that slot; any other has its range written down as a factor of its own; indices
that are eliminated are determined by the others, so nothing is counted twice; an index in no
equation counts its own range. What is no equation is an opaque factor with a name: ids of ``take``,
the order of ``cumsum``, winners of a maximum. Equal names mean equal functions of the slots. Small
ranges that are numbers (windows, groups) are written out, so terms of both sides match one to one.

Non-goals: deciding what does not fit (``Unfit``), which is no proof of anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import groupby, permutations
from math import gcd
from typing import Any, TypeAlias

from gradc.ir.tensor.dims import Dim, DimExpr

# Bound indices are integers, ("one",) is 1, ("size", name) a monomial of sizes, ("slot", ...) a
# place of a factor.
Linear: TypeAlias = dict[Any, Fraction]
LinearIndex: TypeAlias = list[Linear]
# Ranges up to this size are written out; sums of more terms than MOST_TERMS are given up on.
MOST_WRITTEN_OUT = 64
MOST_TERMS = 4096
# So many ways to number factors of one name are looked through.
MOST_ORDERS = 24


class Unfit(Exception):
    """Something the algebra does not speak of."""


def constant(dim: Dim) -> Linear:
    """A size as a linear form in monomials of sizes."""
    if isinstance(dim, int):
        return {("one",): Fraction(dim)} if dim else {}
    return _normal(
        {("size", str(DimExpr(((m, 1),))) if m else ""): Fraction(c) for m, c in dim.terms}
    )


def _normal(form: Linear) -> Linear:
    found: Linear = {}
    for key, c in form.items():
        key = ("one",) if key == ("size", "") else key
        found[key] = found.get(key, Fraction(0)) + c
    return {k: c for k, c in found.items() if c}


def plus(a: Linear, b: Linear, factor: Fraction | int = 1) -> Linear:
    """a + factor * b."""
    found = dict(a)
    for key, c in b.items():
        more = c if factor == 1 else factor * c
        found[key] = found[key] + more if key in found else more
    return {key: c for key, c in found.items() if c}


def number_of(form: Linear) -> Fraction | None:
    """The number ``form`` is, if it is one."""
    if not form:
        return Fraction(0)
    return form[("one",)] if list(form) == [("one",)] else None


@dataclass(frozen=True)
class Factor:
    """An element of the tensor called ``name``; ``leaves`` are the operands it is a function of."""

    name: str
    index: tuple[Linear, ...]
    shape: tuple[Dim, ...]
    leaves: tuple[str, ...] = ()


@dataclass
class Sum:
    """A number times one sum of products."""

    coefficient: Fraction = Fraction(1)
    factors: list[Factor] = field(default_factory=list)
    equations: list[Linear] = field(default_factory=list)
    ranges: dict[int, Dim] = field(default_factory=dict)


Entry: TypeAlias = list[Sum]
ONE: Entry = [Sum()]


def factor(
    name: str, index: Sequence[Linear], shape: Sequence[Dim], leaves: Sequence[str] = ()
) -> Entry:
    """One element of one tensor."""
    return [Sum(factors=[Factor(name, tuple(index), tuple(shape), tuple(leaves))])]


def number(value: Fraction | int) -> Entry:
    """A constant."""
    return [Sum(Fraction(value))] if value else []


def times(a: Entry, b: Entry) -> Entry:
    """The product. Raises Unfit if it is too long."""
    if len(a) * len(b) > MOST_TERMS:
        raise Unfit("too many terms")
    return [
        Sum(
            x.coefficient * y.coefficient,
            [*x.factors, *y.factors],
            [*x.equations, *y.equations],
            {**x.ranges, **y.ranges},
        )
        for x in a
        for y in b
    ]


def scaled(a: Entry, by: Fraction | int) -> Entry:
    """``a`` times a number."""
    return times(number(by), a)


class Binder:
    """Hands out bound indices, each with a number of its own."""

    def __init__(self) -> None:
        self.count = 0

    def choices(self, extents: Sequence[Dim]) -> list[tuple[LinearIndex, Entry]]:
        """Indices below ``extents`` to be summed over: values written out where the range is a
        small number.
        """
        found: list[tuple[LinearIndex, Entry]] = [([], ONE)]
        for extent in extents:
            if isinstance(extent, int) and extent <= MOST_WRITTEN_OUT:
                options = [(constant(n), ONE) for n in range(extent)]
            else:
                self.count += 1
                options = [({self.count: Fraction(1)}, [Sum(ranges={self.count: extent})])]
            if len(found) * len(options) > MOST_TERMS:
                raise Unfit("too many terms")
            found = [([*i, j], times(e, f)) for i, e in found for j, f in options]
        return found


def equation(form: Linear) -> Entry:
    """1 where ``form`` is zero."""
    value = number_of(form)
    if value is not None:
        return ONE if value == 0 else []
    return [Sum(equations=[form])]


# --- normal form


def normal_form(entry: Entry) -> tuple[Any, ...]:
    """What meets what, with which number. Equal forms are equal for every size. Raises Unfit."""
    found: dict[Any, Fraction] = {}
    for one in entry:
        key = _key(one)
        if key is None:
            continue
        found[key] = found.get(key, Fraction(0)) + one.coefficient
    return tuple(sorted((k, str(c)) for k, c in found.items() if c))


def _key(given: Sum) -> Any:
    one = _settled(given)
    if one is None:
        return None
    named = sorted((_named(f) for f in one.factors), key=lambda row: row[0])
    return min((_arranged(one, order) for order in _orders(named)), key=repr)


def _orders(named: list[tuple[str, list[Linear]]]) -> list[list[tuple[str, list[Linear]]]]:
    """All ways to number factors of one name. Raises Unfit if there are many."""
    found: list[list[tuple[str, list[Linear]]]] = [[]]
    for name, rows in groupby(named, key=lambda row: row[0]):
        alike = [index for _, index in rows]
        different = any(index != alike[0] for index in alike)
        ways = list(permutations(alike)) if different else [tuple(alike)]
        if len(found) * len(ways) > MOST_ORDERS:
            raise Unfit(f"{name} at {len(alike)} places")
        marks = [f"{name}#{n}" if different and n else name for n in range(len(alike))]
        found = [[*head, *zip(marks, way, strict=True)] for head in found for way in ways]
    return found


def _arranged(one: Sum, named: list[tuple[str, list[Linear]]]) -> Any:
    """The key with factors numbered as they are."""
    rows = [dict(e) for e in one.equations]
    shown: list[str] = []
    for name, index in named:
        if name in shown:
            shown.append(f"{name} again")
            continue
        shown.append(name)
        for axis, expression in enumerate(index):
            rows.append(plus({("slot", name, axis): Fraction(1)}, expression, -1))
    free: list[str] = []
    for bound, extent in one.ranges.items():
        used = [row for row in rows if bound in row]
        if not used:
            free.append(str(extent))
            continue
        pivot = used[0]
        rows = [
            row if bound not in row else plus(row, pivot, -row[bound] / pivot[bound])
            for row in rows
            if row is not pivot
        ]
    return tuple(shown), tuple(_echelon(rows)), tuple(sorted(free))


def _settled(one: Sum) -> Sum | None:
    """``one`` without indices that equations give, their ranges written down where they are not
    implied.

    Afterwards each index that is used stands at an axis of its own range. None if an equation has
    no solution.
    """
    ranges = dict(one.ranges)
    factors = list(one.factors)
    whole = [_primitive(e) for e in one.equations]
    equations = [e for e in whole if e is not None]
    if len(equations) < len(whole):
        return None
    limits: list[tuple[Linear, Dim]] = []
    while True:
        direct = _direct(factors, ranges)
        found = _solvable(equations, ranges, direct)
        if found is None:
            break
        row, bound = found
        value = plus({}, {k: c for k, c in row.items() if k != bound}, -1 / row[bound])
        at = number_of(value)
        if at is not None and at.denominator != 1:
            return None
        if bound not in direct:
            limits.append((value, ranges[bound]))
        del ranges[bound]
        limits = [(_put(e, bound, value), n) for e, n in limits]
        rest = [_put(e, bound, value) for e in equations if e is not row]
        if any(number_of(e) not in (None, 0) for e in rest):
            return None
        equations = [e for e in rest if e]
        factors = [replace(f, index=tuple(_put(e, bound, value) for e in f.index)) for f in factors]
    if any(_is_outside(f) for f in factors):
        return None
    for bound, extent in ranges.items():
        forms = [*equations, *(e for f in factors for e in f.index)]
        if bound not in direct and any(bound in form for form in forms):
            factors.append(Factor(f"below {extent}", ({bound: Fraction(1)},), (extent,)))
    for value, extent in limits:
        ways = [value, *_rewritten(value, equations)]
        if not any(_is_within(way, extent, ranges) for way in ways):
            factors.append(Factor(f"below {extent}", (value,), (extent,)))
    return Sum(one.coefficient, factors, equations, ranges)


def _primitive(row: Linear) -> Linear | None:
    """An equation divided by the common divisor of its coefficients; None if no integers solve
    it.
    """
    if any(c.denominator != 1 for c in row.values()):
        return row
    divisor = gcd(*(int(c) for key, c in row.items() if key != ("one",)))
    if divisor < 2:
        return row
    if row.get(("one",), Fraction(0)) % divisor:
        return None
    return {key: c / divisor for key, c in row.items()}


def _is_outside(f: Factor) -> bool:
    """Whether an operand is read at a place that it is sure not to have."""
    if f.leaves != (f.name,):
        return False
    for expression, extent in zip(f.index, f.shape, strict=True):
        at, beyond = number_of(expression), number_of(plus(expression, constant(extent), -1))
        if (at is not None and at < 0) or (beyond is not None and beyond >= 0):
            return True
    return False


def _direct(factors: Sequence[Factor], ranges: dict[int, Dim]) -> set[int]:
    """The indices that stand at an axis of their own range."""
    found: set[int] = set()
    for f in factors:
        for expression, extent in zip(f.index, f.shape, strict=True):
            if list(expression.values()) == [1]:
                (key,) = expression
                if isinstance(key, int) and ranges.get(key) == extent:
                    found.add(key)
    return found


def _solvable(
    equations: Sequence[Linear], ranges: dict[int, Dim], direct: set[int]
) -> tuple[Linear, int] | None:
    """An equation that gives an index: one that stands at no axis of its range, or one that is a
    constant.
    """
    for row in equations:
        bounds = [key for key in row if isinstance(key, int)]
        for bound in bounds:
            is_whole = abs(row[bound]) == 1 and all(c.denominator == 1 for c in row.values())
            if is_whole and bound not in direct:
                return row, bound
        if len(bounds) == 1 and all(isinstance(k, int) or k[0] != "slot" for k in row):
            (bound,) = bounds
            if abs(row[bound]) == 1 or number_of({k: c for k, c in row.items() if k != bound}):
                return row, bound
    return None


def _put(form: Linear, bound: int, value: Linear) -> Linear:
    if bound not in form:
        return form
    return plus({k: c for k, c in form.items() if k != bound}, value, form[bound])


def _rewritten(value: Linear, equations: Sequence[Linear]) -> list[Linear]:
    """``value`` with one index replaced by what an equation says it is."""
    return [
        _put(value, key, plus({}, {k: c for k, c in row.items() if k != key}, -1 / row[key]))
        for row in equations
        for key in row
        if key in value and isinstance(key, int)
    ]


def _is_within(form: Linear, extent: Dim, ranges: dict[int, Dim]) -> bool:
    """Whether ``form`` is sure to be at least 0 and below ``extent``."""
    low: Linear = {}
    high: Linear = {}
    for key, c in form.items():
        if not isinstance(key, int):
            if key[0] == "slot":
                return False
            low, high = plus(low, {key: c}), plus(high, {key: c})
        elif c > 0:
            high = plus(high, constant(ranges[key] - 1), c)
        else:
            low = plus(low, constant(ranges[key] - 1), c)
    least, room = number_of(low), number_of(plus(constant(extent - 1), high, -1))
    return least is not None and room is not None and least >= 0 and room >= 0


def _named(f: Factor) -> tuple[str, list[Linear]]:
    """Coordinates without an index belong to the name, so that elements at different numbers
    differ.
    """
    fixed, rest = [], []
    for axis, expression in enumerate(f.index):
        if all(isinstance(key, tuple) and key[0] in ("one", "size") for key in expression):
            fixed.append(f"{axis}:{_text(expression)}")
        else:
            rest.append(expression)
    return (f"{f.name}@{','.join(fixed)}" if fixed else f.name), rest


def _text(form: Linear) -> str:
    return "+".join(f"{c}*{key[-1]}" for key, c in sorted(form.items(), key=repr)) or "0"


def _echelon(rows: list[Linear]) -> list[str]:
    """The reduced row echelon form, pivots being slots in order. Raises Unfit for a relation
    between sizes.
    """
    slots = sorted({key for row in rows for key in row if key[0] == "slot"})
    reduced: list[Linear] = []
    for slot in slots:
        used = [row for row in rows if slot in row]
        if not used:
            continue
        pivot = {k: c / used[0][slot] for k, c in used[0].items()}
        rows = [plus(row, pivot, -row.get(slot, Fraction(0))) for row in rows if row is not used[0]]
        reduced = [plus(row, pivot, -row.get(slot, Fraction(0))) for row in reduced]
        reduced.append(pivot)
    if any(rows):
        raise Unfit("an equation between sizes")
    return sorted(repr(sorted(row.items(), key=repr)) for row in reduced)
