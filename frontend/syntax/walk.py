"""Walking syntax trees without recursion, so that the input never decides the depth of the stack.

``children`` lists a node's child nodes in the order of the text, ``walk`` visits every node before
its children, ``fold`` computes a result for every node from the results of its children."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import TypeVar

from gradc.frontend.syntax.tree import Node

Result = TypeVar("Result")

_CHILD_FIELDS: dict[type[Node], tuple[str, ...]] = {}


def _child_fields(kind: type[Node]) -> tuple[str, ...]:
    names = _CHILD_FIELDS.get(kind)
    if names is None:
        names = tuple(item.name for item in fields(kind) if not item.name.endswith("span"))
        _CHILD_FIELDS[kind] = names
    return names


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly below ``node``, in the order of the fields."""
    found: list[Node] = []
    for name in _child_fields(type(node)):
        value = getattr(node, name)
        if isinstance(value, Node):
            found.append(value)
        elif isinstance(value, tuple):
            found.extend(value)
    return tuple(found)


def walk(root: Node) -> Iterator[Node]:
    """Every node of the tree, parents first, in the order of the text."""
    pending = [root]
    while pending:
        node = pending.pop()
        yield node
        pending.extend(reversed(children(node)))


def fold(root: Node, combine: Callable[[Node, Sequence[Result]], Result]) -> Result:
    """The result of ``combine(root, results of its children)``, computed from the leaves up."""
    pending: list[tuple[Node, bool]] = [(root, False)]
    results: list[Result] = []
    while pending:
        node, is_ready = pending.pop()
        below = children(node)
        if not is_ready and below:
            pending.append((node, True))
            pending.extend((child, False) for child in reversed(below))
            continue
        start = len(results) - len(below)
        arguments = results[start:]
        del results[start:]
        results.append(combine(node, arguments))
    return results[0]


def depth(root: Node) -> int:
    """The length of the longest path from the root down to a leaf, in nodes."""
    return fold(root, _depth_above)


def _depth_above(_node: Node, below: Sequence[int]) -> int:
    return 1 + max(below, default=0)
