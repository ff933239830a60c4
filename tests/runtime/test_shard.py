"""Training with parameters cut along a dimension among ranks: the results of one rank, the bytes
that were planned."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradc
from gradc.codegen import exchange
from gradc.ir.diagnostics.diagnostic import Diagnostic, DiagnosticError
from gradc.ir.ops.axes import Place
from gradc.runtime.cli import main
from gradc.runtime.doctor.fit import planned
from gradc.runtime.files.batches import samples_of
from gradc.runtime.files.data import load_safetensors, save_npz
from gradc.runtime.files.tensors import ArrayType
from gradc.runtime.model.layout import Layout
from gradc.runtime.model.rank_forward import RankForward
from gradc.runtime.model.recipe import Recipe
from gradc.runtime.model.shard import Shard
from gradc.runtime.model.step import TrainStep
from gradc.runtime.native.compile import compile_options
from gradc.runtime.ranks.world import PlannedRanks
from gradc.runtime.training import checkpoint
from gradc.runtime.training.validation import validated
from gradc.runtime.training.watch import moves
from tests.support.rank_threads import RunRanks, ThreadRanks, in_ranks

ROOT = Path(__file__).parents[2]
MLP = (ROOT / "examples" / "digits" / "mlp.grad").read_text()
GPT = """
dim B, T = 6, V = 12, D = 16, N = 4, K = 4, H = 24, L = 1
layer attention(D, N, K) {
    param q: float[D, N, K] ~ normal(0.2)
    param k: float[D, N, K] ~ normal(0.2)
    param v: float[D, N, K] ~ normal(0.2)
    param o: float[N, K, D] ~ normal(0.2)
    apply(x: float[B, T, D]) -> float[B, T, D] {
        query = einsum("btd,dnk->btnk", x, q)
        key = einsum("btd,dnk->btnk", x, k)
        value = einsum("btd,dnk->btnk", x, v)
        a = softmax(where(causal_mask(T), einsum("bqnk,btnk->bnqt", query, key), -inf), axis = -1)
        return einsum("bqnk,nkd->bqd", einsum("bnqt,btnk->bqnk", a, value), o)
    }
}
layer block(D, N, K, H) {
    use ln1 = layernorm(D)
    use attn = attention(D, N, K)
    use ln2 = layernorm(D)
    use up = dense(D, H)
    use down = dense(H, D)
    apply(h: float[B, T, D]) -> float[B, T, D] {
        h = h + attn(ln1(h))
        return h + down(dropout(gelu(up(ln2(h))), 0.1))
    }
}
model gpt(tokens: int[B, T], targets: int[B, T]) -> float {
    param wte: float[V, D] ~ normal(0.3)
    use blocks = block(D, N, K, H) * L
    use lnf = layernorm(D)
    h = wte[tokens]
    for b in blocks { h = b(h) }
    return mean(cross_entropy(lnf(h) @ wte.T, targets))
}
"""
# A recurrent matrix has the cut dimension twice.
RNN = """
dim B, T = 5, D = 3, H = 8
model rnn(x: float[B, T, D], y: int[B]) -> float {
    param u: float[D, H] ~ normal(0.4)
    param w: float[H, H] ~ normal(0.4)
    use head = dense(H, 10)
    h = scan row in transpose(x, [1, 0, 2]) carry h = zeros([B, H]) {
        h = tanh(row @ u + h @ w)
        yield h
    }
    return mean(cross_entropy(head(h[T - 1]), y)) + 0.01 * sum(w^2)
}
"""
LSTM = (ROOT / "examples" / "text" / "lstm.grad").read_text()
LSTM = LSTM.replace("T = 64, V = 96, E = 64, H = 256", "T = 5, V = 11, E = 8, H = 6")
GRU = LSTM.replace("lstm(E, H)", "gru(E, H)")
# Its update looks at the whole of a parameter.
TRUST = (
    MLP
    + """
