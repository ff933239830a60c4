"""The index algebra that formulas are found in: sums of products of array elements, exact and in
canonical form.

A polynomial is a tuple of terms; a term is a rational coefficient times powers of bases: an element
of a named array (``Ref``), Kronecker's delta, a function of polynomials (``Call``), a polynomial
that is not multiplied out (``Group``), Iverson's bracket (``Cond``), a sum over bound indices
(``Sigma``). Equal things are equal tuples: factors and terms are sorted, bound indices are negative
labels chosen canonically, a group has leading coefficient 1 and no common factor.

Identities are those of the reals where both sides are defined. Sums over a delta of a table's ids
presume that the ids lie in range. Indices are positive numbers; 0 is the only index of an axis of
size 1.

Non-goals: reading programs (``index_expand``), recognising names (``index_fold``), notation
(``notation``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import lru_cache
from itertools import permutations, product
from typing import TypeAlias

UNIT = 0
_MOST_PERMUTED = 4
_MOST_EXPANDED = 64


@dataclass(frozen=True, slots=True)
class Lookup:
    """An element of an integer array, used as an index."""

    name: str
    at: tuple[Subscript, ...]


Subscript: TypeAlias = int | Lookup


@dataclass(frozen=True, slots=True)
class Ref:
    """An element of the array called ``name``."""

    name: str
    at: tuple[Subscript, ...]


@dataclass(frozen=True, slots=True)
class Delta:
    """1 where two indices are equal, else 0."""

    a: Subscript
    b: Subscript


@dataclass(frozen=True, slots=True)
class Call:
    """A function of polynomials."""

    name: str
    arguments: tuple[Poly, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """A polynomial as one factor."""

    poly: Poly


@dataclass(frozen=True, slots=True)
class Cond:
    """1 where a comparison (``gt``, ``eq``, ...) holds, else 0. Indices compare through
    ``Call('index', ...)``.
    """

    op: str
    a: Poly
    b: Poly


@dataclass(frozen=True, slots=True)
class IndexNumber:
    """An index as a number."""

    index: Subscript


@dataclass(frozen=True, slots=True)
class Sigma:
    """The sum over ``bound`` (of ``sizes``) of a product."""

    bound: tuple[int, ...]
    sizes: tuple[int, ...]
    factors: Factors


Base: TypeAlias = Ref | Delta | Call | Group | Cond | IndexNumber | Sigma
Factors: TypeAlias = tuple[tuple[Base, Fraction], ...]


@dataclass(frozen=True, slots=True)
class Monomial:
    """A coefficient times powers of bases, sorted."""

    coefficient: Fraction
    factors: Factors


Poly: TypeAlias = tuple[Monomial, ...]
ZERO: Poly = ()
ONE: Poly = (Monomial(Fraction(1), ()),)


@lru_cache(maxsize=100_000)
def _key(item: object) -> str:
    """What things are sorted by."""
    return f"{type(item).__name__}{item!r}"


def number(value: Fraction | int) -> Poly:
    """A constant."""
    return (Monomial(Fraction(value), ()),) if value else ZERO


def single(base: Base, exponent: Fraction | int = 1) -> Poly:
    """A power of one base."""
    return (Monomial(Fraction(1), ((base, Fraction(exponent)),)),)


def plus(*polys: Poly) -> Poly:
    """The sum, equal terms merged."""
    found: dict[Factors, Fraction] = {}
    for poly in polys:
        for term in poly:
            found[term.factors] = found.get(term.factors, Fraction(0)) + term.coefficient
    terms = [Monomial(c, factors) for factors, c in found.items() if c]
    return tuple(sorted(terms, key=lambda t: _key(t.factors)))


def scaled(poly: Poly, by: Fraction | int) -> Poly:
    """``poly`` times a number."""
    return tuple(Monomial(t.coefficient * by, t.factors) for t in poly) if by else ZERO


def minus(a: Poly, b: Poly) -> Poly:
    """The difference."""
    return plus(a, scaled(b, -1))


def _joined(pairs: Iterable[tuple[Base, Fraction]]) -> Factors:
    found: dict[Base, Fraction] = {}
    for base, exponent in pairs:
        if isinstance(base, (Cond, Delta)) and base in found:
            continue  # an indicator is its own square
        found[base] = found.get(base, Fraction(0)) + exponent
    kept = [(base, e) for base, e in found.items() if e]
    return tuple(sorted(kept, key=lambda pair: _key(pair[0])))


def monomial(coefficient: Fraction, pairs: Iterable[tuple[Base, Fraction]]) -> Monomial:
    """A term in canonical form."""
    return Monomial(coefficient, _joined(pairs))


def as_term(poly: Poly) -> Monomial:
    """``poly`` as one term, a group if it has several."""
    if len(poly) == 1:
        return poly[0]
    if not poly:
        return Monomial(Fraction(0), ())
    common = dict(poly[0].factors)
    for term in poly[1:]:
        exponents = dict(term.factors)
        common = {
            base: min(e, exponents[base], key=abs)
            for base, e in common.items()
            if base in exponents and (e > 0) == (exponents[base] > 0)
        }
    lead = poly[0].coefficient
    inverse = [(base, -e) for base, e in common.items()]
    inner = plus(*((monomial(t.coefficient / lead, (*t.factors, *inverse)),) for t in poly))
    # Terms without the common factors may sort differently: the leading coefficient is taken again.
    again = inner[0].coefficient
    group = Group(scaled(inner, 1 / again))
    return monomial(lead * again, (*common.items(), (group, Fraction(1))))


def times(*polys: Poly) -> Poly:
    """The product; what is not a term stays a group."""
    coefficient, pairs = Fraction(1), list[tuple[Base, Fraction]]()
    several: list[Poly] = []
    for poly in polys:
        if not poly:
            return ZERO
        if len(poly) == 1:
            coefficient *= poly[0].coefficient
            pairs += poly[0].factors
        else:
            several.append(poly)
    if not pairs and len(several) == 1:
        return scaled(several[0], coefficient)
    for poly in several:
        term = as_term(poly)
        coefficient *= term.coefficient
        pairs += term.factors
    return _unwrapped(monomial(coefficient, pairs))


def _unwrapped(term: Monomial) -> Poly:
    """A lone group is the polynomial it holds."""
    if len(term.factors) == 1:
        base, exponent = term.factors[0]
        if isinstance(base, Group) and exponent == 1:
            return scaled(base.poly, term.coefficient)
    return (term,) if term.coefficient else ZERO


def power(poly: Poly, exponent: Fraction | int) -> Poly:
    """``poly`` to a constant power. Raises ZeroDivisionError for 0 to a negative one."""
    exponent = Fraction(exponent)
    if exponent == 0:
        return ONE
    if not poly:
        if exponent < 0:
            raise ZeroDivisionError("a power of zero")
        return ZERO
    if exponent.denominator == 1:
        term = as_term(poly)
        raised = monomial(
            term.coefficient ** int(exponent), ((b, e * exponent) for b, e in term.factors)
        )
        return _unwrapped(raised)
    if len(poly) == 1 and poly[0].coefficient == 1 and len(poly[0].factors) == 1:
        base, known = poly[0].factors[0]
        if known == 1:
            return single(base, exponent)
    if poly == ONE:
        return ONE
    return single(Group(poly), exponent)


# --- indices


def indices(item: object) -> dict[int, None]:
    """Free indices, in order of occurrence."""
    found: dict[int, None] = {}
    _collect(item, found)
    return found


def _collect(item: object, found: dict[int, None]) -> None:
    if isinstance(item, int):
        if item != UNIT:
            found[item] = None
    elif isinstance(item, Sigma):
        inner: dict[int, None] = {}
        _collect(item.factors, inner)
        found.update((i, None) for i in inner if i not in item.bound)
    elif isinstance(item, tuple):
        for part in item:
            _collect(part, found)
    elif isinstance(item, (Ref, Lookup)):
        _collect(item.at, found)
    elif isinstance(item, (Delta, Call, Group, Cond, IndexNumber, Monomial)):
        for field in fields(item):
            value = getattr(item, field.name)
            if not isinstance(value, (str, Fraction)):
                _collect(value, found)


def rename_index(index: Subscript, by: Mapping[int, Subscript]) -> Subscript:
    """``index`` with free indices replaced."""
    if isinstance(index, Lookup):
        return Lookup(index.name, tuple(rename_index(i, by) for i in index.at))
    return by.get(index, index)


def rename(poly: Poly, by: Mapping[int, Subscript]) -> Poly:
    """``poly`` with free indices replaced, canonical again."""
    return plus(
        *(
            scaled(times(*(power(rename_base(b, by), e) for b, e in t.factors)), t.coefficient)
            for t in poly
        )
    )


def rename_base(base: Base, by: Mapping[int, Subscript]) -> Poly:
    """A base with free indices replaced."""
    if isinstance(base, Ref):
        return single(Ref(base.name, tuple(rename_index(i, by) for i in base.at)))
    if isinstance(base, Delta):
        return delta(rename_index(base.a, by), rename_index(base.b, by))
    if isinstance(base, IndexNumber):
        return single(IndexNumber(rename_index(base.index, by)))
    if isinstance(base, Call):
        return single(Call(base.name, tuple(rename(a, by) for a in base.arguments)))
    if isinstance(base, Cond):
        return single(Cond(base.op, rename(base.a, by), rename(base.b, by)))
    if isinstance(base, Group):
        return rename(base.poly, by)
    return _rename_sigma(base, by)


def _rename_sigma(base: Sigma, by: Mapping[int, Subscript]) -> Poly:
    kept = {i: j for i, j in by.items() if i not in base.bound}
    taken = indices(tuple(kept.values())) | indices(base.factors)
    fresh: dict[int, int] = {}
    for label in base.bound:
        new = min((*taken, *fresh.values(), -1000)) - 1
        fresh[label] = new
    mapping: dict[int, Subscript] = {**kept, **fresh}
    body = times(*(power(rename_base(b, mapping), e) for b, e in base.factors))
    for label, size in zip(base.bound, base.sizes, strict=True):
        body = total(body, fresh[label], size)
    return body


def delta(a: Subscript, b: Subscript) -> Poly:
    """Kronecker's delta."""
    if a == b:
        return ONE
    if isinstance(a, int) and isinstance(b, int):
        return single(Delta(min(a, b), max(a, b)))
    first, second = sorted((a, b), key=_key)
    return single(Delta(first, second))


