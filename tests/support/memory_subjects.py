"""The contract of memory, on one program at a time: every way to compile it keeps its bytes and
gives the same bits.

``check(subject(name))`` compiles each point of the subject's Pareto front and runs it on one and
two threads. Arena and results lie between guards, and the arena is filled with NaN bytes before
every call, so what is written elsewhere or read before it was written shows. Subjects (``names``
and ``program N``) are the examples, the models of the benchmarks, functions traced from Python,
whole training steps and generated programs; all with small sizes.

Non-goals: allocations of a call (``tests/runtime/test_runtime_memory.py`` counts them), time.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gradc
from gradc.codegen.backend import Loaded
from gradc.codegen.llvm.host.load import NativeFunction
from gradc.frontend.program import load
from gradc.ir.plan.plan import Plan
from gradc.ir.tensor.core import Function
from gradc.passes.budget import Point, pareto
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.inspect.check import check_plan
from gradc.passes.pipeline import Derivative, run_pipeline
from gradc.passes.recompute.choose import candidates
from gradc.passes.recompute.rematerialise import Policy
from gradc.runtime.bench.compare import random_inputs
from gradc.runtime.model.compiled import pure
from gradc.runtime.native.arrays import NUMPY_DTYPE
from gradc.runtime.native.compile import Options, pipeline_options
from gradc.runtime.native.load import compile_plan
from gradc.runtime.tracing.record import Argument, record
from gradc.runtime.tracing.trees import flatten, paths
from tests.support.generate import random_program

Bytes = NDArray[np.uint8]
ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = sorted((ROOT / "examples").rglob("*.grad"))
BENCHMARKS = sorted((ROOT / "benchmarks" / "models").glob("*.grad"))
# Small enough that a program takes a moment; only those names that a program has are used.
SMALL = {
    "B": 4, "C1": 3, "C2": 4, "D": 8, "E": 6, "H": 8, "I": 5, "L": 2, "M": 3, "N": 2, "O": 2,
    "T": 40, "V": 11,
}  # fmt: skip
RECIPE = "adamw(lr=1e-2)"
STEPS = 3
TRACED = ("sine.py", "oscillator.py")
_GUARD = 256
_MARK = 0xA5
_POISON = 0xFF
_ALIGNED = 64

NOISY = """
dim B = 4, D = 5, H = 6, C = 3

layer block(H) {
    use norm = batchnorm(H)
    use fc = dense(H, H)
    apply(h: float[B, H]) -> float[B, H] { return h + dropout(tanh(fc(norm(h))), 0.25) }
}

