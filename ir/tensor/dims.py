"""Dimensions: integers where code is made, polynomials in named symbols where programs are checked.

A ``Dim`` is an ``int`` or a ``DimExpr`` that no ``int`` equals: arithmetic folds to ``int`` as soon
as every symbol cancels, so ``4 * D - 3 * D == D`` and shape rules are written once for both.
Equality is equality
of polynomials: two distinct symbols are never equal. Floor division by anything that does not
divide exactly becomes an opaque atom ``floordiv(a, b)``.

Non-goals: inequalities and solving; what cannot be proved here is re-checked when dimensions are
bound.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias, Union

Dim: TypeAlias = Union[int, "DimExpr"]

# How many atoms one dimension may hold, those inside quotients included, how deep quotients may lie
# in quotients, and how large a coefficient may be. Real shapes need a few dozen atoms; the bounds
# keep each step of arithmetic cheap.
MAX_ATOMS = 512
MAX_QUOTIENTS = 64
MAX_COEFFICIENT = 2**63
# How many atoms one multiplication may write.
MAX_PRODUCTS = 8 * MAX_ATOMS


# How many atoms the dimensions of one program may hold together while it is checked: a second or so
MAX_WORK = 1_000_000
_SMALL = 8  # what stays possible afterwards, so that an error can be reported and the rest be read


class DimensionTooLarge(ArithmeticError):
    """A dimension is larger, as an expression or as a number, than any program means."""


class _Work(threading.local):
    """What arithmetic may still write in this thread; None: any amount."""

    left: int | None = None


_WORK = _Work()


@contextmanager
def bounded_work(limit: int = MAX_WORK) -> Iterator[None]:
    """Inside, arithmetic raises DimensionTooLarge once it has written ``limit`` atoms. The
    outermost bound counts.
    """
    if _WORK.left is not None:
        yield
        return
    _WORK.left = limit
    try:
        yield
    finally:
        _WORK.left = None


@dataclass(frozen=True, slots=True, order=True)
class Symbol:
    """A named dimension, such as the ``B`` of ``float[B, D]``."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Quotient:
    """The atom ``numerator // denominator``, where the division is not known to be exact."""

    numerator: Dim
    denominator: Dim
    atoms: int = field(init=False, compare=False, repr=False)
    depth: int = field(init=False, compare=False, repr=False)
    text: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        sides = (self.numerator, self.denominator)
        object.__setattr__(self, "atoms", 1 + sum(d.atoms for d in sides if isinstance(d, DimExpr)))
        depth = 1 + max((d.depth for d in sides if isinstance(d, DimExpr)), default=0)
        if depth > MAX_QUOTIENTS:
            raise DimensionTooLarge
        object.__setattr__(self, "depth", depth)
        object.__setattr__(self, "text", f"({self.numerator}) // ({self.denominator})")

    def __str__(self) -> str:
        return self.text


Atom: TypeAlias = Symbol | Quotient
# A monomial is a sorted tuple of atoms with repetition; () is the constant monomial.
Monomial: TypeAlias = tuple[Atom, ...]


def _atom_key(atom: Atom) -> tuple[int, str]:
    return (0 if isinstance(atom, Symbol) else 1, str(atom))


@dataclass(frozen=True, slots=True)
class DimExpr:
    """A non-constant integer polynomial; ``terms`` is sorted and has no zero coefficient."""

    terms: tuple[tuple[Monomial, int], ...]
    atoms: int = field(init=False, compare=False, repr=False)
    depth: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        atoms = depth = 0
        for monomial, coefficient in self.terms:
            atoms += 1
            for atom in monomial:
                if isinstance(atom, Quotient):
                    atoms += atom.atoms
                    depth = max(depth, atom.depth)
                else:
                    atoms += 1
            if abs(coefficient) > MAX_COEFFICIENT:
                raise DimensionTooLarge
        if atoms > MAX_ATOMS:
            raise DimensionTooLarge
        object.__setattr__(self, "atoms", atoms)
        object.__setattr__(self, "depth", depth)
        if _WORK.left is not None:
            _WORK.left -= atoms
            if _WORK.left < 0 and atoms > _SMALL:
                raise DimensionTooLarge

    def __add__(self, other: Dim) -> Dim:
        if isinstance(other, int):
            return self._plus(other)
        return _from_terms([*self.terms, *_terms(other)])

    __radd__ = __add__

    def _plus(self, constant: int) -> Dim:
        """The constant's term is the last one, if there is one: nothing need be sorted."""
        if constant == 0:
            return self
        terms = self.terms
        if terms[-1][0] == ():
            constant += terms[-1][1]
            terms = terms[:-1]
        return DimExpr((*terms, ((), constant)) if constant else terms)

    def __neg__(self) -> Dim:
        return _from_terms([(m, -c) for m, c in self.terms])

    def __sub__(self, other: Dim) -> Dim:
        return self + (-other)

    def __rsub__(self, other: Dim) -> Dim:
        return (-self) + other

    def __mul__(self, other: Dim) -> Dim:
        if isinstance(other, DimExpr):
            written = len(self.terms) * other.atoms + len(other.terms) * self.atoms
            if written > MAX_PRODUCTS:
                raise DimensionTooLarge
        product = [(_joined(m, n), c * d) for m, c in self.terms for n, d in _terms(other)]
        return _from_terms(product)

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floordiv(other, self)

    def __str__(self) -> str:
        parts: list[str] = []
        for monomial, coefficient in self.terms:
            factors = [str(a) if isinstance(a, Symbol) else f"({a})" for a in monomial]
            if abs(coefficient) != 1 or not factors:
                factors.insert(0, str(abs(coefficient)))
            body = "*".join(factors)
            if not parts:
                parts.append(f"-{body}" if coefficient < 0 else body)
            else:
                parts.append(f"- {body}" if coefficient < 0 else f"+ {body}")
        return " ".join(parts)


