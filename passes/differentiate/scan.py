"""The derivatives of ``scan``, which stay rolled: a loop forward, a loop backward.

Reverse: the forward scan additionally stacks the residuals, that is, what the reverse body reads of
each trip. The reverse scan runs the other way; its carries are the cotangents of the carries and
one running sum per constant operand. What the reverse body reads is derived from it: constants are
passed on, slices are read from the arrays they came from, views and constants are recomputed,
stacks that the program yields anyway are used. So is a sum, difference or product of what is read
anyway (``1 - z`` where ``z`` is), which costs no more than reading it back.

``truncate`` is defined in ``differentiate_truncate``.

Non-goals: moving the accumulation of weight gradients out of the loop (``hoist``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import lookup
from gradc.ir.ops.traits import Moves
from gradc.ir.tensor.core import Block, Op, Value
from gradc.passes.differentiate.activity import useful_scan, varied_scan
from gradc.passes.differentiate.truncate import borders, cut
from gradc.passes.differentiate.values import Cotangents, Numbers, companion, zeros
from gradc.passes.rewrite import Scan, emit_scan, free_values, stacked_value

Reverse: TypeAlias = Callable[
    [Builder, Sequence[Op], Cotangents, Collection[Value], Numbers], list[Op]
]


def reverse_scan(
    b: Builder,
    op: Op,
    result_cts: Sequence[Value | None],
    needed: Sequence[bool],
    totals: Mapping[int, Value],
    is_marked: bool,
    numbers: Numbers,
    reverse: Reverse,
) -> tuple[list[Value | None], Op]:
    """Emits the reverse scan; returns the operands' cotangents and the forward scan to run instead.

    ``totals`` are the sums so far of cotangents of constants, by operand number; the loop adds to
    them, and what it returns for these operands includes them. ``reverse`` sweeps the body
    (``differentiate_reverse.reverse_ops``).
    """
    scan = Scan.of(op)
    carries_vary, wanted = varied_scan(scan, needed)
    carries_matter, reaching = useful_scan(scan, [ct is not None for ct in result_cts])
    active = [v and u for v, u in zip(carries_vary, carries_matter, strict=True)]
    body = _ReverseBody(b, scan, result_cts, active, is_marked)
    body.open_constants(wanted, reaching, totals)
    primal = reverse(body.inner, scan.body.body, body.cts, wanted, numbers)
    body.close(needed)
    forward, sources = _with_residuals(scan, primal, body)
    found = body.emit(sources)
    for number, total in totals.items():
        found[number] = found[number] or total
    return found, forward


@dataclass
class _ReverseBody:
    """The reverse scan while it is built; the lists of operands run parallel to those of
    parameters.
    """

    b: Builder
    scan: Scan
    result_cts: Sequence[Value | None]
    active: Sequence[bool]
    is_marked: bool
    inner: Builder = field(default_factory=Builder)
    cts: Cotangents = field(default_factory=Cotangents)
    carries: list[tuple[Value, Value]] = field(default_factory=list)  # (parameter, initial value)
    slices: list[tuple[Value, Value]] = field(default_factory=list)  # (parameter, stacked array)
    sums: dict[int, Value] = field(default_factory=dict)  # operand number -> running sum
    keep: Value | None = None
    next_carries: list[Value] = field(default_factory=list)
    step_cts: dict[int, Value] = field(default_factory=dict)  # operand number -> ct of a slice

    def __post_init__(self) -> None:
        """Seeds: cotangents of the next carries are carried, those of the yields are slices."""
        scan, inner = self.scan, self.inner
        inner.span, inner.scope, inner.replica = self.b.span, self.b.scope, self.b.replica
        outputs = scan.body.outputs
        for number, (output, ct) in enumerate(zip(outputs, self.result_cts, strict=True)):
            if number < scan.carried and self.active[number]:
                ct = zeros(self.b, output) if ct is None else ct
                self._seed(output, self.carries, ct)
            elif number >= scan.carried and ct is not None:
                self._seed(output, self.slices, ct)
        if scan.is_truncated and self.carries:
            border = borders(self.b, scan)
            self.keep = Value(border.type.with_shape(()), "keep")
            self.slices.append((self.keep, border))

    def _seed(self, output: Value, group: list[tuple[Value, Value]], source: Value) -> None:
        parameter = companion(output, "ct")
        group.append((parameter, source))
        self.cts.add(self.inner, output, parameter, self.is_marked)

    def open_constants(
        self, wanted: set[Value], reaching: set[Value], totals: Mapping[int, Value]
    ) -> None:
        """A running sum for every constant that gets a cotangent."""
        first = self.scan.carried + self.scan.stacked
        for number, constant in enumerate(self.scan.body.parameters[first:], first):
            if constant in wanted and constant in reaching:
                total = companion(constant, "ct")
                self.sums[number] = total
                self.carries.append((total, totals.get(number) or zeros(self.b, constant)))
                self.cts.add(self.inner, constant, total, self.is_marked)

    def close(self, needed: Sequence[bool]) -> None:
        """What the body yields: next cotangents of the carries, sums, cotangents of slices."""
        scan, inner = self.scan, self.inner
        parameters = scan.body.parameters
        found = self.cts.take(inner, parameters)
        for number, is_active in enumerate(self.active):
            if is_active:
                ct = found[number] or zeros(inner, parameters[number])
                self.next_carries.append(cut(inner, ct, self.keep))
        for number, total in self.sums.items():
            self.next_carries.append(found[number] or total)
        for number in range(scan.carried, scan.carried + scan.stacked):
            step = found[number]
            if needed[number] and step is not None:
                self.step_cts[number] = step

    @property
    def outputs(self) -> list[Value]:
        return [*self.next_carries, *self.step_cts.values()]

    def emit(self, sources: _Sources) -> list[Value | None]:
        """Emits the reverse scan; returns the cotangents of the operands of the forward one."""
        scan, b = self.scan, self.b
        slices = [*self.slices, *sources.slices]
        groups = (self.carries, slices, sources.constants)
        parameters = tuple(p for group in groups for p, _ in group)
        operands = [v for group in groups for _, v in group]
        self.inner.ops[:0] = sources.recomputed
        region = Block(parameters, self.inner.block(self.outputs).ops)
        attributes = scan.attributes(carried=len(self.carries), stacked=len(slices))
        attributes.update(reverse=not scan.is_reverse, truncate=0)
        results = emit_scan(b, operands, region, attributes)
        found: list[Value | None] = [None] * len(scan.op.operands)
        order = [i for i, is_active in enumerate(self.active) if is_active]
        for number, result in zip([*order, *self.sums, *self.step_cts], results, strict=True):
            found[number] = result
        return found


@dataclass
class _Sources:
    """Where the reverse body gets the primal values it reads: (its parameter or value, outer
    operand).
    """

    slices: list[tuple[Value, Value]] = field(default_factory=list)
    constants: list[tuple[Value, Value]] = field(default_factory=list)
    recomputed: list[Op] = field(default_factory=list)


def _with_residuals(scan: Scan, primal: Sequence[Op], body: _ReverseBody) -> tuple[Op, _Sources]:
    """Derives the residuals; returns the forward scan that stacks them and where each is read."""
    own = {p for p, _ in (*body.carries, *body.slices)}
    reads = [v for v in free_values(body.inner.ops, body.outputs) if v not in own]
    defining = {v: op for op in primal for v in op.results}
    _, slices, constants = (set(group) for group in scan.split(scan.body.parameters))
    operands = dict(zip(scan.body.parameters, scan.op.operands, strict=True))
    yielded = dict(zip(scan.step_outputs, scan.op.results[scan.carried :], strict=True))
    sources = _Sources()
    extra: list[Value] = []
    stacks: list[Value] = []
    seen: set[Value] = set()
    at_hand = {*constants, *slices, *yielded}
    at_hand.update(v for v in reads if v not in defining or not _is_cheap_op(defining[v]))
    queue = list(reversed(reads))
    while queue:
        value = queue.pop()
        if value in seen:
            continue
        op = defining.get(value)
        is_cheap = op is not None and value not in yielded and _is_cheap(op, defining, at_hand)
        if op is not None and (is_cheap or _is_free_to_recompute(op)):
            pending = [v for v in op.operands if v not in seen]
            if pending:
                queue += [value, *reversed(pending)]
                continue
            sources.recomputed.append(op)
        elif value in constants:
            sources.constants.append((value, operands[value]))
        elif value in slices:
            sources.slices.append((value, operands[value]))
        elif value in yielded:
            sources.slices.append((value, yielded[value]))
        else:
            extra.append(value)
            stacks.append(stacked_value(value, scan.trips))
            sources.slices.append((value, stacks[-1]))
        seen.add(value)
    return _extended(scan, primal, extra, stacks), _apart(sources, body)


def _is_free_to_recompute(op: Op) -> bool:
    """Whether recomputing ``op`` costs less than reading it back, whatever else is read."""
    # A selection reads less than what it selects from, which would have to be kept.
    definition = lookup(op.name)
    return definition.is_free and definition.traits.moves is not Moves.SELECTS


def _is_cheap_op(op: Op) -> bool:
    return lookup(op.name).traits.cost == "cheap"


def _is_cheap(op: Op, defining: Mapping[Value, Op], at_hand: Collection[Value]) -> bool:
    """Whether ``op`` is an operation per element on values that the reverse body has anyway."""

    def is_there(value: Value) -> bool:
        while value not in at_hand and value in defining:
            source = defining[value]
            if lookup(source.name).is_source:
                return True
            if not _is_free_to_recompute(source) or not source.operands:
                return False
            value = source.operands[0]
        return value in at_hand

    return _is_cheap_op(op) and all(is_there(v) for v in op.operands)


def _extended(
    scan: Scan, primal: Sequence[Op], extra: Sequence[Value], stacks: Sequence[Value]
) -> Op:
    """The forward scan with ``primal`` as body, yielding ``extra`` as well."""
    op, body = scan.op, scan.body
    end = replace(body.terminator, operands=(*body.outputs, *extra))
    region = Block(body.parameters, (*primal, end))
    return replace(op, regions=(region,), results=(*op.results, *stacks))


def _apart(sources: _Sources, body: _ReverseBody) -> _Sources:
    """Gives the reverse body values of its own for everything it reads of the forward one."""
    mapping: dict[Value, Value] = {}
    result = _Sources()
    for group, renamed in (
        (sources.slices, result.slices),
        (sources.constants, result.constants),
    ):
        for value, source in group:
            mapping[value] = Value(value.type, value.hint)
            renamed.append((mapping[value], source))
    for op in sources.recomputed:
        results = tuple(Value(v.type, v.hint) for v in op.results)
        operands = tuple(mapping.get(v, v) for v in op.operands)
        result.recomputed.append(replace(op, operands=operands, results=results))
        mapping.update(zip(op.results, results, strict=True))
    body.inner.ops = [
        op.on(tuple([mapping.get(v, v) for v in op.operands])) for op in body.inner.ops
    ]
    body.next_carries = [mapping.get(v, v) for v in body.next_carries]
    body.step_cts = {n: mapping.get(v, v) for n, v in body.step_cts.items()}
    return result
