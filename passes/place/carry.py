"""Carries of rolled loops in one buffer instead of two, where every trip may write over what it
reads.

``to_loops`` gives a carry two halves that change roles every trip. One is enough if a single launch
of the body writes it, nothing in the body reads the old value after that launch, and the launch
itself reads each element before it writes it. Running sums of gradients are of this kind: they then
take their own size, not twice of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from gradc.ir.plan.plan import Argument, Launch, Plan, Repeat
from gradc.passes.place.share import Sharing


@dataclass(frozen=True, slots=True)
class _Use:
    """One argument of a body that lies in a doubled tensor."""

    position: int
    number: int
    argument: Argument
    access: str


def single_carries(plan: Plan) -> Plan:
    """``plan`` with one buffer for every doubled carry that needs no second."""
    sharing = Sharing(plan)
    single: dict[int, int] = {}
    for repeat, depth in (found for step in plan.steps for found in step.repeats()):
        for tensor in _doubled(repeat, depth):
            half = plan.tensors[tensor].size // 2
            if _is_single(plan, sharing, repeat, tensor, half, depth):
                single[tensor] = half
    if not single:
        return plan
    tensors = list(plan.tensors)
    for tensor in single:
        tensors[tensor] = replace(tensors[tensor], shape=tensors[tensor].shape[1:])
    merged = plan.map(lambda launch: _merged(launch, single))
    return replace(merged, tensors=tuple(tensors))


def _doubled(repeat: Repeat, depth: int) -> list[int]:
    """Tensors whose halves change roles with the trips of ``repeat`` itself."""
    found: dict[int, None] = {}
    for step in repeat.body:
        for argument in () if step.launch is None else step.launch.arguments:
            if len(argument.parity) > depth and argument.parity[depth]:
                found[argument.tensor] = None
    return list(found)


def _is_single(
    plan: Plan, sharing: Sharing, repeat: Repeat, tensor: int, half: int, depth: int
) -> bool:
    uses = list(_uses(plan, repeat, tensor))
    # Inside a deeper loop, or apart from the halves: not what to_loops makes.
    if any(u.position < 0 or not _is_half(u.argument, half, depth) for u in uses):
        return False
    writes = [u for u in uses if u.access != "read"]
    if len(writes) != 1 or writes[0].access != "write" or not writes[0].argument.offset:
        return False
    (write,) = writes
    old = [u for u in uses if u.access == "read" and u.argument.offset == 0]
    if any(u.position > write.position for u in old):
        return False
    launch = repeat.body[write.position].launch
    assert launch is not None, "a write at this level is a launch's"
    pairs = sharing.pairs(launch.kernel)
    together = [u for u in old if u.position == write.position]
    return all((u.number, write.number) in pairs for u in together)


def _is_half(argument: Argument, half: int, depth: int) -> bool:
    """Whether ``argument`` is one half in even trips and the other in odd ones."""
    if len(argument.parity) <= depth:
        return False
    others = [n for level, n in enumerate(argument.parity) if level != depth]
    if any(argument.strides) or any(others):
        return False
    return (argument.offset, argument.parity[depth]) in ((0, half), (half, -half))


def _uses(plan: Plan, repeat: Repeat, tensor: int) -> Iterator[_Use]:
    """Uses in the body by position; those inside deeper loops have position -1."""
    for number, step in enumerate(repeat.body):
        position = -1 if step.launch is None else number
        for launch, _ in step.walk():
            named = plan.kernels[launch.kernel].bound
            pairs = zip(named, launch.arguments, strict=True)
            for place, (buffer, argument) in enumerate(pairs):
                if argument.tensor == tensor:
                    yield _Use(position, place, argument, buffer.access)


def _merged(launch: Launch, single: dict[int, int]) -> Launch:
    """``launch`` with both halves of the tensors in ``single`` in one place."""
    arguments = tuple(
        replace(a, offset=a.offset % single[a.tensor], parity=tuple(0 for _ in a.parity))
        if a.tensor in single
        else a
        for a in launch.arguments
    )
    return replace(launch, arguments=arguments)
