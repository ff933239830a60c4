"""In which order sums are taken: a part of what a kernel means, fixed by shapes and types alone.

A backend maps terms to vectors, threads or whole processors as it likes, as long as its results
have the bits that this order gives. What it may use: who computes an aligned node of a tree, or one
of the accumulators of a fold over lanes, makes no difference.

* ``serial`` loops: one accumulator. ``vector`` loops: ``LANE_BYTES / itemsize`` lanes times
  ``WAYS``.
* Sums and products of floats are trees in each accumulator (``node_spans``): a leaf is the sum from
  the left of ``LEAF`` consecutive terms, a node the sum from the left of ``LEAF`` consecutive
  leaves or nodes, until one is left; the last leaf and the last nodes have what is there. Terms are
  numbered from the loop's start.
* Matrix products sum over k in leaves of ``K_LEAF`` steps, each a chain of fused multiply-adds from
  zero, and nodes of ``K_NODE`` children.
* Sums over the places of planes, one of each image: up to ``PLANE`` places of some rows are a band,
  whose rows are a chain of fused multiply-adds from zero in each column; bands of all images are
  the terms of a tree as of a matrix product, and columns are summed last, along memory.
* Sums over several axes of which the inner ones are few: the ``CHAIN`` terms of one step of the
  outer axis, or fewer, are a chain of fused multiply-adds from the left; so are up to ``PLACES``
  places of a window. Where there are more, each axis is a fold by itself, the innermost first.
"""

from __future__ import annotations

from dataclasses import dataclass

LANE_BYTES = 64
WAYS = 4
LEAF = 16  # terms of a leaf of a sum, and children of a node
K_LEAF = 256  # steps of k of a leaf of a matrix product
K_NODE = 64  # children of a node of a matrix product
CHAIN = 32  # products over the inner axes of a sum that are one chain
PLACES = 16  # places of a window that are one chain
PLANE = 4096  # places of a plane whose rows are one chain
# Where terms of a matrix product are left out, it is for all elements of so many rows and so many
# columns together, counted from the first ones.
ROWS_AT_ONCE = 24
COLUMNS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class FoldOrder:
    """The order of one fold: iteration i goes to accumulator ``i % accumulators``, which is lane
    ``i % lanes`` of way ``i // lanes % ways``.

    Each accumulator takes its terms in order, onto the identity, as a tree of ``children`` per node
    (as one chain if that is 0). Then accumulators are combined: for each of ``steps`` in turn,
    every one that is left and lacks this bit in its number takes in the one that has it besides.
    """

    lanes: int
    ways: int
    children: int

    @property
    def accumulators(self) -> int:
        """How many there are."""
        return self.lanes * self.ways

    @property
    def steps(self) -> tuple[int, ...]:
        """The ways pairwise, then the lanes by halving."""
        ways = [self.lanes << n for n in range(self.ways.bit_length() - 1)]
        lanes = [1 << n for n in range(self.lanes.bit_length() - 1)]
        return (*ways, *reversed(lanes))


def lane_order(itemsize: int, is_tree: bool) -> FoldOrder:
    """The order of a fold over a ``vector`` loop of elements of so many bytes."""
    return FoldOrder(LANE_BYTES // itemsize, WAYS, LEAF if is_tree else 0)


def plane_rows(rows: int, columns: int) -> int:
    """How many of the rows of a plane are a band: all have as many."""
    most = max(1, min(K_LEAF, PLANE // max(columns, 1)))
    return max((n for n in range(1, min(most, rows) + 1) if rows % n == 0), default=0)


def node_spans(terms: int, leaf: int = LEAF, children: int = LEAF) -> tuple[int, ...]:
    """How many terms a node of each level under the whole sum has, the largest first; none if it is
    one leaf.
    """
    spans: list[int] = []
    span = leaf
    while span < terms:
        spans.append(span)
        span *= children
    return tuple(reversed(spans))
