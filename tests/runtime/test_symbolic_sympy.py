"""SymPy as an independent differentiator: its derivatives are right, agree with the adjoint, and
catch wrong ones.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import gradc
from gradc.codegen.symbolic.sympy.check import Late, NoDerivative, TooLong, derivative
from gradc.codegen.symbolic.sympy.program import to_sympy
from gradc.frontend.program import loads
from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.domains.straight import evaluate, from_json, to_json
from gradc.ir.tensor.core import Block, DType, Function, Op, Role
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.prove.domains.balls import BallArrays
from gradc.passes.prove.programs.independent import Compared, integers_of
from gradc.passes.prove.programs.independent import compare as compare_with
from gradc.passes.prove.report import Status
from gradc.passes.prove.rules.refute import real_point
from gradc.runtime.cli import main
from tests.support.generate import random_program

WORKED = Path(__file__).resolve().parent.parent.parent / "examples" / "worked"

MODELS = {
    "tanh": "model m(x: float[2, 2], y: int[2]) -> float {\n use a = dense(2, 3)\n"
    " return mean(cross_entropy(tanh(a(x)), y))\n}",
    "relu": "model m(x: float[2, 2], y: float[2, 3]) -> float {\n use a = dense(2, 3)\n"
    " return mse(relu(a(x)), y)\n}",
    "layernorm": "model m(x: float[2, 3]) -> float {\n use a = layernorm(3)\n return "
    "mean(a(x)^3)\n}",
    "batchnorm": "model m(x: float[3, 2]) -> float {\n use a = batchnorm(2)\n"
    " return mean(a(x)^3)\n}",
    "lstm": "model m(x: float[2, 1, 2]) -> float {\n use a = lstm(2, 2)\n return mean(a(x)^2)\n}",
    "attention": "model m(x: float[1, 2, 2]) -> float {\n use a = attention(2, 1)\n"
    " return mean(a(x)^2)\n}",
    "gelu": "model m(x: float[3]) -> float { return sum(gelu(x) * softplus(x)) }",
    "extrema": "model m(x: float[4]) -> float { return max(x) * min(x) + sum(abs(x)) }",
}


def gradient_of(text: str) -> tuple[Function, Function]:
    function = loads(text).lower().function
    names = [
        s.name
        for s, v in zip(function.parameters, function.block.parameters, strict=True)
        if s.role.value in ("param", "input") and v.type.dtype.is_float
    ]
    return function, value_and_grad(function, names)


def names_of(gradient: Function) -> list[str]:
    return [s.name for s in gradient.results if s.role is Role.COTANGENT]


def compare(function: Function, gradient: Function) -> dict[str, Compared]:
    theirs = derivative(function, names_of(gradient), integers_of(function), 60.0)
    return compare_with(function, gradient, theirs)


@pytest.mark.parametrize("name", list(MODELS))
def test_the_adjoint_agrees_with_sympy(name: str) -> None:
    found = compare(*gradient_of(MODELS[name]))
    assert found
    assert {c.status for c in found.values()} <= {Status.PROVED_SHAPE, Status.AGREES}, found
    assert all(c.detail.startswith(("equal as exact", "50 digits")) for c in found.values()), found


def test_small_gradients_are_equal_as_exact_fractions() -> None:
    function, gradient = gradient_of("model m(x: float[3]) -> float { return sqrt(sum(x^2)) }")
    (found,) = compare(function, gradient).values()
    assert found == Compared(Status.PROVED_SHAPE, "equal as exact fractions, 1 cell of guards")


def test_every_cell_of_guards_is_looked_at() -> None:
    text = "model m(x: float[3]) -> float { return sum(relu(x)^2) }"
    (found,) = compare(*gradient_of(text)).values()
    assert found.status is Status.PROVED_SHAPE
    assert found.detail == "equal as exact fractions, 8 cells of guards"


def test_the_derivative_travels_as_json() -> None:
    function, gradient = gradient_of(MODELS["tanh"])
    theirs = derivative(function, names_of(gradient), integers_of(function), 60.0)
    assert from_json(to_json(theirs)) == theirs


def test_the_derivative_is_that_of_finite_differences() -> None:
    """Independent of every rule of ours and of SymPy's."""
    function, gradient = gradient_of(MODELS["layernorm"])
    names = names_of(gradient)
    theirs = derivative(function, names, {}, 60.0)
    at = real_point(function, 2)
    balls = BallArrays()
    with balls.quiet():
        flat = {
            slot.name: list(x.reshape(-1))
            for slot, x in zip(function.parameters, at.values, strict=True)
        }
        slopes = evaluate(theirs, balls.scalars, flat)
    f64, step = NumpyArrays(DType.F64), 1e-6
    for number, slot in enumerate(function.parameters):
        base = np.asarray(at.numbers[number])
        for place in range(base.size):
            losses = []
            for sign in (1, -1):
                moved = base.copy()
                moved.reshape(-1)[place] += sign * step
                values = [*at.numbers[:number], moved, *at.numbers[number + 1 :]]
                losses.append(float(run(f64, function, values)[0]))
            expected = (losses[0] - losses[1]) / (2 * step)
            assert float(slopes[slot.name][place]) == pytest.approx(expected, rel=1e-5, abs=1e-7)


