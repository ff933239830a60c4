"""The text forms of kernels and Plans: what is printed parses back to the same thing."""

from __future__ import annotations

import pytest

from gradc.ir.loop.equal import difference, fingerprint
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
    Store,
    Var,
)
from gradc.ir.loop.text import parse_kernel, print_kernel
from gradc.ir.plan.plan import Argument, Launch, Plan, Port, Repeat, Tensor
from gradc.ir.plan.text import parse_plan, print_plan
from gradc.ir.tensor.core import DType, Role, Span
from gradc.ir.tensor.text_tokens import TextError
from gradc.passes.differentiate.transforms import value_and_grad
from gradc.passes.lower.plan import to_loops
from gradc.passes.place.place import place
from tests.support.generate import random_program

F32, I64, BOOL = DType.F32, DType.I64, DType.BOOL
SPAN = Span("m.grad", 1, 2, 3, 4, Span("n.grad", 5, 6, 7, 8))
X, Y, W = (
    Buffer("x", F32, 32, "read"),
    Buffer("y", F32, 8, "update"),
    Buffer("w", I64, 4, "update", "thread"),
)
MEMORIES = (
    Buffer("t", F32, 8, "write", "arena"),
    Buffer("p", F32, 4, "update", "block"),
    Buffer("q", F32, 4, "update", "register"),
)
I, J, A, B, S, G, N = (
    Var("i", I64),
    Var("j", I64),
    Var("a", F32),
    Var("b", F32),
    Var("s", F32),
    Var("g", BOOL),
    Var("n", I64),
)
AT = Affine(-3, ((I, 4), (J, 1), (N, -2)))


def everything() -> Kernel:
    """A kernel with every kind of statement and every option of each."""
    inner = For(
        J,
        4,
        "vector",
        (
            Index(N, Affine(2, ((I, 1),))),
            Let(G, "lt", (J, Const(3, I64))),
            Load(A, X, AT, G),
            Let(B, "select", (Const(True, BOOL), A, Const(-0.0, F32))),
        ),
        (Fold(S, "max", B),),
        Affine(7, ((I, -1),)),
    )
    outer = For(I, 8, "serial", (inner, Store(Y, Affine.of(I), S, "add", None)))
    p, m, n, acc = Var("p", I64), Var("m", I64), Var("n2", I64), Var("acc", F32)
    product = Gemm(
        (2,),
        (p,),
        3,
        2,
        4,
        Factor(X, (12,), 4, 1),
        Factor(X, (0,), 1, 4, 5),
        m,
        n,
        acc,
        (Store(Y, Affine(0, ((m, 2), (n, 1))), acc),),
    )
    return Kernel(
        'all "k"',
        (X, Y, W, *MEMORIES),
        (outer, product, Exchange("deal", Y, 2), Exchange("deal", Y, 2, ends=True)),
        12,
        34,
        (SPAN, Span("a", 1, 1, 1, 2)),
    )


def test_kernel_round_trip() -> None:
    kernel = everything()
    text = print_kernel(kernel)
    assert difference(kernel, parse_kernel(text)) is None
    assert print_kernel(parse_kernel(text)) == text
    assert "%a: f32 = load %x[%i*4 + %j + %n*-2 + -3] if %g" in text
    assert "fold (%s: f32 = max %b)" in text
    assert "thread %w: i64[4], write arena %t: f32[8], block %p: f32[4], register %q:" in text
    blocks = For(I, 3, "grid", (For(J, 2, "block", ()),))
    assert "exchange deal %y of 2" in text and "await deal %y of 2" in text
    assert "for block %j: i64 < 2 {" in (text := print_kernel(Kernel("b", (), (blocks,))))
    assert print_kernel(parse_kernel(text)) == text


def test_products_of_iterations_round_trip() -> None:
    moved = Factor(X, (), 4, 1, 2, at=Affine(0, ((I, 3),)))
    m, n, acc = Var("m", I64), Var("n", I64), Var("acc", F32)
    product = Gemm((), (), 1, 1, 1, moved, Factor(X, (), 1, 1), m, n, acc, ())
    made = Kernel("p", (X,), (For(I, 3, "grid", (product,)),))
    assert "left %x () row 4 column 1 offset 2 at %i*3" in (text := print_kernel(made))
    assert difference(made, parse_kernel(text)) is None


def whole_plan() -> Plan:
    """A Plan with every option."""
    tensors = (
        Tensor("x", (8,), F32, "argument", 0),
        Tensor("h", (2, 4), F32, "arena", None, 64, None, 0, SPAN, "fc.0"),
        Tensor("v", (4,), F32, "arena", None, None, 1, 16),
    )
    ports = (Port("x", Role.PARAM, (8,), F32, "inout", 0), Port("l", Role.LOSS, (), F32, "out", 1))
    launch = Launch(0, (Argument(0), Argument(1, 3, (8, -1), (0, 4))), SPAN, "fc.0", 2)
    steps = (launch, Repeat(10, (launch, Repeat(0, ())), 2, SPAN), Launch(0, ()))
    return Plan("step", ports, tensors, (everything(),), steps, 4096)


def test_plan_round_trip() -> None:
    plan = whole_plan()
    text = print_plan(plan)
    assert difference(plan, parse_plan(text)) is None
    assert print_plan(parse_plan(text)) == text


@pytest.mark.parametrize("seed", range(12))
def test_compiled_programs_round_trip(seed: int) -> None:
    """Plans as the compiler makes them, with scans, products and images."""
    program = random_program(seed, regions=True, images=True, steps=10)
    plan = place(to_loops(value_and_grad(program.function, program.differentiable)))
    parsed = parse_plan(print_plan(plan))
    assert difference(plan, parsed) is None
    assert fingerprint(plan) == fingerprint(parsed)


BAD = [
    ('kernel "k" flops 0 bytes 0 (peek %x: f32[1]) {}', "`peek` is neither an access"),
    ('kernel "k" flops 0 bytes 0 () { %a: f32 = exp %b }', "%b is not defined here"),
    ('kernel "k" flops 0 bytes 0 () { store %y[0] = f32(1.0) }', "buffer %y is not declared"),
    ('kernel "k" flops 0 bytes 0 () { for along %i: i64 < 2 {} }', "`along` is not a kind of loop"),
    ('kernel "k" flops 0 bytes 0 () { ' + "for serial %i: i64 < 2 { " * 200, "%i is defined twice"),
    ('kernel "k" flops 0 bytes 0 () {} x', "text after the kernel"),
]


@pytest.mark.parametrize("text, message", BAD)
def test_bad_kernels(text: str, message: str) -> None:
    with pytest.raises(TextError) as caught:
        parse_kernel(text)
    assert message in str(caught.value)


def test_bad_plans() -> None:
    text = print_plan(whole_plan())
    for old, new, message in (
        ('tensor 1 "h"', 'tensor 7 "h"', "tensor 7 is out of order, expected 1"),
        ("port inout", "port both", "`both` is not a direction"),
        ("param", "parameter", "`parameter` is not a role"),
        ("repeat 10", "repeat ten", "expected a number, found `ten`"),
        ("arena offset", "attic offset", "`attic` is not a space"),
    ):
        with pytest.raises(TextError) as caught:
            parse_plan(text.replace(old, new, 1))
        assert message in str(caught.value)
