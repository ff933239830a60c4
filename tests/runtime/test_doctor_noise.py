"""Attention and noise as numbers: where attention is found, its entropy, what batches agree on."""

from typing import Any

import numpy as np
import pytest

import gradc
from gradc.passes.simplify.flatten import flatten
from gradc.runtime.doctor.attention import attentions, entropies, scaled_scores
from gradc.runtime.doctor.evidence import seen_forward
from gradc.runtime.doctor.trial import Bench
from gradc.runtime.files.batches import samples_of
from tests.support.doctor import asked
from tests.support.doctor_cases import Case, cases

FOUND = {
    "attention": 1,
    "transformer": 2,
    "experts": 0,  # shares that are picked, not averaged with
    "contrastive": 0,  # a loss
    "mlp": 0,
    "focal": 0,  # probabilities
}


def lowered(case: Case) -> tuple[Any, dict[str, Any]]:
    net, arrays = case.model(), case.arrays(0)[0]
    inputs = {name: a[:8] for name, a in arrays.items()}
    made = net.lower(net.bind({name: a.shape for name, a in inputs.items()}))
    return flatten(made.function), {**net.init(0), **inputs}


@pytest.mark.parametrize("name", FOUND)
def test_attention_is_found_by_what_is_done_with_a_softmax(name: str) -> None:
    function, operands = lowered(cases("healthy")[name])
    assert len(attentions(function)) == FOUND[name]
    told = [one.entropy for one in seen_forward(function, operands) if one.entropy is not None]
    assert all(0 <= entropy <= 1 for entropy in told) and len(told) == FOUND[name]


def test_entropy_is_a_share_of_the_most_that_the_keys_allow() -> None:
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.ones(5), size=(2, 3))
    known = -(p * np.log(p)).sum(-1) / np.log(5)
    np.testing.assert_allclose(entropies(p, (2,)), known.reshape(-1), rtol=1e-12)
    np.testing.assert_allclose(entropies(p.transpose(0, 2, 1), (1,)), known.reshape(-1))
    causal = np.tril(np.ones((4, 4))) / np.arange(1, 5)[:, None]
    np.testing.assert_allclose(entropies(np.stack([causal, causal]), (2,)), np.ones(6))
    assert entropies(np.eye(4)[None], (2,)).size == 0, "one key is all there is to look at"
    assert not entropies(np.stack([np.eye(4), np.roll(np.eye(4), 1, 1)]), (2,)).any()


@pytest.mark.parametrize("name", ["attention", "transformer"])
def test_scores_times_a_number(name: str) -> None:
    """Small ones tell no keys apart, 1 changes nothing."""
    function, operands = lowered(cases("healthy")[name])
    told = [s.entropy for s in seen_forward(function, operands) if s.entropy is not None]
    same = seen_forward(scaled_scores(function, 1.0), operands)
    assert [s.entropy for s in same if s.entropy is not None] == told
    even = seen_forward(scaled_scores(function, 1e-4), operands)
    assert min(s.entropy for s in even if s.entropy is not None) > 0.9999 > max(told)


def test_what_batches_agree_on() -> None:
    """Against the mean and the variance of every sample's gradient, in closed form."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((512, 3)).astype(np.float32)
    y = (x @ [1.0, -1.0, 0.5] + 0.2 + rng.standard_normal(512)).astype(np.float32)
    text = "dim B\nmodel m(x: float[B, 3], y: float[B]) -> float {\n"
    text += "    param w: float[3] ~ zeros\n    return mean((x @ w - y)^2)\n}"
    net = gradc.loads(text)
    samples = samples_of(net.signature, {"x": x, "y": y}, "data")
    each = -2 * y[:, None] * x
    for batch in (1, 8):
        step = net.train_step("sgd(lr=0.1)")
        dealt = [Bench(step, samples, batch, seed) for seed in range(1 if batch == 1 else 8)]
        share = float(np.mean([b.agreement(b.start, 512 // batch) for b in dealt]))
        mean = each.mean(0)
        spread = ((each - mean) ** 2).sum() / 511
        shared = (mean**2).sum() - spread / 512  # without the share of chance in the mean
        assert abs(share - shared / (shared + spread / batch)) < 0.05 * share


def test_noise_is_told_where_a_larger_batch_was_tried() -> None:
    findings, _ = asked(cases("sick_noise")["noisy-line"], 0)
    assert [f.kind for f in findings] == ["noise"] and "batches of 1 agree" in findings[0].message
    assert not asked(cases("healthy_last")["batch-of-one"], 0)[0]
