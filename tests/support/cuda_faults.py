"""Seeded faults in kernel texts and launches, each judged by the simulator: by its checks, by
results that have other bits than the CPU's, or by the proof of the texts.

    python -m tests.support.cuda_faults [--count 500] [--seed 0]

A fault changes one place of one text or one launch; what comes out is still a text. The table says
how many of each kind were seeded, found by which check, or silent; silent ones are printed, and the
exit status is 1 if there are any. Where results have the right bits on three draws of the inputs,
more are tried. ``proof`` is what only the prime field tells: results are right, and a launch does
not store what its loop nest does (what one launch alone uses may lie an element further, where
nothing else is). Changes that change nothing are counted apart, each for a reason that is checked:

* ``needless``: a barrier (a wait, a fence, the end of a batch) whose absence leaves no race. What
  the simulator finds no race in computes the same in every order of threads; the printer puts
  barriers where accesses might meet, and loops end with batches of nothing.
* ``equal``: every launch stores the elements of its loop nest over a prime field, at two points:
  the change is none over the reals (a shuffle among lanes that hold equal values, say), and in
  floats it did not show in any draw either. A fault of rounding is never counted here.
* ``once``: a multiply-add that is rounded twice where its loop runs once, from 0: x y + 0 is
  rounded once whatever is done first.
"""

from __future__ import annotations

import argparse
import itertools
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradc.codegen.cuda.grammar import TextError
from gradc.codegen.cuda.lockstep import KernelTexts
from gradc.codegen.cuda.printer.plans import print_plan, scratch_of
from gradc.codegen.cuda.program import Launch, Program, Repeat, Step, Text
from gradc.codegen.cuda.simulate.run import run_program
from gradc.codegen.cuda.simulate.shadow import SimulationError
from gradc.codegen.cuda.verbs import MEMORY_BYTES
from gradc.ir.plan.plan import Plan
from gradc.ir.tensor.core import DType
from gradc.passes.place.scratch import place_scratch
from tests.cuda import test_products as products
from tests.support.cuda_fault_kinds import LINES, ORDERING
from tests.support.cuda_programs import ISA, TARGET, arrays_of, field_point, plan_of, same_bits
from tests.support.memory_subjects import ROOT, Subject, of_model, small, subject

# Rows of two trips of every loop, wide enough for every step of a sum over lanes.
WIDE = "benchmarks/models/rows.grad rows gradient R=5 D=133"
# A strip for half of the multiprocessors: products in a loop, rows between them, a mask.
STRIPS = "benchmarks/models/attention.grad attention gradient N=33 T=32 D=20"
# Small programs: rows with folds, products, loops over time, steps of training, images. Sizes may
# follow a name.
SUBJECTS = (
    "examples/worked/w11.grad normalised gradient",
    "examples/worked/w08.grad classifier step",
    "examples/worked/w19.grad recurrent gradient T=5",
    "benchmarks/models/rows.grad rows gradient R=37 D=8",
    "examples/digits/mlp.grad mlp step",
    "program 7",
    STRIPS,
    WIDE,
    # Tensor cores by groups and by warps: chunks, pieces and elements; sums over parts of k.
    "product 70 72 100 plain turned bf16",
    "product 66 66 68 turned plain f16",
    "product 67 73 45 plain turned bf16",
    "product 17 12 104 plain plain bf16",
    "product 40 24 530 plain plain f32",
    "product 64 64 1030 plain plain bf16",
)


DRAWS, MOST_DRAWS = 3, 40
_POINTS = 2


@dataclass(frozen=True)
class Case:
    """A program with its arrays, and the results that it has."""

    name: str
    plan: Plan
    program: Program
    arrays: Mapping[str, NDArray[Any]]

    def draw(self, number: int) -> dict[str, NDArray[Any]]:
        """The arrays, with something random added: starts are often 0, where signs do not
        matter.
        """
        rng = np.random.default_rng(number)
        given = {name: np.array(array) for name, array in self.arrays.items()}
        for array in given.values():
            if np.issubdtype(array.dtype, np.floating):
                array += rng.random(array.shape)
        return given

    def results(self, program: Program, draw: int) -> list[NDArray[Any]]:
        """What ``program`` computes. Raises SimulationError, TextError."""
        arrays = arrays_of(self.plan, self.draw(draw))
        run_program(program, arrays)
        return [a for a, p in zip(arrays, self.plan.ports, strict=True) if p.direction != "in"]


