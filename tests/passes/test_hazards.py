"""Hazards: what must be found, what must not, and that the rewrites cure what they are offered
for.
"""

from pathlib import Path

import numpy as np
import pytest

import gradc
from gradc.codegen.symbolic.sympy.limits import edge
from gradc.codegen.symbolic.sympy.rewrites import CLAIMS, is_proved
from gradc.frontend.program import load, loads
from gradc.passes.hazards.hazards import REWRITES, Hazard, find_hazards, find_overflow
from gradc.runtime.cli import main
from gradc.runtime.reports.hazard_text import advice, limits_of

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
HEAD = "model m(x: float[3]) -> float {\n"


def hazards(body: str, head: str = HEAD) -> list[Hazard]:
    return find_hazards(loads(f"{head}{body}\n}}").lower().function)


@pytest.mark.parametrize(
    ("body", "kind", "when", "rewrite", "line"),
    [
        ("return sqrt(sum(x^2))", "sqrt at 0", "backward", "sqrt", 2),
        ("s = sum(x * x)\nreturn sqrt(s)", "sqrt at 0", "backward", "sqrt", 3),
        ("return sum(x / abs(x))", "division by 0", "forward", "divide", 2),
        ("return -sum(log(softmax(x)))", "log of a softmax", "forward", "log_softmax", 2),
        ("p = sigmoid(x)\nreturn sum(p * log(p))", "0 * log(0)", "forward", "xlogx", 3),
        ("return sum(1 / (1 + exp(-x)))", "exp overflow", "backward", "sigmoid", 2),
        ("return log(sum(exp(x)))", "exp overflow", "forward", "logsumexp", 2),
        ("return sum(log(1 + exp(x)))", "exp overflow", "forward", "softplus", 2),
        ("e = exp(x)\nreturn sum((e / sum(e))^2)", "exp overflow", "forward", "softmax", 2),
        ("return sum(abs(x)^0.5)", "sqrt at 0", "backward", "sqrt", 2),
        ("return sum(where(x >= 0, sqrt(x), 0))", "sqrt at 0", "backward", "sqrt", 2),
        ("p = sigmoid(x)\nreturn -sum(log(1 - p))", "log at 0", "forward", "log", 3),
    ],
)
def test_hazards_are_found(body: str, kind: str, when: str, rewrite: str, line: int) -> None:
    found = {hazard.kind: hazard for hazard in hazards(body)}
    assert kind in found
    assert found[kind].when == when
    assert found[kind].rewrite == rewrite
    place = found[kind].place
    assert place is not None and place.line == line
    assert any("x" in name for name in found[kind].affects)


@pytest.mark.parametrize(
    "body",
    [
        "return sum(where(x > 0, sqrt(x), 0))",
        "return sum(where(x != 0, 1 / x, 0))",
        "return sqrt(sum(x^2) + 1e-8)",
        "n = sum(x^2)\nreturn where(n > 0, sqrt(n), 0)",
        "p = sigmoid(x)\nreturn sum(where(p > 0, p * log(p), 0))",
        "return sum(x / (1 + x^2))",
        "return sum(exp(-x^2))",
        "return logsumexp(x)",
        "return -sum(log_softmax(x))",
        "return sum(sqrt(relu(x)))",
        "return max(x) + min(x)",
        "return sum(gelu(x) + silu(x) + softplus(x) + tanh(x))",
        "return sum(x^3)",
    ],
)
def test_what_is_safe_is_not_reported(body: str) -> None:
    assert hazards(body) == []


# Safe because of what two values have to do with each other: an interval each would be an alarm.
RELATED = {
    "a value and its square": "s = sigmoid(x)\nreturn sum(log(s - s * s + 1e-3))",
    "one minus a square": "c = tanh(x)\nreturn sum(sqrt(1 - c^2 + 1e-3))",
    "a product with its complement": "s = sigmoid(x)\nreturn sum(log(s * (1 - s) + 1e-3))",
    "a root less what is under it": "r = sqrt(x * x + 1)\nreturn sum(log(r - x + 1e-3))",
    "a root and what is under it": "r = sqrt(x * x + 1)\nreturn sum(log(x + r + 1e-3))",
    "a sine by its sides": "r = sqrt(x * x + 1)\nreturn sum(sqrt(1.1 - (x / r)^2))",
}
# The same where the edge is reached, or where the root is of something else.
UNRELATED = {
    "s = sigmoid(x)\nreturn sum(sqrt(s - s * s))": "sqrt at 0",
    "s = sigmoid(x)\nreturn sum(log(s - s * s))": "log at 0",
    "r = sqrt(x * x + 1)\nreturn sum(log(r - 2 * x + 1e-3))": "log at 0",
    "r = sqrt(x * x + 1)\nreturn sum(sqrt(1 - (x / r)^2))": "sqrt at 0",
    "return sum(sqrt(x * x - 2 * x + 1))": "sqrt of a negative number",
}


