"""The checker of Plans catches seeded faults: at least 300, each a way in which a planner can go
wrong.

Every fault is one that must not pass: a fault that could leave a correct plan is not made (a tensor
moved into free space, steps swapped that do not depend on each other).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import pytest

from gradc.ir.plan.plan import Argument, Launch, Plan, Repeat, Tensor
from gradc.passes.inspect.check import check_plan
from tests.support.loops_models import gradient, lstm, mlp, planned, row_model, transformer

Fault = Callable[[Plan, random.Random], Plan | None]


@cache
def plans() -> tuple[Plan, ...]:
    functions = (
        gradient(mlp(16, [12, 20, 9, 5])),
        gradient(transformer(2, 2, 8, 16, 2, 20)),
        gradient(lstm(5, 3, 4, 6)),
        gradient(row_model(700, 64)),
    )
    return tuple(planned(f) for f in functions)


def _accesses(plan: Plan, launch: Launch) -> Iterator[tuple[int, str, Argument]]:
    """Position, access and argument of every buffer of ``launch``."""
    named = plan.kernels[launch.kernel].bound
    for n, (buffer, argument) in enumerate(zip(named, launch.arguments, strict=True)):
        yield n, buffer.access, argument


def _uses(plan: Plan) -> dict[int, list[tuple[int, str]]]:
    """For each tensor, (top-level step, access) in order."""
    found: dict[int, list[tuple[int, str]]] = {}
    for position, step in enumerate(plan.steps):
        stack = [step]
        while stack:
            item = stack.pop(0)
            if isinstance(item, Repeat):
                stack = [*item.body, *stack]
                continue
            for _, access, argument in _accesses(plan, item):
                found.setdefault(argument.tensor, []).append((position, access))
    return found


def _arena(plan: Plan) -> list[int]:
    """Arena tensors that are written at one step and read at a later one."""
    uses = _uses(plan)
    return [
        n
        for n, steps in uses.items()
        if plan.tensors[n].space == "arena"
        and steps[0][1] == "write"
        and any(p > steps[0][0] and a == "read" for p, a in steps)
    ]


def _with_tensor(plan: Plan, number: int, tensor: Tensor) -> Plan:
    tensors = list(plan.tensors)
    tensors[number] = tensor
    return replace(plan, tensors=tuple(tensors))


def _with_step(plan: Plan, position: int, step: Launch | Repeat) -> Plan:
    steps = list(plan.steps)
    steps[position] = step
    return replace(plan, steps=tuple(steps))


def overlap(plan: Plan, pick: random.Random) -> Plan | None:
    """A tensor lies where another one that is still needed lies."""
    uses = _uses(plan)
    pairs = []
    for a in _arena(plan):
        last = max(p for p, access in uses[a] if access == "read")
        for b in _arena(plan):
            first = uses[b][0][0]
            if a != b and uses[a][0][0] < first < last:
                pairs.append((a, b))
    if not pairs:
        return None
    a, b = pick.choice(pairs)
    return _with_tensor(plan, b, replace(plan.tensors[b], offset=plan.tensors[a].offset, root=None))


def small_arena(plan: Plan, pick: random.Random) -> Plan | None:
    """The arena is smaller than what lies in it."""
    if not plan.arena_bytes:
        return None
    return replace(
        plan, arena_bytes=plan.arena_bytes - 64 * pick.randint(1, plan.arena_bytes // 64)
    )


def outside(plan: Plan, pick: random.Random) -> Plan | None:
    """A tensor lies outside the arena or nowhere."""
    number = pick.choice(_arena(plan) or [-1])
    if number < 0:
        return None
    offset = pick.choice([None, -64, plan.arena_bytes, plan.arena_bytes + 64])
    return _with_tensor(plan, number, replace(plan.tensors[number], offset=offset))


def misaligned(plan: Plan, pick: random.Random) -> Plan | None:
    """A tensor does not start on a cache line."""
    found = [n for n in _arena(plan) if plan.tensors[n].root is None]
    if not found:
        return None
    number = pick.choice(found)
    tensor = plan.tensors[number]
    return _with_tensor(plan, number, replace(tensor, offset=(tensor.offset or 0) + 4))


def dropped(plan: Plan, pick: random.Random) -> Plan | None:
    """A step is missing, as a recomputation may be."""
    position = pick.randrange(len(plan.steps))
    return replace(plan, steps=plan.steps[:position] + plan.steps[position + 1 :])


def early(plan: Plan, pick: random.Random) -> Plan | None:
    """A step runs before one that makes what it reads."""
    uses = _uses(plan)
    pairs = []
    for number in _arena(plan):
        made = uses[number][0][0]
        pairs += [(made, p) for p, access in uses[number] if access == "read" and p > made]
    if not pairs:
        return None
    made, read = pick.choice(pairs)
    steps = list(plan.steps)
    steps.insert(made, steps.pop(read))
    return replace(plan, steps=tuple(steps))


def wrong_tensor(plan: Plan, pick: random.Random) -> Plan | None:
    """A launch reads a tensor that does not exist yet."""
    uses = _uses(plan)
    found = []
    for position, step in enumerate(plan.steps):
        if not isinstance(step, Launch):
            continue
        for n, access, argument in _accesses(plan, step):
            for other in _arena(plan):
                same = plan.tensors[other].dtype is plan.tensors[argument.tensor].dtype
                large = plan.tensors[other].size >= plan.tensors[argument.tensor].size
                if access == "read" and uses[other][0][0] > position and same and large:
                    found.append((position, n, other))
    if not found:
        return None
    position, n, other = pick.choice(found)
    return _with_argument(plan, position, n, Argument(other))


def _with_argument(plan: Plan, position: int, n: int, argument: Argument) -> Plan:
    step = plan.steps[position]
    assert isinstance(step, Launch)
    arguments = (*step.arguments[:n], argument, *step.arguments[n + 1 :])
    return _with_step(plan, position, replace(step, arguments=arguments))


def shifted(plan: Plan, pick: random.Random) -> Plan | None:
    """An argument points beside its tensor."""
    position = pick.choice([n for n, s in enumerate(plan.steps) if isinstance(s, Launch)])
    step = plan.steps[position]
    assert isinstance(step, Launch)
    whole = [
        (n, a)
        for n, (_, _, a) in enumerate(_accesses(plan, step))
        if a.offset == 0 and _buffer_size(plan, step, n) == plan.tensors[a.tensor].size
    ]
    if not whole:
        return None
    n, argument = pick.choice(whole)
    return _with_argument(plan, position, n, replace(argument, offset=pick.choice([-1, 1, 7])))


def _buffer_size(plan: Plan, launch: Launch, n: int) -> int:
    return plan.kernels[launch.kernel].bound[n].size


def wrong_alias(plan: Plan, pick: random.Random) -> Plan | None:
    """A product is written over one of its own factors, and says so."""
    found = []
    for step in plan.steps:
        if not isinstance(step, Launch) or "gemm" not in plan.kernels[step.kernel].name:
            continue
        arguments = list(_accesses(plan, step))
        reads = [a for _, access, a in arguments if access == "read"]
        writes = [a for _, access, a in arguments if access == "write"]
        for source in reads[:2]:
            for target in writes:
                a, b = plan.tensors[source.tensor], plan.tensors[target.tensor]
                if a.space == b.space == "arena" and a.nbytes >= b.nbytes:
                    found.append((source.tensor, target.tensor))
    if not found:
        return None
    below, above = pick.choice(found)
    changed = replace(plan.tensors[above], offset=plan.tensors[below].offset, root=below)
    return _with_tensor(plan, above, changed)


def writes_input(plan: Plan, pick: random.Random) -> Plan | None:
    """A result goes into an input of the call."""
    inputs = [port for port in plan.ports if port.direction == "in"]
    found = []
    for position, step in enumerate(plan.steps):
        if not isinstance(step, Launch):
            continue
        for n, access, argument in _accesses(plan, step):
            tensor = plan.tensors[argument.tensor]
            for port in inputs:
                fits = port.dtype is tensor.dtype
                if access == "write" and fits and plan.tensors[port.tensor].size >= tensor.size:
                    found.append((position, n, port.tensor))
    if not found:
        return None
    position, n, tensor_number = pick.choice(found)
    return _with_argument(plan, position, n, Argument(tensor_number))


def wrong_stride(plan: Plan, pick: random.Random) -> Plan | None:
    """A slice of a rolled loop is taken with the wrong stride, or a carry does not change
    buffers."""
    found = []
    for position, step in enumerate(plan.steps):
        if isinstance(step, Repeat):
            for inner, launch in enumerate(step.body):
                if not isinstance(launch, Launch):
                    continue
                for n, _, argument in _accesses(plan, launch):
                    if any(argument.strides) or any(argument.parity):
                        found.append((position, inner, n, argument))
    if not found:
        return None
    position, inner, n, argument = pick.choice(found)
    if any(argument.parity):
        changed = replace(argument, parity=tuple(0 for _ in argument.parity))
    else:
        changed = replace(argument, strides=tuple(2 * s for s in argument.strides))
    repeat = plan.steps[position]
    assert isinstance(repeat, Repeat)
    launch = repeat.body[inner]
    assert isinstance(launch, Launch)
    arguments = (*launch.arguments[:n], changed, *launch.arguments[n + 1 :])
    changed_launch = replace(launch, arguments=arguments)
    body = (*repeat.body[:inner], changed_launch, *repeat.body[inner + 1 :])
    return _with_step(plan, position, replace(repeat, body=body))


def fewer_trips(plan: Plan, pick: random.Random) -> Plan | None:
    """A rolled loop ends early, so that the last slices are never written."""
    found = [n for n, step in enumerate(plan.steps) if isinstance(step, Repeat)]
    if not found:
        return None
    position = pick.choice(found)
    repeat = plan.steps[position]
    assert isinstance(repeat, Repeat)
    return _with_step(plan, position, replace(repeat, trips=repeat.trips - 1))


FAULTS: tuple[Fault, ...] = (
    overlap,
    small_arena,
    outside,
    misaligned,
    dropped,
    early,
    wrong_tensor,
    shifted,
    wrong_alias,
    writes_input,
    wrong_stride,
    fewer_trips,
)


def test_the_plans_themselves_are_fine() -> None:
    for plan in plans():
        assert [str(finding) for finding in check_plan(plan)] == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: str(fault.__name__))
def test_seeded_faults_are_caught(fault: Fault) -> None:
    pick = random.Random(fault.__name__)
    made = 0
    for seed in range(40):
        plan = plans()[seed % len(plans())]
        broken = fault(plan, pick)
        if broken is None or broken == plan:
            continue
        made += 1
        assert check_plan(broken), f"{fault.__name__} number {seed} passes: {plan.name}"
    assert made >= 9


def test_there_are_enough_faults() -> None:
    made = 0
    for fault in FAULTS:
        pick = random.Random(fault.__name__)
        for seed in range(40):
            broken = fault(plans()[seed % len(plans())], pick)
            made += broken is not None
    assert made >= 300
