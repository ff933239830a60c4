"""Layers, loops, state and functions of the language, run by the reference interpreter, against
NumPy and torch.
"""

from math import erf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gradc.frontend.program import initialize, load, loads
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.tensor.core import Op, Role, walk
from tests.support.lowering import evaluate, lowered

RANDOM = np.random.default_rng(11)
PROGRAMS = Path(__file__).resolve().parent.parent / "programs"
EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"


def sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    y: NDArray[Any] = 1 / (1 + np.exp(-x))
    return y


def softmax(x: NDArray[Any]) -> NDArray[Any]:
    e: NDArray[Any] = np.exp(x - x.max(-1, keepdims=True))
    e /= e.sum(-1, keepdims=True)
    return e


@pytest.mark.parametrize(
    "path", sorted([*PROGRAMS.glob("*.grad"), *EXAMPLES.glob("*/*.grad")]), ids=lambda p: p.stem
)
def test_programs_check_and_lower_at_any_size(path: Path) -> None:
    program = load(path)
    program.check()
    for name in program.models:
        signature = program.signature(name)
        for free in (1, 6):
            dims = {dim: free for dim, default in signature.dims.items() if default is None}
            for training in (True, False):
                model = program.lower(name, dims, "bf16" if free == 1 else "f32", training)
                assert [spec.name for spec in model.inputs] == [s.name for s in signature.inputs]
                roles = [slot.role for slot in model.function.parameters]
                assert roles.index(Role.INPUT) == len(model.parameters)
                assert all(op.span is not None for op in walk(model.function.block))


def test_mlp_of_the_language_page() -> None:
    model = load(PROGRAMS / "mlp.grad").lower(dims={"B": 5}, precision="f64")
    params = initialize(model, 3)
    x = RANDOM.normal(size=(5, 784))
    y = RANDOM.integers(0, 10, 5)
    assert list(params) == ["fc1.w", "fc1.b", "fc2.w", "fc2.b"]
    hidden = np.maximum(x @ params["fc1.w"] + params["fc1.b"], 0)
    logits = hidden @ params["fc2.w"] + params["fc2.b"]
    found = evaluate(model, {"x": x, "y": y}, params)
    np.testing.assert_allclose(found["logits"], logits, rtol=1e-12)
    expected = -np.log(softmax(logits))[np.arange(5), y].mean()
    assert found["loss"] == pytest.approx(expected, rel=1e-12)


def test_spans_lead_to_the_users_line_and_scopes_to_the_instance() -> None:
    model = load(PROGRAMS / "mlp.grad").lower(dims={"B": 5})
    products = [op for op in model.function.block.ops if op.name == "contract"]
    assert [op.scope for op in products] == ["fc1", "fc2"]
    for op in products:
        assert op.span is not None
        assert op.span.file == "stdlib/layers.grad"
        assert op.span.outermost.file.endswith("mlp.grad")
    assert {op.span.outermost.line for op in products if op.span} == {7}


TRANSFORMER = (PROGRAMS / "transformer.grad").read_text(encoding="utf-8")


