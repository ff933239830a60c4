"""The part of a forward program that some outputs depend on: inputs, parameters, dimensions and
ports alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import gradc
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.runtime.cli import main

TEXT = """
dim B, D = 4, C = 3, E
model net(x: float[B, D], y: int[B], w: float[B, E]) -> float {
    use first = dense(D, C)
    use second = dense(C, C)
    logits = first(x)
    output logits
    refined = tanh(second(logits))
    output refined
    return mean(cross_entropy(refined, y)) + mean(w^2)
}
"""
# The loss of a loop is made in the same scan as the states that an output is made of.
LOOP = """
dim T = 6, H = 3
model net(x: float[T, H], y: float[T, H]) -> float {
    param a: float[H, H] ~ normal(0.5)
    param scale: float[H] ~ ones
    scan u in x, v in y carry h = zeros([H]), cost = 0.0 {
        h = tanh(a @ h + u)
        cost = cost + sum(scale * (h - v)^2)
    }
    output last = h
    return cost
}
"""


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(5, 4)), rng.normal(size=(5, 7))
    return {
        "x": x.astype(np.float32),
        "y": rng.integers(0, 3, 5, dtype=np.int32),
        "w": w.astype(np.float32),
    }


@pytest.mark.parametrize("outputs", (["logits"], "refined", ["refined", "logits"], ["loss"]))
def test_chosen_outputs_are_those_of_the_whole_program(outputs: str | list[str]) -> None:
    net = gradc.loads(TEXT)
    params, given = net.init(3), arrays()
    whole = net.forward()(params, **given)
    names = [outputs] if isinstance(outputs, str) else outputs
    needed = given if "loss" in names else {"x": given["x"]}
    found = net.forward(outputs)(params, **needed)
    assert set(found) == set(names)
    for name in names:
        np.testing.assert_array_equal(found[name], whole[name])


def test_a_part_needs_only_its_own_parameters() -> None:
    net = gradc.loads(TEXT)
    params, x = net.init(3), arrays()["x"]
    forward = net.forward(["logits"])
    own = {name: params[name] for name in ("first.w", "first.b")}
    for given in (own, params):
        np.testing.assert_allclose(
            forward(given, x=x)["logits"], x @ own["first.w"] + own["first.b"], rtol=1e-5, atol=1e-6
        )
    with pytest.raises(DiagnosticError, match=r"GC0553.*first.b"):
        forward({"first.w": own["first.w"]}, x=x)
    with pytest.raises(DiagnosticError, match=r"GC0554.*frist"):
        forward({**own, "frist.w": own["first.w"]}, x=x)


def test_without_names_the_inputs_determine_the_outputs() -> None:
    net = gradc.loads(TEXT)
    params, given = net.init(3), arrays()
    forward = net.forward()
    assert list(forward(params, **given)) == ["loss", "logits", "refined"]
    some = forward(params, x=given["x"])
    assert set(some) == {"logits", "refined"}
    # Other shapes, and all inputs once more.
    assert forward(params, x=given["x"][:2])["logits"].shape == (2, 3)
    assert "loss" in forward(params, **arrays(1))
    with pytest.raises(DiagnosticError, match="every output depends on it"):
        forward(params, y=given["y"])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda net: net.forward(["logit"]), "did you mean `logits`"),
        (lambda net: net.forward([]), "the outputs are loss, logits, refined"),
        (lambda net: net.forward("loss")(net.init(), x=arrays()["x"]), "`loss` depends on it"),
        (lambda net: net.forward("logits")(net.init(), z=1), "no input `z`"),
        (lambda net: net.forward("logits")(net.init()), "`logits` depends on it"),
    ],
)
def test_what_does_not_fit_is_said(call: Callable[[gradc.Model], object], said: str) -> None:
    with pytest.raises(DiagnosticError) as problem:
        call(gradc.loads(TEXT))
    assert said in str(problem.value)


def test_a_part_of_a_loop_leaves_the_rest_of_it_out() -> None:
    net = gradc.loads(LOOP, precision="f64")
    params = net.init(1)
    x, y = np.random.default_rng(2).normal(size=(2, 6, 3))
    forward = net.forward(["last"])
    found = forward({"a": params["a"]}, x=x)["last"]
    np.testing.assert_array_equal(found, net.forward()(params, x=x, y=y)["last"])
    state = np.zeros(3)
    for row in x:
        state = np.tanh(params["a"] @ state + row)
    np.testing.assert_allclose(found, state, rtol=1e-12)


TENSOR = """
dim B = 2, D = 3
model net(x: float[B, D]) -> float[B, D] {
    scores = RETURNED
    return scores
}
"""


def test_an_array_that_a_model_returns_keeps_its_name() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    named = gradc.loads(TENSOR.replace("RETURNED", "2 * x"))
    assert list(named.outputs) == ["scores"]
    np.testing.assert_array_equal(named.forward("scores")({}, x=x)["scores"], 2 * x)
    assert named.jacobian("x")({}, x=x)["x"].shape == (2, 3, 2, 3)
    results, cotangents = named.vjp("inputs")({}, {"scores": x}, x=x)
    np.testing.assert_array_equal(cotangents["x"], 2 * x)
    assert list(results) == ["scores"]
    without = TENSOR.replace("scores = RETURNED\n", "").replace("return scores", "return 2 * x")
    assert list(gradc.loads(without).outputs) == ["result"]
    both = TENSOR.replace("RETURNED", "2 * x").replace("return", "output scores\n    return")
    assert list(gradc.loads(both).outputs) == ["result", "scores"]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "net.grad"
    path.write_text(TEXT)
    return path


def test_run_needs_only_what_its_outputs_depend_on(
    program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = program.with_suffix(".npz")
    np.savez(data, x=arrays()["x"])
    for flags, names in (
        ([], {"logits", "refined"}),
        (["--outputs", "logits"], {"logits"}),
    ):
        assert main(["run", str(program), "--data", str(data), "--json", *flags]) == 0
        assert set(json.loads(capsys.readouterr().out)["shapes"]) == names
    assert main(["run", str(program), "--data", str(data), "--outputs", "loss"]) == 1
    assert "`loss` depends on it" in capsys.readouterr().err


def test_artifacts_have_ports_for_what_is_needed(
    program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = program.parent / "out"
    command = ["compile", str(program), "--forward", "--outputs", "logits", "-o", str(out)]
    # E is a dimension of what is left out.
    assert main([*command, "-D", "B=2", "--emit", "header", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["entries"]
    assert [p["name"] for p in entry["ports"]] == ["first.w", "first.b", "x", "logits"]
    header = (out / "net.h").read_text()
    assert "NET_PORTS = 4" in header and "NET_Y" not in header
    assert main(command) == 1
    message = capsys.readouterr().err
    assert "no value: `B`" in message and "`E`" not in message
    assert main(["compile", str(program), "-D", "B=2", "--outputs", "logits", "-o", "x"]) == 1
    assert "add --forward" in capsys.readouterr().err
