"""The text form: what is printed parses back to the same thing; what is not IR gets a place and a
reason.
"""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradc.ir.loop.equal import PLACES, difference, equal, fingerprint
from gradc.ir.ops.builder import Builder
from gradc.ir.tensor.core import DType, Function, Role, Slot, Span, TensorType
from gradc.ir.tensor.dims import Dim, floordiv, symbol
from gradc.ir.tensor.text import parse_function, parse_functions, print_function, print_functions
from gradc.ir.tensor.text_tokens import Cursor, TextError, attr_text
from tests.support.generate import random_program
from tests.support.op_cases import CASES, Case

F32 = DType.F32
SPAN = Span("m.grad", 4, 9, 4, 14, Span('std "lib".grad', 1, 2, 3, 4))


def round_trip(function: Function) -> str:
    """The text of ``function``, which must parse back to it and print the same again."""
    text = print_function(function)
    parsed = parse_function(text)
    assert difference(function, parsed) is None
    assert print_function(parsed) == text
    assert fingerprint(parsed) == fingerprint(function)
    return text


def dense() -> Function:
    b = Builder()
    x, w = b.parameter(TensorType((8, 4), F32), "x"), b.parameter(TensorType((4, 2), F32), "fc.w")
    with b.at(SPAN, "fc", 3):
        h = b.one("contract", x, w, batch=(), contract=((1, 0),), hint="h")
    loss = b.one("sum", h, axes=(0, 1), hint="h")
    slots = [Slot("x", Role.INPUT, SPAN), Slot("fc.w", Role.PARAM)]
    return b.function("mlp", [loss], slots, [Slot("loss", Role.LOSS)])


def test_golden() -> None:
    assert round_trip(dense()) == (
        'function "mlp" (\n'
        '  %x: f32[8, 4] input "x" @ "m.grad":4:9-4:14 < "std \\"lib\\".grad":1:2-3:4,\n'
        '  %fc.w: f32[4, 2] param "fc.w",\n'
        ") -> (\n"
        '  loss "loss",\n'
        ") {\n"
        "  %h = contract %x, %fc.w {batch = (), contract = ((1, 0),)} : f32[8, 2]"
        ' @ "m.grad":4:9-4:14 < "std \\"lib\\".grad":1:2-3:4 in "fc" replica 3\n'
        "  %h_0 = sum %h {axes = (0, 1)} : f32[]\n"
        "  return %h_0\n"
        "}\n"
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_op_round_trips(case: Case) -> None:
    round_trip(case.function())


@pytest.mark.parametrize("seed", range(40))
def test_programs_round_trip(seed: int) -> None:
    round_trip(random_program(seed, regions=True, images=seed % 2 == 0).function)


@pytest.mark.parametrize(
    "value", [0.1, -0.0, 0.0, 1e-45, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan]
)
def test_floats_are_exact(value: float) -> None:
    b = Builder()
    b.constant(value, DType.F64)
    text = print_function(b.function("f", [], [], []))
    found = parse_function(text).block.ops[0].attributes["value"]
    assert isinstance(found, float)
    assert str(found) == str(value) and math.copysign(1, found) == math.copysign(1, value)


def test_kinds_of_attributes_stay_apart() -> None:
    """1, 1.0 and true are three different attributes; so are 0.0 and -0.0."""
    texts = {attr_text(v) for v in (1, 1.0, True, 0, 0.0, -0.0, False, "1", (1,), ((1,),), ())}
    assert len(texts) == 11
    for value in (1, 1.0, True, 'x\n"y\\ü', (1, (2.5, "a"), ()), F32, symbol("B") * 2 - 1):
        found = Cursor(attr_text(value)).attr()
        assert type(found) is type(value) and found == value


dims = st.recursive(
    st.one_of(st.integers(-5, 9), st.sampled_from(["B", "D", "T1"]).map(symbol)),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda p: p[0] + p[1]),
        st.tuples(inner, inner).map(lambda p: p[0] * p[1]),
        st.tuples(inner, st.integers(1, 4)).map(lambda p: floordiv(p[0], p[1])),
    ),
    max_leaves=8,
)


@given(dims)
@settings(max_examples=300, deadline=None)
def test_dimensions_round_trip(dim: Dim) -> None:
    assert Cursor(str(dim)).dim() == dim


def test_several_functions() -> None:
    both = [dense(), random_program(3).function]
    parsed = parse_functions(print_functions(both))
    assert [equal(a, b) for a, b in zip(both, parsed, strict=True)] == [True, True]