def test_transformer_equals_numpy_and_keeps_its_checkpoints() -> None:
    dims = {"B": 2, "T": 5, "V": 7, "D": 8, "N": 2, "L": 2}
    model = loads(TRANSFORMER).lower(None, dims, "f64", training=False)
    p = initialize(model, 1)
    p = {name: array + 0.1 * RANDOM.normal(size=array.shape) for name, array in p.items()}
    tokens, targets = (RANDOM.integers(0, 7, (2, 5)) for _ in range(2))

    def norm(h: NDArray[Any], name: str) -> NDArray[Any]:
        c = h - h.mean(-1, keepdims=True)
        y: NDArray[Any] = c / np.sqrt((c**2).mean(-1, keepdims=True) + 1e-5)
        y = y * p[f"{name}.gain"] + p[f"{name}.bias"]
        return y

    def dense(h: NDArray[Any], name: str) -> NDArray[Any]:
        y: NDArray[Any] = h @ p[f"{name}.w"] + p[f"{name}.b"]
        return y

    h = p["wte"][tokens] + p["wpe"]
    for i in range(2):
        name = f"blocks.{i}"
        q, k, v = np.split(dense(norm(h, f"{name}.ln1"), f"{name}.attn.qkv"), 3, -1)
        q, k, v = (a.reshape(2, 5, 2, 4).transpose(0, 2, 1, 3) for a in (q, k, v))
        s = np.where(np.tri(5) > 0, q @ k.transpose(0, 1, 3, 2) / 2, -np.inf)
        mixed = (softmax(s) @ v).transpose(0, 2, 1, 3).reshape(2, 5, 8)
        h = h + dense(mixed, f"{name}.attn.proj")
        up = dense(norm(h, f"{name}.ln2"), f"{name}.up")
        up = 0.5 * up * (1 + np.vectorize(erf)(up / np.sqrt(2)))
        h = h + dense(up, f"{name}.down")
    logits = norm(h, "lnf") @ p["wte"].T
    picked = -np.log(np.take_along_axis(softmax(logits), targets[..., None], -1))
    found = evaluate(model, {"tokens": tokens, "targets": targets}, p)
    assert found["loss"] == pytest.approx(picked.mean(), rel=1e-11)

    ops = [op for op in model.function.block.ops if op.name == "checkpoint"]
    assert len(ops) == 2
    assert all(len(op.results) == 1 for op in ops), "only h leaves a block"
    assert "blocks.1.attn.qkv" in {op.scope for op in walk(model.function.block)}
    trained = loads(TRANSFORMER).lower(None, dims, "f64", training=True)
    assert [slot.name for slot in trained.function.results] == ["loss", "rng"]
    streams = [
        op.attributes["stream"] for op in walk(trained.function.block) if op.name == "random_bits"
    ]
    assert streams == [0, 1]


RECURRENT = """
dim T, B, I, H
model m(xs: float[T, B, I]) -> float {{
    use cell = {layer}(I, H)
    hs = cell(xs)
    output hs
    return mean(hs)
}}
"""


@pytest.mark.parametrize("layer", ["rnn", "lstm", "gru"])
def test_recurrent_layers_equal_torch(layer: str) -> None:
    torch = pytest.importorskip("torch")
    model = lowered(RECURRENT.format(layer=layer), T=4, B=3, I=2, H=5)
    params = {
        spec.path: RANDOM.normal(size=spec.type.static_shape) * 0.5 for spec in model.parameters
    }
    xs = RANDOM.normal(size=(4, 3, 2))
    cell = getattr(torch.nn, layer.upper())(2, 5).double()
    with torch.no_grad():
        cell.weight_ih_l0.copy_(torch.tensor(params["cell.wx"].T))
        cell.weight_hh_l0.copy_(torch.tensor(params["cell.wh"].T))
        cell.bias_ih_l0.copy_(torch.tensor(params.get("cell.bx", params.get("cell.b"))))
        cell.bias_hh_l0.copy_(torch.tensor(params.get("cell.bh", np.zeros(cell.bias_hh_l0.shape))))
        expected, _ = cell(torch.tensor(xs))
    np.testing.assert_allclose(evaluate(model, {"xs": xs}, params)["hs"], expected, rtol=1e-12)
    (loop,) = [op for op in model.function.block.ops if op.name == "scan"]
    assert loop.attributes["trips"] == 4


SCAN = """
dim T = 5
model m(xs: float[T, 2], a: float) -> float {
    param w: float ~ constant(0.5)
    ys, zs = scan x in xs, t in iota(T) carry h = zeros([2]), n = 0 truncate 3 {
        h = w * h + a * x
        n = n + t
        yield h, 2 * x
    }
    output ys
    output zs
    output h
    output n
    return sum(h)
}
"""


