"""Stores side by side: where a body stores the elements 2 i, 2 i + 1 of a buffer, its vectors are
joined in registers and stored whole, instead of every second element one by one.

Stores of a body are kept back until the last of their group. Nothing in the body reads what they
write, and nobody else does before the loop ends, so that changes nothing. Non-goals: stores with
conditions or additions; strides that do not meet without gaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gradc.codegen.llvm.bodies import walk
from gradc.codegen.llvm.nest.memory import Address
from gradc.codegen.llvm.text import Function, Value, lanes_of
from gradc.ir.loop.kernel import Affine, Buffer, Load, Stmt, Store

_MOST = 4  # elements side by side


@dataclass(slots=True)
class Beside:
    """The stores of a group in the order of their places; what is kept back of them."""

    stores: tuple[Store, ...]
    kept: dict[Store, tuple[Address, Value]] = field(default_factory=dict)

    def takes(self, place: Address) -> bool:
        """Whether vectors at such places meet."""
        return place.stride == len(self.stores)

    def keep(self, store: Store, place: Address, value: Value) -> bool:
        """Keeps one back; whether all are there."""
        self.kept[store] = place, value
        return len(self.kept) == len(self.stores)

    def joined(self, f: Function) -> tuple[Address, Value]:
        """Where the first element is, and all elements as one vector."""
        found = [self.kept[store] for store in self.stores]
        return found[0][0], interleaved(f, [value for _, value in found])


def found(body: Sequence[Stmt]) -> dict[Store, Beside]:
    """The groups of ``body``, by each of their stores."""
    read = {statement.buffer for statement in walk(body) if isinstance(statement, Load)}
    alike: dict[tuple[Buffer, Affine], list[Store]] = {}
    for store in body:
        if not isinstance(store, Store) or store.buffer in read:
            continue
        if store.guard is None and not store.combine:
            where = store.offset + -store.offset.constant
            alike.setdefault((store.buffer, where), []).append(store)
    groups: dict[Store, Beside] = {}
    for stores in alike.values():
        ordered = sorted(stores, key=lambda store: store.offset.constant)
        starts = [store.offset.constant for store in ordered]
        if 1 < len(starts) <= _MOST and starts == list(range(starts[0], starts[0] + len(starts))):
            group = Beside(tuple(ordered))
            groups.update(dict.fromkeys(ordered, group))
    return groups


def interleaved(f: Function, values: Sequence[Value]) -> Value:
    """The first lanes of two to four vectors, then the second ones, and so on."""
    lanes = lanes_of(values[0].type)
    pairs = [_side_by_side(f, values[n : n + 2], lanes) for n in range(0, len(values), 2)]
    count = len(values)
    picks = [
        (n // 2) * 2 * lanes + n % 2 * lanes + lane for lane in range(lanes) for n in range(count)
    ]
    return f.shuffle(pairs[0], pairs[1] if len(pairs) > 1 else None, picks)


def _side_by_side(f: Function, values: Sequence[Value], lanes: int) -> Value:
    """One or two vectors as one of twice the lanes."""
    return f.shuffle(values[0], values[1] if len(values) > 1 else None, range(2 * lanes))
