"""The way from a checked program to a complete Plan: one table of steps, each with its reason.

Every step has a stage it starts from and one it leads to; steps and ordering constraints are
checked when the table is built, so a wrong order cannot be imported. ``run_pipeline`` runs the
table and keeps what every step made, how long it took and whether it changed anything (a pass that
changed nothing returns the object it was given).

Stages: ``tensor`` (value semantics, any op), ``loop`` (a Plan without places), ``plan`` (complete).

``Options.verify``: 0 nothing; 1 where the stage changes; 2 after every step (the default); 3 also
parses the text of every tensor-stage program back and compares, and reorders independent ops from a
seed before every step, which exposes passes that depend on the order by accident.
"""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeAlias

from gradc.ir.loop.equal import difference
from gradc.ir.loop.verify import verify_kernel
from gradc.ir.ops.verify import verify_function
from gradc.ir.plan.plan import Plan
from gradc.ir.plan.text import parse_plan, print_plan
from gradc.ir.target.target import GENERIC, Target
from gradc.ir.tensor.core import Function
from gradc.ir.tensor.text import parse_function, print_function
from gradc.passes.fuse.fuse import fuse
from gradc.passes.fuse.turn import turn
from gradc.passes.hoist.invariants import hoist
from gradc.passes.lower.panels import lay_out
from gradc.passes.lower.plan import to_loops
from gradc.passes.lower.strips import strips
from gradc.passes.place.place import arena_lower_bound, place
from gradc.passes.place.scratch import Scratch, place_scratch
from gradc.passes.recompute.reach import reach
from gradc.passes.recompute.rematerialise import NOTHING, Policy, rematerialise
from gradc.passes.recompute.tile import tile
from gradc.passes.simplify.cse import cse
from gradc.passes.simplify.dce import dce
from gradc.passes.simplify.factors import take_out
from gradc.passes.simplify.flatten import flatten
from gradc.passes.simplify.late_division import divide_late
from gradc.passes.simplify.running_sums import running_sums
from gradc.passes.simplify.shuffle import shuffle
from gradc.passes.simplify.simplify import simplify

Stage: TypeAlias = Literal["tensor", "loop", "plan"]
Artifact: TypeAlias = Function | Plan
Derivative: TypeAlias = Callable[[Function], Function]
# The arena with panels (``lay_out``) may need so many times what it needs without.
PANELS = 1.125


@dataclass(frozen=True, slots=True)
class Options:
    """What a compilation asks of the pipeline.

    ``derivative`` turns the model into the function to be compiled (``value_and_grad`` and the
    like, a training step); None compiles the model itself. ``policy`` says what the reverse sweep
    recomputes; ``gradient`` is the derivative without what follows it, by which policies are
    estimated where ``derivative`` is a training step. ``target`` is what schedules are for, and
    ``scratch`` says what its kernels need; without it the Plan has none yet. ``dump_after`` names
    steps, or ``all``; files go to ``dump_to``. ``skip`` leaves out steps that keep the stage.
    ``stop_after`` ends early. ``limit`` is the peak above which memory is saved at the cost of
    time where a step of the pipeline has the choice.
    """

    derivative: Derivative | None = None
    gradient: Derivative | None = None
    policy: Policy = NOTHING
    fast_math: bool = False
    target: Target = GENERIC
    scratch: Scratch | None = None
    verify: int = 2
    stop_after: str | None = None
    limit: int | None = None
    skip: tuple[str, ...] = ()
    dump_after: tuple[str, ...] = ()
    dump_to: Path | None = None


@dataclass(frozen=True, slots=True)
class PipelineStep:
    """One row of the table. ``run`` gets the artifact, the options, and a counter for rule hits."""

    name: str
    start: Stage
    end: Stage
    run: Callable[[Artifact, Options, Counter[str]], Artifact]
    reason: str


@dataclass(frozen=True, slots=True)
class Constraint:
    """``first`` must come before ``second``."""

    first: str
    second: str
    reason: str


