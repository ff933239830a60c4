"""The reverse sweep of one block: cotangents flow from results to operands, in reverse order of the
ops.

From-stage and to-stage: tensor. What comes out is ordinary IR, so it can be differentiated again.

Invariants:
- a missing cotangent is a symbolic zero; nothing adds zeros;
- contributions to one value are added one by one in the reverse order of its uses, through
  checkpoints and loops as if they were not there, so the result is deterministic and the same
  whatever is recomputed;
- every op carries the span and scope of the primal op it belongs to, and its replica number, so
  that the sweep of a recomputed region is recomputed as well;
- the work is linear in the number of ops; recursion follows the nesting of regions only.

Masking: a cotangent that may be exactly zero because another path was taken is *marked*, and so is
whatever is derived from it. Marked cotangents meet partial derivatives through ``gate``, so an
infinite or NaN derivative on the untaken side contributes nothing.

Non-goals: which functions are differentiated by what (``differentiate``); recomputing anything but
checkpoints.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from gradc.ir.ops.builder import Builder
from gradc.ir.ops.pointwise import elementwise_vjp
from gradc.ir.ops.registry import has_pullback, is_loop, is_transparent, lookup
from gradc.ir.tensor.core import Op, Value, walk
from gradc.passes.differentiate.activity import varied
from gradc.passes.differentiate.parts import part_of
from gradc.passes.differentiate.scan import reverse_scan
from gradc.passes.differentiate.values import Cotangents, Numbers, zeros
from gradc.passes.rewrite import Scan, copy_ops


def reverse_ops(
    b: Builder,
    ops: Sequence[Op],
    cts: Cotangents,
    wanted: Collection[Value],
    numbers: Numbers,
) -> list[Op]:
    """Emits the reverse sweep of ``ops`` into ``b``, starting from what ``cts`` holds.

    ``wanted`` are the values that depend on what is differentiated by; only they get cotangents.
    Returns the primal ops to run in place of ``ops``: the same ones, but scans also hand out what
    the sweep reads.
    """
    primal: list[Op] = []
    for op in reversed(ops):
        needed = [v in wanted for v in op.operands]
        if any(needed) and any(cts.has(v) for v in op.results):
            with b.at(op.span, op.scope, op.replica):
                op = _reverse_op(b, op, needed, cts, numbers)
        primal.append(op)
    primal.reverse()
    return primal


def _reverse_op(
    b: Builder, op: Op, needed: Sequence[bool], cts: Cotangents, numbers: Numbers
) -> Op:
    """Adds the contributions of one op; returns the op to run in the forward sweep."""
    if is_transparent(op):
        _reverse_region(b, op, needed, cts, numbers)
        return op
    result_cts = cts.take(b, op.results)
    is_marked = cts.any_marked(result_cts)
    if op.name == "slice" and result_cts[0] is not None:
        part = part_of(op, result_cts[0])
        if part is not None:
            cts.add_part(op.operands[0], part, is_marked)
            return op
    forward = op
    found: Sequence[Value | None]
    if is_loop(op):
        totals = _running_sums(b, op, needed, cts)
        is_marked = is_marked or _has_mask(op) or cts.any_marked(totals.values())
        found, forward = reverse_scan(
            b, op, result_cts, needed, totals, is_marked, numbers, reverse_ops
        )
    elif has_pullback(op):
        found = pull_back(b, op, result_cts)
    else:
        definition = lookup(op.name)
        if definition.is_elementwise:
            found = elementwise_vjp(b, op, result_cts, needed, is_marked)
        else:
            found = definition.vjp(b, op, result_cts, needed)
        is_marked = is_marked or definition.masks
    for value, ct, is_needed in zip(op.operands, found, needed, strict=True):
        if is_needed:
            cts.add(b, value, ct, is_marked)
    return forward


def _running_sums(b: Builder, op: Op, needed: Sequence[bool], cts: Cotangents) -> dict[int, Value]:
    """Takes the sums so far of the cotangents of a scan's constants; the loop goes on adding to
    them.
    """
    scan = Scan.of(op)
    totals: dict[int, Value] = {}
    for number in range(scan.carried + scan.stacked, len(op.operands)):
        if needed[number]:
            total = cts.withdraw(b, op.operands[number])
            if total is not None:
                totals[number] = total
    return totals


def _has_mask(op: Op) -> bool:
    ops = (inner for region in op.regions for inner in walk(region) if inner.results)
    return any(lookup(inner.name).masks for inner in ops)


def _reverse_region(
    b: Builder, op: Op, needed: Sequence[bool], cts: Cotangents, numbers: Numbers
) -> None:
    """A ``checkpoint``: runs its region again under a new replica number, then reverses that copy.

    The copy reads the operands themselves, and contributions go to the same sums in the same order
    as if there were no checkpoint: the gradient has the same bits. One that ``keeps_results`` is
    not run again for what it gave.
    """
    region = op.regions[0]
    mapping = dict(zip(region.parameters, op.operands, strict=True))
    kept: dict[Value, Value] = {}
    if op.attributes.get("keeps_results"):
        kept = dict(zip(region.outputs, op.results, strict=True))
    with b.at(op.span, op.scope, numbers.take()):
        copies = _copies(region.body, mapping, kept, b.replica)
        sources = [v for v, is_needed in zip(op.operands, needed, strict=True) if is_needed]
        sweep = Builder()
        with sweep.at(op.span, op.scope, b.replica):
            for output, result in zip(region.outputs, op.results, strict=True):
                target = mapping.get(output, output)
                if target is not result:
                    cts.move(sweep, result, target)
            # The copy is complete before its sweep begins: scans inside are known only after it.
            recomputed = reverse_ops(sweep, copies, cts, varied(copies, sources), numbers)
    given = set(kept.values())
    b.ops += [op for op in recomputed if not given.issuperset(op.results)]
    b.ops += sweep.ops


def _copies(
    body: Sequence[Op], mapping: dict[Value, Value], kept: Mapping[Value, Value], replica: int
) -> list[Op]:
    """Copies of ``body``, of which those that make what is ``kept`` have the results there are."""
    copies: list[Op] = []
    for op in body:
        (copy,) = copy_ops([op], mapping, replica)
        if any(v in kept for v in op.results):
            results = [kept.get(v, made) for v, made in zip(op.results, copy.results, strict=True)]
            copy = replace(copy, results=tuple(results))
            mapping.update(zip(op.results, results, strict=True))
        copies.append(copy)
    return copies


def pull_back(b: Builder, op: Op, result_cts: Sequence[Value | None]) -> list[Value | None]:
    """A ``custom`` op: its own pullback, inlined. It yields one cotangent per operand."""
    region = op.regions[1]
    seeds = [
        zeros(b, value) if ct is None else ct
        for value, ct in zip(op.results, result_cts, strict=True)
    ]
    arguments = (*op.operands, *op.results, *seeds)
    mapping = dict(zip(region.parameters, arguments, strict=True))
    b.ops += copy_ops(region.body, mapping, op.replica)
    return [mapping.get(v, v) for v in region.outputs]
