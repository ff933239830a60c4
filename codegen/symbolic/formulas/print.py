"""Writes polynomials of the index algebra as a person would: as matrices where that is possible,
else with indices.

``notate`` first tries array notation: products of arrays elementwise, contractions as matrix
products and transposes, sums and means as such. Whatever does not fit (a contraction of three
factors, batched axes out of order) makes the whole formula fall back to index notation, so both
sides of an equation read alike.

Sizes that belong to a dimension are printed by its name; they are told by their values, so formulas
are made at sizes that are distinct primes. Non-goals: deciding anything about equality.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import prod
from typing import Literal, TypeAlias

from gradc.codegen.symbolic.formulas import terms as it
from gradc.codegen.symbolic.formulas.notation import (
    COTANGENT,
    Apply,
    BigSum,
    Bracket,
    Equation,
    Indexed,
    Name,
    Notation,
    Num,
    Power,
    Product,
    Quotient,
    Root,
    Sum,
)
from gradc.codegen.symbolic.formulas.numbers import decimal, root_of
from gradc.codegen.symbolic.formulas.terms import Base, Monomial, Poly, Subscript

_LETTERS = "ijklmnpqrstuvwxyzabcdefgh"
_Kind: TypeAlias = Literal["scalar", "elementwise", "matrix"]
_Write: TypeAlias = Callable[[Monomial], Notation]
_Pairs: TypeAlias = Sequence[tuple[Base, Fraction]]
_SMALLEST_PRIME = 50


class _NoMatrix(Exception):
    """The formula has no array notation."""


@dataclass
class Writer:
    """Writes formulas; ``dims`` gives sizes their names."""

    dims: Mapping[int, str] = field(default_factory=dict)
    # Names that are shown as something else.
    words: Mapping[str, Notation] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set)

    def equation(
        self, name: str, at: Sequence[Subscript], poly: Poly, sizes: Sequence[int] = ()
    ) -> Notation:
        """``name = poly``, both sides in the same notation."""
        try:
            return Equation(Name(name), self.array_poly(poly, tuple(at)))
        except _NoMatrix:
            return self.by_index(name, at, poly, sizes)

    def by_index(
        self, name: str, at: Sequence[Subscript], poly: Poly, sizes: Sequence[int] = ()
    ) -> Notation:
        """``name[i, ...] = poly`` in index notation; letters are none of the names."""
        self._taken = {r.name for r in _refs(poly)} | {name, *self.dims.values()}
        letters = self._letters(at, poly, sizes)
        left = Indexed(Name(name), tuple(_place(i, letters) for i in at if i != it.UNIT))
        shown = left if left.at else left.base
        return Equation(shown, self.indexed_poly(poly, letters))

    def _name(self, name: str) -> Notation:
        return self.words.get(name, Name(name))

    def notate(self, at: Sequence[Subscript], poly: Poly, sizes: Sequence[int] = ()) -> Notation:
        """``poly`` alone."""
        found = self.equation("", at, poly, sizes)
        assert isinstance(found, Equation)
        return found.right

    # --- numbers

    def _coefficient(self, value: Fraction) -> tuple[list[Notation], list[Notation]]:
        """A positive number as factors above and below a fraction bar."""
        above, top = self._dimension_factors(value.numerator)
        below, bottom = self._dimension_factors(value.denominator)
        if bottom > 64 or top > 10**6:
            root = root_of(Fraction(top, bottom))
            if root is not None:
                return [*root[0], *above], [*root[1], *below]
            top_text = decimal(Fraction(top, bottom))
            return ([Num(top_text)] if top_text != "1" else []) + above, below
        if top != 1:
            above.insert(0, Num(str(top)))
        if bottom != 1:
            below.insert(0, Num(str(bottom)))
        return above, below

    def _dimension_factors(self, value: int) -> tuple[list[Notation], int]:
        found: list[Notation] = []
        for size, name in self.dims.items():
            while size >= _SMALLEST_PRIME and value % size == 0:
                found.append(Name(name))
                value //= size
        return found, value

    # --- sums

    def array_poly(self, poly: Poly, at: tuple[Subscript, ...]) -> Notation:
        """``poly`` as an array whose axes are ``at``. Raises _NoMatrix."""
        return self._poly(poly, lambda term: self._array_term(term, at))

    def indexed_poly(self, poly: Poly, letters: Mapping[int, str]) -> Notation:
        """``poly`` in index notation."""
        return self._poly(poly, lambda term: self._indexed_term(term, letters))

    def _poly(self, poly: Poly, write: _Write) -> Notation:
        if not poly:
            return Num("0")
        sizes = {abs(t.coefficient) for t in poly}
        common = sizes.pop() if len(sizes) == 1 and len(poly) > 1 else Fraction(1)
        ordered = sorted(poly, key=_reading_order)
        items = []
        for term in ordered:
            sign, flipped = _positive(it.Monomial(term.coefficient / common, term.factors))
            items.append((sign, write(flipped)))
        items.sort(key=lambda item: item[0] < 0)
        whole: Notation = items[0][1] if items == [(1, items[0][1])] else Sum(tuple(items))
        if common == 1:
            return whole
        above, below = self._coefficient(common)
        top = _product([*above, whole], "elementwise")
        return Quotient(top, _product(below, "scalar")) if below else top

    # --- terms

    def _array_term(self, term: Monomial, at: tuple[Subscript, ...]) -> Notation:
        coefficient, factors = _spread(term)
        above: list[tuple[Base, Fraction]] = []
        below: list[tuple[Base, Fraction]] = []
        for base, exponent in factors.items():
            if isinstance(base, it.Sigma) and _is_mean(base, exponent, coefficient):
                coefficient *= prod(base.sizes)
                base = it.Sigma(base.bound, (0,) * len(base.sizes), base.factors)
            (above if exponent > 0 else below).append((base, exponent))
        outer = self._outer(above, at)
        numbers, divisors = self._coefficient(coefficient)
        if outer is not None:
            product, rest = outer
            top = [product, *self._factors(rest, at)]
        else:
            top = self._factors(above, at)
        bottom = self._factors([(b, -e) for b, e in below], at)
        return _assembled(numbers, top, divisors, bottom, is_array=bool(at))

    def _factors(
        self, pairs: Sequence[tuple[Base, Fraction]], at: tuple[Subscript, ...]
    ) -> list[Notation]:
        ordered = sorted(pairs, key=_factor_order)
        plain = [(b, e) for b, e in ordered if not _is_exponential(b)]
        found = [_raised(self._array_base(b, at), e) for b, e in plain]
        exponent = it.plus(
            *(
                it.scaled(b.arguments[0], e)
                for b, e in ordered
                if isinstance(b, it.Call) and b.name == "exp"
            )
        )
        if exponent:
            found.append(Apply("exp", (self.array_poly(exponent, at),)))
        return found

    def _array_base(self, base: Base, at: tuple[Subscript, ...]) -> Notation:
        match base:
            case it.Ref(name, place):
                if place and all(isinstance(i, it.Lookup) for i in place) and not it.indices(place):
                    return Indexed(self._name(name), tuple(_place(i, {}) for i in place))
                if len(at) == 2 and place == (at[1], at[0]) and at[0] != at[1]:
                    return Power(self._name(name), "T")
                if not _fits(place, at):
                    raise _NoMatrix
                return self._name(name)
            case it.Group(poly):
                return self.array_poly(poly, at)
            case it.Call(name, arguments):
                return _function(name, [self.array_poly(a, at) for a in arguments])
            case it.Cond(op, a, b):
                return Bracket(self.array_poly(a, at), op, self.array_poly(b, at))
            case it.Delta(a, b):
                return _one_hot(a, b, at)
            case it.Sigma():
                return self._array_sigma(base, at)
            case _:
                raise _NoMatrix

    # --- products of matrices

    def _outer(
        self, pairs: Sequence[tuple[Base, Fraction]], at: tuple[Subscript, ...]
    ) -> tuple[Notation, list[tuple[Base, Fraction]]] | None:
        """Two groups of factors on different axes, as a matrix product over an axis of size 1."""
        small = [
            (b, e)
            for b, e in pairs
            if not isinstance(b, it.Sigma) and set(it.indices(b)) < set(it.indices(at)) and _rank(b)
        ]
        sets = list({frozenset(it.indices(b)): None for b, _ in small})
        if not 1 <= len(at) <= 2 or len(sets) != 2 or sets[0] & sets[1]:
            if not (len(sets) == 1 and len(at) <= 2):
                return None
            return self._thin(pairs, small, at)
        row, column = (at[0], at[1]) if len(at) == 2 else (at[0], it.UNIT)
        left = [p for p in small if row in it.indices(p[0])]
        right = [p for p in small if p not in left]
        if (
            not left
            or not right
            or (column != it.UNIT and not all(column in it.indices(b) for b, _ in right))
        ):
            return None
        product = _product(
            [self._matrix(left, row, it.UNIT), self._matrix(right, it.UNIT, column)], "matrix"
        )
        return product, [p for p in pairs if p not in small]

    def _thin(
        self,
        pairs: Sequence[tuple[Base, Fraction]],
        small: _Pairs,
        at: tuple[Subscript, ...],
    ) -> tuple[Notation, list[tuple[Base, Fraction]]] | None:
        """A matrix with an axis of size 1 times a vector of size 1, such as ``w^T d``."""
        if it.indices(small[0][0]) or len(at) == 0:
            return None
        row, column = (at[0], at[1]) if len(at) == 2 else (at[0], it.UNIT)
        wide = [
            (b, e)
            for b, e in pairs
            if isinstance(b, (it.Ref, it.Call))
            and it.indices(b)
            and (_rank(b) == 2 or len(at) == 2)
            and not _fits_all(b, at)
        ]
        if len(wide) != 1 or len(it.indices(at)) != 1:
            return None
        if row != it.UNIT:
            sides = [self._matrix(wide, row, it.UNIT), self._matrix(small, it.UNIT, it.UNIT)]
        else:
            sides = [self._matrix(small, it.UNIT, it.UNIT), self._matrix(wide, it.UNIT, column)]
        rest = [p for p in pairs if p not in wide and p not in small]
        return _product(sides, "matrix"), rest

    def _matrix(
        self,
        pairs: Sequence[tuple[Base, Fraction]],
        row: Subscript | tuple[Subscript, ...],
        column: Subscript | tuple[Subscript, ...],
    ) -> Notation:
        """A product of factors as a matrix with these rows and columns, transposed if they stand
        the other way.
        """
        rows, columns = _tuple(row), _tuple(column)
        ways = [((*rows, *columns), False), ((*columns, *rows), True)]
        if columns == (it.UNIT,):
            ways = [(rows, False), *ways]
        if rows == (it.UNIT,):
            # An array of one axis is a column.
            ways = [ways[0], (columns, columns != (it.UNIT,)), *ways[1:]]
        for at, is_transposed in ways:
            if len(at) == 1 and any(_rank(b) > 1 for b, _ in pairs):
                continue
            if len(at) > 1 and all(_rank(b) == 1 for b, _ in pairs):
                continue
            try:
                found = _product(self._factors(pairs, at), "elementwise")
            except _NoMatrix:
                continue
            return Power(found, "T") if is_transposed else found
        raise _NoMatrix

    def _array_sigma(self, sigma: it.Sigma, at: tuple[Subscript, ...]) -> Notation:
        groups: dict[frozenset[int], list[tuple[Base, Fraction]]] = {}
        for base, exponent in sigma.factors:
            groups.setdefault(frozenset(it.indices(base)), []).append((base, exponent))
        if len(groups) == 1:
            row = self._row_times_column(sigma, at)
            return row if row is not None else self._reduction(sigma, at)
        bound = set(sigma.bound)
        if len(groups) != 2 or (len(at) > 2 and not _is_flat(at, groups)):
            raise _NoMatrix
        (left_set, left), (right_set, right) = groups.items()
        if left_set & right_set != bound:
            raise _NoMatrix
        rows, columns = _split(at, left_set - bound, right_set - bound)
        if rows is None:
            left, right = right, left
            rows, columns = _split(at, right_set - bound, left_set - bound)
        if rows is None or columns is None:
            raise _NoMatrix
        inner = _order(left, bound)
        sides = (self._matrix(left, rows, inner), self._matrix(right, inner, columns))
        return _product(sides, "matrix")

    def _row_times_column(self, sigma: it.Sigma, at: tuple[Subscript, ...]) -> Notation | None:
        """A matrix of one row times a vector."""
        if any(i != it.UNIT for i in at) or len(sigma.bound) != 1:
            return None
        left = [p for p in sigma.factors if _rank(p[0]) == 2]
        right = [p for p in sigma.factors if _rank(p[0]) == 1]
        if not left or not right or len(left) + len(right) < len(sigma.factors):
            return None
        (label,) = sigma.bound
        sides = [self._matrix(left, it.UNIT, label), self._matrix(right, label, it.UNIT)]
        return _product(sides, "matrix")

    def _reduction(self, sigma: it.Sigma, at: tuple[Subscript, ...]) -> Notation:
        """A sum or mean of one array over some of its axes."""
        order = _axes_of(sigma.factors)
        kept = [i for i in order if i not in sigma.bound and i != it.UNIT]
        if kept and [i for i in at if i != it.UNIT] != kept:
            raise _NoMatrix
        body = _product(self._factors(sigma.factors, tuple(order)), "elementwise")
        word = "mean" if sigma.sizes[0] == 0 else "sum"
        if not kept:
            return Apply(word, (body,))
        axes = [str(n) for n, i in enumerate(order) if i in sigma.bound]
        shown = axes[0] if len(axes) == 1 else f"({', '.join(axes)})"
        return Apply(word, (body, Name(f"axis={shown}")))

    # --- index notation

    def _letters(self, at: Sequence[Subscript], poly: Poly, sizes: Sequence[int]) -> dict[int, str]:
        letters: dict[int, str] = {}
        known = dict(zip(at, sizes, strict=False))
        for index in it.indices((*at, poly)):
            letters[index] = self._letter(known.get(index, 0), letters)
        return letters

    def _letter(self, size: int, taken: Mapping[int, str]) -> str:
        name = self.dims.get(size, "")
        wanted = name.lower() if len(name) == 1 else ""
        used = set(taken.values()) | self._taken
        while wanted in used and len(wanted) < 3 and wanted:
            wanted += "'"
        if wanted and wanted not in used:
            return wanted
        others: tuple[str, ...] = (*_LETTERS, *(f"i{n}" for n in range(len(used) + 1)))
        return next(letter for letter in others if letter not in used)

    def _indexed_term(self, term: Monomial, letters: Mapping[int, str]) -> Notation:
        numbers, divisors = self._coefficient(term.coefficient)
        ordered = sorted(term.factors, key=_factor_order)
        top = [_raised(self._indexed_base(b, letters), e) for b, e in ordered if e > 0]
        bottom = [_raised(self._indexed_base(b, letters), -e) for b, e in ordered if e < 0]
        return _assembled(numbers, top, divisors, bottom, is_array=False)

    def _indexed_base(self, base: Base, letters: Mapping[int, str]) -> Notation:
        match base:
            case it.Ref(name, place):
                at = tuple(_place(i, letters) for i in place if i != it.UNIT)
                return Indexed(self._name(name), at) if at else self._name(name)
            case it.Group(poly):
                return self.indexed_poly(poly, letters)
            case it.Call(name, arguments):
                return _function(name, [self.indexed_poly(a, letters) for a in arguments])
            case it.Cond(op, a, b):
                return Bracket(self.indexed_poly(a, letters), op, self.indexed_poly(b, letters))
            case it.Delta(a, b):
                return Bracket(_place(a, letters), "eq", _place(b, letters))
            case it.IndexNumber(index):
                return _place(index, letters)
            case it.Sigma():
                own = dict(letters)
                for label, size in zip(base.bound, base.sizes, strict=True):
                    own.pop(label, None)
                    own[label] = self._letter(size, own)
                ordered = sorted(base.factors, key=_factor_order)
                top = [_raised(self._indexed_base(b, own), e) for b, e in ordered if e > 0]
                bottom = [_raised(self._indexed_base(b, own), -e) for b, e in ordered if e < 0]
                body = _assembled([], top, [], bottom, is_array=False)
                return BigSum(tuple(own[label] for label in base.bound), body)


def _spread(term: Monomial) -> tuple[Fraction, dict[Base, Fraction]]:
    """Coefficient and factors; the coefficient goes into a group if that turns its sums into
    means.
    """
    factors = dict(term.factors)
    groups = [b for b, e in term.factors if isinstance(b, it.Group) and e == 1]
    if len(groups) != 1 or term.coefficient.denominator == 1:
        return term.coefficient, factors
    inner = it.scaled(groups[0].poly, abs(term.coefficient))
    if not all(_is_plain(t) for t in inner):
        return term.coefficient, factors
    factors = {it.Group(inner) if b == groups[0] else b: e for b, e in term.factors}
    return Fraction(1 if term.coefficient > 0 else -1), factors


def _is_plain(term: Monomial) -> bool:
    """Whether the coefficient vanishes once a sum over all of an axis is written as a mean."""
    coefficient = term.coefficient
    for base, exponent in term.factors:
        if isinstance(base, it.Sigma) and _is_mean(base, exponent, coefficient):
            coefficient *= prod(base.sizes)
    return abs(coefficient) == 1


def _positive(term: Monomial) -> tuple[int, Monomial]:
    """The sign of a term and the term without it; a minus sign may turn a difference around
    instead.
    """
    coefficient, factors = term.coefficient, list(term.factors)
    for position, (base, exponent) in enumerate(factors):
        if not isinstance(base, it.Group) or exponent.denominator != 1:
            continue
        negative = [t.coefficient < 0 for t in base.poly]
        if all(negative) or (exponent % 2 and coefficient < 0 and any(negative)):
            factors[position] = (it.Group(it.scaled(base.poly, -1)), exponent)
            coefficient *= (-1) ** int(exponent)
    return (1 if coefficient > 0 else -1), Monomial(abs(coefficient), tuple(factors))


def _reading_order(term: Monomial) -> tuple[bool, bool, int, str]:
    names = [b for b, _ in term.factors]
    return (term.coefficient < 0, not term.factors, -it.size_of(term), repr(names))


def _factor_order(pair: tuple[Base, Fraction]) -> tuple[int, str]:
    base = pair[0]
    rank = 3
    if isinstance(base, it.Sigma):
        rank = 1
    elif isinstance(base, it.Ref):
        rank = 0 if base.name.startswith(COTANGENT) else 2
    elif isinstance(base, (it.Cond, it.Delta)):
        rank = 5
    elif isinstance(base, it.Group):
        rank = 4
    return rank, repr(base)


def _is_exponential(base: Base) -> bool:
    return isinstance(base, it.Call) and base.name == "exp"


def _is_mean(sigma: it.Sigma, exponent: Fraction, coefficient: Fraction) -> bool:
    count = prod(sigma.sizes)
    groups = {frozenset(it.indices(b)) for b, _ in sigma.factors}
    return exponent == 1 and count > 1 and coefficient.denominator % count == 0 and len(groups) == 1


def _rank(base: Base) -> int:
    """The most axes that an array in ``base`` has."""
    return max((len(r.at) for r in _refs(base)), default=0)


def _refs(item: object) -> Iterator[it.Ref]:
    if isinstance(item, it.Ref):
        yield item
    elif isinstance(item, (it.Group,)):
        yield from _refs(item.poly)
    elif isinstance(item, it.Call):
        yield from _refs(item.arguments)
    elif isinstance(item, it.Cond):
        yield from _refs((item.a, item.b))
    elif isinstance(item, it.Delta):
        yield it.Ref("", tuple(it.indices(item)))
    elif isinstance(item, (it.Monomial, it.Sigma)):
        yield from _refs(tuple(b for b, _ in item.factors))
    elif isinstance(item, tuple):
        for part in item:
            yield from _refs(part)


def _fits(place: Sequence[Subscript], at: Sequence[Subscript]) -> bool:
    """Whether an array with axes ``place`` stretches to axes ``at`` as arrays do."""
    if len(place) > len(at):
        return all(i == it.UNIT for i in place[: len(place) - len(at)]) and _fits(
            place[len(place) - len(at) :], at
        )
    tail = at[len(at) - len(place) :]
    return all(i in (j, it.UNIT) for i, j in zip(place, tail, strict=True))


def _fits_all(base: Base, at: tuple[Subscript, ...]) -> bool:
    return all(len(r.at) == len(at) and _fits(r.at, at) for r in _refs(base))


def _one_hot(a: Subscript, b: Subscript, at: tuple[Subscript, ...]) -> Notation:
    looked, other = (a, b) if isinstance(a, it.Lookup) else (b, a)
    if isinstance(looked, it.Lookup) and (*looked.at, other) == at:
        return Apply("onehot", (Name(looked.name),))
    raise _NoMatrix


def _tuple(item: Subscript | tuple[Subscript, ...]) -> tuple[Subscript, ...]:
    return item if isinstance(item, tuple) else (item,)


def _axes_of(factors: Sequence[tuple[Base, Fraction]]) -> tuple[Subscript, ...]:
    """The axes of the factor with most of them."""
    places = [r.at for b, _ in factors for r in _refs(b)]
    if not places:
        raise _NoMatrix
    return max(places, key=lambda p: len(it.indices(p)))


def _order(pairs: Sequence[tuple[Base, Fraction]], bound: set[int]) -> tuple[int, ...]:
    return tuple(i for i in _axes_of(pairs) if isinstance(i, int) and i in bound)


def _is_flat(at: tuple[Subscript, ...], groups: Mapping[frozenset[int], object]) -> bool:
    """Whether leading axes stay together, so that they count as one."""
    return all(set(g) & set(at) in (set(at[:-1]), set(at[-1:])) for g in groups)


def _split(
    at: tuple[Subscript, ...], left: frozenset[int] | set[int], right: frozenset[int] | set[int]
) -> tuple[tuple[Subscript, ...] | None, tuple[Subscript, ...] | None]:
    """``at`` as rows and columns, if ``left`` are the rows."""
    axes = at if len(at) >= 2 else (*at, it.UNIT) if at else (it.UNIT, it.UNIT)
    rows, columns = axes[:-1], axes[-1:]
    if {i for i in rows if i != it.UNIT} == set(left) and {
        i for i in columns if i != it.UNIT
    } == set(right):
        return rows, columns
    return None, None


def _place(index: Subscript, letters: Mapping[int, str]) -> Notation:
    if isinstance(index, it.Lookup):
        at = tuple(_place(i, letters) for i in index.at if i != it.UNIT)
        return Indexed(Name(index.name), at) if at else Name(index.name)
    return Name(letters.get(index, f"i{abs(index)}")) if index != it.UNIT else Num("0")


def _function(name: str, arguments: Sequence[Notation]) -> Notation:
    if name == "inf":
        return Name("inf")
    return Apply(name, tuple(arguments))


def _raised(base: Notation, exponent: Fraction) -> Notation:
    if exponent == 1:
        return base
    if exponent == Fraction(1, 2):
        return Root(base)
    if exponent.denominator == 2 and exponent > 1:
        return _product(
            [Power(base, str(exponent // 1)) if exponent > 2 else base, Root(base)], "scalar"
        )
    return Power(base, str(exponent))


def _product(items: Sequence[Notation], kind: _Kind) -> Notation:
    if not items:
        return Num("1")
    if len(items) == 1:
        return items[0]
    return Product(tuple(items), kind)


def _assembled(
    numbers: Sequence[Notation],
    top: Sequence[Notation],
    divisors: Sequence[Notation],
    bottom: Sequence[Notation],
    is_array: bool,
) -> Notation:
    """Numbers and factors above and below one fraction bar."""
    kind: _Kind = "elementwise" if is_array or len(top) > 1 else "scalar"
    above = _product([*numbers, *top], kind)
    below = [*divisors, *bottom]
    return (
        Quotient(above, _product(below, "scalar" if not bottom[1:] else "elementwise"))
        if below
        else above
    )
