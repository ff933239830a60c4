"""From tensor IR to loop IR and a Plan without places: kernels, tensors, launches.

Every op or ``fusion`` becomes the launches of its kernels; reshapes and other views of contiguous
memory become other names of the same bytes; ``scan`` becomes ``Repeat``: slices and stacked results
are addressed by stride, carries lie in two buffers that change roles every trip, or in the history
that is kept anyway. Results are computed in their ports where possible. A result that replaces a
parameter (same name and role) shares one `inout` port with it, and is copied there at the end;
``place`` removes the copy where the order of execution allows it.

Invariants: one kernel per isomorphism class of groups; steps in program order. Non-goals: order,
sharing of storage, offsets (``place``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gradc.ir.loop.kernel import Kernel, dense_strides
from gradc.ir.ops.registry import ByIndex, is_loop, is_wrapper, lookup
from gradc.ir.plan.plan import Argument, Launch, Plan, Port, Repeat, Step, Tensor
from gradc.ir.target.target import GENERIC, Target
from gradc.ir.tensor.core import Block, DType, Function, Op, Role, Slot, Span, Value
from gradc.passes.lower.carry import Carry, along, doubled, kept, stacked_carries
from gradc.passes.lower.element import LoweringError
from gradc.passes.lower.gemm import chain_steps, chain_view
from gradc.passes.lower.group import Groups, as_block, group_operands, group_space
from gradc.passes.lower.piece import Piece
from gradc.passes.rewrite import Scan

# Results of these roles are written over the parameter of the same name and role.
_REPLACING = (Role.PARAM, Role.STATE, Role.SLOT, Role.HYPER)


def to_loops(function: Function, target: Target = GENERIC) -> Plan:
    """The Plan of ``function`` for ``target``, unplaced. All dimensions must be bound.

    Raises:
        LoweringError: an op has no loop form where it stands.
        ValueError: a dimension is unbound.
    """
    return _Lowering(function, target).run()


def contiguous_offset(op: Op) -> int | None:
    """Elements from its operand's start at which ``op``'s result lies as it is; None unless a
    contiguous view."""
    if len(op.operands) != 1 or len(op.results) != 1:
        return None
    if not isinstance(lookup(op.name).loop, ByIndex):
        return None
    if op.operands[0].type.dtype is not op.result.type.dtype:
        return None
    if op.name == "reshape":
        return 0
    shape = op.result.type.static_shape
    source = op.operands[0]
    view = chain_view((source.type,), chain_steps((source,), (op,)))
    if view is None:
        return None
    for extent, stride, wanted in zip(shape, view.strides, dense_strides(shape), strict=True):
        if extent > 1 and stride != wanted:
            return None
    return view.offset


@dataclass(eq=False)
class _Frame:
    """The steps of one Repeat body (or of the Plan), ``depth`` Repeats deep."""

    depth: int
    steps: list[Step]


class _Lowering:
    def __init__(self, function: Function, target: Target) -> None:
        self.function = function
        self.name = function.name
        self.groups = Groups(target)
        self.kernels: dict[Kernel, int] = {}
        self.tensors: list[Tensor] = []
        self.ports: list[Port] = []
        self.where: dict[Value, Argument] = {}
        # Where a value is to be computed, if that is fixed before its op is reached.
        self.wanted: dict[Value, Argument] = {}
        self.frame = _Frame(0, [])

    def run(self) -> Plan:
        function = self.function
        for slot, value in zip(function.parameters, function.block.parameters, strict=True):
            self.where[value] = Argument(self._port(slot, value, "in"))
        targets = self._result_ports()
        self._plan_targets(function.block, targets)
        self._block(function.block.body)
        self._deliver(targets)
        return Plan(
            self.name, tuple(self.ports), tuple(self.tensors), tuple(self.kernels),
            tuple(self.frame.steps),
        )  # fmt: skip

    # ---- ports

    def _port(self, slot: Slot, value: Value, direction: str) -> int:
        shape = value.type.static_shape
        number = len(self.ports)
        tensor = Tensor(slot.name, shape, value.type.dtype, "argument", number, span=slot.span)
        self.tensors.append(tensor)
        index = len(self.tensors) - 1
        port = Port(slot.name, slot.role, shape, value.type.dtype, "in", index)
        self.ports.append(replace(port, direction="out") if direction == "out" else port)
        return index

    def _result_ports(self) -> list[Argument]:
        """Where each result must end up."""
        inputs = {
            (slot.name, slot.role): number for number, slot in enumerate(self.function.parameters)
        }
        targets: list[Argument] = []
        for slot, value in zip(self.function.results, self.function.block.outputs, strict=True):
            number = inputs.pop((slot.name, slot.role), None)
            if slot.role in _REPLACING and number is not None:
                port = self.ports[number]
                if (port.shape, port.dtype) == (value.type.static_shape, value.type.dtype):
                    self.ports[number] = replace(port, direction="inout")
                    targets.append(Argument(port.tensor))
                    continue
            targets.append(Argument(self._port(slot, value, "out")))
        return targets

    def _plan_targets(self, block: Block, targets: Sequence[Argument]) -> None:
        """Lets the op that makes a result write it where it belongs, except over a parameter."""
        makers = {value: op for op in block.body for value in op.results}
        for value, target in zip(block.outputs, targets, strict=True):
            root, offset = self._root(value, makers)
            is_port_of_parameter = (
                self.tensors[target.tensor].argument is not None
                and self.ports[self.tensors[target.tensor].argument or 0].direction == "inout"
            )
            whole = offset == 0 and root.type.static_shape == value.type.static_shape
            whole = whole or (offset == 0 and root.type.nbytes == value.type.nbytes)
            if root in makers and root not in self.wanted and whole and not is_port_of_parameter:
                self.wanted[root] = target

    def _root(self, value: Value, makers: dict[Value, Op]) -> tuple[Value, int]:
        """The value whose bytes ``value`` shares, through views, and the offset in elements."""
        total = 0
        while value in makers:
            op = makers[value]
            offset = contiguous_offset(op)
            if offset is None:
                break
            total += offset
            value = op.operands[0]
        return value, total

    def _deliver(self, targets: Sequence[Argument]) -> None:
        """Copies results that are not yet where they belong."""
        for value, target in zip(self.function.block.outputs, targets, strict=True):
            if self.where[value] != target:
                self._copy(value, self.where[value], target)

    # ---- ops

    def _block(self, ops: Sequence[Op]) -> None:
        for op in ops:
            if is_loop(op):
                self._scan(op)
            elif is_wrapper(op):
                self._inline(op)
            elif not self._alias(op):
                self._launch(op)

    def _inline(self, op: Op) -> None:
        region = op.regions[0]
        for parameter, operand in zip(region.parameters, op.operands, strict=True):
            self.where[parameter] = self.where[operand]
        makers = {value: inner for inner in region.body for value in inner.results}
        for output, result in zip(region.outputs, op.results, strict=True):
            target = self.wanted.get(result)
            if target is not None and output in makers and output not in self.wanted:
                self.wanted[output] = target
        self._block(region.body)
        for output, result in zip(region.outputs, op.results, strict=True):
            self._settle(result, output)

    def _settle(self, result: Value, source: Value) -> None:
        """``result`` is ``source``; copies if it is wanted elsewhere."""
        target = self.wanted.get(result)
        if target is not None and target != self.where[source]:
            self._copy(source, self.where[source], target)
            self.where[result] = target
        else:
            self.where[result] = self.where[source]

    def _alias(self, op: Op) -> bool:
        """Makes the result another name of the operand's bytes, if it can be one."""
        if len(op.results) != 1 or op.result in self.wanted:
            return False
        offset = contiguous_offset(op)
        if offset is None:
            return False
        source = self.where[op.operands[0]]
        self.where[op.result] = replace(source, offset=source.offset + offset)
        return True

    def _launch(self, op: Op) -> None:
        block = as_block(op)
        arguments = [self._at(self.where[x]) for x in group_operands(op)]
        results = [self._target(value, op) for value in op.results]
        if all(_size(value) == 0 for value in op.results):
            return
        lowered = self.groups.lower(block, group_space(op))
        for number, source in lowered.begins:
            self._copy(op.results[number], arguments[source], results[number])
        temps = [
            Argument(self._tensor("temp", (t.size,), t.dtype, op.span, op.scope))
            for t in lowered.temps
        ]
        places = {"operand": arguments, "result": results, "temp": temps}
        for piece in lowered.pieces:
            at = tuple(places[ref.kind][ref.number] for ref in piece.refs)
            self._step(piece, at, op.span, op.scope, op.replica)

    def _step(
        self,
        piece: Piece,
        arguments: tuple[Argument, ...],
        span: Span | None = None,
        scope: str = "",
        replica: int = 0,
    ) -> None:
        number = self.kernels.setdefault(piece.kernel, len(self.kernels))
        self.frame.steps.append(Launch(number, arguments, span, scope, replica))

    def _copy(self, value: Value, source: Argument, target: Argument) -> None:
        if value.type.nbytes == 0:
            return
        (piece,) = self.groups.copy(value).pieces
        self._step(piece, (self._at(source), self._at(target)))

    def _target(self, value: Value, op: Op) -> Argument:
        target = self.wanted.get(value)
        if target is None:
            shape, dtype = value.type.static_shape, value.type.dtype
            maker, hint = _origin(op, value)
            target = Argument(self._tensor(hint, shape, dtype, maker.span, maker.scope))
        self.where[value] = target
        return self._at(target)

    def _tensor(
        self, hint: str, shape: tuple[int, ...], dtype: DType, span: Span | None, scope: str
    ) -> int:
        name = f"{hint or 't'}.{len(self.tensors)}"
        self.tensors.append(Tensor(name, shape, dtype, "arena", span=span, scope=scope))
        return len(self.tensors) - 1

    def _at(self, argument: Argument) -> Argument:
        """``argument`` with one stride per Repeat around the current step."""
        missing = self.frame.depth - len(argument.strides)
        if not missing:
            return argument
        zeros = (0,) * missing
        return replace(argument, strides=argument.strides + zeros, parity=argument.parity + zeros)

    # ---- scan

    def _scan(self, op: Op) -> None:
        scan = Scan.of(op)
        trips, carried, is_reverse = bound_trips(scan), scan.carried, scan.is_reverse
        region, operands = op.regions[0], op.operands
        histories = self._histories(op, carried)
        carries = [self._carry(op, n, n in histories.values()) for n in range(carried)]
        for parameter, carry in zip(region.parameters[:carried], carries, strict=True):
            self.where[parameter] = carry.read
        middle = carried + scan.stacked
        slices = zip(region.parameters[carried:middle], operands[carried:middle], strict=True)
        for parameter, operand in slices:
            self.where[parameter] = self._slice(self.where[operand], parameter, trips, is_reverse)
        for parameter, operand in zip(region.parameters[middle:], operands[middle:], strict=True):
            self.where[parameter] = self.where[operand]
        targets = [carry.write for carry in carries]
        kinds = stacked_carries(region, carried)
        for position, value in enumerate(op.results[carried:]):
            if position in histories:
                carry, is_after = carries[histories[position]], kinds[position][1]
                place = carry.after if is_after else carry.before
                assert place is not None
                self.where[value] = place
                targets.append(carry.write if is_after else carry.read)
            else:
                output = region.outputs[carried + position]
                whole = self._target(value, op)
                targets.append(self._slice(whole, output, trips, is_reverse))
        self._repeat(op, region, trips, targets)
        for value, carry in zip(op.results[:carried], carries, strict=True):
            self.where[value] = carry.end
            target = self.wanted.get(value)
            if target is not None:
                self._copy(value, carry.end, target)
                self.where[value] = target

    def _histories(self, op: Op, carried: int) -> dict[int, int]:
        """The stacked results that are the history of a carry in the arena, and of which."""
        found: dict[int, int] = {}
        for position, (number, _) in stacked_carries(op.regions[0], carried).items():
            if op.results[carried + position] not in self.wanted:
                found[position] = number
        return found

    def _carry(self, op: Op, number: int, is_kept: bool) -> Carry:
        """Storage for a carry, its initial value in place."""
        scan = Scan.of(op)
        trips = bound_trips(scan)
        value = op.operands[number]
        slots = trips + 1 if is_kept else 2
        shape, dtype = (slots, *value.type.static_shape), value.type.dtype
        name = f"{value.hint}.carry"
        cell = self._at(Argument(self._tensor(name, shape, dtype, op.span, op.scope)))
        depth = self.frame.depth
        if is_kept:
            carry = kept(cell, _size(value), trips, scan.is_reverse, depth)
        else:
            carry = doubled(cell, _size(value), trips, depth)
        self._copy(value, self.where[value], carry.start)
        return carry

    def _slice(self, whole: Argument, part: Value, trips: int, is_reverse: bool) -> Argument:
        size = _size(part)
        first = (trips - 1) * size if is_reverse else 0
        stride = -size if is_reverse else size
        return along(replace(whole, offset=whole.offset + first), self.frame.depth, stride=stride)

    def _repeat(self, op: Op, region: Block, trips: int, targets: Sequence[Argument]) -> None:
        outer = self.frame
        self.frame = _Frame(outer.depth + 1, [])
        makers = {value: inner for inner in region.body for value in inner.results}
        for output, target in zip(region.outputs, targets, strict=True):
            root, offset = self._root(output, makers)
            whole = offset == 0 and root.type.nbytes == output.type.nbytes
            if root in makers and root not in self.wanted and whole:
                self.wanted[root] = target
        self._block(region.body)
        for output, target in zip(region.outputs, targets, strict=True):
            if self.where[output] != target:
                self._copy(output, self.where[output], target)
        steps, self.frame = self.frame.steps, outer
        if trips and steps:
            outer.steps.append(Repeat(trips, tuple(steps), span=op.span))


def _origin(op: Op, value: Value) -> tuple[Op, str]:
    """The op that computes result ``value`` of ``op``, inside it if it is a fusion, and the value's
    name."""
    if op.name != "fusion":
        return op, value.hint
    output = op.regions[0].outputs[op.results.index(value)]
    for inner in op.regions[0].body:
        if output in inner.results:
            return inner, value.hint or output.hint
    return op, value.hint


def _size(value: Value) -> int:
    total = 1
    for extent in value.type.static_shape:
        total *= extent
    return total


def bound_trips(scan: Scan) -> int:
    """The number of trips. Raises LoweringError if it is unbound."""
    if not isinstance(scan.trips, int):
        raise LoweringError("the number of trips of a scan is unbound")
    return scan.trips
