"""Every place that takes a budget keeps it or refuses it: Python, command line, whatever is written
for a size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradc
from gradc.passes.budget import BudgetError
from gradc.passes.budget import shown as bytes_shown
from gradc.runtime.bench.compare import random_inputs
from gradc.runtime.model.compiled import Compiled
from gradc.runtime.model.model import Model
from gradc.runtime.native.compile import parse_bytes
from tests.support.api_models import DEEP
from tests.support.command_line import gradc as command

DIMS = {"B": 32}


@pytest.fixture(scope="module")
def net() -> Model:
    return gradc.loads(DEEP, dims=DIMS)


def directions(net: Model) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    return {n: rng.standard_normal(a.shape).astype(a.dtype) for n, a in net.init(0).items()}


def leaves(found: Any) -> list[np.ndarray]:
    """Arrays of nested tuples and dictionaries, in order."""
    if isinstance(found, dict):
        return [leaf for value in found.values() for leaf in leaves(value)]
    if isinstance(found, tuple):
        return [leaf for value in found for leaf in leaves(value)]
    return [np.asarray(found)]


WAYS: dict[str, Callable[..., Compiled]] = {
    "forward": lambda net, **o: net.forward(**o),
    "value_and_grad": lambda net, **o: net.value_and_grad(**o),
    "vjp": lambda net, **o: net.vjp(**o),
    "jvp": lambda net, **o: net.jvp(**o),
    "hvp": lambda net, **o: net.hvp(**o),
    "jacobian": lambda net, **o: net.jacobian("params", **o),
}


@pytest.mark.parametrize("way", WAYS)
def test_compiled_calls_keep_or_refuse_budgets(way: str) -> None:
    """One byte is refused with the least peak; that peak is kept, with the same bits."""
    net = gradc.loads(DEEP, dims={"B": 32, "H": 16, "L": 4})
    inputs, params = random_inputs(net, {}, 1), net.init(0)
    seeds: list[Any] = [directions(net)] if way in ("jvp", "hvp") else []
    seeds += [{"loss": np.float32(1.25)}] if way == "vjp" else []
    free = WAYS[way](net)
    with pytest.raises(BudgetError) as refused:
        WAYS[way](net, budget=1).entry(inputs)
    smallest = refused.value.smallest
    kept = WAYS[way](net, budget=smallest)
    measured = kept.entry(inputs).native.measured_bytes
    assert measured <= smallest <= free.entry(inputs).native.measured_bytes
    if way in ("value_and_grad", "vjp", "hvp"):
        assert measured < 0.8 * free.entry(inputs).native.measured_bytes, "recomputation helps"
    with pytest.raises(BudgetError):
        WAYS[way](net, budget=smallest - 1).entry(inputs)
    found, expected = kept(params, *seeds, **inputs), free(params, *seeds, **inputs)
    assert all(map(np.array_equal, leaves(found), leaves(expected)))


def test_verification_is_of_the_program_under_the_budget(net: Model) -> None:
    small = gradc.loads(DEEP, dims={"B": 4, "H": 4, "L": 3})
    with pytest.raises(BudgetError) as refused:
        small.verify(budget=1, sympy=0)
    free, kept = (small.verify(budget=b, sympy=0) for b in (None, refused.value.smallest))
    assert free.ok and kept.ok and free.plan_digest != kept.plan_digest
    with pytest.raises(BudgetError):
        small.verify(budget=refused.value.smallest - 1, sympy=0)


def test_functions_of_python_keep_or_refuse_budgets() -> None:
    def deep(w: Any, x: Any) -> Any:
        for _ in range(6):
            x = np.sin(np.tanh(x @ w))
        return np.sum(x**2)

    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((8, 8)), rng.standard_normal((64, 8))
    with pytest.raises(BudgetError) as refused:
        gradc.value_and_grad(deep, budget=1)(w, x)
    smallest = refused.value.smallest
    kept = gradc.value_and_grad(deep, budget=smallest)(w, x)
    assert all(map(np.array_equal, leaves(kept), leaves(gradc.value_and_grad(deep)(w, x))))
    with pytest.raises(BudgetError):
        gradc.value_and_grad(deep, budget=smallest - 1)(w, x)


# ---- the command line


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, net: Model) -> Path:
    folder = tmp_path_factory.mktemp("budgets")
    (folder / "deep.grad").write_text(DEEP)
    given = random_inputs(net, {}, 1)
    np.savez(folder / "in.npz", x=given["x"], y=given["y"])
    return folder


COMMANDS = {
    "run": ("--data", "in.npz"),
    "grad": ("--data", "in.npz"),
    "bench": ("--data", "in.npz", "--seconds", "0.05"),
    "bisect": ("--data", "in.npz"),
    "train": ("--data", "in.npz", "--batch", "16", "--epochs", "1", "--out", "run"),
    "compile": ("-D", "B=32", "-o", "out"),
    "verify": ("-D", "B=32"),
    "plan": ("-D", "B=32"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_with_a_budget_refuses_what_cannot_be_kept(files: Path, name: str) -> None:
    more = [str(files / a) if a in ("in.npz", "run", "out") else a for a in COMMANDS[name]]
    done = command(name, str(files / "deep.grad"), *more, "--budget", "2kB")
    assert done.status == 1, done.out + done.err
    assert "error[GC0602]: a budget of 1.953 KiB cannot be kept" in done.err
    assert "Traceback" not in done.err
    done = command(name, str(files / "deep.grad"), *more, "--budget", "nothing")
    assert done.status == 1 and "error[GC0601]" in done.err


def test_the_budget_of_a_step_in_parts_is_kept_on_the_command_line(files: Path) -> None:
    ask = ("plan", str(files / "deep.grad"), "-D", "B=32", "--optimizer", "sgd(lr=0.1)", "--json")
    free = json.loads(command(*ask, "--accumulate", "4").out)
    budget = free["peak_bytes"] - free["arena_bytes"] // 10
    kept = json.loads(command(*ask, "--accumulate", "4", "--budget", str(budget)).out)
    assert kept["peak_bytes"] <= budget and kept["recomputed"] and kept["work"] > free["work"]


# ---- sizes


GOOD = {
    "1": 1, "64MiB": 64 << 20, "64 MiB": 64 << 20, " 64mib ": 64 << 20, "1.5GB": 1_500_000_000,
    "2GiB": 2 << 30, "3kb": 3000, "3KiB": 3072, "0.5TB": 500_000_000_000, ".5kB": 500, "7B": 7,
}  # fmt: skip
BAD = (
    "0", "-1", "-64MiB", "", " ", "MiB", "much", "nan", "NaN", "inf", "1e3", "1e400", "0x10",
    "64 M iB",
    "64Mib s", "1,5GB", "0.4", "12PB", "9e99", "1" * 400, "9223372036854775808", "٣", "1_000",
)  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_sizes_people_write(text: str) -> None:
    assert parse_bytes(text) == GOOD[text]


@pytest.mark.parametrize("text", BAD)
def test_sizes_that_are_none(net: Model, text: str, files: Path) -> None:
    with pytest.raises(gradc.DiagnosticError, match="GC0601"):
        net.plan(text)
    done = command("plan", str(files / "deep.grad"), "-D", "B=32", f"--budget={text}")
    assert done.status == 1 and "error[GC0601]" in done.err, done.err
    assert len(done.err) < 1500 and "Traceback" not in done.err


@pytest.mark.parametrize(
    "value", [0, -5, True, False, math.nan, math.inf, 1e400, 0.5, 2**63, 10**400, [], b"1MiB", {}]
)
def test_numbers_that_are_no_sizes(net: Model, value: Any) -> None:
    with pytest.raises(gradc.DiagnosticError, match="GC0601"):
        net.value_and_grad(budget=value)
    with pytest.raises(gradc.DiagnosticError, match="GC0601"):
        net.train_step("sgd(lr=0.1)", budget=value)


def test_a_budget_beyond_the_machine(net: Model, files: Path) -> None:
    """A plan may be for another machine and is made, with a warning; what is to run here is
    refused.
    """
    done = command("plan", str(files / "deep.grad"), "-D", "B=32", "--budget", "4000000TB")
    assert done.status == 0 and "warning[GC0603]" in done.err and "peak" in done.out
    more = ("--data", str(files / "in.npz"), "--budget", "4000000TB")
    done = command("grad", str(files / "deep.grad"), *more)
    assert done.status == 1 and "error[GC0603]" in done.err
    with pytest.raises(gradc.DiagnosticError, match="GC0603"):
        net.value_and_grad(budget="4000000TB").entry(random_inputs(net, {}, 1))


# ---- what a refusal says


def test_a_refusal_says_what_would_help_and_keeps_its_word(net: Model) -> None:
    with pytest.raises(BudgetError) as refused:
        net.plan(60_000, threads=2)
    (found,) = refused.value.diagnostics
    assert (
        found.help
        == f"allow {refused.value.smallest} bytes, or make the batch or the model smaller"
    )
    (batch,) = [note for note in found.notes if note.startswith("B = ")]
    name, _ = batch.split(" fits: ")
    count = int(name.removeprefix("B = "))
    assert 1 <= count < 32
    smaller = net.plan(60_000, dims={"B": count}, threads=2)
    assert smaller.peak_bytes <= 60_000
    allowed = net.plan(refused.value.smallest, threads=2)
    assert allowed.peak_bytes == refused.value.smallest
    (bf16,) = [note for note in found.notes if "bf16" in note]
    narrow = gradc.loads(DEEP, dims=DIMS, precision="bf16")
    assert bf16.startswith("precision bf16 fits: ")
    assert narrow.plan(60_000, threads=2).peak_bytes <= 60_000
    with pytest.raises(BudgetError) as refused:
        net.plan(50_000, threads=2)
    with pytest.raises(BudgetError) as still:
        narrow.plan(50_000, threads=2)
    said = f"precision bf16 needs at least {bytes_shown(still.value.smallest)}"
    assert said in refused.value.diagnostics[0].notes


def test_a_refusal_knows_when_recomputing_is_no_remedy(net: Model) -> None:
    with pytest.raises(BudgetError) as refused:
        net.plan("1 B")
    (found,) = refused.value.diagnostics
    assert found.message.startswith(
        "a budget of 1 byte cannot be kept: the smallest peak found is "
    )
    assert any("the arrays that a call is given and makes take" in note for note in found.notes)
    shallow = gradc.loads(
        "dim B\nmodel m(x: float[B]) -> float { return sum(x * x) }", dims={"B": 9}
    )
    with pytest.raises(
        BudgetError, match=r"nothing is kept for a reverse sweep|arrays that a call"
    ):
        shallow.plan(1, "inputs")
