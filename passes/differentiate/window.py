"""The end of a loop, where nothing else of it is used.

    hs[-1] of `yield h`          ->  the last h
    scan of T trips, truncate k  ->  scan of T - k trips, carries stopped, scan of k trips

The last row of what a loop yields is its last carry if it yields what it carries. Read there, it
has a cotangent of one state, not of a whole stack of zeros around it. A truncated loop of which
only last carries are used goes in two:

Where a loss reads what a loop yields in every trip, every window has a derivative, and all their
residuals are read. Where it reads the last carries alone, the border before the last k trips cuts
it off from everything earlier (``truncate`` is defined in ``differentiate_truncate``), so those
trips need no residuals and no reverse sweep: memory is that of k trips.

Invariants: values and derivatives are the same; the last carries keep their identity. Non-goals:
loops inside regions.
"""

from __future__ import annotations

from dataclasses import replace

from gradc.ir.ops.attributes import get_dims
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import is_loop
from gradc.ir.tensor.core import Function, Op, Value
from gradc.ir.tensor.dims import Dim
from gradc.passes.rewrite import Scan, copy_block, emit_scan, rows, stacked_value, with_ops


def last_windows(function: Function) -> Function:
    """``function`` with ends read from carries and such loops in two; the same object if there are
    none.
    """
    function = _ends(function)
    ops = function.block.ops
    read = {value for op in ops for value in op.operands}
    b = Builder()
    is_changed = False
    for op in function.block.body:
        scan = Scan.of(op) if is_loop(op) else None
        if scan is None or not _is_cut_off(scan, read):
            b.ops.append(op)
            continue
        with b.at(op.span, op.scope, op.replica):
            _split(b, scan)
        is_changed = True
    return with_ops(function, b.ops, function.block.outputs) if is_changed else function


def _ends(function: Function) -> Function:
    """``function`` with last rows of yields read from the carries; the same object if there are
    none.
    """
    carries: dict[Value, tuple[Scan, Value]] = {}
    b = Builder()
    is_changed = False
    for op in function.block.body:
        if is_loop(op):
            scan = Scan.of(op)
            known = dict(zip(scan.body.outputs[: scan.carried], op.results, strict=False))
            yields = zip(scan.step_outputs, op.results[scan.carried :], strict=True)
            carries.update((stack, (scan, known[v])) for v, stack in yields if v in known)
        found = carries.get(op.operands[0]) if op.name == "slice" else None
        if found is not None and _is_last_row(op, found[0]):
            with b.at(op.span, op.scope, op.replica):
                row = b.one("reshape", found[1], shape=(1, *found[1].type.shape))
            start, limit, _ = _reach(op)
            reach = {"start": (0, *start[1:]), "limit": (1, *limit[1:])}
            op = replace(op, operands=(row,), attributes={**op.attributes, **reach})
            is_changed = True
        b.ops.append(op)
    return with_ops(function, b.ops, function.block.outputs) if is_changed else function


def _reach(op: Op) -> tuple[tuple[Dim, ...], ...]:
    return tuple(get_dims(op.attributes, name) for name in ("start", "limit", "stride"))


def _is_last_row(op: Op, scan: Scan) -> bool:
    """Whether a slice of a stack takes what the last trip that runs has yielded, and nothing
    else.
    """
    if not isinstance(scan.trips, int):
        return False
    start, limit, _ = _reach(op)
    last = 0 if scan.is_reverse else scan.trips - 1
    return (start[0], limit[0]) == (last, last + 1)


def _is_cut_off(scan: Scan, read: set[Value]) -> bool:
    """Whether only the last window of the loop reaches anything."""
    yielded = scan.op.results[scan.carried :]
    return scan.is_truncated and isinstance(scan.trips, int) and not read.intersection(yielded)


def _split(b: Builder, scan: Scan) -> None:
    trips, last = scan.trips, scan.truncate
    assert isinstance(trips, int), "asked before"
    first = trips - last
    carries, stacked, constants = scan.split(scan.op.operands)
    heads = [rows(b, x, last if scan.is_reverse else 0, first) for x in stacked]
    tails = [rows(b, x, 0 if scan.is_reverse else first, last) for x in stacked]
    # Products of all slices at once, which `hoist` would make, are as large as the residuals that
    # are saved.
    head = {**scan.op.attributes, "trips": first, "truncate": 0, "saves_memory": True}
    operands = [*carries, *heads, *constants]
    results = emit_scan(b, operands, copy_block(scan.body), head)
    stopped = [
        b.one("stop_gradient", value) if value.type.dtype.is_float else value
        for value in results[: scan.carried]
    ]
    yielded = tuple(stacked_value(value, last) for value in scan.step_outputs)
    tail: Op = replace(
        scan.op,
        operands=(*stopped, *tails, *constants),
        results=(*scan.op.results[: scan.carried], *yielded),
        attributes={**scan.op.attributes, "trips": last, "truncate": 0},
    )
    b.ops.append(tail)