@dataclass(frozen=True, slots=True)
class Record:
    """What one step did."""

    step: str
    seconds: float
    is_changed: bool
    artifact: Artifact
    hits: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Run:
    """The outcome of a pipeline: the last artifact and a record per step."""

    source: Function
    records: tuple[Record, ...]

    @property
    def result(self) -> Artifact:
        """What the last step made."""
        return self.records[-1].artifact if self.records else self.source

    @property
    def plan(self) -> Plan:
        """The complete Plan. Raises PipelineError if the pipeline stopped before it."""
        if not isinstance(self.result, Plan):
            raise PipelineError(f"the pipeline stopped after `{self.records[-1].step}`")
        return self.result

    def after(self, step: str) -> Artifact:
        """What ``step`` made. Raises KeyError if it did not run."""
        for record in self.records:
            if record.step == step:
                return record.artifact
        raise KeyError(step)

    def timing(self) -> str:
        """Milliseconds and change per step, as a table in plain text."""
        return "\n".join(
            f"{r.seconds * 1e3:9.2f} ms  {r.step}{'' if r.is_changed else ' (unchanged)'}"
            for r in self.records
        )


class PipelineError(Exception):
    """The table or the options make no sense; the message says what."""


def _on_function(
    change: Callable[[Function, Options, Counter[str]], Artifact],
) -> Callable[[Artifact, Options, Counter[str]], Artifact]:
    def run(artifact: Artifact, options: Options, hits: Counter[str]) -> Artifact:
        assert isinstance(artifact, Function), "tensor-stage steps get functions"
        return change(artifact, options, hits)

    return run


def _on_plan(
    change: Callable[[Plan, Options], Plan],
) -> Callable[[Artifact, Options, Counter[str]], Artifact]:
    def run(artifact: Artifact, options: Options, _hits: Counter[str]) -> Artifact:
        assert isinstance(artifact, Plan), "loop-stage steps get plans"
        return change(artifact, options)

    return run


def _lay_out(plan: Plan, options: Options) -> Plan:
    """Panels are room beside the factor: loops that exist to save memory have little else, and
    ``limit`` may have none for them.
    """
    made = lay_out(plan, options.target)
    if made is plan or arena_lower_bound(made) > PANELS * arena_lower_bound(plan):
        return plan
    if options.limit is None:
        return made
    # What packs for itself has scratch instead, and may need more.
    peak, other = (_scratch(_place(p, options), options).peak_bytes for p in (made, plan))
    return made if peak <= max(options.limit, other) else plan


def _place(plan: Plan, options: Options) -> Plan:
    """Exchanges of ranks go while they compute, unless ``limit`` has no room for that."""
    placed = place(plan)
    is_held = options.limit is None or not any(True for _ in plan.exchanges())
    if is_held or _scratch(placed, options).peak_bytes <= (options.limit or 0):
        return placed
    return place(plan, overlaps=False)


def _scratch(plan: Plan, options: Options) -> Plan:
    if options.scratch is None:
        return plan
    return place_scratch(plan, options.target, options.scratch)


def _tensor(name: str, change: Callable[[Function], Function], reason: str) -> PipelineStep:
    return PipelineStep(name, "tensor", "tensor", _on_function(lambda f, _o, _h: change(f)), reason)


def _simplify(function: Function, options: Options, hits: Counter[str]) -> Function:
    return simplify(function, fast_math=options.fast_math, hits=hits)


def _differentiate(function: Function, options: Options, _hits: Counter[str]) -> Function:
    return function if options.derivative is None else options.derivative(function)


