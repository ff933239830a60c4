"""Training steps from Python: updates against NumPy, what a state holds, what is refused."""

from __future__ import annotations

import threading
import types
from typing import Any

import numpy as np
import pytest

import gradc
from gradc.runtime.model.state import TrainState
from tests.support.api_models import DEEP, MLP, STATEFUL, batch, gradients


@pytest.fixture(scope="module")
def net() -> gradc.Model:
    return gradc.loads(MLP, precision="f64")


def exact(gradient: dict[str, Any]) -> dict[str, Any]:
    return {name: gradient[name] for name in ("fc1.w", "fc1.b", "fc2.w", "fc2.b")}


def steps(net: gradc.Model, optimizer: str, count: int = 4, **options: Any) -> TrainState:
    """The state after ``count`` steps on batches 0, 1, ..."""
    step = net.train_step(optimizer, **options)
    state = step.init(net.init(0))
    for number in range(count):
        loss, same = step(state, **batch(number, 8))
        assert same is state
        assert np.isfinite(loss)
    assert state.step == count
    return state


def follow(net: gradc.Model, update: Any, count: int = 4) -> dict[str, Any]:
    """The same with ``update(name, p, g, t)`` in NumPy, over hand-written gradients."""
    params = net.init(0)
    for number in range(count):
        found = exact(gradients(params, **batch(number, 8)))
        params = {n: update(n, params[n], found[n], number + 1) for n in params}
    return params


def agree(state: TrainState, expected: dict[str, Any]) -> None:
    for name, array in state.params.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-9, atol=1e-12)


def test_adamw_decays_matrices_only(net: gradc.Model) -> None:
    slots: dict[str, Any] = {}

    def update(name: str, p: Any, g: Any, t: int, *, everything: bool = False) -> Any:
        m, v = slots.get(name, (0.0, 0.0))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        slots[name] = m, v
        decay = 0.2 if p.ndim > 1 or everything else 0.0
        bare = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        return p - 0.05 * (bare + decay * p)

    state = steps(net, "adamw(lr=0.05, decay=0.2)")
    agree(state, follow(net, update))
    assert list(state.slots)[:2] == ["fc1.w/m", "fc1.w/v"]
    np.testing.assert_allclose(state.slots["fc2.b/v"], slots["fc2.b"][1], rtol=1e-9)
    slots.clear()
    both = follow(net, lambda *a: update(*a, everything=True))
    agree(steps(net, "adamw(lr=0.05, decay=0.2)", decay_on="all"), both)


def test_momentum_nesterov_and_rmsprop(net: gradc.Model) -> None:
    velocity: dict[str, Any] = {}

    def heavy(name: str, p: Any, g: Any, _: int, *, ahead: bool = False) -> Any:
        v = velocity[name] = 0.8 * velocity.get(name, 0.0) + g
        return p - 0.1 * (g + 0.8 * v if ahead else v)

    agree(steps(net, "sgd(lr=0.1, momentum=0.8)"), follow(net, heavy))
    velocity.clear()
    looking = follow(net, lambda *a: heavy(*a, ahead=True))
    agree(steps(net, "sgd(lr=0.1, momentum=0.8, nesterov=true)"), looking)
    squares: dict[str, Any] = {}

    def scaled(name: str, p: Any, g: Any, _: int) -> Any:
        squares[name] = 0.9 * squares.get(name, 0.0) + 0.1 * g * g
        return p - 0.01 * g / (np.sqrt(squares[name]) + 1e-8)

    agree(steps(net, "rmsprop(lr=0.01, rho=0.9)"), follow(net, scaled))


def test_clipping_by_norm_and_by_value(net: gradc.Model) -> None:
    params = net.init(0)
    found = exact(gradients(params, **batch(0, 8)))
    norm = float(np.sqrt(sum((g**2).sum() for g in found.values())))
    state = steps(net, "sgd(lr=1.0)", 1, clip_norm=norm / 3)
    assert float(state.metrics["grad_norm"]) == pytest.approx(norm, rel=1e-12)
    agree(state, {n: params[n] - found[n] / 3 for n in params})
    agree(
        steps(net, "sgd(lr=1.0)", 1, clip_norm=norm * 3), {n: params[n] - found[n] for n in params}
    )
    limited = {n: params[n] - np.clip(found[n], -0.02, 0.02) for n in params}
    agree(steps(net, "sgd(lr=1.0)", 1, clip_value=0.02), limited)


