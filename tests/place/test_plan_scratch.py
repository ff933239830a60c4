"""Scratch of launches: where the planner puts it, and the faults that the checker finds in it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from gradc.codegen.backend import backend
from gradc.codegen.llvm import abreast, driver
from gradc.codegen.llvm.isa import host, select
from gradc.codegen.llvm.nest import nest
from gradc.ir.loop.equal import difference
from gradc.ir.plan.execute import execute_plan
from gradc.ir.plan.plan import Launch, Plan, Repeat, Step, Tensor
from gradc.ir.plan.text import parse_plan, print_plan
from gradc.ir.plan.verify import PlanError
from gradc.ir.target.target import GENERIC, Target
from gradc.ir.tensor.core import DType
from gradc.passes.inspect.check import check_plan
from gradc.passes.place.lifetime import numbered
from gradc.passes.place.place import arena_lower_bound, storage
from gradc.passes.place.scratch import place_scratch, scratch_tensors
from gradc.runtime.native.load import compile_plan, scratch_of
from tests.support.loops_models import (
    arguments,
    gradient,
    lstm,
    mlp,
    planned,
    row_model,
    transformer,
)
from tests.support.native_plans import ready

THREADS = 2
TARGET = backend("cpu").target(THREADS)
SCRATCH = scratch_of("cpu", TARGET)


@cache
def plans() -> tuple[Plan, ...]:
    """Complete plans; every one has scratch."""
    functions = (
        gradient(mlp(16, [12, 20, 9, 5])),
        gradient(transformer(2, 2, 8, 16, 2, 20)),
        gradient(lstm(5, 3, 4, 6)),
        gradient(mlp(64, [64, 128, 64, 10])),
    )
    return tuple(place_scratch(planned(f), TARGET, SCRATCH) for f in functions)


def with_launches(plan: Plan, change: Callable[[int, Launch], Launch]) -> Plan:
    """``plan`` with every launch changed, given its number."""
    numbers = iter(range(1 << 30))

    def walk(steps: tuple[Step, ...]) -> Iterator[Step]:
        for step in steps:
            if isinstance(step, Repeat):
                yield replace(step, body=tuple(walk(step.body)))
            else:
                yield change(next(numbers), step)

    return replace(plan, steps=tuple(walk(plan.steps)))


def exchanged(plan: Plan, number: int, tensor: Tensor) -> Plan:
    """``plan`` with another tensor in the place of one."""
    return replace(plan, tensors=(*plan.tensors[:number], tensor, *plan.tensors[number + 1 :]))


def moved(plan: Plan, number: int, offset: int | None) -> Plan:
    """``plan`` with one tensor elsewhere."""
    return exchanged(plan, number, replace(plan.tensors[number], offset=offset))


def cut(plan: Plan, number: int, words: int) -> Plan:
    """``plan`` with scratch of only so many words."""
    return exchanged(plan, number, replace(plan.tensors[number], shape=(words,)))


# ---- placement


@pytest.mark.parametrize("number", range(4))
def test_scratch_overlaps_nothing_that_is_alive(number: int) -> None:
    plan = plans()[number]
    sizes, times = storage(plan)
    scratch = scratch_tensors(plan)
    assert scratch and len(set(scratch)) == len(scratch)
    for mine in scratch:
        for other, time in times.items():
            if other == mine or not time.overlaps(times[mine]):
                continue
            a, b = plan.tensors[mine].offset, plan.tensors[other].offset
            assert a is not None and b is not None
            assert a + plan.tensors[mine].nbytes <= b or b + sizes[other] <= a
    assert plan.arena_bytes <= 1.05 * arena_lower_bound(plan)


@pytest.mark.parametrize("number", range(4))
def test_every_launch_has_what_its_kernel_needs(number: int) -> None:
    plan = plans()[number]
    assert plan.threads == THREADS
    for item in numbered(plan.steps):
        kernel = plan.kernels[item.launch.kernel]
        each = nest.scratch_bytes(kernel, host())
        parts = min(
            THREADS, driver.worthwhile_parts(kernel, host().costs), driver.extent(kernel, host())
        )
        if abreast.shareable_rows(kernel, host()) and each <= 4096:
            parts = THREADS
        if item.launch.scratch is None:
            assert each == 0
        else:
            assert plan.tensors[item.launch.scratch].nbytes == each * max(1, parts) > 0


def test_threads_that_are_never_used_cost_nothing() -> None:
    """Small launches run on one thread, so a thousand threads need no more than one."""
    bare = planned(gradient(mlp(4, [6, 5, 3])))
    assert ready(bare, 1).arena_bytes == ready(bare, 1000).arena_bytes > bare.arena_bytes
    large = planned(gradient(mlp(256, [256, 256, 10])))
    arenas = [ready(large, n).arena_bytes for n in (1, 2, 4)]
    assert arenas == sorted(arenas) and arenas[0] < arenas[-1]


def test_a_gap_below_the_top_is_used_first() -> None:
    """A target that asks for a line per product leaves the arena as it was, or a line larger."""
    bare = planned(gradient(mlp(16, [12, 20, 9, 5])))
    small = place_scratch(bare, GENERIC, lambda kernel: 64)
    assert small.arena_bytes <= bare.arena_bytes + 64
    assert scratch_tensors(small) and check_plan(small) == ()
    none = place_scratch(bare, Target("three", threads=3), lambda kernel: 0)
    assert none == replace(bare, threads=3)


def test_plans_with_scratch_read_back() -> None:
    for plan in plans():
        assert difference(plan, parse_plan(print_plan(plan))) is None


@pytest.mark.parametrize("number", range(4))
def test_poisoned_scratch_harms_nothing(number: int) -> None:
    """The reference executor overwrites scratch with NaN before every launch."""
    function = (
        gradient(mlp(16, [12, 20, 9, 5])),
        gradient(transformer(2, 2, 8, 16, 2, 20)),
        gradient(lstm(5, 3, 4, 6)),
        gradient(row_model(40, 24)),
    )[number]
    bare = planned(function)
    given = arguments(function, number)
    plain = execute_plan(bare, given)
    for found, expected in zip(execute_plan(ready(bare, 2), given, True), plain, strict=True):
        assert np.array_equal(found, expected)


def test_code_takes_no_more_threads_than_there_is_scratch_for() -> None:
    plan = ready(planned(gradient(mlp(64, [64, 128, 64, 10]))), 2)
    function = compile_plan(plan, threads=64, cache=False)
    assert function.threads == 2 and function.plan is plan
    assert f"icmp ugt i64 %threads, {plan.threads}\n" in function.llvm_text


def test_code_is_not_made_without_scratch() -> None:
    bare = planned(gradient(mlp(16, [12, 20, 9, 5])))
    with pytest.raises(PlanError, match="has no scratch"):
        driver.generate(bare, select())
    place = scratch_tensors(ready(bare))[0]
    small = cut(ready(bare), place, 1)
    with pytest.raises(PlanError, match="bytes, not"):
        driver.generate(small, select())


# ---- faults


Fault = Callable[[Plan, random.Random], Plan | None]


def on_live(plan: Plan, pick: random.Random) -> Plan | None:
    """Scratch lies on a tensor that is read later and was written before."""
    _, times = storage(plan)
    scratch = scratch_tensors(plan)
    read = {
        a.tensor
        for item in numbered(plan.steps)
        for a, b in zip(
            item.launch.arguments,
            plan.kernels[item.launch.kernel].bound,
            strict=True,
        )
        if b.access == "read"
    }
    found = [
        (mine, other)
        for mine in scratch
        for other, time in times.items()
        if other in read
        and other not in scratch
        and time.first < times[mine].first < time.last
        and (plan.tensors[other].offset or 0) + plan.tensors[mine].nbytes <= plan.arena_bytes
    ]
    if not found:
        return None
    mine, other = pick.choice(found)
    return moved(plan, mine, plan.tensors[other].offset)


def on_operand(plan: Plan, pick: random.Random) -> Plan | None:
    """Scratch lies on an operand or a result of its own launch."""
    found = [
        (item.launch.scratch, a.tensor)
        for item in numbered(plan.steps)
        for a in item.launch.arguments
        if item.launch.scratch is not None and plan.tensors[a.tensor].space == "arena"
    ]
    mine, other = pick.choice(found)
    offset = plan.tensors[other].offset or 0
    return moved(plan, mine, offset)


def missing(plan: Plan, pick: random.Random) -> Plan | None:
    """A launch has none."""
    found = [i.number for i in numbered(plan.steps) if i.launch.scratch is not None]
    victim = pick.choice(found)
    return with_launches(plan, lambda n, s: replace(s, scratch=None) if n == victim else s)


def too_small(plan: Plan, pick: random.Random) -> Plan | None:
    """A cache line is missing."""
    number = pick.choice(scratch_tensors(plan))
    return cut(plan, number, plan.tensors[number].size - 16)


def one_thread(plan: Plan, pick: random.Random) -> Plan | None:
    """Scratch is for one thread where two may run."""
    each = {
        i.launch.scratch: nest.scratch_bytes(plan.kernels[i.launch.kernel], host()) // 4
        for i in numbered(plan.steps)
        if i.launch.scratch is not None
    }
    found = [n for n, words in each.items() if n is not None and plan.tensors[n].size > words]
    if not found:
        return None
    number = pick.choice(found)
    return cut(plan, number, each[number])


def outside(plan: Plan, pick: random.Random) -> Plan | None:
    """Scratch lies outside the arena, nowhere, or off a cache line."""
    number = pick.choice(scratch_tensors(plan))
    offset = plan.tensors[number].offset or 0
    return moved(plan, number, pick.choice([None, -64, plan.arena_bytes, offset + 4]))


def in_a_port(plan: Plan, pick: random.Random) -> Plan | None:
    """Scratch is an array of the caller's."""
    port = pick.choice([p for p in plan.ports if plan.tensors[p.tensor].nbytes >= 64])
    victim = pick.choice([i.number for i in numbered(plan.steps) if i.launch.scratch is not None])
    return with_launches(plan, lambda n, s: replace(s, scratch=port.tensor) if n == victim else s)


