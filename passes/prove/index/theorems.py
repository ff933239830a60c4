"""Rules of ops between axes, proved for every shape: <g, J v> and <pullback(g), v> are the same
sum.

J comes from what the op computes, element by element (``prove_index_read``): a polynomial of
elements is differentiated by the product rule; an extremum by Danskin's: its derivative is that of
the elements that attain it, shared among ties. The forward rule is held against the same J. Both
sides are brought to the normal form of ``prove_index_sums``, with symbols for sizes, so a proof
holds for all of them. Attributes (strides, paddings, windows, axes) are those of the instance. A
product is written out at a few factors; its tree is proved for every number (``prove_index_prod``).

Every theorem is tried over a prime field at three small shapes as well, against the registry's own
evaluation, so that a fault of the algebra or of its table of elements would show.

Non-goals: functions of single elements (``prove_exact``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gradc.ir.ops.builder import Builder
from gradc.ir.ops.index.element import Shapes
from gradc.ir.ops.index.sums import (
    Binder,
    Entry,
    Sum,
    Unfit,
    factor,
    normal_form,
    times,
)
from gradc.ir.ops.registry import Pointwise, TypeRuleError, all_ops, lookup
from gradc.ir.tensor.core import DType, Op, TensorType, Value
from gradc.ir.tensor.dims import substitute, symbol, symbols
from gradc.passes.prove.index.prod import tree_is_proved
from gradc.passes.prove.index.read import Reader
from gradc.passes.prove.report import Status, Verdict
from gradc.passes.prove.rules.rules import Instance, holds_in_field, instance, tangent_holds

# Ops between axes that state their elements, or the law of their derivative.
INDEX_OPS = tuple(
    definition.name
    for definition in all_ops()
    if definition.element is not None
    and not (isinstance(definition.loop, Pointwise) or definition.is_source)
)
# At how many shapes a theorem is tried, and how many choices of sizes are looked through for them.
REPLAYS = 3
_TRIES = 40


@dataclass
class Theorem:
    """An op with symbols for sizes: operand types and attributes, and the sizes they stand for."""

    name: str
    types: list[TensorType]
    attributes: dict[str, Any]
    sizes: dict[str, int] = field(default_factory=dict)

    def at(self, sizes: dict[str, int]) -> Instance:
        """The op at numbers for symbols. Raises TypeRuleError or ValueError where they do not
        fit.
        """
        types = [
            t.with_shape(tuple(substitute(n, dict(sizes)) for n in t.shape)) for t in self.types
        ]
        return instance(self.name, types, _bound(self.attributes, sizes))


def _bound(item: Any, sizes: dict[str, int]) -> Any:
    if isinstance(item, dict):
        return {k: _bound(v, sizes) for k, v in item.items()}
    if isinstance(item, tuple):
        return tuple(_bound(v, sizes) for v in item)
    if isinstance(item, (str, bool, float)) or not symbols_of(item):
        return item
    return substitute(item, dict(sizes))


def symbols_of(item: Any) -> tuple[str, ...]:
    """The symbols in a size; none in anything else."""
    return () if isinstance(item, (int, DType)) else symbols(item)


# --- both sides


@dataclass(frozen=True)
class _Forward:
    """The op on parameters, and the same op once more, whose result is read and not named."""

    ops: Sequence[Op]
    operands: Sequence[Value]
    named: Op
    read: Value

    def leaves(self) -> dict[Value, str]:
        found = {v: f"x{n}" for n, v in enumerate(self.operands)}
        return {**found, self.named.result: "y"}


def _forward(theorem: Theorem) -> tuple[Builder, _Forward]:
    b = Builder()
    operands = [b.parameter(t) for t in theorem.types]
    b.apply(theorem.name, operands, theorem.attributes)
    named = b.ops[-1]
    read = b.apply(theorem.name, operands, theorem.attributes)[0]
    return b, _Forward(tuple(b.ops), operands, named, read)


def _paired(binder: Binder, value: Value, seed: str, term: Callable[[Any], Entry]) -> Entry:
    """<seed, term> over the shape of ``value``."""
    shape = value.type.shape
    found: Entry = []
    for index, ranges in binder.choices(shape):
        found += times(times(ranges, factor(seed, index, shape)), term(index))
    return found


def _derivative(forward: _Forward, place: int, binder: Binder) -> Entry:
    """<g, J v> with v at operand ``place`` alone."""
    rule = lookup(forward.named.name).element
    law = rule.law if rule is not None else None
    if law is not None:
        b = Builder()
        v = b.parameter(forward.operands[place].type)
        out = law(b, forward.named, v)
        leaves = {**forward.leaves(), v: f"v{place}"}
        reader = Reader(b.ops, leaves, binder)
        return _paired(binder, forward.named.result, "g", lambda i: reader.read(out, i))
    reader = Reader(forward.ops, forward.leaves(), binder)
    whole = _paired(binder, forward.named.result, "g", lambda i: reader.read(forward.read, i))
    return [one for term in whole for one in _product_rule(term, f"x{place}", f"v{place}")]


def _product_rule(term: Sum, operand: str, direction: str) -> Entry:
    """One term per factor that is an element of ``operand``. Raises Unfit if something else depends
    on it.
    """
    found = []
    for n, f in enumerate(term.factors):
        if f.name == operand:
            moved = replace(f, name=direction, leaves=(direction,))
            found.append(replace(term, factors=[*term.factors[:n], moved, *term.factors[n + 1 :]]))
        elif operand in f.leaves or "y" in f.leaves:
            raise Unfit(f"{f.name} is not a polynomial")
    return found


# --- theorems


def pullback_is_proved(theorem: Theorem) -> bool:
    """Whether the reverse rule is right at all sizes: all operands wanted, and each alone. Raises
    Unfit.
    """
    b, forward = _forward(theorem)
    result = forward.named.result
    places = [n for n, v in enumerate(forward.operands) if v.type.dtype.is_float]
    binder = Binder()
    expected = {n: normal_form(_derivative(forward, n, binder)) for n in places}
    for wanted in dict.fromkeys((tuple(places), *((n,) for n in places))):
        sweep = Builder()
        g = sweep.parameter(result.type)
        needed = [n in wanted for n in range(len(forward.operands))]
        cts = lookup(theorem.name).vjp(sweep, forward.named, [g], needed)
        leaves = {**forward.leaves(), g: "g"}
        for n in wanted:
            reader = Reader((*b.ops, *sweep.ops), leaves, binder)
            ct = cts[n]
            found: Entry = []
            if ct is not None:
                if ct.type.shape != forward.operands[n].type.shape:
                    return False
                found = _paired(binder, ct, f"v{n}", _reads(reader, ct))
            if normal_form(found) != expected[n]:
                return False
    return True


def _reads(reader: Reader, value: Value) -> Callable[[Any], Entry]:
    return lambda index: reader.read(value, index)


def tangent_is_proved(theorem: Theorem) -> bool:
    """Whether the forward rule is right at all sizes: each operand's tangent alone, and all. Raises
    Unfit.
    """
    b, forward = _forward(theorem)
    result = forward.named.result
    places = [n for n, v in enumerate(forward.operands) if v.type.dtype.is_float]
    binder = Binder()
    expected = {n: _derivative(forward, n, binder) for n in places}
    for given in dict.fromkeys((tuple(places), *((n,) for n in places))):
        sweep = Builder()
        vs = {n: sweep.parameter(forward.operands[n].type) for n in given}
        tangents = [vs.get(n) for n in range(len(forward.operands))]
        (out,) = lookup(theorem.name).jvp(sweep, forward.named, tangents)
        leaves = {**forward.leaves(), **{v: f"v{n}" for n, v in vs.items()}}
        reader = Reader((*b.ops, *sweep.ops), leaves, binder)
        found: Entry = []
        if out is not None:
            if out.type.shape != result.type.shape:
                return False
            found = _paired(binder, result, "g", _reads(reader, out))
        if normal_form(found) != normal_form([one for n in given for one in expected[n]]):
            return False
    return True


def replayed(theorem: Theorem, forward: bool = False, tries: int = _TRIES) -> int:
    """At how many small shapes, up to three, the rule holds over the prime field; -1 if at one it
    does not.
    """
    holds = tangent_confirmed if forward else confirmed
    names = sorted(theorem.sizes)
    held = 0
    for number in range(tries):
        if held == REPLAYS or (held and not names):
            break
        sizes = {
            name: 2 + (number * (2 * n + 1) + n + number // 3) % (3 + number // 4)
            for n, name in enumerate(names)
        }
        try:
            case = theorem.at(sizes)
        except (TypeRuleError, ValueError):
            continue
        types = [v.type for v in (*case.parameters, *case.op.results)]
        if any(n < 1 for t in types for n in t.static_shape):
            continue
        if not holds(case):
            return -1
        held += 1
    return held


def confirmed(case: Instance) -> bool:
    """The reverse rule at a point of the field, for every order of the operands or else for one."""
    seed = 1 + len(str(case))
    return holds_in_field(case, seed, 1) or holds_in_field(case, seed, 1, is_opaque=False)


def tangent_confirmed(case: Instance) -> bool:
    """The forward rule at a point of the field."""
    seed = 2 + len(str(case))
    return tangent_holds(case, seed, 1) or tangent_holds(case, seed, 1, is_opaque=False)


# --- symbols for sizes


def generalised(case: Instance) -> Theorem:
    """Operand types with symbols for sizes (1 stays 1), and attributes to match."""
    attributes: dict[str, Any] = dict(case.op.attributes)
    shapes: Shapes = [
        [n if n < 2 else symbol(f"n{k}_{a}") for a, n in enumerate(v.type.static_shape)]
        for k, v in enumerate(case.parameters)
    ]
    rule = lookup(case.name).element
    if rule is not None and rule.fit is not None:
        rule.fit([v.type for v in case.parameters], shapes, attributes)
    rows = zip(case.parameters, shapes, strict=True)
    theorem = Theorem(case.name, [v.type.with_shape(tuple(s)) for v, s in rows], attributes)
    used = {name for t in theorem.types for n in t.shape for name in symbols_of(n)}
    used |= {name for item in attributes.values() for name in _names_in(item)}
    theorem.sizes = dict.fromkeys(sorted(used), 0)
    return theorem


def _names_in(item: Any) -> list[str]:
    if isinstance(item, tuple):
        return [name for part in item for name in _names_in(part)]
    return [] if isinstance(item, (str, bool, float)) else list(symbols_of(item))


_MISFITS = (Unfit, TypeRuleError, TypeError, ValueError, KeyError, StopIteration, AttributeError)
# What else a rule rests on.
_LEMMAS = {"prod": tree_is_proved}


def assumed(name: str) -> tuple[str, ...]:
    """What a theorem about an op rests on."""
    definition = lookup(name)
    if definition.indexes is not None:
        return ("ids lie within their tables",)
    return ("off kinks",) if definition.traits.picks else ()


def index_verdict(name: str, cases: Sequence[Instance], forward: bool = False) -> Verdict | None:
    """A proof for all shapes of every instance's rule (of its forward rule, if asked), or None."""
    if name not in INDEX_OPS:
        return None
    if name in _LEMMAS and not _LEMMAS[name]():
        return None
    method = tangent_is_proved if forward else pullback_is_proved
    shapes = 0
    for case in cases:
        try:
            theorem = generalised(case)
            if not method(theorem):
                return None
        except _MISFITS:
            return None
        held = replayed(theorem, forward)
        if held < 0:
            return None
        shapes += held
    detail = f"{len(cases)} sets of attributes, all sizes; tried at {shapes} shapes"
    return Verdict("rule", name, Status.PROVED_ALL, "index algebra", detail, assumed(name))
