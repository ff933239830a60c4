"""A rank's turns at the parts of a batch: the program of one part, run on each, its sums added up.

Non-goals: what the sums mean (``passes.training.accumulate``), how ranks add (``ranks``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gradc.ir.ops.builder import Builder
from gradc.ir.tensor.core import Block, Function, Value
from gradc.passes.rewrite import copy_ops, rows
from gradc.passes.training.ranks import Deal, Total, add_all


class Turns:
    """One pass over a rank's parts: ``body`` run on each, its ``carried`` results added up.

    ``cut`` are the body's parameters that differ from part to part, [turns, ...]; ``given`` are the
    others. Turns in which every rank has a part are one loop.
    """

    def __init__(
        self,
        b: Builder,
        body: Function,
        deal: Deal,
        cut: Mapping[Value, Value],
        given: Mapping[Value, Value],
        carried: Sequence[Value],
        stacked: Sequence[Value],
    ) -> None:
        self.b = b
        self.body = body
        self.deal = deal
        self.cut = cut
        self.given = given
        self.carried = carried
        self.stacked = stacked
        self.sums = [Total(v.type, deal) for v in carried]
        self._outputs: list[list[Value]] = [[] for _ in stacked]  # [turns, ...] each

    def totals(self) -> list[Value]:
        """The totals of what is carried."""
        totals = [total.start(self.b) for total in self.sums]
        if self.deal.full > 1:
            totals = self._loop(totals)
        elif self.deal.full:
            totals = self._once(totals, 0, self.deal.ranks)
        if self.deal.late:
            totals = self._once(totals, self.deal.full, self.deal.late)
        return [s.finish(self.b, v) for s, v in zip(self.sums, totals, strict=True)]

    def outputs(self) -> list[Value]:
        """What is stacked, [turns, ...], after ``totals``."""
        b = self.b
        return [v[0] if len(v) == 1 else b.one("concat", *v, axis=0) for v in self._outputs]

    def _loop(self, totals: Sequence[Value]) -> list[Value]:
        turns = self.deal.full
        operands = [
            *totals,
            *(rows(self.b, x, 0, turns) for x in self.cut.values()),
            *self.given.values(),
        ]
        attributes = {
            "trips": turns,
            "carried": len(totals),
            "stacked": len(self.cut),
            "reverse": False,
            "truncate": 0,
            "saves_memory": True,
        }
        found = self.b.emit("scan", *operands, regions=(self._region(),), hint="", **attributes)
        for stacked, value in zip(self._outputs, found[len(totals) :], strict=True):
            stacked.append(value)
        return list(found[: len(totals)])

    def _region(self) -> Block:
        """The loop's body: run one part, add to the totals, hand on per-sample outputs."""
        b = Builder()
        totals = [b.parameter(total.held) for total in self.sums]
        names = {v: slot.name for slot, v in zip(self.body.parameters, self._given, strict=True)}
        inner = {v: b.parameter(v.type, names[v]) for v in (*self.cut, *self.given)}
        sums, outputs = self._part(b, inner, totals, self.deal.ranks)
        return b.block([*sums, *outputs])

    @property
    def _given(self) -> tuple[Value, ...]:
        return self.body.block.parameters

    def _once(self, totals: Sequence[Value], turn: int, ranks: int) -> list[Value]:
        """One turn, in which the first ``ranks`` ranks have a part."""
        b = self.b
        parts = ((v, rows(b, x, turn, 1)) for v, x in self.cut.items())
        inner = {v: b.one("reshape", x, shape=v.type.static_shape) for v, x in parts}
        sums, outputs = self._part(b, {**inner, **self.given}, totals, ranks)
        for stacked, value in zip(self._outputs, outputs, strict=True):
            stacked.append(b.one("reshape", value, shape=(1, *value.type.static_shape)))
        return sums

    def _part(
        self, b: Builder, inner: Mapping[Value, Value], totals: Sequence[Value], ranks: int
    ) -> tuple[list[Value], list[Value]]:
        """The totals after one turn, and this part's outputs."""
        mapping = dict(inner)
        b.ops += copy_ops(self.body.block.body, mapping)
        found = [mapping[value] for value in self.carried]
        return add_all(b, self.sums, totals, found, ranks), [mapping[v] for v in self.stacked]