def symbol(name: str) -> DimExpr:
    """The dimension called ``name``."""
    return DimExpr((((Symbol(name),), 1),))


def _terms(dim: Dim) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(dim, DimExpr):
        return dim.terms
    return (((), dim),) if dim else ()


def _joined(m: Monomial, n: Monomial) -> Monomial:
    """The product of two monomials."""
    return tuple(sorted((*m, *n), key=_atom_key)) if m and n else m or n


def _monomial_key(monomial: Monomial) -> tuple[int, list[tuple[int, str]]]:
    return (-len(monomial), [_atom_key(a) for a in monomial])


def _from_terms(terms: list[tuple[Monomial, int]]) -> Dim:
    total: dict[Monomial, int] = {}
    for monomial, coefficient in terms:
        total[monomial] = total.get(monomial, 0) + coefficient
    kept = [(m, c) for m, c in total.items() if c]
    if not kept:
        return 0
    if len(kept) == 1 and kept[0][0] == ():
        return kept[0][1]
    return DimExpr(tuple(sorted(kept, key=lambda term: _monomial_key(term[0]))))


def floordiv(a: Dim, b: Dim) -> Dim:
    """``a // b``: exact where it can be shown to be, else an opaque atom. Raises
    ZeroDivisionError.
    """
    if b == 0:
        raise ZeroDivisionError("a dimension divided by zero")
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    exact = divide_exactly(a, b)
    if exact is not None:
        return exact
    whole: Dim = 0
    if isinstance(b, int) and b > 0:
        # (b * q + r) // b = q + r // b: what is divisible comes out, so (4*B + 1) // 2 is 2*B.
        whole = _from_terms([(m, c // b) for m, c in _terms(a)])
        a = _from_terms([(m, c % b) for m, c in _terms(a)])
        if isinstance(a, int):
            return whole + a // b
    return whole + DimExpr((((Quotient(a, b),), 1),))


def divide_exactly(a: Dim, b: Dim) -> Dim | None:
    """The quotient if ``b`` is one term that divides every term of ``a``, or ``a == b``; else
    None.
    """
    if a == b:
        return 1
    divisor = _terms(b)
    if len(divisor) != 1:
        return None
    atoms, coefficient = divisor[0]
    quotient: list[tuple[Monomial, int]] = []
    for monomial, c in _terms(a):
        rest = list(monomial)
        for atom in atoms:
            if atom not in rest:
                return None
            rest.remove(atom)
        if c % coefficient:
            return None
        quotient.append((tuple(rest), c // coefficient))
    return _from_terms(quotient)


def substitute(dim: Dim, values: Mapping[str, Dim]) -> Dim:
    """``dim`` with symbols replaced; symbols that ``values`` lacks stay."""
    if isinstance(dim, int):
        return dim
    total: Dim = 0
    for monomial, coefficient in dim.terms:
        product: Dim = coefficient
        for atom in monomial:
            if isinstance(atom, Symbol):
                product = product * values.get(atom.name, DimExpr((((atom,), 1),)))
            else:
                numerator = substitute(atom.numerator, values)
                product = product * floordiv(numerator, substitute(atom.denominator, values))
        total = total + product
    return total


def symbols(dim: Dim) -> tuple[str, ...]:
    """Names of the symbols in ``dim``, sorted."""
    found: set[str] = set()
    stack = [dim]
    while stack:
        item = stack.pop()
        if isinstance(item, DimExpr):
            for monomial, _ in item.terms:
                for atom in monomial:
                    if isinstance(atom, Symbol):
                        found.add(atom.name)
                    else:
                        stack += [atom.numerator, atom.denominator]
    return tuple(sorted(found))


def product(dims: tuple[Dim, ...]) -> Dim:
    """The number of elements of a shape; 1 for a scalar."""
    total: Dim = 1
    for dim in dims:
        total = total * dim
    return total