@pytest.mark.parametrize("name", RELATED)
def test_what_is_safe_by_a_relation_is_not_reported(name: str) -> None:
    assert hazards(RELATED[name]) == []


@pytest.mark.parametrize("body", UNRELATED)
def test_relations_do_not_hide_what_they_do_not_exclude(body: str) -> None:
    assert UNRELATED[body] in {hazard.kind for hazard in hazards(body)}


# Whether a condition, or a maximum, speaks of the very element that it stands beside.
ELSEWHERE = {
    "sum(where(x[:, None] > 0, log(x[None, :]), 0))": True,
    "sum(where(x[:, None] > 0, log(x[:, None]) * z, 0))": False,
    "sum(where(x[:, None] > 0 * z, log(x)[:, None], 0))": False,
    "sum(where(x > 0, (1 / x)[::-1], 0))": True,
    "sum(where(x > 0, sum(1 / x), 0))": True,
    "sum(where(sum(x) > 0, log(sum(x)), 0) * y)": False,
    "sum(sqrt(x[:, None] * x[None, :] + 1))": True,
    "sum(sqrt(x[:, None] * x[:, None] + 1))": False,
    "sum(log(1.5 - exp(z - max(z, axis = 1)[None, :])))": True,
    "sum(log(1.5 - exp(z - max(z, axis = 1)[:, None])))": False,
    "sum(where(m, softmax(where(m, z, -inf), axis = -1), 0)^2)": False,
    "sum(where(transpose(m, [1, 0]), softmax(where(m, z, -inf), axis = -1), 0)^2)": True,
    "sum(where(on[None, :], softmax(where(on[None, :], z, -inf), axis = -1), 0)^2)": False,
    "sum(where(on[:, None], softmax(where(on[None, :], z, -inf), axis = -1), 0)^2)": True,
    "sum(scaled_attention(z, z, z, mask = m))": False,
    "sum(log(1.1 - x[:, None] / sqrt(x^2 + 1)[None, :]))": True,
    "sum(log(1.1 - x[:, None] / sqrt(x^2 + 1)[:, None]))": False,
}


@pytest.mark.parametrize("value", ELSEWHERE)
def test_what_is_known_of_one_element_is_not_taken_for_another_s(value: str) -> None:
    inputs = "x: float[3], y: float[3], on: bool[3], z: float[3, 3], m: bool[3, 3]"
    found = hazards(f"return {value}", f"model m({inputs}) -> float {{\n")
    assert bool(found) == ELSEWHERE[value]


MASKED = {
    "where(on, x, -inf)": True,
    "where(on or iota(3) == 1, x, -inf)": False,
    "where(iota(3) > 0, x, -inf)": False,
    "where(iota(3) > 2, x, -inf)": True,
    "where(not on, -inf, x) / 2": True,
}


@pytest.mark.parametrize("row", MASKED)
def test_rows_that_may_be_masked_throughout_are_known(row: str) -> None:
    head = "model m(x: float[3], on: bool[3]) -> float {\n"
    kinds = [h.kind for h in hazards(f"return sum(softmax({row})^2)", head)]
    assert ("empty row" in kinds) == MASKED[row]
    guarded = "return sum(where(on, softmax(where(on, x, -inf)), 0)^2)"
    assert hazards(guarded, head) == []


def test_a_result_may_be_an_infinity_that_is_written_down() -> None:
    head = "model m(x: float[3], on: bool[3]) -> float {\n"
    assert [h.kind for h in hazards("return max(where(on, x, -inf))", head)] == ["masked result"]
    assert hazards("return sum(where(on, where(on, x, -inf), 0))", head) == []


