"""A step whose loss or gradients are not finite changes nothing, and names where they began."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradc
from gradc.runtime.cli import main
from gradc.runtime.files.batches import permutation
from gradc.runtime.files.data import load_safetensors
from gradc.runtime.model.recipe import Recipe
from gradc.runtime.model.state import StoppedStep, TrainState
from gradc.runtime.model.step import TrainStep
from gradc.runtime.native.compile import compile_options
from tests.support.rank_threads import ThreadRanks, in_ranks

# The loss is finite in all of them; the mark stands in the line to be told.
ROOT = """
dim B
model m(x: float[B, 4]) -> float {
    use fc = dense(4, 3)
    h = fc(x)
    return mean(sqrt(sum(x^2, axis = -1) * sum(h^2, axis = -1)))  # here
}
"""
# A norm of the rows of hidden units, through a layer that keeps statistics and one that draws.
KEPT = """
dim B
model m(x: float[B, 4]) -> float {
    use fc = dense(4, 3)
    use norm = batchnorm(4)
    z = fc(norm(dropout(x, 0.2)))
    far = mean((z - 1)^2)
    return far + mean(sqrt(sum((x - x[0])^2 * mean(z^2), axis = -1)))  # here
}
"""
SMALL = """
dim B
model m(x: float[B, 4]) -> float {
    use fc = dense(4, 3)
    z = fc(x) * 0.001
    s = z * 200  # here
    return mean(s * 400)
}
"""
BELOW = """
dim B
model m(x: float[B, 4]) -> float {
    use fc = dense(4, 3)
    gap = max(sum(fc(x)^2, axis = -1), 0.0)
    return mean(gap^0.25)  # here
}
"""


def rows(count: int = 8, zeros: bool = True) -> dict[str, Any]:
    x = np.random.default_rng(3).standard_normal((count, 4)).astype(np.float32)
    if zeros:
        x[-1] = 0
    return {"x": x}


def copied(state: TrainState) -> dict[str, Any]:
    return {name: array.copy() for name, array in state.arrays.items()}


def same(state: TrainState, before: dict[str, Any]) -> None:
    for name, array in before.items():
        np.testing.assert_array_equal(state.arrays[name], array, err_msg=name)


def line_of(text: str) -> int:
    return next(n for n, line in enumerate(text.splitlines(), 1) if "# here" in line)


@pytest.mark.parametrize(
    ("text", "precision", "recipe", "target"),
    [
        (ROOT, "f32", {"optimizer": "adamw(lr=1e-3)"}, "cpu"),
        (ROOT, "f32", {"optimizer": "sgd(lr=1e-2)", "clip_norm": 1.0}, "cpu"),
        (ROOT, "bf16", {"optimizer": "momentum(lr=1e-2)", "clip_value": 1.0}, "cpu"),
        (ROOT, "f64", {"optimizer": "adam(lr=1e-3)"}, "reference"),
        (KEPT, "f32", {"optimizer": "rmsprop(lr=1e-3)"}, "cpu"),
        (SMALL, "f16", {"optimizer": "sgd(lr=1e-3)", "loss_scale": 1024.0}, "cpu"),
        (BELOW, "f16", {"optimizer": "sgd(lr=1e-3)", "accumulate": 4}, "cpu"),
    ],
)
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_named(
    text: str, precision: str, recipe: dict[str, Any], target: str
) -> None:
    net = gradc.loads(text, precision=precision)
    step = net.train_step(target=target, **recipe)
    state = step.init(net.init(0))
    good = rows(zeros=False)
    if text not in (KEPT, SMALL):
        for _ in range(2):
            step(state, **good)
    before = copied(state)
    for _ in range(2):  # the second time by the fast way
        with pytest.raises(StoppedStep) as caught:
            step(state, **rows())
        same(state, before)
    said, origin = caught.value.diagnostics
    assert said.code == "GC0806" and "nothing was updated" in said.notes[0]
    assert np.isfinite(caught.value.loss) and f"step {state.step + 1}" in said.message
    assert origin.code == "GC0809" and origin.span is not None
    assert origin.span.line == line_of(text), origin.message
    assert "of the gradient" in origin.message


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    net = gradc.loads(ROOT.replace("mean(sqrt(", "mean(log(0.5 - mean(x)) + sqrt("))
    step = net.train_step("adam(lr=1e-3)")
    state = step.init(net.init(0))
    before = copied(state)
    with pytest.raises(StoppedStep, match="the loss became nan at step 1"):
        step(state, x=rows()["x"] + np.float32(2))
    same(state, before)


def test_what_is_not_guarded_goes_on() -> None:
    net = gradc.loads(ROOT)
    step = net.train_step("sgd(lr=1e-2)", guard=False)
    state = step.init(net.init(0))
    loss, _ = step(state, **rows())
    assert np.isfinite(loss) and state.step == 1
    assert not np.isfinite(state.params["fc.w"]).all()
    with pytest.raises(gradc.DiagnosticError, match="guard is True or False"):
        net.train_step("sgd(lr=1e-2)", guard=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("clip", [None, 0.1])
def test_a_guard_changes_no_bit_of_a_finite_step(clip: float | None) -> None:
    net = gradc.loads(KEPT.replace("(x - x[0])", "x"))
    states = []
    for guard in (True, False):
        step = net.train_step("adamw(lr=1e-2)", clip_norm=clip, guard=guard)
        state = step.init(net.init(0))
        losses = [step(state, **rows(zeros=False))[0] for _ in range(4)]
        states.append({**state.arrays, "losses": np.array(losses)})
    for name, array in states[0].items():
        np.testing.assert_array_equal(states[1][name], array, err_msg=name)


def test_a_gradient_beyond_f32_is_finite_in_f64() -> None:
    net = gradc.loads(SMALL.replace("s * 400", "s * 1e200"), precision="f64")
    step = net.train_step("sgd(lr=1e-210)")
    state = step.init(net.init(0))
    step(state, x=rows()["x"].astype(np.float64))
    assert state.step == 1


@pytest.mark.parametrize("target", ["cpu", "reference"])
def test_a_queue_ends_at_the_step_that_is_stopped(target: str) -> None:
    net = gradc.loads(ROOT)
    step = net.train_step("adamw(lr=1e-2)", target=target)
    good, bad = rows(zeros=False)["x"], rows()["x"]
    one, many = (step.init(net.init(0)) for _ in range(2))
    for _ in range(3):
        step(one, x=good)
    with pytest.raises(StoppedStep, match="a gradient is not finite at step 4"):
        step.many(6, many, x=np.stack([good, good, good, bad, good, good]))
    same(many, one.arrays)


@pytest.mark.parametrize("parts", [2, 3])
def test_all_ranks_stop_with_the_state_of_one(parts: int) -> None:
    net = gradc.loads(ROOT)
    recipe = Recipe("adamw(lr=1e-2)", accumulate=parts)

    def train(world: ThreadRanks) -> dict[str, Any]:
        step = TrainStep(net, recipe, compile_options(threads=1), world)
        state = step.init(net.init(1))
        step(state, x=step.rows_of(rows(6, zeros=False)["x"]))
        for _ in range(2):
            with pytest.raises(StoppedStep, match="a gradient is not finite at step 2"):
                step(state, x=step.rows_of(rows(6)["x"]))
        step(state, x=step.rows_of(rows(6, zeros=False)["x"]))
        return state.arrays

    (one,) = in_ranks(1, train)
    assert one["step"] == 2
    for state in in_ranks(2, train):
        for name, array in one.items():
            np.testing.assert_array_equal(array, state[name], err_msg=name)


def test_training_saves_the_state_of_the_step_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one bad sample comes in some step of the first epoch; what is on disk ends before it."""
    (tmp_path / "root.grad").write_text(ROOT)
    np.savez(tmp_path / "data.npz", **rows(60))
    files = [str(tmp_path / "root.grad"), "--data", str(tmp_path / "data.npz")]
    run = ["--out", str(tmp_path / "run"), "--batch", "4", "--epochs", "1", "--seed", "3"]
    command = ["train", *files, *run, "--optimizer", "adam(lr=1e-3)"]
    assert main(command) == 1
    shown = capsys.readouterr().err
    newest = max((tmp_path / "run").glob("step-*"))
    done = int(newest.stem.removeprefix("step-"))
    assert done > 1 and f"a gradient is not finite at step {done + 1}" in shown
    assert f"step {done} is saved" in shown and "root.grad:6" in shown
    kept, _ = load_safetensors(newest)
    assert kept["step"] == done and all(np.isfinite(a).all() for a in kept.values())
    # The same steps by hand, up to there.
    net = gradc.loads(ROOT)
    step = net.train_step("adam(lr=1e-3)")
    state = step.init(net.init(3))
    order, x = permutation(3, 0, 60), rows(60)["x"]
    for n in range(done):
        step(state, x=x[order[4 * n : 4 * n + 4]])
    same(state, dict(kept))
    assert 59 in order[4 * done : 4 * done + 4]
    assert main([*command, "--resume"]) == 1
    assert f"a gradient is not finite at step {done + 1}" in capsys.readouterr().err
