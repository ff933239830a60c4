"""Carries of rolled loops in one buffer instead of two, where every trip may write over what it
reads.

``to_loops`` gives a carry two halves that change roles every trip. One is enough if a single launch
of the body writes it, nothing in the body reads the old value after that launch, and the launch
itself reads each element before it writes it. Running sums of gradients are of this kind: they then
take their own size, not twice of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from gradc.ir.plan.plan import Argument, Launch, Plan, Repeat, Step
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
    for repeat, depth in _repeats(plan.steps, 0):
        for tensor in _doubled(repeat, depth):
            half = plan.tensors[tensor].size // 2
            if _is_single(plan, sharing, repeat, tensor, half, depth):
                single[tensor] = half
    if not single:
        return plan
    tensors = list(plan.tensors)
    for tensor in single:
        tensors[tensor] = replace(tensors[tensor], shape=tensors[tensor].shape[1:])
    steps = tuple(_merged(step, single) for step in plan.steps)
    return replace(plan, tensors=tuple(tensors), steps=steps)


def _repeats(steps: Sequence[Step], depth: int) -> Iterator[tuple[Repeat, int]]:
    for step in steps:
        if isinstance(step, Repeat):
            yield step, depth
            yield from _repeats(step.body, depth + 1)


def _doubled(repeat: Repeat, depth: int) -> list[int]:
    """Tensors whose halves change roles with the trips of ``repeat`` itself."""
    found: dict[int, None] = {}
    for step in repeat.body:
        if isinstance(step, Launch):
            for argument in step.arguments:
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
    launch = repeat.body[write.position]
    assert isinstance(launch, Launch)
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
    stack: list[tuple[int, Step]] = [(n, step) for n, step in enumerate(repeat.body)][::-1]
    while stack:
        position, step = stack.pop()
        if isinstance(step, Repeat):
            stack.extend((-1, inner) for inner in step.body)
            continue
        named = [b for b in plan.kernels[step.kernel].buffers if b.access != "scratch"]
        for number, (buffer, argument) in enumerate(zip(named, step.arguments, strict=True)):
            if argument.tensor == tensor:
                yield _Use(position, number, argument, buffer.access)


def _merged(step: Step, single: dict[int, int]) -> Step:
    """``step`` with both halves of the tensors in ``single`` in one place."""
    if isinstance(step, Repeat):
        return replace(step, body=tuple(_merged(s, single) for s in step.body))
    arguments = tuple(
        replace(a, offset=a.offset % single[a.tensor], parity=tuple(0 for _ in a.parity))
        if a.tensor in single
        else a
        for a in step.arguments
    )
    return replace(step, arguments=arguments)
