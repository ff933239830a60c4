"""Programs that keep time on a device: the same launches one by one, a mark in the stream before
and after each; and what a device can do at most.

Non-goals: what the times mean (``runtime.reports.profile``).
"""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gradc.codegen.cuda import program as programs
from gradc.codegen.cuda.program import Program
from gradc.codegen.cuda.runner.device import Device, Event
from gradc.codegen.cuda.runner.loaded import CudaProgram
from gradc.codegen.cuda.toolchain.build import Built
from gradc.codegen.measured import CallTime, LaunchTime, Limits
from gradc.ir.diagnostics.diagnostic import DiagnosticError, error
from gradc.ir.loop.kernel import Exchange
from gradc.ir.plan import plan as plans
from gradc.ir.plan.plan import Plan

# Multiply-adds of a multiprocessor in a cycle, f32 and f64 (CUDA C++ Programming Guide, arithmetic
# instructions), by compute capability.
_LANES = {(8, 0): (64, 32), (9, 0): (128, 64), (10, 0): (128, 64)}
_COPIED = 1 << 28  # bytes
_ROUNDS = 5
_PART = re.compile(r"(.+)_part(\d+)$")


@dataclass(slots=True)
class _Site:
    """A launch of the Plan, and what its kernels took in a call."""

    launch: plans.Launch
    runs: int = 0
    seconds: float = 0.0


class ClockedProgram:
    """A Program whose launches are timed, each with all of its kernels."""

    threads = 1

    def __init__(self, built: Built, plan: Plan, device: Device) -> None:
        self._program = CudaProgram(built, device)
        self._device = device
        self._sites: dict[int, _Site] = {}  # by the identity of the Program's launch
        self._order: list[_Site] = []
        self._match(plan, plan.steps, built.program, built.program.steps)

    def _match(
        self,
        plan: Plan,
        steps: Sequence[plans.Step],
        program: Program,
        printed: Sequence[programs.Step],
    ) -> None:
        """Finds the kernels of every launch: one, or parts that are numbered."""
        rest: list[programs.Step] = [
            step for step in printed if not isinstance(step, programs.Exchange)
        ]
        for step in steps:
            if isinstance(step, plans.Repeat):
                other = rest.pop(0) if rest else None
                if not isinstance(other, programs.Repeat):
                    raise _unmatched(plan.name)
                self._match(plan, step.body, program, other.body)
                continue
            site = _Site(step)
            self._order.append(site)
            body = plan.kernels[step.kernel].body
            if body and all(isinstance(s, Exchange) for s in body):
                continue  # it has no text
            for launch in _parts(program, rest):
                self._sites[id(launch)] = site
        if rest:
            raise _unmatched(plan.name)

    def call(self, arrays: Sequence[Any], times: int = 1) -> CallTime:
        """Runs the program ``times`` times on arrays that fit its ports; times are per call."""
        for site in self._order:
            site.runs, site.seconds = 0, 0.0
        started = time.perf_counter()
        marks: list[tuple[_Site, Event, Event]] = []
        for _ in range(times):
            self._program.timed(arrays, lambda launch: self._marked(launch, marks))
            self._device.wait()
            for site, before, after in marks:
                site.seconds += after.seconds_since(before)
            marks.clear()
        seconds = (time.perf_counter() - started) / times
        found = [
            LaunchTime(s.launch, s.runs // times, 1, each := s.seconds / times, each, each)
            for s in self._order
        ]
        return CallTime(max(seconds, sum(t.seconds for t in found)), tuple(found))

    def _marked(
        self, launch: programs.Launch, marks: list[tuple[_Site, Event, Event]]
    ) -> tuple[Event, Event]:
        site = self._sites[id(launch)]
        before, after = self._device.event(), self._device.event()
        marks.append((site, before, after))
        site.runs += 1
        return before, after


def _parts(program: Program, rest: list[programs.Step]) -> Iterator[programs.Launch]:
    """The next launch, and those of the following parts of the same kernel; taken off ``rest``."""
    if not rest or not isinstance(rest[0], programs.Launch):
        return
    first = rest.pop(0)
    assert isinstance(first, programs.Launch)
    yield first
    named = _PART.match(program.texts[first.text].name)
    while named and rest and isinstance(rest[0], programs.Launch):
        following = _PART.match(program.texts[rest[0].text].name)
        if not following or following[1] != named[1] or int(following[2]) != int(named[2]) + 1:
            return
        named = following
        launch = rest.pop(0)
        assert isinstance(launch, programs.Launch)
        yield launch


def _unmatched(name: str) -> DiagnosticError:
    message = f"the launches of `{name}` cannot be told apart on a device"
    return DiagnosticError([error("GC0563", message, None, help="profile it with --target cpu")])


def measured_limits(device: Device) -> Limits:
    """Bytes a second of copies within a device, measured; flops from its own clock and numbers."""
    lanes = _LANES.get(device.capability, _LANES[9, 0])
    cycles = device.facts["clock"] * device.processors.count
    flops = {"f32": 2 * lanes[0] * cycles, "f64": 2 * lanes[1] * cycles}
    size = min(_COPIED, int(device.facts["memory"]) // 8)
    one, other = device.take(size), device.take(size)
    taken = []
    for _ in range(_ROUNDS):
        before, after = device.event(), device.event()
        before.set()
        device.driver.call(
            "cuMemcpyDtoDAsync",
            ctypes.c_uint64(other.address),
            ctypes.c_uint64(one.address),
            ctypes.c_size_t(size),
            device.stream,
        )
        after.set()
        after.wait()
        taken.append(after.seconds_since(before))
    best = min(taken)
    middle = sorted(taken)[_ROUNDS // 2]
    date = time.strftime("%Y-%m-%d %H:%M")
    curve = ((2 * size, 2 * size / best),)
    return Limits(device.about(), date, 1, flops, curve, middle / best)