optimizer trust(lr = 0.1) {
    state v ~ zeros
    update(p, g, t) {
        v = 0.9 * v + g
        return p - lr * sqrt(sum(p^2) + 0.01) / sqrt(sum(v^2) + 1e-6) * v
    }
}
"""
)


def inputs_of(net: gradc.Model, samples: int) -> dict[str, Any]:
    rng = np.random.default_rng(4)
    found: dict[str, Any] = {}
    for name, type_ in net.inputs.items():
        shape = (samples, *(d for d in type_.shape[1:] if isinstance(d, int)))
        is_float = type_.dtype.is_float
        found[name] = rng.standard_normal(shape) if is_float else rng.integers(0, 10, shape)
        found[name] = found[name].astype(np.float32 if is_float else np.int64)
    return found


def trained(net: gradc.Model, recipe: Recipe, along: str | None, size: int = 1) -> list[Any]:
    """State, losses and metrics after four steps on each rank, whole where they are."""
    given = inputs_of(net, 6)
    shard = None if along is None else Shard.parsed(net, along)

    def train(world: ThreadRanks) -> Any:
        step = TrainStep(net, recipe, compile_options(threads=1), world, shard)
        state = step.init(net.init(1)) if world.rank else step.start(1)
        own = {name: step.rows_of(rows) for name, rows in given.items()}
        steps = [step(state, **own)[0] for _ in range(4)]
        assert world.sent == 4 * step.plan({"B": 6}).sent_bytes
        held = sum(array.nbytes for array in state.arrays.values())
        return step.layout.whole(state.arrays), np.array(steps), dict(state.metrics), held

    return in_ranks(size if shard is None else size * shard.ranks, train)


@pytest.mark.parametrize(
    "text, along, recipe",
    [
        (MLP, "H=2", Recipe("sgd(lr=0.1, momentum=0.9)", clip_norm=0.5)),
        (MLP, "H=4", Recipe("sgd(lr=0.1)", clip_norm=0.5, loss_scale=256.0, accumulate=3)),
        (GPT, "N=2", Recipe("sgd(lr=0.1, momentum=0.9)", clip_norm=0.5, accumulate=2)),
        (GPT, "V=3", Recipe("sgd(lr=0.1, momentum=0.9)", clip_norm=0.5)),
        (LSTM, "H=2", Recipe("sgd(lr=0.1, momentum=0.9)", clip_value=0.01)),
        (GRU, "H=3", Recipe("sgd(lr=0.1, momentum=0.9)", clip_norm=0.5, accumulate=2)),
        (RNN, "H=4", Recipe("sgd(lr=0.1, momentum=0.9)", clip_norm=0.5, accumulate=2)),
        (TRUST, "H=2", Recipe("trust")),
    ],
    ids=[
        "mlp",
        "mlp in parts",
        "heads",
        "vocabulary",
        "gates of an lstm",
        "gates of a gru",
        "recurrent",
        "norms of updates",
    ],
)
def test_cut_parameters_train_to_what_one_rank_does(text: str, along: str, recipe: Recipe) -> None:
    net = gradc.loads(text)
    ((one, losses, metrics, held),) = trained(net, recipe, None)
    ranks = trained(net, recipe, along)
    whole, *others = (found for found, *_ in ranks)
    assert others == [None] * (len(ranks) - 1)
    for name, array in one.items():
        scale = max(1.0, np.abs(array).max(initial=0))
        np.testing.assert_allclose(whole[name], array, atol=1e-6 * scale, err_msg=name)
    for _, found, outputs, own in ranks:
        np.testing.assert_array_equal(found, ranks[0][1])
        np.testing.assert_allclose(found, losses, rtol=2e-6)
        assert own < held and outputs.keys() == metrics.keys()
        if "grad_norm" in metrics:
            np.testing.assert_allclose(outputs["grad_norm"], metrics["grad_norm"], rtol=2e-6)


def test_ranks_start_from_the_same_columns_of_every_gate() -> None:
    """Part r of each gate, one after another; put together, the bits of one rank."""
    net = gradc.loads(LSTM)
    one = net.init(1)

    def start(world: ThreadRanks) -> Any:
        shard = Shard.parsed(net, "H=2")
        step = TrainStep(net, Recipe("adamw(lr=0.1)"), compile_options(), world, shard)
        arrays = step.start(1).arrays
        return arrays["rnn.wh"], arrays["rnn.wh/m"].shape, step.layout.whole(arrays)

    for rank, (own, shape, whole) in enumerate(in_ranks(2, start)):
        gates = np.split(one["rnn.wh"], 4, axis=1)
        wanted = np.concatenate([np.split(gate, 2, axis=1)[rank] for gate in gates], axis=1)
        np.testing.assert_array_equal(own, wanted)
        assert shape == own.shape
        for name, array in one.items() if rank == 0 else ():
            np.testing.assert_array_equal(whole[name], array, err_msg=name)


# Scores of three classes at H places: labels are those of all places.
PLACES = """
dim B, D = 4, H = 6
model places(x: float[B, D], y: int[B, H]) -> float {
    param w: float[D, H] ~ normal(0.4)
    param c: float[H, 3] ~ normal(0.4)
    output logits = einsum("bh,hc->bhc", x @ w, c)
    return mean(cross_entropy(logits, y))
}
"""


@pytest.mark.parametrize(
    "text, along",
    [
        (MLP, "H=2"),
        (MLP, "C=5"),
        (PLACES, "H=3"),
    ],
    ids=["classes of all", "a rank's classes", "a rank's places"],
)
def test_a_cut_model_validates_in_its_parts(text: str, along: str) -> None:
    """The loss and the accuracy of whole parameters, in the bytes that were planned for a part."""
    net = gradc.loads(text)
    rng = np.random.default_rng(6)
    given = inputs_of(net, 7)
    given |= {n: rng.integers(0, 3, a.shape) for n, a in given.items() if a.dtype.kind == "i"}
    samples = samples_of(net.signature, given, "it")
    whole, forward = net.init(1), net.forward(threads=1)
    expected = validated(forward, whole, samples, 4)
    shard = Shard.parsed(net, along)
    held = forward.entry(samples.take(np.arange(4))).native.measured_bytes

    def validate(world: ThreadRanks) -> dict[str, float]:
        step = TrainStep(net, Recipe("sgd(lr=0.1)"), compile_options(threads=1), world, shard)
        ours = RankForward(shard, world, compile_options(threads=1))
        own = step.start(1).params
        found = validated(ours, own, samples, 4, ours.best_class)
        measured = ours.entry(samples.take(np.arange(4))).native.measured_bytes
        assert measured == ours.plan({"B": 4}).peak_bytes
        assert measured < held or along != "H=2"
        return found

    for found in in_ranks(shard.ranks, validate):
        assert found["accuracy"] == expected["accuracy"]
        assert found["loss"] == pytest.approx(expected["loss"], rel=2e-6)


@pytest.mark.parametrize(
    "optimizer, large, size",
    [("sgd(lr=0.1)", 3e38, 2), ("sgd(lr=1e45)", 1.0, 1)],
)
def test_a_cut_run_that_breaks_says_where_as_one_rank_does(
    optimizer: str, large: float, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that is stopped, an update that is not finite: no rank has whole parameters."""
    net = gradc.loads(MLP)
    given = inputs_of(net, 12)
    given["x"][7] = np.float32(large) * np.clip(given["x"][7], -1, 1)
    samples = samples_of(net.signature, given, "it")

    def run(folder: str, step: TrainStep) -> list[Diagnostic]:
        made = planned(step, samples, None, batch=6, epochs=3, seed=0, folder=tmp_path / folder)
        made.prepare()
        made.begin()
        with np.errstate(all="ignore"), pytest.raises(DiagnosticError) as caught:
            made.run(lambda progress: None)
        return list(caught.value.diagnostics)

    recipe = Recipe(optimizer, accumulate=size)
    options, shard = compile_options(threads=1), Shard.parsed(net, "H=2")
    one = run("one", TrainStep(net, recipe, options))

    def cut(world: RunRanks) -> list[Diagnostic]:
        return run("cut", TrainStep(net, recipe, options, world, shard))

    monkeypatch.setattr(Layout, "whole", None)
    ranks = in_ranks(2 * size, cut, RunRanks)
    assert [d.code for d in ranks[0]] == [d.code for d in one] == ["GC0806", "GC0809"]
    assert ranks[0][1].span == one[1].span
    told = ranks[0][1].message.partition(" gives ")[0]
    assert told == one[1].message.partition(" gives ")[0]


