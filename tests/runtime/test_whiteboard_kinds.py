"""What a whiteboard and formulas say is so: consumers by identity, messages that add up, formulas
that were tried.
"""

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gradc
from gradc.codegen.symbolic.formulas import notation as n
from gradc.codegen.symbolic.formulas.fold import Folder
from gradc.codegen.symbolic.formulas.notation import to_latex, to_mathml, to_text
from gradc.codegen.symbolic.formulas.notation_value import Names, agrees
from gradc.codegen.symbolic.formulas.terms import Poly, scaled
from gradc.runtime.reports.report_html import report_page
from gradc.runtime.reports.whiteboard import Whiteboard
from gradc.runtime.reports.whiteboard_text import to_graph, to_json, to_lines

CHECKPOINT = """
model m(x: float[3]) -> float {
    param w: float[3] ~ normal(1)
    param u: float[3] ~ normal(1)
    checkpoint {
        a = tanh(w * x)
        checkpoint { h = a * u }
    }
    return sum(h * h)
}
"""
RECURRENT = """
model m(x: float[3]) -> float {
    param w: float ~ normal(1)
    param u: float ~ normal(1)
    h1 = tanh(w*0.0 + u*x[0])
    h2 = tanh(w*h1 + u*x[1])
    h3 = tanh(w*h2 + u*x[2])
    return h3^2
}
"""
BY_HAND = """
model m(x: float, y: float) -> float {
    param w: float ~ normal(1)
    p = sigmoid(w * x)
    return -(y * log(p) + (1 - y) * log(1 - p))
}
"""
POOLED = """
dim B = 2
model m(x: float[B, 1, 4, 4]) -> float {
    param w: float[2, 1, 3, 3] ~ normal(1)
    h = conv2d(x, w, padding = 1)
    p = max_pool(h, 2)
    q = reshape(p, [B, 8])
    return mean(q * q)
}
"""
LOOP = """
model m(x: float[4, 3]) -> float {
    param w: float[3, 3] ~ normal(1)
    param start: float[3] ~ normal(1)
    hs = scan xt in x carry h = start {
        h = tanh(w @ h + xt)
        yield h
    }
    return sum(hs * h) + sum(w * w)
}
"""
CUSTOM = """
fn f(x: float[...]) -> float[...] {
    return x * x
    pullback(ct) { return 2 * x * ct }
}
model m(x: float[3]) -> float {
    param w: float[3] ~ normal(1)
    y = f(w * x)
    return sum(y * y)
}
"""
COLLIDING = """
model m(dx: float[3], L: float[3], dv1: float) -> float {
    param x: float[3] ~ normal(1)
    param v1: float ~ normal(1)
    return sum(x * dx * L) * v1 * dv1
}
"""
PROGRAMS = {
    "checkpoint": CHECKPOINT,
    "recurrent": RECURRENT,
    "by hand": BY_HAND,
    "pooled": POOLED,
    "loop": LOOP,
    "custom": CUSTOM,
    "colliding": COLLIDING,
}


def inputs_of(net: gradc.Model) -> dict[str, NDArray[np.float64]]:
    rng = np.random.default_rng(1)
    return {name: rng.normal(size=t.static_shape) for name, t in net.inputs.items()}


def board(text: str, **options: Any) -> Whiteboard:
    net = gradc.loads(text, **options)
    return net.explain(net.init(2), **inputs_of(net))


def formula(found: Whiteboard, name: str) -> str:
    return to_text(found.cotangent(name).equation)


@pytest.mark.parametrize("kind", PROGRAMS)
def test_messages_add_up_to_the_compiled_gradient(kind: str) -> None:
    net = gradc.loads(PROGRAMS[kind], precision="f64")
    params, inputs = net.init(2), inputs_of(net)
    found = net.explain(params, **inputs)
    _, grads = net.value_and_grad()(params, **inputs)
    assert not found.notes
    for row in found.backward:
        if row.edges:
            sent = [found.edges[number].sent for number in row.edges]
            assert all(edge.start == row.of for edge in found.messages(row.of))
            assert sum(s for s in sent if s is not None) == pytest.approx(row.value, rel=1e-12)
    for name, grad in grads.items():
        assert found.gradients[name] == pytest.approx(grad, rel=1e-10, abs=1e-14)
    for edge in found.edges:
        if edge.slope_value is not None and edge.sent is not None and edge.end != found.loss:
            cotangent = found.cotangent(edge.end).value
            assert edge.slope_value * cotangent == pytest.approx(edge.sent, rel=1e-10)


