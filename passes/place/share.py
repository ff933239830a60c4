"""Shared storage: results written over operands that die, and new parameters written over the old
ones.

Both need that the kernel reads each element before it writes it (``place_alias``). A copy into an
`inout` port disappears if the step that makes the value may write the port itself: every other
reader of the old value then has to come before it, which ``reorder`` sees to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gradc.ir.loop.kernel import For, Kernel, Load, Store
from gradc.ir.plan.plan import Argument, Launch, Plan, Step
from gradc.passes.place.alias import shareable
from gradc.passes.place.lifetime import Lifetime
from gradc.passes.place.schedule import Uses, dependences, step_uses


class Sharing:
    """Answers for one Plan, kernels analysed once."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._pairs: dict[int, frozenset[tuple[int, int]]] = {}

    def pairs(self, kernel: int) -> frozenset[tuple[int, int]]:
        """``shareable`` of kernel number ``kernel``."""
        if kernel not in self._pairs:
            self._pairs[kernel] = shareable(self.plan.kernels[kernel])
        return self._pairs[kernel]

    def may_overwrite(self, launch: Launch, tensor: int, target: int) -> bool:
        """Whether ``launch`` may find ``target``, which it writes, in the storage of ``tensor``,
        which it reads."""
        roots = [self.plan.root(a.tensor) for a in launch.arguments]
        reads = [n for n, root in enumerate(roots) if root == tensor]
        writes = [n for n, a in enumerate(launch.arguments) if a.tensor == target]
        named = self.plan.kernels[launch.kernel].bound
        if any(named[n].access != "read" for n in reads):
            return False
        if any(not is_whole(launch.arguments[n]) for n in (*reads, *writes)):
            return False
        known = self.pairs(launch.kernel)
        return all((r, w) in known for r in reads for w in writes)


def is_whole(argument: Argument) -> bool:
    """Whether ``argument`` is its tensor from the start in every trip."""
    return not argument.offset and not any(argument.strides) and not any(argument.parity)


def is_copy(kernel: Kernel) -> bool:
    """Whether ``kernel`` only copies its first buffer to its second."""
    if len(kernel.buffers) != 2 or kernel.buffers[0].size != kernel.buffers[1].size:
        return False
    body = kernel.body
    while len(body) == 1 and isinstance(body[0], For):
        body = body[0].body
    if len(body) != 2:
        return False
    load, store = body
    return (
        isinstance(load, Load)
        and isinstance(store, Store)
        and store.value is load.var
        and not store.combine
        and store.offset == load.offset
        and load.guard is store.guard is None
    )


def write_ports(plan: Plan) -> Plan:
    """``plan`` with copies into `inout` ports replaced by writing the ports where that is safe."""
    ports = {port.tensor: None for port in plan.ports if port.direction == "inout"}
    work = _Rewriting(plan)
    for number in range(len(plan.steps) - 1, -1, -1):
        launch = plan.steps[number].launch
        if launch is not None and len(launch.arguments) == 2:
            source, target = launch.arguments
            into_port = target.tensor in ports and is_copy(plan.kernels[launch.kernel])
            if into_port and is_whole(source) and is_whole(target):
                work.redirect(number, source.tensor, target.tensor)
    return work.result()


