"""Models in tensor IR for the tests of fusion and placement: written with the Builder,
differentiated, simplified."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.builder import Builder
from gradc.ir.plan.execute import execute_plan
from gradc.ir.plan.plan import Launch, Plan, Repeat, Step
from gradc.ir.tensor.core import DType, Function, Role, Slot, TensorType, Value
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.fuse.fuse import fuse
from gradc.passes.hoist.invariants import hoist
from gradc.passes.lower.plan import to_loops
from gradc.passes.place.place import place
from gradc.passes.rewrite import emit_scan
from gradc.passes.simplify.cse import cse
from gradc.passes.simplify.dce import dce
from gradc.passes.simplify.flatten import flatten
from gradc.passes.simplify.simplify import simplify

Array = NDArray[np.generic]
F32 = DType.F32


class Net:
    """A model under construction."""

    def __init__(self) -> None:
        self.b = Builder()
        self.slots: list[Slot] = []

    def take(self, name: str, *shape: int, role: Role = Role.PARAM, dtype: DType = F32) -> Value:
        self.slots.append(Slot(name, role))
        return self.b.parameter(TensorType(shape, dtype), name)

    def given(self, name: str, *shape: int, dtype: DType = F32) -> Value:
        return self.take(name, *shape, role=Role.INPUT, dtype=dtype)

    def like(self, number: float, value: Value) -> Value:
        return self.b.constant(number, value.type.dtype, value.type.shape)

    def spread(self, value: Value, to: Value, dims: Sequence[int]) -> Value:
        return self.b.one("broadcast", value, shape=to.type.shape, dims=tuple(dims))

    def mean(self, value: Value, *axes: int) -> Value:
        total = self.b.one("sum", value, axes=axes)
        count = 1
        for axis in axes:
            count *= value.type.static_shape[axis]
        return self.b.one("mul", total, self.like(1.0 / count, total))

    def dense(self, x: Value, name: str, width: int) -> Value:
        w = self.take(f"{name}.w", x.type.static_shape[-1], width)
        bias = self.take(f"{name}.b", width)
        last = x.type.rank - 1
        h = self.b.one("contract", x, w, batch=(), contract=((last, 0),))
        return self.b.one("add", h, self.spread(bias, h, (last,)))

    def layernorm(self, x: Value, name: str) -> Value:
        b, last = self.b, x.type.rank - 1
        gain = self.take(f"{name}.gain", x.type.static_shape[-1])
        bias = self.take(f"{name}.bias", x.type.static_shape[-1])
        rows = range(last)
        centred = b.one("sub", x, self.spread(self.mean(x, last), x, rows))
        variance = self.mean(b.one("mul", centred, centred), last)
        scale = b.one("rsqrt", b.one("add", variance, self.like(1e-5, variance)))
        y = b.one("mul", centred, self.spread(scale, x, rows))
        y = b.one("mul", y, self.spread(gain, x, (last,)))
        return b.one("add", y, self.spread(bias, x, (last,)))

    def exponentials(self, x: Value) -> tuple[Value, Value, Value]:
        """Shifted logits, their exponentials, and the sums of those."""
        b, last = self.b, x.type.rank - 1
        top = b.one("stop_gradient", b.one("reduce_max", x, axes=(last,)))
        shifted = b.one("sub", x, self.spread(top, x, range(last)))
        powers = b.one("exp", shifted)
        return shifted, powers, b.one("sum", powers, axes=(last,))

    def softmax(self, x: Value) -> Value:
        _, powers, total = self.exponentials(x)
        return self.b.one("div", powers, self.spread(total, x, range(x.type.rank - 1)))

    def cross_entropy(self, logits: Value, classes: Value) -> Value:
        b, last = self.b, logits.type.rank - 1
        shifted, _, total = self.exponentials(logits)
        at = b.one("iota", axis=last, dtype=DType.I32, shape=logits.type.shape)
        is_class = b.one("eq", at, self.spread(classes, logits, range(last)))
        hot = b.one("cast", is_class, dtype=logits.type.dtype)
        chosen = b.one("sum", b.one("mul", shifted, hot), axes=(last,))
        return b.one("sub", b.one("log", total), chosen)

    def done(self, loss: Value, name: str) -> Function:
        return self.b.function(name, [loss], self.slots, [Slot("loss", Role.LOSS)])


def row_model(rows: int, columns: int) -> Function:
    """Layer normalisation, GELU, residual, mean of tanh^2."""
    net = Net()
    x = net.given("x", rows, columns)
    h = net.b.one("add", net.b.one("gelu", net.layernorm(x, "ln")), x)
    t = net.b.one("tanh", h)
    return net.done(net.mean(net.b.one("mul", t, t), 0, 1), "row_model")


def channel_model(batch: int, channels: int, height: int, width: int) -> Function:
    """Normalisation over all axes but the channels, a nonlinearity, its mean square."""
    net = Net()
    b = net.b
    x = net.given("x", batch, channels, height, width)
    gain, bias = net.take("gain", channels), net.take("bias", channels)
    centred = b.one("sub", x, net.spread(net.mean(x, 0, 2, 3), x, (1,)))
    variance = net.mean(b.one("mul", centred, centred), 0, 2, 3)
    scale = b.one("rsqrt", b.one("add", variance, net.like(1e-5, variance)))
    y = b.one("mul", centred, net.spread(scale, x, (1,)))
    y = b.one("mul", y, net.spread(gain, x, (1,)))
    y = b.one("tanh", b.one("add", y, net.spread(bias, x, (1,))))
    return net.done(net.mean(b.one("mul", y, y), 0, 1, 2, 3), "channel_model")


def mlp(batch: int, widths: Sequence[int]) -> Function:
    """ReLU layers and softmax cross-entropy."""
    net = Net()
    h = net.given("x", batch, widths[0])
    for number, width in enumerate(widths[1:]):
        h = net.dense(h, f"fc{number}", width)
        if number < len(widths) - 2:
            h = net.b.one("relu", h)
    classes = net.given("y", batch, dtype=DType.I32)
    return net.done(net.mean(net.cross_entropy(h, classes), 0), "mlp")


def transformer(layers: int, batch: int, time: int, width: int, heads: int, words: int) -> Function:
    """Causal attention blocks without dropout."""
    net = Net()
    b = net.b
    tokens = net.given("tokens", batch, time, dtype=DType.I32)
    targets = net.given("targets", batch, time, dtype=DType.I32)
    table, places = net.take("wte", words, width), net.take("wpe", time, width)
    h = b.one("take", table, tokens, axis=0)
    h = b.one("add", h, net.spread(places, h, (1, 2)))
    for number in range(layers):
        with b.at(None, f"blocks.{number}"):
            h = b.one("add", h, _attention(net, net.layernorm(h, f"{number}.ln1"), number, heads))
            up = net.dense(net.layernorm(h, f"{number}.ln2"), f"{number}.up", 4 * width)
            h = b.one("add", h, net.dense(b.one("gelu", up), f"{number}.down", width))
    h = net.layernorm(h, "lnf")
    logits = b.one("contract", h, table, batch=(), contract=((2, 1),))
    return net.done(net.mean(net.cross_entropy(logits, targets), 0, 1), "transformer")


def _attention(net: Net, x: Value, number: int, heads: int) -> Value:
    b = net.b
    batch, time, width = x.type.static_shape
    packed = net.dense(x, f"{number}.qkv", 3 * width)
    parts = []
    for k in range(3):
        start, limit = (0, 0, k * width), (batch, time, (k + 1) * width)
        part = b.one("slice", packed, start=start, limit=limit, stride=(1, 1, 1))
        parts.append(b.one("reshape", part, shape=(batch, time, heads, width // heads)))
    pairs = ((0, 0), (2, 2))
    s = b.one("contract", parts[0], parts[1], batch=pairs, contract=((3, 3),))
    s = b.one("mul", s, net.like((width // heads) ** -0.5, s))
    i, j = (b.one("iota", axis=a, dtype=DType.I32, shape=s.type.shape) for a in (2, 3))
    s = b.one("select", b.one("ge", i, j), s, net.like(float("-inf"), s))
    o = b.one("contract", net.softmax(s), parts[2], batch=((0, 0), (1, 2)), contract=((3, 1),))
    o = b.one("reshape", b.one("transpose", o, perm=(0, 2, 1, 3)), shape=(batch, time, width))
    return net.dense(o, f"{number}.proj", width)


def lstm(time: int, batch: int, inputs: int, hidden: int) -> Function:
    """A rolled LSTM; the loss is the mean square of its outputs."""
    net = Net()
    b = net.b
    xs = net.given("xs", time, batch, inputs)
    weights = [net.take("wx", inputs, 4 * hidden), net.take("wh", hidden, 4 * hidden)]
    weights.append(net.take("b", 4 * hidden))
    zero = b.constant(0.0, F32, (batch, hidden))
    r = Builder()
    h, c = r.parameter(zero.type), r.parameter(zero.type)
    x = r.parameter(TensorType((batch, inputs), F32))
    wx, wh, bias = (r.parameter(w.type) for w in weights)
    left = r.one("contract", x, wx, batch=(), contract=((1, 0),))
    right = r.one("contract", h, wh, batch=(), contract=((1, 0),))
    gates = r.one("add", left, right)
    spread = r.one("broadcast", bias, shape=gates.type.shape, dims=(1,))
    gates = r.one("add", gates, spread)
    i, f, g, o = (
        r.one("slice", gates, start=(0, n * hidden), limit=(batch, (n + 1) * hidden), stride=(1, 1))
        for n in range(4)
    )
    kept = r.one("mul", r.one("sigmoid", f), c)
    c = r.one("add", kept, r.one("mul", r.one("sigmoid", i), r.one("tanh", g)))
    h = r.one("mul", r.one("sigmoid", o), r.one("tanh", c))
    counts = {"carried": 2, "stacked": 1, "reverse": False, "truncate": 0}
    body = r.block([h, c, h])
    results = emit_scan(b, [zero, zero, xs, *weights], body, {"trips": time, **counts})
    return net.done(net.mean(b.one("mul", results[2], results[2]), 0, 1, 2), "lstm")


def gradient(function: Function, inputs: bool = False) -> Function:
    """Loss and gradients, simplified as the pipeline does before fusion."""
    roles = (Role.PARAM, Role.INPUT) if inputs else (Role.PARAM,)
    rows = zip(function.parameters, function.block.parameters, strict=True)
    wanted = [slot.name for slot, v in rows if slot.role in roles and v.type.dtype.is_float]
    return tidy(value_and_grad(function, wanted))


def tidy(function: Function) -> Function:
    """Simplification until it matters no more."""
    for _ in range(2):
        function = dce(cse(simplify(function)))
    return dce(cse(simplify(hoist(flatten(function)))))


def planned(function: Function) -> Plan:
    """The complete Plan."""
    return place(to_loops(fuse(function)))


def arguments(function: Function, seed: int) -> list[Array]:
    """Normal floats (small, so that deep nets stay well conditioned) and small integers for every
    parameter."""
    source = np.random.default_rng(seed)
    found: list[Array] = []
    for value in function.block.parameters:
        shape = value.type.static_shape
        if value.type.dtype.is_float:
            dtype = np.float32 if value.type.dtype is F32 else np.float64
            found.append((0.3 * source.standard_normal(shape)).astype(dtype))
        else:
            found.append(source.integers(0, 4, shape).astype(np.int32))
    return found


def compare(function: Function, plan: Plan, seed: int, tolerance: float) -> None:
    """The plan, run over poisoned memory, gives what the interpreter gives (relative to the largest
    entry)."""
    given = arguments(function, seed)
    expected = dict(
        zip([s.name for s in function.results], run(NumpyArrays(), function, given), strict=True)
    )
    found = execute_plan(plan, given, poison=True)
    ports = [port for port in plan.ports if port.direction != "in"]
    assert len(ports) == len(expected)
    for port, ours in zip(ports, found, strict=True):
        theirs = np.asarray(expected[port.name])
        scale = max(float(np.abs(theirs).max(initial=0.0)), 1e-30)
        assert float(np.abs(ours - theirs).max(initial=0.0)) <= tolerance * scale, port.name


def launches(plan: Plan) -> list[Launch]:
    """Every launch in order, those of Repeats once."""
    found: list[Launch] = []
    stack: list[Step] = list(reversed(plan.steps))
    while stack:
        step = stack.pop()
        if isinstance(step, Repeat):
            stack.extend(reversed(step.body))
        else:
            found.append(step)
    return found