def test_scan_carries_stacks_and_captures() -> None:
    model = lowered(SCAN)
    xs = RANDOM.normal(size=(5, 2))
    found = evaluate(model, {"xs": xs, "a": 1.5})
    h = np.zeros(2)
    rows = []
    for x in xs:
        h = 0.5 * h + 1.5 * x
        rows.append(h)
    np.testing.assert_allclose(found["ys"], rows)
    np.testing.assert_allclose(found["zs"], 2 * xs)
    np.testing.assert_allclose(found["h"], h)
    assert found["n"] == 10
    (loop,) = [op for op in model.function.block.ops if op.name == "scan"]
    attributes = {k: loop.attributes[k] for k in ("trips", "carried", "stacked", "truncate")}
    assert attributes == {"trips": 5, "carried": 2, "stacked": 2, "truncate": 3}


BATCHNORM = (
    (PROGRAMS / "layers.grad").read_text(encoding="utf-8")
    + """
dim B, C
model m(x: float[B, C]) -> float {
    use bn = batchnorm(C)
    y = bn(x)
    output y
    return mean(y)
}
"""
)


@pytest.mark.parametrize(
    "text",
    [BATCHNORM, BATCHNORM[BATCHNORM.index("dim B") :]],
    ids=["of the page", "of the library"],
)
def test_batchnorm_trains_its_state_and_uses_it(text: str) -> None:
    x = RANDOM.normal(size=(6, 3)) * 2 + 1
    mean, var = np.array([1.0, 2, 3]), np.array([4.0, 5, 6])
    state = {"bn.mean": mean, "bn.var": var}
    found = evaluate(lowered(text, B=6, C=3), {"x": x}, state)
    np.testing.assert_allclose(found["y"], (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5))
    np.testing.assert_allclose(found["new:bn.mean"], 0.9 * mean + 0.1 * x.mean(0))
    np.testing.assert_allclose(found["new:bn.var"], 0.9 * var + 0.1 * x.var(0))
    still = evaluate(lowered(text, training=False, B=6, C=3), {"x": x}, state)
    np.testing.assert_allclose(still["y"], (x - mean) / np.sqrt(var + 1e-5))
    assert not [name for name in still if name.startswith("new:")]


NORMS = """
model m(x: float[B, 6], z: float[B, 2, 4, 4], ids: int[B]) -> float {
    use rms = rmsnorm(6)
    use bn = batchnorm2d(2)
    use emb = embedding(9, 3)
    use c = conv(2, 4, 3, padding = 1, groups = 2)
    use att = attention(6, 2, causal = false)
    a = rms(x)
    b = bn(z)
    e = emb(ids)
    f = c(z)
    g = att(x[None])
    output a
    output b
    output e
    output f
    output g
    return sum(emb.w.T @ emb.w)
}
"""


