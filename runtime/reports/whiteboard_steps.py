"""A function cut into the steps of its text: which op belongs to which step, and what the steps'
values are called.

A step is what one place of the user's text computes; views and constants belong to what reads them.
A value that leaves its step is called what the user called it, else ``L`` for the loss, else
``v1``, ``v2``, ...; no name stands for two values, and none that is made up looks like a name of
the program or like a cotangent of one.

Non-goals: formulas and values (``whiteboard``, ``formulas``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from gradc.codegen.symbolic.formulas.notation import COTANGENT, cotangent_mark
from gradc.frontend.elaborate.values import Named
from gradc.frontend.model.models import ModelIR
from gradc.ir.diagnostics.source import Sources
from gradc.ir.ops.registry import is_product, lookup, recomputes
from gradc.ir.tensor.core import Function, Op, Role, Span, Value
from gradc.passes.rewrite import copy_ops, with_ops

LIBRARY = "stdlib/"


@dataclass
class Steps:
    """A function cut into steps. ``mark`` is what cotangents of its names start with."""

    function: Function
    names: dict[Value, str]
    step_of: dict[Op, int]
    results: list[tuple[Value, Op]] = field(default_factory=list)
    mark: str = COTANGENT

    def results_of(self, step: int) -> list[Value]:
        """The values that leave ``step`` under a name."""
        return [value for value, op in self.results if self.step_of.get(op) == step]


def without_checkpoints(ir: ModelIR) -> tuple[Function, dict[Value, Named]]:
    """The model with what its checkpoints run in their place, and the names that its values
    have.
    """
    names = dict(ir.names)
    mapping: dict[Value, Value] = {}
    ops = _opened(ir.function.block.body, mapping, names, is_copied=False)
    outputs = [mapping.get(v, v) for v in ir.function.block.outputs]
    return with_ops(ir.function, ops, outputs), names


def _opened(
    ops: Iterable[Op], mapping: dict[Value, Value], names: dict[Value, Named], is_copied: bool
) -> list[Op]:
    """``ops`` with the bodies of checkpoints in place of them; ``mapping`` says what stands for
    each old value.
    """
    found: list[Op] = []
    for op in ops:
        if recomputes(op):
            region = op.regions[0]
            inner = {
                p: mapping.get(v, v) for p, v in zip(region.parameters, op.operands, strict=True)
            }
            found += _opened(region.body, inner, names, is_copied=True)
            results = {r: inner.get(v, v) for r, v in zip(op.results, region.outputs, strict=True)}
            # A name inside wins over the one that the result has outside: it is the first that was
            # given.
            names.update({b: names[a] for a, b in results.items() if a in names and b not in names})
            mapping.update(results)
            continue
        copies = copy_ops([op], mapping) if is_copied or mapping else [op]
        for old, new in zip(op.results, copies[0].results, strict=True):
            if old in names:
                names[new] = names[old]
        found += copies
    return found


def own_place(span: Span | None) -> Span | None:
    """The innermost place in the user's own text."""
    while span is not None and span.file.startswith(LIBRARY):
        span = span.caller
    return span


def cut(function: Function, names: Mapping[Value, Named]) -> Steps:
    """Steps: runs of ops that come from one place of the user's text; views and constants join
    their readers.
    """
    step_of: dict[Op, int] = {}
    numbers = count()
    current, previous = -1, None
    made_here: set[Value] = set()
    for op in function.block.body:
        key = (own_place(op.span), op.scope, op.replica)
        is_new = key != previous
        if lookup(op.name).traits.is_silent and key[0] == op.span and op.results[0] not in names:
            # `x[0]` is a slice and a view of it: one step.
            if is_new or not made_here.intersection(op.operands):
                continue
        elif is_new:
            current, previous = next(numbers), key
            made_here.clear()
        step_of[op] = current
        made_here.update(op.results)
    readers: dict[Value, Op] = {}
    for op in reversed(function.block.body):
        if op not in step_of and op.results[0] in readers:
            reader = readers[op.results[0]]
            if reader in step_of:
                step_of[op] = step_of[reader]
        readers.update(dict.fromkeys(op.operands, op))
    steps = Steps(function, {}, step_of)
    taken = set()
    for slot, value in zip(function.parameters, function.block.parameters, strict=True):
        steps.names[value] = slot.name
        taken.add(slot.name)
    _Namer(steps, names, taken).run()
    steps.mark = cotangent_mark(list(dict.fromkeys(steps.names.values())))
    return steps


