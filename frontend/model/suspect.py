"""Warnings about programs that are valid and train badly: what a look at the graph alone can tell.

| code | pattern |
|---|---|
| GC0218 | the logits of a cross entropy are a softmax already |
| GC0219 | the logits of a binary cross entropy are a sigmoid already |
| GC0220 | the logarithm of a softmax over the samples |
| GC0221 | two products with nothing but affine ops between, that one could do |
| GC0222 | a difference or product whose sides both stretch to the square of one dimension |
| GC0223 | a value minus its mean over one number |
| GC0224 | an optimiser that divides by a root which a gradient of zero makes zero |

Each is told only where it has no other use: low-rank factors, outer differences that are written as
such (`x[:, None] - x`), a softmax over the batch against the batch, pooling by attention are not.

Non-goals: what only data or training shows (``runtime.reports``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gradc.frontend.elaborate.context import LIBRARY, SAMPLE_SIZE
from gradc.frontend.model.graph import Graph, axes_of, blocks, is_form
from gradc.ir.diagnostics.diagnostic import Diagnostic, warning
from gradc.ir.tensor.core import Function, Op, Role, Span, Value
from gradc.ir.tensor.dims import Dim, DimExpr, substitute, symbols

_ADDED = ("add", "sub", "max")


def suspicions(function: Function, sizes: Mapping[str, Dim]) -> Iterator[Diagnostic]:
    """What is suspicious in ``function``, whose dimensions may be symbols.

    Args:
        sizes: what the dimensions count as where a comparison needs numbers.
    """
    sample = _sample_symbol(function)
    for block in blocks(function.block):
        graph = Graph(block)
        for op in block.body:
            found = (
                _twice(graph, op)
                or _over_samples(graph, op, sample)
                or _outer(graph, op)
                or _over_one(graph, op)
            )
            if found is not None:
                yield found
    yield from _affine(function, sizes)


def _sample_symbol(function: Function) -> str | None:
    """The dimension that counts samples: the first of an input, if all agree."""
    leading: set[str] = set()
    for slot, value in zip(function.parameters, function.block.parameters, strict=True):
        if slot.role is Role.INPUT and value.type.shape:
            first = value.type.shape[0]
            leading.update(symbols(first) if isinstance(first, DimExpr) else ())
    return leading.pop() if len(leading) == 1 else None


def own_line(span: Span | None) -> Span | None:
    """The place in the user's files: that of an op, or where the library was called."""
    while span is not None and span.caller is not None and span.file.startswith(LIBRARY):
        span = span.caller
    return span


def _told(code: str, message: str, op: Op, help: str) -> Diagnostic | None:
    span = own_line(op.span)
    return None if span is None else warning(code, message, span, help=help)


# --- losses


def _twice(graph: Graph, op: Op) -> Diagnostic | None:
    """GC0218 and GC0219: probabilities where logits belong."""
    found = graph.log_softmax_of(op)
    if found is not None:
        maker = graph.makers.get(found[0])
        if maker is not None and graph.softmax_axes(maker) is not None:
            message = "the logits of this loss are a softmax already, so it is applied twice"
            help = "hand in what the softmax was taken of: the loss takes logits"
            return _told("GC0218", message, op, help)
    if op.name == "softplus":
        inner = graph.maker(op.operands[0])
        if inner is not None and inner.name == "neg":
            logits = graph.bare(inner.operands[0])
            maker = graph.makers.get(logits)
            both = any(
                other.name == "softplus" and graph.bare(other.operands[0]) == logits
                for other in graph.block.body
            )
            if maker is not None and maker.name == "sigmoid" and both:
                message = "the logits of this loss are a sigmoid already, so it is applied twice"
                help = "hand in what the sigmoid was taken of, or use binary_cross_entropy"
                return _told("GC0219", message, op, help)
    return None


def _over_samples(graph: Graph, op: Op, sample: str | None) -> Diagnostic | None:
    """GC0220: probabilities that sum to one over the samples, in a logarithm."""
    if sample is None or op.name != "log":
        return None
    inner = graph.maker(op.operands[0])
    while inner is not None and inner.name in _ADDED and graph.is_constant(inner.operands[1]):
        inner = graph.maker(inner.operands[0])
    found = None if inner is None else graph.softmax_axes(inner)
    if inner is None or found is None:
        return None
    shape = inner.results[0].type.shape
    summed = [shape[axis] for axis in found[1]]
    kept = [size for axis, size in enumerate(shape) if axis not in found[1]]
    is_sample = len(summed) == 1 and _is_symbol(summed[0], sample)
    if not is_sample or not kept or any(sample in symbols(size) for size in kept):
        return None
    message = f"these probabilities sum to 1 over `{sample}`, the samples, not over the classes"
    help = "take the softmax along the last axis: softmax(x, axis = -1)"
    return _told("GC0220", message, inner, help)


def _is_symbol(size: Dim, name: str) -> bool:
    return isinstance(size, DimExpr) and symbols(size) == (name,)


