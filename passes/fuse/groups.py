"""Which ops become one kernel: groups grown in program order.

Groups are numbered as they are begun. An op joins the latest group among those that make its
operands, or a later one that reads the same operands; so every value flows from a group to the same
or a later one, and groups can be run in the order of their numbers. Whether an op fits a group is
decided by shapes alone:

* a *rows* group has a space (``to_loops_space``): elementwise ops and views on full and row values,
  row reductions in
  stages, tails, and small work on tails;
* a *product* group is a contraction or another matrix product and elementwise ops on its result;
* a *mixed* group is a reduction over other axes and elementwise ops on its result;
* an *opaque* group is a single op with a nest of its own or with regions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from gradc.ir.ops.registry import (
    ByIndex,
    Contraction,
    Pointwise,
    Reduction,
    has_epilogue,
    lookup,
)
from gradc.ir.target.target import Target
from gradc.ir.tensor.core import Block, Op, Value
from gradc.passes.fuse.demand import epilogue_values, values_in_memory
from gradc.passes.fuse.views import View, Views, is_view, passes_index, passes_row
from gradc.passes.lower.cost import size_of
from gradc.passes.lower.gemm import stored_order
from gradc.passes.lower.joins import part_shape
from gradc.passes.lower.space import ReductionKind, Space, is_row_shape, kind_in, natural_space

# So many groups are tried for an op: a scalar may be read by every group there is.
_CANDIDATES = 4


class RowRole(Enum):
    """Where a value of a rows group stands."""

    FULL = "full"
    ROW = "row"
    POST = "post"
    STORED = "stored"  # its elements in another order or beside each other, for others to read


@dataclass(eq=False)
class Group:
    """Ops that become one kernel. ``ops`` are in program order; views are not listed."""

    number: int
    kind: str
    shape: tuple[int, ...]
    ops: list[Op] = field(default_factory=list)
    places: dict[Value, RowRole] = field(default_factory=dict)
    # Values whose cone in the group holds a row reduction: they exist at their own index only.
    anchored: dict[Value, bool] = field(default_factory=dict)
    # Values that cost too much to compute twice.
    heavy: dict[Value, bool] = field(default_factory=dict)
    # Verbs that one element takes where nothing of the group is known yet; None if some of them are
    # computed again at other indices already.
    again: dict[Value, int | None] = field(default_factory=dict)
    inputs: dict[Value, None] = field(default_factory=dict)
    space: Space | None = None

    def holds(self, value: Value) -> bool:
        return value in self.places


class Grouping:
    """Grows the groups of one block."""

    def __init__(
        self, ops: Sequence[Op], views: Views, outputs: Iterable[Value], target: Target
    ) -> None:
        self.views = views
        self.limits = target.limits
        self.epilogues = epilogue_values(ops, views, outputs)
        # Stored for one product each: computed together they would all be alive together.
        self.apart = values_in_memory(ops, ())
        self.groups: list[Group] = []
        self.home: dict[Value, Group] = {}
        self.readers: dict[Value, list[Group]] = {}
        self.users: dict[Value, list[Op]] = {}
        for op in ops:
            if not op.results or not all(views.is_virtual(v) for v in op.results):
                for base in self.views.read_by(op):
                    self.users.setdefault(base, []).append(op)
        # A block without ops hands its parameters on.
        for value in outputs if ops else ():
            for base in views.bases(value):
                self.users.setdefault(base, []).append(ops[-1])
        for op in ops:
            if not all(views.is_virtual(v) for v in op.results) or not op.results:
                self._add(op)

    # ---- growing

    def _add(self, op: Op) -> None:
        form = lookup(op.name).loop
        group: Group | None = None
        if self._stores_product(op):
            group = self.home[self.views.read_by(op)[0]]
            self._place(op, group, RowRole.STORED, True)
        elif isinstance(form, (Pointwise, Reduction)) or (
            isinstance(form, ByIndex) and op.operands
        ):
            for candidate in self._candidates(op):
                if self._joins(op, candidate):
                    group = candidate
                    break
        if group is None:
            group = self._begin(op)
        group.ops.append(op)
        for value in op.results:
            self.home[value] = group
        for base in self.views.read_by(op):
            if not group.holds(base):
                group.inputs[base] = None
                readers = self.readers.setdefault(base, [])
                if not readers or readers[-1] is not group:
                    readers.append(group)

    def _stores_product(self, op: Op) -> bool:
        """Whether ``op`` puts the result of a product in another order, so that the product can
        write it there."""
        if not is_view(op):
            return False
        bases = self.views.read_by(op)
        group = self.home.get(bases[0]) if len(bases) == 1 else None
        if group is None or group.kind != "product" or group.places[bases[0]] is not RowRole.FULL:
            return False
        if op.replica != group.ops[0].replica:
            return False
        block = Block(tuple(bases), (*self._chain(op), Op("yield", op.results, ())))
        return stored_order(block, op.result) is not None

    def _chain(self, op: Op) -> list[Op]:
        """The views from stored values to ``op``, itself included."""
        found: dict[Op, None] = {}
        for operand in op.operands:
            found.update(dict.fromkeys(self.views.chain(operand)))
        return [*found, op]

    def _candidates(self, op: Op) -> list[Group]:
        """Groups that ``op`` may join without closing a circle, the most promising first."""
        bases = self.views.read_by(op)
        made = [self.home[b] for b in bases if b in self.home]
        latest = max((g.number for g in made), default=-1)
        found = {g.number: g for g in made if g.number == latest}
        if any(v in self.apart for v in op.results):
            return list(found.values())
        shapes = [v.type.static_shape for v in (*op.results, *op.operands)]
        largest = max(map(size_of, shapes))
        for base in bases:
            # Worth reading together is what is large, or has an element for each row of the group.
            size = size_of(base.type.static_shape)
            is_large = 4 * size >= largest
            if not is_large and size == 1:
                continue
            for group in reversed(self.readers.get(base, ())):
                if group.number < latest or group.kind != "rows":
                    continue
                if is_large or _has_row_for_each(group, size, shapes):
                    found.setdefault(group.number, group)
                    if len(found) == _CANDIDATES:
                        return list(found.values())
        return list(found.values())

    def _begin(self, op: Op) -> Group:
        form = lookup(op.name).loop
        shape = op.results[0].type.static_shape if op.results else ()
        kind, space = "opaque", None
        if has_epilogue(op):
            kind = "product"
        elif isinstance(form, Contraction):
            kind = "opaque"
        elif isinstance(form, Reduction):
            space = natural_space(op)
            kind = "mixed" if space is None else "rows"
        elif isinstance(form, Pointwise) or (isinstance(form, ByIndex) and op.operands):
            kind = "rows"
        elif isinstance(form, ByIndex):
            kind = "opaque"
        group = Group(len(self.groups), kind, shape, space=space)
        self.groups.append(group)
        if space is not None:
            group.shape = space.shape
            self._place_reduction(op, group, kind_in(op, space))
        elif kind != "opaque":
            self._place(op, group, RowRole.FULL, kind in ("product", "mixed"))
        return group

    def _place(self, op: Op, group: Group, place: RowRole, anchored: bool) -> None:
        bases = [b for b in self.views.read_by(op) if group.holds(b)]
        count = self.views.verbs(op)
        heavy = count.transcendental > 0 or isinstance(lookup(op.name).loop, ByIndex)
        heavy = heavy or any(group.heavy[b] for b in bases)
        value = op.result
        group.again[value] = self._verbs_again(op, group, place, bases)
        group.places[value] = place
        group.anchored[value] = anchored or any(group.anchored[b] for b in bases)
        group.heavy[value] = heavy

    def _place_reduction(self, op: Op, group: Group, kind: ReductionKind) -> None:
        self._place(op, group, RowRole.ROW if kind is ReductionKind.ROW else RowRole.POST, True)

    # ---- fitting

    def _joins(self, op: Op, group: Group) -> bool:
        if len(group.ops) >= self.limits.ops or group.kind == "opaque":
            return False
        # What is recomputed stays where it is recomputed.
        if op.replica and all(other.replica != op.replica for other in group.ops):
            return False
        fresh = sum(b not in group.inputs and not group.holds(b) for b in self.views.read_by(op))
        if len(group.inputs) + fresh > self.limits.buffers:
            return False
        form = lookup(op.name).loop
        if group.kind in ("product", "mixed"):
            return isinstance(form, Pointwise) and self._joins_epilogue(op, group)
        if isinstance(form, Reduction):
            return self._joins_as_reduction(op, group)
        if isinstance(form, ByIndex):
            return self._joins_as_gather(op, group) or self._joins_as_whole(op, group)
        return self._joins_elementwise(op, group)

    def _joins_epilogue(self, op: Op, group: Group) -> bool:
        is_full = len(group.ops) > self.limits.epilogue
        if op.result.type.static_shape != group.shape or is_full:
            return False
        if not self._rides(op, group):
            return False
        for operand in op.operands:
            for base, view in self.views.reads(operand):
                if not group.holds(base):
                    continue
                if group.places[base] is RowRole.STORED or view is None:
                    return False
                if not passes_index(view, group.shape):
                    return False
        self._place(op, group, RowRole.FULL, True)
        return True

    def _rides(self, op: Op, group: Group) -> bool:
        """Whether ``op`` is better computed with a product than with what uses it later."""
        if op.result in self.epilogues or self.views.verbs(op).transcendental:
            return True
        held = [b for b in self.views.read_by(op) if group.holds(b)]
        if any(group.heavy[b] for b in held):
            size = size_of(group.shape)
            others = [b for b in self.views.read_by(op) if not group.holds(b)]
            return all(size_of(b.type.static_shape) < size for b in others)
        # It takes the place of the only value it is made from.
        return all(user is op or user in group.ops for b in held for user in self.users.get(b, ()))

    def _joins_as_gather(self, op: Op, group: Group) -> bool:
        """Gathers and windows read anywhere, so what they read must come from outside."""
        if any(group.holds(b) for b in self.views.read_by(op)):
            return False
        if op.result.type.static_shape != group.shape:
            return False
        self._place(op, group, RowRole.FULL, False)
        return True

    def _joins_as_whole(self, op: Op, group: Group) -> bool:
        """What joins values of the group is stored with them, part by part; nothing in the group
        can read it."""
        if part_shape(op) != group.shape or not any(group.holds(x) for x in op.operands):
            return False
        if not all(self._reads(x, group, RowRole.FULL) for x in op.operands):
            return False
        self._place(op, group, RowRole.STORED, True)
        return True

    def _joins_elementwise(self, op: Op, group: Group) -> bool:
        held = [b for b in self.views.read_by(op) if group.holds(b)]
        if any(group.places[b] is RowRole.POST for b in held):
            return self._joins_post(op, group, held)
        shape = op.result.type.static_shape
        if shape == group.shape:
            place = RowRole.FULL
        elif group.space is not None and is_row_shape(shape, group.space):
            place = RowRole.ROW
        else:
            return False
        if not all(self._reads(x, group, place) for x in op.operands):
            return False
        if not self._belongs(op, group):
            return False
        self._place(op, group, place, False)
        return True

    def _belongs(self, op: Op, group: Group) -> bool:
        """Whether a large operand of ``op`` is in the group's hands, if it has any: a scalar or a
        row value in common is no reason to walk over other arrays in the same loop."""
        size = size_of(op.result.type.static_shape)
        large = [b for b in self.views.read_by(op) if 4 * size_of(b.type.static_shape) >= size]
        return not large or any(group.holds(b) or b in group.inputs for b in large)

    def _joins_post(self, op: Op, group: Group, held: Sequence[Value]) -> bool:
        if not all(group.places[b] is RowRole.POST for b in held):
            return False
        size = size_of(op.result.type.static_shape)
        if size > max(size_of(b.type.static_shape) for b in held):
            return False
        if not all(self._again_is_little(x, group, RowRole.POST) for x in op.operands):
            return False
        self._place(op, group, RowRole.POST, True)
        return True

    def _joins_as_reduction(self, op: Op, group: Group) -> bool:
        if any(group.holds(b) and group.places[b] is RowRole.POST for b in self.views.read_by(op)):
            return False
        shape = op.operands[0].type.static_shape
        space = self._common_space(op, group)
        if space is None:
            return False
        kind = kind_in(op, space)
        if kind is ReductionKind.MIXED:
            return False
        place = RowRole.ROW if kind is ReductionKind.ROW_TAIL else RowRole.FULL
        if place is RowRole.FULL and shape != space.shape:
            return False
        before, group.space = group.space, space
        if not self._reads(op.operands[0], group, place):
            group.space = before
            return False
        self._place_reduction(op, group, kind)
        return True

    def _common_space(self, op: Op, group: Group) -> Space | None:
        """A space for the group and reduction ``op``, in which no reduction changes its kind."""
        shape = op.operands[0].type.static_shape
        natural = natural_space(op)
        if group.space is None:
            return natural if natural is not None and shape == group.shape else None
        if natural is None or natural == group.space or shape != group.shape:
            return group.space
        if kind_in(op, group.space) is kind_in(op, natural):
            return group.space
        if kind_in(op, natural) is not ReductionKind.ROW:
            return None
        reductions = [x for x in group.ops if isinstance(lookup(x.name).loop, Reduction)]
        same = all(kind_in(x, natural) is kind_in(x, group.space) for x in reductions)
        has_rows = any(place is RowRole.ROW for place in group.places.values())
        return natural if same and not has_rows else None

    def _reads(self, operand: Value, group: Group, place: RowRole) -> bool:
        """Whether an op at ``place`` can have the elements of ``operand``."""
        if not self._again_is_little(operand, group, place):
            return False
        for base, view in self.views.reads(operand):
            if not group.holds(base):
                continue
            if group.places[base] is RowRole.POST:
                return False
            if view is not None and self._same_index(operand, view, group, place):
                continue
            # At another index it is computed again there.
            if group.anchored[base] or group.heavy[base]:
                return False
            if size_of(operand.type.static_shape) > size_of(base.type.static_shape):
                return False
        return True

    def _elsewhere(self, operand: Value, group: Group, place: RowRole) -> list[Value]:
        """The values of the group that an op at ``place`` reads through ``operand`` at indices of
        their own, once for every read."""
        return [
            base
            for base, view in self.views.reads(operand)
            if group.holds(base)
            and not (view is not None and self._same_index(operand, view, group, place))
        ]

    def _again_is_little(self, operand: Value, group: Group, place: RowRole) -> bool:
        """Whether what ``operand`` asks the group for at other indices is cheap, and not computed
        at other indices in
        turn: then an op adds a bounded number of verbs to its group, however long the chain of such
            ops."""
        known = [group.again[base] for base in self._elsewhere(operand, group, place)]
        costs = [cost for cost in known if cost is not None]
        return len(costs) == len(known) and sum(costs) <= self.limits.again

    def _verbs_again(
        self, op: Op, group: Group, place: RowRole, bases: Sequence[Value]
    ) -> int | None:
        """See ``Group.again``, for the result of ``op``."""
        if isinstance(lookup(op.name).loop, Reduction):
            return 1
        if any(self._elsewhere(x, group, place) for x in op.operands):
            return None
        costs = [group.again[b] for b in bases]
        if None in costs:
            return None
        count = self.views.verbs(op)
        own = 1 + count.total
        return min(own + sum(cost or 0 for cost in costs), self.limits.again + 1)

    def _same_index(self, operand: Value, view: View, group: Group, place: RowRole) -> bool:
        source = group.places[view.base]
        if place is source:
            return passes_index(view, operand.type.static_shape)
        if place is RowRole.FULL and source is RowRole.ROW and group.space is not None:
            if operand.type.static_shape != group.space.shape:
                return False
            return passes_row(view, group.space)
        return False


def _has_row_for_each(group: Group, elements: int, shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether a value of so many elements has one for each row of ``group``, which walks over an
    array of one of ``shapes``."""
    return group.space is not None and group.shape in shapes and elements == group.space.rows > 1
