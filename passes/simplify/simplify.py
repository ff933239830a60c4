"""Peephole simplification: ``rules`` on elementwise ops, moves of views, constant folding,
canonical operand order.

From-stage and to-stage: tensor. One walk in program order: every op is rewritten until no rule
fires, and what a rule emits is rewritten as well, to a bounded depth, so one run reaches a fixed
point of everything but rules that would look at later users. Ops that became unused stay for
``dce``.

Invariants: with ``fast_math`` off only EXACT and CLOSE rules and exact moves of views apply
(``rules`` says what that means); types never change; new ops carry the span, scope and replica
number of the op they replace; a rule fires only on ops of one replica number, so recomputed values
are not replaced by kept ones.

Non-goals: merging equal ops (``cse``), anything that depends on how often a value is used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import lookup, number_of
from gradc.ir.tensor.core import Block, DType, Function, Op, Value
from gradc.ir.tensor.dims import Dim
from gradc.passes.rewrite import renamed, with_ops
from gradc.passes.simplify.fold import folded
from gradc.passes.simplify.rules import CLOSE, EXACT, FAST, Apply, Number, Pattern, Rule, Variable
from gradc.passes.simplify.views import view_rules

# So often what a rule emits is rewritten in turn. Chains of views that take each other apart (a
# slice of a concat of slices ...) are as long as the program: without a bound every link would be
# walked down to the start.
_MAX_DEPTH = 16


def simplify(
    function: Function, *, fast_math: bool = False, hits: Counter[str] | None = None
) -> Function:
    """``function`` simplified; the same object if no rule fired. ``hits`` gains a count per
    rule.
    """
    counter: Counter[str] = Counter()
    simplifier = _Simplifier(_by_root(fast_math), counter)
    block = simplifier.block(function.block)
    if hits is not None:
        hits.update(counter)
    if not counter:
        return function
    return with_ops(function, block.body, block.outputs)


_RulesByRoot: TypeAlias = dict[str, list[Rule]]
# Of each operand the name of the op that makes it, True if it is a constant, None if rules may not
# look through it.
Forms: TypeAlias = tuple[str | bool | None, ...]


def _by_root(fast_math: bool) -> _RulesByRoot:
    table: _RulesByRoot = {}
    for rule in (*EXACT, *CLOSE, *(FAST if fast_math else ())):
        table.setdefault(rule.left.op, []).append(rule)
    return table


@dataclass
class _Simplifier:
    """What is shared by all blocks of one run."""

    rules: _RulesByRoot
    hits: Counter[str]
    known: dict[tuple[str, DType, Forms], list[Rule]] = field(default_factory=dict)
    regions: dict[Block, Block] = field(default_factory=dict)

    def fitting(self, op: Op, forms: Forms) -> Sequence[Rule]:
        """The rules for ops of the name and element type of ``op`` with operands of these forms:
        of the few that there are, most leave no rule a chance.
        """
        rules = self.rules.get(op.name)
        if rules is None:
            return ()
        key = (op.name, op.operands[0].type.dtype, forms)
        found = self.known.get(key)
        if found is None:
            found = [rule for rule in rules if _fits(rule, op) and rule.may_match(forms)]
            self.known[key] = found
        return found

    def _region(self, block: Block) -> Block:
        """``block`` simplified, once for all ops that share it."""
        found = self.regions.get(block)
        if found is None:
            found = self.regions[block] = self.block(block)
        return found

    def block(self, block: Block) -> Block:
        """``block`` simplified; the same object if no rule fired in it."""
        before = self.hits.total()
        rewriter = Rewriter(self)
        mapping: dict[Value, Value] = {}
        for op in block.body:
            operands = renamed(op.operands, mapping) if mapping else op.operands
            regions = tuple([self._region(region) for region in op.regions]) if op.regions else ()
            if operands != op.operands or regions != op.regions:
                op = op.on(operands, regions)
            results = rewriter.add(op)
            if results is not op.results:
                mapping.update(zip(op.results, results, strict=True))
        if self.hits.total() == before:
            return block
        end = replace(block.terminator, operands=renamed(block.outputs, mapping))
        return Block(block.parameters, (*rewriter.builder.ops, end))


@dataclass
class Rewriter:
    """Builds one simplified block. View rules get it to look ops up and to emit new ones."""

    simplifier: _Simplifier
    builder: Builder = field(default_factory=Builder)
    defining: dict[Value, Op] = field(default_factory=dict)
    depth: int = 0
    # Slices that were emitted: what several users of a value read of it is made once.
    slices: dict[tuple[Any, ...], Value] = field(default_factory=dict)

    def add(self, op: Op) -> Sequence[Value]:
        """Adds ``op`` or what it simplifies to; returns the values that stand for its results."""
        if len(op.results) == 1 and self.depth < _MAX_DEPTH:
            b = self.builder
            saved = b.span, b.scope, b.replica
            b.span, b.scope, b.replica = op.span, op.scope, op.replica
            found = self._rewritten(op)
            b.span, b.scope, b.replica = saved
            if found is not None:
                return (found,)
        self.builder.ops.append(op)
        for value in op.results:
            self.defining[value] = op
        return op.results

    def emit(self, name: str, *operands: Value, hint: str = "", **attributes: Any) -> Value:
        """Emits a new op, simplified in turn."""
        scratch = Builder()
        b = self.builder
        with scratch.at(b.span, b.scope, b.replica):
            scratch.emit(name, *operands, hint=hint, **attributes)
        self.depth += 1
        (value,) = self.add(scratch.ops[0])
        self.depth -= 1
        return value

    def sliced(
        self, value: Value, start: Sequence[Dim], limit: Sequence[Dim], stride: Sequence[int]
    ) -> Value:
        """A slice, simplified in turn; the same slice of the same value is emitted once."""
        key = (value, tuple(start), tuple(limit), tuple(stride), self.builder.replica)
        found = self.slices.get(key)
        if found is None:
            found = self.emit(
                "slice", value, start=tuple(start), limit=tuple(limit), stride=tuple(stride)
            )
            self.slices[key] = found
        return found

    def made_by(self, value: Value, name: str) -> Op | None:
        """The op called ``name`` that computes ``value``, if rules may look through it."""
        op = self.maker(value)
        return op if op is not None and op.name == name else None

    def maker(self, value: Value) -> Op | None:
        """The op that computes ``value``, if rules may look through it."""
        op = self.defining.get(value)
        if op is None:
            return None
        # Constants cost nothing, so it does not matter which sweep they stand in.
        is_same_sweep = op.replica == self.builder.replica or number_of(op) is not None
        return op if is_same_sweep else None

    def splat(self, value: Value) -> float | int | bool | None:
        """The number that every element of ``value`` equals, if it is a constant."""
        op = self.defining.get(value)
        return None if op is None else number_of(op)

    def _rewritten(self, op: Op) -> Value | None:
        forms = tuple([self._form(v) for v in op.operands])
        found = None
        if forms.count(True) == len(forms) > 0:
            found = self._folded(op)
        if found is None:
            found = self._by_rule(op, forms)
        if found is None:
            found = self._by_view(op)
        if found is None and len(forms) == 2 and forms[0] is True and forms[1] is not True:
            found = self._ordered(op)
        return found

    def _form(self, value: Value) -> str | bool | None:
        op = self.defining.get(value)
        if op is None:
            return None
        if number_of(op) is not None:
            return True
        return op.name if op.replica == self.builder.replica else None

    def _folded(self, op: Op) -> Value | None:
        known = [s for s in map(self.splat, op.operands) if s is not None]
        value = folded(op, known)
        if value is None:
            return None
        self.simplifier.hits["fold constants"] += 1
        type_ = op.result.type
        return self.emit("constant", value=value, dtype=type_.dtype, shape=type_.shape)

    def _by_rule(self, op: Op, forms: Forms) -> Value | None:
        for rule in self.simplifier.fitting(op, forms):
            bound: dict[str, Value] = {}
            if self._match(rule.left, op, bound):
                self.simplifier.hits[rule.text] += 1
                return self._build(rule.right, op, bound)
        return None

    def _match(self, pattern: Apply, op: Op, bound: dict[str, Value]) -> bool:
        """Whether ``op`` has the form of ``pattern``; binds its variables. Depth is that of the
        pattern.
        """
        for part, operand in zip(pattern.operands, op.operands, strict=True):
            if isinstance(part, Variable):
                if bound.setdefault(part.name, operand) is not operand:
                    return False
                if part.is_constant and not _is_constant(self.splat(operand), part):
                    return False
            elif isinstance(part, Number):
                if not _is_number(self.splat(operand), part):
                    return False
            else:
                inner = self.made_by(operand, part.op)
                if inner is None or not self._match(part, inner, bound):
                    return False
        return True

    def _build(self, pattern: Pattern, root: Op, bound: dict[str, Value]) -> Value:
        if isinstance(pattern, Variable):
            return bound[pattern.name]
        if isinstance(pattern, Number):
            type_ = root.result.type
            value = pattern.value if type_.dtype.is_float else int(pattern.value)
            return self.emit("constant", value=value, dtype=type_.dtype, shape=type_.shape)
        operands = [self._build(part, root, bound) for part in pattern.operands]
        return self.emit(pattern.op, *operands)

    def _by_view(self, op: Op) -> Value | None:
        for name, rule in view_rules(op.name):
            found = rule(self, op)
            if found is not None:
                self.simplifier.hits[name] += 1
                return found
        return None

    def _ordered(self, op: Op) -> Value | None:
        """Constants stand to the right in commutative ops."""
        if not lookup(op.name).commutative:
            return None
        left, right = op.operands
        self.simplifier.hits["constants to the right"] += 1
        return self.emit(op.name, right, left, hint=op.result.hint, **op.attributes)


ViewRule: TypeAlias = Callable[[Rewriter, Op], Value | None]


def _fits(rule: Rule, op: Op) -> bool:
    dtype = op.operands[0].type.dtype
    if rule.kind == "floats":
        return dtype.is_float
    return rule.kind == "any" or (not dtype.is_float and dtype.itemsize > 1)


def _is_constant(splat: float | bool | None, variable: Variable) -> bool:
    return splat is not None and variable.accepts(splat)


def _is_number(splat: float | bool | None, number: Number) -> bool:
    """Whether a constant is the number of a pattern; ``0`` is any zero, ``0.0`` and ``-0.0`` one
    each.
    """
    if splat is None or isinstance(splat, bool) or splat != number.value:
        return False
    if number.value == 0 and "." in number.text:
        return str(float(splat)) == str(number.value)
    return True
