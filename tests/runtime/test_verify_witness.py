"""Nothing is refuted without a witness, what is right is not refuted, and a witness can be looked
at with `gradc grad`.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.loop.execute import ExecutionError
from gradc.ir.plan.plan import Plan
from gradc.ir.tensor.core import DType, Function
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.inspect.check import check_plan
from gradc.passes.pipeline import Options, Run, run_pipeline
from gradc.passes.prove.domains.cells import cells_equal
from gradc.passes.prove.domains.tower import tower_equal
from gradc.passes.prove.programs.kernels import PlanProgram
from gradc.passes.prove.prove import Subject, kernel_verdicts, plan_verdicts
from gradc.passes.prove.report import Status, Verdict
from gradc.runtime.api import loads
from gradc.runtime.cli import main
from gradc.runtime.native.compile import compile_options
from gradc.runtime.reports.memory import plan_memory
from tests.place.test_plan_faults import FAULTS
from tests.support.mutants import KERNEL_FAULTS, kernel_mutants

# Each was refuted by residues that the proof itself had spoilt, by a rule of Plans, or at a point
# that is none.
RIGHT = {
    "a result in the storage of an operand, beside an inner sum": """
        model m(q: float[3, 2]) -> float { param w: float[3] ~ ones
          return mean(exp(w) * sum(q, axis = 1)) }""",
    "a gathered parameter beside an inner sum": """
        model m(q: float[3, 2], a: int[3]) -> float { param w: float[4] ~ ones
          return mean(w[a] * sum(q, axis = 1)) }""",
    "row sums of different lengths": """
        model m(x: float[4, 3]) -> float { param v: float[4, 5] ~ normal(1)
          return sum(sum(v, axis = 1) + sum(x, axis = 1)) }""",
    "a value read whole and in another shape": """
        model m() -> float { param x: float[2, 5, 1] ~ normal(1)
          v = mean(exp(x), axis = 0)
          return sum(v) + sum(squeeze(v, 1)) + sum(reshape(v, [5])) }""",
    "a reduction by maximum read twice": """
        model m() -> float { param x: float[2, 5, 1] ~ normal(1)
          v = logsumexp(x, axis = 0)
          return sum(v) + sum(squeeze(v, 1)^2) }""",
    "a carry that no trip changes": """
        model m(x: float[1, 5]) -> float { param d: float[5] ~ normal(1)
          v = scan a in x carry e = d { yield a * e }
          return sum(v) }""",
    "a carry that no trip of several changes": """
        model m(x: float[3, 5]) -> float { param d: float[5] ~ normal(1)
          v = scan a in x carry e = d, h = d { yield a * e + h
            h = tanh(h * a) }
          return sum(v) }""",
}
MASKED = """dim B = 2
model m(y: int[B]) -> float { param z: float[B, 3] ~ normal(1)
  return mean(cross_entropy(where(iota(3) == 0, -inf, z), y)) }"""


@pytest.mark.parametrize("kind", RIGHT)
def test_right_programs_are_not_refuted(kind: str) -> None:
    model = loads(RIGHT[kind])
    report = model.verify(sympy=0)
    statuses = {v.status for v in report.verdicts}
    assert not statuses & {Status.REFUTED, Status.UNDECIDED}, [str(v) for v in report.verdicts]
    assert all(v.status is Status.PROVED_SHAPE for v in report.of("plan"))


def test_a_point_where_the_loss_is_infinite_is_no_point() -> None:
    """Labels may meet the masked class, and there SymPy and an adjoint may say what they like."""
    report = loads(MASKED).verify()
    assert {v.status for v in report.of("sympy")} <= {Status.PROVED_SHAPE, Status.AGREES}
    assert report.ok


WRONG = """fn f(x: float[...]) -> float[...] {
    return tanh(x)
    pullback(ct) { return ct * (1 - tanh(x)) } }
model m(x: float[2, 3], y: int[2]) -> float { param w: float[3, 4] ~ normal(1)
    return mean(cross_entropy(f(x @ w), y)) }
"""


def test_a_witness_shows_the_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`gradc grad` computes the wrong entry there, and central differences of `gradc run`'s loss
    the right one.
    """
    source, point, out = (str(tmp_path / name) for name in ("f.grad", "w.npz", "g.npz"))
    Path(source).write_text(WRONG)
    flags = ["--witness", point, "--sympy", "0", "--json", str(tmp_path / "c.json")]
    assert main(["verify", source, *flags]) == 3
    printed = capsys.readouterr()
    assert f"gradc grad {source} --data {point} --params {point}" in printed.err
    claimed = json.loads((tmp_path / "c.json").read_text())
    of = next(v["witness"] for v in claimed["verdicts"] if v["witness"])
    assert of["of"] == "the gradient of w[0, 0]"
    assert main(["grad", source, "--data", point, "--params", point, "--out", out]) == 0
    with np.load(out) as grads, np.load(point) as arrays:
        given = {name: arrays[name] for name in ("w", "x", "y")}
        assert np.isclose(grads["w"][0, 0], arrays["witness.found"], rtol=1e-5)
        expected = float(arrays["witness.expected"])
    assert np.isclose(expected, slope(given), rtol=1e-6)
    assert not np.isclose(float(of["found"]), expected, rtol=1e-2)


