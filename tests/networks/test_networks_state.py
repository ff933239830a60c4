"""Batch normalisation and dropout as trained, then used: running statistics, draws and their
repetition.
"""

from typing import Any

import numpy as np
import pytest

from gradc.ir.ops.builder import Builder
from gradc.ir.tensor.core import DType, Role, Slot, TensorType
from gradc.passes.lower.plan import to_loops
from gradc.passes.place.place import place
from gradc.runtime.api import loads
from gradc.runtime.native.load import compile_plan
from tests.support.networks_torch import EXACT, Arrays, assert_close, leaves, torch

F = torch.nn.functional

NORM = """
dim B
model m(x: float[SHAPE], goal: float[SHAPE]) -> float {
    use n = LAYER(5)
    out = n(tanh(x))
    output out
    return mean((out - goal)^2)
}
"""
LAYERS = {"batchnorm": (12, 5), "batchnorm2d": (4, 5, 3, 7)}


def draw(shape: tuple[int, ...], seed: int) -> Arrays:
    """A batch whose channels have means and spreads of their own."""
    rng = np.random.default_rng(seed)
    spread = np.linspace(0.2, 1.5, 5).reshape(5, *[1] * (len(shape) - 2))
    return {"x": rng.normal(size=shape) * spread + spread, "goal": rng.normal(size=shape)}


@pytest.mark.parametrize("layer", list(LAYERS))
def test_batch_normalisation_trained_then_used(layer: str) -> None:
    """Ten steps as torch takes them, with its running statistics (ours are of the biased variance),
    then eval.
    """
    shape = LAYERS[layer]
    inner = ", ".join(["B", *map(str, shape[1:])])
    net = loads(NORM.replace("SHAPE", inner).replace("LAYER", layer), precision="f64")
    params = net.init(0)
    gain = np.random.default_rng(5).normal(size=5)
    params["n.gain"] = gain.reshape(params["n.gain"].shape)
    theirs = leaves({"gain": gain, "bias": np.zeros(5)})
    running = (torch.zeros(5).double(), torch.ones(5).double())
    count = shape[0] * int(np.prod(shape[2:]))
    optimiser = torch.optim.SGD(list(theirs.values()), lr=0.1, momentum=0.9)
    step = net.train_step("momentum(lr=0.1)")
    state = step.init(params)
    for seed in range(10):
        batch = draw(shape, seed)
        x, goal = (torch.tensor(batch[name]) for name in ("x", "goal"))
        optimiser.zero_grad()
        kept = running[1].clone()
        out = F.batch_norm(torch.tanh(x), *running, theirs["gain"], theirs["bias"], True, 0.1)
        # torch stores the unbiased variance: back to the biased one.
        fresh = (running[1] - 0.9 * kept) * (count - 1) / count
        running = (running[0], 0.9 * kept + fresh)
        loss = ((out - goal) ** 2).mean()
        loss.backward()
        optimiser.step()
        found, state = step(state, **batch)
        assert_close(found, loss.item(), EXACT)
    for name, expected in (
        ("n.gain", theirs["gain"]), ("n.bias", theirs["bias"]), ("n.mean", running[0]),
        ("n.var", running[1]),
    ):  # fmt: skip
        assert_close(state.params[name].ravel(), expected.detach().numpy(), EXACT, name)
    batch = draw(shape, 99)
    out = F.batch_norm(
        torch.tanh(torch.tensor(batch["x"])), *running, theirs["gain"], theirs["bias"], False
    )
    used = net.forward()
    assert_close(used(state.params, **batch)["out"], out.detach().numpy(), EXACT, "eval")
    alone = used(state.params, **{name: a[:1] for name, a in batch.items()})["out"]
    assert_close(alone, out.detach().numpy()[:1], EXACT, "eval does not look at the batch")


@pytest.mark.parametrize("layer", list(LAYERS))
@pytest.mark.parametrize("training", [True, False])
def test_batch_normalisation_is_differentiated_through_its_statistics(
    layer: str, training: bool
) -> None:
    shape = LAYERS[layer]
    inner = ", ".join(["B", *map(str, shape[1:])])
    net = loads(NORM.replace("SHAPE", inner).replace("LAYER", layer), precision="f64")
    params, batch = net.init(0), draw(shape, 3)
    given = leaves({"x": batch["x"], "gain": np.ones(5), "bias": np.zeros(5)})
    stats = (torch.zeros(5).double(), torch.ones(5).double())
    out = F.batch_norm(torch.tanh(given["x"]), *stats, given["gain"], given["bias"], training)
    ((out - torch.tensor(batch["goal"])) ** 2).mean().backward()
    _, grads = net.value_and_grad(["x", "n.gain", "n.bias"], training=training)(params, **batch)
    for name in ("x", "n.gain", "n.bias"):
        found = grads[name] if name == "x" else grads[name].ravel()
        assert_close(found, given[name.split(".")[-1]].grad.numpy(), EXACT, name)
    assert (params["n.mean"] == 0).all() and (params["n.var"] == 1).all()


DROPOUT = """
dim B, D
model m(x: float[B, D], ct: float[B, D]) -> float {
    param w: float[D] ~ ones
    h = dropout(x * w, 0.3)
    y = dropout(x * w, 0.3)
    output h
    output y
    return sum(h * ct) + sum(sin(y))
}
"""


def net_of(width: int) -> Any:
    return loads(DROPOUT, dims={"D": width})


