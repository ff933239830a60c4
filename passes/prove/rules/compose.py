"""Is the adjoint the composition of the rules? A second reverse sweep, over terms, against the one
that was compiled.

``gradient_terms`` walks a program backwards in the plainest way there is: every op runs forward
once, every use adds the cotangent that the op's rule gives, loops are walked trip by trip,
checkpoints are what is in them. It shares the rules with ``passes/differentiate*`` and nothing
else. If its terms are those of the compiled gradient, then whatever is known of the rules is known
of the gradient, at no cost in shapes: rules proved for all shapes prove it here.

Non-goals: the rules themselves (``prove_rules``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from gradc.ir.domains.interpret import run
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import has_pullback, is_loop, is_transparent, lookup
from gradc.ir.tensor.core import Block, DType, Function, Op, Role, Value
from gradc.passes.prove.domains.term import Term
from gradc.passes.prove.domains.terms import TermArrays

Cts: TypeAlias = list[Term | None]


def parameter_terms(arrays: TermArrays, function: Function) -> list[Term]:
    """A term per parameter of ``function``."""
    found = []
    for number, value in enumerate(function.block.parameters):
        found.append(
            arrays.parameter(number, value.type.static_shape, not value.type.dtype.is_float)
        )
    return found


def result_terms(arrays: TermArrays, function: Function) -> dict[str, Term]:
    """What ``function`` computes, by role and name of the result."""
    results = run(arrays, function, parameter_terms(arrays, function))
    rows = zip(function.results, results, strict=True)
    return {f"{slot.role.value} {slot.name}": x for slot, x in rows}


def gradient_terms(
    arrays: TermArrays,
    function: Function,
    wrt: Sequence[str],
    used: dict[str, None] | None = None,
) -> dict[str, Term]:
    """The cotangents of the parameters ``wrt`` of the scalar loss of ``function``.

    The names of ops whose rules were asked go to ``used``.
    """
    outputs = function.block.outputs
    place = next(n for n, slot in enumerate(function.results) if slot.role is Role.LOSS)
    seeds: Cts = [None] * len(outputs)
    seeds[place] = arrays.full(1.0, outputs[place].type.static_shape, DType.F64)
    sweep = _Sweep(arrays)
    found = sweep.reverse(function.block, parameter_terms(arrays, function), seeds)
    if used is not None:
        used.update(sweep.used)
    named = {}
    for slot, ct, value in zip(function.parameters, found, function.block.parameters, strict=True):
        if slot.name in wrt:
            shape = value.type.static_shape
            named[slot.name] = arrays.term(shape, {}) if ct is None else ct
    return named


class _Sweep:
    """The reverse sweep over one kind of terms."""

    def __init__(self, arrays: TermArrays) -> None:
        self.arrays = arrays
        self.used: dict[str, None] = {}

    def forward(self, block: Block, operands: Sequence[Term]) -> dict[Value, Term]:
        """Every value of ``block``."""
        known = dict(zip(block.parameters, operands, strict=True))
        self._run(block.body, known)
        return known

    def _run(self, ops: Sequence[Op], known: dict[Value, Term]) -> None:
        for op in ops:
            results = lookup(op.name).evaluate(self.arrays, op, [known[v] for v in op.operands])
            known.update(zip(op.results, results, strict=True))

    def reverse(self, block: Block, operands: Sequence[Term], outputs: Cts) -> Cts:
        """The cotangents of the parameters of ``block``, given those of what it hands out."""
        known = self.forward(block, operands)
        cts: dict[Value, Term] = {}
        for value, ct in zip(block.outputs, outputs, strict=True):
            self._add(cts, value, ct)
        for op in reversed(block.body):
            given: Cts = [cts.get(v) for v in op.results]
            if all(ct is None for ct in given):
                continue
            for value, ct in zip(op.operands, self._pulled(op, known, given), strict=True):
                self._add(cts, value, ct)
        return [cts.get(v) for v in block.parameters]

    def _add(self, cts: dict[Value, Term], value: Value, ct: Term | None) -> None:
        if ct is not None and value.type.dtype.is_float:
            before = cts.get(value)
            cts[value] = ct if before is None else self.arrays.verb("add", before, ct)

    def _pulled(self, op: Op, known: Mapping[Value, Term], cts: Cts) -> Cts:
        operands = [known[v] for v in op.operands]
        if is_loop(op):
            return self._scan(op, operands, cts)
        if is_transparent(op):
            return self.reverse(op.regions[0], operands, cts)
        if has_pullback(op):
            return self._custom(op, known, cts)
        return self._by_rule(op, known, cts)

    def _by_rule(self, op: Op, known: Mapping[Value, Term], cts: Cts) -> Cts:
        """What the rule of ``op`` emits, run on terms."""
        self.used[op.name] = None
        b = Builder()
        seeds = [
            None if ct is None else Value(v.type) for ct, v in zip(cts, op.results, strict=True)
        ]
        needed = [v.type.dtype.is_float for v in op.operands]
        found = lookup(op.name).vjp(b, op, seeds, needed)
        local = {v: known[v] for v in (*op.operands, *op.results)}
        local.update((v, ct) for v, ct in zip(seeds, cts, strict=True) if v is not None and ct)
        self._run(b.ops, local)
        return [None if v is None else local[v] for v in found]

    def _custom(self, op: Op, known: Mapping[Value, Term], cts: Cts) -> Cts:
        filled = [
            self.arrays.term(v.type.static_shape, {}) if ct is None else ct
            for ct, v in zip(cts, op.results, strict=True)
        ]
        values = [known[v] for v in (*op.operands, *op.results)]
        region = op.regions[1]
        local = self.forward(region, [*values, *filled])
        return [local[v] for v in region.outputs]

    def _scan(self, op: Op, operands: list[Term], cts: Cts) -> Cts:
        """Trip by trip, from the last that ran to the first."""
        carried, stacked = int(str(op.attributes["carried"])), int(str(op.attributes["stacked"]))
        trips, window = int(str(op.attributes["trips"])), int(str(op.attributes["truncate"]))
        region, arrays = op.regions[0], self.arrays
        order = range(trips - 1, -1, -1) if op.attributes["reverse"] else range(trips)
        sequences, constants = operands[carried : carried + stacked], operands[carried + stacked :]
        starts: list[list[Term]] = []
        carries = operands[:carried]
        for trip in order:
            given = [*carries, *(arrays.row(x, trip) for x in sequences), *constants]
            starts.append(given)
            known = self.forward(region, given)
            carries = [known[v] for v in region.outputs[:carried]]
        carry_cts: Cts = list(cts[:carried])
        slices: list[Cts] = [[None] * trips for _ in range(stacked)]
        totals: Cts = [None] * len(constants)
        for ran in range(trips - 1, -1, -1):
            trip = order[ran]
            rows = [None if ct is None else arrays.row(ct, trip) for ct in cts[carried:]]
            found = self.reverse(region, starts[ran], [*carry_cts, *rows])
            carry_cts = found[:carried]
            if window and ran > 0 and (trips - ran) % window == 0:
                carry_cts = [None] * carried
            for number in range(stacked):
                slices[number][trip] = found[carried + number]
            for number, ct in enumerate(found[carried + stacked :]):
                before = totals[number]
                both = ct is not None and before is not None
                totals[number] = arrays.verb("add", before, ct) if both else ct or before
        return [
            *carry_cts,
            *(self._stacked(rows, x) for rows, x in zip(slices, sequences, strict=True)),
            *totals,
        ]

    def _stacked(self, rows: Cts, like: Term) -> Term | None:
        if all(row is None for row in rows):
            return None
        zero = self.arrays.term(like.shape[1:], {})
        return self.arrays.stack([row or zero for row in rows], like.shape, DType.F64)
