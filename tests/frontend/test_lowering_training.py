"""Initialisers, optimisers, schedules and the binding of dimensions."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gradc.frontend.model.binding import bind_dims
from gradc.frontend.model.training import OptimizerIR, lower_optimizer, lower_schedule
from gradc.frontend.program import initialize, loads
from gradc.ir.diagnostics.diagnostic import DiagnosticError
from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.tensor.core import DType, Role, TensorType
from tests.support.lowering import lowered

RANDOM = np.random.default_rng(5)


def start(kind: str, shape: tuple[int, ...], seed: int = 0, **dims: int) -> NDArray[Any]:
    sizes = ", ".join(str(size) for size in shape)
    dims_ = f"[{sizes}]" if shape else ""
    text = (
        f"dim K = 4\nmodel m(x: float) -> float {{ param w: float{dims_} ~ {kind}\n"
        f" return sum(w) * x }}"
    )
    return initialize(lowered(text, True, None, **dims), seed)["w"]


MOMENTS: dict[str, tuple[float, float]] = {
    "normal(0.02)": (0.02, math.inf),
    "normal(std = 2, mean = 0)": (2.0, math.inf),
    "uniform(-0.5, 0.5)": (1 / math.sqrt(12), 0.5),
    "uniform(-2 / K, 2 / K)": (1 / math.sqrt(12), 0.5),
    "glorot_uniform": (math.sqrt(2 / 500), math.sqrt(6 / 500)),
    "xavier_uniform": (math.sqrt(2 / 500), math.sqrt(6 / 500)),
    "glorot_normal": (math.sqrt(2 / 500), math.inf),
    "xavier_normal(gain = 3)": (3 * math.sqrt(2 / 500), math.inf),
    "he_normal": (math.sqrt(2 / 200), math.inf),
    "kaiming_normal": (math.sqrt(2 / 200), math.inf),
    "he_uniform": (math.sqrt(2 / 200), math.sqrt(6 / 200)),
    "kaiming_uniform": (math.sqrt(2 / 200), math.sqrt(6 / 200)),
}


@pytest.mark.parametrize("kind", MOMENTS)
def test_initialisers_have_their_spread(kind: str) -> None:
    std, bound = MOMENTS[kind]
    w = start(kind, (200, 300))
    assert abs(w.mean()) < 5 * std / math.sqrt(w.size)
    assert w.std() == pytest.approx(std, rel=0.02)
    assert np.abs(w).max() <= bound
    if bound < math.inf:
        assert np.abs(w).max() > 0.999 * bound


def test_fans_of_kernels_and_vectors() -> None:
    kernel = start("he_normal", (40, 30, 5, 5))
    assert kernel.std() == pytest.approx(math.sqrt(2 / 750), rel=0.03)
    glorot = start("glorot_normal", (40, 30, 5, 5))
    assert glorot.std() == pytest.approx(math.sqrt(2 / (25 * 70)), rel=0.03)
    assert start("he_normal", (5000,)).std() == pytest.approx(math.sqrt(2 / 5000), rel=0.05)
    assert start("he_normal", ()).shape == ()


@pytest.mark.parametrize("shape", [(8, 8), (5, 12), (12, 5), (6, 2, 3, 1)])
def test_orthogonal_is_orthonormal(shape: tuple[int, ...]) -> None:
    w = start("orthogonal(gain = 2)", shape).reshape(shape[0], -1) / 2
    small = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    np.testing.assert_allclose(small, np.eye(min(w.shape)), atol=1e-12)


def test_constants() -> None:
    np.testing.assert_array_equal(start("zeros", (2, 3)), np.zeros((2, 3)))
    np.testing.assert_array_equal(start("ones", (3,)), np.ones(3))
    np.testing.assert_array_equal(start("constant(0.25)", ()), 0.25)


def test_starts_depend_on_seed_and_path_and_on_nothing_else() -> None:
    body = (
        "param {0}: float[3, 4] ~ normal\n param {1}: float[3, 4] ~ normal\n return sum(a + b) * x"
    )
    texts = [f"model m(x: float) -> float {{ {body.format(*o)} }}" for o in ("ab", "ba")]
    first, second = (initialize(lowered(text), 9) for text in texts)
    np.testing.assert_array_equal(first["a"], second["a"])
    assert not np.array_equal(first["a"], first["b"])
    assert not np.array_equal(first["a"], initialize(lowered(texts[0]), 10)["a"])
    single = initialize(loads(texts[0]).lower(precision="f32"), 9)["a"]
    assert single.dtype == np.float32
    np.testing.assert_array_equal(single, first["a"].astype(np.float32))


def test_an_initialiser_of_ones_own() -> None:
    text = """
    initializer stripes(step = 2) {
        sample(shape, fan_in, fan_out) {
            w = random_normal(shape) * 0 + fan_in
            return where(iota(fan_out) % step == 0, w, -w)
        }
    }
    model m(x: float) -> float { param w: float[2, 5] ~ stripes(step = 3)\n return sum(w) * x }
    """
    np.testing.assert_array_equal(initialize(lowered(text))["w"], [[2, -2, -2, 2, -2]] * 2)


# --- optimisers


def steps(
    optimizer: OptimizerIR, p: NDArray[Any], gradients: list[NDArray[Any]], lr: float | None = None
) -> list[NDArray[Any]]:
    """The parameter after each step, by the interpreter."""
    update = optimizer.update(TensorType(p.shape, DType.F64))
    slots = [np.full(s.type.static_shape, s.start) for s in update.slots]
    found = []
    for t, g in enumerate(gradients, 1):
        values: dict[Role, list[Any]] = {Role.PARAM: [p], Role.COTANGENT: [g], Role.SLOT: slots}
        rate = optimizer.rate if lr is None else lr
        values[Role.HYPER] = [np.float64(t)] if rate is None else [np.float64(t), np.float64(rate)]
        operands = [
            a for role in (Role.PARAM, Role.COTANGENT, Role.HYPER, Role.SLOT) for a in values[role]
        ]
        assert [s.role for s in update.function.parameters] == [
            role
            for role in (Role.PARAM, Role.COTANGENT, Role.HYPER, Role.SLOT)
            for _ in values[role]
        ]
        p, *slots = run(NumpyArrays(), update.function, operands)
        found.append(p)
    return found


def test_w12_sgd_and_momentum() -> None:
    one = lower_optimizer("sgd(lr = 0.1)")
    assert steps(one, np.array(2.0), [np.array(0.4)])[0] == pytest.approx(1.96)
    for text in ("momentum(lr=0.1, momentum=0.9)", "sgd(0.1, momentum = 0.9)"):
        two = steps(lower_optimizer(text), np.array(1.0), [np.array(0.5), np.array(-0.3)])
        assert [float(w) for w in two] == pytest.approx([0.95, 0.935])


def test_w13_adam() -> None:
    found = steps(lower_optimizer("adam(lr=0.01)"), np.array(1.0), [np.array(0.4), np.array(-0.2)])
    assert [float(w) for w in found] == pytest.approx([0.99, 0.9873], abs=5e-5)


TORCH: dict[str, tuple[str, dict[str, Any]]] = {
    "gd(lr = 0.05)": ("SGD", {"lr": 0.05}),
    "sgd(lr = 0.05, decay = 0.1)": ("SGD", {"lr": 0.05, "weight_decay": 0.1}),
    "sgd(0.05, momentum = 0.8, nesterov = true)": (
        "SGD",
        {"lr": 0.05, "momentum": 0.8, "nesterov": True},
    ),
    "momentum(lr = 0.05, decay = 0.1)": ("SGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}),
    "nesterov(lr = 0.05)": ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "rmsprop(lr = 0.05)": ("RMSprop", {"lr": 0.05}),
    "adam(lr = 0.05, beta2 = 0.99)": ("Adam", {"lr": 0.05, "betas": (0.9, 0.99)}),
    "adamw(lr = 0.05, decay = 0.2)": ("AdamW", {"lr": 0.05, "weight_decay": 0.2}),
}


@pytest.mark.parametrize("text", TORCH)
def test_optimisers_equal_torch(text: str) -> None:
    torch = pytest.importorskip("torch")
    name, options = TORCH[text]
    p = RANDOM.normal(size=(2, 3))
    gradients = [RANDOM.normal(size=(2, 3)) for _ in range(5)]
    weight = torch.nn.Parameter(torch.tensor(p))
    peer = getattr(torch.optim, name)([weight], **options)
    for ours, g in zip(steps(lower_optimizer(text), p, gradients), gradients, strict=True):
        weight.grad = torch.tensor(g)
        peer.step()
        np.testing.assert_allclose(ours, weight.detach(), rtol=1e-10)


def test_an_optimiser_of_ones_own_with_state_of_its_own_shape() -> None:
    text = """
    optimizer normed(lr, floor = 1e-3) {
        state count: float ~ ones
        update(p, g, t) {
            count = count + 1
            return p - lr * g / max(sqrt(sum(g^2)), floor) * count
        }
    }
    """
    program = loads(text)
    program.check()
    optimizer = lower_optimizer("normed(0.5)", program.names)
    g = np.array([3.0, 4.0])
    found = steps(optimizer, np.zeros(2), [g, g], lr=0.1)
    np.testing.assert_allclose(found, [[-0.12, -0.16], [-0.3, -0.4]])


def test_optimisers_may_write_state_as_layers_do() -> None:
    text = """
    optimizer mine(lr) {
        state v ~ ones
        update(p, g, t) {
            state v = state v * 2 + g
            return p - lr * state v
        }
    }
    """
    found = steps(lower_optimizer("mine(1)", loads(text).names), np.zeros(()), [np.ones(())] * 2)
    assert [float(p) for p in found] == [-3.0, -10.0]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("adamm(lr=1)", "GC0201"),
        ("adam(lr=", "GC01"),
        ("adam(lr=1) + 2", "GC0217"),
        ("adam(rate=1)", "GC0203"),
        ("adam(1, 2, 3, 4, 5)", "GC0203"),
        ("adam(lr=speed)", "GC0201"),
        ('adam(lr="fast")', "GC0308"),
        ("", "GC01"),
        ("model m", "GC01"),
        ("adam\nadam", "GC01"),
    ],
)
def test_bad_optimisers_are_diagnosed(text: str, code: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        lower_optimizer(text)
    assert caught.value.diagnostics[0].code.startswith(code), str(caught.value)


@pytest.mark.parametrize("rest", ["; adam(lr=1)", ", adam(lr=1)", " adam(lr=1)", ";x"])
def test_what_follows_a_whole_call_is_told(rest: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        lower_optimizer("sgd(lr=0.1)" + rest)
    (found,) = caught.value.diagnostics
    assert found.code == "GC0101"
    assert found.message.endswith(f"`sgd(lr=0.1)` is followed by `{rest.strip()}`")


# --- schedules


def rate(text: str, t: float) -> float:
    function = lower_schedule(text).function
    (found,) = run(NumpyArrays(), function, [np.float64(t)])
    return float(found)


def test_w14_and_the_other_schedules() -> None:
    text = "warmup_cosine(peak=3e-4, warmup=100, total=1000, floor=3e-5)"
    found = [rate(text, t) for t in (50, 100, 550, 1000, 2000)]
    assert found == pytest.approx([1.5e-4, 3e-4, 1.65e-4, 3e-5, 3e-5])
    assert [rate("warmup(1, 10)", t) for t in (0, 5, 10, 50)] == pytest.approx([0, 0.5, 1, 1])
    assert [rate("cosine(2, 10)", t) for t in (0, 5, 10, 20)] == pytest.approx([2, 1, 0, 0])
    assert [rate("step(1, 10)", t) for t in (0, 9, 10, 25)] == pytest.approx([1, 1, 0.1, 0.01])
    assert rate("constant(0.3)", 7) == 0.3
    with pytest.raises(DiagnosticError, match="did you mean `cosine`"):
        lower_schedule("cosin(1, 2)")


# --- binding


NET = """
dim B, D = 4, F
model m(x: float[B, D], y: float[B, 2*F + 1], z: float[N, F * D]) -> float {
    return mean(x) + mean(y) + mean(z)
}
"""


def bound(shapes: Mapping[str, tuple[int, ...]], **dims: int) -> dict[str, int]:
    return bind_dims(loads(NET).signature(), shapes, dims)


def test_dimensions_are_solved_from_the_arrays() -> None:
    shapes = {"x": (3, 4), "y": (3, 7), "z": (5, 12)}
    assert bound(shapes) == {"B": 3, "D": 4, "F": 3, "N": 5}
    assert bound({"z": (0, 20)}) == {"D": 4, "F": 5, "N": 0}
    assert bound({"x": (3, 6)}, D=6) == {"B": 3, "D": 6}


@given(b=st.integers(0, 50), d=st.integers(1, 50), f=st.integers(0, 50), n=st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_binding_finds_any_dimensions(b: int, d: int, f: int, n: int) -> None:
    found = bound({"z": (n, f * d), "y": (b, 2 * f + 1), "x": (b, d)}, D=d)
    assert found == {"B": b, "D": d, "F": f, "N": n}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"x": (3, 5)}, "axis 1 of input `x` has 5 elements, and `D = 4`"),
        ({"x": (3, 4), "y": (2, 3)}, "axis 0 of input `y` has 2 elements, and `B = 3`"),
        ({"y": (2, 4)}, "no `F` makes"),
        ({"x": (3,)}, "the array has shape [3]"),
        ({"w": (3,)}, "no input `w`"),
        ({"z": (1, 8), "y": (1, 3)}, "has 8 elements, and `4*F = 4`|has 8 elements, and `D*F = 4`"),
    ],
)
def test_arrays_that_contradict_each_other(
    shapes: Mapping[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(DiagnosticError) as caught:
        bound(shapes)
    assert any(part in str(caught.value) for part in message.split("|")), str(caught.value)


def test_values_of_dimensions_are_checked() -> None:
    program = loads(NET)
    for dims, message in (
        ({}, "dimensions have no value: `B`, `F`, `N`"),
        ({"B": 1, "F": 1, "M": 2}, "there is no dimension `M`"),
        ({"B": -1, "F": 1, "N": 1}, "must be an integer of at least 0, not -1"),
    ):
        with pytest.raises(DiagnosticError, match=message):
            program.lower(dims=dims)


@given(b=st.integers(0, 4), n=st.integers(1, 3), h=st.integers(1, 3), t=st.integers(0, 4))
@settings(max_examples=25, deadline=None)
def test_attention_lowers_at_any_size(b: int, n: int, h: int, t: int) -> None:
    text = """
    dim B, T, D, N
    model m(x: float[B, T, D]) -> float { use a = attention(D, N)
     y = a(x)\n output y\n return mean(y) }
    """
    model = lowered(text, B=b, T=t, D=n * h, N=n)
    assert model.outputs == (("y", TensorType((b, t, n * h), DType.F64)),)


def test_a_division_that_leaves_a_rest_shows_when_bound() -> None:
    text = """
    dim D, N
    model m(x: float[D]) -> float { return sum(reshape(x, [N, D // N])) }
    """
    assert lowered(text, D=6, N=3).loss.shape == ()
    with pytest.raises(DiagnosticError, match="leave a rest"):
        lowered(text, D=7, N=3)


BOMBS = {
    "doubling calls": "".join(
        f"fn f{i}(x: float[...]) {{ return {f'f{i - 1}(f{i - 1}(x))' if i else 'x + 1'} }}\n"
        for i in range(40)
    )
    + "model m(x: float) -> float { return f39(x) }",
    "doubling layers": "layer l0(K) { apply(x: float[K]) { return x } }\n"
    + "".join(
        f"layer l{i}(K) "
        f"{{ use a = l{i - 1}(K)\nuse b = l{i - 1}(K)\napply(x: float[K]) {{ return b(a(x)) }} }}\n"
        for i in range(1, 40)
    )
    + "model m(x: float[3]) -> float { use a = l39(3)\nreturn sum(a(x)) }",
    "deep calls": "".join(
        f"fn f{i}(x: float) {{ return {f'f{i - 1}(x)' if i else 'x'} }}\n" for i in range(90)
    )
    + "model m(x: float) -> float { return f89(x) }",
    "deep expressions": "".join(
        f"fn f{i}(x: float) {{ return {'relu(' * 140}{f'f{i - 1}(x)' if i else 'x'}{')' * 140} }}\n"
        for i in range(60)
    )
    + "model m(x: float) -> float { return f59(x) }",
    "polynomial": "dim A, B, C, D, E\nmodel m(x: float[(A+B+C+D+E)^8 * (A+B+C+D+E+1)^8]) -> "
    "float { return sum(x) }",
    "axes": "model m(x: float) -> float { return sum(x[" + "None," * 50 + "]) }",
    "bytes": "model m(x: float) -> float { return sum(zeros([1000000000, 1000000000]) * x) }",
}


@pytest.mark.parametrize("name", BOMBS)
def test_programs_that_explode_are_refused(name: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        loads(BOMBS[name]).lower()
    assert {d.code for d in caught.value.diagnostics} == {"GC0404"}, str(caught.value)


def test_long_programs_are_not_deep() -> None:
    chain = " + ".join(["x"] * 3000)
    text = f"model m(x: float) -> float {{ return {chain} }}"
    assert len(loads(text).lower().function.block.ops) == 3000
    nested = "model m(x: float) -> float { return " + "tanh(" * 150 + "x" + ")" * 150 + " }"
    assert len(loads(nested).lower().function.block.ops) == 151