class _Namer:
    """Names what leaves each step: as the user did, else the loss ``L``, else ``v1``, ``v2``,
    ...
    """

    def __init__(self, steps: Steps, names: Mapping[Value, Named], taken: set[str]) -> None:
        self.steps = steps
        self.names = names
        self.taken = taken
        # What the program calls anything keeps its meaning, earlier or later.
        self.reserved = taken | {n.text for n in names.values()}
        self.numbers = count(1)
        block = steps.function.block
        self.slots = dict(zip(block.outputs, steps.function.results, strict=True))
        self.makers = {r: op for op in block.body for r in op.results}
        self.used_by: dict[Value, set[int]] = {}
        self.readers: dict[Value, list[Op]] = {}
        for op in block.body:
            for value in op.operands:
                self.used_by.setdefault(value, set()).add(steps.step_of.get(op, -1))
                self.readers.setdefault(value, []).append(op)

    def run(self) -> None:
        """Fills ``steps.names`` and ``steps.results``."""
        for op in self.steps.function.block.body:
            for value in op.results:
                wanted = self._wanted(value, op)
                if wanted:
                    self.steps.names[value] = _unused(wanted, self.taken)
                    self.steps.results.append((value, op))

    def _wanted(self, value: Value, op: Op) -> str:
        """What to call ``value``, or nothing where it is no result of its step."""
        named = self.names.get(value)
        is_own = named is not None and not named.is_library
        step = self.steps.step_of.get(op)
        if not is_own and value not in self.slots and _is_weighted_sum(value, op, self.readers):
            self.steps.step_of[op] = self.steps.step_of.get(self.readers[value][0], -1)
            return ""
        if value in self.steps.names:
            return ""
        if is_own and named is not None:
            return f"{named.scope}.{named.text}" if named.scope and named.depth > 1 else named.text
        readers = self.used_by.get(value, set()) - {step}
        # A view that stands for itself: made by a step of other ops, or read by several steps.
        is_view = lookup(op.name).traits.is_silent and len(readers) < 2 and not self._ends_step(op)
        leaves = value in self.slots or bool(readers)
        slot = self.slots.get(value)
        if not leaves or step is None or is_view:
            return ""
        if slot is not None and slot.role in (Role.LOSS, Role.OUTPUT):
            loss = "L" if "L" not in self.reserved else "loss"
            return loss if slot.role is Role.LOSS else slot.name
        return self._made_up() if value.type.dtype.is_float else ""

    def _ends_step(self, op: Op) -> bool:
        step_of = self.steps.step_of
        before = [self.makers[v] for v in op.operands if v in self.makers]
        return any(
            step_of.get(o) == step_of.get(op) and not lookup(o.name).traits.is_silent
            for o in before
        )

    def _made_up(self) -> str:
        return next(
            n
            for i in self.numbers
            if (n := f"v{i}") not in self.taken and not {n, f"d{n}"} & self.reserved
        )


def _is_weighted_sum(value: Value, op: Op, readers: Mapping[Value, Sequence[Op]]) -> bool:
    """The product of a dense layer before its bias is added: nobody writes that down by itself."""
    after = readers.get(value, ())
    return is_product(op) and len(after) == 1 and after[0].name == "add"


def _unused(wanted: str, taken: set[str]) -> str:
    name = next(n for i in count(1) if (n := wanted if i == 1 else f"{wanted}#{i}") not in taken)
    taken.add(name)
    return name


def is_made_up(name: str) -> bool:
    """Whether ``name`` is one of ``v1``, ``v2``, ... that stand for values without a name."""
    return name.startswith("v") and name[1:].isdigit()


def text_at(sources: Sources, span: Span | None) -> str:
    """The user's text at ``span``, its lines joined."""
    source = sources.get(span.file) if span is not None else None
    if source is None or span is None:
        return ""
    if span.end_line == span.line:
        return source.line(span.line)[span.column - 1 : span.end_column - 1]
    lines = [source.line(n).strip() for n in range(span.line + 1, span.end_line)]
    first = source.line(span.line)[span.column - 1 :]
    return " ".join([first, *lines, source.line(span.end_line)[: span.end_column - 1].strip()])


def spoken(text: str) -> str:
    """A piece of the user's text as a formula: a loop without what it runs, no name that the step
    has anyway.
    """
    head, brace, _ = text.partition("{")
    head = head.partition("=")[2] if brace and " scan " in head and "=" in head else head
    return f"{head.strip()} {{ ... }}" if brace else text