STEPS = (
    PipelineStep("simplify-source", "tensor", "tensor", _on_function(_simplify),
         "a smaller program has a smaller derivative"),
    PipelineStep("tile", "tensor", "tensor", _on_function(lambda f, o, _h: tile(f, o.target)),
         "attention's score matrix exists one tile at a time; the checkpoints it makes are "
         "obeyed below"),
    _tensor("divide-late", divide_late,
            "weights are divided by their sum after the product, where there are fewer elements"),
    PipelineStep("rematerialise", "tensor", "tensor",
         _on_function(lambda f, o, _h: rematerialise(f, o.policy)),
         "checkpoints are recomputed by the reverse sweep, so they must be there before it"),
    PipelineStep("differentiate", "tensor", "tensor", _on_function(_differentiate),
         "rules of single ops see the program as the user wrote it"),
    PipelineStep("simplify", "tensor", "tensor", _on_function(_simplify),
         "derivatives are full of ones, negations and views"),
    _tensor("cse", cse, "the reverse sweep computes again what the forward sweep has"),
    _tensor("hoist", hoist, "what the sweeps of a loop compute without its carries leaves it"),
    _tensor("flatten", lambda f: flatten(f, is_final=True),
            "checkpoint and custom have served their purpose and hide ops"),
    _tensor("running-sums", running_sums, "long chains of additions through loops would stagnate"),
    _tensor("take-out", take_out,
            "what a sum does not run over is applied to the sum; the terms left are summed once"),
    PipelineStep("simplify-again", "tensor", "tensor", _on_function(_simplify),
         "merged values and hoisted products meet new neighbours"),
    _tensor("cse-again", cse, "what became equal by simplification"),
    _tensor("dce", dce, "nothing dead is planned, fused or placed"),
    _tensor("turn", turn,
         "rules know what a product reads; what is fused with it must lie like it"),
    PipelineStep("reach", "tensor", "tensor", _on_function(lambda f, o, _h: reach(f, o.target)),
         "what of a product counts is said of its axes, which do not move any more"),
    PipelineStep("fuse", "tensor", "tensor", _on_function(lambda f, o, _h: fuse(f, o.target)),
         "one kernel per group: what is in a kernel is not in memory"),
    PipelineStep("to-loops", "tensor", "loop", _on_function(lambda f, o, _h: to_loops(f, o.target)),
         "backends know loops and buffers only"),
    PipelineStep("strips", "loop", "loop", _on_plan(lambda p, o: strips(p, o.target)),
         "what a block keeps between two products is not in memory, and is no launch"),
    PipelineStep("lay-out", "loop", "loop", _on_plan(_lay_out),
         "what every trip of a loop multiplies by is packed once, before it"),
    PipelineStep("place", "loop", "plan", _on_plan(_place),
         "offsets need every buffer and its lifetime"),
    PipelineStep("scratch", "plan", "plan", _on_plan(_scratch),
         "what a launch packs lies where nothing else is alive during it"),
)  # fmt: skip

CONSTRAINTS = (
    Constraint("simplify-source", "tile", "dead readers and stray views hide row-wise chains"),
    Constraint("tile", "differentiate", "the reverse sweep computes tiles again"),
    Constraint("tile", "divide-late", "what is cut ends in the second product"),
    Constraint("divide-late", "differentiate", "the cotangent of the sum follows from the result"),
    Constraint("rematerialise", "differentiate", "the reverse sweep obeys checkpoints"),
    Constraint("differentiate", "flatten", "regions carry what differentiation must know"),
    Constraint("hoist", "flatten", "work of a checkpoint must not leave the loop it is in"),
    Constraint("hoist", "running-sums", "what stays in a loop is known after hoisting"),
    Constraint("flatten", "running-sums", "chains go through the borders of checkpoints"),
    Constraint("flatten", "take-out", "terms are seen whatever is recomputed"),
    Constraint("take-out", "cse-again", "sums of what is left are sums that are there already"),
    Constraint("flatten", "simplify-again", "rules do not look through the borders of regions"),
    Constraint("flatten", "cse-again", "equal ops on both sides of a border are found"),
    Constraint("simplify", "hoist", "transposed operands would be handed out transposed"),
    Constraint("simplify", "cse", "canonical operand order makes equal ops look equal"),
    Constraint("differentiate", "hoist", "running sums of gradients leave the reverse loop"),
    Constraint("hoist", "dce", "hoisting leaves dead yields behind"),
    Constraint("dce", "fuse", "dead ops would be fused and computed"),
    Constraint("dce", "turn", "dead readers hide that only products read a matrix"),
    Constraint("turn", "reach", "axes that products read are exchanged"),
    Constraint("reach", "fuse", "only ops of the whole block say who reads a product"),
    Constraint("turn", "fuse", "what is computed on a product's tiles lies as the product does"),
    Constraint("fuse", "to-loops", "every group becomes one kernel"),
    Constraint("to-loops", "strips", "which launches read what is seen in the Plan"),
    Constraint("strips", "place", "what a block keeps has no place"),
    Constraint("to-loops", "lay-out", "which factors a loop leaves alone is seen in launches"),
    Constraint("lay-out", "place", "panels are buffers like any other"),
    Constraint("to-loops", "place", "offsets need every buffer"),
    Constraint("place", "scratch", "scratch goes where the other tensors leave room"),
)


