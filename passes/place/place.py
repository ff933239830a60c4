"""Completing a Plan: order of steps, shared storage, one aligned arena, offsets.

    from  a Plan as ``to_loops`` makes it: program order, no offsets, copies into `inout` ports at
    the end
    to    a complete Plan

Invariants: every arena tensor that is touched has an offset, a multiple of 64 bytes; tensors alive
together never overlap unless one is the root of the other. Non-goals: recomputation
(``rematerialise``), kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gradc.ir.plan.plan import Plan
from gradc.passes.place.carry import single_carries
from gradc.passes.place.copy import forward_copies
from gradc.passes.place.flights import overlapped
from gradc.passes.place.lifetime import Lifetime, lifetimes
from gradc.passes.place.pack import aligned, lower_bound, pack
from gradc.passes.place.prune import prune
from gradc.passes.place.schedule import dependences, schedule, step_uses
from gradc.passes.place.share import share, write_ports

# Program order is kind to caches; another order must save at least this share of the arena.
WORTH = 0.98


def place(plan: Plan, *, overlaps: bool = True) -> Plan:
    """``plan`` in a good order, with shared storage and an arena; what ranks exchange is on its way
    while they compute if it ``overlaps``, which takes more of it.
    """
    plan = write_ports(forward_copies(single_carries(plan)))
    placed = _placed(plan)
    reordered = reorder(plan)
    if reordered is not plan:
        # No offsets are looked for that cannot be good enough.
        other = _placed_below(reordered, placed.arena_bytes * WORTH)
        if other is not None:
            plan, placed = reordered, other
    if overlaps and (early := overlapped(plan)) is not plan:
        placed = _placed(early)
    return prune(placed)


def _placed(plan: Plan) -> Plan:
    """``plan`` with shared storage and offsets."""
    times = lifetimes(plan)
    shared = share(plan, times)
    return _assigned(shared, *_blocks(shared, times))


def _placed_below(plan: Plan, most: float) -> Plan | None:
    """The same; None if its arena is no smaller than ``most``."""
    times = lifetimes(plan)
    shared = share(plan, times)
    blocks = _blocks(shared, times)
    if lower_bound(*blocks) >= most:
        return None
    placed = _assigned(shared, *blocks)
    return placed if placed.arena_bytes < most else None


def reorder(plan: Plan) -> Plan:
    """``plan`` with its top-level steps in an order that keeps fewer bytes alive."""
    uses = [step_uses(plan, step) for step in plan.steps]
    sizes = [aligned(t.nbytes) if t.space == "arena" else 0 for t in plan.tensors]
    order = schedule(uses, dependences(uses), lambda tensor: sizes[tensor])
    if order == list(range(len(plan.steps))):
        return plan
    return replace(plan, steps=tuple(plan.steps[n] for n in order))


def assign(plan: Plan) -> Plan:
    """Gives every arena tensor its offset, in the order of steps as it is."""
    return _assigned(plan, *storage(plan))


def _assigned(plan: Plan, sizes: Mapping[int, int], times: Mapping[int, Lifetime]) -> Plan:
    offsets, total = pack(sizes, times) if sizes else ({}, 0)
    tensors = []
    for number, tensor in enumerate(plan.tensors):
        root, start = plan.place(number)
        base = offsets.get(root)
        tensors.append(tensor if base is None else replace(tensor, offset=base + start))
    return replace(plan, tensors=tuple(tensors), arena_bytes=total)


def storage(plan: Plan) -> tuple[dict[int, int], dict[int, Lifetime]]:
    """Bytes and lifetime of every block of the arena, by the number of its root tensor."""
    return _blocks(plan, lifetimes(plan))


def _blocks(
    plan: Plan, known_times: Mapping[int, Lifetime]
) -> tuple[dict[int, int], dict[int, Lifetime]]:
    sizes: dict[int, int] = {}
    times: dict[int, Lifetime] = {}
    for number, time in known_times.items():
        root = plan.root(number)
        if plan.tensors[root].space != "arena":
            continue
        sizes[root] = max(sizes.get(root, 0), plan.tensors[root].nbytes)
        known = times.get(root, time)
        times[root] = Lifetime(min(known.first, time.first), max(known.last, time.last))
    return sizes, times


def arena_lower_bound(plan: Plan) -> int:
    """The least arena any placement of ``plan`` with its order of steps can have."""
    return lower_bound(*storage(plan))
