"""A training step of every example and of what the benchmarks have besides: the same bits at both
ends of the front, the bytes predicted.

``python -m benchmarks.soak_memory --examples`` does the same for every point of every front, for
gradients without a step, and for 500 generated programs.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

import gradc
from benchmarks.soak_memory import main
from gradc.passes.budget import pareto
from gradc.passes.recompute.rematerialise import NOTHING
from gradc.runtime.native.load import compile_plan
from tests.support.memory_subjects import NOISY, Subject, check, names, of_model, run, subject

# Models of the benchmarks that an example has as well, or another benchmark with other sizes.
TWINS = ("gpt", "lstm", "mlp_small", "mlp_wide", "mlp_tiny", "attention_long", "lenet")
# Both ends of the front and the middle of it; the others at both ends.
LEVELS = ("lstm.grad", "noisy", "oscillator.py", "mlp_deep")


def chosen() -> list[str]:
    """All subjects but gradients that a step has in it, and twins."""
    steps = {n.replace(" step", " gradient") for n in names() if n.endswith(" step")}
    twins = tuple(f"benchmarks/models/{t}.grad" for t in TWINS)
    return [n for n in names() if n not in steps and not n.startswith(twins)]


@pytest.mark.parametrize("name", chosen())
def test_examples_keep_bytes_and_bits(name: str) -> None:
    outcome = check(subject(name), most=3 if any(part in name for part in LEVELS) else 2)
    assert outcome.faults == []
    assert outcome.tried == 2 * outcome.points > 0


def test_the_subjects_are_worth_looking_at() -> None:
    """All folders, steps and traced functions; chains, loops and states that have something to
    recompute.
    """
    found = names()
    assert len(found) > 60 and len(set(found)) == len(found)
    for part in ("examples/text", "examples/worked", "benchmarks/models", "step", "sine.py"):
        assert any(part in name for name in found)
    recomputing = ("examples/text/gpt.grad gpt step", "examples/text/lstm.grad char_lstm step")
    for name in (*recomputing, "noisy noisy step", "oscillator.py"):
        assert len(subject(name).policies(3)) > 1, name


@pytest.mark.parametrize("seed", (40, 42, 43))
def test_generated_programs_keep_bytes_and_bits(seed: int) -> None:
    assert check(subject(f"program {seed}"), most=4).faults == []


# ---- what the contract notices


def test_other_bits_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where something is recomputed, a program with one other function: same plan, other bits."""
    one = subject("noisy noisy gradient")
    other = of_model("other", gradc.loads(NOISY.replace("tanh(", "sin(")))
    honest = Subject.plan
    monkeypatch.setattr(
        Subject,
        "plan",
        lambda self, policy: honest(self if policy == NOTHING else other, policy),
    )
    faults = check(one, most=2).faults
    assert len(faults) == 2 and all("other bits" in fault for fault in faults)


def test_writes_beside_the_arena_are_noticed() -> None:
    """The same code with a block that is one cache line too short."""
    one = subject("examples/digits/mlp.grad mlp gradient")
    plan = one.plan(NOTHING)
    assert plan.arena_bytes > 64
    native = compile_plan(plan, threads=1, cache=False)
    assert run(native, one.arrays, 1, 1)[1] == []
    native.signature = replace(native.signature, arena_bytes=plan.arena_bytes - 64)
    assert run(native, one.arrays, 1, 1)[1] == ["writes beside the arena"]


def test_disagreements_reach_the_summary(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    """A front that promises other bytes than the plans have; the file, the status and resuming."""
    file = f"{tmp_path}/found.json"
    assert main(["--programs", "1", "--json", file]) == 0
    assert "1 programs" in (said := capsys.readouterr().out) and " 0 disagreements" in said
    monkeypatch.setattr(
        "tests.support.memory_subjects.pareto",
        lambda *a: [replace(p, peak_bytes=p.peak_bytes + 1) for p in pareto(*a)],
    )
    assert main(["--programs", "2", "--json", file, "--resume"]) == 1
    said = capsys.readouterr().out
    assert "program 1: nothing recomputed" in said and "program 0:" not in said
