"""Updates of parameters as one op each: what they compute, and that passes look at few of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gradc
from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.verify import check_function
from gradc.ir.tensor.core import Function, Role
from gradc.ir.tensor.text import parse_function, print_function
from gradc.passes.pipeline import run_pipeline
from gradc.passes.simplify import dce, factors
from gradc.runtime.native.compile import compile_options, pipeline_options

TEXT = """
dim B = 4, D = 3, L = 5
layer block(D) {
    use fc = dense(D, D)
    param gain: float ~ ones
    apply(h: float[B, D]) -> float[B, D] { return gain * tanh(fc(h)) }
}
model chain(x: float[B, D], y: float[B, D]) -> float {
    use blocks = block(D) * L
    h = x
    for b in blocks { h = b(h) }
    return mean((h - y)^2)
}
"""
HOW: list[tuple[str, dict[str, Any]]] = [
    ("adamw(lr=1e-2)", {}),
    ("adamw(lr=1e-2)", {"decay_on": "all", "schedule": "cosine(peak=1e-2, total=9)"}),
    ("sgd(lr=.1)", {"clip_norm": 0.05}),
    ("momentum(lr=.1)", {"clip_value": 0.01}),
    ("nesterov(lr=.1)", {"clip_value": 0.01, "clip_norm": 0.05}),
    ("rmsprop(lr=.1)", {"loss_scale": 64.0}),
]


def step_of(layers: int, optimizer: str, precision: str = "f32", **how: Any) -> Function:
    net = gradc.loads(TEXT, dims={"L": layers}, precision=precision)
    return net.train_step(optimizer, **how).function()


def arrays_of(function: Function) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    made = []
    for slot, value in zip(function.parameters, function.block.parameters, strict=True):
        shape, dtype = value.type.static_shape, value.type.dtype.value.replace("f", "float")
        is_step = slot.role is Role.HYPER
        numbers = np.full(shape, 4) if is_step else np.abs(rng.normal(size=shape)) + 0.1
        made.append(numbers.astype("int32" if is_step else dtype))
    return made


def results(function: Function, given: list[np.ndarray]) -> list[np.ndarray]:
    return [np.asarray(a) for a in run(NumpyArrays(), function, given)]


@pytest.mark.parametrize(("optimizer", "how"), HOW)
def test_an_outlined_update_is_the_update(optimizer: str, how: dict[str, Any]) -> None:
    """Against the step that nothing guards, which is written out; and it changes nothing where a
    number is not finite.
    """
    guarded = step_of(2, optimizer, "f64", **how)
    plain = step_of(2, optimizer, "f64", guard=False, **how)
    assert sum(op.name == "fusion" for op in guarded.block.body) == 6
    assert not any(op.name == "fusion" for op in plain.block.body)
    given = arrays_of(guarded)
    found, expected = results(guarded, given), results(plain, given)
    for slot, one, other in zip(plain.results, found, expected, strict=False):
        np.testing.assert_array_equal(one, other, err_msg=slot.name)
    given[-1][0, 0] = np.inf
    stopped = results(guarded, given)
    before = {(s.name, s.role): a for s, a in zip(guarded.parameters, given, strict=True)}
    for slot, array in zip(guarded.results, stopped, strict=True):
        if (slot.name, slot.role) in before:
            np.testing.assert_array_equal(array, before[slot.name, slot.role], err_msg=slot.name)
    assert stopped[-1]


def test_parameters_of_a_type_share_their_region() -> None:
    function = step_of(7, "adamw(lr=1e-2)")
    updates = [op for op in function.block.body if op.name == "fusion"]
    assert len(updates) == 3 * 7
    assert len({id(op.regions[0]) for op in updates}) == 3
    assert check_function(function) == ()
    text = print_function(function)
    assert print_function(parse_function(text)) == text


def test_regions_that_ops_share_are_looked_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = (step_of(layers, "adamw(lr=1e-2)") for layers in (2, 7))
    seen: list[object] = []
    live_ops, block = dce.live_ops, factors._block

    def counted_ops(*given: Any) -> Any:
        seen.append(given)
        return live_ops(*given)

    def counted_block(*given: Any) -> Any:
        seen.append(given)
        return block(*given)

    monkeypatch.setattr(dce, "live_ops", counted_ops)
    monkeypatch.setattr(factors, "_block", counted_block)
    for walk in (dce.dce, factors.take_out):
        counts = []
        for function in (few, many):
            seen.clear()
            walk(function)
            counts.append(len(seen))
        assert counts[0] == counts[1] > 1


def test_a_parameter_more_costs_passes_few_ops() -> None:
    def planned(layers: int, is_step: bool) -> tuple[int, int]:
        net = gradc.loads(TEXT, dims={"L": layers})
        program = net.train_step("adamw(lr=1e-2)").program()
        derive = program.derive if is_step else program.gradient
        run = run_pipeline(program.source, pipeline_options(derive, compile_options(threads=1)))
        function = run.after("dce")
        assert isinstance(function, Function)
        return len(function.block.body), len(run.plan.kernels)

    (few, kernels), (many, same) = planned(2, True), planned(6, True)
    (few_alone, _), (many_alone, _) = planned(2, False), planned(6, False)
    # Size, largest, largest of all, and the update.
    assert (many - few) - (many_alone - few_alone) <= 4 * 3 * 4
    assert kernels == same
