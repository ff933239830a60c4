"""Elements of programs as sums of products: what each op computes, in indices.

Each op states the element of its result at an index in elements of its operands
(``ir/ops/index/element.py``). That is used for forward programs and for what rules emit alike.
Tests hold it against the registry's evaluation, element by element.

Ops that are not polynomials of their operands (comparisons, quotients, functions) are opaque
factors, whose names spell out what they are functions of, down to the leaves: equal names are equal
functions, so nothing need be known of them. Booleans are 0 or 1. Off kinks and over the reals:
``gate`` is a product, a cast between floats does nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from fractions import Fraction

from gradc.ir.ops.index.sums import (
    Binder,
    Entry,
    Factor,
    LinearIndex,
    Unfit,
    factor,
    normal_form,
    times,
)
from gradc.ir.ops.registry import lookup
from gradc.ir.tensor.core import Op, Value
from gradc.ir.tensor.dims import Dim


class Reader:
    """Reads elements of values through the ops that make them, down to ``leaves``, which have
    names.
    """

    def __init__(self, ops: Sequence[Op], leaves: dict[Value, str], binder: Binder) -> None:
        self.makers = {v: op for op in ops for v in op.results}
        self.leaves = leaves
        self.binder = binder
        self.names: dict[Value, str] = {}

    def read(self, value: Value, index: LinearIndex) -> Entry:
        """``value[index]``. Raises Unfit."""
        if value in self.leaves:
            name = self.leaves[value]
            return factor(name, index, value.type.shape, (name,))
        op = self.makers.get(value)
        if op is None:
            raise Unfit("a value from nowhere")
        definition = lookup(op.name)
        rule = definition.element
        if rule is not None and rule.element is not None:
            return rule.element(self, op, index)
        if definition.is_elementwise:
            return self.opaque(op, index)
        raise Unfit(op.name)

    def sum_over(self, extents: Sequence[Dim], term: Callable[[LinearIndex], Entry]) -> Entry:
        """The sum of ``term`` over indices below ``extents``."""
        return [
            one
            for index, ranges in self.binder.choices(extents)
            for one in times(ranges, term(index))
        ]

    def opaque(self, op: Op, index: LinearIndex) -> Entry:
        """A function of elements of the operands."""
        found = [self.argument(x, index) for x in op.operands]
        if lookup(op.name).commutative:
            found.sort(key=lambda f: (f.name, repr(f.index)))
        names = [f.name for f in found]
        places = [i for f in found for i in f.index]
        shape = [n for f in found for n in f.shape]
        given = ",".join(f"{k}={v}" for k, v in sorted(op.attributes.items()))
        leaves = [leaf for f in found for leaf in f.leaves]
        return factor(f"{op.name}[{given}]({'; '.join(names)})", places, shape, leaves)

    def argument(self, x: Value, index: LinearIndex) -> Factor:
        """``x[index]`` as a function of some places, its name spelling out which."""
        entry = self.read(x, index)
        leaves = tuple(leaf for one in entry for f in one.factors for leaf in f.leaves)
        if len(entry) == 1 and not entry[0].equations and not entry[0].ranges:
            (one,) = entry
            names = "*".join([str(one.coefficient), *(f.name for f in one.factors)])
            places = tuple(e for f in one.factors for e in f.index)
            shape = tuple(n for f in one.factors for n in f.shape)
            return Factor(names, places, shape, leaves)
        if x not in self.names:
            anywhere: LinearIndex = [
                {} if n == 1 else {("slot", "of", a): Fraction(1)}
                for a, n in enumerate(x.type.shape)
            ]
            self.names[x] = digest(normal_form(self.read(x, anywhere)))
        return Factor(self.names[x], tuple(index), x.type.shape, leaves)


def digest(form: object) -> str:
    """A short name for a normal form."""
    return hashlib.blake2b(repr(form).encode(), digest_size=16).hexdigest()