def test_what_is_wrong_on_one_rank_is_found_there() -> None:
    net = gradc.loads(MLP)
    given, shard = inputs_of(net, 4), Shard.parsed(net, "H=2")

    def found(world: ThreadRanks) -> Diagnostic | None:
        step = TrainStep(net, Recipe("sgd(lr=0.1)"), compile_options(threads=1), world, shard)
        state = step.start(1)
        assert step.culprit(state, **given) is None
        if world.rank:
            state.arrays["fc1.b"][3] = np.inf
        return step.culprit(state, **given)

    first, second = in_ranks(2, found)
    assert first is not None and first == second and first.code == "GC0809"
    assert first.message == "`fc1.b` is not finite to begin with: 1 of 64 values infinite on rank 1"


def test_a_budget_binds_on_parts_of_parameters() -> None:
    """Attention's scores are computed again by the rank that has them."""
    net = gradc.loads(GPT.replace("T = 6", "T = 32").replace("L = 1", "L = 2"))
    free, bound = (
        net.train_step("sgd(lr=0.1)", shard={"N": 2}, budget=budget).plan({"B": 4})
        for budget in (None, "240KiB")
    )
    assert bound.peak_bytes <= 240 * 1024 < 0.9 * free.peak_bytes


def test_what_a_refused_budget_offers_is_of_parts_of_parameters() -> None:
    """The batch that is said to fit fits, though whole parameters would not."""
    net, budget = gradc.loads(MLP), 60_000
    step = net.train_step("sgd(lr=0.1)", shard={"H": 2}, budget=budget)
    with pytest.raises(DiagnosticError) as refused:
        step.plan({"B": 64})
    found = re.search(r"B = (\d+) fits", str(refused.value))
    assert found, str(refused.value)
    assert step.plan({"B": int(found[1])}).peak_bytes <= budget
    with pytest.raises(DiagnosticError):
        net.train_step("sgd(lr=0.1)", budget=budget).plan({"B": 1})


