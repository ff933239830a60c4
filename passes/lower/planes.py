"""Sums of products in which every channel stands alone, as in depthwise convolutions: a plane of an
image, the taps of one filter, a plane of the result. From ``ir.ops.products`` and a schedule to
loop IR.

A band of a plane is copied into memory of the thread, with zeros where terms are absent and columns
sorted by their remainder (where places jump): then every tap is a vector at a constant distance,
and no vector asks whether it is at a border. Where targets have no such memory, or the sum is no
such sum, elements are read where they lie (``products``); the order of the terms is the same.

Non-goals: deciding what is such a sum (``Products.is_plane``), and how much is done together
(``schedule``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from gradc.ir.loop.kernel import Affine, Buffer, Scalar
from gradc.ir.loop.order import plane_rows
from gradc.ir.ops.products import Position
from gradc.passes.lower.products import Writer, affine, sum_rows, sums_of

Tap = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Along:
    """One spatial axis: tap t of place n lies ``stride * n + step * t + start`` steps from the
    image's origin, where every ``divisor``-th has an element.
    """

    places: int
    taps: int
    stride: int
    step: int
    start: int
    divisor: int
    extent: int

    @property
    def low(self) -> int:
        """The lowest step that a tap of place 0 meets."""
        return self.start + min(0, self.step * (self.taps - 1))

    def reach(self, places: int) -> int:
        """How many steps taps of so many neighbouring places lie on."""
        return self.stride * (places - 1) + abs(self.step) * (self.taps - 1) + 1

    def tap(self, number: int) -> int:
        """How far a tap lies from the lowest."""
        return self.step * number + self.start - self.low


@dataclass(frozen=True, slots=True)
class _Copy:
    """How a band lies in ``buffer``: rows of ``phases`` stretches of ``pitch`` columns."""

    buffer: Buffer
    phases: int
    pitch: int

    @property
    def row(self) -> int:
        return self.phases * self.pitch


class Planes:
    """Writes what both kinds of kernels share."""

    def __init__(self, writer: Writer) -> None:
        spec = writer.spec
        extents = (*spec.outer, *spec.inner)
        self.writer, self.nest, self.k = writer, writer.nest, writer.k
        self.rows, self.columns = (_along(extents, position) for position in spec.left[2:])
        self.taps: list[Tap] = list(product(range(self.rows.taps), range(self.columns.taps)))
        self.band = plane_rows(self.rows.places, self.columns.places)
        phases = self.columns.stride
        pitch = -(-self.columns.reach(self.columns.places) // phases)
        height = self.rows.reach(self.band)
        self.copy = _Copy(self.nest.scratch(height * phases * pitch, writer.wide), phases, pitch)

    def clear(self) -> None:
        """Zeros everywhere: at the sides of a band they stay."""
        zero = self.k.const(0, self.writer.wide)
        with self.nest.loop(self.copy.buffer.size, "vector") as n:
            self.nest.store(self.copy.buffer, n.at, zero)

    def fill(self, at: Sequence[Affine], first: Affine) -> None:
        """Copies the band from place ``first`` of a plane: its rows, zeros for absent ones."""
        rows, k, whole = self.rows, self.k, self.band == self.rows.places
        least = max(0, -(-rows.low // rows.divisor))
        count = min(rows.extent, -(-(rows.low + rows.reach(self.band)) // rows.divisor)) - least
        # Of a whole plane the lines that there are are known; in bands each asks whether it is one.
        with self.nest.loop(max(count, 0) if whole else rows.reach(self.band), "serial") as row:
            if whole:
                self._fill_line(at, row.at + least, (row.at + least) * rows.divisor + -rows.low)
                return
            line, rest = k.divmod(first * rows.stride + row.at + rows.low, rows.divisor)
            with k.guard(k.both(k.inside(rest, 1), k.inside(line, rows.extent))):
                self._fill_line(at, line, row.at)

    def _fill_line(self, at: Sequence[Affine], line: Affine, row: Affine) -> None:
        for phase in range(self.copy.phases):
            self._fill_row(at, line, row * self.copy.row + phase * self.copy.pitch, phase)

    def _fill_row(self, at: Sequence[Affine], line: Affine, start: Affine, phase: int) -> None:
        """The columns of one remainder; of a place that is divided there is one remainder."""
        columns, every = self.columns, self.copy.phases
        beyond = columns.low + columns.reach(columns.places)
        # Elements lie at ``scale * n + offset`` of the image, ``gap * n + begin`` of the copy.
        if every == 1:
            least, end = -(-columns.low // columns.divisor), -(-beyond // columns.divisor)
            first, stop = max(0, least), min(columns.extent, end)
            scale, offset = 1, first
            gap, begin = columns.divisor, first * columns.divisor - columns.low
        else:
            lead = phase + columns.low
            first = max(0, -(lead // every))
            stop = -(-(min(columns.extent, beyond) - lead) // every)
            scale, offset, gap, begin = every, first * every + lead, 1, first
        if stop <= first:
            return
        with self.nest.loop(stop - first, "vector") as n:
            found = self.nest.read(0, [*at, line, n.at * scale + offset])
            value = self.k.cast(found, self.writer.wide)
            self.nest.store(self.copy.buffer, n.at * gap + start + begin, value)

    def term(self, tap: Tap, row: Affine, column: Affine) -> Scalar:
        """A term's element in the copy; row and column are of the band's places."""
        copy, away = self.copy, self.columns.tap(tap[1])
        across = away // copy.phases + away % copy.phases * copy.pitch
        line = row * self.rows.stride + self.rows.tap(tap[0])
        return self.nest.load(copy.buffer, line * copy.row + column + across)


def _along(extents: Sequence[int], position: Position) -> _Along:
    (place, stride), (tap, step) = position.terms
    return _Along(
        extents[place], extents[tap], stride, step, position.constant, position.divisor,
        position.extent or 0,
    )  # fmt: skip


# --- a chain for each place -----------------------------------------------------------------------


def write_plane_chains(writer: Writer) -> None:
    """A convolution or its transpose in the image: parallel over planes; some rows together, which
    share what is read.
    """
    nest, spec, k = writer.nest, writer.spec, writer.k
    planes = Planes(writer)
    rows, columns, band = planes.rows, planes.columns, planes.band
    together = next(n for n in (2, 3, 1) if band % n == 0)
    nothing = [Affine()] * 2
    with nest.parallel(spec.outer[: spec.grid]) as grid:
        at = [*grid, *nothing, Affine()]
        image = [affine(position, at) for position in spec.left[:2]]
        weights = {
            tap: k.cast(writer.read(1, [*at, *map(Affine, tap)]), writer.wide)
            for tap in planes.taps
        }
        planes.clear()
        with nest.loop(rows.places // band, "serial") as part:
            planes.fill(image, part.at * band)
            with (
                nest.loop(band // together, "serial") as some,
                nest.loop(columns.places, "vector") as column,
            ):
                lines = [some.at * together + n for n in range(together)]
                sums = _chains(planes, lines, column.at, weights)
                for line, total in zip(lines, sums, strict=True):
                    writer.write([*grid, part.at * band + line, column.at], total)


def _chains(
    planes: Planes, lines: Sequence[Affine], column: Affine, weights: dict[Tap, Scalar]
) -> list[Scalar]:
    """The sums of neighbouring rows, each its taps in order, all while a vector is at hand."""
    k, axis = planes.k, planes.rows
    ways = {n: axis.tap(n) for n in range(axis.taps)}
    meet: dict[int, list[tuple[int, int]]] = {}
    for number in range(len(lines)):
        for p, away in ways.items():
            meet.setdefault(number * axis.stride + away, []).append((number, p))
    # Taps of a row must come in their order, whichever way they go.
    order = sorted(meet, reverse=axis.step < 0)
    totals: list[Scalar | None] = [None] * len(lines)
    for place in order:
        for q in range(planes.columns.taps):
            for number, p in meet[place]:
                x = planes.term((p, q), lines[number], column)
                w, had = weights[p, q], totals[number]
                totals[number] = k.mul(x, w) if had is None else k.fma(x, w, had)
    return [k.const(0, planes.writer.wide) if total is None else total for total in totals]


# --- sums over places -----------------------------------------------------------------------------


def write_plane_sums(writer: Writer) -> None:
    """A transpose in the filter: parallel over some neighbouring planes. The rows of a band are
    chains, a column each; bands of all images are the terms of a tree; columns are summed as lanes.
    """
    nest, spec, k, wide = writer.nest, writer.spec, writer.k, writer.wide
    images, height, width = spec.inner
    bands = height // plane_rows(height, width)
    source = _Source(writer)
    some = writer.schedule.block
    high, wide_taps = spec.outer[spec.grid :]
    taps: list[Tap] = list(product(range(high), range(wide_taps)))
    size = width * len(taps)
    sums = sums_of(nest, some * size, images * bands, wide)
    with nest.parallel([spec.outer[0] // some]) as (part,):
        source.begin()

        def add(number: Affine) -> None:
            image, band = k.divmod(number, bands)
            with nest.loop(some, "serial") as member:
                source.enter(part * some + member.at, image, band)
                for few in range(0, len(taps), writer.schedule.taps):
                    end = min(few + writer.schedule.taps, len(taps))
                    chosen = {n: taps[n] for n in range(few, end)}
                    _add_band(source, sums[-1], member.at * size, chosen, width)

        sum_rows(nest, sums, (some * size, 1), images * bands, add)
        with nest.loop(some, "serial") as member:
            group = [part * some + member.at, Affine(), Affine()]
            for n, tap in enumerate(taps):
                with nest.loop(width, "vector") as j:
                    at = member.at * size + j.at + n * width
                    total = j.fold("add", nest.load(sums[0], at))
                writer.write([*group, *map(Affine, tap)], total)


class _Source:
    """The terms of one band of one plane: from a copy, or where they lie."""

    def __init__(self, writer: Writer) -> None:
        _, height, width = writer.spec.inner
        self.writer = writer
        self.planes = Planes(writer) if writer.schedule.copies else None
        self.band = plane_rows(height, width)

    def begin(self) -> None:
        if self.planes is not None:
            self.planes.clear()

    def enter(self, group: Affine, image: Affine, band: Affine) -> None:
        """Goes to a band of a plane."""
        self.group, self.image, self.first = [group, Affine(), Affine()], image, band * self.band
        if self.planes is not None:
            at = [*self.group, Affine(), Affine(), image]
            found = [affine(position, at) for position in self.writer.spec.left[:2]]
            self.planes.fill(found, self.first)

    def left(self, tap: Tap, row: Affine, column: Affine) -> Scalar:
        """The image's element of a term."""
        if self.planes is not None:
            return self.planes.term(tap, row, column)
        at = [*self.group, *map(Affine, tap), self.image, self.first + row, column]
        return self.writer.k.cast(self.writer.read(0, at), self.writer.wide)

    def right(self, row: Affine, column: Affine) -> Scalar:
        """The other element, of all taps."""
        at = [*self.group, Affine(), Affine(), self.image, self.first + row, column]
        return self.writer.k.cast(self.writer.read(1, at), self.writer.wide)


