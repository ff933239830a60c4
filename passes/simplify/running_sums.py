"""Running sums of loops are taken in a wider type and rounded once: a chain of additions must not
stagnate.

From-stage and to-stage: tensor, after ``flatten``. A *chain* is a value that additions, and carries
of scans that are only added to, hand from one to the next, each used nowhere else: the cotangent of
what a loop captures, the sum of its groups of products (``hoist_sums``). A chain of more than
``LEAF`` additions is carried in f64; a shorter one of 16-bit numbers in f32, if a loop takes part.
f64 stays as it is.

What is added, and in which order, is untouched, and how many additions a chain has does not depend
on whether a loop is cut into chunks. So bits are the same under every budget; they do not depend on
how the loop is written, as a tree over trips would.

Non-goals: sums whose intermediate values are used (a running sum that the program yields has the
program's precision).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from gradc.ir.loop.order import LEAF
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import is_loop
from gradc.ir.tensor.core import Attr, Block, DType, Function, Op, Value
from gradc.passes.rewrite import Scan, each_once, with_ops, with_regions

_HALF = (DType.BF16, DType.F16)


def running_sums(function: Function) -> Function:
    """``function`` with long chains in a wider type; the same object if there are none."""
    block = _block(function.block)
    if block is function.block:
        return function
    return with_ops(function, block.body, block.outputs)


def _block(block: Block) -> Block:
    """``block`` with its chains widened, then those that begin and end inside its loops."""
    if not any(op.regions or v.type.dtype in _HALF for op in block.body for v in op.results):
        return block  # a chain of others is widened for its loops alone
    chains = _chains(block)
    ops = _widened(block, chains) if chains else block.body
    region = each_once(_block)
    found = [with_regions(op, region) for op in ops]
    if not chains and all(a is b for a, b in zip(found, block.body, strict=True)):
        return block
    return Block(block.parameters, (*found, block.terminator))


# ---- finding chains

# An operand of an op: where a chain enters it.
Use: TypeAlias = tuple[Op, int]


class _Uses:
    """Where the values of a block are used; an output counts as a use (None)."""

    def __init__(self, block: Block) -> None:
        self.makers = {value: op for op in block.body for value in op.results}
        self._places: dict[Value, list[Use | None]] = {}
        self._inside: dict[Op, _Uses] = {}
        for op in block.body:
            for number, value in enumerate(op.operands):
                self._places.setdefault(value, []).append((op, number))
        for value in block.outputs:
            self._places.setdefault(value, []).append(None)

    def is_single(self, value: Value) -> bool:
        """Whether ``value`` is used exactly once."""
        return len(self._places.get(value, ())) == 1

    def next(self, value: Value) -> Use | None:
        """Where a value that is used once is used; None if that is as an output, or there are more
        uses.
        """
        return self._places[value][0] if self.is_single(value) else None

    def through(self, place: Use) -> tuple[Value, int] | None:
        """What comes out where ``place`` is only added to, and by how many additions."""
        op, number = place
        if op.name == "add" or (op.name == "sub" and number == 0):
            return op.result, 1
        count = self.additions(op, number) if is_loop(op) else None
        return None if count is None else (op.results[number], count)

    def additions(self, op: Op, number: int) -> int | None:
        """How many additions a scan makes to operand ``number``, if it is a carry that is only
        added to.
        """
        scan = Scan.of(op)
        if number >= scan.carried or not isinstance(scan.trips, int):
            return None
        if op not in self._inside:
            self._inside[op] = _Uses(scan.body)
        uses = self._inside[op]
        value, count = scan.body.parameters[number], 0
        while (place := uses.next(value)) is not None:
            found = uses.through(place)
            if found is None:
                return None
            value, more = found[0], found[1]
            count += more
        is_end = value is scan.body.outputs[number] and uses.is_single(value)
        return count * scan.trips if is_end and count else None


@dataclass(frozen=True, slots=True)
class _Chain:
    """From its first place on; carried in ``dtype``, rounded to what ``end`` is."""

    start: Use
    last: Op
    end: Value
    dtype: DType


def _chains(block: Block) -> list[_Chain]:
    uses = _Uses(block)
    taken: set[Use] = set()
    found: list[_Chain] = []
    for op in block.body:
        if not is_loop(op) and op.name not in ("add", "sub"):
            continue
        for number in range(len(op.operands) if is_loop(op) else 1):
            if (op, number) in taken or not _is_start(uses, op.operands[number]):
                continue
            chain, places = _chain(uses, (op, number))
            if chain is not None:
                found.append(chain)
                taken.update(places)
                # An addition has one running operand.
                taken.update((link, 0) for link, _ in places if not is_loop(link))
    return found


def _is_start(uses: _Uses, value: Value) -> bool:
    """Whether no chain comes to ``value`` from an addition before it."""
    before = uses.makers.get(value)
    return before is None or before.name not in ("add", "sub") or not uses.is_single(value)


def _chain(uses: _Uses, start: Use) -> tuple[_Chain | None, list[Use]]:
    """The chain that begins at ``start``, if it needs a wider type, and its uses."""
    value = start[0].operands[start[1]]
    dtype = value.type.dtype
    place: Use | None = start
    places: list[Use] = []
    count = 0
    while place is not None and (found := uses.through(place)) is not None:
        places.append(place)
        value, more = found
        count += more
        place = uses.next(value)
    has_loop = any(is_loop(op) for op, _ in places)
    wide = None
    if has_loop and count > LEAF and dtype in (*_HALF, DType.F32):
        wide = DType.F64
    elif dtype in _HALF and count > (1 if has_loop else LEAF):
        wide = DType.F32
    return (_Chain(start, places[-1][0], value, wide) if wide else None), places


# ---- widening them


@dataclass
class _Widening:
    """Ops under construction; ``wide`` are the values inside chains in their new type."""

    b: Builder = field(default_factory=Builder)
    wide: dict[Value, Value] = field(default_factory=dict)

    def cast(self, value: Value, dtype: DType) -> Value:
        """``value`` in ``dtype``."""
        return value if value.type.dtype is dtype else self.b.one("cast", value, dtype=dtype)

    def emit(self, op: Op, starts: Mapping[int, DType]) -> None:
        """Emits an op; what it takes from a chain, or begins one with, is in the wider type."""
        with self.b.at(op.span, op.scope, op.replica):
            given = {n: self.wide[v] for n, v in enumerate(op.operands) if v in self.wide}
            given |= {n: self.cast(op.operands[n], dtype) for n, dtype in starts.items()}
            if not given:
                self.b.ops.append(op)
            elif is_loop(op):
                self._scan(op, given)
            else:
                ((number, total),) = given.items()
                term = self.cast(op.operands[1 - number], total.type.dtype)
                made = self.b.one(op.name, total, term, hint=op.result.hint)
                self.wide[op.result] = made

    def _scan(self, op: Op, given: Mapping[int, Value]) -> None:
        scan, inner = Scan.of(op), _Widening()
        parameters, outputs = list(scan.body.parameters), list(scan.body.outputs)
        operands, results = list(op.operands), list(op.results)
        for n, value in given.items():
            old, parameters[n] = parameters[n], Value(value.type, parameters[n].hint)
            inner.wide[old] = parameters[n]
        for item in scan.body.body:
            inner.emit(item, {})
        for n, value in given.items():
            outputs[n], operands[n] = inner.wide[outputs[n]], value
            old, results[n] = results[n], Value(value.type, results[n].hint)
            self.wide[old] = results[n]
        end = replace(scan.body.terminator, operands=tuple(outputs))
        region = Block(tuple(parameters), (*inner.b.ops, end))
        made = replace(op, operands=tuple(operands), results=tuple(results), regions=(region,))
        self.b.ops.append(made)

    def round(self, value: Value, op: Op) -> None:
        """Ends a chain after ``op``: ``value`` keeps its name and type for whoever uses it."""
        wide = self.wide.pop(value)
        attributes: dict[str, Attr] = {"dtype": value.type.dtype}
        cast = Op("cast", (wide,), (value,), attributes, (), op.span, op.scope, op.replica)
        self.b.ops.append(cast)


def _widened(block: Block, chains: Sequence[_Chain]) -> tuple[Op, ...]:
    """The ops of ``block`` with ``chains`` in their types."""
    starts: dict[Op, dict[int, DType]] = {}
    ends: dict[Op, list[Value]] = {}
    for chain in chains:
        op, number = chain.start
        starts.setdefault(op, {})[number] = chain.dtype
        ends.setdefault(chain.last, []).append(chain.end)
    work = _Widening()
    for op in block.body:
        work.emit(op, starts.get(op, {}))
        for value in ends.get(op, ()):
            work.round(value, op)
    return tuple(work.b.ops)
