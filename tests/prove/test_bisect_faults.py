"""`gradc bisect` names the first pass, op and line: seeded wrong passes, wrong numbers and NaN,
with a budget and without.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.ops.builder import Builder
from gradc.ir.tensor.core import Block, Function, Op
from gradc.passes import pipeline
from gradc.runtime.api import load
from gradc.runtime.cli import main

NET = """dim B, D = 16, H = 16
model net(x: float[B, D], y: float[B, H]) -> float {
    use a = dense(D, H)
    use b = dense(H, H)
    use c = dense(H, H)
    h = tanh(a(x))
    g = sin(b(h))
    q = tanh(c(g))
    return mean((exp(q * tanh(q)) - y)^2)
}
"""
BATCH = 256
SINE = 7  # the line of `sin`


def faulted(block: Block, fault: Callable[[Op], list[Op]], done: list[Op]) -> Block:
    """``block`` with its first sine, perhaps in a checkpoint, replaced by what ``fault`` makes of
    it.
    """
    ops: list[Op] = []
    for op in block.ops:
        if op.name == "sin" and not done:
            ops += fault(op)
            done.append(op)
        else:
            ops.append(replace(op, regions=tuple(faulted(r, fault, done) for r in op.regions)))
    return Block(block.parameters, tuple(ops))


def wrong_number(op: Op) -> list[Op]:
    return [replace(op, name="erf")]


def not_a_number(op: Op) -> list[Op]:
    """log of minus the square."""
    b = Builder()
    square = b.one("neg", b.one("mul", op.operands[0], op.operands[0]))
    return [*(replace(o, span=op.span) for o in b.ops), replace(op, name="log", operands=(square,))]


def seeded(monkeypatch: pytest.MonkeyPatch, name: str, fault: Callable[[Op], list[Op]]) -> None:
    """The pipeline with a pass that goes wrong."""

    def after(step: pipeline.PipelineStep) -> pipeline.PipelineStep:
        right = step.run

        def run(artifact: Any, options: pipeline.Options, hits: Counter[str]) -> Any:
            made = right(artifact, options, hits)
            assert isinstance(made, Function)
            done: list[Op] = []
            wrong = replace(made, block=faulted(made.block, fault, done))
            assert done
            return wrong

        return replace(step, run=run)

    steps = tuple(after(s) if s.name == name else s for s in pipeline.STEPS)
    monkeypatch.setattr(pipeline, "STEPS", steps)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    path, data = tmp_path / "net.grad", tmp_path / "in.npz"
    path.write_text(NET, encoding="utf-8")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH, 16)).astype(np.float32)
    np.savez(data, x=x, y=rng.normal(size=(BATCH, 16)).astype(np.float32))
    return str(path), str(data)


def budget_of(path: str) -> int:
    """One that makes the pipeline recompute something: that which a refusal says to allow."""
    with pytest.raises(DiagnosticError) as refused:
        load(path).plan(budget=64, dims={"B": BATCH})
    (allowed,) = re.findall(r"allow (\d+) bytes", refused.value.diagnostics[0].help)
    assert int(allowed) < load(path).plan(dims={"B": BATCH}).peak_bytes
    return int(allowed)


@pytest.mark.parametrize("fault", [wrong_number, not_a_number])
@pytest.mark.parametrize("step", ["simplify", "cse", "dce"])
@pytest.mark.parametrize("has_budget", [False, True])
def test_the_first_wrong_pass_op_and_line_are_named(
    step: str,
    fault: Callable[[Op], list[Op]],
    has_budget: bool,
    files: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, data = files
    more = ["--budget", str(budget_of(path))] if has_budget else []
    seeded(monkeypatch, step, fault)
    assert main(["bisect", path, "--data", data, "--json", *more]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["culprit"] == step
    assert "loss loss" in found["results"]
    assert any(f" = {name} " in found["op"] for name in ("erf", "log", "neg", "mul"))
    assert f"net.grad:{SINE}:" in found["place"]


def test_a_budget_changes_what_is_looked_at(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path, data = files
    assert main(["bisect", path, "--data", data, "--budget", str(budget_of(path))]) == 0
    assert "compute the same" in capsys.readouterr().out
    assert main(["bisect", path, "--data", data, "--budget", "64"]) == 1
    assert "budget" in capsys.readouterr().err
