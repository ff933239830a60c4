"""Random programs in tensor IR for the tests of differentiation and of passes on the tensor stage.

Programs are smooth where their inputs are drawn, or take kinks with probability zero; values stay
of order one, so finite differences mean something. Every program has parameters of several shapes,
uses some twice, and ends in a scalar loss.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from gradc.ir.ops.builder import Builder
from gradc.ir.tensor.core import Block, DType, Function, Op, Role, Slot, TensorType, Value
from gradc.passes.rewrite import emit_scan

Array = NDArray[np.float64]
SHAPES: tuple[tuple[int, ...], ...] = ((), (3,), (2, 3), (3, 2), (2, 2, 3), (1, 3))


def draw(function: Function, seed: int) -> list[Array]:
    """Random arguments for ``function``: floats near one, ids small, keys fixed."""
    source = np.random.default_rng(seed)
    arguments: list[Array] = []
    for value in function.block.parameters:
        shape = value.type.static_shape
        if value.type.dtype.is_float:
            arguments.append(source.uniform(-1.2, 1.2, shape))
        else:
            arguments.append(source.integers(0, 3, shape).astype(np.int32))
    return arguments


@dataclass
class Maker:
    """Makes one program; ``pool`` holds the values that later ops may use."""

    random: random.Random
    dtype: DType = DType.F64
    regions: bool = True
    b: Builder = field(default_factory=Builder)
    pool: list[Value] = field(default_factory=list)

    def pick(self, rank: int | None = None) -> Value:
        """A value of the pool, recent ones more often; of ``rank`` axes if given."""
        fitting = [v for v in self.pool if rank is None or v.type.rank == rank]
        recent = fitting[-4:]
        return self.random.choice(recent if recent and self.random.random() < 0.6 else fitting)

    def const(self, number: float, like: Value) -> Value:
        return self.b.constant(number, like.type.dtype, like.type.shape)

    def fit(self, value: Value, like: Value) -> Value:
        """``value`` in the shape of ``like``: reduced to a scalar and broadcast if need be."""
        if value.type == like.type:
            return value
        scalar = self.b.one("sum", value, axes=tuple(range(value.type.rank)))
        scaled = self.b.one("mul", scalar, self.const(0.3, scalar))
        return self.b.one("broadcast", scaled, shape=like.type.shape, dims=())

    def tame(self, value: Value) -> Value:
        """Keeps magnitudes of order one."""
        return self.b.one("tanh", value)

    def step(self) -> None:
        """Adds one op, or a small group, to the pool."""
        moves: list[Callable[[], Value]] = [
            self.unary, self.unary, self.binary, self.binary, self.binary, self.guarded, self.view,
            self.view, self.reduction, self.product, self.choice, self.gather,
        ]  # fmt: skip
        if self.regions:
            moves += [self.scan, self.checkpoint]
        value = self.random.choice(moves)()
        if value.type.size != 0:
            self.pool.append(value)

    def unary(self) -> Value:
        name = self.random.choice(
            [
                "sin",
                "cos",
                "tanh",
                "sigmoid",
                "softplus",
                "gelu",
                "silu",
                "erf",
                "neg",
                "exp",
                "expm1",
                "relu",
                "leaky_relu",
                "abs",
            ]
        )
        x = self.pick()
        operand = self.tame(x) if name in ("exp", "expm1") else x
        attributes: dict[str, float] = {"slope": 0.1} if name == "leaky_relu" else {}
        (y,) = self.b.apply(name, [operand], attributes)
        return self.tame(y) if self.random.random() < 0.2 else y

    def guarded(self) -> Value:
        """Functions that need a positive operand."""
        x = self.pick()
        positive = self.b.one("add", self.b.one("mul", x, x), self.const(0.7, x))
        name = self.random.choice(["sqrt", "rsqrt", "log", "log1p", "pow", "div"])
        if name == "pow":
            return self.b.one("pow", positive, self.tame(self.fit(self.pick(), x)))
        if name == "div":
            return self.b.one("div", self.fit(self.pick(), x), positive)
        return self.b.one(name, positive)

    def binary(self) -> Value:
        name = self.random.choice(["add", "sub", "mul", "mul", "max", "min"])
        x = self.pick()
        y = self.b.one(name, x, self.fit(self.pick(), x))
        return self.tame(y) if name == "mul" else y

    def view(self) -> Value:
        x = self.pick()
        shape, rank = x.type.static_shape, x.type.rank
        kind = self.random.choice(
            ["reshape", "transpose", "broadcast", "slice", "pad", "concat", "reverse"]
        )
        if kind == "reshape":
            return self.b.one("reshape", x, shape=(int(np.prod(shape)),))
        if kind == "transpose":
            perm = list(range(rank))
            self.random.shuffle(perm)
            return self.b.one("transpose", x, perm=tuple(perm))
        if kind == "broadcast" and rank < 3:
            return self.b.one("broadcast", x, shape=(2, *shape), dims=tuple(range(1, rank + 1)))
        if rank == 0:
            return self.b.one("broadcast", x, shape=(2,), dims=())
        axis = self.random.randrange(rank)
        if kind == "slice" and shape[axis] > 1:
            return self.b.one("add", self.cut(x, axis, 0), self.cut(x, axis, 1))
        if kind == "pad":
            low = tuple(int(a == axis) for a in range(rank))
            interior = tuple(int(a != axis) for a in range(rank))
            return self.b.one("pad", x, low=low, high=(0,) * rank, interior=interior)
        if kind == "concat" and shape[axis] < 6:
            return self.b.one("concat", x, self.b.one("sin", x), axis=axis)
        return self.b.one("reverse", x, axes=(axis,))

    def cut(self, x: Value, axis: int, start: int) -> Value:
        shape = x.type.static_shape
        limit = tuple(start + n - 1 if a == axis else n for a, n in enumerate(shape))
        return self.b.one(
            "slice", x, start=tuple(start if a == axis else 0 for a in range(len(shape))),
            limit=limit, stride=(1,) * len(shape),
        )  # fmt: skip

    def reduction(self) -> Value:
        x = self.pick()
        rank = x.type.rank
        axes = tuple(a for a in range(rank) if self.random.random() < 0.6)
        name = self.random.choice(["sum", "sum", "reduce_max", "reduce_min", "prod", "cumsum"])
        if name == "cumsum":
            if rank == 0:
                return self.b.one("sin", x)
            is_reverse = self.random.random() < 0.5
            return self.tame(self.b.one("cumsum", x, axis=rank - 1, reverse=is_reverse))
        return self.tame(self.b.one(name, x, axes=axes))

    def product(self) -> Value:
        x = self.pick()
        y = self.pick()
        if x.type.rank and y.type.rank:
            for i, n in enumerate(x.type.shape):
                for j, m in enumerate(y.type.shape):
                    if n == m and x.type.rank + y.type.rank <= 5:
                        return self.tame(self.b.one("contract", x, y, batch=(), contract=((i, j),)))
        return self.tame(
            self.b.one(
                "contract", x, x, batch=tuple((a, a) for a in range(x.type.rank)), contract=()
            )
        )

    def choice(self) -> Value:
        x = self.pick()
        y = self.fit(self.pick(), x)
        condition = self.b.one("gt", x, self.const(self.random.uniform(-0.5, 0.5), x))
        return self.b.one("select", condition, self.b.one("mul", x, y), self.b.one("sin", y))

    def gather(self) -> Value:
        x = self.pick()
        if x.type.rank == 0:
            return self.b.one("stop_gradient", x)
        size = x.type.static_shape[0]
        ids = self.b.one(
            "mod",
            self.b.one("iota", axis=0, dtype=DType.I32, shape=(size + 1,)),
            self.b.constant(size, DType.I32, (size + 1,)),
        )
        rows = self.b.one("take", x, ids, axis=0)
        return self.tame(self.b.one("scatter_add", ids, rows, axis=0, size=size))

    def region(self, types: Sequence[TensorType], result: TensorType) -> Block:
        """A small region from ``types`` to ``result`` that uses all of its parameters."""
        inner = Maker(self.random, self.dtype, regions=False)
        parameters = [inner.b.parameter(t) for t in types]
        like = Value(result)
        total = inner.fit(parameters[0], like)
        for parameter in parameters[1:]:
            scaled = inner.b.one("mul", inner.fit(parameter, like), inner.const(0.7, like))
            total = inner.b.one(self.random.choice(["add", "mul"]), total, scaled)
            total = inner.b.one(self.random.choice(["tanh", "sin"]), total)
        return inner.b.block([total])

    def checkpoint(self) -> Value:
        x, y = self.pick(), self.pick()
        block = self.region([x.type, y.type], x.type)
        (value,) = self.b.emit("checkpoint", x, y, regions=(block,))
        return value

    def scan(self) -> Value:
        """A loop with one carry, one stacked operand, one constant, one yield."""
        carry, constant = self.pick(), self.pick()
        trips = self.random.choice([0, 1, 3])
        ramp = self.b.one("iota", axis=0, dtype=self.dtype, shape=(trips,))
        row = self.pick(0) if any(v.type.rank == 0 for v in self.pool) else None
        if row is not None:
            ramp = self.b.one("mul", ramp, self.b.one("broadcast", row, shape=(trips,), dims=()))
        scalar = TensorType((), self.dtype)
        body = self.region([carry.type, scalar, constant.type], carry.type)
        region = Block(body.parameters, (*body.body, _yielding(body)))
        truncate = self.random.choice([0, 0, 0, 2])
        last, steps = emit_scan(
            self.b, [carry, ramp, constant], region,
            {"trips": trips, "carried": 1, "stacked": 1, "reverse": self.random.random() < 0.4,
            "truncate": truncate},
        )  # fmt: skip
        total = self.b.one("sum", steps, axes=(0,))
        return self.b.one("add", last, self.b.one("mul", total, self.const(0.3, total)))

    def finish(self, name: str, slots: Sequence[Slot]) -> Function:
        """Closes the program with a loss that depends on what was made last."""
        loss = self.b.constant(0.0, self.dtype)
        for number, value in enumerate(self.pool[-6:]):
            axes = tuple(range(value.type.rank))
            term = self.b.one("sum", self.b.one("sin", value), axes=axes)
            loss = self.b.one(
                "add",
                loss,
                self.b.one("mul", term, self.b.constant(0.2 + 0.1 * number, self.dtype)),
            )
        extra = self.pool[-1]
        results = (Slot("loss", Role.LOSS), Slot("last", Role.OUTPUT))
        return self.b.function(name, [loss, extra], slots, results)


def _yielding(block: Block) -> Op:
    """The terminator of a body that yields its carry as well."""
    return replace(block.terminator, operands=(*block.outputs, *block.outputs))


def program(seed: int, size: int = 8, dtype: DType = DType.F64, regions: bool = True) -> Function:
    """The random program number ``seed`` with about ``size`` groups of ops and three parameters."""
    maker = Maker(random.Random(seed), dtype, regions)
    slots: list[Slot] = []
    for number in range(3):
        shape = maker.random.choice(SHAPES)
        maker.pool.append(maker.b.parameter(TensorType(shape, dtype), f"p{number}"))
        slots.append(Slot(f"p{number}", Role.PARAM))
    for _ in range(size):
        maker.step()
    return maker.finish(f"program{seed}", slots)
