"""A kernel as texts: one per part that the whole grid must have finished before the next begins.

A product is a text of its own, by tiles where those do (``tiles``); a grid loop is a text, spread
over threads if it is a map (``maps``), else a block per iteration; other statements are run by one
block. Private memory lies in shared memory where a text has room,
else in the launch's scratch, which holds it for every block.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from gradc.codegen.cuda.functions import function_texts
from gradc.codegen.cuda.printer import tensor
from gradc.codegen.cuda.printer.blocks import Shape, loops_in
from gradc.codegen.cuda.printer.conflicts import Overlaps
from gradc.codegen.cuda.printer.leaves import Split, split_of, sums_of
from gradc.codegen.cuda.printer.lines import Lines
from gradc.codegen.cuda.printer.maps import map_of, write_map
from gradc.codegen.cuda.printer.nest import Nest, PrintError
from gradc.codegen.cuda.printer.products import PRODUCT_THREADS, results, write_product
from gradc.codegen.cuda.printer.row_plans import GROUP, RowPlan, rows_of, segment_plans
from gradc.codegen.cuda.printer.rows import RowNest
from gradc.codegen.cuda.printer.split import split
from gradc.codegen.cuda.printer.squares import Memory, write_tiles
from gradc.codegen.cuda.printer.strips import StripNest, products, tile_for
from gradc.codegen.cuda.printer.tiles import blocks, levels_of, tile_of
from gradc.codegen.cuda.printer.words import Names, Words
from gradc.codegen.cuda.program import Access, Parameter, Text
from gradc.codegen.cuda.verbs import MEMORY_BYTES, MEMORY_TYPES, MOST_SHARED
from gradc.ir.loop.kernel import Buffer, Exchange, For, Gemm, Kernel, Stmt, Store
from gradc.ir.loop.registers import accesses

_LINE = 64  # bytes; private memory in scratch starts on such
_FOLD_ROOM = 8 << 10  # shared memory that folds may take
MOST_STRIP_THREADS = 256


@dataclass(frozen=True, slots=True)
class Argument:
    """What a parameter of a text points to: a bound buffer of the kernel, or bytes of scratch."""

    buffer: Buffer | None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """A text of a kernel, its grid, and what its parameters point to."""

    text: Text
    grid: int
    arguments: tuple[Argument, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """Statements that one text takes: a grid loop, a product, or others in one block."""

    statements: tuple[Stmt, ...]
    split_k: Split | None = None  # of a product of which blocks take parts of k

    @property
    def only(self) -> Stmt | None:
        return self.statements[0] if len(self.statements) == 1 else None

    @property
    def grid(self) -> For | None:
        """Its grid loop, if it is one."""
        match self.only:
            case For(kind="grid", limit=None) as only if only.extent:
                return only
        return None

    @property
    def owners(self) -> int:
        """How many iterations own private memory."""
        return 1 if self.grid is None else self.grid.extent

    def stores(self) -> set[Buffer]:
        """The buffers that it writes."""
        found = (touched.statement for touched in accesses(self.statements))
        return {s.buffer for s in found if isinstance(s, Store)}

    def touches(self) -> dict[Buffer, None]:
        """The buffers that it reads or writes, in order."""
        found: dict[Buffer, None] = {}
        for statement in (*self.statements, *products(self.statements)):
            if isinstance(statement, Gemm):
                found |= dict.fromkeys((statement.left.buffer, statement.right.buffer))
        for touched in accesses(self.statements):
            found[touched.statement.buffer] = None
        return found


def segments(kernel: Kernel, processors: int) -> list[Segment]:
    """The kernel cut at products and grid loops; products and loops may be several segments."""
    found: list[Segment] = []
    rest: list[Stmt] = []
    for statement in kernel.body:
        if isinstance(statement, Exchange) and statement.ranks == 1:
            continue
        is_grid = isinstance(statement, For) and statement.kind == "grid"
        if isinstance(statement, (Gemm, Exchange)) or is_grid:
            found += [Segment(tuple(rest))] if rest else []
            rest = []
            if isinstance(statement, Gemm) and not results(statement):
                continue
            found.append(Segment((statement,)))
        else:
            rest.append(statement)
    found += [Segment(tuple(rest))] if rest else []
    return [
        part
        for one in found
        for part in (
            _product(one.only, processors)
            if isinstance(one.only, Gemm)
            else (one,)
            if isinstance(one.only, Exchange)
            else map(Segment, split(one.statements, processors))
        )
    ]


def _product(gemm: Gemm, processors: int) -> list[Segment]:
    """A product, or its sums over parts of k, then its results."""
    split_k = split_of(gemm, processors)
    if split_k is None:
        return [Segment((gemm,))]
    parts, whole = sums_of(gemm, split_k)
    return [Segment((parts,), split_k), *(Segment((each,)) for each in whole)]


def _scratch(kernel: Kernel, segments: Sequence[Segment]) -> dict[Buffer, tuple[int, int]]:
    """Private buffers that lie in scratch: where, and for how many blocks."""
    found: dict[Buffer, tuple[int, int]] = {}
    used = 0
    users: dict[Buffer, list[Segment]] = {}
    for segment in segments:
        if products(segment.statements):
            continue  # strips, which are chosen to have room
        room = MOST_SHARED - _FOLD_ROOM
        for buffer in segment.touches():
            if buffer.is_private:
                users.setdefault(buffer, []).append(segment)
                room -= -(-_bytes(buffer) // 16) * 16
        for buffer in segment.touches():
            if buffer.is_private and room < 0 and buffer not in found:
                room += -(-_bytes(buffer) // 16) * 16
                found[buffer] = (0, segment.owners)
    for buffer, by in users.items():
        if len(by) > 1 or isinstance(by[0].only, Gemm):
            found[buffer] = (0, 1)
            # What ``split`` hands on is its own; what the program has belongs to one grid.
            if buffer in kernel.buffers and any(segment.grid is not None for segment in by):
                raise PrintError(f"{buffer.name} belongs to several loops")
    for buffer, (_, owners) in found.items():
        found[buffer] = (used, owners)
        used += -(-_bytes(buffer) * owners // _LINE) * _LINE
    return found


def _declared(lines: Lines, rooms: Sequence[tuple[str, str, int]]) -> int:
    """Declares shared memory by name, type and number of elements: dynamic memory where it is more
    than a text may have of static one. Returns how many bytes there are.
    """
    places, used = [], 0
    for _, dtype, count in rooms:
        places.append(-(-used // 16) * 16)
        used = places[-1] + count * MEMORY_BYTES[dtype]
    for (name, dtype, count), at in zip(rooms, places, strict=True):
        where = f"dynamic({dtype}, {count}, {at})"
        lines.add(f"{name} = {where if used > MOST_SHARED else f'shared({dtype}, {count})'}")
    return used


def _bytes(buffer: Buffer) -> int:
    return buffer.size * MEMORY_BYTES[MEMORY_TYPES[buffer.dtype]]


def scratch_bytes(kernel: Kernel, processors: int) -> int:
    """Bytes of scratch that a launch of ``kernel`` needs on a device of so many ``processors``."""
    found = _scratch(kernel, segments(kernel, processors))
    return max((at + _bytes(buffer) * blocks for buffer, (at, blocks) in found.items()), default=0)


def print_kernel(
    kernel: Kernel,
    name: str,
    overlaps: Overlaps,
    aligned: frozenset[Buffer],
    titles: Mapping[Buffer, str],
    processors: int,
    by_groups: bool,
    block_bytes: int,
) -> tuple[Part | Exchange, ...]:
    """The texts of ``kernel`` in order, and between them what the host exchanges with other ranks.
    Buffers that are ``aligned`` begin at multiples of 16 bytes in every launch; ``titles`` say what
    they are; a device has ``processors``, instructions for products of groups of warps, or not, and
    shared memory of ``block_bytes`` for a block at most. Raises PrintError for a kernel that has no
    text.
    """
    found = segments(kernel, processors)
    scratch = _scratch(kernel, found)
    aligned |= {buffer for buffer, (_, owners) in scratch.items() if owners == 1}
    parts: list[Part | Exchange] = []
    earlier: set[Buffer] = set()
    count = sum(not isinstance(segment.only, Exchange) for segment in found)
    numbers = itertools.count(1)
    for segment in found:
        if isinstance(segment.only, Exchange):
            parts.append(segment.only)
            earlier.add(segment.only.buffer)
            continue
        own = name if count == 1 else f"{name}_part{next(numbers)}"
        device = processors, by_groups, block_bytes
        printer = _Printer(own, segment, scratch, overlaps, aligned, titles, device)
        parts.append(printer.part(frozenset(earlier)))
        earlier |= segment.stores()
    return tuple(parts)


class _Printer:
    """Writes the text of one segment."""

    def __init__(
        self,
        name: str,
        segment: Segment,
        scratch: Mapping[Buffer, tuple[int, int]],
        overlaps: Overlaps,
        aligned: frozenset[Buffer],
        titles: Mapping[Buffer, str],
        device: tuple[int, bool, int],
    ) -> None:
        self.processors, self.by_groups, self.block_bytes = device
        self.aligned = aligned
        self.titles = titles
        self.name = name
        self.segment = segment
        self.scratch = scratch
        self.overlaps = overlaps
        self.words = Words(Names())
        self.words.names.new(name)
        self.buffers: dict[Buffer, str] = {}
        self.parameters: list[Parameter] = []
        self.arguments: list[Argument] = []
        self.shared: list[tuple[str, str, int]] = []

    def part(self, earlier: frozenset[Buffer]) -> Part:
        """The text; texts before it in the kernel write ``earlier``."""
        self._memory(earlier)
        lines, only = Lines(), self.segment.only
        nest = Nest(lines, self.words, self.buffers)
        common = {b for b, (_, owners) in self.scratch.items() if owners == 1}
        spread = map_of(
            self.segment.statements, self.overlaps, self.aligned, self.processors, common
        )
        if isinstance(only, Gemm):
            return self._product(nest, only)
        if products(self.segment.statements):
            return self._strips(lines)
        if spread is not None:
            self._head(lines, spread.threads, is_grid=True)
            write_map(nest, spread, self.aligned)
            each = "four neighbours" if spread.width > 1 else "an element"
            says = f"{spread.count * spread.width} elements, {each} a thread."
            return self._part(lines, spread.threads, spread.blocks, says, ())
        return self._block(lines)

    def _product(self, nest: Nest, gemm: Gemm) -> Part:
        if tensor.fits(gemm):
            return self._tensor(nest, gemm)
        split_k = self.segment.split_k
        tile = tile_of(gemm, self.processors) if split_k is None else split_k.tile
        batch = "".join(f"{n} times " for n in gemm.batch[0 if split_k is None else 1 :])
        says = f"{batch}{gemm.m} x {gemm.k} by {gemm.k} x {gemm.n}"
        threads = PRODUCT_THREADS if tile is None else tile.threads
        self._head(nest.lines, threads, is_grid=True)
        if tile is None:
            write_product(nest, gemm, threads)
            count = -(-results(gemm) // threads)
            return self._part(nest.lines, threads, count, f"{says}, an element a thread.", ())
        span = None if split_k is None else split_k.span
        write_tiles(nest, gemm, tile, Memory(self.aligned, self.overlaps), span)
        says += f", by tiles of {tile}."
        if split_k is not None:
            says = f"Sums over {split_k.span} steps of k of {says}"
        rooms = tile.rooms(levels_of(span or gemm.k))
        return self._part(nest.lines, threads, blocks(gemm, tile), says, rooms)

    def _tensor(self, nest: Nest, gemm: Gemm) -> Part:
        """A product by tensor cores."""
        split_k = self.segment.split_k
        block = tensor.block_of(gemm, self.processors, self.by_groups, self.aligned)
        span = None if split_k is None else split_k.span
        self._head(nest.lines, block.threads, is_grid=True)
        tensor.write_tensor(nest, gemm, block, self.aligned, span)
        batch = "".join(f"{n} times " for n in gemm.batch[0 if span is None else 1 :])
        by = "on tensor cores, by groups" if block.by_groups else "on tensor cores"
        says = f"{batch}{gemm.m} x {gemm.k} by {gemm.k} x {gemm.n}, {by}."
        says = says if span is None else f"Sums over {span} steps of k of {says}"
        count = tensor.blocks(gemm, block)
        part = self._part(nest.lines, block.threads, count, says, block.rooms)
        return replace(part, text=replace(part.text, together=block.together))

    def _block(self, lines: Lines) -> Part:
        """Statements that the threads of a block run together."""
        grid, block = self.segment.grid, RowNest(lines, self.words, self.buffers)
        plans, flat = self._plans()
        held = {buffer for plan in plans.values() for buffer in plan.kept}
        rows = self._rows(plans, flat)
        if not rows or (flat is None and rows * GROUP < self._folding(plans)):
            plans, flat, held, rows = {}, None, set(), 0
        self._declare(held, rows)
        shape = Shape(rows * GROUP) if rows else Shape.of(self.segment.statements)
        # Shared memory begins at such places, and a row's part of it too.
        own = {b for b in self.segment.touches() if b.is_private and b not in self.scratch}
        block.begin(shape, self.overlaps, self.aligned | own)
        block.groups(plans, rows)
        self._bases(block)
        if flat is not None and grid is not None:
            block.flat(grid, flat)
        else:
            self._statements(block)
        body, lines.lines = lines.lines, []
        self._head(lines, shape.threads, is_grid=grid is not None)
        for room, dtype, count in block.shared:
            lines.add(f"{room} = shared({dtype}, {count})")
        lines.lines += body
        says, count = f"One block of {shape.threads}.", self.segment.owners
        if grid is not None:
            says = f"{grid.extent} iterations, each a block of {shape.threads}"
            says += f", {rows} rows at a time." if rows else "."
        if flat is not None and grid is not None:
            total = grid.extent * flat.loop.extent
            says, count = f"{total} rows, {rows} a block.", -(-total // rows)
        rooms = [(dtype, count) for _, dtype, count in block.shared]
        return self._part(lines, shape.threads, count, says, rooms)

    def _strips(self, lines: Lines) -> Part:
        """Products of a strip of rows, and what stands between them."""
        grid, block = self.segment.grid, StripNest(lines, self.words, self.buffers)
        found = products(self.segment.statements)
        assert grid is not None, "products in a loop stand in a grid"
        plans, _ = self._plans()
        private = [b for b in self.segment.touches() if b.is_private]
        if any(b in self.scratch for b in private):
            raise PrintError("a strip that is not in the memory of its block")
        others = loops_in(self.segment.statements, plans)
        folds = sum(len(loop.folds) for loop in others if loop.kind == "vector")
        beside = sum(map(_bytes, private)) + 8 * MOST_STRIP_THREADS * folds
        each = -(-grid.extent // self.processors)
        tile = tile_for(found, beside, self.block_bytes, each)
        block.begin(Shape(tile.threads), self.overlaps, self.aligned | set(private))
        block.groups(plans, tile.threads // GROUP)
        block.multiplies(tile)
        self._declare((), 0)
        self._statements(block)
        body, lines.lines = lines.lines, []
        rooms, self.shared = [*self.shared, *block.shared], []
        self._head(lines, tile.threads, is_grid=True)
        used = _declared(lines, rooms)
        lines.lines += body
        says = f"{grid.extent} strips of {tile.rows} rows, products by tiles of {tile}."
        text = self._text(lines, tile.threads, used, says)
        return Part(text, grid.extent, tuple(self.arguments))

    def _plans(self) -> tuple[dict[For, RowPlan], RowPlan | None]:
        """The loops over rows that groups of threads take, and the one that is all that an
        iteration of the grid does, if it is.
        """
        statements, grid = self.segment.statements, self.segment.grid
        # Memory of a block begins at multiples of 16 bytes; what rows own is judged by itself.
        own = {b for b in self.segment.touches() if b.memory == "block" and b not in self.scratch}
        aligned = self.aligned | own
        plans = segment_plans(statements, lambda b: b not in self.scratch, self.overlaps, aligned)
        only = grid.body[0] if grid is not None and len(grid.body) == 1 else None
        plan = plans.get(only) if isinstance(only, For) else None
        if plan is not None and plan.is_apart:
            return plans, plan
        return {loop: each for loop, each in plans.items() if each.is_shared}, None

    def _rows(self, plans: Mapping[For, RowPlan], flat: RowPlan | None) -> int:
        """How many rows a block takes at a time."""
        if not plans:
            return 0
        kept = {buffer for plan in plans.values() for buffer in plan.kept}
        others = sum(
            -(-_bytes(b) // 16) * 16
            for b in self.segment.touches()
            if b.is_private and b not in self.scratch and b not in kept
        )
        rows = None
        if flat is not None:
            rows = self.segment.owners * flat.loop.extent
        room = MOST_SHARED - _FOLD_ROOM - others
        return rows_of(plans.values(), room, rows, self.processors)

    def _folding(self, plans: Collection[For]) -> int:
        """The threads that folds of other loops need."""
        loops = loops_in(self.segment.statements, plans)
        return Shape.of([x for x in loops if x.folds and x.kind == "vector"]).threads

    def _declare(self, held: Collection[Buffer], rows: int) -> None:
        """Private memory in shared memory, a part for each row where rows own it."""
        for buffer in self.segment.touches():
            if buffer.is_private and buffer.size and buffer not in self.scratch:
                size = buffer.size * (rows if buffer in held else 1)
                name, dtype = self.buffers[buffer], MEMORY_TYPES[buffer.dtype]
                self.shared.append((name, dtype, size))

    def _part(
        self, lines: Lines, threads: int, count: int, says: str, rooms: Sequence[tuple[str, int]]
    ) -> Part:
        used = 0
        for dtype, size in [*((dtype, size) for _, dtype, size in self.shared), *rooms]:
            used = -(-used // 16) * 16 + size * MEMORY_BYTES[dtype]
        return Part(self._text(lines, threads, used, says), count, tuple(self.arguments))

    def _memory(self, earlier: frozenset[Buffer]) -> None:
        """Names, and parameters for what is bound or in scratch."""
        stores = self.segment.stores()
        for buffer in self.segment.touches():
            name = self.buffers[buffer] = self.words.names.new(buffer.name)
            dtype = MEMORY_TYPES[buffer.dtype]
            if not buffer.is_private:
                access = buffer.access
                if access == "write" and buffer in earlier:
                    access = "update" if buffer in stores else "read"
                self._parameter(name, dtype, access, buffer.size, Argument(buffer))
            elif buffer in self.scratch:
                at, blocks = self.scratch[buffer]
                self._parameter(name, dtype, "update", buffer.size * blocks, Argument(None, at))

    def _parameter(
        self, name: str, dtype: str, access: Access, size: int, argument: Argument
    ) -> None:
        self.parameters.append(Parameter(name, dtype, access, size))
        self.arguments.append(argument)

    def _bases(self, nest: Nest) -> None:
        """Where a block's own part of scratch begins."""
        for buffer in self.segment.touches():
            if buffer in self.scratch and self.scratch[buffer][1] > 1:
                nest.bases[buffer] = f"{buffer.size} * b"

    def _statements(self, nest: RowNest) -> None:
        grid = self.segment.grid
        if grid is None:
            nest.body(self.segment.statements)
            return
        nest.grid = grid.index
        nest.lines.add(f"{self.words.define(grid.index)} = b")
        nest.body(grid.body)

    def _head(self, lines: Lines, threads: int, is_grid: bool) -> None:
        if is_grid:
            lines.add("b = block()")
        if threads > 1 or not is_grid:
            lines.add("t = thread()")
        for name, dtype, count in self.shared:
            lines.add(f"{name} = shared({dtype}, {count})")

    def _named(self) -> str:
        """What the parameters are, for people."""
        lines = [
            f"{p.name}: {self.titles[a.buffer]}, {p.size} {p.dtype}, {p.access}"
            for p, a in zip(self.parameters, self.arguments, strict=True)
            if a.buffer is not None and a.buffer in self.titles
        ]
        return "\n\n    " + "\n    ".join(lines) + "\n    " if lines else ""

    def _text(self, lines: Lines, threads: int, shared: int, says: str) -> Text:
        functions = function_texts(self.words.functions)
        given = ", ".join(p.name for p in self.parameters)
        about = f'    """{says}{self._named()}"""'
        kernel = "\n".join([f"def {self.name}({given}):", about, *lines.lines])
        source = "\n\n\n".join([*(f.source.strip() for f in functions), kernel]) + "\n"
        used = tuple(f.name for f in functions)
        return Text(self.name, source, tuple(self.parameters), threads, shared, used)
