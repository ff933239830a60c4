"""SymPy as an independent differentiator: its derivatives are right, agree with the adjoint, and catch wrong ones."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import gradc
from gradc.codegen.symbolic.check import Checked, compare, symbolic_check
from gradc.codegen.symbolic.program import to_sympy
from gradc.frontend.program import loads
from gradc.ir.core import Block, Function, Op
from gradc.passes.differentiate import value_and_grad
from gradc.runtime.cli import main

WORKED = Path(__file__).resolve().parent.parent / "examples" / "worked"

MODELS = {
    "tanh": "model m(x: float[2, 2], y: int[2]) -> float {\n use a = dense(2, 3)\n"
    " return mean(cross_entropy(tanh(a(x)), y))\n}",
    "relu": "model m(x: float[2, 2], y: float[2, 3]) -> float {\n use a = dense(2, 3)\n"
    " return mse(relu(a(x)), y)\n}",
    "layernorm": "model m(x: float[2, 3]) -> float {\n use a = layernorm(3)\n return mean(a(x)^3)\n}",
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


@pytest.mark.parametrize("name", list(MODELS))
def test_the_adjoint_agrees_with_sympy(name: str) -> None:
    found = compare(*gradient_of(MODELS[name]))
    assert found
    assert {c.outcome for c in found} <= {"equal", "agrees"}, found


def test_small_gradients_are_equal_as_expressions() -> None:
    function, gradient = gradient_of("model m(x: float[3]) -> float { return sqrt(sum(x^2)) }")
    (found,) = compare(function, gradient)
    assert found == Checked("x", "equal", "3 entries as expressions")


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
    wrong = [c for c in found if c.outcome == "differs"]
    assert wrong
    assert wrong[0].point
    assert "SymPy has" in wrong[0].detail


def test_the_worker_answers_in_time_or_says_so() -> None:
    function, gradient = gradient_of(MODELS["relu"])
    found = symbolic_check(function, gradient)
    assert {c.outcome for c in found.values()} <= {"equal", "agrees"}
    late = symbolic_check(function, gradient, seconds=0.01)
    assert {c.outcome for c in late.values()} == {"undecided"}


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