def test_other_layers_of_the_library() -> None:
    torch = pytest.importorskip("torch")
    x, z = RANDOM.normal(size=(5, 6)), RANDOM.normal(size=(5, 2, 4, 4))
    ids = RANDOM.integers(0, 9, 5)
    model = lowered(NORMS, B=5)
    params = initialize(model, 2)
    found = evaluate(model, {"x": x, "z": z, "ids": ids}, params)
    np.testing.assert_allclose(found["a"], x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-6))
    normal = torch.nn.functional.batch_norm(torch.tensor(z), None, None, training=True)
    np.testing.assert_allclose(found["b"], normal, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(
        found["new:bn.var"].ravel(), 0.9 + 0.1 * z.var((0, 2, 3)), rtol=1e-12
    )
    np.testing.assert_array_equal(found["e"], params["emb.w"][ids])
    kernel = torch.tensor(params["c.w"])
    image = torch.nn.functional.conv2d(torch.tensor(z), kernel, padding=1, groups=2)
    np.testing.assert_allclose(found["f"], image, rtol=1e-11, atol=1e-12)
    q, k, v = np.split(x @ params["att.qkv.w"], 3, 1)
    heads = [
        softmax(q[:, s] @ k[:, s].T / np.sqrt(3)) @ v[:, s] for s in (slice(0, 3), slice(3, 6))
    ]
    np.testing.assert_allclose(
        found["g"][0], np.concatenate(heads, 1) @ params["att.proj.w"], rtol=1e-11, atol=1e-12
    )


CUSTOM = """
fn clipped(x: float[...], k: int, low: float = -1.0) -> float[...] {
    y = max(x, low) * cast(k, float)
    return y
    pullback(ct) {
        inside = where(y > 0, ct, 0)
        return inside, 0.0
    }
}
model m(x: float[3], k: int) -> float { return sum(clipped(x, k)) }
"""


def find(block_ops: Any, name: str) -> Op:
    (op,) = [op for op in block_ops if op.name == name]
    assert isinstance(op, Op)
    return op


def test_pullback_sees_arguments_names_and_results() -> None:
    model = lowered(CUSTOM)
    found = evaluate(model, {"x": np.array([-3.0, -0.5, 2.0]), "k": 3})
    assert found["loss"] == pytest.approx(3 * (-1 - 0.5 + 2))
    op = find(model.function.block.ops, "custom")
    primal, pullback = op.regions
    assert [str(v.type) for v in op.operands] == ["f64[3]", "i32[]"]
    assert [str(v.type) for v in pullback.parameters] == ["f64[3]", "i32[]", "f64[3]", "f64[3]"]
    assert [str(v.type) for v in pullback.outputs] == ["f64[3]", "i32[]"]
    # The result is taken from the op: nothing of the body is computed again.
    assert [o.name for o in pullback.body] == ["constant", "gt", "constant", "select", "constant"]
    assert "max" in [o.name for o in primal.body]


def test_functions_of_the_language_page() -> None:
    text = (PROGRAMS / "functions.grad").read_text(encoding="utf-8")
    text += (
        "model m(x: float[4]) -> float { return sum(swish(x, 2.0) + swish(x) + round_through(x)) }"
    )
    x = RANDOM.normal(size=4)
    expected = x * sigmoid(2 * x) + x * sigmoid(x) + np.round(x)
    assert evaluate(lowered(text), {"x": x})["loss"] == pytest.approx(expected.sum())


def test_dropout_in_a_scan_draws_anew_in_each_trip() -> None:
    text = """
    model m(x: float[4, 1000]) -> float {
        ys = scan row in x carry h = 0.0 {
            y = dropout(row, 0.5)
            h = h + sum(y)
            yield y
        }
        output ys
        return h
    }
    """
    ys = evaluate(lowered(text), {"x": np.ones((4, 1000))})["ys"]
    assert set(np.unique(ys)) == {0.0, 2.0}
    for i in range(4):
        for j in range(i):
            assert 0.4 < (ys[i] != ys[j]).mean() < 0.6


def test_several_models_imports_and_shadowing(tmp_path: Path) -> None:
    (tmp_path / "parts.grad").write_text(
        "dim H = 3\nfn relu(x: float[...]) -> float[...] { return x * 10 }\n"
        "layer dense(I, O) { param k: float[I, O] ~ ones\n apply(x: float[..., I]) { return x @ "
        "k } }\n"
    )
    main = tmp_path / "main.grad"
    main.write_text(
        'import "parts.grad"\n'
        "model a(x: float[H]) -> float { use d = dense(H, 2)\n return sum(relu(d(x))) }\n"
        "model b(x: float[H]) -> float { return logsumexp(x) }\n"
    )
    program = load(main)
    assert program.models == ("a", "b")
    with pytest.raises(DiagnosticError, match="several models"):
        program.lower()
    model = program.lower("a", precision="f64")
    assert [spec.path for spec in model.parameters] == ["d.k"]
    assert evaluate(model, {"x": np.array([1.0, 2, 3])})["loss"] == 120
    assert program.lower("b", {"H": 4}).inputs[0].type.shape == (4,)


def test_conditions_members_and_computed_dimensions() -> None:
    text = """
    dim D = 4, F = 2 * D
    layer gated(D, gate = true, depth = 2) {
        dim half = D // 2
        use steps = dense(D, D) * depth
        if gate { param g: float[half] ~ constant(3) }
        apply(x: float[..., D]) -> float[..., D] {
            for s in steps { x = s(x) }
            if gate and depth > 1 { x = x * sum(g) } else if depth == 1 { x = -x }
            return x
        }
    }
    model m(x: float[F]) -> float {
        use a = gated(F)
        use b = gated(F, gate = false, depth = 1)
        y = a(b(x))
        output y
        return sum(y)
    }
    """
    model = lowered(text, D=3)
    paths = ["a.steps.0.w", "a.steps.0.b", "a.steps.1.w", "a.steps.1.b", "a.g"]
    assert [spec.path for spec in model.parameters] == [*paths, "b.steps.0.w", "b.steps.0.b"]
    assert model.dims == {"F": 6} or model.dims == {"D": 3, "F": 6}
    params = initialize(model, 0)
    x = RANDOM.normal(size=6)
    y = -(x @ params["b.steps.0.w"]) @ params["a.steps.0.w"] @ params["a.steps.1.w"] * 9
    np.testing.assert_allclose(evaluate(model, {"x": x}, params)["y"], y, rtol=1e-11)


NESTED = """
dim B = 3, T = 4, D = 5
fn scaled(x: float[...], by: float) -> float[...] {
    y = x * by
    return y
    pullback(ct) { return ct * by, sum(ct * x) }
}
layer step(D) {
    use fc = dense(D, D)
    use bn = batchnorm(D)
    apply(h: float[B, D]) -> float[B, D] { return tanh(bn(fc(h))) }
}
model m(xs: float[T, B, D], a: float) -> float {
    use first = step(D)
    use second = step(D)
    h = xs[0]
    OPEN h = first(h)
        n = second(h)
        unused = h * 2 CLOSE
    hs = scan x in xs carry c = n {
        OPEN u = c + scaled(x, a)
            c = dropout(u, 0.5) + first.fc(u) CLOSE
        yield c
    }
    OPEN ws = scan x in hs carry c = h { c = c * x + u0
            yield c } CLOSE
    output ws
    output n
    return sum(c) + sum(hs)
}
"""


def test_checkpoints_change_nothing_but_what_is_kept() -> None:
    nested = NESTED.replace("u0", "xs[1]")
    plain, kept = (
        lowered(nested.replace("OPEN", a).replace("CLOSE", b))
        for a, b in (("\n", "\n"), ("checkpoint {", "}"))
    )
    xs = RANDOM.normal(size=(4, 3, 5))
    params = initialize(plain, 4)
    inputs = {"xs": xs, "a": 0.7}
    expected, found = (evaluate(model, inputs, params) for model in (plain, kept))
    assert list(found) == list(expected)
    assert [n for n in found if n.startswith("new:")] == [
        "new:first.bn.mean", "new:first.bn.var", "new:second.bn.mean", "new:second.bn.var",
        "new:rng",
    ]  # fmt: skip
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    names = [op.name for op in walk(kept.function.block)]
    assert names.count("checkpoint") == 3
    assert names.count("scan") == 2
    assert names.count("custom") == 1
    first = find([o for o in kept.function.block.ops if o.name == "checkpoint"][:1], "checkpoint")
    # h, n and the four states leave; `unused` does not.
    assert len(first.results) == 6


def test_half_precision_rounds_once() -> None:
    text = """
    model m(x: float[70000], z: float[4, 1000]) -> float {
        a = mean(x)
        p = sum(softmax(z), axis = 1)
        output a
        output p
        return a
    }
    """
    model = loads(text).lower(precision="f16")
    z = RANDOM.normal(size=(4, 1000)) * 5
    found = evaluate(model, {"x": np.full(70000, 1.5), "z": z})
    assert found["a"] == 1.5, "the sum alone is beyond f16"
    np.testing.assert_allclose(found["p"], 1, atol=2e-3)