def test_the_schedule_sets_the_rate(net: gradc.Model) -> None:
    rates = {1: 0.1, 2: 0.2, 3: 0.2, 4: 0.2}
    expected = follow(net, lambda _, p, g, t: p - rates[t] * g)
    agree(steps(net, "sgd(lr=9.0)", schedule="warmup(peak=0.2, warmup=2)"), expected)


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_accumulated_parts_are_the_whole_batch(net: gradc.Model, parts: int) -> None:
    whole, cut = steps(net, "adam(lr=0.01)"), steps(net, "adam(lr=0.01)", accumulate=parts)
    agree(cut, whole.params)
    step = net.train_step("adam(lr=0.01)", accumulate=parts)
    assert (
        step.plan({"B": 64}).arena_bytes
        < net.train_step("adam(lr=0.01)").plan({"B": 64}).arena_bytes
    )


def test_a_fixed_and_a_dynamic_loss_scale_change_nothing_but_range(net: gradc.Model) -> None:
    plain = steps(net, "sgd(lr=0.1)")
    agree(steps(net, "sgd(lr=0.1)", loss_scale=1024.0), plain.params)
    agree(steps(net, "sgd(lr=0.1)", loss_scale="dynamic"), plain.params)


def test_init_copies_and_states_do_not_share(net: gradc.Model) -> None:
    params = net.init(0)
    before = {name: a.copy() for name, a in params.items()}
    step = net.train_step("adam(lr=0.1)")
    one, two = step.init(params), step.init(params)
    step(one, **batch(0, 8))
    assert all(np.array_equal(params[name], before[name]) for name in params)
    assert all(np.array_equal(two.params[name], before[name]) for name in params)
    assert (one.step, two.step) == (1, 0)
    assert not np.array_equal(one.params["fc1.w"], before["fc1.w"])


def _spoilt(array: np.ndarray, how: str) -> Any:
    if how == "list":
        return array.tolist()
    if how == "another width":
        return array.astype(np.longdouble if array.dtype.kind == "f" else np.int64)
    if how == "another byte order":
        return array.astype(array.dtype.newbyteorder())
    if how == "strided":
        return np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array.tolist()
    return np.array(array, order="F")


@pytest.mark.parametrize(
    "how", ["column-major", "another width", "another byte order", "list", "strided"]
)
def test_a_state_in_another_form_is_updated_like_any_other(net: gradc.Model, how: str) -> None:
    """Loaded or edited by the caller; a copy that is trained and dropped would change nothing,
    without a word.
    """
    step = net.train_step("adam(lr=0.1)")
    plain, spoilt = step.init(net.init(0)), step.init(net.init(0))
    for name, array in spoilt.arrays.items():
        spoilt.arrays[name] = _spoilt(array, how)
    for seed in range(3):
        data = batch(seed, 8)
        wanted, _ = step(plain, **data)
        found, spoilt = step(spoilt, **data)
        assert wanted == found
    assert (plain.step, spoilt.step) == (3, 3)
    for name, array in plain.arrays.items():
        assert np.array_equal(array, spoilt.arrays[name]), name


def test_a_state_that_cannot_be_written_is_refused(net: gradc.Model) -> None:
    step = net.train_step("adam(lr=0.1)")
    state = step.init(net.init(0))
    name = next(iter(state.arrays))
    state.arrays[name].flags.writeable = False
    before = {n: a.copy() for n, a in state.arrays.items()}
    with pytest.raises(gradc.DiagnosticError, match=f"(?s)GC0557.*`{name}` is read-only"):
        step(state, **batch(0, 8))
    assert all(np.array_equal(a, state.arrays[n]) for n, a in before.items())
    lists: Any = types.MappingProxyType({n: a.tolist() for n, a in before.items()})
    fixed = TrainState(lists, state.trained)
    with pytest.raises(TypeError, match="`params` must be a dictionary whose arrays can be replac"):
        step(fixed, **batch(0, 8))


def _same(arrays: dict[str, Any], a: str, b: str) -> None:
    arrays[a] = arrays[b]


def _view(arrays: dict[str, Any], a: str, b: str) -> None:
    """The second lies within what the first is a part of, one element into it."""
    room = np.zeros(arrays[a].size + arrays[b].size, arrays[a].dtype)
    arrays[a] = room[: arrays[a].size].reshape(arrays[a].shape)
    arrays[b] = room[arrays[a].size - 1 : -1].reshape(arrays[b].shape)