class _Rewriting:
    """The steps of a Plan while copies are taken out. Steps keep their numbers, whatever their
    order.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.sharing = Sharing(plan)
        self.order = list(range(len(plan.steps)))
        self.uses = [step_uses(plan, step) for step in plan.steps]
        self.position = {number: number for number in self.order}
        self.touching: dict[int, dict[int, None]] = {}
        for number, use in enumerate(self.uses):
            for tensor in (*use.reads, *use.writes):
                self.touching.setdefault(tensor, {})[number] = None
        self.renamed: dict[int, int] = {}
        self.removed: dict[int, None] = {}
        self.roots = {t.root: None for t in plan.tensors if t.root is not None}

    def result(self) -> Plan:
        """The Plan as it is now."""
        if not self.removed:
            return self.plan
        steps = tuple(self.plan.steps[n] for n in self._left())
        left = replace(self.plan, steps=steps)
        return left.map(lambda launch: launch.renamed(self.renamed))

    def _left(self) -> list[int]:
        return [n for n in self.order if n not in self.removed]

    def redirect(self, copy: int, source: int, target: int) -> None:
        """Takes out ``copy``, ``source`` being ``target`` everywhere, if that is safe."""
        maker = self._maker(copy, source, target)
        if maker is None:
            return
        at = self.position[maker]
        first = self._first_copy(source, target)
        readers = [
            n
            for n in self.touching.get(target, ())
            if n not in (maker, copy, first) and target in self.uses[n].reads
        ]
        late = [n for n in readers if self.position[n] > at]
        if late and not self._move(maker, late):
            return
        taken_out = (copy,) if first is None or first == maker else (copy, first)
        self.removed.update(dict.fromkeys(taken_out))
        self.renamed[source] = target
        touched = self.touching.pop(source)
        for number in touched:
            self.uses[number] = _with_name(self.uses[number], source, target)
        self.touching.setdefault(target, {}).update(touched)
        for tensor in (source, target):
            for number in taken_out:
                self.touching.get(tensor, {}).pop(number, None)

    def _first_copy(self, source: int, target: int) -> int | None:
        """The step with which ``source`` begins, if that copies all of ``target``."""
        for number in self.touching[source]:
            launch = self.plan.steps[number].launch
            if launch is not None and is_copy(self.plan.kernels[launch.kernel]):
                given, made = launch.arguments
                pair = (self.plan.root(given.tensor), made.tensor)
                if pair == (target, source) and is_whole(given) and is_whole(made):
                    return number
        return None

    def _maker(self, copy: int, source: int, target: int) -> int | None:
        """The step that makes ``source``, if it may write ``target`` instead."""
        tensors = self.plan.tensors
        if tensors[source].space != "arena" or tensors[source].root is not None:
            return None
        if tensors[source].nbytes != tensors[target].nbytes or source in self.roots:
            return None
        makers = [n for n in self.touching[source] if source in self.uses[n].writes]
        if len(makers) == 2 and self._first_copy(source, target) is not None:
            # It begins as a copy of the port, and its maker changes a part of that.
            makers = [n for n in makers if n != self._first_copy(source, target)]
        if len(makers) != 1:
            return None
        launch = self.plan.steps[makers[0]].launch
        if launch is None:
            return None
        if any(n != copy and target in self.uses[n].writes for n in self.touching[target]):
            return None
        reads = target in self.uses[makers[0]].reads
        if reads and not self.sharing.may_overwrite(launch, target, source):
            return None
        if not all(is_whole(a) for a in launch.arguments if a.tensor == source):
            return None
        return makers[0]

    def _move(self, maker: int, late: Sequence[int]) -> bool:
        """Brings the steps ``late`` before ``maker``, if none of them depends on it."""
        left = self._left()
        index = {number: n for n, number in enumerate(left)}
        uses = [self.uses[n] for n in left]
        numbers = [index[n] for n in late]
        if not _may_precede(uses, numbers, index[maker]):
            return False
        order = _reordered(uses, numbers, index[maker], len(left))
        self.order = [left[n] for n in order]
        self.position = {number: n for n, number in enumerate(self.order)}
        return True


def _with_name(use: Uses, source: int, target: int) -> Uses:
    def changed(tensors: Sequence[int]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(target if t == source else t for t in tensors))

    return Uses(changed(use.reads), changed(use.writes))


def _may_precede(uses: Sequence[Uses], readers: Sequence[int], maker: int) -> bool:
    """Whether no reader depends on ``maker``."""
    before = dependences(uses)
    reached = {maker}
    for number in range(maker + 1, len(uses)):
        if any(n in reached for n in before[number]):
            reached.add(number)
    return not any(reader in reached for reader in readers)


def _reordered(uses: Sequence[Uses], late: Sequence[int], maker: int, count: int) -> list[int]:
    """``late`` before ``maker``, by moving as few steps as possible: the readers up, or the maker
    down.

    The step counter of the random generator is read by every recomputed dropout: it moves down.
    """
    before = dependences(uses)
    end = max(late)
    reached = {maker}
    for number in range(maker + 1, end + 1):
        if any(n in reached for n in before[number]):
            reached.add(number)
    down = [n for n in range(maker, end + 1) if n in reached]
    up = _before(uses, late, maker, count)
    moved_up = up.index(maker) - maker
    if len(down) >= moved_up:
        return up
    stay = [n for n in range(maker, end + 1) if n not in reached]
    return [*range(maker), *stay, *down, *range(end + 1, count)]


def _before(uses: Sequence[Uses], late: Sequence[int], maker: int, count: int) -> list[int]:
    """Program order with ``late`` and what they depend on moved before ``maker``."""
    before = dependences(uses)
    needed = set(late)
    for number in range(count - 1, maker, -1):
        if number in needed:
            needed.update(n for n in before[number] if n > maker)
    moved = [n for n in range(maker + 1, count) if n in needed]
    rest = [n for n in range(maker, count) if n not in needed]
    return [*range(maker), *moved, *rest]


def share(plan: Plan, times: Mapping[int, Lifetime]) -> Plan:
    """``plan``, whose ``lifetimes`` are ``times``, with results in the storage of operands that are
    used for the last time, where that is safe; lifetimes stay what they are.
    """
    sharing = Sharing(plan)
    tensors = list(plan.tensors)
    last = {n: time.last for n, time in times.items()}
    roots: dict[int, int] = {}
    for number, step in enumerate(_top_level(plan.steps)):
        if step is None:
            continue
        taken: dict[int, None] = {}
        kernel = plan.kernels[step.kernel]
        named = kernel.bound
        for w, written in enumerate(step.arguments):
            target = written.tensor
            if named[w].access != "write" or target not in times or target in roots:
                continue
            if times[target].first != number or tensors[target].root is not None:
                continue
            for r, read in enumerate(step.arguments):
                root = roots.get(read.tensor, read.tensor)
                if named[r].access != "read" or root in taken or read.tensor not in times:
                    continue
                if last[root] != number or tensors[root].nbytes < tensors[target].nbytes:
                    continue
                if not _clear(sharing, step, roots, root, target):
                    continue
                taken[root] = None
                roots[target] = root
                last[root] = times[target].last
                tensors[target] = replace(tensors[target], root=root)
                break
    return replace(plan, tensors=tuple(tensors))


def _clear(sharing: Sharing, launch: Launch, roots: dict[int, int], root: int, target: int) -> bool:
    """Whether every read of the storage ``root`` in ``launch`` may share with the write of
    ``target``."""
    known = sharing.pairs(launch.kernel)
    writes = [n for n, a in enumerate(launch.arguments) if a.tensor == target]
    named = sharing.plan.kernels[launch.kernel].bound
    for n, argument in enumerate(launch.arguments):
        if n in writes:
            if not is_whole(argument):
                return False
            continue
        if roots.get(argument.tensor, argument.tensor) != root:
            continue
        if named[n].access != "read" or not is_whole(argument):
            return False
        if any((n, w) not in known for w in writes):
            return False
    return True


def _top_level(steps: Sequence[Step]) -> list[Launch | None]:
    """The launch of every number; None for launches inside a Repeat."""
    found: list[Launch | None] = []
    for step in steps:
        found += [step.launch] * (1 if step.launch is not None else sum(1 for _ in step.walk()))
    return found
