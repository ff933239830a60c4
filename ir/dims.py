"""Dimensions: integers where code is made, polynomials in named symbols where programs are checked.

A ``Dim`` is an ``int`` or a ``DimExpr`` that no ``int`` equals: arithmetic folds to ``int`` as soon as every
symbol cancels, so ``4 * D - 3 * D == D`` and shape rules are written once for both. Equality is equality
of polynomials: two distinct symbols are never equal. Floor division by anything that does not divide
exactly becomes an opaque atom ``floordiv(a, b)``.

Non-goals: inequalities and solving; what cannot be proved here is re-checked when dimensions are bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, Union

Dim: TypeAlias = Union[int, "DimExpr"]

# How many products of terms one multiplication may form; real shapes need a handful.
MAX_PRODUCTS = 4096


class DimensionTooLarge(ArithmeticError):
    """A product of dimensions has more terms than any program means."""


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

    def __str__(self) -> str:
        return f"({self.numerator}) // ({self.denominator})"


Atom: TypeAlias = Symbol | Quotient
# A monomial is a sorted tuple of atoms with repetition; () is the constant monomial.
Monomial: TypeAlias = tuple[Atom, ...]


def _atom_key(atom: Atom) -> tuple[int, str]:
    return (0 if isinstance(atom, Symbol) else 1, str(atom))


@dataclass(frozen=True, slots=True)
class DimExpr:
    """A non-constant integer polynomial; ``terms`` is sorted and has no zero coefficient."""

    terms: tuple[tuple[Monomial, int], ...]

    def __add__(self, other: Dim) -> Dim:
        return _from_terms([*self.terms, *_terms(other)])

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return _from_terms([(m, -c) for m, c in self.terms])

    def __sub__(self, other: Dim) -> Dim:
        return self + (-other)

    def __rsub__(self, other: Dim) -> Dim:
        return (-self) + other

    def __mul__(self, other: Dim) -> Dim:
        if isinstance(other, DimExpr) and len(self.terms) * len(other.terms) > MAX_PRODUCTS:
            raise DimensionTooLarge
        product = [
            (tuple(sorted((*m, *n), key=_atom_key)), c * d)
            for m, c in self.terms
            for n, d in _terms(other)
        ]
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
    """``a // b``: exact where it can be shown to be, else an opaque atom. Raises ZeroDivisionError."""
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
    """The quotient if ``b`` is one term that divides every term of ``a``, or ``a == b``; else None."""
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
