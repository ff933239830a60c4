"""``verify --target cuda``: a row per kernel text, and what it says of texts and launches that are
wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import gradc
from gradc.codegen.cuda import backend
from gradc.codegen.cuda.lockstep import KernelTexts
from gradc.codegen.cuda.printer.plans import print_plan
from gradc.codegen.cuda.program import Launch, Program
from gradc.ir.plan.plan import Plan
from gradc.ir.target.target import Target
from gradc.passes.prove.report import Status, Verdict
from gradc.runtime.model.model import Model
from gradc.runtime.native.compile import compile_options
from gradc.runtime.reports.texts import text_verdicts
from gradc.runtime.reports.verify import free_dims
from tests.prove.test_certificate_schema import faults, schema
from tests.support.command_line import gradc as command

ROWS = """
dim B = 3
model m(x: float[B, 67], y: float[B]) -> float {
    param w: float[67] ~ normal(0.5)
    s = softmax(x * w)
    return mean((sum(s * x, axis=1) - y)^2)
}
"""
SMALL = """
dim B = 3
model m(x: float[B, 67]) -> float {
    param w: float[67] ~ normal(0.5)
    return mean(sum(x * w, axis=1)^2)
}
"""
LANES = re.compile(r"range\(t, (\d+), 64\)")
LOOP = """
dim T, H = 3
model m(xs: float[T, H]) -> float {
    param u: float[H, H] ~ normal(0.5)
    scan x in xs carry h = zeros([H]) {
        h = tanh(x + h @ u)
    }
    return mean(h^2)
}
"""


def rows_of(net: Model) -> list[Verdict]:
    free, chosen = free_dims(net)
    options = compile_options(target="cuda")
    return text_verdicts(net, free, chosen, net.select("params"), options, 5)


def changed(monkeypatch: pytest.MonkeyPatch, change: Callable[[Program], Program]) -> None:
    """Texts are printed as ``change`` makes of them."""

    def print_wrong(plan: Plan, target: Target) -> Program:
        return change(print_plan(plan, target))

    monkeypatch.setattr(backend, "print_plan", print_wrong)


def with_source(program: Program, old: str, new: str) -> Program:
    """The first text that has ``old`` with ``new`` in its place, once."""
    texts = list(program.texts)
    number = next(n for n, text in enumerate(texts) if old in text.source)
    text = texts[number]
    texts[number] = replace(text, source=text.source.replace(old, new, 1))
    return replace(program, texts=tuple(texts))


def test_every_text_is_proved_and_says_which_loops_run_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    printed: list[Program] = []

    def noted(program: Program) -> Program:
        printed.append(program)
        return program

    changed(monkeypatch, noted)
    rows = rows_of(gradc.loads(ROWS))
    assert rows and all(v.status is Status.PROVED_BOUND for v in rows)
    for row, text in zip(rows, printed[-1].texts, strict=True):
        assert row.subject == text.name and row.place and "; text " in row.detail
        said = re.search(r"one trip at line ([\d, ]+)", row.detail)
        once = {int(n) for n in said[1].split(", ")} if said else set()
        lines = text.source.split("\n")
        ends = {n: int(m[1]) for n, line in enumerate(lines, 1) if (m := LANES.search(line))}
        assert once & set(ends) == {n for n, end in ends.items() if end <= 64}


WRONG = {
    "differs": ("shuffle_xor(", ", 1)", ", 2)"),
    "race": ("barrier()", "barrier()", "pass"),
    "bounds": ("load(", "range(t, 67, 64)", "range(t, 68, 64)"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_text_is_refuted_with_a_point_and_its_line(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, old, new = WRONG[kind]
    changed(monkeypatch, lambda program: with_source(program, old, new))
    wrong = [v for v in rows_of(gradc.loads(ROWS)) if v.status is Status.REFUTED]
    assert len(wrong) == 1
    (found,) = wrong
    says = "temp" if kind == "differs" else f"{kind}: "
    assert found.detail.startswith("line ") and f"`: {says}" in found.detail
    assert found.place.startswith("<string>:") and set(found.point) == {"x", "y", "w"}
    assert np.shape(found.witness["values"]["w"]) == (67,)


def test_launches_in_another_order_are_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    def turned(program: Program) -> Program:
        first, second, *others = program.steps
        return replace(program, steps=(second, first, *others))

    changed(monkeypatch, turned)
    rows = rows_of(gradc.loads(LOOP))
    assert any(v.status is Status.REFUTED for v in rows)


def test_a_pointer_that_points_elsewhere_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    def moved(program: Program) -> Program:
        launch = program.steps[-1]
        assert isinstance(launch, Launch)
        place = launch.arguments[0]
        shifted = replace(place, offset=place.offset + 4 if place.offset < 4 else place.offset - 4)
        wrong = replace(launch, arguments=(shifted, *launch.arguments[1:]))
        return replace(program, steps=(*program.steps[:-1], wrong))

    changed(monkeypatch, moved)
    assert any(v.status is Status.REFUTED for v in rows_of(gradc.loads(ROWS)))


def test_loops_over_time_are_run_trip_by_trip() -> None:
    net = gradc.loads(LOOP)
    assert all(v.status is Status.PROVED_BOUND for v in rows_of(net))


def test_the_report_names_texts_and_refutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, page, point = tmp_path / "m.grad", tmp_path / "m.html", tmp_path / "point.npz"
    file.write_text(SMALL)
    changed(monkeypatch, lambda program: with_source(program, ", 1)", ", 2)"))
    monkeypatch.setattr(KernelTexts, "machine_code", lambda self: {"cubin sm_90": "ab"})
    asked = ("verify", file, "--target", "cuda", "--sympy", 0)
    done = command(*asked, "--json", tmp_path / "c.json", "--html", page, "--witness", point)
    assert done.status == 3
    data = json.loads((tmp_path / "c.json").read_text())
    assert not list(faults(data, schema()))
    assert data["versions"]["cubin sm_90"] == "ab"
    (wrong,) = [v for v in data["verdicts"] if v["status"] == "REFUTED"]
    assert wrong["kind"] == "text" and wrong["witness"]["dims"]["B"] == 3
    assert f"The kernel text {wrong['subject']} is wrong" in page.read_text()
    with np.load(point, allow_pickle=False) as arrays:
        assert arrays["w"].shape == (67,) and arrays["witness.found"] != arrays["witness.expected"]
