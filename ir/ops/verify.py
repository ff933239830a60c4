"""The verifier of the tensor stage. This list is the specification of what a valid ``Function`` is.

Blocks
  T1  A block ends in a terminator, has no other, and it is ``return`` in a function and ``yield``
  in a region. T2  Every operand is a parameter of the same block or a result of an earlier op of
  it: regions are closed. T3  Every value is defined once in a block and those around it; ops
  beside each other may share a region, or parts of one.
Ops
  T4  The op is registered, and its attributes are values of the kinds ``Attr`` lists, under string
  names. T5  Its result types are those its type rule gives; ops with regions follow from their
  regions. T6  Its replica number is not negative and its span, if any, does not end before it
  starts.
Functions
  T7  There is one slot per parameter and per result; no two parameters share role and name
      (the tangent handed in for `w` is the SEED `w`).
  T8  The loss, if there is one, is the only result of that role, comes first, and is a floating
  type. T9  A new state and a cotangent have the type of the parameter they are named after.
Stage ``static`` (code is about to be made)
  T10 Every dimension is a non-negative integer.

Violations are collected, each with the op and the user's place. Non-goals: meaning, cost,
placement.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradc.ir.ops.control import region_result_types
from gradc.ir.ops.registry import TypeRuleError, lookup
from gradc.ir.tensor.core import Block, DType, Function, Op, Role, TensorType, Value, walk
from gradc.ir.tensor.dims import DimExpr
from gradc.ir.tensor.text import TERMINATORS, print_op
from gradc.ir.tensor.violation import VerificationError, Violation


def verify_function(function: Function, *, static: bool = False) -> None:
    """Raises VerificationError if ``function`` breaks an invariant; ``static`` adds T10."""
    violations = check_function(function, static=static)
    if violations:
        raise VerificationError(f"function {function.name}", violations)


def check_function(function: Function, *, static: bool = False) -> tuple[Violation, ...]:
    """Every violation of T1-T9 (and T10 if ``static``), in order."""
    found = [*_check_blocks(function.block), *_check_slots(function)]
    if not any(v.number == "T1" for v in found):
        for op in walk(function.block):
            if op.name not in TERMINATORS:
                found += _check_op(op)
        found += _check_loss(function)
        found += _check_named_results(function)
        if static:
            found += _check_static(function.block)
    return tuple(found)


def _at(op: Op, number: str, message: str) -> Violation:
    return Violation(number, message, _head(op), op.span)


def _head(op: Op) -> str:
    """The op without its regions' contents."""
    lines = print_op(op).splitlines()
    return lines[0] if len(lines) == 1 else f"{lines[0]} ... {lines[-1]}"


def _check_blocks(block: Block) -> Iterator[Violation]:
    """T1, T2 and T3 over all blocks."""
    seen: set[Block] = set()
    stack: list[tuple[Block, str, tuple[set[Value], ...]]] = [(block, "return", ())]
    while stack:
        current, terminator, around = stack.pop()
        if current in seen:
            continue
        seen.add(current)
        yield from _check_terminators(current, terminator)
        yield from _check_uses(current)
        defined: set[Value] = set()
        for value in _definitions(current):
            if value in defined or any(value in outer for outer in around):
                yield Violation("T3", f"value {value.hint or '?'} of {value.type} is defined twice")
            defined.add(value)
        inside = (*around, defined)
        stack += [(region, "yield", inside) for op in current.ops for region in op.regions]


def _definitions(block: Block) -> Iterator[Value]:
    yield from block.parameters
    for op in block.ops:
        yield from op.results


def _check_terminators(block: Block, expected: str) -> Iterator[Violation]:
    """T1."""
    if not block.ops or block.ops[-1].name != expected:
        last = block.ops[-1].name if block.ops else "nothing"
        yield Violation("T1", f"a block must end in {expected}, not in {last}")
    for op in block.ops[:-1]:
        if op.name in TERMINATORS:
            yield _at(op, "T1", "a terminator before the end of its block")
    for op in block.ops[-1:]:
        if op.name in TERMINATORS and (op.results or op.regions):
            yield _at(op, "T1", "a terminator has no results and no regions")