def test_groups_of_ranks_share_batches_and_hold_parts() -> None:
    """Three groups of two on a grid, equal to three parts on one rank."""
    net = gradc.loads(MLP)
    recipe = Recipe("sgd(lr=0.1, momentum=0.9)", clip_norm=0.5, accumulate=3)
    ((one, losses, _, held),) = trained(net, recipe, None)
    ranks = trained(net, recipe, "H=2", 3)
    for name, array in one.items():
        np.testing.assert_allclose(ranks[0][0][name], array, atol=1e-6, err_msg=name)
    for _, found, _, own in ranks:
        np.testing.assert_allclose(found, losses, rtol=2e-6)
        assert own < held


@pytest.mark.parametrize("along", [None, "H=2"])
def test_a_queue_of_ranks_has_the_bits_of_calls(along: str | None) -> None:
    net = gradc.loads(MLP)
    given = inputs_of(net, 12)
    shard = None if along is None else Shard.parsed(net, along)
    recipe = Recipe("sgd(lr=0.1)", accumulate=2)

    def train(world: ThreadRanks) -> Any:
        step = TrainStep(net, recipe, compile_options(threads=1), world, shard)
        one, many = step.start(1), step.start(1)
        batches = [
            {n: step.rows_of(a[6 * i : 6 * i + 6]) for n, a in given.items()} for i in (0, 1)
        ]
        losses = [step(one, **batch)[0] for batch in batches]
        queue = {name: np.stack([batch[name] for batch in batches]) for name in given}
        found, _ = step.many(2, many, **queue)
        np.testing.assert_array_equal(found, losses)
        for name, array in one.arrays.items():
            np.testing.assert_array_equal(many.arrays[name], array, err_msg=name)
        return world.agreed

    for agreed in in_ranks(2, train):
        assert agreed[-1] == "how many batches are in a queue"


def test_a_gradient_that_overflows_on_one_rank_is_skipped_by_all() -> None:
    text = """
dim B, H = 4
model m(x: float[B]) -> float {
    param w: float[H] ~ ones
    z = where(causal_mask(H)[0], w * mean(x), 0)
    return sum(z)
}
"""
    net = gradc.loads(text, precision="f16")
    shard = Shard.parsed(net, "H=2")
    recipe = Recipe("sgd(lr=0.1)", loss_scale="dynamic")

    def train(world: ThreadRanks) -> Any:
        step = TrainStep(net, recipe, compile_options(threads=1), world, shard)
        state = step.start(0)
        step(state, x=np.full(2, 3.0, np.float32))
        return state.arrays["w"], state.metrics["overflow"], float(state.arrays["loss_scale"])

    for weights, overflow, scale in in_ranks(2, train):
        assert overflow and scale == 2.0**15 and (weights == 1).all()


def test_what_ranks_cannot_hold_is_told() -> None:
    net = gradc.loads(MLP)
    for ranks, shard, code in [
        (2, {"H": 4}, "GC0801"),
        (6, {"H": 4}, "GC0801"),
        (2, {"Z": 2}, "GC0564"),
        (2, "H=2", "GC0564"),
        (3, {"H": 3}, "GC0824"),
    ]:
        with pytest.raises(DiagnosticError) as caught:
            step = net.train_step("sgd(lr=0.1)", ranks=ranks, shard=shard)  # type: ignore[arg-type]
            step.init(net.init(0))
        assert caught.value.diagnostics[0].code == code
    exchange.join(None)


