"""What the inputs of a model are for, read off its graph: features, and targets to compare with.

A feature meets a weight: some op combines it with a value that depends on parameters and on no
input. A target meets nothing but predictions (values that depend on both), and no weight comes
after it on its way to the loss. What is both, such as the input of an autoencoder, is a feature.

Non-goals: findings (``causes``).
"""

from __future__ import annotations

from dataclasses import dataclass

from gradc.frontend.model.graph import Graph
from gradc.ir.ops.registry import is_loop, is_product, is_sum, lookup
from gradc.ir.tensor.core import Function, Op, Role, Value


@dataclass(frozen=True)
class Roles:
    """The inputs by what they are for. ``squared`` is the target of a mean squared error, and
    ``guess`` the value that it is taken from.
    """

    features: tuple[str, ...]
    targets: tuple[str, ...]
    squared: str | None = None
    guess: Value | None = None


def roles_of(function: Function) -> Roles:
    """The roles of ``function``'s inputs; regions are taken as a whole."""
    pairs = list(zip(function.parameters, function.block.parameters, strict=True))
    inputs = {v: s.name for s, v in pairs if s.role is Role.INPUT}
    known: dict[Value, frozenset[str]] = {v: frozenset([n]) for v, n in inputs.items()}
    weighed: set[Value] = {v for s, v in pairs if s.role is Role.PARAM}
    features: set[str] = set()
    met: dict[str, list[Op]] = {name: [] for name in inputs.values()}
    for op in function.block.body:
        sides = [(known.get(v, frozenset()), v in weighed) for v in op.operands]
        bare = any(has_weights and not names for names, has_weights in sides)
        guesses = any(has_weights and names for names, has_weights in sides)
        for names, has_weights in sides:
            if not has_weights and bare and _is_product(op):
                features.update(names)
            elif not has_weights and (guesses or bare):
                for name in names:
                    met[name].append(op)
        names = frozenset().union(*(names for names, _ in sides))
        for value in op.results:
            known[value] = names
            if any(has_weights for _, has_weights in sides):
                weighed.add(value)
    graph = Graph(function.block)
    features |= {
        name
        for name, ops in met.items()
        if any(_is_weighed_after(graph, op, weighed, known) for op in ops)
    }
    targets = [name for name, ops in met.items() if ops and name not in features]
    squared, guess = _squared(graph, function, targets, inputs)
    kept = tuple(n for n in inputs.values() if n in features)
    return Roles(kept, tuple(targets), squared, guess)


def _is_product(op: Op) -> bool:
    """Whether ``op`` multiplies, looks rows up, or is a loop, which may do either."""
    is_lookup = any(not v.type.dtype.is_float for v in op.operands) and op.name == "take"
    return is_lookup or _has_weights(op) or op.name == "mul" or bool(op.regions)


def _has_weights(op: Op) -> bool:
    """Whether ``op`` sums products of its operands, or is a loop, which may do so."""
    return is_product(op) or lookup(op.name).multiplies_windows or is_loop(op)


def _is_weighed_after(
    graph: Graph, op: Op, weighed: set[Value], known: dict[Value, frozenset[str]]
) -> bool:
    """Whether a product with a bare weight follows ``op``."""
    below = graph.below(set(op.results))
    for later in graph.block.body:
        if not _has_weights(later):
            continue
        if any(v in below for v in later.operands) and any(
            v in weighed and not known.get(v) for v in later.operands
        ):
            return True
    return False


def _squared(
    graph: Graph, function: Function, targets: list[str], inputs: dict[Value, str]
) -> tuple[str | None, Value | None]:
    """The target of a difference that is squared and averaged into the loss, and its other side."""
    ends = [
        v
        for s, v in zip(function.results, function.block.outputs, strict=True)
        if s.role is Role.LOSS
    ]
    if len(ends) != 1:
        return None, None
    op = graph.maker(ends[0])
    while op is not None and (is_sum(op) or op.name == "div"):
        op = graph.maker(op.operands[0])
    if op is None or op.name != "mul" or op.operands[0] != op.operands[1]:
        return None, None
    op = graph.maker(op.operands[0])
    if op is None or op.name != "sub":
        return None, None
    sides = [graph.bare(v) for v in op.operands]
    for side, other in (sides, sides[::-1]):
        if inputs.get(side) in targets:
            return inputs[side], other
    return None, None