@dataclass(frozen=True)
class Fault:
    """A changed program: of which kind, and where."""

    kind: str
    where: str
    program: Program
    text: int = -1  # the number of the text that is changed, and the line
    line: int = 0


@cache
def case(name: str) -> Case:
    """The case of a subject's name."""
    if name.startswith("product "):
        return _product(name)
    one = _sized(name)
    plan = plan_of(one)
    return Case(name, plan, print_plan(plan, TARGET), one.arrays)


def _product(name: str) -> Case:
    """A product with bias and relu: rows, columns, steps, how factors lie, type."""
    _, m, n, k, left, right, dtype = name.split()
    turned = (left == "turned", right == "turned")
    bare = products.plan_of(int(m), int(n), int(k), *turned, DType(dtype))
    plan = place_scratch(bare, TARGET, scratch_of(TARGET))
    return Case(name, plan, print_plan(plan, TARGET), products.drawn(plan))


def _sized(name: str) -> Subject:
    """A subject, at sizes that its name may end in."""
    words = [word for word in name.split() if "=" in word]
    if not words:
        return subject(name)
    file, entry, _ = name.split()[:3]
    sizes = {dim: int(size) for dim, _, size in (word.partition("=") for word in words)}
    return of_model(name, small(ROOT / file, entry, **sizes))


# ---- texts: lines, by ``cuda_fault_kinds``


def text_faults(program: Program, rng: random.Random) -> Iterator[Fault]:
    """Every place of every text that a kind fits, in random order."""
    places = []
    for number, text in enumerate(program.texts):
        lines = text.source.split("\n")
        start = next(n for n, line in enumerate(lines) if line.startswith(f"def {text.name}("))
        for n in range(start, len(lines)):
            for kind, (pattern, change) in LINES.items():
                changed = re.sub(pattern, change, lines[n], count=1)
                if changed != lines[n]:
                    places.append((number, n, kind, changed))
        places += [(number, n, FOLD_ORDER, "") for n in _turnable(lines)]
    rng.shuffle(places)
    for number, n, kind, changed in places:
        text = program.texts[number]
        lines = text.source.split("\n")
        old = lines[n]
        if kind == FOLD_ORDER:
            changed = lines[n + 1]
            lines[n], lines[n + 1] = lines[n + 1], lines[n]
        else:
            lines[n] = _split(changed)
        source = "\n".join(lines)
        texts = [*program.texts]
        texts[number] = replace(text, source=source)
        where = f"{text.name}: {old.strip()} -> {changed.strip()}"
        yield Fault(kind, where, replace(program, texts=tuple(texts)), number, n + 1)


FOLD_ORDER = "fold order"
ROUNDINGS = (FOLD_ORDER, "rounded twice")
_STEP = re.compile(r"^\s*(\w+) = \1 \+ shuffle_xor\(\1, \d+\)$")


def _turnable(lines: Sequence[str]) -> Iterator[int]:
    """Where two steps of a sum over lanes follow each other, which can be turned around."""
    for n, (one, other) in enumerate(itertools.pairwise(lines)):
        left, right = _STEP.match(one), _STEP.match(other)
        if left is not None and right is not None and left[1] == right[1]:
            yield n


def _split(line: str) -> str:
    """``if c: x`` on two lines."""
    return re.sub(r"^(\s*)(if .*:) (\S.*)$", r"\1\2\n\1    \3", line)


# ---- launches