# Whether nothing outgrows f32 where no input is above 100.
GROWN = {
    "return sum(x^8)": False,
    "return sum(x^20)": True,
    "return prod(x)": False,
    "return sum(x^10) * sum(x^10)": True,
    "return sum(tanh(x)^20)": False,
    "return sum(1 / (x^2 + 1e-30))": True,
    "return sum(gelu(x)^3 + silu(x)^3 + softplus(x)^3)": False,
    "scan t in iota(4) carry h = x { h = h * x }\nreturn sum(h)": False,
    "scan t in iota(40) carry h = x { h = h * x }\nreturn sum(h)": True,
    "scan t in iota(40) carry h = x { h = tanh(h) + x }\nreturn sum(h)": False,
}


@pytest.mark.parametrize("body", GROWN)
def test_numbers_that_outgrow_their_type_are_bounded_in_a_box(body: str) -> None:
    function = loads(f"{HEAD}{body}\n}}").lower().function
    assert (find_overflow(function, {"x": 100.0}) is not None) == GROWN[body]


def test_what_a_loop_carries_is_known_after_one_trip() -> None:
    body = "scan t in iota(9) carry h = 0.5 * tanh(x) {{ h = {} }}\nreturn sum(log(1.5 - h))"
    assert hazards(body.format("sin(h + x)")) == []
    assert [h.kind for h in hazards(body.format("h + x"))] == ["log at 0"]


def test_a_guard_on_another_value_does_not_help() -> None:
    head = "model m(x: float[3], y: float[3]) -> float {\n"
    assert [h.kind for h in hazards("return sum(where(y > 0, 1 / x, 0))", head)] == [
        "division by 0"
    ]
    assert hazards("return sum(where(y > 0, x / y, 0))", head) == []


LAYERS = {
    "dense(4, 5)": "float[B, 4]",
    "layernorm(4)": "float[B, 4]",
    "rmsnorm(4)": "float[B, 4]",
    "batchnorm(4)": "float[B, 4]",
    "batchnorm2d(4)": "float[B, 4, 5, 5]",
    "conv(4, 2, 3)": "float[B, 4, 5, 5]",
    "rnn(4, 5)": "float[3, B, 4]",
    "lstm(4, 5)": "float[3, B, 4]",
    "gru(4, 5)": "float[3, B, 4]",
    "attention(4, 2)": "float[B, 6, 4]",
}