def test_consumers_are_told_by_identity_not_by_equal_values() -> None:
    found = board(RECURRENT)
    assert formula(found, "u") == "du = dv11 * v10 + dv3 * v2 + dv7 * v6"
    assert [e.end for e in found.messages("u")] == ["v11", "v7", "v3"]
    by_hand = board(BY_HAND)
    assert formula(by_hand, "v6") == "dv6 = dv7 * v4"
    assert formula(by_hand, "p") == "dp = dv2 / p - dv5"
    # No cotangent is mentioned before its own row.
    seen: list[str] = []
    for row in (*found.backward, *by_hand.backward):
        right = to_text(row.equation).partition("=")[2]
        later = {r.name for r in found.backward} - {*seen, row.name}
        assert row in by_hand.backward or not {w for w in right.split() if w in later}
        seen.append(row.name)


def test_fan_out_is_two_edges_and_a_power_is_one() -> None:
    found = board("model m() -> float { param x: float ~ constant(3)\n return x * x }")
    assert [(e.start, e.end, to_text(e.slope)) for e in found.edges if e.slope] == [
        ("x", "L", "dL/dx = x"),
        ("x", "L", "dL/dx = x"),
    ]
    assert formula(found, "x") == "dx = 2 x"
    assert [float(e.sent) for e in found.messages("x") if e.sent is not None] == [3.0, 3.0]
    power = board("model m() -> float { param x: float ~ constant(3)\n return x ^ 2 }")
    assert [to_text(e.slope) for e in power.edges if e.slope] == ["dL/dx = 2 x"]


def test_what_a_checkpoint_recomputes_has_formulas() -> None:
    found = gradc.loads(CHECKPOINT).formulas()
    assert str(found.of("w")) == "dw = dh * u * x * (1 - a^2)"
    assert str(found.of("u")) == "du = dh * a"
    assert formula(board(CHECKPOINT), "a") == "da = dh * u"


def test_views_and_indices_are_shown() -> None:
    rows = {row.name: to_text(row.equation) for row in board(RECURRENT).forward}
    assert rows["v2"] == "v2 = x[0]" and rows["v10"] == "v10 = x[2]"
    assert board(RECURRENT).row("v2").value.shape == ()
    pooled = board(POOLED)
    assert to_text(pooled.row("q").equation) == "q = reshape(p, [B, 8])"
    assert formula(pooled, "p") == "dp = reshape(dq)"
    assert formula(pooled, "h") == "dh = (dp/dh)^T dp"
    assert formula(pooled, "w") == "dw = conv2d_filter(x, dh)"
    definitions = [to_text(d) for d in gradc.loads(POOLED).formulas().definitions]
    assert "q = reshape(p)" in definitions  # formulas hold for sizes that nobody gave


def test_loops_are_steps_with_a_jacobian_matrix() -> None:
    found = board(LOOP)
    assert to_text(found.row("hs").equation) == "hs = scan xt in x carry h = start { ... }"
    assert formula(found, "start") == "dstart = (dh/dstart)^T dh + (dhs/dstart)^T dhs"
    # The loop's message and the other use's stay apart.
    assert {e.end for e in found.messages("w")} == {"hs", "v3"}
    assert r"\top" in to_latex(found.cotangent("start").equation)
    assert "⊤" in to_mathml(found.cotangent("start").equation)


def test_names_of_the_program_do_not_collide() -> None:
    found = board(COLLIDING)
    names = [*found.given, *(r.name for r in found.forward), *(g.name for g in found.backward)]
    assert len(names) == len(set(names))
    assert formula(found, "x") == "∂x = ∂v2 * dx"
    assert [g.name for g in found.backward if g.is_asked] == ["∂x", "∂v1"]
    assert found.loss == "loss"
    assert str(gradc.loads(COLLIDING).formulas().of("x")) == "∂x = L * dv1 * dx * v1"


