"""Where the time of a call goes: every launch by the clock, beside what the machine allows.

    found = net.profile(params, x=x, y=y)
    print(found.report())
    found.share, found.lost, found.launches

A launch cannot be faster than its flops at the measured peak, nor than its bytes at the measured
bandwidth of what can hold them (``runtime.native.limits``): the larger of the two is its limit, the
launch's share is that limit by its time. What is lost beyond the limit has a cause:

* ``launch``: starting the threads and waiting for them, and the walk from launch to launch;
* ``imbalance``: threads that were done while the busiest was not;
* ``one thread``: the launch was not cut for all threads there are;
* ``arithmetic``, ``bandwidth``: the rest, by what limits the launch.

What disturbs a machine only makes it slower, and at different launches in every round. So the time
of each is a mean over the faster quarter of its own rounds, and ``seconds``, their sum, is a call
that is not disturbed. ``call`` is what calls took by the clock, ``step`` what they take untimed.

Invariants: limits and losses of the launches, and what lies between them, add up to ``seconds``,
exactly; the timed program computes the bits of the one that is not timed, on copies of what
it would change.
Non-goals: pictures and pages (``profile_pictures``, ``profile_html``).
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from gradc.codegen.backend import Backend, Loaded
from gradc.codegen.measured import CallTime, Clocked, LaunchTime, Limits
from gradc.ir.loop.kernel import Kernel
from gradc.ir.plan.plan import Plan
from gradc.ir.tensor.core import Function
from gradc.passes.inspect.report import user_line
from gradc.runtime.files.data import write_text
from gradc.runtime.model.call import Arrays, Entry
from gradc.runtime.model.compiled import Derive
from gradc.runtime.native.arrays import Array
from gradc.runtime.native.compile import Options, plan_of, refuse_beyond_machine
from gradc.runtime.native.limits import limits
from gradc.runtime.native.load import backend_of, cache_of, compile_plan
from gradc.runtime.reports.profile_figures import Figures, ProfiledLaunch
from gradc.runtime.reports.profile_html import profile_page
from gradc.runtime.reports.profile_pictures import both_svg

LEAST_ROUNDS, MOST_ROUNDS = 6, 1000
_BLOCK_SECONDS = 1e-3
Progress = Callable[[float], None]
_Item = TypeVar("_Item")


class Profile(Figures):
    """All launches of one call, what they took and what they lost."""

    __slots__ = ()

    def to_html(self, path: str) -> None:
        """Writes the page with both pictures. Raises DiagnosticError where that cannot be done."""
        write_text(Path(path), profile_page(self))

    def to_svg(self) -> str:
        """The roofline, and below it the time by layer."""
        return both_svg(self)


# --- measuring


def profile_program(
    name: str,
    what: str,
    program: tuple[Function, Derive, Derive | None],
    options: Options,
    holders: Mapping[str, Arrays],
    *,
    wanted: float = 1.0,
    progress: Progress | None = None,
    remark: Callable[[str], None] | None = None,
) -> Profile:
    """Compiles ``program`` (as for ``plan_of``) and runs it for about ``wanted`` seconds on the
    arrays of ``holders``, which stay as they are. ``progress`` is told the part that is done,
    ``remark`` what else takes time.

    Raises:
        DiagnosticError: for names and shapes that do not fit, and as compiling does.
    """
    refuse_beyond_machine(options.budget)
    source, derive, gradient = program
    plan = plan_of(source, derive, options, gradient)
    native = compile_plan(
        plan, threads=options.thread_count, cache=options.use_cache, target=options.target
    )
    assert native.plan is not None, "it was made from a Plan"
    given = Entry(native).arrays({holder: dict(found) for holder, found in holders.items()})
    arrays = [
        array.copy() if port.direction == "inout" else array
        for port, array in zip(native.signature.ports, given, strict=True)
    ]
    chosen = backend_of(options.target)
    timed = chosen.clocked(native.plan, native.threads, cache_of(options.use_cache))
    machine, alone = (
        limits(threads, keep=options.use_cache, report=remark, target=options.target)
        for threads in (native.threads, 1)
    )
    steps, calls = _rounds(native, timed, arrays, wanted, progress)
    found = [[call.launches[n] for call in calls] for n in range(len(calls[0].launches))]
    rows = [
        _launch(
            n, native.plan, chosen, _mean(_fast(each, lambda item: item.seconds)), (machine, alone)
        )
        for n, each in enumerate(found)
    ]
    rests = [call.seconds - sum(item.seconds for item in call.launches) for call in calls]
    between = _fast_mean([max(0.0, rest) for rest in rests])
    whole = between + sum(row.seconds for row in rows)
    return Profile(
        name,
        what,
        tuple(rows),
        whole,
        between,
        _fast_mean([call.seconds for call in calls]),
        _fast_mean(steps),
        len(calls),
        statistics.median(call.seconds for call in calls) / max(whole, 1e-12),
        native.threads,
        machine,
    )


def least_seconds(plan: Plan, threads: int, target: str = "cpu") -> float:
    """What a call of ``plan`` takes at least with ``threads`` threads of this machine: the limits
    of its launches. Nothing is run.
    """
    machine = limits(threads, target=target)
    chosen = backend_of(target)
    total = 0.0
    for launch, trips in plan.walk():
        kernel = plan.kernels[launch.kernel]
        roofs = (machine.peak(chosen.precision(kernel)), machine.bandwidth_for(kernel.bytes))
        total += _limit(kernel, math.prod(trips), *roofs)[0]
    return total


def _rounds(
    native: Loaded,
    timed: Clocked,
    arrays: Sequence[Array],
    wanted: float,
    progress: Progress | None,
) -> tuple[list[float], list[CallTime]]:
    """The program and its timed twin in turns: seconds of a call of the one, times of the other."""
    native.call(arrays)
    once = max(timed.call(arrays).seconds, 1e-9)
    count = max(1, min(10_000, round(_BLOCK_SECONDS / once)))
    steps: list[float] = []
    calls: list[CallTime] = []
    begun = time.perf_counter()
    while len(calls) < MOST_ROUNDS:
        gone = time.perf_counter() - begun
        if progress is not None:
            progress(min(1.0, max(gone / max(wanted, 1e-9), len(calls) / MOST_ROUNDS)))
        if len(calls) >= LEAST_ROUNDS and gone >= wanted:
            break
        started = time.perf_counter()
        for _ in range(count):
            native.call(arrays)
        steps.append((time.perf_counter() - started) / count)
        calls.append(timed.call(arrays, count))
    return steps, calls


def _fast(found: Sequence[_Item], key: Callable[[_Item], float]) -> list[_Item]:
    """The faster quarter."""
    return sorted(found, key=key)[: (len(found) + 3) // 4]


def _fast_mean(found: Sequence[float]) -> float:
    return statistics.fmean(_fast(found, float))


def _mean(found: Sequence[LaunchTime]) -> LaunchTime:
    first = found[0]
    return LaunchTime(
        first.launch,
        first.runs,
        first.parts,
        statistics.fmean(item.seconds for item in found),
        statistics.fmean(item.busy for item in found),
        statistics.fmean(item.busiest for item in found),
    )


def _launch(
    number: int, plan: Plan, chosen: Backend, found: LaunchTime, machine: tuple[Limits, Limits]
) -> ProfiledLaunch:
    kernel = plan.kernels[found.launch.kernel]
    precision = chosen.precision(kernel)
    flops, nbytes = kernel.flops * found.runs, kernel.bytes * found.runs
    together, alone = machine
    roofs = (together.peak(precision), together.bandwidth_for(kernel.bytes))
    limit, bound = _limit(kernel, found.runs, *roofs)
    fewer = limit
    if found.parts < together.threads:
        # Some of the threads have at most as many times what one has.
        own = (alone.peak(precision), alone.bandwidth_for(kernel.bytes))
        some = [min(roof, one * found.parts) for roof, one in zip(roofs, own, strict=True)]
        fewer, _ = _limit(kernel, found.runs, *some)
    spans = dict.fromkeys(user_line(span) for span in kernel.spans)
    return ProfiledLaunch(
        number,
        kernel.name,
        found.runs,
        found.seconds,
        flops,
        nbytes,
        precision,
        found.parts,
        found.busy,
        found.busiest,
        limit,
        bound,
        causes(found, limit, fewer, bound),
        found.launch.scope,
        user_line(found.launch.span),
        tuple(spans),
    )


def _limit(kernel: Kernel, runs: int, flops: float, nbytes: float) -> tuple[float, str]:
    """The least time of a kernel at so many flops and bytes a second, and which of them sets it."""
    arithmetic, bandwidth = kernel.flops / flops, kernel.bytes / nbytes
    bound = "arithmetic" if arithmetic > bandwidth else "bandwidth"
    return runs * max(arithmetic, bandwidth), bound


def causes(found: LaunchTime, limit: float, fewer: float, bound: str) -> dict[str, float]:
    """What a launch lost beyond ``limit``, by cause: each as far as it goes, the rest to what
    bounds the launch. ``fewer`` is the limit of as many threads as it was cut for.
    """
    left = max(0.0, found.seconds - limit)
    lost: dict[str, float] = {}
    known = (
        ("launch", found.seconds - found.busiest),
        ("imbalance", found.busiest - found.busy / found.parts),
        ("one thread", fewer - limit),
    )
    for cause, amount in known:
        lost[cause] = min(left, max(0.0, amount))
        left -= lost[cause]
    lost[bound] = left
    return lost
