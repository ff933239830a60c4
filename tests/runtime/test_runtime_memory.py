"""Memory is a contract: what a Plan predicts is what is allocated, and a call allocates nothing."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import gradc
from gradc.codegen.backend import backend
from gradc.frontend.program import load
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.inspect.check import check_plan
from gradc.runtime.bench.compare import random_inputs
from gradc.runtime.native.compile import Options, plan_of
from tests.support.allocations import build, watched
from tests.support.api_models import DEEP
from tests.support.generate import random_program

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = sorted((ROOT / "examples").rglob("*.grad"))
SIZES = {"B": 4, "T": 5, "M": 3, "D": 3, "N": 3}


def models_of(path: Path) -> list[gradc.Model]:
    """The models of an example with small dimensions."""
    found = []
    for entry in load(path).models:
        net = gradc.load(path, entry=entry)
        dims = net.signature.dims
        free = {name: SIZES.get(name, 2) for name, size in dims.items() if size is None}
        found.append(gradc.load(path, entry=entry, dims=free))
    return [net for net in found if not net.outputs[net.result].rank]


# Each kind once: layers, images, loops, states of its own, several models in a file, inputs only.
# That the bytes are those of the Plan for all of them is in tests/place/test_memory_contract.py.
KINDS = ("autoencoder", "cnn", "lstm", "gpt", "w16", "w19", "w20")


@pytest.mark.parametrize(
    "path", [p for p in EXAMPLES if p.stem in KINDS], ids=lambda p: str(p.stem)
)
def test_examples_allocate_what_their_plans_say(path: Path) -> None:
    for net in models_of(path):
        wrt = "params" if net.select("params") else "inputs"
        inputs = random_inputs(net, {}, 0)
        plan = net.plan(wrt=wrt)
        native = net.value_and_grad(wrt).entry(inputs).native
        assert native.measured_bytes == plan.peak_bytes
        ports = {p.name: p for p in native.signature.ports}
        arrays = sum(a.nbytes for a in inputs.values())
        assert arrays == sum(plan.tensors[ports[name].tensor].nbytes for name in inputs)
        assert plan.check() == ()


@pytest.mark.parametrize("seed", range(10))
def test_generated_programs_allocate_what_their_plans_say(seed: int) -> None:
    program = random_program(seed, regions=seed % 2 == 0, images=seed % 5 == 0)
    names = program.differentiable
    plan = plan_of(program.function, partial(value_and_grad, wrt=list(names)), Options())
    assert check_plan(plan) == ()
    cpu = backend("cpu")
    made_of = cpu.emit(plan, cpu.target(1)).signature  # what a caller allocates by
    assert made_of.arena_bytes + made_of.port_bytes == plan.peak_bytes
    by_hand = plan.arena_bytes + sum(a.nbytes for a in program.inputs)
    made = [p for p in plan.ports if p.direction == "out"]
    by_hand += sum(int(np.prod(p.shape)) * p.dtype.itemsize for p in made)
    assert plan.peak_bytes == by_hand


WATCHED = """
import ctypes, gc, json, sys
import numpy as np
import gradc
from gradc.runtime.bench.compare import random_inputs
from gradc.runtime.native.arrays import NUMPY_DTYPE

seen = ctypes.CDLL(None)
net = gradc.load(sys.argv[1], dims=json.loads(sys.argv[2]))
inputs = random_inputs(net, {}, 0)
step = net.train_step("adamw(lr=1e-3)", clip_norm=1.0, threads=int(sys.argv[3]))
entry = step.entry(inputs)
state = step.init(net.init(0))
given = {**state.arrays, **inputs}
made = [np.empty(p.shape, NUMPY_DTYPE[p.dtype]) for p in entry.made]
arrays = tuple([given[p.name] for p in entry.given] + made)
native = entry.native
assert native.fast(*arrays) is None
gc.disable()
count = seen.seen_calls
before = count()
probe = bytearray(1 << 20)
after_probe = count()
start = count()
for _ in range(50):
    native.fast(*arrays)
calls = count() - start
fresh = []
for _ in range(2):
    before_bytes = seen.seen_bytes()
    arena = native._arenas.take()
    fresh.append(seen.seen_bytes() - before_bytes)
print(json.dumps({
    "probe": after_probe - before, "calls": calls, "arena": native.arena_bytes, "fresh": fresh,
    "loss": float(made[0]),
}))
"""


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that counts every allocation of the process that preloads it."""
    return build(tmp_path_factory.mktemp("counter"))


@pytest.mark.parametrize(
    ("program", "dims", "threads"),
    [
        ("digits/mlp.grad", {"B": 64}, 2),
        ("text/lstm.grad", {"B": 2, "H": 16}, 1),
    ],
)
def test_a_call_allocates_nothing(
    counter: Path, program: str, dims: dict[str, int], threads: int
) -> None:
    """Fifty training steps make not one call to the allocator; the arena is exactly what was
    predicted. Other networks: tests/place/test_memory_allocations.py.
    """
    command = [
        sys.executable, "-c", WATCHED, str(ROOT / "examples" / program), json.dumps(dims),
        str(threads),
    ]  # fmt: skip
    done = watched(counter, command)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["probe"] > 0, "the counter must see allocations"
    assert found["calls"] == 0
    # The first was made when the function was loaded; a second caller gets one of exactly this
    # size.
    assert found["arena"] in found["fresh"]
    assert np.isfinite(found["loss"])


# ---- budgets of training steps


def test_a_training_step_keeps_its_budget_and_its_bits() -> None:
    """Recomputation in the step: less memory, and not a bit of difference after three updates."""
    net = gradc.loads(DEEP, dims={"B": 32})
    inputs = random_inputs(net, {}, 1)
    plain = net.train_step("adamw(lr=1e-2)", clip_norm=1.0)
    before = plain.plan()
    budget = before.peak_bytes - before.arena_bytes // 4
    frugal = net.train_step("adamw(lr=1e-2)", clip_norm=1.0, budget=budget)
    after = frugal.plan()
    assert after.peak_bytes <= budget
    assert any(not d.is_kept for d in after.decisions)
    assert all(d.is_kept for d in before.decisions)
    states = []
    for step in (plain, frugal):
        state = step.init(net.init(0))
        for _ in range(3):
            loss, state = step(state, **inputs)
        states.append((loss, state.arrays))
        assert step.entry(inputs).native.measured_bytes == step.plan().peak_bytes
    (loss, arrays), (again, others) = states
    assert loss == again
    assert all(np.array_equal(arrays[name], others[name]) for name in arrays)


def test_a_refused_budget_names_the_lines_that_bind() -> None:
    dims = {"B": 2, "T": 16, "D": 32, "N": 2, "L": 2}
    net = gradc.load(ROOT / "examples" / "text" / "gpt.grad", dims=dims)
    step = net.train_step("sgd(lr=0.1)", budget="1kB")
    for ask in (partial(net.plan, "1kB"), step.plan):
        with pytest.raises(gradc.DiagnosticError, match="GC0602") as refused:
            ask()
        assert "gelu(up(ln2(h)))" in str(refused.value)