def test_half_precision_shows_its_own_numbers() -> None:
    text = "model m(x: float) -> float { param w: float ~ constant(1)\n return w * x * 1e-3 }"
    net = gradc.loads(text, precision="f16")
    params, inputs = net.init(0), {"x": np.float16(1e-5)}
    _, grads = net.value_and_grad()(params, **inputs)
    found = net.explain(params, **inputs)
    assert float(found.gradients["w"]) == float(grads["w"]) == 0.0


def test_json_carries_what_text_and_picture_are_made_from() -> None:
    found = board(RECURRENT)
    document = json.loads(json.dumps(to_json(found)))
    assert document["schema"] == "gradc-whiteboard-2"
    nodes = {node["name"]: node for node in document["nodes"]}
    assert nodes["x"] == {"name": "x", "kind": "input", "type": "f32[3]"}
    for edge in document["edges"]:
        assert edge["from"] in nodes and edge["to"] in nodes
    assert [e["id"] for e in document["edges"]] == list(range(len(document["edges"])))
    row = next(r for r in document["backward"] if r["of"] == "u")
    messages = [document["edges"][i]["message"] for i in row["messages"]]
    assert [m["formula"] for m in messages] == ["du = dv11 * v10", "du = dv7 * v6", "du = dv3 * v2"]
    assert sum(m["value"] for m in messages) == pytest.approx(row["value"])
    assert all(r["ops"] for r in document["forward"])
    drawn = {(a.partition(":")[2], b.partition(":")[2]) for a, b in to_graph(found).edges}
    assert drawn == {(e["from"], e["to"]) for e in document["edges"]}
    text = "\n".join(to_lines(found))
    for message in messages:
        assert message["formula"].partition(" = ")[2] in text


def test_a_formula_that_is_not_right_is_not_shown_and_its_absence_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = gradc.loads(BY_HAND)
    report = net.verify(sympy=0)
    page = report_page(report, net)
    assert "<math" in page and "Without a formula" not in page
    right = Folder.shortest

    def wrong(self: Folder, poly: Poly) -> Poly:
        return scaled(right(self, poly), 2)

    monkeypatch.setattr(Folder, "shortest", wrong)
    found = net.formulas()
    assert set(found.missing) == {"w"} and not found.gradients
    assert "Without a formula: 1" in report_page(report, net)
    # The whiteboard has other words for what it cannot write.
    shown = net.explain(net.init(0), **inputs_of(net))
    assert float(shown.gradients["w"]) != 0
    for row in shown.backward:
        assert "= 2 " not in to_text(row.equation)


def test_readings_of_notation() -> None:
    rng = np.random.default_rng(0)
    a, b, v = rng.normal(size=(2, 3)), rng.normal(size=(3, 4)), rng.normal(size=3)
    names = Names({"a": a, "b": b, "v": v, "t": rng.normal(size=(2, 5, 3))})

    def says(right: n.Notation, value: Any) -> bool:
        return agrees(n.Equation(n.Name("r"), right), np.asarray(value), names)

    a_, b_, v_ = n.Name("a"), n.Name("b"), n.Name("v")
    assert says(n.Product((a_, b_), "matrix"), a @ b)
    assert not says(n.Product((a_, b_), "matrix"), 1.0000001 * (a @ b))
    assert says(n.Product((a_, v_), "matrix"), a @ v)
    assert says(n.Product((v_, n.Power(v_, "T")), "matrix"), np.outer(v, v))
    assert says(n.Product((n.Name("t"), b_), "matrix"), names.arrays["t"] @ b)
    assert says(n.Apply("softmax", (a_,)), np.exp(a) / np.exp(a).sum(-1, keepdims=True))
    assert says(n.Apply("mean", (a_, n.Name("axis=0"))), a.mean(0))
    assert not says(n.Name("unknown"), v)
    i, k = n.Name("i"), n.Name("k")
    total = n.BigSum(("k",), n.Product((n.Indexed(a_, (i, k)), n.Indexed(v_, (k,))), "scalar"))
    assert agrees(n.Equation(n.Indexed(n.Name("r"), (i,)), total), a @ v, names)
    assert not agrees(n.Equation(n.Indexed(n.Name("r"), (i,)), total), a @ v + 1e-6, names)