@pytest.mark.parametrize("how", [_same, _view])
@pytest.mark.parametrize("pair", [("fc1.b/m", "fc1.b/v"), ("fc1.b", "fc1.b/v")])
def test_states_that_share_memory_are_refused(
    net: gradc.Model, how: Any, pair: tuple[str, str]
) -> None:
    """At any step, until each has memory of its own; nothing was trained meanwhile."""
    step = net.train_step("adam(lr=0.1)")
    state = step.init(net.init(0))
    for seed in range(2):
        step(state, **batch(seed, 8))
    good = dict(state.arrays)
    how(state.arrays, *pair)
    before = {n: a.copy() for n, a in state.arrays.items()}
    for _ in range(2):
        with pytest.raises(gradc.DiagnosticError, match="GC0557") as caught:
            step(state, **batch(2, 8))
        message = str(caught.value)
        assert all(f"`{name}`" in message for name in pair), message
        assert ("same array" if how is _same else "share memory") in message
    assert all(np.array_equal(a, state.arrays[n]) for n, a in before.items())
    state.arrays.update(good)
    step(state, **batch(2, 8))
    assert state.step == 3


def test_data_that_share_memory_with_the_state_are_refused(net: gradc.Model) -> None:
    step = net.train_step("adam(lr=0.1)")
    state = step.init(net.init(0))
    data = batch(0, 8)
    step(state, **data)
    name, size = "fc2.b", state.arrays["fc2.b"].size
    room = np.zeros(data["x"].size + size)
    state.arrays[name] = room[data["x"].size :]
    apart = room[: data["x"].size].reshape(data["x"].shape)
    step(state, **{**data, "x": apart})
    over = room[size:].reshape(data["x"].shape)
    with pytest.raises(gradc.DiagnosticError, match=r"`fc2\.b` and `x` share"):
        step(state, **{**data, "x": over})


def test_two_states_take_turns(net: gradc.Model) -> None:
    """What was found apart is remembered by place, not by state."""
    step = net.train_step("sgd(lr=0.1)")
    states = [step.init(net.init(seed)) for seed in (0, 1)]
    for seed in range(4):
        for state in states:
            step(state, **batch(seed, 8))
    states[0].arrays["fc1.w"] = states[1].arrays["fc1.w"]  # shared, but not within one state
    step(states[0], **batch(0, 8))
    assert [state.step for state in states] == [5, 4]


def test_state_of_the_model_moves_with_the_step() -> None:
    net = gradc.loads(STATEFUL, precision="f64")
    step = net.train_step("sgd(lr=0.0)")
    state = step.init(net.init(0))
    x = np.random.default_rng(0).standard_normal((6, 4))
    mean = np.zeros(4)
    draws = []
    for _ in range(3):
        loss, state = step(state, x=x)
        draws.append(float(loss))
        mean = 0.9 * mean + 0.1 * x.mean(0)
    np.testing.assert_allclose(state.params["norm.mean"], mean, rtol=1e-12)
    assert len(set(draws)) == 3, "dropout draws anew at each step"


def test_steps_of_several_threads_do_not_meet(net: gradc.Model) -> None:
    step = net.train_step("adam(lr=0.01)", threads=2)
    expected = steps(net, "adam(lr=0.01)", 30).params
    states = [step.init(net.init(0)) for _ in range(4)]
    barrier = threading.Barrier(4)

    def work(state: TrainState) -> None:
        barrier.wait()
        for number in range(30):
            step(state, **batch(number, 8))

    threads = [threading.Thread(target=work, args=(state,)) for state in states]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for state in states:
        assert state.step == 30
        assert all(np.array_equal(state.params[name], expected[name]) for name in expected)


def test_batches_of_any_size_share_a_state(net: gradc.Model) -> None:
    step = net.train_step("sgd(lr=0.1)")
    state = step.init(net.init(0))
    params = net.init(0)
    for size in (8, 3, 1, 8):
        inputs = batch(size, size)
        step(state, **inputs)
        found = exact(gradients(params, **inputs))
        params = {name: params[name] - 0.1 * found[name] for name in params}
    agree(state, params)


