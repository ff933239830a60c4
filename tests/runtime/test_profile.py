"""Profiles: every launch is listed, what is counted is what the program computes and moves, and
times add up.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradc
from gradc.codegen.measured import LaunchTime
from gradc.ir.plan.plan import Argument, Launch
from gradc.runtime.bench.compare import random_inputs
from gradc.runtime.cli import main
from gradc.runtime.reports import profile as module
from gradc.runtime.reports.profile import Profile, causes
from gradc.runtime.reports.profile_figures import CAUSES, rate, seconds
from gradc.runtime.reports.profile_html import profile_page
from tests.support.machines import made_up

DIGITS = Path(__file__).resolve().parent.parent.parent / "examples" / "digits"
PRODUCT = """
dim B
model m(x: float[B, 37]) -> float {
    param w: float[37, 53] ~ normal(0.1)
    z = x @ w
    output z
    return mean(z ^ 2)
}
"""
RECURRENT = """
dim B, T
model m(x: float[T, B, 8], y: float[B, 8]) -> float {
    use rnn = gru(8, 8)
    hs = rnn(x)
    return mse(hs[-1], y)
}
"""
SHORT: dict[str, Any] = {"wanted": 0.0}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "limits", made_up)


def arrays(net: gradc.Model) -> tuple[dict[str, Any], dict[str, Any]]:
    return net.init(0, net.dims), random_inputs(net, {}, 1)


def digits() -> Profile:
    net = gradc.load(str(DIGITS / "mlp.grad"), dims={"B": 9})
    params, inputs = arrays(net)
    return net.value_and_grad(threads=2).profiled(params, (), inputs, **SHORT)


def test_flops_and_bytes_of_a_product() -> None:
    """Two flops per product; both factors read and the result written, once."""
    net = gradc.loads(PRODUCT, dims={"B": 19})
    params, inputs = arrays(net)
    found = net.forward(outputs=["z"]).profiled(params, (), inputs, **SHORT)
    assert found.flops == 2 * 19 * 37 * 53
    assert found.nbytes == 4 * (19 * 37 + 37 * 53 + 19 * 53)
    both = net.value_and_grad().profiled(params, (), inputs, **SHORT)
    least = 4 * 19 * 37 * 53
    assert least < both.flops <= least + 10 * 19 * 53
    assert both.nbytes >= 4 * (19 * 37 + 2 * 37 * 53)


def test_every_launch_is_listed_with_its_layer_and_line() -> None:
    found = digits()
    plan = gradc.load(str(DIGITS / "mlp.grad"), dims={"B": 9}).plan(threads=2)
    assert len(found.launches) == len(plan.launches)
    assert [n.number for n in found.launches] == list(range(len(found.launches)))
    assert [n.layer for n in found.launches] == [launch.scope for launch in plan.launches]
    assert set(found.layers) == {"fc1", "fc2", ""}
    assert all("mlp.grad:" in line for launch in found.launches for line in launch.lines)


def test_rolled_loops_count_their_trips() -> None:
    short, long = (
        net.value_and_grad().profiled(*_call(net), **SHORT)
        for net in (gradc.loads(RECURRENT, dims={"B": 3, "T": t}) for t in (5, 10))
    )
    assert {5, 1} <= {launch.runs for launch in short.launches}
    assert {10, 1} <= {launch.runs for launch in long.launches}
    turning = [sum(n.flops for n in p.launches if n.runs > 1) for p in (short, long)]
    assert turning[1] == 2 * turning[0] > 0


def _call(net: gradc.Model) -> tuple[dict[str, Any], tuple[()], dict[str, Any]]:
    params, inputs = arrays(net)
    return params, (), inputs


def test_times_add_up() -> None:
    """Launches and what is between them are the call; limits and losses are the launches."""
    found = digits()
    inside = sum(launch.seconds for launch in found.launches)
    assert inside + found.between == pytest.approx(found.seconds, rel=1e-9)
    for launch in found.launches:
        reached = min(launch.limit, launch.seconds)
        assert reached + sum(launch.lost.values()) == pytest.approx(launch.seconds, rel=1e-9)
        assert set(launch.lost) <= set(CAUSES)
        assert all(lost >= 0 for lost in launch.lost.values())
    reached = sum(min(launch.limit, launch.seconds) for launch in found.launches)
    assert reached + sum(found.lost.values()) == pytest.approx(found.seconds, rel=1e-9)


@pytest.mark.parametrize(
    ("took", "busy", "busiest", "limit", "fewer", "expected"),
    [
        # Two threads, of which one waited for half of the time.
        (10.0, 13.5, 9.0, 4.0, 4.0, (1.0, 2.25, 0.0, 2.75)),
        # What is known to be lost is no more than what there is to lose.
        (10.0, 9.0, 9.0, 8.0, 8.0, (1.0, 1.0, 0.0, 0.0)),
        # Cut for one thread of two.
        (10.0, 20.0, 10.0, 4.0, 8.0, (0.0, 0.0, 4.0, 2.0)),
        # Faster than the machine was measured to be.
        (3.0, 6.0, 3.0, 4.0, 4.0, (0.0, 0.0, 0.0, 0.0)),
    ],
)
def test_what_is_lost_has_a_cause(
    took: float,
    busy: float,
    busiest: float,
    limit: float,
    fewer: float,
    expected: tuple[float, ...],
) -> None:
    launch = LaunchTime(Launch(0, (Argument(0),)), 1, 2, took, busy, busiest)
    lost = causes(launch, limit, fewer, "bandwidth")
    assert tuple(lost[n] for n in ("launch", "imbalance", "one thread", "bandwidth")) == expected


def test_limits_are_those_of_the_machine() -> None:
    found = digits()
    together = made_up(found.threads)
    for launch in found.launches:
        flops = launch.flops / together.peak(launch.precision)
        moved = launch.nbytes / together.bandwidth_for(launch.nbytes / max(1, launch.runs))
        assert launch.limit == pytest.approx(max(flops, moved))
        assert launch.bound == ("arithmetic" if flops > moved else "bandwidth")
        assert launch.precision == "f32"
    net = gradc.load(str(DIGITS / "mlp.grad"), dims={"B": 3}, precision="f64")
    double = net.value_and_grad().profiled(*_call(net), **SHORT)
    assert {launch.precision for launch in double.launches if launch.flops} == {"f64"}


def test_the_limit_of_a_call_is_known_without_running_it() -> None:
    net = gradc.loads(RECURRENT, dims={"B": 3, "T": 7})
    params, inputs = arrays(net)
    compiled = net.value_and_grad(threads=2)
    found = compiled.profiled(params, (), inputs, **SHORT)
    assert compiled.least_seconds(**inputs) == pytest.approx(found.limit, rel=1e-9)


def test_a_step_is_profiled_on_a_copy_of_its_state() -> None:
    net = gradc.load(str(DIGITS / "mlp.grad"), dims={"B": 9})
    params, inputs = arrays(net)
    step = net.train_step("adamw(lr=1e-3)", accumulate=3)
    state = step.init(params)
    before = {name: array.copy() for name, array in state.arrays.items()}
    found = step.profiled(state, inputs, **SHORT)
    assert found.what == "a training step"
    assert len(found.launches) == len(step.plan({"B": 9}).launches)
    for name, array in state.arrays.items():
        np.testing.assert_array_equal(array, before[name])


def test_a_call_of_the_public_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ROUNDS", 2)
    net = gradc.load(str(DIGITS / "mlp.grad"))
    inputs = random_inputs(net, {"B": 4}, 0)
    params = net.init(0, {"B": 4})
    found = net.profile(params, **inputs)
    assert "mlp: loss and gradients" in found.report()
    step = net.train_step("sgd(lr=0.1)")
    assert "a training step" in step.profile(step.init(params), **inputs).report(1)
    part = net.forward(outputs=["logits"]).profile(params, x=inputs["x"])
    assert part.what == "outputs"
    assert repr(part).startswith("<profile of mlp: ")
    with pytest.raises(gradc.DiagnosticError, match="GC0553"):
        net.profile(params, x=inputs["x"])
    with pytest.raises(TypeError, match="state"):
        step.profile(params, **inputs)  # type: ignore[arg-type]


# ---- the command, pages and pictures


def run(*arguments: object) -> int:
    return main(["profile", *(str(a) for a in arguments), "--seconds", "0.001"])


MLP = (DIGITS / "mlp.grad", "-D", "B=5")


def test_the_command_prints_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*MLP, "--threads", "2", "--budget", "4MiB", "--most", "2") == 0
    text = capsys.readouterr().out
    assert text.startswith("mlp: loss and gradients, 2 threads: ")
    assert all(word in text for word in ("of it reached", "by layer:", "by launch:", "in 5 more"))


def test_the_command_gives_all_of_it_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*MLP, "--json", "--optimizer", "adamw(lr=1e-3)", "--precision", "f64") == 0
    found = json.loads(capsys.readouterr().out)
    figures = {
        "step",
        "seconds",
        "call",
        "accounted",
        "between",
        "spread",
        "limit",
        "share",
        "flops",
        "bytes",
    }
    assert figures | {"machine", "lost", "layers", "launches", "notes"} < set(found)
    assert set(found["lost"]) == set(CAUSES)
    keys = {"kernel", "seconds", "flops", "bytes", "share", "threads", "layer", "lines", "lost"}
    assert all(keys < set(launch) for launch in found["launches"])
    assert found["flops"] == sum(launch["flops"] for launch in found["launches"])


class Names(HTMLParser):
    """What stands in a page, and whether its elements are closed in order."""

    VOID = ("meta", "br", "path", "circle", "rect")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_and_the_pictures(tmp_path: Path) -> None:
    assert run(*MLP, "--html", tmp_path / "p.html", "--svg", tmp_path / "p.svg") == 0
    page = Names()
    page.feed((tmp_path / "p.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert {"fc1", "fc2", "(the model)"} <= set(page.text)
    assert "<script" not in (tmp_path / "p.html").read_text(encoding="utf-8")
    root = ET.fromstring((tmp_path / "p.svg").read_text(encoding="utf-8"))
    dots = root.findall(".//{http://www.w3.org/2000/svg}circle")
    assert len(dots) == 7
    titles = [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}title")]
    assert any(title.startswith("fc1: ") for title in titles)


def test_pages_escape_and_bear_nothing() -> None:
    found = Profile("<m>", "w", (), 0.0, 0.0, 0.0, 0.0, 1, 1.0, 1, made_up(1))
    assert "<m>" not in profile_page(found)
    assert "&lt;m&gt;" in found.to_svg()
    assert "0 launches" in found.report()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((DIGITS / "mlp.grad",), "GC0541"),
        ((*MLP, "-D", "Q=3"), "GC0543"),
        ((*MLP, "--data", "no/such.npz"), "GC0570"),
        ((*MLP, "--budget", "64"), "GC0602"),
        ((*MLP, "--threads", "0"), "GC0563"),
        ((*MLP, "--wrt", "nothing"), "GC0554"),
        ((*MLP, "--target", "reference"), "GC0563"),
        ((*MLP, "--most", "0"), "GC0564"),
        ((*MLP, "--forward", "--optimizer", "sgd(lr=1)"), "GC0564"),
        ((*MLP, "--optimizer", "sgd(lr=1)", "--accumulate", "2"), "GC0808"),
        ((*MLP, "--html", "no/such/folder/p.html"), "GC0573"),
    ],
)
def test_what_cannot_be_profiled_is_said(
    arguments: tuple[object, ...], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 1
    assert code in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon"])
def test_the_time_to_measure_passes(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", *(str(a) for a in MLP), "--seconds", text]) == 1
    assert "GC0564" in capsys.readouterr().err


def test_figures_for_people() -> None:
    shown = [seconds(n) for n in (2.5, 0.0031, 12.345e-6, 4e-8, 0.0)]
    assert shown == ["2.5 s", "3.1 ms", "12.35 us", "40 ns", "0 ns"]
    assert [rate(3e9, 2.0), rate(1, 0.0)] == ["1.5", "-"]
