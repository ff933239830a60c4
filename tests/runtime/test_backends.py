"""Every backend through the interface: the reference gives what the CPU gives, on every example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradc
from gradc.codegen.backend import MODULES, backend
from gradc.ir.tensor.bf16 import from_bf16
from gradc.runtime.bench.compare import random_inputs
from gradc.runtime.commands.flags import TARGETS
from gradc.runtime.native.compile import pipeline_options
from gradc.runtime.native.load import compile_plan
from tests.support.command_line import gradc as gradc_command
from tests.support.memory_subjects import BENCHMARKS, EXAMPLES, ROOT, losses, small

# Those that run on any machine; `cuda` has tests of its own (tests/cuda).
HERE = ("cpu", "reference")
# The CPU computes functions by polynomials of a few ulps and the reference by the C library; all
# sums have one order. Small differences grow through a network, relative to the largest entry.
TOLERANCE = 2e-5


def subjects() -> list[tuple[Path, str]]:
    """All examples, and of the benchmarks what they do not have: files and entries with a scalar
    loss.
    """
    others = [path for path in BENCHMARKS if path.stem in ("rows", "mlp_tiny")]
    return [(path, entry) for path, entry, _ in losses() if path in (*EXAMPLES, *others)]


def compared(found: Any, expected: Any) -> float:
    """The largest difference, relative to the largest entry."""
    scale = max(float(np.abs(expected).max(initial=0.0)), 1e-6)
    return float(np.abs(np.subtract(found, expected)).max(initial=0.0)) / scale


@pytest.mark.parametrize(("path", "entry"), subjects(), ids=lambda x: getattr(x, "stem", x))
def test_examples_on_the_reference(path: Path, entry: str) -> None:
    net = small(path, entry, B=3, T=5)
    wrt = "params" if net.params else "inputs"
    params, inputs = net.init(0), random_inputs(net, {}, 0)
    loss, grads = net.value_and_grad(wrt=wrt, threads=1)(params, **inputs)
    other, others = net.value_and_grad(wrt=wrt, target="reference")(params, **inputs)
    assert compared(other, loss) <= TOLERANCE
    assert list(grads) == list(others)
    for name, grad in grads.items():
        assert compared(others[name], grad) <= TOLERANCE, name


def test_bits_of_sums_and_maxima() -> None:
    """The same order and type: the same bits. (Leaves of products are f64 in the reference.)"""
    net = gradc.loads("""
        dim B = 37, D = 19
        model m(x: float[B, D]) -> float {
            param w: float[D] ~ normal(1)
            h = relu(x * w)
            return mean(h^2) + max(h) + sum(x)
        }
    """)
    params, x = net.init(3), np.random.default_rng(1).normal(size=(37, 19)).astype(np.float32)
    loss, grads = net.value_and_grad(wrt=["w", "x"])(params, x=x)
    other, others = net.value_and_grad(wrt=["w", "x"], target="reference")(params, x=x)
    assert loss.tobytes() == other.tobytes()
    assert all(np.array_equal(grads[n], others[n]) for n in grads)


def test_steps_train_on_the_reference() -> None:
    """States are updated in place, in bf16 as well; refused arrays are named as on the CPU."""
    net = small(ROOT / "examples" / "digits" / "mlp.grad", "mlp")
    inputs = random_inputs(net, {}, 0)
    losses = {}
    for target in HERE:
        step = net.train_step("adamw(lr=1e-2)", target=target)
        state = step.init(net.init(0))
        found = []
        for _ in range(3):
            loss, state = step(state, **inputs)
            found.append(float(loss))
        losses[target] = found
    np.testing.assert_allclose(losses["reference"], losses["cpu"], rtol=1e-4)
    f = net.value_and_grad(target="reference")
    with pytest.raises(gradc.DiagnosticError, match="x"):
        f(net.init(0), **{**inputs, "x": inputs["x"].astype(str)})


def test_functions_and_bf16_on_the_reference() -> None:
    def f(w: Any, x: Any) -> Any:
        return np.sum(np.tanh(x @ w) ** 2)

    w, x = np.random.default_rng(0).normal(size=(2, 6, 6))
    loss, grad = gradc.value_and_grad(f)(w, x)
    other, others = gradc.value_and_grad(f, target="reference")(w, x)
    np.testing.assert_allclose(other, loss, rtol=1e-12)
    np.testing.assert_allclose(others, grad, rtol=1e-10, atol=1e-12)
    path = ROOT / "examples" / "digits" / "mlp.grad"
    net = gradc.load(path, dims={"B": 4, "H": 8}, precision="bf16")
    given = random_inputs(net, {}, 0)
    given["x"] = from_bf16(given["x"])
    one = net.value_and_grad(threads=1)(net.init(0), **given)[0]
    two = net.value_and_grad(target="reference")(net.init(0), **given)[0]
    np.testing.assert_allclose(two, one, rtol=2e-2)


def test_code_of_the_reference_is_kept_and_found(tmp_path: Path, monkeypatch: Any) -> None:
    """The Plan's text travels through the object cache like any other code."""
    net = small(ROOT / "examples" / "digits" / "mlp.grad", "mlp")
    target = backend("reference").target(1)
    made = compile_plan(net.plan(target="reference").plan, threads=1, target="reference")
    assert made.signature.isa == target.name and made.arena_bytes == made.signature.arena_bytes
    again = net.value_and_grad(target="reference")
    params, inputs = net.init(0), random_inputs(net, {}, 0)
    assert again(params, **inputs)[0] == net.value_and_grad(target="reference")(params, **inputs)[0]


