"""Makes formulas short: products are multiplied out where something cancels, and known quantities
get their names back.

``Folder.shortest`` searches a few dozen equal forms of a polynomial and keeps the one that mentions
least: groups multiplied out one by one, definitions of named values read from right to left
(``exp(z_i) / sum exp(z_j)`` becomes ``p_i``), softmax and sigmoid recognised. Every step is an
identity of the index algebra, except one: class probabilities given as targets sum to 1, which is
recorded as an assumption where it is used.

Non-goals: finding the shortest form there is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from fractions import Fraction
from typing import TypeAlias

from gradc.codegen.symbolic.formulas import terms as it
from gradc.codegen.symbolic.formulas.terms import Base, Factors, Monomial, Poly, Subscript

_MOST_STATES = 120
_MOST_SIZE = 400
_LONG = 36
_ONE = Fraction(1)

Rewrite: TypeAlias = Callable[[Monomial], Poly | None]


@dataclass(frozen=True)
class Definition:
    """``name[at]`` equals ``poly``."""

    name: str
    at: tuple[Subscript, ...]
    poly: Poly


@dataclass
class Folder:
    """Shortens polynomials by ``definitions``; ``targets`` are inputs that may be class
    probabilities.
    """

    definitions: Sequence[Definition]
    targets: Collection[str] = ()
    assumptions: dict[str, None] = field(default_factory=dict)
    most_states: int = _MOST_STATES
    _rewrites: list[tuple[set[str], list[Rewrite]]] = field(init=False)

    def __post_init__(self) -> None:
        self._rewrites = [(_names(d.poly), list(_readings(d))) for d in self.definitions]

    def shortest(self, poly: Poly) -> Poly:
        """An equal polynomial that is as short as a bounded search finds."""
        start = _tidied(poly)
        best, best_size = start, it.size_of(start)
        seen: dict[Poly, frozenset[str]] = {start: frozenset()}
        frontier = [(best_size, 0, start)]
        # Long formulas are searched less: each step costs more, and short forms of them are rare.
        most = self.most_states if best_size <= _LONG else self.most_states // 8
        while frontier and len(seen) < most:
            frontier.sort(key=lambda item: item[:2])
            _, _, here = frontier.pop(0)
            for moved, presumed in self._moves(here):
                found = _tidied(moved)
                size = it.size_of(found)
                if found in seen or size > _MOST_SIZE:
                    continue
                seen[found] = seen[here] | presumed
                frontier.append((size, len(seen), found))
                if size < best_size:
                    best, best_size = found, size
        self.assumptions.update(dict.fromkeys(sorted(seen[best])))
        return best

    def _moves(self, poly: Poly) -> Iterator[tuple[Poly, frozenset[str]]]:
        nothing: frozenset[str] = frozenset()
        mentioned = _names(poly)
        for names, rewrites in self._rewrites:
            if names <= mentioned:
                for rewrite in rewrites:
                    yield _everywhere(poly, rewrite), nothing
        yield _everywhere(poly, _softmax), nothing
        for name in self.targets:
            text = f"the targets {name} sum to 1 over the classes"
            yield _everywhere(poly, _normalised(name)), frozenset([text])
        yield it.expanded(poly), nothing
        for term in poly:
            rest = tuple(t for t in poly if t != term)
            for base, exponent in term.factors:
                if isinstance(base, it.Group) and exponent >= 1:
                    yield it.plus(rest, _multiplied_out(term, base)), nothing
        if len(poly) > 1:
            yield (it.as_term(poly),), nothing


def _names(item: object) -> set[str]:
    """The arrays that a formula mentions."""
    found: set[str] = set()
    pending: list[object] = [item]
    while pending:
        part = pending.pop()
        if isinstance(part, tuple):
            pending += part
        elif isinstance(part, it.Ref):
            found.add(part.name)
        elif is_dataclass(part):
            pending += [getattr(part, f.name) for f in fields(part)]
    return found


def _multiplied_out(term: Monomial, group: it.Group) -> Poly:
    """``term`` with one factor ``group`` multiplied out."""
    left = [(b, e - 1 if b == group else e) for b, e in term.factors]
    head = (it.monomial(term.coefficient, left),)
    return it.plus(*(it.times(head, (t,)) for t in group.poly))


# --- applying a rewrite at every level


def _everywhere(poly: Poly, rewrite: Rewrite) -> Poly:
    """``poly`` with ``rewrite`` applied to its terms and to those inside sums, groups and
    functions.
    """
    parts = []
    for term in poly:
        inner = it.times(*(it.power(_inside(b, rewrite), e) for b, e in term.factors))
        for moved in it.scaled(inner, term.coefficient):
            found = rewrite(moved)
            parts.append((moved,) if found is None else found)
    return it.plus(*parts)


def _inside(base: Base, rewrite: Rewrite) -> Poly:
    if isinstance(base, it.Group):
        return _everywhere(base.poly, rewrite)
    if isinstance(base, it.Call):
        return it.single(it.Call(base.name, tuple(_everywhere(a, rewrite) for a in base.arguments)))
    if isinstance(base, it.Cond):
        return it.single(
            it.Cond(base.op, _everywhere(base.a, rewrite), _everywhere(base.b, rewrite))
        )
    if isinstance(base, it.Sigma):
        # Under labels of its own, so that what the rewrite brings in is not captured.
        found = _everywhere((Monomial(_ONE, base.factors),), rewrite)
        if found == (Monomial(_ONE, base.factors),):
            return it.single(base)
        for label, size in zip(base.bound, base.sizes, strict=True):
            found = it.total(found, label, size)
        return found
    return it.single(base)


# --- definitions read backwards


def _readings(definition: Definition) -> Iterator[Rewrite]:
    """Ways to recognise what ``definition`` names."""
    poly = definition.poly
    if len(poly) != 1:
        term = it.as_term(poly)
        if len(term.factors) == 1:
            yield _product(definition, term)
        return
    term = poly[0]
    if not term.factors or (len(term.factors) == 1 and isinstance(term.factors[0][0], it.Ref)):
        return
    yield _product(definition, term)
    for base, exponent in term.factors:
        if isinstance(base, it.Group) and exponent == 1 and len(term.factors) > 1:
            yield _factor(definition, term, base)


def _product(definition: Definition, shape: Monomial) -> Rewrite:
    """Products that hold all factors of ``shape`` hold the name instead."""
    formal = tuple(i for i in definition.at if isinstance(i, int) and i != it.UNIT)

    def rewrite(term: Monomial) -> Poly | None:
        mapping = _embedding(shape.factors, term.factors, formal)
        if mapping is None:
            return None
        renamed = it.rename((Monomial(_ONE, shape.factors),), mapping)
        inverse = it.power(renamed, -1)
        at = tuple(it.rename_index(i, mapping) for i in definition.at)
        name = it.single(it.Ref(definition.name, at))
        return it.scaled(it.times((term,), inverse, name), 1 / shape.coefficient)

    return rewrite


def _factor(definition: Definition, shape: Monomial, group: it.Group) -> Rewrite:
    """The group in ``shape``, wherever it stands, is the name over the other factors."""
    formal = tuple(i for i in definition.at if isinstance(i, int) and i != it.UNIT)
    others = tuple((b, e) for b, e in shape.factors if b != group)

    def rewrite(term: Monomial) -> Poly | None:
        for base, exponent in term.factors:
            if not isinstance(base, it.Group) or exponent.denominator != 1:
                continue
            mapping = _matched(group, base, formal)
            if mapping is None:
                continue
            at = tuple(it.rename_index(i, mapping) for i in definition.at)
            rest = it.rename((Monomial(shape.coefficient, others),), mapping)
            own = it.times(it.single(it.Ref(definition.name, at)), it.power(rest, -1))
            left = tuple((b, e) for b, e in term.factors if b != base)
            return it.times((Monomial(term.coefficient, left),), it.power(own, exponent))
        return None

    return rewrite


def _embedding(
    shape: Factors, factors: Factors, formal: Sequence[int]
) -> Mapping[int, Subscript] | None:
    """How to name the formal indices so that every factor of ``shape`` is among ``factors``."""
    anchors = [b for b, _ in shape if set(formal) <= set(it.indices(b))]
    if not anchors:
        return None
    for base, _ in factors:
        mapping = _matched(anchors[0], base, formal)
        if mapping is not None and _contains(shape, factors, mapping):
            return mapping
    return None


def _contains(shape: Factors, factors: Factors, mapping: Mapping[int, Subscript]) -> bool:
    known = dict(factors)
    renamed = it.rename((Monomial(_ONE, shape),), mapping)
    if len(renamed) != 1 or renamed[0].coefficient != 1:
        return False
    for base, exponent in renamed[0].factors:
        have = known.get(base)
        if have is None or (have > 0) != (exponent > 0) or abs(have) < abs(exponent):
            return False
    return True


def _matched(pattern: Base, item: Base, formal: Sequence[int]) -> Mapping[int, Subscript] | None:
    mapping: dict[int, Subscript] = {}
    if not _match(pattern, item, formal, mapping):
        return None
    if len(mapping) != len(formal):
        return None
    # Sums inside may have changed their labels: equality decides.
    return mapping if it.rename_base(pattern, mapping) == it.rename_base(item, {}) else None


def _match(
    pattern: object, item: object, formal: Sequence[int], mapping: dict[int, Subscript]
) -> bool:
    if isinstance(pattern, int) and not isinstance(pattern, bool) and pattern in formal:
        if not isinstance(item, (int, it.Lookup)):
            return False
        return mapping.setdefault(pattern, item) == item
    if isinstance(pattern, tuple) and isinstance(item, tuple):
        return len(pattern) == len(item) and all(
            _match(a, b, formal, mapping) for a, b in zip(pattern, item, strict=True)
        )
    if type(pattern) is not type(item):
        return False
    if is_dataclass(pattern):
        return all(
            _match(getattr(pattern, f.name), getattr(item, f.name), formal, mapping)
            for f in fields(pattern)
        )
    return pattern == item


# --- functions recognised


def _tidied(poly: Poly) -> Poly:
    """Sigmoids instead of quotients of exponentials, at every level."""
    return _everywhere(poly, _sigmoid)


def _sigmoid(term: Monomial) -> Poly | None:
    for base, exponent in term.factors:
        argument = _logistic(base) if exponent == -1 else None
        if argument is not None:
            left = tuple((b, e) for b, e in term.factors if b != base)
            return it.times((Monomial(term.coefficient, left),), sigmoid(argument))
        if exponent != 1 or not isinstance(base, it.Call) or base.name != "sigmoid":
            continue
        if _is_negative(base.arguments[0]):
            left = tuple((b, e) for b, e in term.factors if b != base)
            return it.times((Monomial(term.coefficient, left),), sigmoid(base.arguments[0]))
    return None


def sigmoid(argument: Poly) -> Poly:
    """The logistic function; of an argument that starts with a minus sign it is 1 minus that of the
    opposite.
    """
    if _is_negative(argument):
        return it.minus(it.ONE, sigmoid(it.scaled(argument, -1)))
    return it.single(it.Call("sigmoid", (argument,)))


def _is_negative(poly: Poly) -> bool:
    return bool(poly) and all(t.coefficient < 0 for t in poly)


def _logistic(base: Base) -> Poly | None:
    """x where ``base`` is 1 + exp(-x)."""
    if not isinstance(base, it.Group) or len(base.poly) != 2:
        return None
    others = [t for t in base.poly if t.factors]
    if len(others) != 1 or others[0].coefficient != 1:
        return None
    logarithm = _logarithm(others[0].factors)
    return None if logarithm is None else it.scaled(logarithm, -1)


def _logarithm(factors: Factors) -> Poly | None:
    """The sum of the exponents of a product of exponentials; None if it is no such product."""
    parts = []
    for base, exponent in factors:
        if not isinstance(base, it.Call) or base.name != "exp":
            return None
        parts.append(it.scaled(base.arguments[0], exponent))
    return it.plus(*parts)


def _softmax(term: Monomial) -> Poly | None:
    """exp(z_i) over the sum of exp(z_j) over j is the softmax of z at i."""
    known = dict(term.factors)
    for base, exponent in term.factors:
        if not isinstance(base, it.Sigma) or exponent >= 0 or len(base.bound) != 1:
            continue
        (label,) = base.bound
        candidates = it.indices(tuple(b for b, e in term.factors if e > 0))
        for index in (*candidates, it.UNIT):
            body = it.rename((Monomial(_ONE, base.factors),), {label: index})
            if len(body) != 1 or not _contains(body[0].factors, term.factors, {}):
                continue
            name = _softmax_name(base, label, index)
            if name is None or base in dict(body[0].factors) or known[base] > -1:
                continue
            freed = it.times((term,), it.power(body, -1), it.single(base))
            return it.times(freed, name)
    return None


def _softmax_name(sigma: it.Sigma, label: int, index: Subscript) -> Poly | None:
    """What the softmax is called: by its argument, at ``index``."""
    exponentials = tuple((b, e) for b, e in sigma.factors if not isinstance(b, it.Cond))
    logarithm = _logarithm(exponentials) if exponentials else None
    if logarithm is None:
        return None
    argument = it.rename(logarithm, {label: index})
    if len(argument) == 1 and argument[0].coefficient == 1 and len(argument[0].factors) == 1:
        base, exponent = argument[0].factors[0]
        if isinstance(base, it.Ref) and exponent == 1:
            axis = base.at.index(index) if index in base.at else len(base.at) - 1
            where = "" if axis == len(base.at) - 1 else f", axis={axis}"
            return it.single(it.Ref(f"softmax({base.name}{where})", base.at))
    return it.single(it.Call("softmax", (argument,)))


def _normalised(name: str) -> Rewrite:
    """The sum of a distribution beside a softmax is 1."""

    def rewrite(term: Monomial) -> Poly | None:
        if not any(_is_softmax(b) for b, _ in term.factors):
            return None
        for base, exponent in term.factors:
            if isinstance(base, it.Sigma) and len(base.factors) == 1 and exponent == 1:
                inner, _ = base.factors[0]
                if isinstance(inner, it.Ref) and inner.name == name and inner.at[-1] in base.bound:
                    return (
                        Monomial(term.coefficient, tuple(p for p in term.factors if p[0] != base)),
                    )
        return None

    return rewrite


def _is_softmax(base: Base) -> bool:
    return (isinstance(base, it.Ref) and base.name.startswith("softmax(")) or (
        isinstance(base, it.Call) and base.name in ("softmax", "exp")
    )
