"""Passes on the tensor stage: same values on random programs, and the exact programs they should
make of small ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradc.ir.domains.arrays import NumpyArrays
from gradc.ir.domains.interpret import run
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.verify import verify_function
from gradc.ir.plan.execute import execute_plan
from gradc.ir.tensor.core import Attr, DType, Function, Role, Slot, TensorType, Value, walk
from gradc.ir.tensor.text import print_function
from gradc.passes.differentiate.transforms import hvp, value_and_grad
from gradc.passes.hoist.invariants import hoist
from gradc.passes.pipeline import (
    CONSTRAINTS,
    STEPS,
    Constraint,
    Options,
    PipelineError,
    check_table,
    run_pipeline,
)
from gradc.passes.rewrite import emit_scan
from gradc.passes.simplify.cse import attribute_key, cse
from gradc.passes.simplify.dce import dce
from gradc.passes.simplify.flatten import flatten
from gradc.passes.simplify.shuffle import shuffle
from gradc.passes.simplify.simplify import simplify
from gradc.runtime.api import loads
from tests.support.ad_programs import draw, program

ARRAYS = NumpyArrays()
NAMES = ("p0", "p1", "p2")
F64 = DType.F64
PASSES: dict[str, Callable[[Function], Function]] = {
    "simplify": simplify,
    "cse": cse,
    "dce": dce,
    "hoist": hoist,
    "flatten": flatten,
    "shuffle": lambda f: shuffle(f, 3),
}
# Passes that must not change a single bit.
EXACT = ("cse", "dce", "flatten", "shuffle")


def function(shapes: Sequence[tuple[int, ...]], make: Callable[..., Value]) -> Function:
    b = Builder()
    parameters = [b.parameter(TensorType(s, F64), f"p{i}") for i, s in enumerate(shapes)]
    slots = [Slot(f"p{i}", Role.PARAM) for i in range(len(shapes))]
    result = make(b, *parameters)
    return b.function("f", [result], slots, [Slot("y", Role.OUTPUT)])


def names(f: Function) -> list[str]:
    return [op.name for op in f.block.body]


def same_values(f: Function, g: Function, arguments: Sequence[Any], exact: bool) -> None:
    verify_function(g)
    assert [s.name for s in f.parameters] == [s.name for s in g.parameters]
    for a, b in zip(run(ARRAYS, f, arguments), run(ARRAYS, g, arguments), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        if exact:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("seed", range(30))
def test_passes_keep_the_values_of_random_programs(seed: int) -> None:
    """Of gradients and Hessian-vector products, each pass alone; a second run changes nothing
    more.
    """
    source = program(seed)
    for derived in (value_and_grad(source, NAMES), hvp(source, NAMES)):
        arguments = draw(derived, seed)
        for name, change in PASSES.items():
            changed = change(derived)
            same_values(derived, changed, arguments, name in EXACT)
            if name in ("cse", "dce", "flatten"):
                assert change(changed) is changed


@pytest.mark.parametrize("seed", range(100, 112))
def test_pipeline_at_the_strictest_level(seed: int) -> None:
    """Shuffled before every step, printed and parsed after it; the Plan computes what the source
    does.
    """
    source = program(seed)
    options = Options(derivative=lambda f: value_and_grad(f, NAMES), verify=3)
    outcome = run_pipeline(source, options)
    arguments = draw(source, seed)
    expected = run(ARRAYS, value_and_grad(source, NAMES), arguments)
    found = execute_plan(outcome.plan, arguments)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11)


# --- simplify: moves of views ---------------------------------------------------------------------


def _slice(b: Builder, x: Value, start: Sequence[int], limit: Sequence[int]) -> Value:
    stride = (1,) * len(start)
    return b.one("slice", x, start=tuple(start), limit=tuple(limit), stride=stride)


VIEWS: list[tuple[str, list[tuple[int, ...]], Callable[..., Value], list[str]]] = [
    ("reshape of reshape", [(2, 6)],
     lambda b, x: b.one("reshape", b.one("reshape", x, shape=(12,)), shape=(3, 4)), ["reshape"]),
    ("reshape to the same shape", [(2, 6)],
     lambda b, x: b.one("sin", b.one("reshape", x, shape=(2, 6))), ["sin"]),
    ("transpose of transpose", [(2, 3, 4)],
     lambda b, x: b.one("transpose", b.one("transpose", x, perm=(1, 2, 0)), perm=(2, 0, 1)), []),
    ("transpose of axes of size 1", [(2, 1, 4)],
     lambda b, x: b.one("transpose", x, perm=(1, 0, 2)), ["reshape"]),
    ("transpose of contract", [(2, 3), (3, 4)],
     lambda b, x, y: b.one("transpose", b.one("contract", x, y, batch=(), contract=((1, 0),)),
                           perm=(1, 0)), ["contract"]),
    ("broadcast of broadcast", [(3,)],
     lambda b, x: b.one("broadcast", b.one("broadcast", x, shape=(2, 3), dims=(1,)),
                        shape=(4, 2, 3), dims=(1, 2)), ["broadcast"]),
    ("broadcast of reshape", [(3,)],
     lambda b, x: b.one("broadcast", b.one("reshape", x, shape=(3, 1)), shape=(2, 3, 4),
                        dims=(1, 2)), ["broadcast"]),
    ("slice of slice", [(6, 3)],
     lambda b, x: _slice(b, _slice(b, x, (1, 0), (5, 3)), (1, 1), (3, 2)), ["slice"]),
    ("slice of concat", [(2, 3), (4, 3)],
     lambda b, x, y: _slice(b, b.one("concat", x, y, axis=0), (3, 0), (5, 2)), ["slice"]),
    ("slice of pad", [(3,)],
     lambda b, x: _slice(b, b.one("pad", x, low=(2,), high=(1,), interior=(0,)), (2,), (5,)), []),
    ("concat of slices", [(6, 2)],
     lambda b, x: b.one("concat", _slice(b, x, (0, 0), (4, 2)), _slice(b, x, (4, 0), (6, 2)),
                        axis=0), []),
    ("concat of one", [(3,)], lambda b, x: b.one("concat", x, axis=0), []),
    ("pad by nothing", [(3,)], lambda b, x: b.one("pad", x, low=(0,), high=(0,), interior=(0,)),
    []),
    ("reverse of reverse", [(3, 2)],
     lambda b, x: b.one("reverse", b.one("reverse", x, axes=(0, 1)), axes=(1,)), ["reverse"]),
    ("sum of axes of size 1", [(3, 1)], lambda b, x: b.one("sum", x, axes=(1,)), ["reshape"]),
    ("sum of transpose", [(3, 2)],
     lambda b, x: b.one("sum", b.one("transpose", x, perm=(1, 0)), axes=(0,)), ["sum"]),
    ("contract of transpose", [(3, 2), (3, 4)],
     lambda b, x, y: b.one("contract", b.one("transpose", x, perm=(1, 0)), y, batch=(),
                           contract=((1, 0),)), ["contract"]),
    ("cast there and back", [(3,)],
     lambda b, x: b.one("cast", b.one("cast", b.one("cast", x, dtype=DType.F32), dtype=F64),
                        dtype=DType.F32), ["cast"]),
    ("select by a constant", [(3,), (3,)],
     lambda b, x, y: b.one("select", b.constant(True, DType.BOOL, (3,)), x, y), []),
]  # fmt: skip


@pytest.mark.parametrize(("name", "shapes", "make", "left"), VIEWS, ids=[row[0] for row in VIEWS])
def test_views(
    name: str, shapes: list[tuple[int, ...]], make: Callable[..., Value], left: list[str]
) -> None:
    f = function(shapes, make)
    hits: Counter[str] = Counter()
    g = dce(simplify(f, hits=hits))
    assert hits[name] >= 1
    assert names(g) == left
    same_values(f, g, draw(f, 1), exact=True)


def test_slices_that_are_not_the_whole_stay() -> None:
    """Near misses of the view rules are left alone."""

    def swapped(b: Builder, x: Value) -> Value:
        return b.one("concat", _slice(b, x, (2,), (4,)), _slice(b, x, (0,), (2,)), axis=0)

    def across(b: Builder, x: Value, y: Value) -> Value:
        return _slice(b, b.one("concat", x, y, axis=0), (1,), (3,))

    f = function([(4,)], swapped)
    assert simplify(f) is f
    g = function([(2,), (2,)], across)
    assert simplify(g) is g


def test_folding_makes_no_large_constants_and_loses_nothing() -> None:
    """A huge splat is one number; f32 folds in f32; a sum that would round is left alone."""
    b = Builder()
    tenth = b.constant(0.1, DType.F32, (1000, 1000))
    product = b.one("mul", tenth, tenth)
    inexact = b.one("sum", tenth, axes=(0, 1))
    exact = b.one("sum", b.constant(3.0, DType.F32, (1000,)), axes=(0,))
    outputs = [product, inexact, exact]
    slots = [Slot(f"r{i}", Role.OUTPUT) for i in range(3)]
    f = b.function("f", outputs, [], slots)
    g = dce(simplify(f))
    assert [op.name for op in g.block.body] == ["constant", "constant", "sum", "constant"]
    values = [op.attributes["value"] for op in g.block.body if op.name == "constant"]
    assert float(np.float32(0.1) * np.float32(0.1)) in values and 3000.0 in values
    assert len(print_function(g)) < 500


# --- cse ------------------------------------------------------------------------------------------


def test_cse_merges_equal_ops_and_commuted_operands() -> None:
    def make(b: Builder, x: Value, y: Value) -> Value:
        left = b.one("mul", x, y)
        right = b.one("mul", y, x)
        return b.one("add", b.one("sin", left), b.one("sin", right))

    assert names(cse(function([(2,), (2,)], make))) == ["mul", "sin", "add"]


def test_cse_keeps_what_differs() -> None:
    """Zeros of different sign, operand order of sub, streams of random bits, replica numbers."""

    def zeros(b: Builder, x: Value) -> Value:
        plus, minus = b.constant(0.0, F64, (2,)), b.constant(-0.0, F64, (2,))
        return b.one("div", b.one("add", x, plus), b.one("add", x, minus))

    def ordered(b: Builder, x: Value, y: Value) -> Value:
        return b.one("mul", b.one("sub", x, y), b.one("sub", y, x))

    def replicas(b: Builder, x: Value) -> Value:
        first = b.one("sin", x)
        with b.at(None, replica=1):
            second = b.one("sin", x)
        return b.one("add", first, second)

    for shapes, make in (([(2,)], zeros), ([(2,)] * 2, ordered), ([(2,)], replicas)):
        f = function(shapes, make)
        assert cse(f) is f


def test_attribute_keys_tell_types_and_signs_apart() -> None:
    different: list[Attr] = [1, 1.0, True, 0, 0.0, -0.0, False, "1", (1,), (1.0,), ()]
    keys = [attribute_key(a) for a in different]
    assert len(set(keys)) == len(different)
    assert attribute_key(float("nan")) == attribute_key(float("nan"))


def test_cse_merges_equal_scans_whatever_their_inner_names() -> None:
    def make(b: Builder, x: Value) -> Value:
        found: list[Value] = []
        for hint in ("a", "b"):
            inner = Builder()
            own = inner.parameter(TensorType((), F64), hint)
            region = inner.block([inner.one("sin", own, hint=hint)])
            attributes: dict[str, Attr] = {
                "trips": 3, "carried": 0, "stacked": 1, "reverse": False, "truncate": 0,
            }  # fmt: skip
            found += emit_scan(b, [x], region, attributes)
        return b.one("add", *found)

    assert names(cse(function([(3,)], make))) == ["scan", "add"]


# --- dce ------------------------------------------------------------------------------------------


def test_dce_prunes_loops() -> None:
    """A yield nobody reads goes, with the carry, operands and ops that only it needed."""
    inner = Builder()
    kept, dead, step, used, unused = (inner.parameter(TensorType((), F64), n) for n in "kdsuv")
    following = inner.one("mul", kept, inner.one("add", step, used))
    wasted = inner.one("add", dead, unused)
    region = inner.block([following, wasted, inner.one("sin", wasted), following])

    def make(b: Builder, c: Value, d: Value, xs: Value, u: Value, v: Value) -> Value:
        attributes: dict[str, Attr] = {
            "trips": 4, "carried": 2, "stacked": 1, "reverse": False, "truncate": 0,
        }  # fmt: skip
        results = emit_scan(b, [c, d, xs, u, v], region, attributes)
        return results[0]

    f = function([(), (), (4,), (), ()], make)
    g = dce(f)
    (scan,) = g.block.body
    assert len(scan.operands) == 3 and len(scan.results) == 1
    assert [op.name for op in scan.regions[0].body] == ["add", "mul"]
    same_values(f, g, draw(f, 2), exact=True)


# --- hoist ----------------------------------------------------------------------------------------


def _rnn(b: Builder, xs: Value, h: Value, wx: Value, wh: Value, bias: Value) -> Value:
    inner = Builder()
    own = [
        inner.parameter(t)
        for t in (h.type, TensorType(xs.type.shape[1:], F64), wx.type, wh.type, bias.type)
    ]
    carry, x, own_wx, own_wh, own_bias = own
    both = inner.one(
        "add",
        inner.one("contract", x, own_wx, batch=(), contract=((1, 0),)),
        inner.one("contract", carry, own_wh, batch=(), contract=((1, 0),)),
    )
    wide = inner.one("broadcast", own_bias, shape=carry.type.shape, dims=(1,))
    following = inner.one("tanh", inner.one("add", both, wide))
    region = inner.block([following, following])
    attributes: dict[str, Attr] = {
        "trips": xs.type.shape[0], "carried": 1, "stacked": 1, "reverse": False, "truncate": 0,
    }  # fmt: skip
    _, hs = emit_scan(b, [h, xs, wx, wh, bias], region, attributes)
    return b.one("sum", b.one("mul", hs, hs), axes=(0, 1, 2))


def rnn() -> Function:
    f = function([(5, 2, 3), (2, 4), (3, 4), (4, 4), (4,)], _rnn)
    return Function(f.name, f.block, f.parameters, (Slot("y", Role.LOSS),))


def test_products_of_weights_leave_the_loop_in_both_directions() -> None:
    """x @ wx before the forward loop; no weight gradient is accumulated in the reverse loop."""
    wrt = ["p0", "p1", "p2", "p3", "p4"]
    options = Options(derivative=lambda f: value_and_grad(f, wrt), stop_after="dce")
    outcome = run_pipeline(rnn(), options).result
    assert isinstance(outcome, Function)
    scans = [op for op in outcome.block.body if op.name == "scan"]
    assert len(scans) == 2
    for scan in scans:
        assert [op.name for op in scan.regions[0].body].count("contract") == 1
        assert scan.attributes["carried"] == 1
    arguments = draw(rnn(), 4)
    same_values(value_and_grad(rnn(), wrt), outcome, arguments, exact=False)


def test_invariants_leave_nested_loops() -> None:
    """exp(w) inside two loops is computed once, outside both."""
    scalar = TensorType((), F64)
    inner = Builder()
    c, w = inner.parameter(scalar), inner.parameter(scalar)
    innermost = inner.block([inner.one("mul", c, inner.one("exp", w))])
    attributes: dict[str, Attr] = {
        "trips": 2, "carried": 1, "stacked": 0, "reverse": False, "truncate": 0,
    }  # fmt: skip
    middle = Builder()
    c, w = middle.parameter(scalar), middle.parameter(scalar)
    (last,) = emit_scan(middle, [c, w], innermost, attributes)
    outer = middle.block([last])
    f = function([(), ()], lambda b, x, w: emit_scan(b, [x, w], outer, attributes)[0])
    g = hoist(f)
    assert names(g) == ["exp", "scan"]
    assert "exp" not in [op.name for r in g.block.body[1].regions for op in walk(r)]
    same_values(f, g, draw(f, 3), exact=True)


# --- pipeline -------------------------------------------------------------------------------------


def test_the_table_is_checked() -> None:
    with pytest.raises(PipelineError, match="must precede"):
        check_table(STEPS, [*CONSTRAINTS, Constraint("place", "cse", "never")])
    with pytest.raises(PipelineError, match="ends at"):
        check_table([STEPS[-1], STEPS[0]], [])
    with pytest.raises(PipelineError, match="same name"):
        check_table([STEPS[0], STEPS[0]], [])
    with pytest.raises(PipelineError, match="unknown step"):
        check_table(STEPS, [Constraint("cse", "nothing", "")])
    assert all(step.reason for step in STEPS)


def test_options_name_steps() -> None:
    f = program(1, size=2)
    with pytest.raises(PipelineError, match="there is no step `cs`"):
        run_pipeline(f, Options(stop_after="cs"))
    with pytest.raises(PipelineError, match="cannot be skipped"):
        run_pipeline(f, Options(skip=("to-loops",)))
    stopped = run_pipeline(f, Options(stop_after="cse", skip=("rematerialise",)))
    assert [r.step for r in stopped.records][-1] == "cse"
    with pytest.raises(PipelineError, match="stopped after `cse`"):
        _ = stopped.plan
    with pytest.raises(KeyError):
        stopped.after("rematerialise")


def test_dumps_are_numbered_and_say_unchanged(tmp_path: Path) -> None:
    f = function([(2,)], lambda b, x: b.one("sin", b.one("exp", x)))
    run_pipeline(f, Options(dump_after=("all",), dump_to=tmp_path))
    files = sorted(p.name for p in tmp_path.iterdir())
    assert files[0] == "01_simplify-source.ir" and len(files) == len(STEPS)
    assert (tmp_path / files[0]).read_text() == "unchanged\n"
    assert "fusion" in (tmp_path / next(n for n in files if "fuse" in n)).read_text()
    some = tmp_path / "some"
    outcome = run_pipeline(f, Options(dump_after=("cse",), dump_to=some))
    number = [step.name for step in STEPS].index("cse") + 1
    assert [p.name for p in some.iterdir()] == [f"{number:02}_cse.ir"]
    assert "(unchanged)" in outcome.timing()


def test_shuffle_is_a_valid_order_and_another_one() -> None:
    f = value_and_grad(program(5), NAMES)
    g = shuffle(f, 1)
    verify_function(g)
    assert names(g) != names(f) and sorted(names(g)) == sorted(names(f))
    assert print_function(shuffle(f, 1)) == print_function(g)


def test_what_stops_derivatives_goes_once_there_are_none_to_stop() -> None:
    """In loops and checkpoints too; results that are an input stay results."""
    text = """
    model m(x: float[4, 3]) -> float {
        param w: float[3] ~ normal(1.0)
        hs = scan row in x carry h = w {
            h = tanh(h * stop_gradient(row))
            yield stop_gradient(h)
        }
        checkpoint { y = stop_gradient(x) * w }
        z = stop_gradient(stop_gradient(w))
        output z
        return sum(hs * y) + sum(z^2)
    }
    """
    f = loads(text, precision="f64").lower().function
    kept, gone = flatten(f), flatten(f, is_final=True)
    assert "stop_gradient" in {op.name for op in walk(kept.block)}
    assert "stop_gradient" not in {op.name for op in walk(gone.block)}
    rng = np.random.default_rng(4)
    given = [rng.normal(size=s.type.static_shape) for s in f.block.parameters]
    same_values(f, gone, given, True)
    assert flatten(gone, is_final=True) is gone
