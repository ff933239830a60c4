"""What `gradc train` notices while it trains: each kind with a training that shows it, and nothing
in healthy ones.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradc
from gradc.ir.diagnostics.diagnostic import Diagnostic
from gradc.runtime.doctor.constant import best_constant
from gradc.runtime.doctor.watching import LOOK, Watching, is_doubled
from gradc.runtime.files.batches import samples_of
from gradc.runtime.model.recipe import Recipe
from gradc.runtime.model.shard import Shard
from gradc.runtime.model.step import TrainStep
from gradc.runtime.native.compile import compile_options
from gradc.runtime.training.loop import METRICS_FILE
from gradc.runtime.training.watch import moves
from tests.runtime.test_doctor_before import HEALTHY, SICK, train
from tests.support.rank_threads import in_ranks

# Kinds of losses, with a class or a number per sample; `p` is what the loss is taken of.
LOSSES = {
    "classes": ("mean(cross_entropy(fc(x), y))", "int"),
    "squares": ("mean((fc(x)[:, 0] - y)^2)", "float"),
    "halved": ("sum((y - fc(x)[:, 0])^2) / 2", "float"),
    "binary": ("mean(binary_cross_entropy_logits(fc(x)[:, 0], y))", "zero or one"),
    "probable": ("mean(binary_cross_entropy(sigmoid(fc(x)[:, 0]), y))", "zero or one"),
}


def model_of(loss: str, kind: str) -> str:
    labels = "int" if kind == "int" else "float"
    return (
        f"dim B\nmodel m(x: float[B, 3], y: {labels}[B]) -> float {{\n"
        f"    use fc = dense(3, 3)\n    return {loss}\n}}\n"
    )


def drawn(kind: str, count: int = 64) -> dict[str, Any]:
    rng = np.random.default_rng(4)
    labels = rng.choice(3, count, p=(0.6, 0.3, 0.1))
    y: dict[str, Any] = {
        "int": labels.astype(np.int32),
        "float": (rng.standard_normal(count) * 2 + 5).astype(np.float32),
        "zero or one": (labels == 0).astype(np.float32),
    }
    return {"x": rng.standard_normal((count, 3)).astype(np.float32), "y": y[kind]}


@pytest.mark.parametrize("name", LOSSES)
def test_the_best_constant_is_that_of_the_loss(name: str) -> None:
    loss, kind = LOSSES[name]
    net, arrays = gradc.loads(model_of(loss, kind)), drawn(kind)
    found = best_constant(net, samples_of(net.signature, arrays, "data"), 64)
    assert found is not None and found.target == "y"
    y = arrays["y"].astype(float)
    share = np.bincount(arrays["y"].astype(int), minlength=3)[:3] / 64
    entropy = -float(sum(p * np.log(p) for p in share if p > 0))
    known = {"squares": y.var(), "halved": y.var() * 32}
    assert abs(found.loss - known.get(name, entropy)) < 1e-6 * known.get(name, entropy)


@pytest.mark.parametrize(
    "loss",
    [
        "mean(abs(fc(x)[:, 0] - y))",  # the median is best
        "mean((fc(x)[:, 0] - y)^4)",
        "mean((fc(x)[:, 0] - y)^2) + 0.1 * mean(fc.w^2)",  # not of the outputs alone
        "-mean((fc(x)[:, 0] - y)^2)",  # a maximum
    ],
)
def test_nothing_is_said_of_other_losses(loss: str) -> None:
    net, arrays = gradc.loads(model_of(loss, "float")), drawn("float")
    assert best_constant(net, samples_of(net.signature, arrays, "data"), 64) is None


@pytest.mark.parametrize(
    ("name", "epochs", "words"),
    [
        ("rate-low", 10, "outputs that are the same for every sample reach 1.37"),
        ("heavy-momentum", 4, "times its least"),
        ("wrong-sign", 1, "it is never above zero and has no least value"),
        ("tight-clip", 4, "of the steps of an epoch are clipped to a norm of 0.0001"),
    ],
)
def test_a_sick_run_is_told_of(
    name: str, epochs: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = SICK[name]
    more = [] if case.clip_norm is None else ["--clip-norm", str(case.clip_norm)]
    if name == "tight-clip":
        case = replace(case, batch=16)
    assert train(tmp_path, case, *more, epochs=epochs) == 0
    shown = capsys.readouterr().err
    assert "warning[GC0814]" in shown and words in shown
    page = (tmp_path / "run" / "run.html").read_text()
    assert (words[:20] in page and "<script" not in page and "best constant" in page) or epochs < 10


@pytest.mark.parametrize("name", ["mlp", "counts", "reward"])
def test_a_healthy_run_is_not(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, HEALTHY[name], epochs=HEALTHY[name].epochs) == 0
    assert "GC0814" not in capsys.readouterr().err
    assert "Nothing was noticed" in (tmp_path / "run" / "run.html").read_text()


def test_targets_beyond_one_explain_a_negative_loss() -> None:
    text = model_of(*LOSSES["binary"])
    net, arrays = gradc.loads(text), drawn("zero or one")
    arrays["y"] = arrays["y"] + np.float32(1)  # classes 1 and 2
    watch = watching(net, "sgd(lr=1.0)", arrays)
    told = tells(watch, {"step": 7, "loss": -0.5})
    assert "`y` has 1 to 2" in told[0].message and "never negative" in told[0].message
    assert tells(watch, {"step": 8, "loss": -0.6}) == []
    assert tells(watching(net, "sgd(lr=1.0)", drawn("zero or one")), {"step": 1, "loss": -1}) == []


def tells(watch: Watching, record: dict[str, Any]) -> list[Diagnostic]:
    """What one more record tells."""
    return watch.read([record])


def watching(net: gradc.Model, optimizer: str, arrays: dict[str, Any], **how: Any) -> Watching:
    step = net.train_step(optimizer, **how)
    return Watching(step, samples_of(net.signature, arrays, "data"), 16, 4000, 0)


@pytest.mark.parametrize(
    ("optimizer", "how", "record", "words"),
    [
        ("sgd(lr=0.5)", {}, {"update": 2.0}, "a rate of 0.5 on gradients of 4 of that size"),
        ("adam(lr=2.0)", {}, {"update": 0.9, "root": 1.0}, "the rate is high (2)"),
        ("adam(lr=1e-9)", {}, {"update": 1e-8, "root": 1.0}, "the rate is low (1e-09)"),
        ("adam(eps=0.1)", {}, {"update": 1e-8, "root": 1e-4}, "eps = 0.1 outweighs the gradients"),
        (
            "sgd(lr=0.1)",
            {"clip_norm": 1e-3},
            {"update": 1e-8, "grad_norm": 5.0},
            "clipped to 0.001",
        ),
        ("sgd(lr=0.1)", {"clip_value": 1e-6}, {"update": 1e-8, "moved": 1e-7}, "values of 1e-06"),
        ("sgd(momentum=0.995)", {}, {"update": 2.0}, "adds up 200 gradients"),
        (
            "sgd(lr=0.1)",
            {"schedule": "cosine(peak=0.1, total=90)"},
            {"update": 1e-8},
            "the schedule gives a rate of 0 now",
        ),
    ],
)
def test_an_update_out_of_proportion_is_explained(
    optimizer: str, how: dict[str, Any], record: dict[str, Any], words: str
) -> None:
    net = gradc.loads(model_of(*LOSSES["squares"]))
    watch = watching(net, optimizer, drawn("float"), **how)
    assert tells(watch, {"step": 50, "loss": 1.0, **record}) == []
    (told,) = tells(watch, {"step": 100, "loss": 1.0, **record})
    assert words in told.message, told.message
    assert tells(watch, {"step": 150, "loss": 1.0, **record}) == []
    well = {**record, "update": 1e-3}
    fresh = watching(net, optimizer, drawn("float"), **how)
    assert [tells(fresh, {"step": n, "loss": 1.0, **well}) for n in (50, 100)] == [[], []]


def test_a_scale_that_falls_again_and_again_is_told_of() -> None:
    net = gradc.loads(model_of(*LOSSES["squares"]), precision="f16")
    watch = watching(net, "sgd(lr=0.1)", drawn("float"), loss_scale="dynamic")
    record: dict[str, Any] = {"loss": 1.0, "loss_scale": 2.0}
    told = [tells(watch, {"step": n, "overflow": n % 5 == 0, **record}) for n in range(1, 120)]
    assert [n for n, one in enumerate(told, 1) if one] == [101]
    assert "20% of the last 100 steps" in told[100][0].message


DYING = """
dim B
model m(x: float[B, 3], y: float[B]) -> float {
    use a = dense(3, 16)
    use b = dense(16, 1)
    h = relu(a(x))
    return mean((b(h)[:, 0] - y)^2)
}
"""


def test_units_that_died_since_the_start_are_told_of() -> None:
    net, arrays = gradc.loads(DYING), drawn("float")
    watch = watching(net, "sgd(lr=0.1)", arrays)
    state = watch.step.init(net.init(0))
    state.arrays["a.b"][3:] = -100
    found = watch.fields(LOOK, state, {}, {})
    (told,) = tells(watch, {"step": LOOK, "loss": 1.0, **found})
    assert "<string>:6: 81% of the units are zero" in told.message
    assert [n for n in range(1, 40000) if is_doubled(n, LOOK)] == [
        LOOK * k for k in (1, 2, 4, 8, 16)
    ]
    whole = watching(net, "sgd(lr=0.1)", arrays)
    fresh = whole.fields(LOOK, whole.step.init(net.init(0)), {}, {})
    assert tells(whole, {"step": LOOK, "loss": 1.0, **fresh}) == []


def test_signal_is_one_without_noise_and_small_with() -> None:
    """The same batch again and again, and targets that are drawn anew."""
    net, arrays = gradc.loads(model_of(*LOSSES["squares"])), drawn("float", 16)
    watch = watching(net, "adam(lr=1e-6)", arrays)
    state = watch.step.init(net.init(0))
    for _ in range(100):
        watch.step(state, **arrays)
    weights = {n: state.arrays[n] for n in net.params}
    assert min(watch.fields(100, state, weights, {})["signal"].values()) > 0.95
    state = watch.step.init(net.init(0))
    rng = np.random.default_rng(0)
    for _ in range(300):
        noisy = {**arrays, "y": rng.standard_normal(16).astype(np.float32) * 100}
        watch.step(state, **noisy)
    assert max(watch.fields(500, state, weights, {})["signal"].values()) < 0.4


def test_a_resumed_run_says_and_writes_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = SICK["rate-low"]
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    train(tmp_path / "one", case, epochs=12)
    whole = capsys.readouterr().err
    train(tmp_path / "two", case, epochs=5)
    train(tmp_path / "two", case, "--resume", epochs=12)
    parts = capsys.readouterr().err
    assert whole.count("GC0814") == parts.count("GC0814") == 1
    files = [(tmp_path / name / "run" / METRICS_FILE).read_text() for name in ("one", "two")]
    assert files[0] == files[1]
    rows = [json.loads(line) for line in files[0].splitlines()]
    assert {"update", "updates"} <= set(rows[0]) and "constant" in rows[-1]


def test_looks_are_taken_where_parameters_are_cut() -> None:
    """Two ranks with half of `H` each record what one rank does; the first alone looks."""
    net = gradc.loads(
        DYING.replace("dim B", "dim B, H = 16").replace("16)", "H)").replace("(16", "(H")
    )
    arrays = drawn("float", 16)

    def looked(step: TrainStep) -> Any:
        watch = Watching(step, samples_of(net.signature, arrays, "data"), 16, 4000, 0)
        state = step.start(0)
        before = {n: state.arrays[n].copy() for n in net.params}
        step(state, **{name: step.rows_of(rows) for name, rows in arrays.items()})
        moved = moves(before, state.arrays, step.layout.squares)
        return watch.fields(LOOK, state, before, moved)

    recipe = Recipe("adam(lr=0.01)")
    whole = looked(net.train_step(recipe.optimizer, threads=1))
    shard = Shard.parsed(net, "H=2")
    first, other = in_ranks(
        2, lambda world: looked(TrainStep(net, recipe, compile_options(threads=1), world, shard))
    )
    assert whole.keys() == first.keys() and "seen" not in other
    assert first["seen"] == whole["seen"] and first["seen_at_start"] == whole["seen_at_start"]
    assert first["update"] == pytest.approx(whole["update"], rel=1e-5) == other["update"]
    assert first["signal"] == pytest.approx(whole["signal"], rel=1e-5)