def total(poly: Poly, index: int, size: int) -> Poly:
    """The sum of ``poly`` over ``index``, which runs over ``size`` values."""
    return plus(*(_total_term(term, index, size) for term in poly))


def _total_term(term: Monomial, index: int, size: int) -> Poly:
    for base, _ in term.factors:
        if isinstance(base, Delta) and index in (base.a, base.b):
            other = base.b if base.a == index else base.a
            rest = tuple((b, e) for b, e in term.factors if b != base)
            return rename((Monomial(term.coefficient, rest),), {index: other})
    inside = [(b, e) for b, e in term.factors if index in indices(b)]
    outside = [(b, e) for b, e in term.factors if index not in indices(b)]
    if not inside:
        return (Monomial(term.coefficient * size, term.factors),)
    spread = _distributed(inside, index)
    if spread is not None:
        return times((monomial(term.coefficient, outside),), total(spread, index, size))
    bound, sizes, body = [index], [size], list[tuple[Base, Fraction]]()
    for base, exponent in inside:
        if isinstance(base, Sigma) and exponent == 1 and not _clashes(base, inside):
            bound += base.bound
            sizes += base.sizes
            body += base.factors
        else:
            body.append((base, exponent))
    sigma = canonical_sigma(tuple(bound), tuple(sizes), _joined(body))
    return (monomial(term.coefficient, [*outside, (sigma, Fraction(1))]),)


