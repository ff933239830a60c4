"""Warnings of programs that are valid and train badly: each pattern, and what looks like it and is
right.
"""

import pytest

from gradc.runtime.api import loads
from tests.support.doctor_cases import FOLDER, cases

HEAD = "dim B, D = 4, H = 8, C = 3\nmodel m(x: float[B, D], y: int[B], z: float[B]) -> float {\n"


def codes(body: str) -> set[str]:
    program = loads(HEAD + body + "\n}").program
    return {d.code for d in program.check()} - {"GC0212"}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("use f = dense(D, C)\nreturn mean(cross_entropy(softmax(f(x)), y))", "GC0218"),
        (
            "use f = dense(D, C)\ne = exp(f(x))\np = e / sum(e, axis = 1, keepdims = true)\n"
            + "return mean(cross_entropy(p, y))",
            "GC0218",
        ),
        (
            "use f = dense(D, 1)\np = sigmoid(f(x))[:, 0]\n"
            + "return mean(binary_cross_entropy_logits(p, z))",
            "GC0219",
        ),
        (
            "use f = dense(D, C)\nreturn -mean(one_hot(y, C, float)"
            + " * log(max(softmax(f(x), axis = 0), 1e-9)))",
            "GC0220",
        ),
        ("use f = dense(D, H)\nuse g = dense(H, 1)\nreturn mean(g(f(x))^2)", "GC0221"),
        ("use f = dense(D, 1)\nreturn mean((z - f(x))^2)", "GC0222"),
        ("use f = dense(D, 1)\nreturn mean(z * f(x))", "GC0222"),
        ("use f = layernorm(1)\nreturn mean(f(x[:, 0:1])^2) + sum(z)", "GC0223"),
    ],
)
def test_a_pattern_that_trains_badly_is_named(body: str, code: str) -> None:
    assert codes(body) == {code}


@pytest.mark.parametrize(
    "body",
    [
        "use f = dense(D, C)\nreturn mean(cross_entropy(f(x), softmax(x[:, 0:C])))",
        "use f = dense(D, C)\nreturn mean(cross_entropy(10 * softmax(f(x)), y))",
        "use f = dense(D, 1)\nreturn mean(softplus(sigmoid(f(x))))",
        # One explanation for each sample of a bag, and views against each other.
        "use f = dense(D, 1)\nreturn sum(softmax(f(x), axis = 0) * x)^2",
        "return -mean(log(softmax(x @ x.T, axis = 0) + 1e-9))",
        # A bottleneck, a gate, a second reader.
        "use f = dense(D, 2)\nuse g = dense(2, H)\nreturn mean(g(f(x))^2)",
        "use f = dense(D, H)\nuse g = dense(H, 1)\nreturn mean(g(f(x) * z[:, None])^2)",
        "use f = dense(D, H)\nuse g = dense(H, 1)\nh = f(x)\nreturn mean(g(h)^2) + mean(abs(h))",
        # Every pair on purpose.
        "return mean((z[:, None] - z)^2)",
        "return mean(sum(x * x, axis = 1, keepdims = true) - z)",
        "use f = layernorm(D)\nreturn mean(f(x)^2)",
        # Frozen on purpose.
        "param w: float[D, H] ~ he_normal\nuse g = dense(H, 1)\n"
        + "return mean(g(relu(x @ stop_gradient(w)))^2)",
    ],
)
def test_what_looks_like_it_and_is_right_is_left_alone(body: str) -> None:
    assert not codes(body)


UPDATE = """
optimizer mine(lr = 0.1) {{
    state v ~ zeros
    update(p, g, t) {{
        v = 0.9 * v + 0.1 * g^2
        return p - lr * {}
    }}
}}
model m(x: float[3]) -> float {{
    param w: float[3] ~ zeros
    return sum((x - w)^2)
}}
"""


@pytest.mark.parametrize(
    ("step", "divides"),
    [
        ("g / sqrt(v)", True),
        ("g * rsqrt(v)", True),
        ("g / sqrt(v / (1 - 0.9^t))", True),
        ("g / (sqrt(v) + 1e-8)", False),
        ("g / sqrt(v + 1e-8)", False),
        ("g / max(sqrt(v), 1e-8)", False),
        ("g / sqrt(t)", False),
    ],
)
def test_an_update_that_divides_by_a_root_is_named(step: str, divides: bool) -> None:
    found = [d.code for d in loads(UPDATE.format(step)).program.check()]
    assert found == (["GC0224"] if divides else [])


def test_the_warning_of_a_dead_end_stands_at_what_cuts() -> None:
    program = loads(HEAD + "use f = dense(D, 1)\nh = f(x)\nreturn mean(round(h)^2)\n}").program
    (found,) = (d for d in program.check() if d.code == "GC0211")
    assert found.span is not None and found.span.line == 5
    assert "`f.w`, `f.b`" in found.message


def test_no_healthy_training_is_suspected() -> None:
    told = {
        name: [d.code for d in case.model().program.check()]
        for name, case in cases("healthy").items()
    }
    assert not {name: found for name, found in told.items() if found}
    repaired = {c.repaired.program for c in cases("sick").values()}
    for name in repaired:
        text = (FOLDER / "programs" / f"{name}.grad").read_text()
        assert not loads(text).program.check(), name