def _outer(graph: Graph, op: Op) -> Diagnostic | None:
    """GC0222: [B, 1] against [B]."""
    if op.name not in ("sub", "mul") or len(op.results[0].type.shape) < 2:
        return None
    shape = op.results[0].type.shape
    sides = [graph.makers.get(value) for value in op.operands]
    if any(side is None or side.name != "broadcast" for side in sides):
        return None
    first, second = (side.operands[0] for side in sides if side is not None)
    tall, flat = (first, second) if first.type.rank > second.type.rank else (second, first)
    if tall.type.rank != flat.type.rank + 1 or tall.type.rank != len(shape):
        return None
    is_square = shape[-1] == shape[-2] and isinstance(shape[-1], DimExpr)
    is_column = tall.type.shape[-1] == 1 and tall.type.shape[-2] == shape[-2]
    maker = graph.makers.get(tall)
    if not (is_square and is_column) or flat.type.shape[-1] != shape[-1]:
        return None
    if maker is not None and is_form(maker):
        return None  # written as a column on purpose
    one, whole = f"[{shape[-2]}, 1]", f"[{shape[-2]}, {shape[-1]}]"
    message = f"{one} against [{shape[-1]}] gives {whole}: every pair, not every element"
    help = "give both sides one shape: `squeeze(a, -1)`, or `b[:, None]`"
    return _told("GC0222", message, op, help)


def _over_one(graph: Graph, op: Op) -> Diagnostic | None:
    """GC0223: what is normalised is one number, so nothing is left of it."""
    if op.name != "sub":
        return None
    mean = graph.maker(op.operands[1])
    if mean is None or mean.name != "div" or not graph.is_constant(mean.operands[1]):
        return None
    total = graph.maker(mean.operands[0])
    if total is None or total.name != "sum":
        return None
    if graph.bare(total.operands[0]) != graph.bare(op.operands[0]):
        return None
    shape = total.operands[0].type.shape
    if not shape or any(shape[axis] != 1 for axis in axes_of(total)):
        return None
    message = "a value minus its mean over one number is zero, whatever the value"
    help = "normalise over an axis of more than one, or with more samples in a batch"
    return _told("GC0223", message, op, help)


# --- products


def _affine(function: Function, sizes: Mapping[str, Dim]) -> Iterator[Diagnostic]:
    """GC0221: products of weights with nothing between that one product could not do."""
    graph = Graph(function.block)
    pairs = list(zip(function.parameters, function.block.parameters, strict=True))
    data = graph.below({v for s, v in pairs if s.role is Role.INPUT})
    weights = {v for s, v in pairs if s.role is Role.PARAM}
    for op in function.block.body:
        first = _weighed(graph, op, data, weights)
        if first is None:
            continue
        second = _next_product(graph, op.results[0], data, weights)
        if second is None:
            continue
        inner = _sizes(second, second.operands[0].type.shape, 0, sizes)
        into = _sizes(op, op.operands[0].type.shape, 0, sizes)
        out = _number(second.results[0].type.shape[-1], sizes)
        if inner is None or into is None or out is None or inner < min(into, out):
            continue
        message = (
            "nothing lies between this product and the one before that is not affine: both do "
            "what one could"
        )
        help = "put a nonlinearity between them, such as relu, or leave one out"
        found = _told("GC0221", message, second, help)
        if found is not None:
            yield found


def _weighed(graph: Graph, op: Op, data: set[Value], weights: set[Value]) -> Value | None:
    """The weight that ``op`` multiplies data with from the right."""
    if op.name != "contract" or op.attributes["batch"] != ():
        return None
    left, right = op.operands
    weight = graph.bare(right)
    return weight if left in data and weight in weights else None


def _next_product(graph: Graph, value: Value, data: set[Value], weights: set[Value]) -> Op | None:
    """The product of weights that ``value`` comes to on its only way, by affine ops."""
    while True:
        readers = graph.readers.get(value, [])
        if len(readers) != 1 or value in graph.block.outputs:
            return None
        (op,) = readers
        if _weighed(graph, op, data, weights) is not None and op.operands[0] == value:
            return op
        is_shift = op.name in ("add", "sub") and not all(v in data for v in op.operands)
        if not (is_shift or op.name in ("reshape", "cast")):
            return None
        value = op.results[0]


def _sizes(op: Op, shape: tuple[Dim, ...], side: int, sizes: Mapping[str, Dim]) -> int | None:
    """The product of the sizes that ``op`` contracts."""
    found = 1
    pairs = op.attributes["contract"]
    assert isinstance(pairs, tuple)
    for pair in pairs:
        assert isinstance(pair, tuple)
        axis = pair[side]
        assert isinstance(axis, int)
        number = _number(shape[axis], sizes)
        if number is None:
            return None
        found *= number
    return found


def _number(size: Dim, sizes: Mapping[str, Dim]) -> int | None:
    known = {name: n for name, n in sizes.items() if isinstance(n, int)}
    found = substitute(size, {**{n: SAMPLE_SIZE for n in symbols(size)}, **known})
    return found if isinstance(found, int) else None


# --- optimisers


def optimizer_suspicion(update: Function) -> Diagnostic | None:
    """GC0224 for the update of one parameter, if its divisor can be zero where a gradient is."""
    graph = Graph(update.block)
    for op in update.block.body:
        divisor = graph.maker(op.operands[1]) if op.name == "div" else op
        if divisor is None or divisor.name != ("sqrt" if op.name == "div" else "rsqrt"):
            continue
        under = graph.maker(divisor.operands[0])
        is_lifted = under is not None and under.name in ("add", "max")
        if is_lifted and under is not None and any(map(graph.is_constant, under.operands)):
            continue
        roots = {
            value
            for slot, value in zip(update.parameters, update.block.parameters, strict=True)
            if slot.role in (Role.COTANGENT, Role.SLOT)
        }
        if divisor.operands[0] not in graph.below(roots):
            continue
        message = "the update divides by a root that is zero where a gradient was always zero"
        help = "add a small number to the divisor: `/ (sqrt(v) + 1e-8)`"
        return _told("GC0224", message, op, help)
    return None