def _launches(steps: Sequence[Step], path: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    for n, step in enumerate(steps):
        if isinstance(step, Launch):
            yield (*path, n)
        elif isinstance(step, Repeat):
            yield from _launches(step.body, (*path, n))


def _replaced(
    steps: Sequence[Step], path: tuple[int, ...], change: Callable[[Launch], Step]
) -> tuple[Step, ...]:
    found = list(steps)
    step = found[path[0]]
    if isinstance(step, Repeat):
        found[path[0]] = replace(step, body=_replaced(step.body, path[1:], change))
    elif isinstance(step, Launch):
        found[path[0]] = change(step)
    return tuple(found)


def _moved(launch: Launch, text: Text, rng: random.Random) -> Launch:
    """One pointer an element further."""
    n = rng.randrange(len(launch.arguments))
    size = MEMORY_BYTES[text.parameters[n].dtype]
    arguments = list(launch.arguments)
    arguments[n] = replace(arguments[n], offset=arguments[n].offset + size)
    return replace(launch, arguments=tuple(arguments))


def _aliased(launch: Launch, text: Text, rng: random.Random) -> Launch | None:
    """What is written lies where something else is read."""
    written = [n for n, p in enumerate(text.parameters) if p.access == "write"]
    read = [n for n, p in enumerate(text.parameters) if p.access == "read"]
    pairs = [(w, r) for w in written for r in read if _fits(text, w, r)]
    if not pairs:
        return None
    w, r = rng.choice(pairs)
    arguments = list(launch.arguments)
    arguments[w] = arguments[r]
    return replace(launch, arguments=tuple(arguments))


def _fits(text: Text, written: int, read: int) -> bool:
    one, other = text.parameters[written], text.parameters[read]
    return one.dtype == other.dtype and one.size <= other.size


def launch_faults(program: Program, rng: random.Random) -> Iterator[Fault]:
    """Faults of launches, in random order: grids, pointers, order."""
    paths = list(_launches(program.steps))
    rng.shuffle(paths)
    for path in paths:
        step: Any = program
        for n in path:
            step = (step.steps if isinstance(step, Program) else step.body)[n]
        text = program.texts[step.text]
        is_guarded = "if element < " in text.source  # blocks beyond do nothing
        made = {
            "a block more": None if is_guarded else replace(step, grid=step.grid + 1),
            "a block fewer": replace(step, grid=step.grid - 1) if step.grid > 1 else None,
            "pointer moved": _moved(step, text, rng),
            "written onto what is read": _aliased(step, text, rng),
        }
        for kind, changed in made.items():
            if changed is not None and changed != step:
                steps = _replaced(program.steps, path, lambda _, c=changed: c)  # type: ignore[misc]
                yield Fault(kind, text.name, replace(program, steps=steps))
    yield from _left_out(program, paths)
    for n in range(len(program.steps) - 1):
        turned = [*program.steps]
        turned[n], turned[n + 1] = turned[n + 1], turned[n]
        if _depends(program, program.steps[n], program.steps[n + 1]):
            yield Fault("launched too early", f"step {n}", replace(program, steps=tuple(turned)))


def _left_out(program: Program, paths: Sequence[tuple[int, ...]]) -> Iterator[Fault]:
    """Launches and counters that a capture leaves out, launches that it has twice where they update
    something, and what is captured after everything else.
    """
    for path in paths:
        step: Any = program
        for n in path:
            step = (step.steps if isinstance(step, Program) else step.body)[n]
        text = program.texts[step.text]
        none, twice = Repeat(0, ()), Repeat(2, (step,))
        changes: dict[str, Step] = {"not launched": none}
        if any(p.access == "update" for p in text.parameters):
            changes["launched twice"] = twice
        for kind, changed in changes.items():
            steps = _replaced(program.steps, path, lambda _, c=changed: c)  # type: ignore[misc]
            yield Fault(kind, text.name, replace(program, steps=steps))
    for n, step in enumerate(program.steps):
        if isinstance(step, Repeat) and step.counter is not None:
            kept = (*program.steps[:n], replace(step, counter=None), *program.steps[n + 1 :])
            yield Fault("not counted", f"step {n}", replace(program, steps=kept))
        if any(_depends(program, step, later) for later in program.steps[n + 1 :]):
            last = (*program.steps[:n], *program.steps[n + 1 :], step)
            yield Fault("launched too late", f"step {n}", replace(program, steps=last))


def _depends(program: Program, first: Step, then: Step) -> bool:
    """Whether a launch reads what the one before it writes, all of it."""
    if not isinstance(first, Launch) or not isinstance(then, Launch):
        return False
    pairs = [
        list(zip(program.texts[step.text].parameters, step.arguments, strict=True))
        for step in (first, then)
    ]
    made = {place for parameter, place in pairs[0] if parameter.access == "write"}
    return any(parameter.access == "read" and place in made for parameter, place in pairs[1])


# ---- judging


def verdict(one: Case, fault: Fault) -> str:
    """How a fault is found: the check's name, ``bits``, or nothing."""
    try:
        fault.program.check()
        for draw in range(DRAWS):
            found = one.results(fault.program, draw)
            if not all(map(same_bits, _expected(one.name, draw), found)):
                return "bits"
    except SimulationError as problem:
        return problem.kind
    except TextError:
        return "text"
    except ValueError:
        return "launch"
    if fault.kind in ORDERING:
        return "needless"
    for draw in range(DRAWS, MOST_DRAWS):
        found = one.results(fault.program, draw)
        if not all(map(same_bits, _expected(one.name, draw), found)):
            return "bits"
    if fault.kind in ROUNDINGS:
        return "once" if _adds_to_zero(one, fault) else ""
    return "equal" if _is_equal(one, fault) else "proof"


def _adds_to_zero(one: Case, fault: Fault) -> bool:
    """Whether a multiply-add that is rounded twice adds to 0: its loop runs once, from 0."""
    if fault.text < 0:
        return False
    text = one.program.texts[fault.text]
    lines = text.source.split("\n")
    changed = lines[fault.line - 1]
    indent = len(changed) - len(changed.lstrip())
    total = changed.split("=")[0].strip()
    before = range(fault.line - 1, 0, -1)
    loop = next((n for n in before if _indent(lines[n - 1]) < indent), 0)
    if not lines[loop - 1].lstrip().startswith("for "):
        return False
    written = next(
        (
            lines[n - 1]
            for n in range(loop - 1, 0, -1)
            if lines[n - 1].lstrip().startswith(f"{total} =")
        ),
        "",
    )
    given, scalars = field_point(one.plan, 0)
    ran = KernelTexts(one.plan, one.program, ISA).run(scalars, scalars.poison, given, np.equal)
    is_once = ran.trips[text.name].get(loop, 0) <= 1
    return is_once and re.fullmatch(r"f(32|64)\(0\.0\)", written.split("=")[-1].strip()) is not None


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _is_equal(one: Case, fault: Fault) -> bool:
    """Whether every launch stores what its loop nest does over a prime field."""
    texts = KernelTexts(one.plan, fault.program, ISA)
    for point in range(_POINTS):
        given, scalars = field_point(one.plan, point)
        if texts.run(scalars, scalars.poison, given, np.equal).faults:
            return False
    return True


@cache
def _expected(name: str, draw: int) -> list[NDArray[Any]]:
    one = case(name)
    return one.results(one.program, draw)


def run(
    count: int,
    seed: int,
    subjects: Sequence[str] = SUBJECTS,
    told: Callable[[str], None] | None = None,
) -> tuple[Counter[Any], list[str]]:
    """Seeds ``count`` faults; the (kind, check) of each, and what nobody noticed or what changes
    nothing, in words. ``told`` hears how far it is.
    """
    rng = random.Random(seed)
    sources = []
    for name in subjects:
        program = case(name).program
        faults = [*text_faults(program, rng), *launch_faults(program, rng)]
        kinds: dict[str, list[Fault]] = {}
        for fault in faults:
            if fault.kind == FOLD_ORDER and name != WIDE:
                continue  # where most lanes hold 0, sums have one order
            kinds.setdefault(fault.kind, []).append(fault)
        sources += [(name, iter(found)) for found in kinds.values()]
    rng.shuffle(sources)
    counts: Counter[Any] = Counter()
    said: list[str] = []
    while sources and counts.total() < count:
        left = []
        for name, faults_of_kind in sources:
            one = next(faults_of_kind, None)
            if one is None or counts.total() >= count:
                continue
            left.append((name, faults_of_kind))
            found = verdict(case(name), one)
            counts[one.kind, found or "silent"] += 1
            if found in ("", "equal", "once", "proof"):
                said.append(f"{found or 'silent'}: {name}: {one.kind}: {one.where}")
            if told is not None and counts.total() % 25 == 0:
                told(f"{counts.total()} of {count}")
        sources = left
    return counts, said


def main() -> int:
    """Seeds, judges, tells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    counts, said = run(asked.count, asked.seed, told=lambda text: print(text, flush=True))
    for kind in sorted({kind for kind, _ in counts}):
        found = {check: n for (of, check), n in sorted(counts.items()) if of == kind}
        print(f"{kind}: {sum(found.values())}, " + ", ".join(f"{n} {c}" for c, n in found.items()))
    silent = sum(n for (_, check), n in counts.items() if check == "silent")
    print(f"{counts.total()} faults, {silent} silent")
    print("\n".join(said))
    return 1 if silent else 0


if __name__ == "__main__":
    raise SystemExit(main())
