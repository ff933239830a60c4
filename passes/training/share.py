"""A finished function, derivatives and all, among ranks that each hold a part of some of its
parameters (tensor parallel).

    from  a function, and the place at which each cut parameter is cut in equal parts
    to    the function of one rank: parameters and their gradients are its own part, all else is
          the same on every rank

The walk is that of ``passes.training.cut``: values that have the index are cut along it, values
that do not are computed by every rank, and what is added up along it is added up over the ranks
where it is used first. So a product along a cut dimension costs one exchange of its result forward,
and one of the cotangent that goes back (Shoeybi et al. 2019, section 3), and nothing is taken the
derivative of afterwards: the gradient of what all ranks have is the same on all of them. What
several of such sums are added up to is exchanged once, and what is needed in parts alone is not put
together.

A value that every rank has is cut where it meets values that are: what does not depend on positions
is made smaller, of all else the ranks take their part. The greatest along the index, and its like,
are found part by part (``AxisRule.folded``).

Non-goals: choosing what to cut, updates and clipping (``passes.training.step``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from gradc.ir.ops.axes import Link, Place
from gradc.ir.ops.registry import has_pullback, lookup
from gradc.ir.ops.traits import ALL
from gradc.ir.tensor.core import Attrs, Block, DType, Function, Op, Role, Slot, Value
from gradc.passes.simplify.dce import dce
from gradc.passes.simplify.flatten import flatten
from gradc.passes.training.accumulate_batch import Refuse
from gradc.passes.training.cut import Mixed, Walk
from gradc.passes.training.pieces import from_rows, numbered
from gradc.passes.training.ranks import Deal, folded, scattered

_OWN = (Role.PARAM, Role.STATE, Role.SLOT, Role.COTANGENT)


def share(
    function: Function,
    held: Mapping[str, Place],
    deal: Deal,
    refuse: Refuse,
    loose: Collection[str] = (),
) -> Function:
    """``function`` as each of ``deal.ranks`` ranks runs it; ``held`` says where parameters
    are cut, and results of their names.

    Outputs called ``loose`` are a rank's own part where they come out cut.

    Raises:
        DiagnosticError: by ``refuse``, at the op that compares parts with each other.
    """
    # A pullback has been inlined; its op would have to be followed twice.
    function = flatten(dce(function), has_pullback)
    places = [held.get(slot.name) if slot.role in _OWN else None for slot in function.parameters]
    walk = _Shared(function.block, places, deal)
    try:
        walk.run()
        outputs = [
            walk.output(value, _place(slot, held, walk.places.get(value), loose))
            for slot, value in zip(function.results, function.block.outputs, strict=True)
        ]
    except Mixed as problem:
        raise refuse(problem.message, problem.op) from None
    made = walk.b.function(function.name, outputs, function.parameters, function.results)
    return dce(made)


def _place(
    slot: Slot, held: Mapping[str, Place], found: Place | None, loose: Collection[str]
) -> Place | None:
    """Where a result is cut."""
    if slot.role in _OWN:
        return held.get(slot.name)
    is_loose = slot.role is Role.OUTPUT and slot.name in loose
    return found if is_loose and found is not None and found.outer == 1 else None


class _Shared(Walk):
    """One walk over a block, or a region in which ranks exchange."""

    def __init__(
        self,
        block: Block,
        places: Sequence[Place | None],
        deal: Deal,
        outside: _Shared | None = None,
    ) -> None:
        super().__init__(block, places, deal.ranks, "function", deal)
        self._deal = deal
        self._outside = outside
        self._by: dict[Value, str] = {}
        self._rank: Value | None = None
        self._apart: dict[Value, Place] = {}  # sums of which a rank has its part alone
        self._uses = Counter(v for op in block.body for v in op.operands)
        self._uses.update(block.outputs)

    # --- values of a rank

    def whole(self, value: Value) -> Value:
        """``value`` as every rank has it; what is cut is put together."""
        if (value, None) not in self.made and value in self.places:
            self.made[value, None] = self._gathered(value, self.places[value])
        return super().whole(value)

    def _total(self, value: Value) -> Value:
        if value in self._apart:
            return self._gathered(value, self._apart[value])
        return folded(self.b, self.sums[value], self._deal, self._by.get(value, "add"))

    def _gathered(self, value: Value, place: Place) -> Value:
        """[..., outer * n, ...] of every rank as [..., outer * ranks * n, ...]."""
        rows = self._deal.exchanged(self.b, "all_gather", self.made[value, place])
        return from_rows(self.b, rows, place)

    def own_rank(self) -> Value:
        """u32[1], the number of this rank."""
        if self._rank is None:
            self._rank = self._deal.rank(self.b)
        return self._rank

    def _own(self, whole: Value, place: Place) -> Value:
        """This rank's part of what all have."""
        return numbered(self.b, whole, place, self._deal.ranks, self.own_rank())

    def _source_of(
        self, value: Value, place: Place, user: Op | None
    ) -> tuple[Op | None, Link | None, int]:
        """As for parts of a batch; what cannot be made smaller is taken from what all ranks
        have.
        """
        op = self.source.get(value)
        is_made = value in self.sums or value in self.places
        for link in () if is_made or op is None else self._links(op):
            inside = link.holds(link.result, place, self.parts)
            if inside is not None and not (link.is_drawn and place.outer > 1):
                return op, link, inside
        if op is None and self._outside is not None:
            self._demand_of_region(value, place, user)
            return None, None, 1
        if value.type.static_shape[place.axis] % (place.outer * self.parts):
            raise Mixed("parts of it meet the whole of something else", user)
        own = None if op is None or is_made else self._counted(op, value, place)
        own = own or self._scattered(value, place)
        self.made[value, place] = own or self._own(self.whole(value), place)
        return None, None, 1

    def _scattered(self, value: Value, place: Place) -> Value | None:
        """The part of a sum over the ranks that nobody has put together yet."""
        if value not in self.sums or value in self._by or (value, None) in self.made:
            return None
        self._apart.setdefault(value, place)
        return scattered(self.b, self.sums[value], self._deal, place)

    def _counted(self, op: Op, value: Value, place: Place) -> Value | None:
        """The part of what counts the positions of an axis."""
        rule = lookup(op.name).axes
        if rule is None or rule.counted is None:
            return None
        operands = [self.whole(v) for v in op.operands]
        with self.b.at(op.span, op.scope, op.replica):
            first = self._first(value, place)
            return rule.counted(self.b, op, operands, place, first, self.parts)

    def _first(self, value: Value, place: Place) -> Value:
        """u32[], the first position of this rank's part of ``value``."""
        size = value.type.static_shape[place.axis] // self.parts
        number = self.b.one("reshape", self.own_rank(), shape=())
        return self.b.one("mul", number, self.b.constant(size, DType.U32))

    def _drawn(self, op: Op, operands: Sequence[Value], attributes: Attrs, place: Place) -> Value:
        """The rank's own part of a draw: its number is that of the part."""
        key, *others = operands
        key = self.b.one("concat", key, self.own_rank(), axis=0)
        return self._emit(op, (key, *others), attributes)[0]

    # --- ops

    def _link(self, op: Op) -> tuple[Link, int]:
        """Of the links along which some operand is cut the one that needs least sent: operands
        that are cut otherwise are put together.
        """
        found: list[tuple[int, Link, int]] = []
        for link in self._links(op):
            for value, own in zip(op.operands, link.operands, strict=True):
                place = self.places.get(value)
                inside = None if place is None else link.holds(own, place, self.parts)
                if inside is not None:
                    found.append((self._sent(op, link, inside), link, inside))
        if not found:
            return super()._link(op)
        _, link, inside = min(found, key=lambda item: item[0])
        return link, inside

    def _sent(self, op: Op, link: Link, inside: int) -> int:
        """Bytes, roughly, that a rank of many sends to follow ``link`` through ``op``."""
        total = 2 * op.result.type.nbytes if link.result is None else 0
        for value, own in dict(zip(op.operands, link.operands, strict=True)).items():
            wanted = None if own is None else own.inside(inside)
            is_whole = (value, None) in self.made
            if value in self.places and self.places[value] != wanted and not is_whole:
                total += value.type.nbytes
        return total

    def _links(self, op: Op) -> tuple[Link, ...]:
        rule = lookup(op.name).axes
        return () if rule is None else (*rule.links(op), *rule.folded(op))

    def _op(self, op: Op) -> None:
        if self._is_sum_of_sums(op):
            (self.sums[op.result],) = self._emit(
                op, [self.sums[v] for v in op.operands], op.attributes
            )
            return
        super()._op(op)

    def _is_sum_of_sums(self, op: Op) -> bool:
        """Whether ``op`` can be applied to summands, and nobody else reads the sums."""
        if lookup(op.name).traits.linear != ALL or op.regions or not op.operands:
            return False
        size = sum(v.type.nbytes for v in op.operands)
        return op.result.type.nbytes <= size and all(
            v in self.sums and v not in self._by and self._uses[v] == 1 for v in op.operands
        )

    def _follow(self, op: Op) -> None:
        rule = lookup(op.name).axes
        searched = self._searched(op)
        if searched is not None:
            self.sums[op.result] = searched
            return
        super()._follow(op)
        if op.result in self.sums and rule is not None and rule.by != "add":
            self._by[op.result] = rule.by

    def _searched(self, op: Op) -> Value | None:
        """A summand of what is looked up in a table that is cut along the axis that ids count."""
        rule = lookup(op.name).axes
        if rule is None or rule.searched is None:
            return None
        table, *others = op.operands
        place = self.places.get(table)
        if place is None or any(v in self.places for v in others):
            return None
        operands = [self.made[table, place], *(self.whole(v) for v in others)]
        with self.b.at(op.span, op.scope, op.replica):
            return rule.searched(self.b, op, operands, place, self._first(table, place))

    def _inside(self, region: Block, places: Sequence[Place | None]) -> Walk:
        return _Shared(region, places, self._deal, self)

    def put_together(self) -> list[int]:
        """What every trip of a loop would put together is handed in whole."""
        pairs = enumerate(self.block.parameters)
        return [n for n, v in pairs if v in self.places and (v, None) in self.made]

    def _results(self, op: Op, results: Sequence[Value], places: Sequence[Place | None]) -> None:
        super()._results(op, results, places)
        self.local.clear()  # every rank has them
