"""The verifiers: each numbered invariant is broken on purpose and named; valid programs pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest

from gradc.ir.loop.kernel import (
    Affine,
    Buffer,
    Const,
    Exchange,
    Factor,
    Fold,
    For,
    Gemm,
    Index,
    Kernel,
    Let,
    Load,
    LoopKind,
    Memory,
    Patch,
    Stmt,
    Store,
    Var,
)
from gradc.ir.loop.verify import check_kernel, verify_kernel
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.verify import check_function, verify_function
from gradc.ir.tensor.core import Block, DType, Function, Op, Role, Slot, Span, TensorType, Value
from gradc.ir.tensor.dims import symbol
from gradc.ir.tensor.violation import VerificationError
from tests.support.generate import random_program

F32, I64, BOOL = DType.F32, DType.I64, DType.BOOL
T = TensorType((2,), F32)


def base() -> Function:
    """loss = sum(tanh(x)), state s unchanged."""
    b = Builder()
    x, s = b.parameter(T, "x"), b.parameter(T, "s")
    with b.at(Span("m.grad", 2, 1, 2, 8)):
        h = b.one("tanh", x)
        loss = b.one("sum", h, axes=(0,))
    slots = [Slot("x", Role.INPUT), Slot("s", Role.STATE)]
    results = [Slot("loss", Role.LOSS), Slot("s", Role.STATE)]
    return b.function("f", [loss, s], slots, results)


def with_ops(change: Callable[[list[Op]], object]) -> Function:
    """``base`` with its list of ops changed."""
    function = base()
    ops = list(function.block.ops)
    change(ops)
    return replace(function, block=Block(function.block.parameters, tuple(ops)))


def swap(at: int, **fields: Any) -> Callable[[list[Op]], None]:
    """A change that replaces fields of the op at ``at``."""

    def change(ops: list[Op]) -> None:
        ops[at] = replace(ops[at], **fields)

    return change


def with_region(parameters: tuple[Value, ...], body: Block) -> Function:
    """``base`` with a checkpoint of ``body`` before its end."""
    function = base()
    results = tuple(Value(v.type) for v in body.outputs)
    op = Op("checkpoint", parameters or function.block.parameters[:1], results, {}, (body,))
    ops = (*function.block.body, op, function.block.terminator)
    return replace(function, block=Block(function.block.parameters, ops))


def leaky_region() -> Function:
    function = base()
    outside = function.block.parameters[0]
    inside = Value(T)
    result = Value(T)
    ops = (Op("exp", (outside,), (result,)), Op("yield", (result,), ()))
    op = Op("checkpoint", (outside,), (Value(T),), {}, (Block((inside,), ops),))
    block = Block(function.block.parameters, (*function.block.body, op, function.block.terminator))
    return replace(function, block=block)


def bad_loss(dtype: DType, role: Role = Role.LOSS) -> Function:
    b = Builder()
    x = b.parameter(TensorType((), dtype), "x")
    return b.function("f", [x, x], [Slot("x", Role.INPUT)], [Slot("a", role), Slot("b", Role.LOSS)])


BROKEN: list[tuple[str, str, Callable[[], Function]]] = [
    ("T1", "must end in return", lambda: with_ops(lambda ops: ops.pop())),
    ("T1", "must end in return, not in yield", lambda: with_ops(swap(-1, name="yield"))),
    ("T1", "a terminator before the end", lambda: with_ops(lambda ops: ops.insert(1, ops[-1]))),
    ("T1", "no results", lambda: with_ops(swap(-1, results=(Value(T),)))),
    ("T2", "operand 0 (f32[2]) is not defined", lambda: with_ops(swap(0, operands=(Value(T),)))),
    (
        "T2",
        "not defined before it",
        lambda: with_ops(backwards),
    ),
    ("T2", "in this block", leaky_region),
    ("T3", "is defined twice", lambda: with_ops(lambda ops: ops.insert(0, ops[0]))),
    ("T4", "there is no op 'tann'", lambda: with_ops(swap(0, name="tann"))),
    ("T4", "attribute 'axes' is a list", lambda: with_ops(swap(1, attributes={"axes": [0]}))),
    ("T5", "axis 1 is out of range", lambda: with_ops(swap(1, attributes={"axes": (1,)}))),
    ("T5", "the type rule gives (f32[])", lambda: with_ops(swap(1, results=(Value(T),)))),
    ("T5", "the region takes (f32[3])", lambda: with_region((), exp_block((3,)))),
    ("T6", "replica number -1", lambda: with_ops(swap(0, replica=-1))),
    ("T6", "ends before", lambda: with_ops(swap(0, span=Span("m", 3, 1, 2, 9)))),
    (
        "T7",
        "1 slots describe 2 parameters",
        lambda: replace(base(), parameters=base().parameters[:1]),
    ),
    ("T7", "1 slots describe 2 results", lambda: replace(base(), results=base().results[:1])),
    (
        "T7",
        "are called 'x'",
        lambda: replace(base(), parameters=base().parameters[:1] * 2),
    ),
    ("T8", "result 1, not the first", lambda: bad_loss(F32, Role.OUTPUT)),
    ("T8", "is i64[], which has no derivative", lambda: bad_loss(I64)),
    ("T9", "state 's' is f32[], its parameter f32[2]", lambda: with_ops(shrink_state)),
]


def exp_block(shape: tuple[int, ...]) -> Block:
    b = Builder()
    return b.block([b.one("exp", b.parameter(TensorType(shape, F32)))])


def backwards(ops: list[Op]) -> None:
    ops[:-1] = ops[-2::-1]


def shrink_state(ops: list[Op]) -> None:
    ops[-1] = replace(ops[-1], operands=ops[-1].operands[:1] * 2)


@pytest.mark.parametrize("number, message, make", BROKEN)
def test_broken_function(number: str, message: str, make: Callable[[], Function]) -> None:
    violations = check_function(make())
    assert [v for v in violations if v.number == number and message in v.message], violations


def test_static_stage() -> None:
    b = Builder()
    x = b.parameter(TensorType((symbol("B"),), F32), "x")
    function = b.function("f", [b.one("exp", x)], [Slot("x", Role.INPUT)], [Slot("y", Role.OUTPUT)])
    verify_function(function)
    found = check_function(function, static=True)
    assert [v.number for v in found] == ["T10", "T10"]


def test_violations_are_collected_with_place_and_op() -> None:
    def change(ops: list[Op]) -> None:
        swap(0, replica=-1)(ops)
        swap(1, attributes={"axes": (5,)})(ops)

    with pytest.raises(VerificationError) as caught:
        verify_function(with_ops(change))
    text = str(caught.value)
    assert len(caught.value.violations) == 2
    assert "m.grad:2:1: T6: replica number -1 is negative" in text
    assert "sum %0 {axes = (5,)} : f32[]" in text


@pytest.mark.parametrize("seed", range(30))
def test_valid_programs_pass(seed: int) -> None:
    verify_function(random_program(seed, regions=True, images=True).function, static=True)


def test_ten_thousand_ops_in_a_second() -> None:
    b = Builder()
    x = b.parameter(T)
    for _ in range(10_000):
        x = b.one("tanh", x)
    function = b.function("f", [x], [Slot("x", Role.INPUT)], [Slot("y", Role.OUTPUT)])
    started = time.process_time()
    verify_function(function)
    assert time.process_time() - started < 1.0


# --- kernels --------------------------------------------------------------------------------------

X, Y = Buffer("x", F32, 8, "read"), Buffer("y", F32, 8, "write")
I, A, B = Var("i", I64), Var("a", F32), Var("b", F32)
AT = Affine.of(I)


def kernel(*body: Stmt, buffers: tuple[Buffer, ...] = (X, Y)) -> Kernel:
    return Kernel("k", buffers, body)


def loop(
    *body: Stmt, kind: LoopKind = "vector", extent: int = 8, folds: tuple[Fold, ...] = ()
) -> For:
    return For(I, extent, kind, body, folds)


GOOD = loop(Load(A, X, AT), Let(B, "exp", (A,)), Store(Y, AT, B))
J, C, D = Var("j", I64), Var("c", F32), Var("d", F32)
WIDE = Buffer("w", DType.F64, 8, "write")
PRODUCT = Gemm(
    (),
    (),
    2,
    2,
    4,
    Factor(X, (), 4, 1),
    Factor(X, (), 2, 1),
    I,
    J,
    C,
    (Store(Y, AT * 2 + Affine.of(J), C),),
)

ONE = Const(1.0, F32)
G = Var("g", I64)


def moved(step: int) -> Gemm:
    """A product whose left factor is moved by the iteration of a grid loop."""
    return replace(PRODUCT, left=Factor(X, (), 4, 1, at=Affine.of(G) * step))


def crossing(memory: Memory) -> Kernel:
    """Private memory that one block loop writes and the next one reads."""
    s = Buffer("s", F32, 8, "update", memory)
    there, here = Affine.of(J), Affine.of(I)
    loops = (For(J, 8, "block", (Store(s, there, ONE),)), loop(Load(A, s, here), kind="block"))
    return Kernel("k", (s,), (For(Var("g", I64), 2, "grid", loops),))


def lanes(*offsets: Affine, combine: Literal["", "add"] = "") -> Kernel:
    """Stores to registers by the lanes of a vector loop."""
    s = Buffer("s", F32, 16, "update", "register")
    return Kernel("k", (s,), (loop(*(Store(s, offset, ONE, combine) for offset in offsets)),))


WINDOWS = Patch(1, 8, 1, 8, (8,), (2,), (4,), (1,), (1,), (0,))


def patched(patch: Patch, rows: int = 2) -> Kernel:
    """A product whose left factor is a patch."""
    left = Factor(X, (), 0, 0, 0, patch)
    return kernel(replace(PRODUCT, left=left, m=rows, epilogue=()))


BAD_KERNELS: list[tuple[str, str, Kernel]] = [
    ("L1", "a is defined twice", kernel(loop(Load(A, X, AT), Load(A, X, AT)))),
    ("L1", "i is not defined here", kernel(Store(Y, AT, Const(0.0, F32)))),
    ("L1", "a is not defined here", kernel(loop(Load(A, X, AT)), Let(B, "exp", (A,)))),
    ("L1", "b is not defined here", kernel(loop(Store(Y, AT, B)))),
    ("L2", "there is no such verb", kernel(Let(A, "expp", (Const(0.0, F32),)))),
    ("L2", "takes 2 operands, got 1", kernel(Let(A, "add", (Const(0.0, F32),)))),
    ("L2", "operand types differ", kernel(Let(A, "add", (Const(0.0, F32), Const(0, I64))))),
    ("L2", "is f32, should be bool", kernel(Let(A, "lt", (Const(0.0, F32), Const(0.0, F32))))),
    ("L2", "the condition is f32", kernel(Let(A, "select", (Const(0.0, F32),) * 3))),
    ("L3", "a is f32, and indices are i64", kernel(Index(A, Affine(3)))),
    ("L3", "guard a is f32", kernel(loop(Load(A, X, AT), Load(B, X, AT, A)))),
    ("L4", "buffer w is not declared", kernel(loop(Store(WIDE, AT, Const(0.0, DType.F64))))),
    ("L4", "buffer x is read-only", kernel(loop(Store(X, AT, Const(0.0, F32))))),
    ("L4", "has size -1", kernel(buffers=(Buffer("n", F32, -1, "read"),))),
    ("L5", "b is f32, w holds f64", kernel(loop(Load(B, WIDE, AT)), buffers=(WIDE,))),
    ("L5", "stores f32 into w", kernel(loop(Store(WIDE, AT, Const(0.0, F32))), buffers=(WIDE,))),
    ("L6", "y[1..8] is outside its 8", kernel(loop(Store(Y, AT + 1, Const(0.0, F32))))),
    ("L6", "x[-7..0] is outside its 8", kernel(loop(Load(A, X, AT * -1)))),
    ("L7", "extent -2", kernel(loop(extent=-2))),
    ("L4", "b is block memory", kernel(buffers=(Buffer("b", F32, 1, "write", "block"),))),
    ("L7", "outermost", kernel(For(J, 2, "serial", (loop(kind="grid"),)))),
    ("L7", "a block loop inside", kernel(For(J, 2, "block", (loop(kind="block"),)))),
    ("L7", "a block loop inside", kernel(For(J, 2, "vector", (loop(kind="block"),)))),
    ("L7", "a grid loop has no folds", kernel(loop(kind="grid", folds=(Fold(B, "max", A),)))),
    ("L7", "inside a vector loop", kernel(For(J, 2, "vector", (loop(),)))),
    ("L8", "folds what its loop", kernel(loop(folds=(Fold(B, "add", Const(1.0, F32)),)))),
    ("L8", "its value f32", kernel(loop(Load(A, X, AT), folds=(Fold(Var("f", I64), "add", A),)))),
    (
        "L9",
        "straight-line",
        kernel(replace(PRODUCT, epilogue=(For(Var("z", I64), 1, "serial", ()),))),
    ),
    ("L9", "c64 is f64, not f32", kernel(replace(PRODUCT, acc=Var("c64", DType.F64), epilogue=()))),
    ("L9", "x[0..8] is outside its 8", kernel(replace(PRODUCT, left=Factor(X, (), 5, 1)))),
    ("L9", "has 1 batch strides", kernel(replace(PRODUCT, left=Factor(X, (4,), 4, 1)))),
    ("L9", "is not 2 by 4", patched(replace(WINDOWS, channels=2))),
    ("L9", "contradicts itself", patched(replace(WINDOWS, stride=(1, 1)))),
    ("L9", "x[0..8] is outside its 8", patched(replace(WINDOWS, size=(9,)))),
    ("L9", "is turned", patched(replace(WINDOWS, places=(2,), images=1, is_turned=True), 4)),
    ("L9", "one of each iteration", kernel(For(Var("z", I64), 2, "serial", (PRODUCT,)))),
    ("L9", "there is none", kernel(moved(1), buffers=(Buffer("x", F32, 8, "read"),))),
    ("L9", "x[0..8] is outside its 8", kernel(For(G, 2, "grid", (moved(1),)))),
    ("L10", "thread memory s is used", crossing("thread")),
    ("L11", "register s is accessed", lanes(AT * -1 + 7)),
    ("L11", "register s is accessed", lanes(AT, combine="add")),
    ("L11", "register s is accessed", lanes(AT, AT + 4)),
    ("L12", "inside a loop", kernel(loop(Exchange("share", Y, 2)))),
    ("L12", "x, which is read", kernel(Exchange("share", X, 2))),
    ("L12", "8 elements for 3 ranks", kernel(Exchange("deal", Y, 3))),
]


@pytest.mark.parametrize("number, message, broken", BAD_KERNELS)
def test_broken_kernel(number: str, message: str, broken: Kernel) -> None:
    violations = check_kernel(broken)
    assert [v for v in violations if v.number == number and message in v.message], violations


def test_valid_kernels_pass() -> None:
    verify_kernel(crossing("block"))
    verify_kernel(lanes(AT, AT + 8))
    verify_kernel(kernel(GOOD))
    verify_kernel(kernel(PRODUCT))
    verify_kernel(patched(WINDOWS))
    verify_kernel(kernel(GOOD, Exchange("deal", Y, 4)))
    # A guarded address may point anywhere; a loop that never runs touches nothing.
    condition = Let(Var("g", BOOL), "lt", (I, Const(4, I64)))
    guarded = Load(A, X, AT * 9, condition.var)
    verify_kernel(kernel(loop(condition, guarded)))
    verify_kernel(kernel(loop(Load(A, X, AT + 100), extent=0)))
