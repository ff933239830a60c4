"""Random valid programs, for every test that wants many: ``random_program(seed)`` is always the
same program.

Programs are valid by construction and safe by construction: arguments of log, sqrt, div and the
like are made positive by the program itself, and values stay moderate, so results are finite for
the inputs drawn and differences mean something. Sizes include 0 and 1. The loss weighs every
element differently, so cotangents are never all ones.

With Hypothesis: ``st.integers(0, 2**32 - 1).map(random_program)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.ops.builder import Builder
from gradc.ir.tensor.core import DType, Function, Role, Slot, TensorType, Value

MAX_ELEMENTS = 240


@dataclass(frozen=True)
class Program:
    """A function with one loss and operands for it, in order of its parameters."""

    function: Function
    inputs: tuple[NDArray[np.generic], ...]
    seed: int

    @property
    def named_inputs(self) -> dict[str, NDArray[np.generic]]:
        """The operands by parameter name."""
        names = [slot.name for slot in self.function.parameters]
        return dict(zip(names, self.inputs, strict=True))

    @property
    def differentiable(self) -> tuple[str, ...]:
        """Names of the floating parameters."""
        rows = zip(self.function.parameters, self.function.block.parameters, strict=True)
        return tuple(slot.name for slot, value in rows if value.type.dtype.is_float)


def random_program(
    seed: int,
    *,
    steps: int = 14,
    dtype: DType = DType.F64,
    smooth: bool = False,
    regions: bool = False,
    images: bool = False,
    empty: bool = True,
) -> Program:
    """The program number ``seed``.

    ``smooth`` leaves out kinks (max, relu, where, argmax, rounding); ``regions`` adds scan and
    checkpoint; ``images`` adds convolution and pooling; ``empty`` allows dimensions of size 0.
    """
    return _Generator(seed, dtype, smooth, regions, images, empty).program(steps)


class _Generator:
    def __init__(
        self, seed: int, dtype: DType, smooth: bool, regions: bool, images: bool, empty: bool
    ) -> None:
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self.dtype = dtype
        self.b = Builder()
        self.slots: list[Slot] = []
        self.pool: list[Value] = []
        self.used: set[Value] = set()
        self.sizes = [1, 2, 3, 4, 5] + ([0] if empty and self.rng.random() < 0.15 else [])
        self.makers: list[Callable[[], Value | None]] = [
            self.unary,
            self.unary,
            self.binary,
            self.binary,
            self.positive,
            self.reduce,
            self.contract,
            self.contract,
            self.view,
            self.view,
            self.view,
            self.cumsum,
            self.gather,
            self.softmax,
        ]
        if not smooth:
            self.makers += [self.kink, self.where, self.extremum, self.rounded]
        if regions:
            self.makers += [self.scan, self.checkpoint]
        if images:
            self.makers += [self.convolution, self.pool_image]

    # ---- the whole

    def program(self, steps: int) -> Program:
        """Parameters, ``steps`` random ops, and a loss over what is left unused."""
        for number in range(int(self.rng.integers(2, 5))):
            role = Role.PARAM if number < 2 else Role.INPUT
            self.parameter(f"p{number}", role, self.shape())
        made = 0
        while made < steps:
            value = self.choose(self.makers)()
            if value is not None:
                self.pool.append(value)
                made += 1
        loss, outputs = self.loss()
        results = [Slot("loss", Role.LOSS)] + [
            Slot(f"out{n}", Role.OUTPUT) for n in range(len(outputs))
        ]
        function = self.b.function(f"random{self.seed}", [loss, *outputs], self.slots, results)
        return Program(function, draw_inputs(function, self.seed), self.seed)

    def loss(self) -> tuple[Value, list[Value]]:
        """A scalar to which every unused value contributes with weights of its own, and up to two
        outputs.
        """
        leaves = [v for v in self.pool if v not in self.used]
        total = self.b.constant(0.0, self.dtype)
        for number, leaf in enumerate(leaves):
            bounded = self.b.one("tanh", leaf)
            weighted = self.b.one("mul", bounded, self.weights(leaf.type.shape, number))
            axes = tuple(range(leaf.type.rank))
            total = self.b.one("add", total, self.b.one("sum", weighted, axes=axes))
        return total, leaves[:2]

    def weights(self, shape: tuple[object, ...], number: int) -> Value:
        """Numbers in [-1, 1], different at every place."""
        sizes = static(shape)
        angle = self.b.constant(0.7 + number, self.dtype, sizes)
        for axis in range(len(sizes)):
            index = self.b.one("iota", axis=axis, dtype=self.dtype, shape=sizes)
            step = self.b.constant(1.3 + axis, self.dtype, sizes)
            angle = self.b.one("add", angle, self.b.one("mul", index, step))
        return self.b.one("sin", angle)

    # ---- choices

    def choose(self, items: list[Callable[[], Value | None]]) -> Callable[[], Value | None]:
        return items[int(self.rng.integers(len(items)))]

    def word(self, *words: str) -> str:
        return words[int(self.rng.integers(len(words)))]

    def shape(self, rank: int | None = None) -> tuple[int, ...]:
        """A random shape of at most MAX_ELEMENTS."""
        rank = int(self.rng.integers(0, 4)) if rank is None else rank
        return tuple(int(self.rng.choice(self.sizes)) for _ in range(rank))

    def parameter(self, name: str, role: Role, shape: tuple[int, ...]) -> Value:
        value = self.b.parameter(TensorType(shape, self.dtype), name)
        self.slots.append(Slot(name, role))
        self.pool.append(value)
        return value

    def pick(self, rank: int | None = None) -> Value:
        """A value of the pool (of ``rank``, made if need be), younger ones more often."""
        fitting = [v for v in self.pool if rank is None or v.type.rank == rank]
        if not fitting:
            return self.reshaped_to_rank(self.pick(), rank or 0)
        at = len(fitting) - 1 - int(self.rng.integers(len(fitting)) * self.rng.random())
        self.used.add(fitting[at])
        return fitting[at]

    def reshaped_to_rank(self, x: Value, rank: int) -> Value:
        sizes = static(x.type.shape)
        if rank == 0:
            return self.b.one("sum", x, axes=tuple(range(x.type.rank)))
        lead = (1,) * (rank - len(sizes)) + sizes
        if len(lead) > rank:
            lead = (math.prod(lead[: len(lead) - rank + 1]), *lead[len(lead) - rank + 1 :])
        return self.b.one("reshape", x, shape=lead)

    def axis(self, x: Value) -> int:
        return int(self.rng.integers(x.type.rank))

    def literal(self, value: float, like: Value) -> Value:
        return self.b.constant(value, self.dtype, like.type.shape)

    def at_least(self, x: Value, low: float) -> Value:
        """``x * x + low``: positive and smooth."""
        return self.b.one("add", self.b.one("mul", x, x), self.literal(low, x))

    def matched(self, x: Value) -> Value:
        """A value of the type of ``x``: one of the pool, or one broadcast to it."""
        same = [v for v in self.pool if v.type == x.type]
        if same and self.rng.random() < 0.7:
            found = same[int(self.rng.integers(len(same)))]
            self.used.add(found)
            return found
        sizes = static(x.type.shape)
        kept = [axis for axis in range(len(sizes)) if self.rng.random() < 0.5]
        low = self.pick(0)
        narrow = tuple(sizes[axis] if self.rng.random() < 0.5 else 1 for axis in kept)
        row = self.b.one("broadcast", low, shape=narrow, dims=())
        row = self.b.one("add", row, self.weights(narrow, len(self.pool)))
        return self.b.one("broadcast", row, shape=sizes, dims=tuple(kept))

    # ---- elementwise

    def unary(self) -> Value:
        names = ("tanh", "sigmoid", "sin", "cos", "erf", "neg", "gelu", "silu", "softplus")
        return self.b.one(self.word(*names), self.pick())

    def positive(self) -> Value:
        x = self.pick()
        name = self.word("log", "sqrt", "rsqrt", "log1p", "div", "exp", "expm1", "pow")
        if name == "div":
            return self.b.one("div", self.matched(x), self.at_least(x, 1.0))
        if name in ("exp", "expm1"):
            return self.b.one(name, self.b.one("tanh", x))
        if name == "pow":
            exponent = self.literal(float(self.rng.uniform(-1.5, 1.5)), x)
            return self.b.one("pow", self.at_least(x, 0.5), exponent)
        return self.b.one(name, self.at_least(x, 0.5))

    def binary(self) -> Value:
        x = self.pick()
        name = self.word("add", "sub", "mul")
        if name == "mul":  # keeps products of products moderate
            return self.b.one("mul", self.b.one("tanh", x), self.matched(x))
        return self.b.one(name, x, self.matched(x))

    def kink(self) -> Value:
        x = self.pick()
        name = self.word("relu", "abs", "max", "min", "leaky_relu")
        if name == "leaky_relu":
            return self.b.one(name, x, slope=0.1)
        return (
            self.b.one(name, x, self.matched(x)) if name in ("max", "min") else self.b.one(name, x)
        )

    def rounded(self) -> Value:
        x = self.pick()
        if x.type.rank and 0 not in static(x.type.shape) and self.rng.random() < 0.5:
            found = self.b.one("argmax", x, axis=self.axis(x))
            return self.b.one("cast", found, dtype=self.dtype)
        return self.b.one(self.word("floor", "round", "sign", "stop_gradient"), x)

    def where(self) -> Value:
        x = self.pick()
        condition = self.b.one(self.word("lt", "ge"), x, self.matched(x))
        # One side may be infinite where it is not taken.
        side = (
            self.b.one("log", self.b.one("abs", x)) if self.rng.random() < 0.3 else self.matched(x)
        )
        if side.type == x.type and self.rng.random() < 0.3:
            limit = self.literal(0.1, x)
            condition = self.b.one("gt", self.b.one("abs", x), limit)
        else:
            side = self.matched(x)
        return self.b.one("select", condition, side, self.matched(x))

    # ---- reductions, products

    def axes(self, x: Value) -> tuple[int, ...]:
        return tuple(axis for axis in range(x.type.rank) if self.rng.random() < 0.5)

    def reduce(self) -> Value:
        x = self.pick()
        axes = self.axes(x)
        if self.rng.random() < 0.2:
            return self.b.one("prod", self.b.one("tanh", x), axes=axes)
        return self.b.one("sum", x, axes=axes)

    def extremum(self) -> Value | None:
        x = self.pick()
        if 0 in static(x.type.shape):
            return None
        return self.b.one(self.word("reduce_max", "reduce_min"), x, axes=self.axes(x))

    def cumsum(self) -> Value | None:
        x = self.pick()
        if not x.type.rank:
            return None
        return self.b.one("cumsum", x, axis=self.axis(x), reverse=bool(self.rng.random() < 0.5))

    def softmax(self) -> Value | None:
        x = self.pick()
        if not x.type.rank or 0 in static(x.type.shape):
            return None
        axis, shape = self.axis(x), static(x.type.shape)
        dims = tuple(a for a in range(len(shape)) if a != axis)
        top = self.b.one("stop_gradient", self.b.one("reduce_max", x, axes=(axis,)))
        shifted = self.b.one("sub", x, self.b.one("broadcast", top, shape=shape, dims=dims))
        powers = self.b.one("exp", shifted)
        total = self.b.one("sum", powers, axes=(axis,))
        return self.b.one("div", powers, self.b.one("broadcast", total, shape=shape, dims=dims))

    def contract(self) -> Value | None:
        """A (batched) product with a fresh weight or with another value of fitting size."""
        a = self.b.one("tanh", self.pick())
        if not a.type.rank:
            return None
        inner = self.axis(a)
        sizes = static(a.type.shape)
        batched = [x for x in range(len(sizes)) if x != inner and self.rng.random() < 0.3]
        free = self.shape(int(self.rng.integers(0, 2)))
        order = [*(sizes[x] for x in batched), sizes[inner], *free]
        right = self.b.one("add", self.matched(self.literal(0.0, a)), a)
        flat = self.b.one("sum", right, axes=tuple(range(a.type.rank)))
        b = self.b.one("broadcast", self.b.one("tanh", flat), shape=tuple(order), dims=())
        b = self.b.one("mul", b, self.weights(tuple(order), len(self.pool)))
        if math.prod(sizes) * math.prod(free) > MAX_ELEMENTS * max(sizes[inner], 1):
            return None
        batch = tuple((axis, number) for number, axis in enumerate(batched))
        pair = ((inner, len(batched)),)
        return self.b.one("contract", a, b, batch=batch, contract=pair)

    # ---- views and indexing

    def view(self) -> Value | None:
        makers = [self.transposed, self.sliced, self.padded, self.joined, self.reshaped, self.wide]
        return self.choose(list(makers))()

    def transposed(self) -> Value:
        x = self.pick()
        perm = tuple(int(axis) for axis in self.rng.permutation(x.type.rank))
        if self.rng.random() < 0.3:
            return self.b.one("reverse", x, axes=self.axes(x))
        return self.b.one("transpose", x, perm=perm)

    def sliced(self) -> Value:
        x = self.pick()
        sizes = static(x.type.shape)
        start = tuple(int(self.rng.integers(0, n + 1)) if n < 2 else 0 for n in sizes)
        start = tuple(min(s, max(n - 1, 0)) for s, n in zip(start, sizes, strict=True))
        limit = tuple(
            int(self.rng.integers(s + min(n, 1), n + 1)) for s, n in zip(start, sizes, strict=True)
        )
        stride = tuple(int(self.rng.integers(1, 3)) for _ in sizes)
        return self.b.one("slice", x, start=start, limit=limit, stride=stride)

    def padded(self) -> Value | None:
        x = self.pick()
        low, high, interior = (
            tuple(int(n) for n in self.rng.integers(0, 2, x.type.rank)) for _ in range(3)
        )
        found = self.b.one("pad", x, low=low, high=high, interior=interior)
        return found if elements(found) <= MAX_ELEMENTS else None

    def joined(self) -> Value | None:
        x = self.pick()
        if not x.type.rank or elements(x) * 2 > MAX_ELEMENTS:
            return None
        return self.b.one("concat", x, self.matched(x), axis=self.axis(x))

    def reshaped(self) -> Value:
        x = self.pick()
        sizes = [n for n in static(x.type.shape) if n != 1]
        parts: list[int] = []
        for size in sizes:
            factors = [f for f in range(2, size) if size % f == 0]
            if factors and self.rng.random() < 0.5:
                parts += [factors[0], size // factors[0]]
            elif parts and self.rng.random() < 0.4:
                parts[-1] *= size
            else:
                parts.append(size)
        parts.insert(int(self.rng.integers(0, len(parts) + 1)), 1)
        return self.b.one("reshape", x, shape=tuple(parts))

    def wide(self) -> Value | None:
        x = self.pick()
        extra = int(self.rng.choice(self.sizes))
        sizes = static(x.type.shape)
        at = int(self.rng.integers(0, len(sizes) + 1))
        shape = (*sizes[:at], extra, *sizes[at:])
        if math.prod(shape) > MAX_ELEMENTS or len(shape) > 4:
            return None
        dims = tuple(axis for axis in range(len(shape)) if axis != at)
        return self.b.one("broadcast", x, shape=shape, dims=dims)

    def gather(self) -> Value | None:
        x = self.pick()
        if not x.type.rank:
            return None
        axis, sizes = self.axis(x), static(x.type.shape)
        count = int(self.rng.integers(1, 4))
        index = self.b.one("iota", axis=0, dtype=DType.I32, shape=(count,))
        scale = self.b.constant(int(self.rng.integers(0, 4)), DType.I32, (count,))
        ids = self.b.one("mul", index, scale)
        if sizes[axis] and self.rng.random() < 0.6:
            within = self.b.constant(sizes[axis], DType.I32, (count,))
            ids = self.b.one("mod", ids, within)
            return self.b.one("take", x, ids, axis=axis)
        taken = self.b.one("take", x, ids, axis=axis, fill="zero")
        return self.b.one("scatter_add", ids, taken, axis=axis, size=max(sizes[axis], 2))

    # ---- images

    def image(self) -> Value:
        """A value of four axes, at least 3 wide, made from a scalar if there is none."""
        found = [v for v in self.pool if v.type.rank == 4 and min(static(v.type.shape)[2:]) >= 3]
        if found:
            return found[int(self.rng.integers(len(found)))]
        shape = (int(self.rng.integers(1, 3)), 2, 5, 4)
        scalar = self.b.one("broadcast", self.pick(0), shape=shape, dims=())
        return self.b.one("sin", self.b.one("add", scalar, self.weights(shape, len(self.pool))))

    def convolution(self) -> Value:
        """Over the image, over its lines as sequences, or over the image as a volume."""
        x = self.image()
        shape = static(x.type.shape)
        spatial = int(self.rng.choice([2, 2, 1, 3]))
        if spatial == 1:
            x = self.b.one("reshape", x, shape=(*shape[:2], shape[2] * shape[3]))
        elif spatial == 3:
            x = self.b.one("reshape", x, shape=(*shape[:2], 1, *shape[2:]))
        channels = shape[1]
        groups = channels if self.rng.random() < 0.3 else 1
        taps = (1, int(self.rng.integers(1, 4)), 2)[-spatial:]
        w_shape = (2 * groups, channels // groups, *taps)
        w = self.b.one("mul", self.weights(w_shape, 3), self.spread(w_shape))
        low, high, stride = (int(n) for n in self.rng.integers(0, 2, 3))
        return self.b.one(
            f"conv{spatial}d",
            x,
            w,
            padding=((0, 0), (low, high), (1, 0))[-spatial:],
            stride=(1, 1 + stride, 1)[-spatial:],
            dilation=(1, 1, 1 + low)[-spatial:],
            groups=groups,
        )

    def spread(self, shape: tuple[int, ...]) -> Value:
        return self.b.one("broadcast", self.b.one("tanh", self.pick(0)), shape=shape, dims=())

    def pool_image(self) -> Value:
        x = self.image()
        overlap = bool(self.rng.random() < 0.5)
        stride = (1, 2) if overlap else (2, 2)
        padding = ((1, 0), (0, 1)) if overlap else ((0, 0), (0, 0))
        name = self.word("max_pool", "avg_pool")
        return self.b.one(name, x, size=(2, 2), stride=stride, padding=padding)

    # ---- regions

    def checkpoint(self) -> Value:
        x, y = self.pick(), self.pick(0)
        body = Builder()
        p, q = body.parameter(x.type), body.parameter(y.type)
        wide = body.one("broadcast", q, shape=x.type.shape, dims=())
        out = body.one("tanh", body.one("mul", body.one("sin", p), wide))
        return self.b.emit("checkpoint", x, y, regions=(body.block([out]),))[0]

    def scan(self) -> Value | None:
        """h = tanh(a * h + x) over the first axis of some value; its last carry or all of them."""
        xs = self.pick()
        if not xs.type.rank:
            return None
        trips, slice_type = static(xs.type.shape)[0], xs.type.with_shape(xs.type.shape[1:])
        start = self.b.one("broadcast", self.pick(0), shape=slice_type.shape, dims=())
        weight = self.b.one("tanh", self.pick(0))
        body = Builder()
        h, x, a = (body.parameter(t) for t in (slice_type, slice_type, weight.type))
        wide = body.one("broadcast", a, shape=slice_type.shape, dims=())
        new = body.one("tanh", body.one("add", body.one("mul", wide, h), x))
        results = self.b.emit(
            "scan",
            start,
            xs,
            weight,
            regions=(body.block([new, body.one("mul", new, x)]),),
            trips=trips,
            carried=1,
            stacked=1,
            reverse=bool(self.rng.random() < 0.5),
            truncate=0,
        )
        return results[int(self.rng.integers(2))]


def static(shape: tuple[object, ...]) -> tuple[int, ...]:
    """The sizes of a bound shape."""
    return tuple(n for n in shape if isinstance(n, int))


def elements(x: Value) -> int:
    """The number of elements of a value of bound shape."""
    return math.prod(static(x.type.shape))


def draw_inputs(function: Function, seed: int) -> tuple[NDArray[np.generic], ...]:
    """Operands for ``function``: normal numbers, small non-negative integers, coin tosses."""
    rng = np.random.default_rng([seed, 1])
    found: list[NDArray[np.generic]] = []
    for value in function.block.parameters:
        shape = value.type.static_shape
        if value.type.dtype.is_float:
            drawn = rng.standard_normal(shape)
        else:
            drawn = rng.integers(0, 4, shape).astype(np.float64)
        found.append(np.asarray(drawn, NumpyArrays.dtype(value.type.dtype)))
    return tuple(found)
