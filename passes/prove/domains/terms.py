"""Programs as hash-consed terms: two programs whose results are the same term compute the same, at
any point.

``TermArrays`` is a domain of the interpreter in which an array is a normal form: a linear
combination with exact coefficients of monomials over atoms. Atoms are parameters, scalar functions
of terms, products, reductions. What is folded into the normal form are laws of the reals alone:
addition and multiplication commute, constants multiply out, x/y is x times y to the power -1, views
move through whatever acts on each element (so moved, copied, merged, recomputed, inlined and
unrolled programs come out the same). Nothing is distributed, so terms stay as small as programs.

Costs do not depend on shapes, only on the number of ops (times trips of loops): the real program at
its real shape. Equal terms are a proof, up to denominators that are zero; different terms say
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np

from gradc.ir.domains.arrays import Arrays, Pairs
from gradc.ir.domains.interpret import run_block
from gradc.ir.tensor.core import Block, DType
from gradc.passes.prove.domains.term import (
    NUMBERS,
    ONE,
    VIEWS,
    Key,
    Shape,
    Term,
    View,
    exact,
    is_sorted,
    wide,
    wide_axes,
)

# Views go down at most so many levels of scalar functions.
MOST_HEIGHT = 64


class TermArrays(Arrays):
    """The domain. Terms of one instance are compared by ``same``."""

    def __init__(self) -> None:
        self.atoms: dict[Key, int] = {("one",): ONE}
        self.keys: list[Key] = [("one",)]
        self.heights: list[int] = [0]
        self.shapes: list[Shape] = [()]
        self._views: dict[Key, Term | _Operands] = {}
        self._terms: dict[Key, Term] = {}
        self._verbs: dict[Key, Term] = {}
        # Regions are kept, so that no other one takes over their identity.
        self._runs: dict[Key, tuple[Block, tuple[Any, ...]]] = {}

    def run(self, block: Block, operands: Sequence[Any]) -> tuple[Any, ...]:
        """Runs a region; one that most passes leave alone runs once for all of them."""
        place = (id(block), *(x.number for x in operands))
        known = self._runs.get(place)
        if known is None:
            known = self._runs[place] = block, run_block(self, block, operands)
        return known[1]

    # ---- terms

    def atom(self, key: Key, shape: Shape, height: int = 0) -> int:
        """The number of the atom ``key``."""
        full = (*key, shape)
        found = self.atoms.get(full)
        if found is None:
            found = self.atoms[full] = len(self.keys)
            self.keys.append(full)
            self.heights.append(height)
            self.shapes.append(shape)
        return found

    def term(self, shape: Shape, linear: dict[int, Fraction]) -> Term:
        """The term of a linear combination; there is one of each."""
        kept = {a: c for a, c in linear.items() if c}
        form = tuple((a, kept[a].numerator, kept[a].denominator) for a in sorted(kept))
        found = self._terms.get((shape, form))
        if found is None:
            found = Term(len(self._terms), shape, kept, False)
            self._terms[shape, form] = found
        return found

    def _integers(self, shape: Shape, atom: int, known: Any = None) -> Term:
        """The term of integers or booleans that are one atom."""
        found = self._terms.get((shape, atom))
        if found is None:
            found = Term(len(self._terms), shape, {atom: Fraction(1)}, True, known)
            self._terms[shape, atom] = found
        return found

    def single(self, key: Key, shape: Shape, height: int = 0) -> Term:
        """The term of one atom."""
        return self.term(shape, {self.atom(key, shape, height): Fraction(1)})

    def parameter(self, number: int, shape: Shape, is_discrete: bool = False) -> Term:
        """An operand of the program."""
        make = self._discrete if is_discrete else self.single
        return make(("parameter", number), shape)

    def same(self, a: Term, b: Term) -> bool:
        """Whether two terms are one."""
        return a is b

    def _height(self, x: Term) -> int:
        return max((self.heights[a] for a in x.linear), default=0)

    def _number(self, value: Fraction | float, shape: Shape) -> Term:
        if isinstance(value, Fraction):
            return self.term(shape, {ONE: value})
        return self.term(shape, {self.atom(("number", repr(value)), ()): Fraction(1)})

    # ---- arithmetic

    def _plus(self, a: Term, b: Term, sign: int, shape: Shape) -> Term:
        total = dict(a.linear)
        for atom, c in b.linear.items():
            total[atom] = total.get(atom, Fraction(0)) + sign * c
        return self.term(shape, total)

    def _scaled(self, x: Term, by: Fraction, shape: Shape) -> Term:
        return self.term(shape, {a: c * by for a, c in x.linear.items()})

    def _monomial(self, x: Term) -> tuple[Fraction, dict[int, int]]:
        """``x`` as a coefficient and powers of atoms; a sum of several is an atom of its own."""
        if len(x.linear) == 1:
            ((atom, c),) = x.linear.items()
            key = self.keys[atom]
            return c, dict(key[1]) if key[0] == "product" else {} if atom == ONE else {atom: 1}
        if not x.linear:
            return Fraction(0), {}
        lead = x.linear[min(x.linear)]
        items = tuple(sorted((a, c / lead) for a, c in x.linear.items()))
        return lead, {self.atom(("total", items), x.shape, self._height(x)): 1}

    def _product(self, c: Fraction, powers: dict[int, int], shape: Shape) -> Term:
        kept = tuple(sorted((a, e) for a, e in powers.items() if e))
        if not kept or not c:
            return self.term(shape, {ONE: c})
        if len(kept) == 1 and kept[0][1] == 1:
            atom = kept[0][0]
            if self.keys[atom][0] == "total":
                return self.term(shape, {a: c * d for a, d in self.keys[atom][1]})
            return self.term(shape, {atom: c})
        height = max(self.heights[a] for a, _ in kept)
        return self.term(shape, {self.atom(("product", kept), shape, height): c})

    def _times(self, a: Term, b: Term, shape: Shape) -> Term:
        for x, y in ((a, b), (b, a)):
            if x.constant is not None:
                return self._scaled(y, x.constant, shape)
        c, powers = self._monomial(a)
        d, more = self._monomial(b)
        for atom, e in more.items():
            powers[atom] = powers.get(atom, 0) + e
        return self._product(c * d, powers, shape)

    def _power(self, x: Term, exponent: int, shape: Shape) -> Term:
        c, powers = self._monomial(x)
        if c == 0 and exponent < 0:
            return self.single(("infinite",), shape)
        return self._product(c**exponent, {a: e * exponent for a, e in powers.items()}, shape)

    # ---- verbs

    def verb(self, name: str, *operands: Any) -> Term:
        place = (name, *(x.number for x in operands))
        found = self._verbs.get(place)
        if found is None:
            found = self._verbs[place] = self._made(name, operands)
        return found

    def _made(self, name: str, operands: Sequence[Term]) -> Term:
        shape = tuple(np.broadcast_shapes(*(x.shape for x in operands)))
        stretched = [self._stretched(x, shape) for x in operands]
        known = [x.known for x in stretched]
        if all(x is not None for x in known):
            with np.errstate(all="ignore"):
                return self._known(NUMBERS.verb(name, *known))
        rule = _RULES.get(name)
        if rule is not None and not any(x.is_discrete for x in operands):
            return rule(self, shape, *stretched)
        if name in _LOGIC:
            return _LOGIC[name](self, shape, *stretched)
        return self._apply(name, stretched, shape)

    def _known(self, values: Any) -> Term:
        """Integers or booleans that do not depend on any operand."""
        array = np.ascontiguousarray(values)
        key = ("known", array.dtype.str, array.tobytes())
        atom = self.atom(key, array.shape)
        return self._integers(array.shape, atom, array)

    def _discrete(self, key: Key, shape: Shape, height: int = 0) -> Term:
        atom = self.atom(key, shape, height)
        return self._integers(shape, atom)

    def negated(self, c: Term) -> Term | None:
        """What ``c`` is the negation of, if it is one."""
        (atom, *_) = c.linear
        operands = self._views.get(("operands", atom))
        is_not = isinstance(operands, _Operands) and self.keys[atom][:2] == ("verb", "logical_not")
        return operands.terms[0] if is_not and isinstance(operands, _Operands) else None

    def _apply(self, name: str, xs: Sequence[Term], shape: Shape) -> Term:
        if name in _COMMUTES:
            xs = sorted(xs, key=lambda x: x.number)
        height = 1 + max(self._height(x) for x in xs)
        key = ("verb", name, tuple(x.number for x in xs))
        if (
            name in _DISCRETE
            or (name != "select" and all(x.is_discrete for x in xs))
            or (name == "select" and xs[1].is_discrete)
        ):
            found = self._discrete(key, shape, height)
        else:
            found = self.single(key, shape, height)
        self._remember(found, xs)
        return found

    def _remember(self, made: Term, xs: Sequence[Term]) -> None:
        """The operands of an atom, for views to go down to."""
        (atom,) = made.linear
        self._views.setdefault(("operands", atom), _Operands(tuple(xs), made))

    def _stretched(self, x: Term, shape: Shape) -> Term:
        if x.shape == shape:
            return x
        if x.ndim == 0:
            return self.broadcast(x, shape, ())
        lead = len(shape) - x.ndim
        return self.broadcast(x, shape, tuple(range(lead, len(shape))))

    # ---- views

    def _view(self, x: Term, kind: View, arguments: Key, shape: Shape) -> Term:
        """A view of every atom of ``x``, as deep down as views can go."""
        if x.known is not None:
            return self._known(VIEWS[kind](x.known, arguments, shape))
        if x.is_discrete:
            (atom,) = x.linear
            return self._view_atom(atom, kind, arguments, shape, x)
        total: dict[int, Fraction] = {}
        for atom, c in x.linear.items():
            part = self._view_atom(atom, kind, arguments, shape, None)
            for a, d in part.linear.items():
                total[a] = total.get(a, Fraction(0)) + c * d
        return self.term(shape, total)

    def _view_atom(
        self, atom: int, kind: View, arguments: Key, shape: Shape, whole: Term | None
    ) -> Term:
        memo = ("view", atom, kind, arguments, shape)
        found = self._views.get(memo)
        if found is None:
            found = self._views[memo] = self._made_view(atom, kind, arguments, shape, whole)
        assert isinstance(found, Term)
        return found

    def _made_view(
        self, atom: int, kind: View, arguments: Key, shape: Shape, whole: Term | None
    ) -> Term:
        key = self.keys[atom]
        if atom == ONE or key[0] == "number":
            return self.term(shape, {atom: Fraction(1)})
        if key[0] in ("product", "total"):
            parts = [(self._view_atom(a, kind, arguments, shape, None), e) for a, e in key[1]]
            total = self.term(shape, {ONE: Fraction(key[0] == "product")})
            for part, e in parts:
                if key[0] == "product":
                    total = self._times(total, self._power(part, e, shape), shape)
                else:
                    total = self._plus(total, self._scaled(part, e, shape), 1, shape)
            return total
        operands = self._views.get(("operands", atom))
        if isinstance(operands, _Operands) and self.heights[atom] < MOST_HEIGHT:
            return self._pushed(operands, key, kind, arguments, shape)
        below = self.shapes[atom]
        base, steps = self._merged(key, below, kind, arguments, shape)
        if not steps:
            found = self.atoms[base]
            is_number = whole is None or not whole.is_discrete
            if not is_number:
                return self._integers(shape, found)
            return self.term(shape, {found: Fraction(1)})
        full = ("seen", base, steps)
        if whole is not None and whole.is_discrete:
            return self._discrete(full, shape)
        return self.single(full, shape)

    def _pushed(
        self, operands: _Operands, key: Key, kind: View, arguments: Key, shape: Shape
    ) -> Term:
        moved = [self._view(x, kind, arguments, shape) for x in operands.terms]
        return self.verb(key[1], *moved)

    def _merged(
        self, key: Key, below: Shape, kind: View, arguments: Key, shape: Shape
    ) -> tuple[Key, Key]:
        """The atom below all views, and the views from the innermost out, neighbours merged."""
        base, steps = (key[1], key[2]) if key[0] == "seen" else (key, ())
        keeps_order = kind == View.SPREAD and wide(below) == wide(shape) and is_sorted(arguments)
        if kind == View.RESHAPE or (keeps_order and steps and steps[-1][0] == View.RESHAPE):
            while steps and (steps[-1][0] == View.RESHAPE or steps[-1][2]):
                steps = steps[:-1]
            return base, (*steps, (View.RESHAPE, (), True))
        if kind == View.SPREAD and steps and steps[-1][0] == View.SPREAD:
            onward = dict(arguments)
            arguments = tuple((i, onward[o]) for i, o in steps[-1][1])
            keeps_order = keeps_order and steps[-1][2]
            steps = steps[:-1]
            if not steps and shape == base[-1] and all(i == o for i, o in arguments):
                return base, ()
        step = (kind, arguments, keeps_order)
        return base, (*steps, step)

    def _spread(self, x: Any, pairs: Sequence[tuple[int, int]], shape: Shape) -> Term:
        """A view that places every axis of ``x`` of more than one element at an axis of the
        result.
        """
        kept = tuple((i, o) for i, o in pairs if x.shape[i] != 1)
        if shape == x.shape and all(i == o for i, o in kept):
            return _as_term(x)
        return self._view(x, View.SPREAD, kept, shape)

    def broadcast(self, x: Any, shape: Sequence[int], dims: Sequence[int]) -> Term:
        return self._spread(x, list(enumerate(dims)), tuple(shape))

    def reshape(self, x: Any, shape: Sequence[int]) -> Term:
        after = tuple(shape)
        if wide(x.shape) == wide(after):
            places = zip(wide_axes(x.shape), wide_axes(after), strict=True)
            return self._spread(x, list(places), after)
        return self._view(x, View.RESHAPE, (), after)

    def transpose(self, x: Any, perm: Sequence[int]) -> Term:
        shape = tuple(x.shape[i] for i in perm)
        return self._spread(x, [(axis, place) for place, axis in enumerate(perm)], shape)

    def slice(
        self, x: Any, start: Sequence[int], limit: Sequence[int], stride: Sequence[int]
    ) -> Term:
        rows = zip(start, limit, stride, strict=True)
        shape = tuple(max(0, -(-(b - a) // s)) for a, b, s in rows)
        if shape == x.shape:
            return _as_term(x)
        return self._view(x, View.SLICE, (tuple(start), tuple(limit), tuple(stride)), shape)

    def reverse(self, x: Any, axes: Sequence[int]) -> Term:
        return self._view(x, View.REVERSE, tuple(axes), x.shape) if axes else _as_term(x)

    def row(self, x: Any, position: int) -> Term:
        (atom, *more) = x.linear or {ONE: 0}
        stacked = self._views.get(("operands", atom)) if not more else None
        if isinstance(stacked, _Operands) and self.keys[atom][1] == "stack":
            inner = stacked.terms[position]
            return inner if x.is_discrete else self._scaled(inner, x.linear[atom], inner.shape)
        start = (position, *(0 for _ in x.shape[1:]))
        limit = (position + 1, *x.shape[1:])
        return self.reshape(self.slice(x, start, limit, (1,) * x.ndim), x.shape[1:])

    # ---- linear maps that are no views

    def _mapped(self, x: Term, key: Key, shape: Shape) -> Term:
        """A linear map: the leading coefficient goes before it."""
        if not x.linear:
            return self.term(shape, {})
        if x.is_discrete:
            return self._discrete(("map", *key, x.number), shape)
        lead = x.linear[min(x.linear)]
        inner = self._scaled(x, 1 / lead, x.shape)
        made = self.single(("map", *key, inner.number, x.shape), shape)
        return self._scaled(made, lead, shape)

    def pad(self, x: Any, low: Sequence[int], high: Sequence[int], interior: Sequence[int]) -> Term:
        if not (any(low) or any(high) or any(interior)):
            return _as_term(x)
        rows = zip(x.shape, low, high, interior, strict=True)
        shape = tuple(a + n + max(n - 1, 0) * gap + z for n, a, z, gap in rows)
        return self._mapped(x, ("pad", tuple(low), tuple(high), tuple(interior)), shape)

    def concat(self, xs: Sequence[Any], axis: int) -> Term:
        if len(xs) == 1:
            return _as_term(xs[0])
        shape = list(xs[0].shape)
        shape[axis] = sum(x.shape[axis] for x in xs)
        if xs[0].is_discrete:
            key = ("concat", axis, tuple((x.number, x.shape) for x in xs))
            return self._discrete(key, tuple(shape))
        # As a sum of padded parts, which is what a reverse sweep over slices makes one by one.
        total, at = self.term(tuple(shape), {}), 0
        for x in xs:
            low = [at if i == axis else 0 for i in range(len(shape))]
            high = [n - m - a for n, m, a in zip(shape, x.shape, low, strict=True)]
            total = self._plus(total, self.pad(x, low, high, (0,) * len(shape)), 1, tuple(shape))
            at += x.shape[axis]
        return total

    def _like(self, x: Term, key: Key, shape: Shape) -> Term:
        return self._discrete(key, shape) if x.is_discrete else self.single(key, shape)

    def stack(self, rows: Sequence[Any], shape: Sequence[int], dtype: DType) -> Term:
        if not rows:
            return self.full(0, shape, dtype)
        keys = tuple(x.number for x in rows)
        if all(not x.is_discrete and not x.linear for x in rows):
            return self.term(tuple(shape), {})
        found = self._like(rows[0], ("verb", "stack", keys), tuple(shape))
        (atom,) = found.linear
        self.heights[atom] = MOST_HEIGHT
        self._remember(found, rows)
        return found

    def reduce(self, verb: str, x: Any, axes: Sequence[int], dtype: DType) -> Term:
        if not axes:
            return _as_term(x)
        shape = tuple(n for i, n in enumerate(x.shape) if i not in axes)
        key = (verb, tuple(sorted(axes)))
        if verb == "add":
            if x.constant is not None and not x.is_discrete:
                count = math.prod(x.shape[i] for i in axes)
                return self.term(shape, {ONE: x.constant * count})
            return self._mapped(x, key, shape)
        return self._like(x, ("reduce", *key, x.number, x.shape), shape)

    def argmax(self, x: Any, axis: int) -> Term:
        shape = (*x.shape[:axis], *x.shape[axis + 1 :])
        return self._discrete(("argmax", axis, x.number, x.shape), shape)

    def argsort(self, x: Any, axis: int) -> Term:
        return self._discrete(("argsort", axis, x.number, x.shape), x.shape)

    def cumsum(self, x: Any, axis: int, reverse: bool) -> Term:
        return self._mapped(x, ("cumsum", axis, reverse), x.shape)

    def contract(self, a: Any, b: Any, batch: Pairs, contract: Pairs, dtype: DType) -> Term:
        used = [[pair[side] for pair in (*batch, *contract)] for side in (0, 1)]
        free = [
            tuple(n for i, n in enumerate(x.shape) if i not in taken)
            for x, taken in zip((a, b), used, strict=True)
        ]
        shape = (*(a.shape[i] for i, _ in batch), *free[0], *free[1])
        if not (a.linear and b.linear):
            return self.term(shape, {})
        c, d = (x.linear[min(x.linear)] for x in (a, b))
        left, right = self._scaled(a, 1 / c, a.shape), self._scaled(b, 1 / d, b.shape)
        key = ("contract", tuple(batch), tuple(sorted(contract)))
        made = self.single((*key, left.number, a.shape, right.number, b.shape), shape)
        return self._scaled(made, c * d, shape)

    def take(self, table: Any, ids: Any, axis: int, fill: float) -> Term:
        shape = (*table.shape[:axis], *ids.shape, *table.shape[axis + 1 :])
        # An id outside gives NaN in one program and zero in another; ids are inside by assumption.
        if table.is_discrete:
            return self._discrete(("take", axis, table.number, table.shape, ids.number), shape)
        return self._mapped(table, ("take", axis, ids.number, ids.shape), shape)

    def scatter_add(self, ids: Any, updates: Any, axis: int, size: int) -> Term:
        end = axis + ids.ndim
        shape = (*updates.shape[:axis], size, *updates.shape[end:])
        return self._mapped(updates, ("scatter_add", axis, ids.number, ids.shape), shape)

    # ---- the rest

    def settle(self, x: Any, dtype: DType) -> Term:
        return _as_term(x)

    def cast(self, x: Any, dtype: DType) -> Term:
        if dtype.is_float and not x.is_discrete:
            return _as_term(x)
        if dtype.is_float:
            return self.single(("cast", x.number), x.shape)
        if x.known is not None:
            return self._known(NUMBERS.cast(x.known, dtype))
        return self._discrete(("cast", dtype.value, x.number), x.shape)

    def full(self, value: float | bool, shape: Sequence[int], dtype: DType) -> Term:
        if dtype.is_float:
            return self._number(exact(float(value), dtype), tuple(shape))
        return self._known(NUMBERS.full(value, shape, dtype))

    def zeros_like(self, x: Any) -> Term:
        return self.term(x.shape, {})

    def like(self, value: float, x: Term) -> Term:
        """A literal."""
        return self.full(value, (), DType.I64 if x.is_discrete else DType.F64)

    def iota(self, axis: int, shape: Sequence[int], dtype: DType) -> Term:
        if dtype.is_float:
            return self.single(("iota", axis), tuple(shape))
        return self._known(NUMBERS.iota(axis, shape, dtype))

    def integers(self, values: Sequence[int]) -> Term:
        return self._known(NUMBERS.integers(values))


class _Operands:
    """The terms that an atom is a scalar function (or a stack) of."""

    __slots__ = ("made", "terms")

    def __init__(self, terms: tuple[Term, ...], made: Term) -> None:
        self.terms = terms
        self.made = made


def _as_term(x: Any) -> Term:
    assert isinstance(x, Term)
    return x


def _pow(t: TermArrays, shape: Shape, x: Term, y: Term) -> Term:
    e = y.constant
    if e is not None and e.denominator == 1 and abs(e) <= 64:
        return t._power(x, int(e), shape)
    if e == Fraction(1, 2):
        return t._apply("sqrt", [x], shape)
    return t._apply("pow", [x, y], shape)


def _select(t: TermArrays, shape: Shape, c: Term, a: Term, b: Term) -> Term:
    if a is b:
        return a
    if c.known is not None and (c.known.all() or not c.known.any()):
        return a if c.known.all() else b
    inner = t.negated(c)
    if inner is not None:
        return _select(t, shape, inner, b, a)
    return t._apply("select", [c, a, b], shape)


def _not(t: TermArrays, shape: Shape, c: Term) -> Term:
    inner = t.negated(c)
    return t._apply("logical_not", [c], shape) if inner is None else inner


Rule: TypeAlias = Callable[..., Term]
_RULES: dict[str, Rule] = {
    "add": lambda t, s, a, b: t._plus(a, b, 1, s),
    "sub": lambda t, s, a, b: t._plus(a, b, -1, s),
    "neg": lambda t, s, x: t._scaled(x, Fraction(-1), s),
    "mul": lambda t, s, a, b: t._times(a, b, s),
    "gate": lambda t, s, a, b: t._times(a, b, s),
    "fma": lambda t, s, a, b, c: t._plus(t._times(a, b, s), c, 1, s),
    "div": lambda t, s, a, b: t._times(a, t._power(b, -1, s), s),
    "rsqrt": lambda t, s, x: t._power(t._apply("sqrt", [x], s), -1, s),
    "expm1": lambda t, s, x: t._plus(t._apply("exp", [x], s), t.term(s, {ONE: Fraction(1)}), -1, s),
    "log1p": lambda t, s, x: t._apply("log", [t._plus(x, t.term(s, {ONE: Fraction(1)}), 1, s)], s),
    "pow": _pow,
    "stop_gradient": lambda t, s, x: x,
}
_LOGIC: dict[str, Rule] = {
    "select": _select,
    "logical_not": _not,
    "stop_gradient": lambda t, s, x: x,
    "gt": lambda t, s, a, b: t._apply("lt", [b, a], s),
    "ge": lambda t, s, a, b: _not(t, s, t._apply("lt", [a, b], s)),
    "le": lambda t, s, a, b: _not(t, s, t._apply("lt", [b, a], s)),
    "ne": lambda t, s, a, b: _not(t, s, t._apply("eq", [a, b], s)),
}
_COMMUTES = ("max", "min", "eq", "logical_and", "logical_or", "add", "mul")
_DISCRETE = ("lt", "eq", "logical_and", "logical_or", "logical_not")
