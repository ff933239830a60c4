"""Loops that cut their derivative, and pullbacks that are wrong: every parameter gets a verdict
that says why.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.dual import Dual, DualArrays
from gradc.ir.domains.interpret import run
from gradc.ir.tensor.core import DType, Function, Role, walk
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.prove.programs.cuts import with_cuts
from gradc.passes.prove.report import Status
from gradc.passes.prove.rules.gradient import test_gradient as compare_gradient
from gradc.runtime.api import load, loads

PROGRAMS = Path(__file__).resolve().parent.parent / "programs"
LOOP = """dim T = 7, D = 2
model net(x: float[T, D], w: float[D]) -> float {
    hs = scan row in REVERSED carry h = zeros([D]) truncate WINDOW {
        h = tanh(w * h + row)
        yield h * h
    }
    return sum(hs * x)
}
"""


def looped(window: int, is_reverse: bool) -> Function:
    text = LOOP.replace("WINDOW", str(window)).replace("REVERSED", "x[::-1]" if is_reverse else "x")
    return loads(text, precision="f64").lower().function


@pytest.mark.parametrize("window", [1, 2, 3, 7, 9])
@pytest.mark.parametrize("is_reverse", [False, True])
def test_a_chain_of_loops_computes_the_same_and_has_the_cut_derivative(
    window: int, is_reverse: bool
) -> None:
    function = looped(window, is_reverse)
    chain = with_cuts(function)
    assert not any(op.attributes.get("truncate") for op in walk(chain.block))
    f64, rng = NumpyArrays(DType.F64), np.random.default_rng(window)
    values = [rng.normal(size=v.type.static_shape) for v in function.block.parameters]
    assert np.allclose(run(f64, function, values)[0], run(f64, chain, values)[0], rtol=1e-14)
    cts = run(f64, value_and_grad(function, ["x", "w"]), values)[1:]
    directions = [rng.normal(size=v.shape) for v in values]
    duals = [Dual(x, v) for x, v in zip(values, directions, strict=True)]
    tangent = run(DualArrays(f64), chain, duals)[0].tangent
    inner = sum(float((ct * v).sum()) for ct, v in zip(cts, directions, strict=True))
    assert float(tangent) == pytest.approx(inner, rel=1e-12)


def test_another_window_is_another_gradient() -> None:
    gradient = value_and_grad(looped(2, False), ["w"])
    assert compare_gradient(with_cuts(looped(2, False)), gradient, 3, 2).agrees["w"]
    assert not compare_gradient(with_cuts(looped(3, False)), gradient, 3, 2).agrees["w"]


def test_every_parameter_of_everything_has_a_verdict() -> None:
    """Its own pullback is refuted and its loop is cut; neither leaves a parameter undecided."""
    report = load(PROGRAMS / "everything.grad").verify(sympy=0)
    assert not [str(v) for v in report.verdicts if v.status is Status.UNDECIDED]
    assert [v.status for v in report.of("pullback")] == [Status.REFUTED]
    assert all(v.status is Status.PROBABLE for v in report.of("parameter"))


WRONG = """dim D = 3
fn wrong(x: float[D]) -> float[D] {
    return x * x
    pullback(ct) { return 3 * x * ct }
}
model net(x: float[D]) -> float {
    param w: float[D] ~ normal(1)
    param v: float[D] ~ normal(1)
    return sum(wrong(x * w)) + sum(v * x)
}
"""


def test_a_refuted_pullback_is_named_where_it_does_harm() -> None:
    report = loads(WRONG).verify(sympy=0)
    found = {v.subject: v for v in report.of("parameter")}
    assert found["w"].status is Status.REFUTED
    assert found["w"].point
    assert "depends on the refuted pullback" in found["w"].detail
    assert found["v"].status is Status.PROBABLE


def test_roles_survive() -> None:
    chain = with_cuts(looped(2, False))
    assert [s.role for s in chain.results] == [Role.LOSS]