def _clashes(sigma: Sigma, others: list[tuple[Base, Fraction]]) -> bool:
    """Whether merging ``sigma`` into the sum around it would capture an index of another factor."""
    inner = [b for b, _ in others if isinstance(b, Sigma) and b != sigma]
    return any(set(sigma.bound) & {*b.bound, *indices(b)} for b in inner) or any(
        i in indices(b) for b, _ in others if b != sigma for i in sigma.bound
    )


def _distributed(inside: list[tuple[Base, Fraction]], index: int) -> Poly | None:
    """The product multiplied out, if a group is all there is or a group holds a delta of the
    index.
    """
    for position, (base, exponent) in enumerate(inside):
        if not isinstance(base, Group) or exponent != 1:
            continue
        has_delta = any(
            isinstance(b, Delta) and index in (b.a, b.b) for t in base.poly for b, _ in t.factors
        )
        if len(inside) == 1 or has_delta:
            rest = (Monomial(Fraction(1), _joined(inside[:position] + inside[position + 1 :])),)
            return plus(*(times((t,), rest) for t in base.poly))
    return None


def canonical_sigma(bound: tuple[int, ...], sizes: tuple[int, ...], factors: Factors) -> Sigma:
    """A sum whose bound indices have canonical labels."""
    free = {i for i in indices(factors) if i not in bound}
    labels: list[int] = []
    candidate = -1
    while len(labels) < len(bound):
        if candidate not in free:
            labels.append(candidate)
        candidate -= 1
    # Through indices that nothing uses, so that old and new labels cannot meet.
    lowest = min((*free, *bound, *labels)) - 1
    apart = {b: lowest - n for n, b in enumerate(bound)}
    moved = _plain_rename(factors, apart)
    best: tuple[str, Sigma] | None = None
    orders = (
        permutations(range(len(bound))) if len(bound) <= _MOST_PERMUTED else (range(len(bound)),)
    )
    for order in orders:
        mapping = {apart[bound[place]]: labels[n] for n, place in enumerate(order)}
        found = Sigma(
            tuple(labels), tuple(sizes[place] for place in order), _plain_rename(moved, mapping)
        )
        if best is None or _key(found) < best[0]:
            best = (_key(found), found)
    assert best is not None
    return best[1]


