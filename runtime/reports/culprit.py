"""Where a NaN, an infinity or an underflow began: the op that first made one which reached the
results.

The program is run once more by the reference interpreter, in its own element types, and watched,
trip by trip inside loops. Every value that is not finite becomes a node with the ones it was made
from; walking back from the results leads to the origins, of which the earliest is told. What is not
finite and does not reach a result (a masked score, the untaken side of a ``where``) is nobody's
fault, and neither is a constant infinity unless nothing else explains a NaN. Slow, and worth it: it
runs only when something has gone wrong.

Ranks that hold parts of parameters run their own program together, each with its parts; of what
they find, all of them tell the one that came first.

Non-goals: preventing it (``gradc verify`` finds such places before running).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradc.codegen.exchange import as_bytes
from gradc.frontend.elaborate.context import LIBRARY
from gradc.ir.diagnostics.diagnostic import Diagnostic, error
from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run, run_block
from gradc.ir.ops.registry import is_loop, lookup
from gradc.ir.tensor.core import Block, DType, Function, Op, Role, Slot, Span, Value
from gradc.passes.hazards.hazards import traced_to
from gradc.passes.pipeline import Derivative, Options, run_pipeline
from gradc.passes.simplify.flatten import flatten
from gradc.runtime.native.arrays import Array
from gradc.runtime.ranks.world import Ranks

# What makes half of f16's smallest number round to zero, and the share of a value that may be so
# small.
_FLUSHED, _FLUSHED_SHARE = 2.0**-25, 0.01


@dataclass(slots=True, eq=False)
class _Node:
    """A value that is bad (not finite, or lost in f16), at one moment of the run. ``top`` is the op
    of the function's own block.
    """

    order: int
    moment: int
    maker: Op | Slot
    top: Op | None
    step: str
    array: Array
    parents: tuple[_Node, ...]

    @property
    def has_nan(self) -> bool:
        return bool(np.isnan(self.array).any())

    @property
    def is_on_purpose(self) -> bool:
        """Whether its op only hands on what another one made, or masks with infinity."""
        if not isinstance(self.maker, Op):
            return False
        return lookup(self.maker.name).is_view or self.maker.name == "select"


@dataclass(slots=True)
class _Loop:
    """A region op while it runs: trips done, what the last one handed out, all that any handed
    out.
    """

    trips: int = 0
    last: list[_Node | None] = field(default_factory=list)
    seen: list[_Node] = field(default_factory=list)


@dataclass(slots=True)
class _Frame:
    """A block while it runs: its bad values."""

    top: Op | None
    step: str
    bad: dict[Value, _Node] = field(default_factory=dict)
    loops: dict[int, _Loop] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Group:
    """The ``size`` ranks of ``world`` that hold the parameters together, this one among them."""

    world: Ranks
    size: int

    def exchange(self, kind: str, ranks: int, own: Array) -> Array:
        """Rows [ranks, ...] after an exchange (``Arrays.exchange``); every rank calls."""
        if kind.startswith("deal"):
            rows = np.array(own, order="C")
        else:
            rows = np.empty((ranks, *own.shape), own.dtype)
            rows[0] = own  # where an exchange finds it
        if rows.size:
            self.world.begin(kind, as_bytes(rows))()
        return rows

    def first(self, origin: _Node | None) -> tuple[int, str, str] | None:
        """Of what ranks have found the earliest: its moment, what is wrong
        with it, and where if on one rank only. Every rank calls.
        """
        own = np.zeros((self.size, 4))
        if origin is not None:
            own[self.world.rank % self.size] = origin.moment + 1, *_counted(origin.array)
        found = self.world.total(own, self.size)
        told = [rank for rank in range(self.size) if found[rank, 0]]
        if not told:
            return None
        rank = min(told, key=lambda rank: float(found[rank, 0]))
        is_alone = sum(found[other, 0] == found[rank, 0] for other in told) == 1
        moment, bad, size, has_nan = (int(number) for number in found[rank])
        where = f" on rank {rank}" if is_alone else ""
        return moment - 1, _described(bad, size, bool(has_nan)), where


class _Watch(NumpyArrays):
    """The arrays of the reference interpreter; whatever runs in them, regions too, is watched."""

    def __init__(
        self,
        function: Function,
        is_bad: Callable[[Array], bool],
        floats: DType | None = None,
        group: Group | None = None,
    ) -> None:
        super().__init__(floats)
        self.exchange = None if group is None else group.exchange
        # What has run so far: the same on all ranks of a group.
        self.moments: list[tuple[Op | Slot, Op | None, str]] = []
        self._is_bad = is_bad
        self._owners = {id(region): op for op, region in _regions(function.block)}
        self._frames = [_Frame(None, "")]
        self._count = 0

    @property
    def bad(self) -> dict[Value, _Node]:
        """The bad values of the running block."""
        return self._frames[-1].bad

    def run(self, block: Block, operands: Sequence[Any]) -> tuple[Any, ...]:
        """Runs a region in a frame of its own; its parameters inherit from the operands, or the
        trip before.
        """
        op, outer = self._owners[id(block)], self._frames[-1]
        loop = outer.loops.setdefault(id(op), _Loop())
        nodes = [outer.bad.get(v) for v in op.operands]
        if loop.trips and is_loop(op):
            carried = op.attributes["carried"]
            assert isinstance(carried, int)
            nodes[:carried] = loop.last[:carried]
        frame = _Frame(outer.top or op, _step(op, loop.trips) or outer.step)
        for value, node, operand in zip(block.parameters, nodes, operands, strict=True):
            if node is not None and self._is_bad(np.asarray(operand)):
                frame.bad[value] = node
        self._frames.append(frame)
        outputs = run_block(self, block, operands, self.observe)
        self._frames.pop()
        loop.trips += 1
        loop.last = [frame.bad.get(v) for v in block.outputs]
        loop.seen += [node for node in loop.last if node is not None]
        return outputs

    def observe(self, op: Op, results: Sequence[Any]) -> None:
        """Notes what ``op`` made that is bad."""
        frame = self._frames[-1]
        self.moments.append((op, frame.top or op, frame.step))
        loop = frame.loops.pop(id(op), None)
        parents = (frame.bad.get(v) for v in op.operands) if loop is None else loop.seen
        made_from = tuple(node for node in parents if node is not None)
        for value, result in zip(op.results, results, strict=True):
            self.note(value, np.asarray(result), op, made_from)

    def note(
        self, value: Value, array: Array, maker: Op | Slot, parents: tuple[_Node, ...] = ()
    ) -> None:
        """Makes a node of ``value`` if it is bad."""
        if array.dtype.kind != "f" or not self._is_bad(array):
            return
        frame = self._frames[-1]
        top = frame.top or (maker if isinstance(maker, Op) else None)
        moment = len(self.moments) - 1
        frame.bad[value] = _Node(self._count, moment, maker, top, frame.step, array, parents)
        self._count += 1


def _regions(block: Block) -> Iterable[tuple[Op, Block]]:
    for op in block.body:
        for region in op.regions:
            yield op, region
            yield from _regions(region)


def _step(op: Op, done: int) -> str:
    """Which trip of a loop comes after ``done`` of them, in words; nothing for other regions."""
    if not is_loop(op):
        return ""
    trips = op.attributes["trips"]
    assert isinstance(trips, int), "dimensions are bound before a program runs"
    step = trips - done if op.attributes["reverse"] else done + 1
    return f" in step {step} of {trips} of the loop"


def find_culprit(
    function: Function, operands: Mapping[str, Any], group: Group | None = None
) -> Diagnostic | None:
    """A finding at the model's line where the first value began that made a result not finite; None
    if all are. The ranks of ``group`` all call, and all get the same.

    ``operands`` has an array per parameter of ``function``; SEEDs may be given as numbers. Named
    outputs may be infinite on purpose and are not asked.
    """
    function = flatten(function)
    watch = _watched(_Watch(function, _is_not_finite, group=group), function, operands)
    results = zip(function.results, function.block.outputs, strict=True)
    ends = [watch.bad[v] for s, v in results if s.role is not Role.OUTPUT and v in watch.bad]
    origin = _origin(ends)
    if group is not None:
        first = group.first(origin)
        if first is None:
            return None
        moment, found, where = first
        return _finding(function, *watch.moments[moment], found + where)
    if origin is None:
        return None
    found = _described(*_counted(origin.array))
    return _finding(function, origin.maker, origin.top, origin.step, found)


def find_culprit_of(
    model: Function,
    derivative: Derivative,
    operands: Mapping[str, Any],
    fast_math: bool = False,
    group: Group | None = None,
) -> Diagnostic | None:
    """``find_culprit`` of the derivative of ``model``; where that is finite, of the program that
    passes make of it, whose numbers are those that ran.
    """
    found = find_culprit(derivative(model), operands, group)
    if found is not None:
        return found
    asked = Options(
        derivative=derivative, fast_math=fast_math, verify=0, stop_after="simplify-again"
    )
    compiled = run_pipeline(model, asked).result
    return find_culprit(compiled, operands, group) if isinstance(compiled, Function) else None


def find_underflow(
    function: Function, operands: Mapping[str, Any], name: str
) -> tuple[Op, Span | None] | None:
    """The op, and its line, at which the result ``name`` began to be lost in f16; None if it is not
    lost.

    Numbers written in the program are small on purpose: the op that multiplies by one is told.
    """
    function = flatten(function)
    watch = _watched(_Watch(function, _is_flushed, DType.F64), function, operands)
    results = zip(function.results, function.block.outputs, strict=True)
    ends = [watch.bad[v] for s, v in results if s.name == name and v in watch.bad]
    for node in _reached(ends):
        # In order: whatever a node was made from has been looked at before it.
        if isinstance(node.maker, Op) and not node.is_on_purpose:
            return node.maker, _own_line(node.maker.span)
    return None


def _is_not_finite(array: Array) -> bool:
    return not bool(np.isfinite(array).all())


def _is_flushed(array: Array) -> bool:
    """Whether more than a hundredth of the values that are not zero would be zero in f16."""
    sizes = np.abs(array[array != 0])
    return bool(sizes.size) and float((sizes <= _FLUSHED).mean()) > _FLUSHED_SHARE


def _watched(watch: _Watch, function: Function, operands: Mapping[str, Any]) -> _Watch:
    """``watch`` after a run of ``function``."""
    given = []
    for slot, value in zip(function.parameters, function.block.parameters, strict=True):
        array = watch.settle(
            watch.cast(np.asarray(operands[slot.name]), value.type.dtype), value.type.dtype
        )
        given.append(array)
        watch.moments.append((slot, None, ""))
        watch.note(value, np.asarray(array), slot)
    run(watch, function, given, watch.observe)
    return watch


def _reached(ends: Sequence[_Node]) -> list[_Node]:
    """All that ``ends`` were made from, and they themselves, in order."""
    reached: dict[int, _Node] = {}
    waiting = list(ends)
    while waiting:
        node = waiting.pop()
        if node.order not in reached:
            reached[node.order] = node
            waiting += node.parents
    return [reached[order] for order in sorted(reached)]


def _origin(ends: Sequence[_Node]) -> _Node | None:
    """The earliest beginning among all that ``ends`` were made from."""
    nodes = _reached(ends)
    for node in nodes:
        if not node.parents and not node.is_on_purpose:
            return node
    for node in nodes:
        if node.has_nan and not any(parent.has_nan for parent in node.parents):
            return node
    return nodes[0] if nodes else None


def _finding(
    function: Function, maker: Op | Slot, top: Op | None, step: str, found: str
) -> Diagnostic:
    if isinstance(maker, Slot):
        message = f"`{maker.name}` is not finite to begin with: {found}"
        return error("GC0809", message, _own_line(maker.span))
    where = f" in layer `{maker.scope}`" if maker.scope else ""
    is_reverse = top is not None and not _is_forward(function, top)
    source = traced_to(maker, function).name
    sweep = " of the gradient" if is_reverse else ""
    if is_reverse and source != maker.name:
        sweep += f" of `{source}`"
    message = f"values stop being finite here{where}{step}: `{maker.name}`{sweep} gives {found}"
    label = f"{maker.name}: {maker.results[0].type}"
    return error("GC0809", message, _own_line(maker.span), label=label)


def _own_line(span: Span | None) -> Span | None:
    """The line in the user's files: that of the op, or where the standard library was called."""
    while span is not None and span.caller is not None and span.file.startswith(LIBRARY):
        span = span.caller
    return span


def _counted(array: Array) -> tuple[int, int, bool]:
    """How many of its numbers are not finite, how many there are, whether one is no number."""
    return int((~np.isfinite(array)).sum()), array.size, bool(np.isnan(array).any())


def _described(bad: int, size: int, has_nan: bool) -> str:
    return f"{bad} of {size} values {'NaN' if has_nan else 'infinite'}"


def _is_forward(function: Function, op: Op) -> bool:
    """Whether the loss or another primal result depends on ``op``."""
    live = {
        value
        for slot, value in zip(function.results, function.block.outputs, strict=True)
        if slot.role is not Role.COTANGENT
    }
    for candidate in reversed(function.block.body):
        if any(value in live for value in candidate.results):
            if candidate is op:
                return True
            live.update(candidate.operands)
    return False
