"""A pullback is compared with the derivative of its function: proved, agreeing or refuted; asserted
only where nothing else can be said, or where the user says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.passes.prove.report import Report, Status
from gradc.runtime.api import loads
from gradc.runtime.cli import main
from tests.support.pullbacks import LAYERS, Layer, verdict

FN = "fn f(x: float[...]) -> float[...] {{ {body}\n    pullback(ct){word} {{ return {ct} }} }}\n"
MODEL = """model m(x: float[2, 3]) -> float {
    param w: float[3] ~ normal(1)
    param v: float[3] ~ normal(1)
    return sum(f(x * w)^2 * v) }
"""


def verified(body: str, ct: str, word: str = "", text: str = MODEL) -> Report:
    return loads(FN.format(body=body, ct=ct, word=word) + text).verify(sympy=0)


def statuses(report: Report, kind: str = "parameter") -> dict[str, Status]:
    return {v.subject: v.status for v in report.verdicts if v.kind == kind}


# A tenth of `python -m tests.support.pullbacks`, another one for each layer.
@pytest.mark.parametrize("layer", LAYERS[::2], ids=lambda layer: str(layer.name))
def test_wrong_pullbacks_of_named_layers_are_refuted_and_right_ones_are_not(layer: Layer) -> None:
    place = LAYERS.index(layer)
    found = verdict(layer, layer.right[place % len(layer.right)])
    assert found.status.is_proof or found.status is Status.AGREES, found.detail
    found = verdict(layer, layer.wrong[place % len(layer.wrong)])
    assert found.status is Status.REFUTED
    assert found.witness["of"].startswith("the cotangent of ")


def test_a_wrong_pullback_through_a_softmax_is_refuted(tmp_path: Path) -> None:
    """Its maximum is under `stop_gradient`, which is no step: the derivative of a softmax is
    known.
    """
    body, ct = "p = softmax(x, axis = -1)\n    return p", "p * (1 - p) * ct"
    report = verified(body, ct)
    assert statuses(report) == {"w": Status.REFUTED, "v": Status.PROBABLE}
    path = tmp_path / "p.grad"
    path.write_text(FN.format(body=body, ct=ct, word="") + MODEL)
    assert main(["verify", str(path), "--sympy", "0"]) == 3


def test_a_pullback_that_agrees_leaves_its_parameters_alone() -> None:
    """It takes a law of exp that a field does not know, so balls say it; nothing is asserted
    then.
    """
    report = verified("h = tanh(x)\n    return h", "4 * ct / (exp(x) + exp(-x))^2")
    assert list(statuses(report, "pullback").values()) == [Status.AGREES]
    assert statuses(report) == {"w": Status.AGREES, "v": Status.AGREES}
    assert report.ok


# What has no derivative to speak of: a step, a place, a choice between constants.
STEPS = {
    "round": "return round(x)",
    "floor": "return floor(3 * x) / 3",
    "sign": "return sign(x)",
    "spike": "return where(x > 1, 1.0, 0.0)",
    "beside": "return x + 0.1 * round(x)",
    "place": "return one_hot(argmax(x, axis = -1), 3)",
    "inside a loop": "y = scan r in x { yield floor(r) }\n    return y",
}
# What has one, though a comparison or a step takes part.
SMOOTH = {
    "where": "return where(x > 0, x, 0.1 * x)",
    "mask": "return x * where(x > 0, 1.0, 0.0)",
    "stopped": "return x * stop_gradient(x)",
    "stopped step": "return x + stop_gradient(round(x) - x)",
    "maximum": "return x * max(x, axis = -1, keepdims = true)",
}


@pytest.mark.parametrize("kind", [*STEPS, *SMOOTH])
def test_only_what_ends_in_a_step_is_asserted(kind: str) -> None:
    body = {**STEPS, **SMOOTH}[kind]
    found = verified(body, "2.5 * ct")
    expected = Status.ASSERTED if kind in STEPS else Status.REFUTED
    assert list(statuses(found, "pullback").values()) == [expected]
    assert statuses(found)["w"] is expected


def test_stop_gradient_is_a_choice_that_is_kept() -> None:
    report = verified("return x * stop_gradient(x)", "ct * x")
    assert {s.is_proof for s in statuses(report).values()} == {True}


def test_the_word_asserted_is_taken_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "p.grad"
    path.write_text(FN.format(body="return clip(x, -1, 1)", ct="ct", word=" asserted") + MODEL)
    assert main(["verify", str(path)]) == 0
    out = capsys.readouterr().out
    assert "asserted: 1 pullback is the user's word and not proved" in out
    assert "the gradients of w are that word" in out
    assert "3 ASSERTED" in out  # the pullback, w, and SymPy's row


def test_an_assertion_excuses_nothing_else() -> None:
    """Two pullbacks, one asserted and one wrong: each parameter is judged by the one its gradient
    goes through.
    """
    text = FN.format(body="return round(x)", ct="ct", word="") + (
        "fn g(x: float[...]) -> float[...] { return tanh(x)\n"
        "    pullback(ct) { return ct * (1 - tanh(x)) } }\n"
        "model m(x: float[2, 3]) -> float {\n"
        "    param w: float[3] ~ normal(1)\n    param v: float[3] ~ normal(1)\n"
        "    return sum(f(x * w)^2) + sum(g(x * v)) }\n"
    )
    assert statuses(loads(text).verify(sympy=0)) == {"w": Status.ASSERTED, "v": Status.REFUTED}


def test_another_word_is_a_diagnostic() -> None:
    with pytest.raises(DiagnosticError) as problem:
        loads(FN.format(body="return x", ct="ct", word=" assumed") + MODEL)
    assert problem.value.diagnostics[0].code == "GC0116"
    assert "`asserted`" in str(problem.value)


def test_asserted_is_a_name_like_any_other_elsewhere() -> None:
    text = "model m(asserted: float[3]) -> float { return sum(asserted^2) }"
    assert loads(text).inputs