model noisy(x: float[B, D], y: int[B]) -> float {
    use first = dense(D, H)
    use blocks = block(H) * 5
    use last = dense(H, C)
    h = first(x)
    for b in blocks { h = b(h) }
    return mean(cross_entropy(last(h), y))
}
"""


@dataclass(frozen=True)
class Subject:
    """A program, what is derived from it, and arrays for it by name. A step of training is called
    ``calls`` times.
    """

    name: str
    function: Function
    derive: Derivative
    arrays: Mapping[str, NDArray[Any]]
    gradient: Derivative | None = None
    calls: int = 1

    @property
    def options(self) -> Any:
        """The options of the pipeline, without a policy."""
        return pipeline_options(self.derive, Options(), gradient=self.gradient, verify=0)

    def points(self) -> list[Point]:
        """The Pareto front, the largest peak first."""
        return pareto(self.function, self.options)

    def policies(self, most: int) -> list[Policy]:
        """At most ``most`` of the policies that budgets choose from: nothing recomputed, the most
        frugal, some between.
        """
        found = [c.policy for c in candidates(self.function, self.gradient or self.derive)]
        places = np.linspace(0, len(found) - 1, min(most, len(found)))
        return [found[round(n)] for n in places]

    def plan(self, policy: Policy) -> Plan:
        """The Plan under a policy."""
        options = pipeline_options(
            self.derive, Options(), gradient=self.gradient, verify=0, policy=policy
        )
        return run_pipeline(self.function, options).plan


@dataclass
class Outcome:
    """How many compiled programs were run, under how many budgets, and what was wrong."""

    tried: int = 0
    points: int = 0
    faults: list[str] = field(default_factory=list)


# --- running


def guarded(nbytes: int) -> tuple[Bytes, Bytes]:
    """A block between guards, aligned: all of it, and the part inside."""
    whole = np.full(nbytes + 2 * _GUARD + _ALIGNED, _MARK, np.uint8)
    start = _GUARD + -(whole.ctypes.data + _GUARD) % _ALIGNED
    return whole, whole[start : start + nbytes]


def is_intact(whole: Bytes, inside: Bytes) -> bool:
    """Whether the guards of a block are as they were."""
    start = inside.ctypes.data - whole.ctypes.data if inside.size else whole.size
    before, after = whole[:start], whole[start + inside.size :]
    return bool((before == _MARK).all() and (after == _MARK).all())


def _compiled(plan: Plan, is_first: bool) -> list[tuple[int, Loaded]]:
    """Code for one and for two threads. Only the ``is_first`` of a subject has code of its own for
    one: what is made for two runs on one thread as well, and making it is what takes the time.
    """
    both = compile_plan(plan, threads=2)
    return [(1, compile_plan(plan, threads=1) if is_first else both), (2, both)]


def run(
    native: Loaded, arrays: Mapping[str, NDArray[Any]], calls: int, threads: int
) -> tuple[list[Bytes], list[str]]:
    """The bytes of every result after ``calls`` calls on guarded, poisoned memory; and which guards
    were written to.
    """
    assert isinstance(native, NativeFunction)
    blocks: list[tuple[str, Bytes, Bytes]] = []
    for port in native.signature.ports:
        nbytes = int(np.prod(port.shape)) * port.dtype.itemsize
        whole, inside = guarded(nbytes)
        if port.direction == "out":
            inside[:] = _POISON
        else:
            given = np.array(arrays[port.name], NUMPY_DTYPE[port.dtype], order="C")
            assert given.shape == port.shape, port.name
            inside[:] = given.reshape(-1).view(np.uint8)
        blocks.append((port.name, whole, inside))
    blocks.append(("the arena", *guarded(native.arena_bytes)))
    pointers = (ctypes.c_void_p * len(blocks))(*(inside.ctypes.data for _, _, inside in blocks))
    for _ in range(calls):
        blocks[-1][2][:] = _POISON
        native._entry(pointers, pointers[-1], threads)
    faults = [f"writes beside {name}" for name, *block in blocks if not is_intact(*block)]
    ports = native.signature.ports
    found = [
        inside for (_, _, inside), p in zip(blocks, ports, strict=False) if p.direction != "in"
    ]
    return found, faults


def check(subject: Subject, most: int | None = None) -> Outcome:
    """Compiles and runs every point of the front; or ``most`` policies, which takes less time than
    finding the front.
    """
    outcome = Outcome()
    chosen: list[tuple[Policy, int | None]]
    if most is None:
        chosen = [(point.policy, point.peak_bytes) for point in subject.points()]
    else:
        chosen = [(policy, None) for policy in subject.policies(most)]
    outcome.points = len(chosen)
    plain: list[Bytes] | None = None
    for policy, peak in chosen:
        plan = subject.plan(policy)
        about = f"{subject.name}: {policy}"
        outcome.faults += [f"{about}: {fault}" for fault in check_plan(plan)]
        if peak is not None and plan.peak_bytes != peak:
            outcome.faults.append(f"{about}: {plan.peak_bytes} bytes, the front says {peak}")
        for threads, native in _compiled(plan, is_first=plain is None):
            outcome.tried += 1
            if native.measured_bytes != plan.peak_bytes:
                said = f"{native.measured_bytes} bytes, {plan.peak_bytes} predicted"
                outcome.faults.append(f"{about}: {said}")
            found, beside = run(native, subject.arrays, subject.calls, threads)
            outcome.faults += [f"{about}, {threads} threads: {fault}" for fault in beside]
            plain = plain if plain is not None else found
            if not all(map(np.array_equal, plain, found)):
                outcome.faults.append(f"{about}, {threads} threads: other bits")
    return outcome


# --- subjects


def subject(name: str) -> Subject:
    """The subject of a name: one of ``names()``, or ``program N``."""
    if name.startswith("program "):
        return of_program(int(name.split()[1]))
    if name in TRACED:
        return of_traced(name)
    file, entry, kind = name.split()
    net = gradc.loads(NOISY) if file == "noisy" else small(ROOT / file, entry)
    return of_step(name, net) if kind == "step" else of_model(name, net)


@cache
def names() -> tuple[str, ...]:
    """All examples and all models of the benchmarks that have a scalar loss; and steps of those
    that have parameters.
    """
    found = [*TRACED, "noisy noisy gradient", "noisy noisy step"]
    for path, entry, has_params in losses():
        name = f"{path.relative_to(ROOT).as_posix()} {entry}"
        found += [f"{name} {kind}" for kind in ("gradient", "step")[: 1 + has_params]]
    return tuple(found)


@cache
def losses() -> tuple[tuple[Path, str, bool], ...]:
    """The models of examples and benchmarks that have a scalar loss: file, entry, and whether it
    has parameters.
    """
    found = []
    for path in (*EXAMPLES, *BENCHMARKS):
        for entry in load(path).models:
            net = small(path, entry)
            if not net.outputs[net.result].rank:
                found.append((path, entry, bool(net.params)))
    return tuple(found)


def of_program(seed: int) -> Subject:
    """A generated program."""
    program = random_program(seed, regions=seed % 2 == 0, images=seed % 7 == 0)
    derive = partial(value_and_grad, wrt=list(program.differentiable))
    return Subject(f"program {seed}", program.function, derive, program.named_inputs)


def small(path: Path, entry: str, **sizes: int) -> gradc.Model:
    """A model of a file, with small dimensions, or those that are given."""
    known = gradc.load(path, entry=entry).signature.dims
    dims = {name: size for name, size in {**SMALL, **sizes}.items() if name in known}
    return gradc.load(path, entry=entry, dims=dims)


def of_model(name: str, net: gradc.Model) -> Subject:
    """Loss and gradients of a model: by its parameters, or by its inputs where it has none."""
    wrt = "params" if net.params else "inputs"
    arrays = {**net.init(0), **random_inputs(net, {}, 0)}
    return Subject(name, net.lower().function, pure(net.gradient_of(wrt)), arrays)


def of_step(name: str, net: gradc.Model) -> Subject:
    """Training steps of a model, states and all."""
    step = net.train_step(RECIPE, clip_norm=1.0)
    arrays = {**step.init(net.init(0)).arrays, **random_inputs(net, {}, 0)}
    made = step.program()
    return Subject(name, made.source, made.derive, arrays, made.gradient, STEPS)


def of_traced(name: str) -> Subject:
    """An example written in Python: value and gradients by its parameters."""
    module = _module(ROOT / "examples" / "physics" / name)
    points = np.linspace(0.1, 6.0, 9)
    function, arguments = {
        "sine.py": lambda: (module.loss.__wrapped__, (module.init(6), points)),
        "oscillator.py": lambda: (module.loss, (module.start(0), points[:, None])),
    }[name]()
    leaves: list[Any] = []
    structure = flatten((arguments, {}), leaves)
    names = paths(structure[2][0], "args")
    given = [Argument.of(n, np.asarray(a)) for n, a in zip(names, leaves, strict=True)]
    traced = record(function, structure, given, is_loss=True)
    trained = [path for path in names if path.startswith("args[0]")]
    arrays = dict(zip(names, leaves, strict=True))
    arrays |= {n: np.asarray(a) for n, a in traced.captured.items()}
    return Subject(name, traced.function, partial(value_and_grad, wrt=trained), arrays)


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
