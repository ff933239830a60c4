"""Copies that need not be made: what is copied is computed where it is wanted, or lives there.

* A value that is copied once and read by nothing else is computed in the place it is copied to.
* A constant that is copied is filled in again there instead.
* An arena tensor that ends its life in a copy to an `out` port lives in the port all along.

Invariant: whatever a step reads has the same value. Copies into `inout` ports are
``place_share``'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from gradc.ir.plan.plan import Argument, Launch, Plan, Step
from gradc.passes.place.share import is_copy, is_whole


class _Touch(NamedTuple):
    """A launch that has a tensor among its arguments: the list of steps it is in, its position."""

    steps: int
    position: int
    argument: Argument
    access: str


def forward_copies(plan: Plan) -> Plan:
    """``plan`` with fewer copies."""
    here = _touches(plan, plan.steps)
    counts = {tensor: len(found) for tensor, found in here.items()}
    plan = replace(plan, steps=tuple(_forwarded(plan, plan.steps, counts, here)))
    return _adopt(_without_dead_fills(plan))


def _touches(plan: Plan, steps: Sequence[Step]) -> dict[int, list[_Touch]]:
    """Every use of every tensor below ``steps``; ``_Touch.steps`` is 0 for the list itself, and the
    position is always that of the step of the list."""
    found: dict[int, list[_Touch]] = {}
    named = [[b.access for b in k.bound] for k in plan.kernels]
    for position, step in enumerate(steps):
        for cell in step.cells():
            found.setdefault(cell, []).append(_Touch(1, position, Argument(cell), "update"))
        for launch, trips in step.walk():
            for access, argument in zip(named[launch.kernel], launch.arguments, strict=True):
                touch = _Touch(len(trips), position, argument, access)
                found.setdefault(argument.tensor, []).append(touch)
    return found


def _forwarded(
    plan: Plan,
    steps: Sequence[Step],
    counts: Mapping[int, int],
    here: dict[int, list[_Touch]] | None = None,
) -> list[Step]:
    """One list of steps with values computed where they would be copied to; ``counts`` are the uses
    of every tensor, ``here`` those below ``steps``, if they are known.
    """
    current: list[Step | None] = [
        step.with_body(lambda body: _forwarded(plan, body, counts)) for step in steps
    ]
    if here is None:
        here = _touches(plan, steps)
    for position, step in enumerate(steps):
        if (copy := step.launch) is None or not is_copy(plan.kernels[copy.kernel]):
            continue
        source, target = copy.arguments
        # Of a copy of a part, the rest has no place in the target.
        if plan.kernels[copy.kernel].buffers[0].size != plan.tensors[source.tensor].size:
            continue
        # Nothing outside this list may know the source.
        uses = here.get(source.tensor, [])
        if len(uses) != counts.get(source.tensor, 0):
            continue
        maker = _maker(plan, steps, uses, source, position)
        if maker is None:
            continue
        made = current[maker]
        launch = None if made is None else made.launch
        if launch is None:
            continue
        if len(launch.arguments) == 1:
            current[position] = replace(launch, arguments=(target,))
        elif len(uses) == 2 and _is_free(here, target, maker, position):
            arguments = tuple(target if a.tensor == source.tensor else a for a in launch.arguments)
            current[maker] = replace(launch, arguments=arguments)
            current[position] = None
    return [s for s in current if s is not None]


def _maker(
    plan: Plan, steps: Sequence[Step], uses: Sequence[_Touch], source: Argument, copy: int
) -> int | None:
    """The position of the only launch that writes the whole source, before the copy."""
    if plan.tensors[source.tensor].space != "arena" or not is_whole(source):
        return None
    writes = [u for u in uses if u.access != "read"]
    if len(writes) != 1 or writes[0].access != "write" or writes[0].steps != 0:
        return None
    (write,) = writes
    if write.position >= copy or not is_whole(write.argument):
        return None
    launch = steps[write.position].launch
    assert launch is not None, "a write at this level is a launch's"
    named = plan.kernels[launch.kernel].bound
    if len(launch.arguments) == 1:
        return write.position
    sizes = [b.size for b, a in zip(named, launch.arguments, strict=True) if a == write.argument]
    return write.position if sizes == [plan.tensors[source.tensor].size] else None


def _is_free(here: dict[int, list[_Touch]], target: Argument, maker: int, copy: int) -> bool:
    """Whether nothing touches the target's tensor from the maker up to the copy."""
    touched = [u.position for u in here.get(target.tensor, ())]
    return not any(maker <= position < copy for position in touched)


def _without_dead_fills(plan: Plan) -> Plan:
    """``plan`` without launches that only fill an arena tensor that nothing else touches."""
    if all(len(launch.arguments) != 1 for launch in plan.launches):
        return plan
    touches = _touches(plan, plan.steps)

    def kept(launch: Launch) -> Launch | None:
        if len(launch.arguments) != 1:
            return launch
        tensor = launch.arguments[0].tensor
        is_dead = plan.tensors[tensor].space == "arena" and len(touches[tensor]) == 1
        return None if is_dead else launch

    return plan.map(kept)


def _is_copy_into(plan: Plan, step: Step, targets: Mapping[int, None]) -> bool:
    launch = step.launch
    if launch is None or len(launch.arguments) != 2 or launch.arguments[1].tensor not in targets:
        return False
    return is_copy(plan.kernels[launch.kernel])


def _adopt(plan: Plan) -> Plan:
    """Arena tensors that end in a copy to an `out` port become the port."""
    outs = {port.tensor: None for port in plan.ports if port.direction == "out"}
    if not any(_is_copy_into(plan, step, outs) for step in plan.steps):
        return plan
    touches = _touches(plan, plan.steps)
    renamed: dict[int, int] = {}
    dropped: dict[int, None] = {}
    for position, step in enumerate(plan.steps):
        if (copy := step.launch) is None or not is_copy(plan.kernels[copy.kernel]):
            continue
        source, target = copy.arguments
        a, b = plan.tensors[source.tensor], plan.tensors[target.tensor]
        fits = a.space == "arena" and a.root is None and a.nbytes == b.nbytes
        fits = fits and a.dtype is b.dtype and is_whole(source) and is_whole(target)
        last = max(u.position for u in touches[source.tensor])
        is_only = len(touches[target.tensor]) == 1 and source.tensor not in renamed
        if target.tensor in outs and fits and is_only and last == position:
            renamed[source.tensor] = target.tensor
            dropped[position] = None
    if not renamed:
        return plan
    left = tuple(step for number, step in enumerate(plan.steps) if number not in dropped)
    return replace(plan, steps=left).map(lambda launch: launch.renamed(renamed))