def _plain_rename(factors: Factors, by: Mapping[int, int]) -> Factors:
    renamed = times(*(power(rename_base(b, by), e) for b, e in factors))
    return renamed[0].factors if len(renamed) == 1 else as_term(renamed).factors


# --- multiplying out


def expanded(poly: Poly) -> Poly:
    """Groups to positive whole powers multiplied out, where that stays small."""
    return plus(*(_expanded_term(term) for term in poly))


def _expanded_term(term: Monomial) -> Poly:
    plain = [(b, e) for b, e in term.factors if not _is_expandable(b, e)]
    groups = [
        b.poly
        for b, e in term.factors
        if isinstance(b, Group) and _is_expandable(b, e)
        for _ in range(int(e))
    ]
    count = 1
    for group in groups:
        count *= len(group)
    if not groups or count > _MOST_EXPANDED:
        return (term,)
    head = (monomial(term.coefficient, plain),)
    return plus(*(times(head, *((t,) for t in chosen)) for chosen in product(*groups)))


def _is_expandable(base: Base, exponent: Fraction) -> bool:
    return isinstance(base, Group) and exponent > 0 and exponent.denominator == 1


def size_of(item: object) -> int:
    """How many array elements, functions and numbers a formula mentions: what shorter means."""
    if isinstance(item, (Ref, Lookup, Delta, IndexNumber)):
        return 1
    if isinstance(item, Monomial):
        costs = (size_of(b) + (e not in (1, -1)) for b, e in item.factors)
        return sum(costs) + (abs(item.coefficient) != 1)
    if isinstance(item, Sigma):
        return 1 + sum(size_of(b) for b, _ in item.factors)
    if isinstance(item, (Call, Group, Cond)):
        return 1 + sum(size_of(getattr(item, field.name)) for field in fields(item))
    if isinstance(item, tuple):
        return sum(size_of(part) for part in item)
    return 0