def read_by_a_launch(plan: Plan, pick: random.Random) -> Plan | None:
    """A launch reads what another one left in its scratch."""
    scratch = pick.choice(scratch_tensors(plan))
    room = plan.tensors[scratch]
    readable = Tensor(room.name, (room.size,), DType.F32, "arena", None, room.offset)
    plan = exchanged(plan, scratch, readable)
    found = []
    for item in numbered(plan.steps):
        buffers = plan.kernels[item.launch.kernel].buffers
        named = [b for b in buffers if not b.is_private]
        for n, buffer in enumerate(named):
            if buffer.access == "read" and buffer.size <= room.size and buffer.dtype is DType.F32:
                found.append((item.number, n))
    if not found:
        return None
    victim, n = pick.choice(found)

    def change(number: int, launch: Launch) -> Launch:
        if number != victim:
            return launch
        argument = replace(launch.arguments[n], tensor=scratch, offset=0, strides=(), parity=())
        return replace(
            launch, arguments=(*launch.arguments[:n], argument, *launch.arguments[n + 1 :])
        )

    return with_launches(plan, change)


FAULTS: tuple[Fault, ...] = (
    on_live,
    on_operand,
    missing,
    too_small,
    one_thread,
    outside,
    in_a_port,
    read_by_a_launch,
)


def test_the_plans_themselves_are_fine() -> None:
    for plan in plans():
        assert [str(finding) for finding in check_plan(plan, SCRATCH)] == []


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
        assert check_plan(broken, SCRATCH), f"{fault.__name__} number {seed}: {plan.name}"
    assert made >= 9