def _add_band(
    source: _Source, sums: Buffer, start: Affine, taps: dict[int, Tap], width: int
) -> None:
    """Adds the chains of some taps to the sums that begin at ``start``: as many columns at a time
    as registers hold.
    """
    writer = source.writer
    nest, k = writer.nest, writer.k
    few = min(width, writer.schedule.columns)

    def block(first: Affine, count: int) -> None:
        chains = nest.scratch(count * len(taps), writer.wide)
        for place in range(len(taps)):
            with nest.loop(count, "vector") as j:
                nest.store(chains, j.at + place * count, k.const(0, writer.wide))
        with nest.loop(source.band, "serial") as row, nest.loop(count, "vector") as j:
            right = source.right(row.at, first + j.at)
            for place, tap in enumerate(taps.values()):
                left = source.left(tap, row.at, first + j.at)
                at = j.at + place * count
                nest.store(chains, at, k.fma(left, right, nest.load(chains, at)))
        for place, number in enumerate(taps):
            with nest.loop(count, "vector") as j:
                part = nest.load(chains, j.at + place * count)
                nest.store(sums, start + first + j.at + number * width, part, "add")

    with nest.loop(width // few, "serial") as part:
        block(part.at * few, few)
    if width % few:
        block(Affine(width // few * few), width % few)
