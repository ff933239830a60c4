"""Activations, losses, optimisers, schedules and clipping as compiled, against torch and closed
forms.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gradc.runtime.api import loads
from tests.support.networks_torch import EXACT, assert_close, leaves, torch

F = torch.nn.functional

# --- words of one array


WORDS: dict[str, Callable[[Any], Any]] = {
    "relu(x)": F.relu,
    "leaky_relu(x, slope = 0.2)": lambda x: F.leaky_relu(x, 0.2),
    "sigmoid(x)": torch.sigmoid,
    "tanh(x)": torch.tanh,
    "gelu(x)": F.gelu,
    "silu(x)": F.silu,
    "softplus(x)": F.softplus,
    "erf(x)": torch.erf,
    "softmax(x, axis = -1)": lambda x: torch.softmax(x, -1),
    "softmax(x, axis = 0)": lambda x: torch.softmax(x, 0),
    "log_softmax(x, axis = -1)": lambda x: torch.log_softmax(x, -1),
    "logsumexp(x, axis = 0, keepdims = true) + 0*x": lambda x: torch.logsumexp(x, 0, True) + 0 * x,
    "cumsum(x, axis = 1)": lambda x: torch.cumsum(x, 1),
    "prod(x, axis = 1, keepdims = true) * x": lambda x: torch.prod(x, 1, True) * x,
    "x * var(x, axis = 1, keepdims = true)": lambda x: x * x.var(1, correction=0, keepdim=True),
    "clip(x, -0.5, 0.7)": lambda x: torch.clamp(x, -0.5, 0.7),
    "max(x, axis = 1, keepdims = true) * x": lambda x: torch.amax(x, 1, True) * x,
}
WORD = """
dim B, D
model m(x: float[B, D], goal: float[B, D]) -> float {
    out = WORD
    output out
    return mean((out - goal)^2)
}
"""


@pytest.mark.parametrize("word", list(WORDS))
def test_words_to_second_order(word: str) -> None:
    net = loads(WORD.replace("WORD", word), precision="f64")
    rng = np.random.default_rng(4)
    x, goal, vector = (rng.normal(size=(5, 7)) for _ in range(3))
    leaf = torch.tensor(x, requires_grad=True)
    loss = ((WORDS[word](leaf) - torch.tensor(goal)) ** 2).mean()
    (first,) = torch.autograd.grad(loss, leaf, create_graph=True)
    (second,) = torch.autograd.grad((first * torch.tensor(vector)).sum(), leaf)
    found, grads, products = net.hvp(["x"])({}, {"x": vector}, x=x, goal=goal)
    assert_close(found, loss.item(), EXACT)
    assert_close(grads["x"], first.detach().numpy(), EXACT)
    assert_close(products["x"], second.numpy(), EXACT)


# --- losses


DRAWN = np.random.default_rng(8)
WEIGHTS: Any = torch.tensor(DRAWN.normal(size=(6, 5)))
IDS: Any = torch.tensor(DRAWN.integers(0, 5, 6))
LOSSES: dict[str, Callable[[Any, Any], Any]] = {
    "mse(z, y)": F.mse_loss,
    "sum(w * binary_cross_entropy_logits(z, y))": lambda z, y: F.binary_cross_entropy_with_logits(
        z, y, WEIGHTS, reduction="sum"
    ),
    # By its formula: torch's own adds 1e-12 to the denominator of the second derivative.
    "sum(w * binary_cross_entropy(sigmoid(z), y))": lambda z, y: (
        -WEIGHTS * (y * torch.sigmoid(z).log() + (1 - y) * (1 - torch.sigmoid(z)).log())
    ).sum(),
    "sum(w[:, 0] * cross_entropy(z, y / sum(y, axis = -1, keepdims = true)))": lambda z, y: (
        WEIGHTS[:, 0] * F.cross_entropy(z, y / y.sum(-1, keepdim=True), reduction="none")
    ).sum(),
    "sum(w[:, 0] * cross_entropy(z, ids))": lambda z, y: (
        WEIGHTS[:, 0] * F.cross_entropy(z, IDS, reduction="none")
    ).sum(),
}
LOSS = """
dim B, C
model m(z: float[B, C], y: float[B, C], w: float[B, C], ids: int[B]) -> float {
    used = 0*sum(w) + 0*sum(y) + 0*sum(cast(ids, float))
    return LOSS + used
}
"""


@pytest.mark.parametrize("loss", list(LOSSES))
def test_losses_to_second_order(loss: str) -> None:
    """Weights per row or element are random, so each has a cotangent of its own."""
    net = loads(LOSS.replace("LOSS", loss), precision="f64")
    rng = np.random.default_rng(1)
    z, vector = rng.normal(size=(6, 5)) * 3, rng.normal(size=(6, 5))
    y = rng.random((6, 5))
    leaf = torch.tensor(z, requires_grad=True)
    expected = LOSSES[loss](leaf, torch.tensor(y))
    (first,) = torch.autograd.grad(expected, leaf, create_graph=True)
    (second,) = torch.autograd.grad((first * torch.tensor(vector)).sum(), leaf)
    others = {"y": y, "w": WEIGHTS.numpy(), "ids": IDS.numpy().astype(np.int32)}
    found, grads, products = net.hvp(["z"])({}, {"z": vector}, z=z, **others)
    assert_close(found, expected.item(), EXACT)
    assert_close(grads["z"], first.detach().numpy(), EXACT)
    assert_close(products["z"], second.numpy(), EXACT)


@pytest.mark.parametrize("size", [30.0, 1e3, 3e37])
def test_losses_from_logits_are_stable_at_any_size(size: float) -> None:
    """In f32, against torch in f64."""
    z = np.array([[size, -size, 0], [-size, -size, size], [0, size, size]], np.float32)
    y = np.array([[0, 1, 0], [1, 0, 0], [0, 0.5, 0.5]], np.float32)
    for text, theirs in (
        ("mean(cross_entropy(z, y))", lambda a, b: F.cross_entropy(a, b)),
        ("mean(binary_cross_entropy_logits(z, y))", F.binary_cross_entropy_with_logits),
    ):
        net = loads(
            f"dim B, C\nmodel m(z: float[B, C], y: float[B, C]) -> float {{ return {text} }}"
        )
        loss, grads = net.value_and_grad(["z"])({}, z=z, y=y)
        leaf = torch.tensor(z.astype(np.float64), requires_grad=True)
        expected = theirs(leaf, torch.tensor(y.astype(np.float64)))
        expected.backward()
        np.testing.assert_allclose(loss, expected.item(), rtol=1e-6)
        np.testing.assert_allclose(grads["z"], leaf.grad.numpy(), rtol=1e-5, atol=1e-7)


def test_probabilities_at_their_ends_give_finite_losses() -> None:
    net = loads(
        "dim B\nmodel m(p: float[B], y: float[B]) -> float { return mean(binary_cross_entropy(p, "
        "y)) }"
    )
    ends = np.array([0, 1, 0, 1, 1e-38, 0.5], np.float32)
    y = np.array([0, 1, 1, 0, 1, 1], np.float32)
    loss, grads = net.value_and_grad(["p"])({}, p=ends, y=y)
    assert np.isfinite(loss) and np.isfinite(grads["p"]).all()
    np.testing.assert_allclose(grads["p"][5], -2 / 6, rtol=1e-6)


# --- optimisers


NET = """
dim B
model m(x: float[B, 4], y: int[B]) -> float {
    use first = dense(4, 6)
    use second = dense(6, 3)
    return mean(cross_entropy(second(tanh(first(x))), y))
}
"""
OPTIMISERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gd(lr=0.3)": ("SGD", {"lr": 0.3}),
    "sgd(lr=0.3, decay=0.1)": ("SGD", {"lr": 0.3, "weight_decay": 0.1}),
    "sgd(lr=0.1, momentum=0.8, nesterov=true)": (
        "SGD",
        {"lr": 0.1, "momentum": 0.8, "nesterov": True},
    ),
    "momentum(lr=0.1, decay=0.1)": ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    "nesterov(lr=0.1)": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "rmsprop(lr=0.01)": ("RMSprop", {"lr": 0.01}),
    "adam(lr=0.02)": ("Adam", {"lr": 0.02}),
    "adamw(lr=0.02, decay=0.2)": ("AdamW", {"lr": 0.02, "weight_decay": 0.2}),
}


def batch(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(size=(9, 4)), "y": rng.integers(0, 3, 9).astype(np.int32)}


def loss_of(p: Any, given: dict[str, Any]) -> Any:
    h = torch.tanh(torch.tensor(given["x"]) @ p["first.w"] + p["first.b"])
    return F.cross_entropy(h @ p["second.w"] + p["second.b"], torch.tensor(given["y"]).long())


@pytest.mark.parametrize(
    ("precision", "text"),
    [("f64", text) for text in OPTIMISERS]
    + [("f32", text) for text in OPTIMISERS if text.startswith(("sgd", "adamw"))],
)
def test_ten_steps_of_every_optimiser(precision: str, text: str) -> None:
    """Decay on everything, as torch has it without groups."""
    net = loads(NET, precision=precision)
    params = net.init(0)
    theirs = leaves({name: a.astype(np.float64) for name, a in params.items()})
    name, options = OPTIMISERS[text]
    optimiser = getattr(torch.optim, name)(list(theirs.values()), **options)
    step = net.train_step(text, decay_on="all")
    state = step.init(params)
    bound = EXACT if precision == "f64" else 2e-5
    for seed in range(10):
        given = batch(seed)
        optimiser.zero_grad()
        loss = loss_of(theirs, given)
        loss.backward()
        optimiser.step()
        cast = {**given, "x": given["x"].astype(params["first.w"].dtype)}
        found, state = step(state, **cast)
        assert_close(found, loss.item(), bound)
    for path, leaf in theirs.items():
        assert_close(state.params[path], leaf.detach().numpy(), bound, path)


def test_decay_spares_biases_by_default() -> None:
    """Two groups in torch: matrices with decay, the rest without."""
    net = loads(NET, precision="f64")
    params = net.init(0)
    params["first.b"] = np.linspace(-1, 1, 6)
    theirs = leaves(params)
    groups = [
        {"params": [a for a in theirs.values() if (a.ndim > 1) == decayed], "weight_decay": rate}
        for decayed, rate in ((True, 0.3), (False, 0.0))
    ]
    optimiser = torch.optim.AdamW(groups, lr=0.05)
    step = net.train_step("adamw(lr=0.05, decay=0.3)")
    state = step.init(params)
    for seed in range(5):
        optimiser.zero_grad()
        loss_of(theirs, batch(seed)).backward()
        optimiser.step()
        _, state = step(state, **batch(seed))
    for path, leaf in theirs.items():
        assert_close(state.params[path], leaf.detach().numpy(), EXACT, path)


@pytest.mark.parametrize(("norm", "value"), [(0.3, None), (None, 0.02), (0.05, 0.03), (1e6, 1e6)])
def test_clipping(norm: float | None, value: float | None) -> None:
    """By value first, then by the norm over all parameters."""
    net = loads(NET, precision="f64")
    params = net.init(0)
    theirs = leaves(params)
    step = net.train_step("gd(lr=0.5)", clip_norm=norm, clip_value=value)
    state = step.init(params)
    for seed in range(4):
        grads = torch.autograd.grad(loss_of(theirs, batch(seed)), list(theirs.values()))
        if value is not None:
            grads = [g.clamp(-value, value) for g in grads]
        total = float(torch.sqrt(sum((g * g).sum() for g in grads)))
        factor = 1.0 if norm is None else min(1.0, norm / total)
        with torch.no_grad():
            for leaf, g in zip(theirs.values(), grads, strict=True):
                leaf -= 0.5 * factor * g
        _, state = step(state, **batch(seed))
        if norm is not None:
            assert_close(state.metrics["grad_norm"], total, EXACT)
    for path, leaf in theirs.items():
        assert_close(state.params[path], leaf.detach().numpy(), EXACT, path)


# --- schedules


def cosine(turn: float, peak: float, floor: float) -> float:
    return floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * min(turn, 1.0)))


SCHEDULES: dict[str, Callable[[int], float]] = {
    "constant(0.25)": lambda t: 0.25,
    "warmup(peak=0.5, warmup=8)": lambda t: 0.5 * min(t / 8, 1.0),
    "cosine(peak=0.5, total=20, floor=0.1)": lambda t: cosine(t / 20, 0.5, 0.1),
    "step(peak=0.5, every=6, factor=0.5)": lambda t: 0.5 * 0.5 ** (t // 6),
    "warmup_cosine(peak=0.5, warmup=6, total=20, floor=0.1)": lambda t: (
        0.5 * t / 6 if t < 6 else cosine((t - 6) / 14, 0.5, 0.1)
    ),
}


@pytest.mark.parametrize("text", list(SCHEDULES))
def test_schedules_set_the_rate_of_each_step(text: str) -> None:
    """The gradient of w is 1, so plain descent goes down by the rate itself."""
    net = loads(
        "model m(g: float) -> float { param w: float ~ zeros\n return w * g }", precision="f64"
    )
    step = net.train_step("gd(lr=99)", schedule=text)
    state = step.init(net.init(0))
    before = 0.0
    for t in range(1, 25):
        _, state = step(state, g=np.array(1.0))
        now = float(state.params["w"])
        assert before - now == pytest.approx(SCHEDULES[text](t), rel=1e-10, abs=1e-14), t
        before = now


# --- accumulation


TOKENS = """
dim B, T, V = 7, H = 5
model m(x: float[B, T, H], y: int[B, T], w: float[B, T]) -> float {
    use f = dense(H, V)
    return sum(cross_entropy(f(tanh(x)), y) * w) / sum(w)
}
"""


def test_four_parts_train_as_the_whole_batch_does() -> None:
    """Compiled, with ragged token counts: after five steps of momentum the parameters agree to
    1e-12.
    """
    found = []
    for parts in (1, 4):
        net = loads(TOKENS, precision="f64")
        step = net.train_step("momentum(lr=0.2)", accumulate=parts)
        state = step.init(net.init(1))
        losses = []
        for seed in range(5):
            rng = np.random.default_rng(seed)
            weights = (rng.random((12, 3)) < np.linspace(0.1, 1, 12)[:, None]).astype(float)
            x, y = rng.normal(size=(12, 3, 5)), rng.integers(0, 7, (12, 3)).astype(np.int32)
            loss, state = step(state, x=x, y=y, w=weights)
            losses.append(loss)
        found.append({**state.params, "losses": np.array(losses)})
    for name, whole in found[0].items():
        np.testing.assert_allclose(found[1][name], whole, rtol=1e-12, atol=1e-13)
