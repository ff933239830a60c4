"""Rules: every op has a verdict; wrong rules are proved by no method; the index algebra knows what
it must not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from gradc.ir.ops import registry
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.index.sums import Unfit
from gradc.ir.ops.registry import OpDef, Partial, TypeRuleError, all_ops, lookup
from gradc.ir.tensor.core import DType, Op, TensorType, Value
from gradc.passes.prove.domains.exact import ExactScalars, cells, rational
from gradc.passes.prove.domains.field import (
    FieldArrays,
    fold,
    inverse,
    literal,
    matmul,
    mul,
)
from gradc.passes.prove.domains.literals import Meaning, meaning
from gradc.passes.prove.index import theorems
from gradc.passes.prove.index.theorems import (
    INDEX_OPS,
    confirmed,
    generalised,
    pullback_is_proved,
)
from gradc.passes.prove.report import Status
from gradc.passes.prove.rule_verdicts import all_rules, rule_verdict
from gradc.passes.prove.rules import rules
from gradc.passes.prove.rules.refute_rule import refute_rule
from gradc.passes.prove.rules.rules import holds_exactly, holds_in_field, instance

F = DType.F64
P = (1 << 31) - 1
Vjp = Callable[[Builder, Op, Sequence[Value | None], Sequence[bool]], Sequence[Value | None]]


# Roots of unity are no polynomial of a size, and the ranks are a number of their own.
BY_SIZE = dict.fromkeys(("fft", "all_to_all", "all_gather"), Status.PROVED_BOUND)


def test_every_rule_is_proved() -> None:
    verdicts = {v.subject: v for v in all_rules()}
    assert set(verdicts) == {d.name for d in all_ops()}
    others = {n: v.status for n, v in verdicts.items() if v.status is not Status.PROVED_ALL}
    assert others == BY_SIZE


def test_every_forward_rule_is_proved() -> None:
    verdicts = {v.subject: v for v in all_rules(forward=True)}
    others = {n: v.status for n, v in verdicts.items() if v.status is not Status.PROVED_ALL}
    assert others == BY_SIZE


def test_every_elementwise_rule_is_exact() -> None:
    for definition in all_ops():
        if definition.is_elementwise and any(p is not None for p in definition.partials or ()):
            types = [t.with_shape(()) for t in definition.samples[0].operands]
            assert holds_exactly(instance(definition.name, types, definition.samples[0].attributes))


def wrong(definition: OpDef, vjp: Vjp) -> Callable[[str], OpDef]:
    """A registry in which one op has another rule."""

    def look(name: str) -> OpDef:
        return replace(definition, vjp=vjp) if name == definition.name else lookup(name)

    return look


def changed(emit: Callable[[Builder, Op, Value], Value]) -> Vjp:
    def vjp(
        b: Builder, op: Op, cts: Sequence[Value | None], needed: Sequence[bool]
    ) -> Sequence[Value | None]:
        (ct,) = cts
        assert ct is not None
        return (emit(b, op, ct),)

    return vjp


def _spread(b: Builder, op: Op, ct: Value, dims: tuple[int, ...]) -> Value:
    return b.one("broadcast", ct, shape=op.operands[0].type.shape, dims=dims)


def _shifted(b: Builder, op: Op, ct: Value) -> Value:
    return b.one("pad", ct, low=(2,), high=(0,), interior=(0,))


# A square operand, so that every wrong rule has the right types.
SQUARE = TensorType((3, 3), F)
WRONG: list[tuple[str, TensorType, dict[str, Any], Vjp]] = [
    (
        "transpose", TensorType((2, 2, 2), F), {"perm": (1, 2, 0)},
        changed(lambda b, op, ct: b.one("transpose", ct, perm=(1, 2, 0))),
    ),
    ("sum", SQUARE, {"axes": (0,)}, changed(lambda b, op, ct: _spread(b, op, ct, (0,)))),
    (
        "reverse", SQUARE, {"axes": (0,)},
        changed(lambda b, op, ct: b.one("reverse", ct, axes=(1,))),
    ),
    ("slice", TensorType((4,), F), {"start": (1,), "limit": (3,), "stride": (1,)},
    changed(_shifted)),
    (
        "cumsum", SQUARE, {"axis": 0, "reverse": False},
        changed(lambda b, op, ct: b.one("cumsum", ct, axis=0, reverse=False)),
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    "name, type_, attributes, vjp", WRONG, ids=lambda x: x if isinstance(x, str) else ""
)
def test_wrong_linear_rules_are_proved_by_no_method(
    name: str,
    type_: TensorType,
    attributes: dict[str, Any],
    vjp: Vjp,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = instance(name, [type_], attributes)
    assert pullback_is_proved(generalised(case))
    assert holds_in_field(case, 1)
    for module in (theorems, rules):
        monkeypatch.setattr(module, "lookup", wrong(lookup(name), vjp))
    try:
        assert not pullback_is_proved(generalised(case))
    except (Unfit, TypeRuleError):
        pass  # a symbolic size that the wrong rule does not fit
    assert not holds_in_field(case, 1)
    verdict = rule_verdict(name, [case])
    assert verdict.status is Status.REFUTED
    assert verdict.point


def test_a_transform_is_not_its_own_transpose(monkeypatch: pytest.MonkeyPatch) -> None:
    case = instance("fft", [TensorType((2, 5), F)], {"axis": 1})
    assert holds_in_field(case, 1)
    same = changed(lambda b, op, ct: b.one("fft", ct, axis=1))
    monkeypatch.setattr(rules, "lookup", wrong(lookup("fft"), same))
    assert not holds_in_field(case, 1)
    assert rule_verdict("fft", [case]).status is Status.REFUTED


@pytest.mark.parametrize(
    "name, slope",
    [
        ("tanh", lambda k, y, x: k.sub(k.const(1.0 + 2.0**-12), k.mul(y, y))),
        ("sigmoid", lambda k, y, x: k.mul(y, k.add(k.const(1.0), y))),
        ("relu", lambda k, y, x: k.const(1.0)),
        ("softplus", lambda k, y, x: k.neg(k.expm1(y))),
        ("gelu", lambda k, y, x: k.const(1.0)),
    ],
)
def test_wrong_partials_are_refuted(name: str, slope: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    definition = lookup(name)
    faulty = replace(definition, partials=(Partial(slope),))

    def vjp(
        b: Builder, op: Op, cts: Sequence[Value | None], needed: Sequence[bool]
    ) -> Sequence[Value | None]:
        (ct,) = cts
        assert ct is not None
        k = b.algebra(op.result.type)
        return (b.one("mul", ct, slope(k, op.result, *op.operands)),)

    monkeypatch.setattr(rules, "lookup", wrong(faulty, vjp))
    case = instance(name, [TensorType((), F)], definition.samples[0].attributes)
    assert not holds_exactly(case)
    verdict = rule_verdict(name, [case])
    assert verdict.status is Status.REFUTED


def test_theorems_hold_at_other_shapes() -> None:
    """Each instance that the index algebra proves holds over the field, as a check of the
    algebra.
    """
    tried = 0
    for definition in all_ops():
        for sample in definition.samples:
            if definition.name not in INDEX_OPS or any(
                0 in t.static_shape for t in sample.operands
            ):
                continue
            case = instance(definition.name, sample.operands, sample.attributes)
            assert confirmed(case)
            tried += 1
    assert tried >= 30


# --- the field


def test_field_arithmetic_is_that_of_integers() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, P, 1000, np.uint64) for _ in range(2))
    big = rng.integers(0, 1 << 62, 1000, np.uint64)
    assert [int(x) for x in fold(big)] == [int(x) % P for x in big]
    assert [int(x) for x in mul(a, b)] == [int(x) * int(y) % P for x, y in zip(a, b, strict=True)]
    assert np.all(mul(a[a > 0], inverse(a[a > 0])) == 1)
    left, right = a[:60].reshape(1, 6, 10), b[:70].reshape(1, 10, 7)
    exact = left[0].astype(object) @ right[0].astype(object) % P
    assert (matmul(left, right)[0].astype(object) == exact).all()


def test_zero_has_one_inverse_among_others() -> None:
    found = inverse(np.array([0, 1, 2, 0] * 5, np.uint64))
    assert found[0] == found[3] != 0
    assert found[1] == 1 and int(found[2]) * 2 % P == 1


def test_the_order_of_the_field_is_an_order() -> None:
    d = FieldArrays(5)
    rng = np.random.default_rng(1)
    x = d.random((40,), rng)
    ranks = d.rank(x)
    assert len(set(ranks.tolist())) == 40
    assert (d.rank((P - x) % P) == -ranks).all()
    top = d.element(np.inf)
    assert d.greater(top, x).all() and not d.greater(x, top).any()
    forward, backward = (d.reduce("max", y, (0,), F) for y in (x, x[::-1]))
    assert forward == backward


@pytest.mark.parametrize("n, d", [(1, 3), (1, 900), (1, 4608), (7, 10)])
def test_rounded_literals_mean_fractions(n: int, d: int) -> None:
    value = float(np.float32(n / d))
    assert literal(value, 1, DType.F32) * d % P == n
    assert meaning(0.123456789012345) is None


def test_literals_written_in_full_mean_what_they_say_in_any_type() -> None:
    """Near most numbers of 16 bits lies some root; and 32 bits of 10/7 are 10/7."""
    for dtype in (DType.BF16, DType.F16, DType.F32, DType.F64):
        assert meaning(10 / 7, dtype) == Meaning(Fraction(10, 7))
        assert meaning(math.sqrt(2), dtype) == Meaning(Fraction(1), 2)
    assert meaning(float(np.float32(10 / 7)), DType.BF16) == Meaning(Fraction(10, 7))


# --- exact fractions


def test_exact_scalars_know_their_laws_and_no_others() -> None:
    k = ExactScalars()
    x = k.fresh()
    assert k.exp(-x).is_equal(rational(1) / k.exp(x))
    assert not k.exp(x + x).is_equal(k.exp(x))
    log = k.log(rational(1) + k.exp(x))
    assert k.exp(-log).is_equal(rational(1) / (rational(1) + k.exp(x)))
    s = k.square()
    assert (k.sqrt(s) * k.sqrt(s)).is_equal(s)
    assert k.is_zero(k.sin(x) * k.sin(x) + k.cos(x) * k.cos(x) - rational(1))
    assert not k.is_zero(k.tanh(x) - x)


def test_all_cells_are_visited() -> None:
    seen: list[tuple[bool, bool]] = []

    def test(k: ExactScalars) -> bool:
        x, y = k.fresh(), k.fresh()
        seen.append((k.gt(x, y), k.gt(y, rational(0))))
        return True

    assert all(cells(test))
    assert sorted(seen) == [(a, b) for a in (False, True) for b in (False, True)]


def test_a_refuted_rule_has_all_that_either_side_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """x * x with a pullback that forgets a use: NumPy finds both numbers again."""

    def forgets(b: Builder, op: Op, cts: Sequence[Value | None], _: Any) -> list[Value | None]:
        assert cts[0] is not None
        return [b.one("neg", cts[0]), None]

    wrong = replace(lookup("mul"), vjp=forgets)
    monkeypatch.setitem(registry._REGISTRY, "mul", wrong)
    found = refute_rule(instance("mul", [TensorType((2,), DType.F64)] * 2, {}))
    assert found.status is Status.REFUTED
    at = {name: np.asarray(x) for name, x in found.witness["values"].items()}
    a, b, v, w, g = (at[n] for n in ("operand 0", "operand 1", "v 0", "v 1", "g 0"))
    sides = float(found.witness["found"]), float(found.witness["expected"])
    assert sides == pytest.approx((np.sum(g * (v * b + a * w)), np.sum(-g * v)), rel=1e-12)