def test_what_the_reference_cannot_do_is_said() -> None:
    reference = backend("reference")
    with pytest.raises(gradc.DiagnosticError, match="instruction set"):
        reference.target(1, "avx2")
    net = small(ROOT / "examples" / "digits" / "mlp.grad", "mlp")
    plan = net.plan(target="reference").plan
    with pytest.raises(gradc.DiagnosticError, match="files"):
        reference.write([plan], "x", ROOT, reference.target(1))
    with pytest.raises(gradc.DiagnosticError, match="Plan"):
        reference.show("llvm", plan, reference.target(1))


def test_the_command_line_takes_a_target(tmp_path: Path) -> None:
    """Every subcommand that compiles, with one and with the other."""
    file = str(ROOT / "examples" / "digits" / "mlp.grad")
    net = gradc.load(file, dims={"B": 4})
    given: dict[str, Any] = dict(random_inputs(net, {}, 0))
    np.savez(tmp_path / "in.npz", **given)
    data = ["--data", str(tmp_path / "in.npz")]
    for target in HERE:
        more = ["--target", target]
        for command in (["plan", file, "-D", "B=4"], ["run", file, *data], ["grad", file, *data]):
            done = gradc_command(*command, *more)
            assert done.status == 0, done.err
    shown = ("compile", file, "-D", "B=4", "--target", "reference", "--emit")
    assert gradc_command(*shown, "plan").out.startswith("plan")
    assert "GC0564" in gradc_command(*shown, "llvm").err


def test_every_target_of_the_command_line_is_a_backend() -> None:
    assert tuple(MODULES) == TARGETS
    for name in MODULES:
        assert backend(name).about()
        net = small(ROOT / "examples" / "digits" / "mlp.grad", "mlp")
        asked = pipeline_options(None, net.value_and_grad(target=name).options)
        assert asked.scratch is not None and asked.target.threads >= 1


def test_reports_are_of_the_target_that_is_asked_for(tmp_path: Path) -> None:
    """Verification and diagnosis compile for it; a certificate says so, and replays on it."""
    net = gradc.loads("""
        model m(target: float[3]) -> float {
            param w: float[3] ~ normal(1)
            return mean((w - target)^2)
        }
    """)
    found = net.verify(target="reference", numbers=True, sympy=0)
    assert found.ok and found.accuracy
    assert found.options["target"] == "reference"
    assert [text for text in found.trusted if "NumPy, which runs" in text]
    assert "LLVM" not in " ".join(found.trusted)
    inputs = {"target": np.ones(3, np.float32)}
    kinds = {
        target: [f.kind for f in net.diagnosed(net.init(0), inputs, target=target).findings]
        for target in HERE
    }
    assert kinds["cpu"] == kinds["reference"]
    with pytest.raises(gradc.DiagnosticError, match="abacus"):
        net.verify(target="abacus")
