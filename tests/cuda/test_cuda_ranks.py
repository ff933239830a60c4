"""Ranks on devices, each its own, on the driver double: the bits of one rank on the CPU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import gradc
from gradc.codegen import exchange
from gradc.codegen.backend import backend
from gradc.codegen.cuda.backend import DEVICE
from gradc.codegen.cuda.printer.plans import print_plan, target
from gradc.codegen.cuda.program import Exchange, Program, Repeat, print_program
from gradc.codegen.cuda.runner.driver import driver
from gradc.codegen.cuda.simulate.run import run_program
from gradc.codegen.exchange import NoRanksError
from gradc.passes.pipeline import run_pipeline
from gradc.runtime.model.recipe import Recipe
from gradc.runtime.model.step import TrainStep
from gradc.runtime.native.arrays import NUMPY_DTYPE
from gradc.runtime.native.compile import compile_options, pipeline_options, plan_of
from gradc.runtime.native.load import compile_plan
from tests.support.cuda_double import Double, doubled
from tests.support.rank_threads import ThreadRanks, in_ranks

TEXT = """
dim B, D = 6, H = 200
model m(x: float[B, D], y: int[B], w: float[B]) -> float {
    use one = dense(D, H)
    use two = dense(H, 3)
    losses = cross_entropy(two(dropout(gelu(one(x)), 0.2)), y)
    return sum(losses * w) / sum(w)
}
"""
RECURRENT = """
dim T = 3, B, I = 4, H = 6
model m(x: float[T, B, I], y: float[B, H]) -> float {
    use cell = rnn(I, H)
    return mean((cell(x)[T - 1] - y) ^ 2)
}
"""


@pytest.fixture
def double() -> Iterator[Double]:
    with doubled() as found:
        found.devices(2)
        driver().__dict__.pop("count", None)  # as another test has found it
        yield found
        driver().__dict__.pop("count", None)


def data(samples: int) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    return {
        "x": rng.standard_normal((samples, 6)).astype(np.float32),
        "y": rng.integers(0, 3, samples),
        "w": rng.integers(0, 2, samples).astype(np.float32) + np.float32(0.5),
    }


def trained(where: str, ranks: int, **how: Any) -> list[dict[str, Any]]:
    """The state after three steps of three parts on each rank, two of them in a queue."""
    net, parts = gradc.loads(TEXT), 3
    whole = data(2 * parts)
    recipe = Recipe("adamw(lr=1e-2)", clip_norm=1.0, accumulate=parts)

    def train(world: ThreadRanks) -> dict[str, Any]:
        name = where.format(world.rank)
        step = TrainStep(net, recipe, compile_options(target=name, threads=1, **how), world)
        own = {name: step.rows_of(rows) for name, rows in whole.items()}
        state = step.init(net.init(1))
        loss, state = step(state, **own)
        losses, state = step.many(2, state, **{n: np.stack([a] * 2) for n, a in own.items()})
        assert world.sent == 3 * step.plan({"B": 2 * parts}).sent_bytes
        arrays = {name: np.asarray(array) for name, array in state.arrays.items()}
        return {**arrays, "losses": np.array([loss, *losses])}

    return in_ranks(ranks, train)


def test_ranks_on_devices_have_the_bits_of_one_on_the_cpu(double: Double) -> None:
    (one,) = trained("cpu", 1)
    for state in trained("cuda:{}", 2, use_cache=False):
        for name, array in one.items():
            np.testing.assert_array_equal(array, state[name], err_msg=name)
    # Graphs go from one exchange to the next, and are captured once.
    asked = double.log
    graphs = asked.count("cuGraphInstantiateWithFlags")
    assert graphs > 2 and asked.count("cuGraphLaunch") == 3 * graphs
    assert asked.count("cuMemHostAlloc") >= 2


def cut_step(text: str, shard: str) -> Any:
    """A step of which each of two ranks has a part of the parameters, and its Plan for devices."""
    net = gradc.loads(text)
    dim, _, parts = shard.partition("=")
    step = net.train_step("sgd(lr=0.1)", shard={dim: int(parts)})
    made = step.program({"B": 2})
    asked = pipeline_options(made.derive, compile_options(target="cuda"), gradient=made.gradient)
    return run_pipeline(made.source, asked).plan


def test_exchanges_within_loops_go_through_the_simulator(double: Double) -> None:
    """What every step of a recurrence exchanges, by texts and by the CPU."""
    plan = cut_step(RECURRENT, "H=2")
    program = print_plan(plan, target("sm_90"))
    inner = [s for step in program.steps if isinstance(step, Repeat) for s in step.body]
    assert any(isinstance(step, Exchange) for step in inner)
    assert "await" in print_program(program)
    back = Program.from_json(json.loads(json.dumps(program.to_json())))
    assert back.steps == program.steps
    cpu = cpu_of(RECURRENT, "H=2")

    def run(world: ThreadRanks) -> list[bool]:
        exchange.join(world)
        mine, theirs = (arrays_for(plan, world.rank) for _ in range(2))
        run_program(program, mine)
        exchange.check()
        cpu.call(theirs)
        exchange.check()
        return [np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True)]

    for same in in_ranks(2, run):
        assert all(same)


def test_what_stands_at_a_place_is_checked(double: Double) -> None:
    """Bytes that do not fall into parts, kinds that there are not, places beyond the arena."""
    program = print_plan(cut_step(TEXT, "H=2"), target("sm_90"))
    given = program.to_json()
    step = next(s for s in given["steps"] if "kind" in s)
    for name, wrong in (("kind", "send"), ("ranks", 7), ("nbytes", 1 << 40)):
        right, step[name] = step[name], wrong
        with pytest.raises(ValueError):
            Program.from_json(given)
        step[name] = right
    assert Program.from_json(given).steps == program.steps
    assert any(isinstance(s, Exchange) for s in program.steps)


def test_a_program_of_ranks_needs_them(double: Double) -> None:
    plan = cut_step(TEXT, "H=2")
    cuda = backend("cuda")
    code = cuda.emit(plan, cuda.target(1, "sm_90"))
    loaded = cuda.load(code.signature, code.assemble(), 1, None)
    loaded.launch(arrays_for(plan, 0))
    with pytest.raises(NoRanksError):
        exchange.check()


def test_ranks_of_a_machine_take_devices_in_turn(
    double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(DEVICE, raising=False)
    found = []
    for rank in ("0", "1", "2", "?"):
        monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", rank)
        found.append(backend("cuda").device().number)  # type: ignore[attr-defined]
    assert found == [0, 1, 0, 0]
    monkeypatch.setenv(DEVICE, "1")
    assert backend("cuda").device().number == 1  # type: ignore[attr-defined]


def arrays_for(plan: Any, rank: int) -> list[Any]:
    rng = np.random.default_rng(rank)
    found: list[Any] = []
    for port in plan.ports:
        if port.dtype.is_float and port.direction != "out":
            found.append(rng.standard_normal(port.shape).astype(np.float32))
        else:
            found.append(np.zeros(port.shape, NUMPY_DTYPE[port.dtype]))
    return found


def cpu_of(text: str, shard: str) -> Any:
    net = gradc.loads(text)
    dim, _, parts = shard.partition("=")
    made = net.train_step("sgd(lr=0.1)", shard={dim: int(parts)}).program({"B": 2})
    plan = plan_of(made.source, made.derive, compile_options(threads=1), made.gradient)
    return compile_plan(plan, threads=1, cache=False)
