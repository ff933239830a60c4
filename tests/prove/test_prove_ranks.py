"""Ranks that share a batch are proved to compute its gradient; wrong cuts are refuted."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import gradc
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.ops.axes import at_axes
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.prove.programs.ranks import CutProgram, ranks_verdict
from gradc.passes.prove.report import Status, certificate
from gradc.runtime.cli import main
from gradc.runtime.model.shard import Shard
from gradc.runtime.model.step import TrainStep
from gradc.runtime.reports.verify import replay
from tests.support.shard_programs import GREATEST, VOCABULARY
from tests.support.wrong_cuts import (
    BLOCK_FAULTS,
    FAULTS,
    broken,
    is_wrong,
    right,
    right_grid,
    right_shard,
)

TIES = [f for f in FAULTS if f.name in ("a rank is left out", "only the last rank counts")]
SMALL = """
dim B
model m(x: float[B, 3], y: float[B]) -> float {
    param w: float[3] ~ normal(1)
    return sum((x @ w - y)^2) / sum(y^2)
}
"""


LAYERS = """
dim B = 1, D = 2, L = 2
model m(x: float[B, D]) -> float {
    use f = dense(D, D) * L
    for one in f { x = one(x) }
    return sum(x)
}
"""
ONE_CELL = """
dim B = 1, T = 2, E = 1, H = 2
model m(xs: float[T, B, E]) -> float {
    use rnn = lstm(E, H)
    return mean(rnn(xs)^2)
}
"""


@pytest.mark.parametrize("kind, parts, ranks", [("tokens", 3, 2), ("recurrent", 2, 2)])
def test_all_ranks_together_are_proved(kind: str, parts: int, ranks: int) -> None:
    found = ranks_verdict(right(kind, parts, ranks), 1, 2)
    assert found.status is Status.PROVED_BOUND, found.detail
    assert found.subject == f"{ranks} ranks, {parts} parts"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
def test_a_wrong_cut_is_refuted_with_its_point(
    fault: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.wrong_cuts.FAULTS", (fault,))
    name = getattr(fault, "name", "")
    if "grid" in name:
        subject = right_grid(GREATEST, "H=2", 2)
    elif "greatest" in name:
        subject = right_shard(GREATEST, "H=2")
    elif "order" in name:
        subject = right_shard(ONE_CELL, "H=2")
    elif "part" in name:
        subject = right_shard(VOCABULARY, "V=2")
    else:  # of large gradients slices go round, of small ones all
        subject = right("drops" if "exchange" in name else "not linear", 2, 2)
    rng = np.random.default_rng(3)
    while True:
        _, wrong = broken(subject, rng)
        if is_wrong(wrong, rng):
            break
    found = ranks_verdict(wrong, 1, 2)
    assert found.status is Status.REFUTED, found.detail
    assert found.witness["values"] and found.witness["dims"] == subject.dims


def test_verify_adds_a_row_for_ranks(tmp_path: Path) -> None:
    file = tmp_path / "m.grad"
    file.write_text(SMALL)
    net = gradc.load(file)
    report = net.verify(sympy=0, ranks=2, accumulate=2)
    (row,) = report.of("ranks")
    assert row.status is Status.PROVED_BOUND and "B=8" in row.detail, row
    assert report.ok and report.options["ranks"] == "2"
    text = json.dumps(certificate(report))
    again, differing = replay(json.loads(text), str(file))
    assert not differing and again.of("ranks") == (
        replace(row, seconds=again.of("ranks")[0].seconds),
    )


def test_a_program_that_cannot_be_cut_is_refused() -> None:
    net = gradc.loads(SMALL.replace("x @ w", "x @ w - mean(y)"))
    with pytest.raises(DiagnosticError) as caught:
        net.verify(sympy=0, ranks=2)
    assert caught.value.diagnostics[0].code == "GC0807"


BATCHNORM = """
dim B, D = 5
model m(x: float[B, D], y: int[B]) -> float {
    use f = dense(D, 3)
    use bn = batchnorm(3)
    use g = dense(3, 4)
    return mean(cross_entropy(g(tanh(bn(f(x)))), y))
}
"""


@pytest.mark.parametrize("parts, ranks", [(3, 3), (2, 4)])
def test_statistics_over_all_ranks_are_those_of_the_batch(parts: int, ranks: int) -> None:
    """Ranks without a part take part in what is shared and add nothing."""
    net = gradc.loads(BATCHNORM)
    step = net.train_step("sgd(lr=1)", ranks=ranks, shared_statistics=True)
    recipe = replace(step.recipe, accumulate=parts)
    step = TrainStep(net, recipe, step.options, step.world)
    whole = net.lower({"B": 2 * parts}, training=True)
    axes, cut = step.accumulation(whole)
    gradient = value_and_grad(whole.function, list(net.select("params")))
    program = cut.compose(cut.part)
    subject = CutProgram(gradient, program, step.deal, at_axes(axes), dict(whole.dims))
    found = ranks_verdict(subject, 1, 2)
    assert found.status is Status.PROVED_BOUND, found.detail


@pytest.mark.parametrize("ranks", [None, 2])
def test_statistics_are_shared_by_ranks_with_one_part_each(ranks: int | None) -> None:
    net = gradc.loads(BATCHNORM)
    step = net.train_step("sgd(lr=1)", shared_statistics=True, accumulate=2, ranks=ranks)
    with pytest.raises(DiagnosticError) as caught:
        step.plan({"B": 8})
    assert caught.value.diagnostics[0].code == "GC0807"


# --- parameters cut along a dimension

BLOCK = """
dim B = 2, T = 3, D = 3, H = 4, N = 2, K = 2
model m(x: float[B, T, D], y: int[B, T]) -> float {
    param wq: float[D, N, K] ~ normal(0.5)
    param wo: float[N, K, D] ~ normal(0.5)
    use up = dense(D, H)
    use down = dense(H, D)
    use n = layernorm(D)
    q = einsum("btd,dnk->btnk", n(x), wq)
    a = softmax(einsum("bqnk,btnk->bnqt", q, q), axis = -1)
    h = x + einsum("bqnk,nkd->bqd", einsum("bnqt,btnk->bqnk", a, q), wo)
    h = h + down(gelu(up(h)))
    return mean(cross_entropy(h, y)) + 0.1 * sum(up.w^2)
}
"""


def sharded(text: str, along: str) -> CutProgram:
    net = gradc.loads(text, precision="f64")
    shard = Shard.parsed(net, along)
    cut = shard.at({})
    gradient = value_and_grad(cut.whole.function, list(net.select("params")))
    dims = dict(cut.whole.dims)
    return CutProgram(gradient, cut.share(gradient), shard.deal, cut.places, dims, shard.dim)


def test_a_grid_is_proved() -> None:
    """Two groups of two ranks: batches between groups, parameters in them."""
    net = gradc.loads(GREATEST.replace("dim B = 3", "dim B"))
    (row,) = net.verify(sympy=0, ranks=4, shard="H=2").of("ranks")
    assert row.status is Status.PROVED_BOUND, row.detail
    assert row.subject == "4 ranks, 2 parts along `H`"


def test_a_cut_vocabulary_is_proved() -> None:
    found = ranks_verdict(right_shard(VOCABULARY, "V=3"), 1, 2)
    assert found.status in (Status.PROVED_BOUND, Status.PROBABLE), found.detail


@pytest.mark.parametrize("along", ["H=2", "H=4", "N=2"])
def test_products_and_heads_are_cut_along_a_dimension(along: str) -> None:
    subject = sharded(BLOCK, along)
    found = ranks_verdict(subject, 1, 2)
    assert found.status in (Status.PROVED_BOUND, Status.PROBABLE, Status.AGREES), found.detail
    ranks = int(along[-1])
    (slot,) = [s for s in subject.cut.results if s.name == ("up.w" if along[0] == "H" else "wq")]
    value = subject.cut.block.outputs[subject.cut.results.index(slot)]
    assert value.type.static_shape == ((3, 4 // ranks) if along[0] == "H" else (3, 1, 2))


@pytest.mark.parametrize("seed", range(4))
def test_a_wrong_cut_along_a_dimension_is_refuted(seed: int) -> None:
    subject = sharded(BLOCK, "H=2")
    rng = np.random.default_rng(seed)
    while True:
        _, wrong = broken(subject, rng)
        if is_wrong(wrong, rng):
            break
    assert ranks_verdict(wrong, 1, 2).status is Status.REFUTED


@pytest.mark.parametrize("name", ["columns in one piece", *(f.name for f in BLOCK_FAULTS)])
def test_a_wrong_cut_inside_blocks_is_refuted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = tuple(f for f in BLOCK_FAULTS if f.name == name)
    monkeypatch.setattr("tests.support.wrong_cuts.IN_BLOCKS", faults)
    subject, rng = right_shard(ONE_CELL, "H=2"), np.random.default_rng(3)
    while True:
        found, wrong = broken(subject, rng)
        if found == name and is_wrong(wrong, rng):
            break
    verdict = ranks_verdict(wrong, 1, 2)
    assert verdict.status is Status.REFUTED, verdict.detail
    assert ranks_verdict(subject, 1, 2).status is not Status.REFUTED


@pytest.mark.parametrize(
    "text, along, words",
    [
        (BLOCK.replace("gelu(up(h))", "cumsum(up(h), axis = 2)"), "H=2", "one by one"),
        (BLOCK, "H=3", "4 is no multiple of 3 ranks"),
        (BLOCK.replace("dense(D, H)", "dense(H, H)").replace("(h)", "(h @ h.T)"), "H=2", ""),
        (LAYERS, "L=2", "it counts layers"),
        (BLOCK, "H=1", "no parameter has it"),
        (BLOCK, "Z=2", "there is no dimension `Z`"),
        (BLOCK, "H", "not a dimension and a number of ranks"),
    ],
)
def test_what_cannot_be_cut_is_told(text: str, along: str, words: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        sharded(text, along)
    found = caught.value.diagnostics[0]
    assert words in found.message, found.message


def test_verify_and_plan_cut_along_a_dimension(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "m.grad"
    file.write_text(BLOCK)
    assert main(["plan", str(file), "--shard-dim", "H=2", "--json", "--check"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["sent_bytes"] > 0 and not plan["faults"]
    assert main(["verify", str(file), "--sympy", "0", "--shard-dim", "H=2"]) == 0
    assert "2 ranks along `H`" in capsys.readouterr().out


@pytest.mark.parametrize("fault", TIES, ids=lambda f: f.name)
def test_a_cut_that_divides_by_another_ranks_zero_is_refuted(
    fault: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many rows are the greatest is a sum over ranks; without one of them it is 0 here."""
    monkeypatch.setattr("tests.support.wrong_cuts.FAULTS", (fault,))
    subject, rng = right_shard(GREATEST, "H=2"), np.random.default_rng(3)
    not_finite = 0
    for _ in range(4):
        _, wrong = broken(subject, rng)
        if not is_wrong(wrong, rng):
            continue
        found = ranks_verdict(wrong, 1, 2)
        assert found.status is Status.REFUTED, found.detail
        not_finite += found.witness["expected"] in ("inf", "-inf", "nan")
    assert not_finite
