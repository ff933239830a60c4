"""The product tree of ``prod``'s rule is right for every number of factors, by induction over its
levels.

Claim: the tree gives, at each factor, the product of all the others. One factor: 1. Otherwise the
tree multiplies pairs, takes what is outside each pair from the tree of half as many, and multiplies
by the sibling. One such level is read with a symbol for the number of pairs, once for an even and
once for an odd number of factors:

* every factor is in exactly one pair: the sum over pairs of both members is the sum over factors
  (the same statement as that the products of pairs have the product of all factors as their
  product; 1 is written as a summand of 0);
* what the level gives at a factor, times that factor, is what the smaller tree gives at its pair,
  times the pair.

By the claim for the smaller tree the right-hand side is the product of all pairs, so of all
factors. Where no factor is zero, dividing gives the claim; both sides are polynomials, so it holds
everywhere.

Non-goals: the reduction around the tree, which ``prove_index`` reads at a number of factors.
"""

from __future__ import annotations

from functools import cache

from gradc.ir.ops.builder import Builder
from gradc.ir.ops.index.sums import (
    Binder,
    Entry,
    Unfit,
    constant,
    factor,
    normal_form,
    plus,
    times,
)
from gradc.ir.ops.reduction import halves, joined
from gradc.ir.tensor.core import DType, TensorType, Value
from gradc.ir.tensor.dims import symbol
from gradc.passes.prove.index.read import Reader


@cache
def tree_is_proved() -> bool:
    """Whether one level of the tree is right for every number of pairs, of even and of odd numbers
    of factors.
    """
    try:
        return all(_level_is_right(is_odd) for is_odd in (False, True))
    except Unfit:
        return False


def _level_is_right(is_odd: bool) -> bool:
    pairs, rows = symbol("m"), symbol("n")
    count = 2 * pairs - 1 if is_odd else 2 * pairs
    b = Builder()
    x = b.parameter(TensorType((rows, count), DType.F64))
    inner = b.parameter(TensorType((rows, pairs), DType.F64))
    even, odd = halves(b, x, pairs, is_odd)
    found = joined(b, inner, even, odd, is_odd)
    pair = b.one("mul", inner, b.one("mul", even, odd))
    if found.type != x.type:
        return False
    reader = Reader(b.ops, {x: "x0", inner: "h"}, Binder())
    return _covers(b, reader, x, even, odd) and _multiplies(reader, x, found, pair)


def _covers(b: Builder, reader: Reader, x: Value, even: Value, odd: Value) -> bool:
    """sum_j even_j + odd_j = sum_i x_i; the right-hand side through i = 2 j + r, which is a
    reshape.
    """
    rows, count = x.type.shape
    pairs = even.type.shape[1]
    missing = 2 * pairs - count
    padded = b.one("pad", x, low=(0, 0), high=(0, missing), interior=(0, 0))
    split = b.one("reshape", padded, shape=(rows, pairs, 2))
    whole = Reader(b.ops, reader.leaves, reader.binder)
    left: Entry = []
    right: Entry = []
    for index, ranges in reader.binder.choices([rows, pairs]):
        weight = times(ranges, factor("g", index[:1], [rows]))
        members = [*whole.read(even, index), *whole.read(odd, index)]
        left += times(weight, [one for one in members if one.factors])
        for r in range(2):
            right += times(weight, whole.read(split, [*index, constant(r)]))
    return normal_form(left) == normal_form(right)


def _multiplies(reader: Reader, x: Value, found: Value, pair: Value) -> bool:
    """found_i x_i = inner_j even_j odd_j wherever i = 2 j + r; both weighed by w_i."""
    shape = x.type.shape
    left: Entry = []
    for index, ranges in reader.binder.choices(shape):
        weight = times(ranges, factor("w", index, shape, ("w",)))
        left += times(weight, times(reader.read(found, index), reader.read(x, index)))
    right: Entry = []
    for index, ranges in reader.binder.choices(pair.type.shape):
        for r in range(2):
            at = [index[0], plus(constant(r), index[1], 2)]
            weight = times(ranges, factor("w", at, shape, ("w",)))
            right += times(weight, reader.read(pair, index))
    return normal_form(left) == normal_form(right)