def test_dropout_keeps_the_share_it_says_and_scales_it() -> None:
    net = net_of(300)
    rng = np.random.default_rng(0)
    x = np.ones((200, 300), np.float32)
    ct = rng.normal(size=x.shape).astype(np.float32)
    params = net.init(0)
    (_, outputs), grads = net.value_and_grad(["x"], aux=True)(params, x=x, ct=ct)
    h = outputs["h"]
    assert set(np.unique(h)) == {np.float32(0), np.float32(1 / 0.7)}
    kept = h != 0
    # Five standard deviations of a binomial count; neighbours are independent.
    count = x.size
    assert abs(kept.sum() - 0.7 * count) < 5 * np.sqrt(0.21 * count)
    for a, b in ((kept[:, 1:], kept[:, :-1]), (kept[1:], kept[:-1])):
        both = (a & b).sum()
        assert abs(both - 0.49 * a.size) < 5 * np.sqrt(0.49 * 0.51 * a.size) * 2
    other = outputs["y"] != 0
    assert abs((kept & other).sum() - 0.49 * count) < 5 * np.sqrt(0.49 * 0.51 * count)
    wanted = np.where(kept, ct / np.float32(0.7), 0)
    wanted = wanted + np.where(other, np.cos(1 / 0.7) / 0.7, 0)
    np.testing.assert_allclose(grads["x"], wanted, rtol=1e-5, atol=1e-6)
    used = net.forward()(params, x=x, ct=ct)
    np.testing.assert_array_equal(used["h"], x)


def test_each_step_draws_anew_and_a_run_can_be_repeated() -> None:
    net = net_of(16)
    step = net.train_step("sgd(lr=0.0)")
    x = np.ones((8, 16), np.float32)
    runs = []
    for seed in (0, 0, 1):
        state = step.init(net.init(seed))
        seen = []
        for _ in range(3):
            _, state = step(state, x=x, ct=x)
            seen.append(state.metrics["h"].copy())
        runs.append(seen)
    assert all((a == b).all() for a, b in zip(runs[0], runs[1], strict=True))
    for a, b in ((runs[0][0], runs[0][1]), (runs[0][1], runs[0][2]), (runs[0][0], runs[2][0])):
        assert (a != b).any()


DEEP = """
dim B, D = 24, L = 4
layer part(D) {
    use fc = dense(D, D)
    apply(h: float[B, D]) -> float[B, D] { return h + dropout(gelu(fc(dropout(h, 0.1))), 0.4) }
}
model m(x: float[B, D], ct: float[B, D]) -> float {
    use parts = part(D) * L
    h = x
    for p in parts { BEFORE h = p(h) AFTER }
    output h
    return sum(h * ct)
}
"""


def test_recomputed_dropout_draws_the_same_numbers_bit_for_bit() -> None:
    """Kept, recomputed by hand, recomputed for a budget: one gradient."""
    rng = np.random.default_rng(1)
    x, ct = (rng.normal(size=(256, 24)).astype(np.float32) for _ in range(2))
    plain = loads(DEEP.replace("BEFORE", "").replace("AFTER", ""))
    by_hand = loads(DEEP.replace("BEFORE", "checkpoint {").replace("AFTER", "}"))
    params = plain.init(3)
    free = plain.plan(wrt="params", dims={"B": 256}).peak_bytes
    budget = int(0.7 * free)
    assert plain.plan(budget, "params", dims={"B": 256}).peak_bytes <= budget
    results = [
        net.value_and_grad(budget=limit, aux=True)(params, x=x, ct=ct)
        for net, limit in ((plain, None), (by_hand, None), (plain, budget))
    ]
    (loss, outputs), grads = results[0]
    for (other, others), theirs in results[1:]:
        assert other == loss
        np.testing.assert_array_equal(others["h"], outputs["h"])
        for name, grad in grads.items():
            np.testing.assert_array_equal(grad, theirs[name])


def test_machine_code_draws_the_published_numbers() -> None:
    """Random123's vector for key and counter zero, and the generator's definition elsewhere."""
    b = Builder()
    key = b.parameter(TensorType((2,), DType.U32), "key")
    outs = [b.one("random_bits", key, stream=stream, shape=(3, 5)) for stream in (0, 9)]
    slots = [Slot("key", Role.INPUT)]
    results = [Slot("a", Role.OUTPUT), Slot("b", Role.OUTPUT)]
    plan = place(to_loops(b.function("bits", outs, slots, results)))
    function = compile_plan(plan, threads=1, cache=False)
    for words in ((0, 0), (0x13198A2E, 0x03707344)):
        found = [np.zeros((3, 5), np.uint32) for _ in outs]
        function.call([np.array(words, np.uint32), *found])
        if words == (0, 0):
            assert found[0][0, 0] == 0x6B200159
        for stream, bits in zip((0, 9), found, strict=True):
            for position, value in enumerate(bits.ravel()):
                assert value == reference(words, (position, stream))


def reference(key: tuple[int, int], counter: tuple[int, int]) -> int:
    """Threefry-2x32 with 20 rounds in Python's integers (Salmon et al. 2011): the first word."""
    mask = 0xFFFFFFFF
    keys = [*key, key[0] ^ key[1] ^ 0x1BD11BDA]
    a, b = (counter[0] + keys[0]) & mask, (counter[1] + keys[1]) & mask
    turns = [13, 15, 26, 6, 17, 29, 16, 24]
    for index in range(20):
        a = (a + b) & mask
        turn = turns[index % 8]
        b = ((b << turn | b >> (32 - turn)) & mask) ^ a
        if index % 4 == 3:
            block = index // 4 + 1
            a = (a + keys[block % 3]) & mask
            b = (b + keys[(block + 1) % 3] + block) & mask
    return a


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0x00000000, 0x00000000), (0x00000000, 0x00000000), 0x6B200159),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), 0x1CB996FC),
        ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), 0xC4923A9C),
    ],
)
def test_the_reference_gives_the_published_vectors(
    counter: tuple[int, int], key: tuple[int, int], expected: int
) -> None:
    assert reference(key, counter) == expected
