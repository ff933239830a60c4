"""Totals over the parts of a batch that several ranks compute: the same bits as one rank's.

A total starts at zero and takes the parts' summands from the left, part 0 first. Parts are dealt to
the ranks in turn, so after every turn what each rank has found is next in that order, rank 0 first.
Small summands are sent to all, several in one message, and every rank adds them all up. Of large
ones rank j adds up the j-th slice only (``all_to_all``), and the ranks' slices are put together at
the end (``all_gather``): each rank sends a summand once per turn, and its slice once. A sum that is
needed in parts stays apart (``scattered``).

Only ``all_to_all`` and ``all_gather`` know of ranks; what is added, and when, is plain ops.

Non-goals: which parts there are (``passes.training.accumulate``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from gradc.ir.ops.axes import Place
from gradc.ir.ops.builder import Builder
from gradc.ir.ops.structural import row_of, slice_axis
from gradc.ir.tensor.core import Attrs, DType, TensorType, Value
from gradc.passes.training.pieces import in_rows, part_type

# Summands of up to so many bytes go to every rank: one message each costs more than its bytes.
SMALL_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Deal:
    """``count`` parts dealt to ``ranks`` ranks in turn; on a grid these may be as far apart as can
    be (``across``).
    """

    count: int
    ranks: int = 1
    across: bool = False

    def exchanged(self, b: Builder, name: str, value: Value) -> Value:
        """``all_to_all`` or ``all_gather`` between the ranks."""
        attributes: Attrs = {"ranks": self.ranks} if name == "all_gather" else {}
        if self.across:
            attributes = {**attributes, "across": True}
        return b.apply(name, (value,), attributes)[0]

    @property
    def is_alone(self) -> bool:
        """Whether every rank computes the whole: there is one rank, or one part."""
        return self.ranks == 1 or self.count == 1

    @property
    def full(self) -> int:
        """Turns in which every rank has a part."""
        return self.count // self.ranks

    @property
    def late(self) -> int:
        """Ranks that have a part in the last turn, if not all of them have."""
        return self.count % self.ranks

    @property
    def turns(self) -> int:
        """Parts that a rank computes, the last one for nothing on ranks that are not dealt it."""
        return self.full + (self.late > 0)

    def parts_of(self, rank: int) -> list[int]:
        """The numbers of a rank's parts, one for each turn: where there is none in the last turn,
        the first part, for nothing.
        """
        own = range(rank, self.count, self.ranks)
        return [*own, *range(self.turns - len(own))]

    def numbers(self, b: Builder) -> Value:
        """u32[turns, 1], the numbers of this rank's parts."""
        own = b.one("iota", axis=0, dtype=DType.U32, shape=(self.turns, 1))
        if self.ranks == 1:
            return own
        spread = b.one("broadcast", self.rank(b), shape=(self.turns, 1), dims=(1,))
        step = b.constant(self.ranks, DType.U32, (self.turns, 1))
        return b.one("add", b.one("mul", own, step), spread)

    def rank(self, b: Builder) -> Value:
        """u32[1], the number of this rank: it receives the like element of everybody's iota."""
        everybody = b.one("iota", axis=0, dtype=DType.U32, shape=(self.ranks, 1))
        return row_of(b, self.exchanged(b, "all_to_all", everybody), 0)

    def is_dealt(self, b: Builder) -> Value:
        """bool, whether this rank's last part has a meaning."""
        number = b.one("reshape", row_of(b, self.numbers(b), self.turns - 1), shape=())
        return b.one("lt", number, b.constant(self.count, DType.U32))


