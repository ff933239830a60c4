"""The benchmark models compute the same loss and gradients in every system, and timing takes
turns.
"""

import time

import numpy as np
import pytest

from benchmarks.cases import CASES
from benchmarks.contenders import MAKERS, Contender, disagreement, make_gradc, make_torch
from benchmarks.harness import compare, main
from benchmarks.table import step_table
from gradc.runtime.bench import timing
from gradc.runtime.reports import profile
from tests.support.machines import made_up

# The long ones are compared when they are timed (``benchmarks/harness.py``); strips and windows
# have tests of their own (tests/passes/test_tile_masks.py, tests/llvm/test_llvm_windows.py).
LONG = (
    "attention",
    "resnet",
    "vgg",
    "residual",
    "mobilenet",
    "unet",
    "conv1d",
    "conv3d",
    "llama",
    "mixer",
    "vocabulary",
)
SHORT = [name for name in CASES if not name.startswith(LONG)]


@pytest.mark.parametrize("name", SHORT)
def test_gradc_agrees_with_torch_in_float64(name: str) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    case = CASES[name]
    expected = make_torch(case, 2, exact=True).result()
    assert disagreement(make_gradc(case, 2).result(), expected) < 1e-5


def test_disagreement_sees_one_wrong_entry() -> None:
    right = (1.0, {"w": np.array([[1.0, -4.0], [0.5, 2.0]])})
    wrong = (1.0, {"w": np.array([[1.0, -4.0], [0.54, 2.0]])})
    assert disagreement(right, right) == 0
    assert disagreement(wrong, right) == pytest.approx(0.01)
    with pytest.raises(ValueError, match="only one side"):
        disagreement((1.0, {}), right)


def test_a_peer_that_fails_says_so_in_its_row_and_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def step() -> object:
        raise RuntimeError("no kernel\nand a long trace")

    failing = Contender("jax", step, lambda: (0.0, {}))
    monkeypatch.setattr(profile, "limits", made_up)
    monkeypatch.setitem(MAKERS, "jax", lambda case, threads: failing)
    ours, theirs = compare(CASES["mlp_tiny"], ["jax"], 1, 0.01)
    assert ours["contender"] == "gradc" and ours["milliseconds"] is not None
    assert isinstance(ours["of_limit"], float) and ours["of_limit"] > 0
    assert theirs["contender"] == "jax" and theirs["milliseconds"] is None
    assert theirs["failure"] == "RuntimeError: no kernel"
    assert "jax fails: RuntimeError: no kernel" in capsys.readouterr().err
    assert step_table([ours, theirs])[-1].endswith(f"| - | - | - | - | {ours['of_limit']:.0%} |")


class Clock:
    """A clock that moves only when a step says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def step(self, name: str, seconds: float) -> None:
        self.now += seconds
        self.calls.append(name)


def test_turns_give_every_contender_its_own_median(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    steps = [lambda: clock.step("fast", 0.001), lambda: clock.step("slow", 0.004)]
    fast, slow = timing.take_turns(steps, 0.0)
    assert fast.median == pytest.approx(0.001)
    assert slow.median == pytest.approx(0.004)
    assert len(fast.rounds) == len(slow.rounds) == timing.MIN_ROUNDS
    assert timing.ratio(slow, fast) == pytest.approx(4.0)
    # Blocks of 50 ms hold 50 fast calls or 12 slow ones, each after one that does not count; who
    # begins a round changes.
    a, b = ["fast"] * 51, ["slow"] * 13
    assert clock.calls[-len(a + b) :] == a + b
    assert clock.calls[-2 * len(a + b) : -len(a + b)] == b + a


@pytest.mark.parametrize("flags", [["--models", "nothing"], ["--against", "gradc"]])
def test_unknown_models_and_peers_are_refused(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(flags)
    assert stopped.value.code == 2
    assert "there are" in capsys.readouterr().err
