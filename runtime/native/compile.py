"""From a Function to a loaded native function: passes, Plan, code, cache.

Two ways in. ``compile_function`` starts from a Function. ``compile_cached`` first asks the object
cache under a key made of everything the Function will be made from, so that a warm start runs no
pass at all, and loads none.

Non-goals: deciding which Function (``runtime.model``), calling it (``runtime.call``).
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypedDict

from gradc.codegen.backend import MODULES, Loaded, is_target
from gradc.ir.diagnostics.diagnostic import (
    Diagnostic,
    DiagnosticError,
    did_you_mean,
    error,
    warning,
)
from gradc.ir.diagnostics.source import Sources
from gradc.ir.plan.plan import Plan
from gradc.ir.tensor.core import Function
from gradc.runtime.native.arrays import expect, listed
from gradc.runtime.native.load import (
    backend_of,
    compile_plan,
    load_native,
    native_key,
    scratch_of,
)
from gradc.runtime.native.room import machine_bytes

if TYPE_CHECKING:
    from gradc.passes.pipeline import Derivative
    from gradc.passes.pipeline import Options as PipelineOptions


@dataclass(frozen=True, slots=True)
class Options:
    """How to compile. ``budget`` is in bytes of peak memory; None means no limit."""

    threads: int | None = None
    budget: int | None = None
    fast_math: bool = False
    use_cache: bool = True
    check_inputs: bool = False
    target: str = "cpu"

    @property
    def thread_count(self) -> int:
        """Threads to use; by default one per core this process may run on, at most eight."""
        return self.threads if self.threads is not None else min(8, usable_cores())

    @property
    def key(self) -> str:
        """What of the options changes the code."""
        facts = f"budget={self.budget} fast_math={self.fast_math} threads={self.thread_count}"
        return facts if self.target == "cpu" else f"{facts} target={self.target}"


_HUGE = Fraction(10**300)
_UNITS = {"": 1, "B": 1}
_UNITS.update({f"{p}B": 1000 ** (i + 1) for i, p in enumerate("KMGT")})
_UNITS.update({f"{p}iB": 1024 ** (i + 1) for i, p in enumerate("KMGT")})


def parse_bytes(text: int | str) -> int:
    """A number of bytes: an integer, or text such as ``64MiB``, ``1.5GB``, ``4096``.

    Raises:
        DiagnosticError: GC0601 unless it is a positive amount.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        number = Fraction(text)
    else:
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", str(text))
        units = {name.lower(): size for name, size in _UNITS.items()}
        if match is None or match[2].lower() not in units:
            help = "write a number of bytes with an optional unit, such as 64MiB, 1.5GB or 4096"
            raise DiagnosticError(
                [error("GC0601", f"`{text}` is not a memory size", None, help=help)]
            )
        number = Fraction(match[1]) * units[match[2].lower()]
    if not 1 <= number < 2**63:
        is_short = isinstance(text, str) and len(text) <= 40
        written = text if is_short else f"{float(max(-_HUGE, min(_HUGE, number))):g}"
        message = f"a memory budget must be between 1 byte and 2^63, not {written}"
        raise DiagnosticError([error("GC0601", message, None)])
    return int(number)


class FurtherKeywords(TypedDict, total=False):
    """Options of everything that compiles; ``compile_options`` says what they mean."""

    fast_math: bool
    use_cache: bool
    check_inputs: bool


class CompileKeywords(FurtherKeywords, total=False):
    """All keywords of ``compile_options``, for type checkers."""

    budget: int | str | None
    threads: int | None
    target: str


def compile_options(
    *,
    budget: int | str | None = None,
    threads: int | None = None,
    target: str = "cpu",
    fast_math: bool = False,
    use_cache: bool = True,
    check_inputs: bool = False,
) -> Options:
    """Options from what users write.

    ``check_inputs`` looks at the data of every call: at least one row, every id in range
    (``runtime.ids``).

    Raises:
        DiagnosticError: GC0601 for a budget, GC0563 for a target or number of threads, that cannot
            be.
    """
    if not is_target(target):
        known = listed([f"`{name}`" for name in MODULES], most=20)
        message = f"there is no target `{target}`; this build compiles for {known}"
        raise DiagnosticError([error("GC0563", message, None)])
    if threads is not None and not (
        isinstance(threads, int) and not isinstance(threads, bool) and 1 <= threads <= 1024
    ):
        message = f"threads must be a whole number from 1 to 1024, not {threads!r}"
        raise DiagnosticError([error("GC0563", message, None)])
    switches = {"fast_math": fast_math, "use_cache": use_cache, "check_inputs": check_inputs}
    for name, value in switches.items():
        expect(name, value, bool, "True or False")
    size = None if budget is None else parse_bytes(budget)
    return Options(threads, size, fast_math, use_cache, check_inputs, target)