def slope(given: dict[str, np.ndarray], step: float = 1e-5) -> float:
    """The derivative of the loss by w[0, 0], by central differences in NumPy."""

    def loss(w: np.ndarray) -> float:
        logits = np.tanh(given["x"] @ w)
        rows = np.log(np.exp(logits).sum(1)) - logits[np.arange(2), given["y"]]
        return float(rows.mean())

    moved = np.zeros_like(given["w"])
    moved[0, 0] = step
    return (loss(given["w"] + moved) - loss(given["w"] - moved)) / (2 * step)


def compiled() -> tuple[Subject, Function]:
    """A small program with a softmax and a loop."""
    model = loads("""
        model m(x: float[3, 4]) -> float { param w: float[4] ~ normal(1)
          v = scan a in x carry h = w { h = h + softmax(a * h, axis = 0)
            yield h }
          return sum(v^2) }""")
    function = model.lower().function
    options = Options(lambda f: value_and_grad(f, ("w",)), verify=0)
    made = run_pipeline(function, options)
    last = [r.artifact for r in made.records if isinstance(r.artifact, Function)][-1]
    return Subject(("w",), made, made, {}, {}), last


def with_plan(subject: Subject, plan: Plan) -> Subject:
    """The same with another Plan."""
    records = list(subject.real.records)
    records[-1] = replace(records[-1], artifact=plan)
    run = Run(subject.real.source, tuple(records))
    return replace(subject, real=run, probe=run)


def test_a_refuted_kernel_has_a_witness() -> None:
    subject, last = compiled()
    plan = subject.real.plan
    refuted = 0
    for number, kernel in enumerate(plan.kernels):
        for fault in list(KERNEL_FAULTS.values())[:2]:
            for mutant in list(kernel_mutants(kernel, fault, 1, is_shuffled=True))[:2]:
                kernels = (*plan.kernels[:number], mutant, *plan.kernels[number + 1 :])
                wrong = with_plan(subject, replace(plan, kernels=kernels))
                (verdict,) = kernel_verdicts(wrong, 1, 1)
                refuted += verdict.status is Status.REFUTED
                check_witness(verdict, last, wrong)
    assert refuted >= 4


def check_witness(verdict: Verdict, last: Function, wrong: Subject) -> None:
    """A refuting point is finite, and both programs differ there in f64; without one nothing is
    refuted.
    """
    if verdict.status is not Status.REFUTED:
        assert not verdict.witness
        return
    assert verdict.point and verdict.witness["found"] != verdict.witness["expected"]
    values = [np.asarray(verdict.witness["values"][s.name]) for s in last.parameters]
    domain = NumpyArrays(DType.F64)
    right = run(domain, last, values)
    assert all(np.isfinite(x).all() for x in right)
    try:
        found = PlanProgram(last, wrong.real.plan).run(domain, values)
    except ExecutionError:
        return
    assert not all(np.allclose(x, y, rtol=1e-9) for x, y in zip(right, found, strict=True))


def test_a_faulty_plan_is_refuted_with_a_witness_or_left_undecided() -> None:
    subject, last = compiled()
    refuted = 0
    for fault in FAULTS:
        broken = fault(subject.real.plan, random.Random(3))
        if broken is None or not check_plan(broken):
            continue
        wrong = with_plan(subject, broken)
        (verdict,) = plan_verdicts(wrong)
        assert verdict.status in (Status.REFUTED, Status.UNDECIDED)
        check_witness(verdict, last, wrong)
        refuted += verdict.status is Status.REFUTED
    assert refuted >= 4


def test_plans_run_wherever_programs_do() -> None:
    """Kernels in a tower of fields and in cells of real points are what they are over one field."""
    subject, last = compiled()
    program = PlanProgram(last, subject.real.plan)
    assert tower_equal(last, program, 3, 4) == ()
    found = cells_equal(last, program, 3, 4)
    assert found.tried and found.differing == ()


def test_verify_and_plan_check_say_the_same() -> None:
    for text in RIGHT.values():
        model = loads(text)
        made = plan_memory(model.lower().function, model.gradient_of("params"), compile_options())
        assert made.check() == ()