def test_a_deep_step_is_one_call_without_a_copy_of_its_state() -> None:
    """Parameters are updated where they lie: what the state holds are the same arrays all along."""
    net = gradc.loads(DEEP)
    step = net.train_step("adamw(lr=1e-3)")
    state = step.init(net.init(0))
    places = {name: a.ctypes.data for name, a in state.arrays.items()}
    for number in range(3):
        step(state, **batch(number, 16))
    assert {name: a.ctypes.data for name, a in state.arrays.items()} == places


REFUSED: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("clip_norm 0", {"clip_norm": 0}, "GC0801.*clip_norm"),
    ("clip_norm NaN", {"clip_norm": float("nan")}, "GC0801.*clip_norm"),
    ("clip_norm text", {"clip_norm": "1"}, "GC0801.*clip_norm"),
    ("clip_value below 0", {"clip_value": -1.0}, "GC0801.*clip_value"),
    ("accumulate 0", {"accumulate": 0}, "GC0801.*accumulate"),
    ("accumulate 1.5", {"accumulate": 1.5}, "GC0801.*accumulate"),
    ("accumulate 3 of 8", {"accumulate": 3}, "GC0808.*8.*3"),
    ("loss_scale text", {"loss_scale": "static"}, "GC0801.*loss_scale"),
    ("loss_scale 0", {"loss_scale": 0}, "GC0801.*loss_scale"),
    ("decay_on", {"decay_on": "gains"}, "GC0801.*decay_on"),
    ("schedule unknown", {"schedule": "cosin(peak=1, total=2)"}, "`cosin`.*did you mean `cosine`"),
    ("schedule lacks", {"schedule": "cosine(peak=1)"}, "total"),
    ("schedule syntax", {"schedule": "cosine(peak=1"}, "GC01.*never closed"),
    ("optimizer unknown", {"optimizer": "adan(lr=1)"}, "`adan`.*did you mean `adam"),
    ("optimizer argument", {"optimizer": "adam(rate=1)"}, "rate"),
    ("truth as a rate", {"optimizer": "adamw(lr=true)"}, "GC0308.*`lr` of `adamw` is a number"),
    ("truth as a peak", {"schedule": "cosine(peak=true, total=9)"}, "`peak` of `cosine` is a num"),
    (
        "number as a truth",
        {"optimizer": "sgd(lr=0.1, momentum=0.9, nesterov=1)"},
        "`nesterov` of `sgd` is `true` or `false`, not",
    ),
    ("accumulate True", {"accumulate": True}, "GC0801.*accumulate"),
    ("clip_norm True", {"clip_norm": True}, "GC0801.*clip_norm"),
    ("loss_scale list", {"loss_scale": [3]}, "GC0801.*loss_scale"),
    ("optimizer is code", {"optimizer": "exit()"}, "`exit`"),
    ("optimizer empty", {"optimizer": ""}, "GC"),
    ("budget", {"budget": "1KiB"}, "GC0602"),
    ("threads", {"threads": 0}, "GC0563"),
)


@pytest.mark.parametrize(("what", "options", "message"), REFUSED, ids=[r[0] for r in REFUSED])
def test_what_makes_no_sense_is_refused(
    net: gradc.Model, what: str, options: dict[str, Any], message: str
) -> None:
    chosen = {"optimizer": "sgd(lr=0.1)", **options}
    with pytest.raises(gradc.DiagnosticError, match=f"(?s){message}"):
        steps(net, **chosen)


def test_samples_that_are_coupled_cannot_be_accumulated() -> None:
    net = gradc.loads(STATEFUL)
    step = net.train_step("sgd(lr=0.1)", accumulate=2)
    with pytest.raises(gradc.DiagnosticError, match=r"GC0807"):
        step(step.init(net.init(0)), x=np.zeros((4, 4), np.float32))


def test_inputs_that_do_not_fit_a_step_are_named(net: gradc.Model) -> None:
    step = net.train_step("sgd(lr=0.1)")
    state = step.init(net.init(0))
    good = batch(0, 8)
    for _ in range(2):
        for change, message in (
            ({"x": good["x"][:, :3]}, "`x`"),
            ({"y": good["y"].astype(float)}, "GC0552.*`y`"),
            ({"z": 1.0}, "GC0554.*`z`"),
        ):
            with pytest.raises(gradc.DiagnosticError, match=f"(?s){message}"):
                step(state, **{**good, **change})
        step(state, **good)
    assert state.step == 2
