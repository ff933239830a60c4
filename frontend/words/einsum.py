"""``einsum``: sums of products over named axes.

Operands are contracted from left to right. Before each contraction, axes that only one operand has
and that the result does not need are summed away; a label repeated within one operand takes its
diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradc.frontend.elaborate.arithmetic import contract
from gradc.frontend.elaborate.context import Context
from gradc.frontend.elaborate.shapes import origin, retype
from gradc.frontend.elaborate.signatures import REQUIRED, Formal
from gradc.frontend.elaborate.values import POISON, Item, Poison, describe, show_type
from gradc.frontend.elaborate.words import WORDS, Arguments, Word
from gradc.frontend.syntax import tree
from gradc.ir.tensor.core import DType, Value
from gradc.ir.tensor.dims import Dim

MAX_OPERANDS = 8
# Axes that `...` stands for have private labels, by their distance from the end.
_DOTS = 0x3B1 + 20


def _shown(label: str) -> str:
    """A label as the user knows it."""
    return f"axis `{label}`" if label.isascii() else f"axis -{_DOTS - ord(label)} of `...`"


@dataclass
class _Term:
    """An operand on its way: its value and the label of each axis."""

    value: Value
    labels: str


def _einsum(ctx: Context, call: tree.Call, given: Arguments) -> Item:
    spec = given["spec"].item
    if not isinstance(spec, str):
        message = f'`einsum` begins with a text such as "ij,jk->ik", not {describe(spec)}'
        return ctx.error("GC0314", message, given["spec"].node)
    values: list[Value] = []
    nodes: list[tree.Node] = []
    for argument in list(given.values())[1:]:
        if not argument.is_given:
            continue
        if not isinstance(argument.item, Value):
            message = f"`einsum` takes arrays, not {describe(argument.item)}"
            return ctx.error("GC0308", message, argument.node)
        values.append(argument.item)
        nodes.append(argument.node)
    parsed = _parse(ctx, given["spec"].node, spec, values)
    if parsed is None or not _squeeze(ctx, call, parsed[0], values):
        return POISON
    if not _agree(ctx, call, spec, parsed[0], values, nodes):
        return POISON
    terms = [_Term(v, labels) for v, labels in zip(values, parsed[0], strict=True)]
    return _contract_all(ctx, call, terms, parsed[1])


def _parse(
    ctx: Context, node: tree.Node, spec: str, values: Sequence[Value]
) -> tuple[list[str], str] | None:
    """The labels of the operands and of the result, with ``...`` written out."""
    text = spec.replace(" ", "")
    left, arrow, right = text.partition("->")
    inputs = left.split(",")
    problem = ""
    if not arrow:
        problem = "it has no `->`"
    elif len(inputs) != len(values):
        problem = f"it names {len(inputs)} operands, and {len(values)} are given"
    expanded: list[str] = []
    rest = ""
    for labels, value in zip(inputs, values, strict=False):
        head, dots, tail = labels.partition("...")
        free = value.type.rank - len(head) - len(tail)
        if free < 0 or (free and not dots):
            count = len(head) + len(tail)
            problem = problem or (
                f"`{labels}` names {count} axes, and the operand is `{show_type(value)}`"
            )
            continue
        # Private labels for the axes that the dots stand for, aligned at the end.
        middle = "".join(chr(_DOTS - i) for i in range(free, 0, -1))
        rest = middle if len(middle) > len(rest) else rest
        expanded.append(head + middle + tail)
    output = right.replace("...", rest)
    letters = "".join(inputs).replace("...", "") + right.replace("...", "")
    if not problem and not (letters.isascii() and (letters.isalpha() or not letters)):
        problem = "axes are named by letters"
    for label in output:
        if not problem and output.count(label) > 1:
            problem = f"the result names {_shown(label)} twice"
        if not problem and not any(label in labels for labels in expanded):
            problem = f"{_shown(label)} of the result is in no operand"
    if problem:
        message = f'"{spec}" does not describe this `einsum`: {problem}'
        ctx.error("GC0314", message, node, help='as in `einsum("bqd,bkd->bqk", q, k)`')
        return None
    return expanded, output


def _squeeze(ctx: Context, call: tree.Call, labels: list[str], values: list[Value]) -> bool:
    """Drops axes of size 1 under `...` that another operand has longer: they stretch, as in
    NumPy.
    """
    longer = {
        label
        for names, value in zip(labels, values, strict=True)
        for label, size in zip(names, value.type.shape, strict=True)
        if size != 1
    }
    for number, (names, value) in enumerate(zip(labels, values, strict=True)):
        pairs = list(zip(names, value.type.shape, strict=True))
        is_gone = [n == 1 and not c.isascii() and c in longer for c, n in pairs]
        if any(is_gone):
            labels[number] = "".join(
                c for (c, _), gone in zip(pairs, is_gone, strict=True) if not gone
            )
            shape = tuple(n for (_, n), gone in zip(pairs, is_gone, strict=True) if not gone)
            squeezed = ctx.op(call, "reshape", value, shape=shape)
            if isinstance(squeezed, Poison):
                return False
            values[number] = squeezed
    return True


def _agree(
    ctx: Context,
    call: tree.Call,
    spec: str,
    labels: Sequence[str],
    values: list[Value],
    nodes: Sequence[tree.Node],
) -> bool:
    """Whether equal labels have equal sizes and all operands one floating type."""
    sizes: dict[str, tuple[Dim, int]] = {}
    for number, (names, value) in enumerate(zip(labels, values, strict=True)):
        if value.type.dtype is not values[0].type.dtype or not value.type.dtype.is_float:
            message = f"`einsum` takes one floating type, and this is `{show_type(value)}`"
            ctx.error("GC0303", message, nodes[number], help="convert it: `cast(x, float)`")
            return False
        for label, size in zip(names, value.type.shape, strict=True):
            first, other = sizes.setdefault(label, (size, number))
            if not ctx.same(first, size):
                ctx.error(
                    "GC0302",
                    f'{_shown(label)} of "{spec}" has sizes `{first}` and `{size}`',
                    call,
                    labels=[origin(ctx, nodes[i], values[i]) for i in sorted({other, number})],
                )
                return False
        wanted = tuple(sizes[label][0] for label in names)
        if wanted != value.type.shape:
            values[number] = retype(ctx, value, wanted, call)
    return True


def _contract_all(ctx: Context, call: tree.Call, terms: list[_Term], output: str) -> Value | Poison:
    for position, term in enumerate(terms):
        later = output + "".join(t.labels for i, t in enumerate(terms) if i != position)
        if not _diagonal(ctx, call, term) or not _sum_away(ctx, call, term, later):
            return POISON
    first = terms[0]
    for position, second in enumerate(terms[1:], 1):
        needed = output + "".join(t.labels for t in terms[position + 1 :])
        joined = _pair(ctx, call, first, second, needed)
        if joined is None:
            return POISON
        first = joined
    if not _sum_away(ctx, call, first, output):
        return POISON
    perm = tuple(first.labels.index(label) for label in output)
    if perm == tuple(range(len(perm))):
        return first.value
    return ctx.op(call, "transpose", first.value, perm=perm)


def _pair(ctx: Context, call: tree.Call, a: _Term, b: _Term, needed: str) -> _Term | None:
    shared = [label for label in a.labels if label in b.labels]
    batch = [label for label in shared if label in needed]
    summed = [label for label in shared if label not in needed]
    value = contract(
        ctx,
        call,
        a.value,
        b.value,
        [(a.labels.index(n), b.labels.index(n)) for n in batch],
        [(a.labels.index(n), b.labels.index(n)) for n in summed],
    )
    if isinstance(value, Poison):
        return None
    free = [label for label in (*a.labels, *b.labels) if label not in shared]
    return _Term(value, "".join([*batch, *free]))


def _sum_away(ctx: Context, call: tree.Call, term: _Term, needed: str) -> bool:
    """Sums over the axes whose labels nothing else needs."""
    axes = tuple(i for i, label in enumerate(term.labels) if label not in needed)
    if axes:
        value = ctx.op(call, "sum", term.value, axes=axes)
        if isinstance(value, Poison):
            return False
        term.value = value
        term.labels = "".join(label for label in term.labels if label in needed)
    return True


def _diagonal(ctx: Context, call: tree.Call, term: _Term) -> bool:
    """Keeps the diagonal of axes of one label: everything else becomes zero and is summed away."""
    while len(set(term.labels)) < len(term.labels):
        label = next(n for n in term.labels if term.labels.count(n) > 1)
        first = term.labels.index(label)
        second = term.labels.index(label, first + 1)
        shape = term.value.type.shape
        rows, columns = (
            ctx.op(call, "iota", axis=axis, dtype=DType.I32, shape=shape)
            for axis in (first, second)
        )
        if isinstance(rows, Poison) or isinstance(columns, Poison):
            return False
        mask = ctx.op(call, "eq", rows, columns)
        zero = ctx.constant(call, 0.0, term.value.type.dtype, shape)
        if isinstance(mask, Poison):
            return False
        kept = ctx.op(call, "select", mask, term.value, zero)
        if isinstance(kept, Poison):
            return False
        value = ctx.op(call, "sum", kept, axes=(second,))
        if isinstance(value, Poison):
            return False
        term.value = value
        term.labels = term.labels[:second] + term.labels[second + 1 :]
    return True


_FORMALS = (
    Formal("spec", REQUIRED),
    Formal("a", REQUIRED),
    *(Formal(chr(ord("b") + i), False) for i in range(MAX_OPERANDS - 1)),
)
WORDS["einsum"] = Word("einsum", _FORMALS, _einsum)