def options_of(call: Callable[..., Any], given: Mapping[str, Any]) -> Options:
    """``compile_options`` of the keywords that ``call`` hands on.

    Raises:
        TypeError: for a keyword that is none of them, in terms of ``call``.
    """
    refuse_unknown(call, given, call, compile_options)
    return compile_options(**given)


def refuse_unknown(
    call: Callable[..., Any], given: Iterable[str], *takers: Callable[..., Any]
) -> None:
    """Raises TypeError for a keyword that none of ``takers`` has; what they have are the options of
    ``call``.
    """
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = [p for taker in takers for p in inspect.signature(taker).parameters.values()]
    known = [p.name for p in found if p.kind in kinds and p.name not in _NO_OPTIONS]
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known) or f"its options are {listed(known, most=20)}"
            raise TypeError(f"`{call.__name__}` has no option `{name}`; {hint}")


# What a call is about, not how it is done.
_NO_OPTIONS = ("self", "model", "function")


def machine_warnings(budget: int | None) -> list[Diagnostic]:
    """A warning if ``budget`` is more than this machine has: fine for a plan, not for a run."""
    limit = machine_bytes()
    if budget is None or limit is None or budget <= limit:
        return []
    message = f"a budget of {budget} bytes is more than this machine has ({limit} bytes)"
    help = "leave the budget out where memory is no concern"
    return [warning("GC0603", message, None, help=help)]


def refuse_beyond_machine(budget: int | None) -> None:
    """Raises DiagnosticError GC0603 for a budget that this machine, which is to run the code,
    cannot give.
    """
    found = machine_warnings(budget)
    if found:
        raise DiagnosticError([replace(found[0], severity="error")])


@contextmanager
def quoting(sources: Sources) -> Iterator[None]:
    """Lets errors of the passes, which know spans but no texts, quote the program's lines."""
    try:
        yield
    except DiagnosticError as problem:
        if not problem.sources.by_name:
            problem.sources = sources
        raise


def usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def plan_of(
    function: Function,
    derivative: Derivative | None,
    options: Options,
    gradient: Derivative | None = None,
) -> Plan:
    """The Plan of what ``derivative`` makes of ``function`` (of ``function`` itself for None), for
    this machine.

    ``gradient`` is the derivative alone where ``derivative`` is a training step.

    Raises:
        BudgetError: if the budget cannot be kept.
    """
    from gradc.passes.budget import run_within

    asked = pipeline_options(derivative, options, gradient=gradient)
    return run_within(function, asked, options.budget).plan


def pipeline_options(
    derivative: Derivative | None, options: Options, isa: str | None = None, **more: Any
) -> PipelineOptions:
    """The pipeline's options, for this machine; unless asked for more, checks of the IR run where
    the stage changes.
    """
    from gradc.passes.pipeline import Options as PipelineOptions

    machine = backend_of(options.target).target(options.thread_count, isa)
    scratch = scratch_of(options.target, machine)
    chosen = {"verify": 1, "target": machine, "scratch": scratch, **more}
    return PipelineOptions(derivative, fast_math=options.fast_math, **chosen)


def compile_function(function: Function, derivative: Derivative | None, options: Options) -> Loaded:
    """Compiles what ``derivative`` makes of ``function`` and loads it."""
    refuse_beyond_machine(options.budget)
    plan = plan_of(function, derivative, options)
    return compile_plan(
        plan, threads=options.thread_count, cache=options.use_cache, target=options.target
    )


def compile_cached(
    parts: tuple[str, ...],
    make: Callable[[], Function],
    derivative: Derivative | None,
    options: Options,
    gradient: Derivative | None = None,
) -> Loaded:
    """The function that ``parts`` determine: from the cache, or made, compiled and stored there."""
    refuse_beyond_machine(options.budget)
    target, cache = options.target, options.use_cache
    key = native_key(*parts, options.key, cache=cache, target=target)
    threads = options.thread_count
    found = load_native(key, threads=threads, cache=cache, target=target)
    if found is not None:
        return found
    plan = plan_of(make(), derivative, options, gradient)
    return compile_plan(plan, threads=threads, cache=cache, key=key, target=target)
