"""Seeded faults in programs and kernels: the ways in which compilers go wrong after
differentiation.

A mutator changes one op or one statement; what comes out is still well formed, as a fault of a
compiler is. Whether the meaning changed is decided by the caller, in numbers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations, permutations, product
from typing import Any

from gradc.ir.loop.kernel import Affine, Const, For, Gemm, Kernel, Let, Load, Stmt, Store
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.registry import TypeRuleError
from gradc.ir.tensor.core import Block, Function, Op, Value


class Known(list[Value]):
    """The values known before an op, and the ops that made them."""

    def __init__(self, parameters: Sequence[Value] = (), ops: Sequence[Op] = ()) -> None:
        super().__init__(parameters)
        self.extend(v for op in ops for v in op.results)
        self.makers = {v: op for op in ops for v in op.results}


# One op, the values known before it, a source of chance -> the ops that take its place.
OpFault = Callable[[Op, Sequence[Value], random.Random], list[Op] | None]
StmtFault = Callable[[Stmt, random.Random], Stmt | None]


def _same_type(
    op: Op, *operands: Value, name: str | None = None, **changed: Any
) -> list[Op] | None:
    """``op`` with other operands, name or attributes, if it still has the same type."""
    b = Builder()
    attributes = {**op.attributes, **changed}
    try:
        results = b.apply(name or op.name, operands or op.operands, attributes)
    except (TypeRuleError, ValueError, IndexError, KeyError):
        return None
    if [v.type for v in results] != [v.type for v in op.results]:
        return None
    return [replace(b.ops[-1], results=op.results)]


def _identity(value: Value, result: Value) -> list[Op]:
    return [Op("stop_gradient", (value,), (result,))]


def drop(op: Op, _known: Sequence[Value], rng: random.Random) -> list[Op] | None:
    """The op is left out: its result is an operand."""
    if op.name == "add":
        return None
    same = [v for v in op.operands if len(op.results) == 1 and v.type == op.result.type]
    return _identity(rng.choice(same), op.result) if same and not op.regions else None


def lost_sum(op: Op, _known: Sequence[Value], rng: random.Random) -> list[Op] | None:
    """A lost accumulation: one summand stands for the sum."""
    return _identity(rng.choice(op.operands), op.result) if op.name == "add" else None


def bracket(op: Op, known: Sequence[Value], _rng: random.Random) -> list[Op] | None:
    """A dropped bracket: (a + b) * c becomes a + b * c."""
    if op.name not in ("mul", "div") or not isinstance(known, Known):
        return None
    maker = known.makers.get(op.operands[0])
    if maker is None or maker.name not in ("add", "sub"):
        return None
    a, b = maker.operands
    part = Value(op.result.type)
    return [
        replace(op, operands=(b, op.operands[1]), results=(part,)),
        Op(maker.name, (a, part), op.results),
    ]


def scale(op: Op, _known: Sequence[Value], _rng: random.Random) -> list[Op] | None:
    """The result is 1 + 2^-12 times what it should be."""
    if len(op.results) != 1 or not op.result.type.dtype.is_float or op.regions:
        return None
    wrong = Value(op.result.type)
    b = Builder()
    factor = b.constant(1 + 2.0**-12, wrong.type.dtype, wrong.type.shape)
    return [replace(op, results=(wrong,)), *b.ops, Op("mul", (wrong, factor), op.results)]


def negate(op: Op, _known: Sequence[Value], _rng: random.Random) -> list[Op] | None:
    """A sign is lost."""
    if op.name == "neg":
        return _identity(op.operands[0], op.result)
    return _same_type(op, name="add") if op.name == "sub" else None


def swap(op: Op, _known: Sequence[Value], _rng: random.Random) -> list[Op] | None:
    """Two operands are exchanged."""
    if op.name in ("sub", "div", "pow", "lt", "gt", "ge", "le"):
        return _same_type(op, op.operands[1], op.operands[0])
    if op.name == "select":
        return _same_type(op, op.operands[0], op.operands[2], op.operands[1])
    if op.name == "contract":
        return _same_type(op, op.operands[1], op.operands[0])
    return None


def stale(op: Op, known: Sequence[Value], rng: random.Random) -> list[Op] | None:
    """An operand is another value of the same type: a stale residual, a wrong recomputation."""
    if op.regions or not op.operands:
        return None
    place = rng.randrange(len(op.operands))
    others = [v for v in known if v.type == op.operands[place].type and v != op.operands[place]]
    if not others:
        return None
    operands = list(op.operands)
    operands[place] = rng.choice(others)
    return [replace(op, operands=tuple(operands))]


def axis(op: Op, _known: Sequence[Value], rng: random.Random) -> list[Op] | None:
    """A wrong axis of a reduction, a running sum or a broadcast, where sizes allow it."""
    attributes = op.attributes
    rank = op.operands[0].type.rank if op.operands else 0
    if op.name in ("sum", "reduce_max", "reduce_min", "reverse", "prod"):
        right = _tuple(attributes["axes"])
        return _other(op, rng, "axes", right, list(combinations(range(rank), len(right))))
    if op.name == "cumsum":
        return _other(op, rng, "axis", attributes["axis"], list(range(rank)))
    if op.name == "broadcast":
        dims = _tuple(attributes["dims"])
        places = combinations(range(op.result.type.rank), len(dims))
        return _other(op, rng, "dims", dims, list(places))
    return None


def transpose(op: Op, _known: Sequence[Value], rng: random.Random) -> list[Op] | None:
    """A wrong transpose: of a value, or of a factor of a product, where sizes allow it."""
    attributes = op.attributes
    if op.name == "transpose":
        perm = _tuple(attributes["perm"])
        return _other(op, rng, "perm", perm, list(permutations(range(len(perm)))))
    if op.name == "contract":
        pairs = _tuple(attributes["contract"])
        ranks = [v.type.rank for v in op.operands]
        wrong = [
            (*pairs[:n], pair, *pairs[n + 1 :])
            for n in range(len(pairs))
            for pair in product(range(ranks[0]), range(ranks[1]))
        ]
        return _other(op, rng, "contract", pairs, wrong)
    return None


def _other(
    op: Op, rng: random.Random, name: str, right: Any, choices: list[Any]
) -> list[Op] | None:
    """``op`` with attribute ``name`` another of ``choices``, the first of a random order that has
    the same type.
    """
    rng.shuffle(choices)
    for choice in choices:
        found = None if choice == right else _same_type(op, **{name: choice})
        if found is not None:
            return found
    return None


def _tuple(item: Any) -> tuple[Any, ...]:
    assert isinstance(item, tuple)
    return item


def shift(op: Op, _known: Sequence[Value], rng: random.Random) -> list[Op] | None:
    """Off by one: a slice or a padding moves."""
    by = rng.choice([-1, 1])
    if op.name == "slice" and op.result.type.rank:
        place = rng.randrange(len(_tuple(op.attributes["start"])))
        moved: dict[str, Any] = {
            key: tuple(
                n + by if i == place else n for i, n in enumerate(_tuple(op.attributes[key]))
            )
            for key in ("start", "limit")
        }
        return _same_type(op, **moved)
    if op.name == "pad":
        low, high = _tuple(op.attributes["low"]), _tuple(op.attributes["high"])
        return _same_type(op, low=high, high=low) if low != high else None
    return None


def missing_sum(op: Op, _known: Sequence[Value], _rng: random.Random) -> list[Op] | None:
    """A sum over a broadcast axis is left out: its first slice stands for it."""
    if op.name != "sum" or not _tuple(op.attributes["axes"]):
        return None
    x = op.operands[0]
    shape = x.type.static_shape
    axes = _tuple(op.attributes["axes"])
    if any(shape[a] == 0 for a in axes):
        return None
    b = Builder()
    limit = tuple(1 if i in axes else n for i, n in enumerate(shape))
    first = b.one("slice", x, start=(0,) * len(shape), limit=limit, stride=(1,) * len(shape))
    b.one("reshape", first, shape=op.result.type.shape)
    return [*b.ops[:-1], replace(b.ops[-1], results=op.results)]


def no_eps(op: Op, _known: Sequence[Value], _rng: random.Random) -> list[Op] | None:
    """A small constant is ignored."""
    if op.name != "constant" or not op.result.type.dtype.is_float:
        return None
    return _same_type(op, value=0.0) if 0 < float(str(op.attributes["value"])) <= 0.01 else None


def constant(op: Op, _known: Sequence[Value], rng: random.Random) -> list[Op] | None:
    """A constant is ignored, or wrong by a factor, a sign or a summand."""
    if op.name != "constant" or not op.result.type.dtype.is_float:
        return None
    value = float(str(op.attributes["value"]))
    wrong = rng.choice([0.0, value * 2, -value, value + 1])
    return _same_type(op, value=wrong) if wrong != value else None


_OTHERS = {
    "add": ("mul", "sub"), "mul": ("add", "div"), "sub": ("add",), "div": ("mul",), "max": ("min",),
    "min": ("max",), "exp": ("expm1",), "log": ("log1p",), "tanh": ("sin",), "sin": ("cos",),
    "cos": ("sin",), "rsqrt": ("sqrt",), "sqrt": ("rsqrt",), "gate": ("add",), "gt": ("lt",),
    "lt": ("gt",), "ge": ("lt",), "le": ("gt",), "relu": ("abs",), "sigmoid": ("tanh",),
    "reduce_max": ("reduce_min", "sum"), "sum": ("reduce_max",), "logical_not": (),
}  # fmt: skip


def verb(op: Op, _known: Sequence[Value], rng: random.Random) -> list[Op] | None:
    """Another op of the same type."""
    names = _OTHERS.get(op.name, ())
    return _same_type(op, name=rng.choice(names)) if names else None


OP_FAULTS: dict[str, OpFault] = {
    f.__name__: f
    for f in (
        drop,
        lost_sum,
        bracket,
        scale,
        negate,
        swap,
        stale,
        axis,
        transpose,
        shift,
        missing_sum,
        no_eps,
        constant,
        verb,
    )
}


def op_mutants(
    function: Function, fault: OpFault, seed: int, first: int = 0, is_shuffled: bool = False
) -> Iterator[Function]:
    """``function`` with ``fault`` at each op where it applies, from op number ``first`` on, regions
    included.
    """
    numbers = list(range(first, _count(function.block)))
    if is_shuffled:
        random.Random(seed).shuffle(numbers)
    for number in numbers:
        rng = random.Random(seed * 100_003 + number)
        block, changed, _ = _mutated(function.block, number, fault, rng)
        if changed:
            yield replace(function, block=block)


def _count(block: Block) -> int:
    return sum(1 + sum(_count(r) for r in op.regions[:1]) for op in block.body)


def _mutated(
    block: Block, target: int, fault: OpFault, rng: random.Random
) -> tuple[Block, bool, int]:
    """``block`` with op number ``target`` replaced; whether it was; how many ops were passed (what
    lies behind the target may be left out).
    """
    body, at = block.body, 0
    for place, op in enumerate(body):
        new: list[Op] | None = None
        if at == target:
            made = fault(op, Known(block.parameters, body[:place]), rng)
            if made is not None:
                new = [replace(o, span=op.span, scope=op.scope) for o in made]
        at += 1
        if new is None and op.regions:
            inner, changed, passed = _mutated(op.regions[0], target - at, fault, rng)
            at += passed
            new = [replace(op, regions=(inner, *op.regions[1:]))] if changed else None
        if new is not None:
            ops = (*body[:place], *new, *body[place + 1 :], block.terminator)
            return Block(block.parameters, ops), True, at
        if at > target:
            break
    return block, False, at


# --- kernels


def _let(s: Stmt, rng: random.Random) -> Stmt | None:
    """Another verb, or operands exchanged."""
    if not isinstance(s, Let):
        return None
    if s.verb in ("sub", "div") and rng.random() < 0.5:
        return replace(s, operands=(s.operands[1], s.operands[0]))
    names = [n for n in _OTHERS.get(s.verb, ()) if not n.startswith("reduce")]
    return replace(s, verb=rng.choice(names)) if names else None


def _const(s: Stmt, _rng: random.Random) -> Stmt | None:
    """A wrong constant in an expression."""
    if not isinstance(s, Let):
        return None
    for n, x in enumerate(s.operands):
        if isinstance(x, Const) and x.dtype.is_float:
            wrong = replace(x, value=float(x.value) * (1 + 2.0**-12) + 2.0**-20)
            return replace(s, operands=(*s.operands[:n], wrong, *s.operands[n + 1 :]))
    return None


def _address(s: Stmt, rng: random.Random) -> Stmt | None:
    """An address that is off by one, or that forgets an index."""
    if not isinstance(s, (Load, Store)):
        return None
    if s.offset.terms and rng.random() < 0.5:
        terms = list(s.offset.terms)
        terms.pop(rng.randrange(len(terms)))
        return replace(s, offset=Affine(s.offset.constant, tuple(terms)))
    return replace(s, offset=s.offset + rng.choice([-1, 1]))


def _combine(s: Stmt, _rng: random.Random) -> Stmt | None:
    """A fold or an accumulation with another operation, or overwritten."""
    if isinstance(s, Store) and s.combine:
        return replace(s, combine="")
    if isinstance(s, For) and s.folds:
        fold = s.folds[0]
        other: Any = {"add": "max", "max": "min", "min": "max", "mul": "add"}[fold.combine]
        changed: Any = replace(fold, combine=other)
        return replace(s, folds=(changed, *s.folds[1:]))
    return None


def _extent(s: Stmt, _rng: random.Random) -> Stmt | None:
    """A loop that ends one iteration early."""
    if isinstance(s, Gemm):
        return replace(s, k=s.k - 1) if s.k > 1 else None
    return replace(s, extent=s.extent - 1) if isinstance(s, For) and s.extent > 1 else None


def _stride(s: Stmt, _rng: random.Random) -> Stmt | None:
    """A matrix read the wrong way round."""
    if not isinstance(s, Gemm):
        return None
    left = s.left
    return replace(s, left=replace(left, row=left.column, column=left.row))


KERNEL_FAULTS: dict[str, StmtFault] = {
    "kernel verb": _let,
    "kernel constant": _const,
    "kernel address": _address,
    "kernel fold": _combine,
    "kernel extent": _extent,
    "kernel stride": _stride,
}


def kernel_mutants(
    kernel: Kernel, fault: StmtFault, seed: int, is_shuffled: bool = False
) -> Iterator[Kernel]:
    """``kernel`` with ``fault`` at each statement where it applies."""
    numbers = list(range(_statements(kernel.body)))
    if is_shuffled:
        random.Random(seed).shuffle(numbers)
    for number in numbers:
        rng = random.Random(seed * 100_003 + number)
        body, changed, _ = _edited(kernel.body, number, fault, rng)
        if changed:
            yield replace(kernel, body=body)


def _inside(s: Stmt) -> tuple[Stmt, ...]:
    return s.body if isinstance(s, For) else s.epilogue if isinstance(s, Gemm) else ()


def _statements(body: Sequence[Stmt]) -> int:
    return sum(1 + _statements(_inside(s)) for s in body)


def _edited(
    body: Sequence[Stmt], target: int, fault: StmtFault, rng: random.Random
) -> tuple[tuple[Stmt, ...], bool, int]:
    found: list[Stmt] = []
    at, changed = 0, False
    for s in body:
        if at == target and not changed:
            new = fault(s, rng)
            if new is not None:
                s, changed = new, True
        at += 1
        inside = _inside(s)
        if inside:
            inner, inner_changed, passed = _edited(inside, target - at, fault, rng)
            at += passed
            if inner_changed and not changed:
                changed = True
                if isinstance(s, For):
                    s = replace(s, body=inner)
                elif isinstance(s, Gemm):
                    s = replace(s, epilogue=inner)
        found.append(s)
    return tuple(found), changed, at