def check_table(steps: Sequence[PipelineStep], constraints: Sequence[Constraint]) -> None:
    """Names are unique, stages fit together, constraints hold. Raises PipelineError."""
    position = {step.name: i for i, step in enumerate(steps)}
    if len(position) != len(steps):
        raise PipelineError("two steps have the same name")
    for before, after in pairwise(steps):
        if before.end != after.start:
            raise PipelineError(
                f"`{before.name}` ends at {before.end}, `{after.name}` needs {after.start}"
            )
    for rule in constraints:
        for name in (rule.first, rule.second):
            if name not in position:
                raise PipelineError(f"a constraint names the unknown step `{name}`")
        if position[rule.first] >= position[rule.second]:
            raise PipelineError(f"`{rule.first}` must precede `{rule.second}`: {rule.reason}")


check_table(STEPS, CONSTRAINTS)


@contextmanager
def without_collector() -> Iterator[None]:
    """Holds the cyclic garbage collector back.

    Programs are large graphs without cycles that stay alive: walking them again and again frees
    nothing, and took a third of the time for 10 000 ops and all of what made it grow faster than
    the program.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def run_pipeline(function: Function, options: Options | None = None) -> Run:
    """Runs the steps on ``function``.

    Raises PipelineError for unknown step names in the options, and whatever a step or the verifier
    raises.
    """
    options = options or Options()
    _check_options(options)
    with without_collector():
        return _run(function, options)


def _run(function: Function, options: Options) -> Run:
    artifact: Artifact = function
    records: list[Record] = []
    _verify(None, artifact, options)
    for number, step in enumerate(STEPS, 1):
        if step.name in options.skip:
            continue
        hits: Counter[str] = Counter()
        if options.verify >= 3 and isinstance(artifact, Function):
            artifact = shuffle(artifact, seed=number)
        start = time.perf_counter()
        made = step.run(artifact, options, hits)
        seconds = time.perf_counter() - start
        record = Record(step.name, seconds, made is not artifact, made, hits)
        records.append(record)
        _verify(step, made, options)
        _dump(number, record, options)
        artifact = made
        if step.name == options.stop_after:
            break
    return Run(function, tuple(records))


def _check_options(options: Options) -> None:
    known = {step.name: step for step in STEPS}
    named = [*options.skip, *(d for d in options.dump_after if d != "all")]
    if options.stop_after is not None:
        named.append(options.stop_after)
    for name in named:
        if name not in known:
            steps = ", ".join(known)
            raise PipelineError(f"there is no step `{name}`; the steps are {steps}")
    for name in options.skip:
        if known[name].start != known[name].end:
            raise PipelineError(f"`{name}` leads to another stage and cannot be skipped")


def _verify(step: PipelineStep | None, artifact: Artifact, options: Options) -> None:
    """Checks what ``step`` made (the source program if None), as far as the options ask."""
    level = options.verify
    is_border = step is None or step.start != step.end
    if level == 0 or (level == 1 and not is_border):
        return
    again: Artifact
    if isinstance(artifact, Function):
        verify_function(artifact)
        again = parse_function(print_function(artifact)) if level >= 3 else artifact
    else:
        for kernel in artifact.kernels:
            verify_kernel(kernel)
        again = parse_plan(print_plan(artifact)) if level >= 3 else artifact
    found = None if again is artifact else difference(artifact, again)
    if found is not None:
        name = "the source" if step is None else f"`{step.name}`"
        raise PipelineError(f"the text of {name} does not read back: {found}")


def _dump(number: int, record: Record, options: Options) -> None:
    """Writes what a step made to its numbered file, or that it changed nothing."""
    if options.dump_to is None or not {"all", record.step} & set(options.dump_after):
        return
    options.dump_to.mkdir(parents=True, exist_ok=True)
    kind = "ir" if isinstance(record.artifact, Function) else "plan"
    text = text_of(record.artifact) if record.is_changed else "unchanged\n"
    (options.dump_to / f"{number:02d}_{record.step}.{kind}").write_text(text, encoding="utf-8")


def text_of(artifact: Artifact) -> str:
    """The text form of a function or a Plan."""
    return print_function(artifact) if isinstance(artifact, Function) else print_plan(artifact)