def _check_uses(block: Block) -> Iterator[Violation]:
    """T2."""
    visible = set(block.parameters)
    for op in block.ops:
        for number, operand in enumerate(op.operands):
            if operand not in visible:
                what = f"operand {number} ({operand.type}) is not defined before it in this block"
                yield _at(op, "T2", what)
        visible.update(op.results)


def _check_op(op: Op) -> Iterator[Violation]:
    """T4, T5 and T6."""
    try:
        lookup(op.name)
    except KeyError:
        yield _at(op, "T4", f"there is no op {op.name!r}")
        return
    yield from _check_attributes(op)
    yield from _check_types(op)
    yield from _check_place(op)


def _check_attributes(op: Op) -> Iterator[Violation]:
    """T4."""
    for name, value in op.attributes.items():
        if not isinstance(name, str) or not _is_attr(value):
            yield _at(op, "T4", f"attribute {name!r} is a {type(value).__name__}")


def _check_types(op: Op) -> Iterator[Violation]:
    """T5."""
    try:
        if op.regions:
            expected = region_result_types(op.name, op.operands, op.regions, op.attributes)
        else:
            expected = lookup(op.name).infer([v.type for v in op.operands], op.attributes)
    except TypeRuleError as error:
        yield _at(op, "T5", str(error))
        return
    if expected != tuple(v.type for v in op.results):
        yield _at(op, "T5", f"the type rule gives {_types(expected)}")


def _types(types: Sequence[TensorType]) -> str:
    return "(" + ", ".join(str(t) for t in types) + ")"


def _is_attr(value: object) -> bool:
    if isinstance(value, tuple):
        return all(_is_attr(item) for item in value)
    return isinstance(value, (bool, int, float, str, DType, DimExpr))


def _check_place(op: Op) -> Iterator[Violation]:
    """T6."""
    if op.replica < 0:
        yield _at(op, "T6", f"replica number {op.replica} is negative")
    span = op.span
    if span is not None and (span.end_line, span.end_column) < (span.line, span.column):
        yield _at(op, "T6", "the span ends before it starts")


def _check_slots(function: Function) -> Iterator[Violation]:
    """T7."""
    counts = (
        ("parameters", len(function.parameters), len(function.block.parameters)),
        ("results", len(function.results), len(function.block.ops[-1].operands))
        if function.block.ops
        else ("results", 0, 0),
    )
    for what, slots, values in counts:
        if slots != values:
            yield Violation("T7", f"{slots} slots describe {values} {what}")
    seen: set[tuple[Role, str]] = set()
    for slot in function.parameters:
        if (slot.role, slot.name) in seen:
            message = f"two parameters of role {slot.role.value} are called {slot.name!r}"
            yield Violation("T7", message, "", slot.span)
        seen.add((slot.role, slot.name))


def _check_loss(function: Function) -> Iterator[Violation]:
    """T8."""
    for number, slot in enumerate(function.results):
        if slot.role is not Role.LOSS:
            continue
        if number:
            yield Violation("T8", f"loss {slot.name!r} is result {number}, not the first")
        type_ = function.block.outputs[number].type
        if not type_.dtype.is_float:
            yield Violation("T8", f"loss {slot.name!r} is {type_}, which has no derivative")


def _check_named_results(function: Function) -> Iterator[Violation]:
    """T9."""
    rows = zip(function.parameters, function.block.parameters, strict=False)
    parameters = {slot.name: value.type for slot, value in rows if slot.role is not Role.SEED}
    for slot, value in zip(function.results, function.block.outputs, strict=False):
        if slot.role not in (Role.STATE, Role.COTANGENT) or slot.name not in parameters:
            continue
        expected = parameters[slot.name]
        if value.type != expected:
            what = f"{slot.role.value} {slot.name!r} is {value.type}, its parameter {expected}"
            yield Violation("T9", what, "", slot.span)


def _check_static(block: Block) -> Iterator[Violation]:
    """T10."""
    for value in block.parameters:
        if not _is_static(value.type):
            yield Violation("T10", f"parameter {value.hint or '?'} is {value.type}")
    for op in walk(block):
        for result in op.results:
            if not _is_static(result.type):
                yield _at(op, "T10", f"{result.type} has unbound dimensions")


def _is_static(type_: TensorType) -> bool:
    return all(isinstance(d, int) and d >= 0 for d in type_.shape)