# --- equality -------------------------------------------------------------------------------------


def chain(
    second: str = "tanh", value: float = 1.0, span: Span | None = None, use_first: bool = False
) -> Function:
    """Two ops and a constant, with one thing or another changed."""
    b = Builder()
    x = b.parameter(TensorType((2,), F32), "x")
    b.constant(value, F32)
    with b.at(span, None, 0):
        h = b.one("exp", x)
        y = b.one(second, x if use_first else h)
    return b.function("f", [y], [Slot("x", Role.INPUT)], [Slot("y", Role.OUTPUT)])


def test_equality_sees_everything_but_names() -> None:
    base = chain()
    assert equal(base, chain()) and fingerprint(base) == fingerprint(chain())
    for other in (chain("sin"), chain(value=1.5), chain(span=SPAN), chain(use_first=True)):
        assert not equal(base, other)
        assert fingerprint(base) != fingerprint(other)
    assert equal(base, chain(span=SPAN), ignore=PLACES)
    assert fingerprint(base, PLACES) == fingerprint(chain(span=SPAN), PLACES)
    assert not equal(chain(value=0.0), chain(value=-0.0))
    assert equal(chain(value=math.nan), chain(value=math.nan))
    assert difference(base, chain("sin")) == "block.ops[2].name"


# --- what is not IR -------------------------------------------------------------------------------

HEAD = 'function "f" (%x: f32[2] input "x") -> (output "y") {\n'
BAD = [
    ("", "1:1: expected `function`, found `end of text`"),
    ("function f", "1:10: expected a string"),
    (HEAD + "%y = exp %z : f32[2] return %y }", "2:13: %z is not defined here"),
    (HEAD + "%x = exp %x : f32[2] return %x }", "%x is defined twice"),
    (HEAD + "%y, %z = exp %x : f32[2] return %y }", "2 results have 1 types"),
    (HEAD + "%y = exp %x : f33[2] return %y }", "`f33` is not an element type"),
    (HEAD + "%y = exp %x {a = 1, a = 2} : f32[2] }", "attribute `a` is given twice"),
    (HEAD + "%y = exp %x {a = b} : f32[2] }", "`b` is not an attribute value"),
    (HEAD + "%y = exp %x : f32[2", "expected `]`"),
    (HEAD + "%y = exp %x : f32[1//0] }", "a dimension divided by zero"),
    (HEAD + "%y = exp %x {a = 1e999} : f32[2] }", "1e999 is too large"),
    (HEAD + "%y = exp %x {a = " + "9" * 50 + "} }", "a number of more than 40 digits"),
    (HEAD + "%y = exp %x ; }", "2:13: unexpected ';'"),
    (HEAD + "return %x } extra", "text after the function"),
    ('function "f" (%x: f32[2] boss "x")', "`boss` is not a role"),
    ('function "f\\q" (', "bad string"),
    (HEAD + "%y = exp %x {a = " + "(" * 200 + "} }", "nested more than 150 levels deep"),
    (HEAD + "%y = exp %x : f32[" + "(" * 200, "nested more than 150 levels deep"),
]


@pytest.mark.parametrize("text, message", BAD)
def test_bad_text(text: str, message: str) -> None:
    with pytest.raises(TextError) as caught:
        parse_function(text)
    assert message in str(caught.value)


@given(st.integers(0, 10**6), st.integers(1, 6))
@settings(max_examples=150, deadline=None)
def test_damaged_text_never_breaks_the_parser(place: int, length: int) -> None:
    """Cutting a piece out gives another function or a TextError, nothing else."""
    text = print_function(dense())
    at = place % len(text)
    try:
        parse_functions(text[:at] + text[at + length :])
    except TextError:
        pass


def test_time_is_linear_in_the_text() -> None:
    """10 000 ops print, parse and compare in about a second each, even on a busy machine."""
    b = Builder()
    x = b.parameter(TensorType((2,), F32))
    for line in range(10_000):
        with b.at(Span("m.grad", line + 1, 1, line + 1, 9), f"layer.{line}"):
            x = b.one("tanh", x, hint="h")
    function = b.function("f", [x], [Slot("x", Role.INPUT)], [Slot("y", Role.OUTPUT)])
    started = time.process_time()
    text = print_function(function)
    printed = time.process_time()
    parsed = parse_function(text)
    read = time.process_time()
    assert equal(function, parsed)
    assert printed - started < 1.0 and read - printed < 2.0
