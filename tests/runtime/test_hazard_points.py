"""Hazards that are reported happen, at the point that is printed; healthy programs are left in
peace.
"""

from pathlib import Path

import numpy as np
import pytest

import gradc
from gradc.runtime.cli import main
from gradc.runtime.reports.hazard_points import Findings, search
from gradc.runtime.reports.hazard_text import left_open, none_found
from tests.support.hazard_programs import BROKEN, HEAD

ROOT = Path(__file__).resolve().parent.parent
# Their gradients do become infinite or NaN at inputs that are far out: an elu that underflows,
# densities and exponentials without a bound. They are found, and rightly.
FAR_OUT = {
    "linear_attention": {"division by 0", "overflow"},
    "ppo_clip": {"exp overflow"},
    "vae": {"exp overflow"},
}
HEALTHY = sorted(path.stem for path in (ROOT / "networks").glob("*.grad"))


def searched(text: str) -> tuple[gradc.Model, Findings]:
    net = gradc.loads(text)
    return net, search(net, {})


@pytest.mark.parametrize("name", BROKEN)
def test_known_breakages_are_found_and_happen_at_their_point(name: str) -> None:
    net, findings = searched(f"{HEAD}    {BROKEN[name]}\n}}")
    assert findings.found, [h.kind for h in findings.open]
    compiled = net.value_and_grad(["x", "y", "w"])
    for finding in findings.found:
        inputs = {n: a for n, a in finding.point.items() if n != "w"}
        loss, grads = compiled({"w": finding.point["w"]}, **inputs)
        results = {"loss": loss, **{f"d loss / d {n}": g for n, g in grads.items()}}
        for result, kind in finding.results.items():
            assert not np.all(np.isfinite(results[result]))
            assert bool(np.any(np.isnan(results[result]))) == (kind == "NaN")


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_networks_raise_no_alarm(name: str) -> None:
    net = gradc.load(ROOT / "networks" / f"{name}.grad")
    found = search(net, {n: d or 3 for n, d in net.signature.dims.items()}).found
    assert {f.hazard.kind for f in found} <= FAR_OUT.get(name, set())


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("return sum(softmax(where(on, z, -inf)) * y)", "empty row"),
        ("return sum(exp(-z^2) * z^40 * 1e30)", "overflow"),
        ("return sum(log(1 - tanh(z)^2))", "log at 0"),
        ("return sum(sqrt(1 - clip(z, -1, 1)^2))", "sqrt at 0"),
    ],
)
def test_what_was_silent_is_named_by_its_kind(body: str, kind: str) -> None:
    _, findings = searched(f"{HEAD}    {body}\n}}")
    assert kind in {f.hazard.kind for f in findings.found}


NAMED = {
    "return sum(sqrt(z - floor(z)))": "sqrt at 0",
    "return sqrt(mean(z^2) - 1e-3)": "sqrt of a negative number",
    "return sum(z^1.5)": "power of a negative number",
    "return sum(log(z - 3))": "log of a negative number",
    "return logsumexp(where(on, z, -inf))": "empty row",
    "return max(where(on, z, -inf))": "masked result",
    "return sum(where(iota(3) == 0, 0, log_softmax(where(iota(3) < 2, z, -inf))))": "masked result",
}


@pytest.mark.parametrize("body", NAMED)
def test_a_finding_is_named_by_what_happens_at_its_point(body: str) -> None:
    _, findings = searched(f"{HEAD}    {body}\n}}")
    kinds = [f.hazard.kind for f in findings.found]
    assert NAMED[body] in kinds and "overflow" not in kinds
    for finding in findings.found:
        if finding.hazard.kind == "sqrt at 0":
            assert not np.any(finding.point["x"] * finding.point["w"] < 0)


def test_absence_of_overflow_is_said_with_the_sizes_it_holds_for() -> None:
    _, findings = searched(f"{HEAD}    return sum(tanh(z) * y)\n}}")
    assert findings.largest == 1.0
    assert "outgrows f32, for inputs up to 100 and parameters up to 1 " in none_found(findings)
    _, findings = searched(f"{HEAD}    return sum(x^10 * y^9) * 0.1\n}}")
    assert findings.largest is None and not findings.found
    assert "overflow" in left_open(findings) and "outgrows" not in none_found(findings)


def test_absence_says_what_was_looked_for() -> None:
    _, findings = searched(f"{HEAD}    return sum(tanh(z) * y)\n}}")
    text = none_found(findings)
    assert not findings.found and not findings.open
    assert f"{findings.tried} points" in text and "f32" in text
    assert "no gradient can" not in text.lower()
    _, findings = searched("model m(t: float) -> float {\n return 1 / (t^4 + t + 1 - 0.527) }")
    assert findings.open and not findings.found
    assert "do not exclude" in none_found(findings)


def test_a_search_that_is_cut_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradc.runtime.reports.hazard_points._MOST_SECONDS", -1.0)
    _, findings = searched(f"{HEAD}    return sum(tanh(z) * y)\n}}")
    assert findings.is_cut and findings.tried == 0


def test_the_command_prints_the_point(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "norm.grad"
    path.write_text("model m(x: float[2]) -> float {\n    return sqrt(sum(x^2))\n}\n")
    assert main(["check", str(path), "--hazards"]) == 0
    shown = capsys.readouterr().err
    assert "run natively at x = [0, 0]: d loss / d x is NaN" in shown
    assert "the loss itself stays finite there" in shown
    path.write_text("model m(x: float[2]) -> float {\n    return sum(tanh(x))\n}\n")
    assert main(["check", str(path), "--hazards"]) == 0
    assert "No gradient was found that is infinite or NaN" in capsys.readouterr().err