@pytest.mark.mpi
def test_a_run_goes_on_with_cut_parameters_and_whole_again(tmp_path: Path) -> None:
    """One rank, then two groups of two that hold parts, then one: whole tensors are written."""
    net = gradc.loads(MLP)
    (tmp_path / "m.grad").write_text(MLP)
    save_npz(tmp_path / "train.npz", inputs_of(net, 40))
    save_npz(tmp_path / "valid.npz", inputs_of(net, 9))

    def command(out: str, epochs: int, *flags: str) -> list[str]:
        given = ["--data", str(tmp_path / "train.npz"), "--valid", str(tmp_path / "valid.npz")]
        rest = ["--batch", "16", "--out", str(tmp_path / out), "--epochs", str(epochs), "--json"]
        recipe = ["--optimizer", "sgd(lr=0.05, momentum=0.9)", "--clip-norm", "1"]
        return ["train", str(tmp_path / "m.grad"), *given, *rest, *recipe, *flags]

    assert main(command("one", 3, "--accumulate", "2")) == 0
    assert main(command("cut", 1, "--accumulate", "2")) == 0
    shard = command("cut", 2, "--resume", "--ranks", "4", "--shard-dim", "H=2")
    done = subprocess.run(
        [sys.executable, "-m", "gradc", *shard],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert main(command("cut", 3, "--resume", "--accumulate", "2")) == 0
    whole: dict[str, Any] = load_safetensors(tmp_path / "one" / "params.safetensors")[0]
    found: dict[str, Any] = load_safetensors(tmp_path / "cut" / "params.safetensors")[0]
    for name, array in whole.items():
        np.testing.assert_allclose(found[name], array, atol=2e-6, err_msg=name)
    pairs = zip(
        *((tmp_path / out / "metrics.jsonl").read_text().splitlines() for out in ("one", "cut")),
        strict=True,
    )
    for one, cut in pairs:
        known, other = json.loads(one), json.loads(cut)
        assert known.keys() == other.keys()
        for name in known.keys() & {"loss", "grad_norm", "valid_loss"}:
            assert other[name] == pytest.approx(known[name], rel=1e-5)


class FirstOfTwo(PlannedRanks):
    """Rank 0, to which the other sends ones."""

    def receive(self, array: Any, source: int) -> None:
        array[...] = source

    def send(self, array: Any, to: int) -> None:
        assert to == 1 and (array == 1).all()

    def spread(self, arrays: Any) -> None:
        """The other has nothing of its own."""


def test_the_first_rank_has_one_whole_array_at_a_time_when_it_saves(tmp_path: Path) -> None:
    names = [f"w{n}" for n in range(20)]
    own = {name: np.zeros((128, 256), np.float32) for name in names}
    layout = Layout(
        dict.fromkeys(names[:10], Place(0)) | dict.fromkeys(names[10:], Place(1)), 2, FirstOfTwo(2)
    )
    types = {n: ArrayType(a.dtype, layout.shape(n, a)) for n, a in own.items()}
    tracemalloc.start()
    path = checkpoint.save_each_of(tmp_path, 3, {}, types, layout.each(own))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    one = 2 * own["w0"].nbytes
    assert peak < 3 * one < len(names) * one / 6
    found = load_safetensors(path)[0]
    np.testing.assert_array_equal(found["w1"], np.repeat([0, 1], 128)[:, None] * np.ones(256))
    np.testing.assert_array_equal(found["w11"], np.ones((128, 1)) * np.repeat([0, 1], 256))
    # To resume, it reads a part of one array at a time, and sends the other rank's.
    tracemalloc.start()
    saved, _ = checkpoint.load_newest(tmp_path)
    layout.spread(own, saved.arrays)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert saved.step == 3 and peak < own["w0"].nbytes + 100_000 < one
    assert all((array == 0).all() for array in own.values())


def test_sizes_of_updates_are_those_of_whole_parameters() -> None:
    def sizes(world: ThreadRanks) -> Any:
        layout = Layout({"w": Place(1)}, 2, world)
        before = {name: np.arange(4.0).reshape(1, 4) + 1 for name in ("w", "v")}
        after = {name: 1.5 * array for name, array in before.items()}
        after["w"][0, 0] = 5.0
        own = [{n: layout.own(n, a) for n, a in arrays.items()} for arrays in (before, after)]
        moved = moves(own[0], own[1], layout.squares)
        return {name: one.share for name, one in moved.items()}

    moved = np.array([4.0, 1.0, 1.5, 2.0])
    for found in in_ranks(2, sizes):
        assert found["v"] == pytest.approx(0.5)
        assert found["w"] == pytest.approx(np.linalg.norm(moved) / np.linalg.norm([1, 2, 3, 4]))