@pytest.mark.parametrize("layer", list(LAYERS))
def test_layers_of_the_library_are_safe(layer: str) -> None:
    text = f"model m(x: {LAYERS[layer]}) -> float {{\n use f = {layer}\n return mean(f(x)^2)\n}}"
    assert find_hazards(loads(text).lower(dims={"B": 3}).function) == []


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/*.grad")), ids=lambda p: p.stem)
def test_examples_are_safe(path: Path) -> None:
    program = load(path)
    for entry in program.models:
        dims = {n: v or 6 for n, v in program.signature(entry).dims.items()}
        assert find_hazards(program.lower(entry, dims).function) == [], entry


@pytest.mark.parametrize(
    ("before", "after", "point"),
    [
        ("return sqrt(sum(x^2))", "n = sum(x^2)\nreturn where(n > 0, sqrt(n), 0)", [0.0, 0.0, 0.0]),
        (
            "return sum(x / abs(x))",
            "return sum(where(abs(x) != 0, x / abs(x), 0))",
            [0.0, 1.0, -2.0],
        ),
        ("return -sum(log(softmax(x)))", "return -sum(log_softmax(x))", [0.0, 0.0, 900.0]),
        ("return log(sum(exp(x)))", "return logsumexp(x)", [900.0, 0.0, 1.0]),
        ("return sum(1 / (1 + exp(-x)))", "return sum(sigmoid(x))", [-900.0, 0.0, 1.0]),
    ],
)
def test_a_hazard_is_real_and_its_rewrite_cures_it(
    before: str, after: str, point: list[float]
) -> None:
    """The compiled gradient is not finite at the point, is after the rewrite, and both agree
    elsewhere.
    """
    x = np.array(point)
    elsewhere = np.array([0.3, -0.7, 1.1])
    grads = []
    for body in (before, after):
        net = gradc.loads(f"{HEAD}{body}\n}}", precision="f64")
        function = net.value_and_grad(wrt="inputs")
        grads.append((function({}, x=x)[1]["x"], function({}, x=elsewhere)[1]["x"]))
    assert not np.isfinite(grads[0][0]).all()
    assert np.isfinite(grads[1][0]).all()
    assert grads[0][1] == pytest.approx(grads[1][1], rel=1e-12)
    assert hazards(after) == []


@pytest.mark.parametrize("name", list(CLAIMS))
def test_rewrites_are_proved(name: str) -> None:
    assert name in REWRITES
    assert is_proved(name)


def test_a_wrong_rewrite_is_not_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    from gradc.codegen.symbolic.sympy import rewrites

    wrong = rewrites.Claim(lambda x: x**2, lambda x: 2 * x)
    monkeypatch.setitem(dict(CLAIMS), "wrong", wrong)
    monkeypatch.setattr(rewrites, "CLAIMS", {**CLAIMS, "wrong": wrong})
    assert not is_proved("wrong")


def test_advice_speaks_in_the_users_terms() -> None:
    program = loads(f"{HEAD}return sqrt(sum(x^2))\n}}")
    (hazard,) = find_hazards(program.lower().function)
    found = advice(hazard, program.report.sources)
    assert found is not None
    assert found.after == "where(sum(x^2) > 0, sqrt(sum(x^2)), 0)"
    assert found.is_proved


def test_check_shows_hazards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "norm.grad"
    path.write_text(f"{HEAD}    return sqrt(sum(x^2))\n}}\n")
    assert main(["check", str(path), "--hazards"]) == 0
    shown = capsys.readouterr()
    assert "sqrt at 0" in shown.err
    assert "norm.grad:2:12" in shown.err
    assert main(["check", str(path)]) == 0
    assert "sqrt at 0" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "value", "slope"),
    [
        ("sqrt at 0", "0", "oo"),
        ("rsqrt at 0", "oo", "-oo"),
        ("log at 0", "-oo", "oo"),
        ("0 * log(0)", "0", "-oo"),
        ("division by 0", "oo / -oo", "-oo"),
        ("power at 0", "0", "oo"),
        ("exp overflow", "oo", "oo"),
    ],
)
def test_limits_confirm_hazards(kind: str, value: str, slope: str) -> None:
    found = edge(kind)
    assert found is not None
    assert (found.value, found.slope) == (value, slope)
    assert found.is_confirmed


BODIES = [
    "return sqrt(sum(x^2))",
    "return sum(x / abs(x))",
    "return -sum(log(softmax(x)))",
    "p = sigmoid(x)\nreturn sum(p * log(p))",
    "return log(sum(exp(x)))",
    "return sum(max(x, 0)^0.3)",
    "return sum(x^0.5)",
    "p = sigmoid(x)\nreturn -sum(log(1 - p))",
]


@pytest.mark.parametrize("body", BODIES)
def test_every_kind_of_hazard_has_a_region_and_a_limit(body: str) -> None:
    found = hazards(body)
    assert found
    for hazard in found:
        edge_of = edge(hazard.kind)
        assert edge_of is not None, hazard.kind
        assert edge_of.is_confirmed
        assert "where" in limits_of(hazard)


def test_a_power_is_rewritten_and_cured() -> None:
    program = loads(f"{HEAD}return sum(max(x, 0)^0.3)\n}}")
    (hazard,) = find_hazards(program.lower().function)
    found = advice(hazard, program.report.sources)
    assert found is not None
    assert found.after == "where(max(x, 0) > 0, max(x, 0)^0.3, 0)"
    assert found.is_proved
    x = np.array([0.0, 0.5, 2.0])
    grads = []
    for text in (found.before, found.after):
        net = gradc.loads(f"{HEAD}return sum({text})\n}}", precision="f64")
        grads.append(net.value_and_grad(wrt="inputs")({}, x=x)[1]["x"])
    assert grads[1][0] == 0
    assert grads[0][1:] == pytest.approx(grads[1][1:], rel=1e-12)
    assert hazards(f"return sum({found.after})") == []