def _mutated(function: Function, name: str, to: str) -> Function:
    """``function`` with the last op called ``name`` replaced."""
    ops = list(function.block.ops)
    place = max(i for i, op in enumerate(ops) if op.name == name)
    changed: Op = replace(ops[place], name=to)
    ops[place] = changed
    swap = {a: b for a, b in zip(function.block.ops[place].results, changed.results, strict=True)}
    assert all(a is b for a, b in swap.items())
    return replace(function, block=Block(function.block.parameters, tuple(ops)))


@pytest.mark.parametrize(
    ("name", "old", "new"), [("tanh", "sub", "add"), ("layernorm", "mul", "add")]
)
def test_a_wrong_adjoint_differs_at_a_point(name: str, old: str, new: str) -> None:
    function, gradient = gradient_of(MODELS[name])
    found = compare(function, _mutated(gradient, old, new))
    wrong = [c for c in found.values() if c.status is Status.REFUTED]
    assert wrong
    assert wrong[0].point
    assert "SymPy has" in wrong[0].detail


def test_a_gradient_scaled_by_little_is_refuted() -> None:
    """A factor of 1 + 2^-30, which finite differences never see."""
    function, gradient = gradient_of(MODELS["tanh"].replace("tanh(a(x))", "a(x) * 1.000000000931"))
    right, _ = gradient_of(MODELS["tanh"].replace("tanh(a(x))", "a(x) * 1.0"))
    assert all(c.status is not Status.REFUTED for c in compare(function, gradient).values())
    theirs = derivative(right, names_of(gradient), integers_of(right), 60.0)
    found = compare_with(right, gradient, theirs)
    assert any(c.status is Status.REFUTED for c in found.values())


def test_time_and_size_are_limited() -> None:
    function, gradient = gradient_of(MODELS["relu"])
    with pytest.raises(Late):
        derivative(function, names_of(gradient), {}, 0.0)
    with pytest.raises(TooLong, match="more than 10 scalar operations"):
        derivative(function, names_of(gradient), {}, 60.0, most=10)


def test_stop_gradient_stops_sympy_too() -> None:
    function, gradient = gradient_of(
        "model m(x: float[3]) -> float { return sum(x * stop_gradient(x * x)) }"
    )
    (found,) = compare(function, gradient).values()
    assert found.status is Status.PROVED_SHAPE


def test_sympys_own_gradient_is_the_compiled_one() -> None:
    """W3 as an expression, differentiated by ``sympy.diff`` as a whole."""
    net = gradc.load(WORKED / "w03.grad")
    program = net.to_sympy()
    w, b, x, y = (program.symbols[n].item() for n in ("w", "b", "x", "y"))
    assert sp.expand(program.loss - (w * x + b - y) ** 2) == 0
    slope = program.gradient(["w"]).whole(program.gradient(["w"]).results["w"].item())
    assert sp.expand(slope - sp.diff((w * x + b - y) ** 2, w)) == 0
    assert slope.subs({w: 2, x: 3, b: 1, y: 8}) == -6


def test_steps_share_and_stay_linear() -> None:
    """Forty squarings one after another are forty steps, and so is the derivative."""
    lines = "\n".join("    h = h * h + h" for _ in range(40))
    text = f"model m(x: float) -> float {{\n    h = x\n{lines}\n    return h\n}}"
    program = to_sympy(loads(text).lower().function)
    assert len(program.steps) == 80
    assert len(program.gradient(["x"]).steps) < 400


def test_too_large_is_a_diagnostic() -> None:
    net = gradc.load(WORKED / "w20.grad", entry="many_to_one")
    with pytest.raises(gradc.DiagnosticError, match="GC0591"):
        net.to_sympy()


def test_emit_sympy(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(WORKED / "w03.grad")
    assert main(["compile", path, "--emit", "sympy", "--wrt", "w,b"]) == 0
    shown = capsys.readouterr().out
    assert "t1 = w*x" in shown
    assert "d loss / d w = " in shown


def test_integers_are_given_as_numbers() -> None:
    function, _ = gradient_of(MODELS["tanh"])
    ones = to_sympy(function, {"y": np.array([1, 1])})
    zeros = to_sympy(function, {"y": np.array([0, 0])})
    assert ones.loss != zeros.loss


def test_integers_that_depend_on_symbols_are_a_diagnostic() -> None:
    text = "model m(x: float[3]) -> float { return sum(x) * cast(argmax(x), float) }"
    with pytest.raises(gradc.DiagnosticError, match="GC0591"):
        gradc.loads(text).to_sympy()
    report = gradc.loads(text).verify(wrt="inputs")
    (row,) = report.of("sympy")
    assert row.status is Status.SKIPPED
    assert "the place of the largest" in row.detail


@pytest.mark.parametrize("seed", [1, 7, 11, 19, 29])
def test_random_programs_are_not_refuted(seed: int) -> None:
    program = random_program(seed, empty=False)
    function, names = program.function, list(program.differentiable)
    try:
        theirs = derivative(function, names, {}, 60.0)
    except NoDerivative:
        pytest.skip("SymPy cannot write it down")
    found = compare_with(function, value_and_grad(function, names), theirs)
    assert {c.status for c in found.values()} <= {
        Status.PROVED_SHAPE,
        Status.AGREES,
        Status.SKIPPED,
    }, found