@dataclass(frozen=True, slots=True)
class Total:
    """A sum of summands of ``type`` over the parts of ``deal``."""

    type: TensorType
    deal: Deal

    @property
    def _is_sliced(self) -> bool:
        ranks = self.deal.ranks
        return ranks > 1 and self.type.nbytes > max(SMALL_BYTES, ranks)

    @property
    def _slice(self) -> int:
        """Elements of one rank's slice; the last slice may have some more than there are."""
        return -(-prod(self.type.static_shape) // self.deal.ranks)

    @property
    def held(self) -> TensorType:
        """What a rank holds of the sum on the way. Sums of 16 bits are kept in f32, and rounded
        once at the end.
        """
        shape = (self._slice,) if self._is_sliced else self.type.static_shape
        return TensorType(shape, self.type.dtype.accumulator)

    def start(self, b: Builder) -> Value:
        """The empty sum, as far as this rank holds it."""
        return b.constant(0, self.held.dtype, self.held.shape)

    @property
    def is_small(self) -> bool:
        """Whether summands go to every rank as they are."""
        return self.deal.ranks > 1 and not self._is_sliced

    def add(self, b: Builder, total: Value, summand: Value, ranks: int) -> Value:
        """``total`` and what the first ``ranks`` ranks found in this turn."""
        summand = b.cast(summand, self.held.dtype)
        if self.deal.ranks == 1:
            return b.one("add", total, summand)
        if self._is_sliced:
            size = self.deal.ranks * self._slice
            flat = self._padded(b, summand, size)
            rows = b.one("reshape", flat, shape=(self.deal.ranks, self._slice))
            rows = self.deal.exchanged(b, "all_to_all", rows)
        else:
            rows = self.deal.exchanged(b, "all_gather", summand)
        return self.add_rows(b, total, rows, ranks)

    def add_rows(self, b: Builder, total: Value, rows: Value, ranks: int) -> Value:
        """``total`` and the first ``ranks`` of ``rows``, one for each rank."""
        for rank in range(ranks):
            total = b.one("add", total, row_of(b, rows, rank))
        return total

    def finish(self, b: Builder, total: Value) -> Value:
        """The whole sum, the same on every rank."""
        total = b.cast(total, self.type.dtype)
        if not self._is_sliced:
            return total
        rows = self.deal.exchanged(b, "all_gather", total)
        size = prod(self.type.static_shape)
        flat = b.one("reshape", rows, shape=(self.deal.ranks * self._slice,))
        if size != self.deal.ranks * self._slice:
            flat = slice_axis(b, flat, 0, 0, size)
        return b.one("reshape", flat, shape=self.type.static_shape)

    def _padded(self, b: Builder, summand: Value, size: int) -> Value:
        count = prod(self.type.static_shape)
        flat = b.one("reshape", summand, shape=(count,))
        if count == size:
            return flat
        return b.one("pad", flat, low=(0,), high=(size - count,), interior=(0,))


def add_all(
    b: Builder, sums: Sequence[Total], totals: Sequence[Value], found: Sequence[Value], ranks: int
) -> list[Value]:
    """``totals`` and what the first ``ranks`` ranks found in this turn. Small summands go together,
    as many as are still small.
    """
    made: dict[int, Value] = {}
    for bucket in _buckets(sums):
        if len(bucket) == 1:
            (n,) = bucket
            made[n] = sums[n].add(b, totals[n], found[n], ranks)
        else:
            made.update(_add_bucket(b, bucket, sums, totals, found, ranks))
    return [made[n] for n in range(len(sums))]


def _buckets(sums: Sequence[Total]) -> list[list[int]]:
    """The numbers of ``sums`` whose summands go together."""
    buckets: list[list[int]] = []
    is_open: dict[DType, tuple[list[int], int]] = {}  # the last bucket of a type, and its bytes
    for n, total in enumerate(sums):
        bucket, size = is_open.get(total.held.dtype, ([], SMALL_BYTES))
        size += total.held.nbytes
        if not total.is_small or size > SMALL_BYTES:
            bucket, size = [], total.held.nbytes
            buckets.append(bucket)
        bucket.append(n)
        if total.is_small:
            is_open[total.held.dtype] = bucket, size
    return buckets


def _add_bucket(
    b: Builder,
    bucket: Sequence[int],
    sums: Sequence[Total],
    totals: Sequence[Value],
    found: Sequence[Value],
    ranks: int,
) -> dict[int, Value]:
    """What ``add_all`` makes of several small summands of one type."""
    deal, counts = sums[bucket[0]].deal, [prod(sums[n].type.static_shape) for n in bucket]
    flat = [
        b.one("reshape", b.cast(found[n], sums[n].held.dtype), shape=(count,))
        for n, count in zip(bucket, counts, strict=True)
    ]
    rows = deal.exchanged(b, "all_gather", b.one("concat", *flat, axis=0))
    made: dict[int, Value] = {}
    start = 0
    for n, count in zip(bucket, counts, strict=True):
        own = slice_axis(b, rows, 1, start, start + count)
        own = b.one("reshape", own, shape=(deal.ranks, *sums[n].type.static_shape))
        made[n] = sums[n].add_rows(b, totals[n], own, ranks)
        start += count
    return made


def folded(b: Builder, own: Value, deal: Deal, by: str) -> Value:
    """What all ranks have, put together by the op ``by`` from rank 0 on; the same on every rank."""
    if by == "add":
        total = Total(own.type, deal)
        return total.finish(b, total.add(b, total.start(b), own, deal.ranks))
    given = deal.exchanged(b, "all_gather", own)
    found = row_of(b, given, 0)
    for rank in range(1, deal.ranks):
        found = b.one(by, found, row_of(b, given, rank))
    return found


def scattered(b: Builder, own: Value, deal: Deal, place: Place) -> Value:
    """This rank's part, at ``place``, of the sum of what all ranks have, with the bits that the
    whole sum has there: each rank sends the others their parts, half of what ``folded`` sends.
    """
    type_ = part_type(own.type, place, deal.ranks)
    total = Total(type_, Deal(deal.ranks))
    found = in_rows(b, b.cast(own, total.held.dtype), place, deal.ranks)
    found = deal.exchanged(b, "all_to_all", found)
    return total.finish(b, total.add_rows(b, total.start(b), found, deal.ranks))
