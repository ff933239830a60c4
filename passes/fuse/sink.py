"""Moving cheap ops from the group that makes their operands to the groups that use their results.

Growing groups in program order computes what the reverse sweep needs of the forward sweep as early
as possible, and stores it. Where the operands are stored anyway (or are smaller), it is better
computed where it is used: normalised values from mean and scale, masks and derivatives from
activations. Transcendentals never move.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gradc.ir.ops.registry import Pointwise, Reduction, lookup
from gradc.ir.tensor.core import Op, Value
from gradc.passes.fuse.groups import Group, Grouping, RowRole
from gradc.passes.fuse.views import Views, passes_index
from gradc.passes.lower.cost import size_of


class Sinking:
    """The final contents of the groups: ``contents`` lists the ops of each, ``used`` who reads a
    stored value."""

    def __init__(
        self, ops: Sequence[Op], grouping: Grouping, views: Views, outputs: Iterable[Value]
    ) -> None:
        self.views = views
        self.grouping = grouping
        self.limits = grouping.limits
        self.kept = frozenset(b for v in outputs for b in views.bases(v))
        self.order = {op: n for n, op in enumerate(ops)}
        self.homes: dict[Op, list[Group]] = {}
        for group in grouping.groups:
            for op in group.ops:
                self.homes[op] = [group]
        # How often a moved op is computed for one element of what its group makes.
        self.times: dict[Op, int] = {}
        # Readers of each stored value, as (op, the operand through which it reads).
        self.users: dict[Value, list[tuple[Op, Value]]] = {}
        for group in grouping.groups:
            for op in group.ops:
                for operand in dict.fromkeys(op.operands):
                    for base in views.bases(operand):
                        self.users.setdefault(base, []).append((op, operand))
        for op in reversed(ops):
            if op in self.homes:
                self._sink(op)

    def contents(self) -> list[list[Op]]:
        """The ops of every group by number, moved ones included, in program order."""
        found: list[list[Op]] = [[] for _ in self.grouping.groups]
        for op in self.order:
            for group in self.homes.get(op, ()):
                found[group.number].append(op)
        return found

    def escapes(self, value: Value) -> bool:
        """Whether a group reads ``value`` that does not make it itself."""
        if value in self.kept:
            return True
        made = self.homes[self.views.makers[value]]
        return any(
            home not in made for op, _ in self.users.get(value, ()) for home in self.homes[op]
        )

    def _sink(self, op: Op) -> None:
        (group,) = self.homes[op]
        if not self._is_movable(op, group):
            return
        value = op.result
        targets: dict[int, Group] = {}
        is_used_here = False
        for user, operand in self.users.get(value, ()):
            for home in self.homes[user]:
                if home is group:
                    is_used_here = True
                    continue
                if home.kind == "opaque" or not _computes(user):
                    return
                targets[home.number] = home
            stretched = size_of(operand.type.static_shape) > size_of(value.type.static_shape)
            if stretched and self.views.verbs(op).slow:
                return
        if not targets or len(targets) > self.limits.copies:
            return
        times = max(self._times(value, home) for home in targets.values())
        if times > self.limits.times:
            return
        if self._pays(op, group, list(targets.values())):
            self.times[op] = times
            self._move(op, ([group] if is_used_here else []) + list(targets.values()))

    def _times(self, value: Value, home: Group) -> int:
        """At how many indices ``home`` would compute ``value`` for one element of what it makes, at
        most.
        """
        together, apart = 0, 0
        for user, operand in self.users.get(value, ()):
            if home not in self.homes[user]:
                continue
            times = self.times.get(user, 1)
            shape = operand.type.static_shape
            is_row = size_of(shape) > size_of(value.type.static_shape)
            for base, view in self.views.reads(operand):
                if base is not value:
                    continue
                if times == 1 and view is not None and (is_row or passes_index(view, shape)):
                    together = 1
                else:
                    apart += times
        return together + apart

    def _is_movable(self, op: Op, group: Group) -> bool:
        if self.homes.get(op) != [group]:
            return False
        if group.kind == "opaque" or not isinstance(lookup(op.name).loop, Pointwise):
            return False
        if op.result in self.kept or self.views.verbs(op).transcendental:
            return False
        return group.places.get(op.result) is not RowRole.POST

    def _frontier(self, op: Op, group: Group) -> list[Value]:
        """What a group that computes ``op`` itself has to read, if cheap operands move along with
        it."""
        found: dict[Value, None] = {}
        stack = list(reversed(self.views.read_by(op)))
        expanded = 0
        while stack:
            value = stack.pop()
            maker = self.views.makers.get(value)
            inner = group.holds(value) and not self.escapes(value)
            inner = inner and maker is not None and expanded < self.limits.moved
            if inner and maker is not None and self._is_movable(maker, group):
                expanded += 1
                stack += reversed(self.views.read_by(maker))
                continue
            found[value] = None
        return list(found)

    def _pays(self, op: Op, group: Group, targets: Sequence[Group]) -> bool:
        """Whether fewer bytes are stored, and no more are moved."""
        gain = op.result.type.nbytes
        frontier = self._frontier(op, group)
        stored = sum(b.type.nbytes for b in frontier if group.holds(b) and not self.escapes(b))
        if stored and stored >= gain:
            return False
        read = 0
        for target in targets:
            fresh = [b for b in frontier if b not in target.inputs]
            if len(target.inputs) + len(fresh) > self.limits.buffers:
                return False
            if len(target.ops) >= self.limits.ops:
                return False
            read += sum(b.type.nbytes for b in fresh if not self._is_at_hand(b, target))
        return stored + read <= gain * (1 + len(targets))

    def _is_at_hand(self, value: Value, target: Group) -> bool:
        """Whether ``value`` follows, by one op that moves along, from what ``target`` reads."""
        maker = self.views.makers.get(value)
        homes = None if maker is None else self.homes.get(maker)
        if maker is None or not homes or not self._is_movable(maker, homes[0]):
            return False
        bases = self.views.read_by(maker)
        return bool(bases) and all(b in target.inputs for b in bases)

    def _move(self, op: Op, targets: list[Group]) -> None:
        self.homes[op] = targets
        for target in targets:
            if target.holds(op.result):
                continue
            target.inputs.pop(op.result, None)
            target.inputs.update(
                dict.fromkeys(b for b in self.views.read_by(op) if not target.holds(b))
            )


def _computes(op: Op) -> bool:
    """Whether ``op`` asks for its operands element by element."""
    return isinstance(lookup(op.name).loop, (Pointwise, Reduction))
