"""The text of a product by tiles.

Slices are on their way while earlier ones are multiplied. A thread's rows are runs of four, half a
tile apart where it has eight, and so are its columns: then the 16-byte reads of a warp meet no bank
twice. Sums of leaves and nodes lie in shared memory, where every thread has its own elements.

Results go through shared memory as well: a thread takes its own back, four neighbours at a time,
where rows allow 16-byte accesses; else threads take neighbouring elements, whose they may be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gradc.codegen.cuda.printer.conflicts import Overlaps
from gradc.codegen.cuda.printer.maps import Four, width_of
from gradc.codegen.cuda.printer.nest import Nest
from gradc.codegen.cuda.printer.products import times, unflatten
from gradc.codegen.cuda.printer.slices import Side, Slices
from gradc.codegen.cuda.printer.tiles import Tile, strides
from gradc.codegen.cuda.printer.windows import Windows
from gradc.ir.loop.kernel import Buffer, Factor, For, Gemm
from gradc.ir.loop.order import K_LEAF, K_NODE, node_spans


@dataclass(frozen=True, slots=True)
class Memory:
    """What is known of a kernel's buffers: which begin at multiples of 16 bytes, which share."""

    aligned: frozenset[Buffer]
    overlaps: Overlaps


def write_tiles(
    nest: Nest, gemm: Gemm, tile: Tile, memory: Memory, span: int | None = None
) -> None:
    """Writes what a block does. ``span``: a block sums that many steps of k only, those that the
    first of the batch's indices counts.
    """
    ProductWriter(nest, gemm, tile, memory, span).write()


class ProductWriter:
    """Writes one product. ``left``, ``right`` and ``results`` are names of shared memory."""

    def __init__(
        self, nest: Nest, gemm: Gemm, tile: Tile, memory: Memory, span: int | None
    ) -> None:
        self.nest = nest
        self.gemm = gemm
        self.tile = tile
        self.memory = memory
        self.lines = nest.lines
        self.span = span
        self.sides: list[Slices | Windows] = []
        self.spans = node_spans(span or gemm.k, K_LEAF, K_NODE)
        self.levels = len(self.spans)
        self.start, self.stop = ("0", str(gemm.k)) if span is None else ("first", "stop")
        slices = -(-(span or gemm.k) // tile.depth)
        self.stages = tile.stages if slices >= tile.stages - 1 else 2

    def write(self) -> None:
        gemm, tile, add = self.gemm, self.tile, self.lines.add
        names = ("left", "right", "results", "nodes")
        for name, (dtype, size) in zip(names, tile.rooms(self.levels), strict=False):
            add(f"{name} = shared({dtype}, {size})")
        across, down = -(-gemm.n // tile.columns), -(-gemm.m // tile.rows)
        batch = [self.nest.words.define(var) for var in gemm.batch_index]
        unflatten(self.nest, "b", (*gemm.batch, down, across), [*batch, "down", "across"])
        add(f"row = {tile.rows} * down")
        add(f"column = {tile.columns} * across")
        if self.span is not None:
            add(f"first = {self.span} * {batch[0]}")
            add(f"stop = min(first + {self.span}, {gemm.k})")
        add(f"y = floordiv(t, {tile.across})")
        add(f"x = mod(t, {tile.across})")
        left = Side("left", "row", tile.rows, gemm.m, gemm.k, tile)
        right = Side("right", "column", tile.columns, gemm.n, gemm.k, tile)
        self.sides = [self._slices(gemm.left, left), self._slices(gemm.right, right)]
        for one in self.sides:
            one.base(batch)
        self._first()
        self._sum()
        self._results()

    def _slices(self, factor: Factor, side: Side) -> Slices | Windows:
        if factor.patch is not None:
            return Windows(self.nest, factor, factor.patch, side)
        aligned = factor.buffer in self.memory.aligned
        return Slices(self.nest, factor, strides(self.gemm, factor), side, aligned)

    # ---- slices

    def _first(self) -> None:
        """The first slices set off."""
        add = self.lines.add
        add("# slices are on their way before they are used")
        if self.stages == 2:
            self._copy(self.start, "0")
        else:
            with self.lines.block(f"for stage in range({self.stages - 1})"):
                first = "" if self.start == "0" else f"{self.start} + "
                add(f"k = {first}{self.tile.depth} * stage")
                if self.span is None or self.gemm.k % self.span == 0:
                    self._copy("k", "stage")
                else:  # the last part may have fewer slices
                    with self.lines.block("if k < stop"):
                        self._slices_from("k", "stage")
                    add("commit_copies()")
        add("now = 0")

    def _copy(self, k: str, slot: str) -> None:
        self._slices_from(k, slot)
        self.lines.add("commit_copies()")

    def _slices_from(self, k: str, slot: str) -> None:
        for one in self.sides:
            one.copy(k, slot)

    def _arrive(self) -> None:
        """The slice that is used next is there for all."""
        self.lines.add(f"wait_copies({self.stages - 2})")
        self.lines.add("barrier()")

    def _turn(self) -> None:
        """On to the next stage."""
        add = self.lines.add
        add("now = 1 - now" if self.stages == 2 else f"now = bitand(now + 1, {self.stages - 1})")

    def _slice(self) -> None:
        """One slice multiplied while a later one sets off into the place of the one before."""
        tile, lines = self.tile, self.lines
        self._arrive()
        ahead = tile.depth * (self.stages - 1)
        if self.stages == 2:
            lines.add("free = 1 - now")
        else:
            lines.add(f"free = bitand(now + {self.stages - 1}, {self.stages - 1})")
        with lines.block(f"if k + {ahead} < {self.stop}"):
            self._slices_from(f"k + {ahead}", "free")
        lines.add("commit_copies()")
        self._places()
        for n in range(tile.depth):
            self._step(str(n))
        self._turn()

    def _places(self) -> None:
        """Where this thread's rows and columns lie in the current slice."""
        for name, place, one in zip(("left", "right"), "yx", self.sides, strict=True):
            self._place(name, place, one.side)

    def _place(self, name: str, place: str, side: Side) -> None:
        runs = self.tile.down if name == "left" and self.tile.own == 4 else 4
        self.lines.add(f"{name}_now = {side.slice_size} * now + {runs} * {place}")

    def _step(self, n: str) -> None:
        """One step of k: rows times columns of this thread."""
        found = ("rows", "columns")
        for name, into, one in zip(("left", "right"), found, self.sides, strict=True):
            self._load_side(name, into, one.side, n)
        self.lines.add("acc = outer(acc, rows, columns)")

    def _load_side(self, name: str, into: str, side: Side, n: str) -> None:
        """This thread's rows (columns) of step ``n`` of a slice."""
        at = f"{name}_now"
        if n != "0":
            at += f" + {side.stride * int(n) if n.isdigit() else times(n, side.stride)}"
        count, half = self.tile.own, side.size // 2
        if name == "left" and self.tile.down < 4:
            loads = ", ".join(f"load({name}, {at} + {r})" for r in range(self.tile.down))
            self.lines.add(f"{into} = ({loads})")
        elif count == 4:
            self.lines.add(f"{into} = load4({name}, {at})")
        else:
            self.lines.add(f"{into} = load_runs({name}, {at}, {half}, {count})")

    # ---- the sum

    def _sum(self) -> None:
        self._level(self.spans, self.start, self.span or self.gemm.k)

    def _level(self, spans: Sequence[int], start: str, stop: int) -> None:
        """The sum over [start, start + stop), of which the last may be shorter."""
        lines, k, depth = self.lines, self.gemm.k, self.tile.depth
        if not spans:
            whole = k - k % depth
            end = str(whole) if start == "0" else f"{start} + {stop}"
            if start != "0" and -(-k // stop) * stop > whole:
                end = f"min({end}, {whole})"
            lines.add(f"acc = zeros({self.tile.dtype}, {self.tile.values})")
            with lines.block(f"for k in range({start}, {end}, {depth})"):
                self._slice()
            self._tail(start, stop)
            return
        span, index = spans[0], ("node", "leaf")[len(spans) == 1]
        end = str(k) if start == "0" else f"min({start} + {stop}, {k})"
        with lines.block(f"for {index} in range({start}, {end}, {span})"):
            self._level(spans[1:], index, span)
            self._add(index, start, ("results", "nodes")[self.levels - len(spans)], len(spans) == 1)

    def _add(self, index: str, start: str, room: str, is_leaf: bool) -> None:
        """A leaf or a node is added to the sum that it is a part of."""
        tile, lines = self.tile, self.lines
        step = 4 * tile.threads
        total = f"load_runs({room}, 4 * t, {step}, {tile.values})"
        value = "acc" if is_leaf else f"load_runs(nodes, 4 * t, {step}, {tile.values})"
        with lines.block(f"if {index} == {start}"):
            lines.add(f"store_runs({room}, 4 * t, {step}, {value})")
        with lines.block(f"if {index} != {start}"):
            lines.add(f"store_runs({room}, 4 * t, {step}, each_sum({total}, {value}))")

    def _tail(self, start: str, stop: int) -> None:
        """The last steps, which are no slice."""
        rest = self.gemm.k % self.tile.depth
        if not rest:
            return

        def write() -> None:
            self._arrive()
            self._places()
            with self.lines.block(f"for n in range({rest})"):
                self._step("n")

        if start == "0":
            write()
            return
        with self.lines.block(f"if {start} + {stop} >= {self.gemm.k}"):
            write()

    # ---- results

    def _results(self) -> None:
        """Results of every thread to shared memory, some at a time, then each one's epilogue."""
        tile, lines = self.tile, self.lines
        step = 4 * tile.threads
        if self.levels:
            self._part("0", tile.values // 4)
        elif tile.part == tile.values:
            lines.add(f"store_runs(results, 4 * t, {step}, acc)")
            self._part("0", tile.values // 4)
        else:
            first = ", ".join(f"acc[{n}]" for n in range(tile.part))
            with lines.block(f"for part in range({tile.values // tile.part})"):
                lines.add(f"store_runs(results, 4 * t, {step}, ({first}))")
                self._part(times("part", tile.part // 4), tile.part // 4)
                lines.add(f"acc = turned(acc, {tile.part})")

    def _part(self, first: str, runs: int) -> None:
        """Epilogues of ``runs`` runs of every thread, from its run number ``first`` on."""
        gemm, tile, lines = self.gemm, self.tile, self.lines
        loop = For(gemm.j, gemm.n, "vector", gemm.epilogue)
        step = 4 * tile.threads
        number = "run" if first == "0" else f"{first} + run"
        if width_of(loop, self.memory.overlaps, self.memory.aligned) == 4:
            with lines.block(f"for run in range({runs})"):
                self._four(loop, number, f"{step} * run + 4 * t")
            return
        lines.add("barrier()")
        with lines.block(f"for element in range(t, {runs * step}, {tile.threads})"):
            lines.add(f"run = floordiv(element, {step})")
            lines.add(f"other = mod(element, {step})")
            self._one(number)
        if first != "0":
            lines.add("barrier()")

    def _places_of(self, number: str, y: str, x: str) -> tuple[str, str]:
        """Names of the row and the column of a run's element."""
        tile, gemm, words, add = self.tile, self.gemm, self.nest.words, self.lines.add
        i, j = words.define(gemm.i), words.define(gemm.j)
        if tile.own == 4:
            add(f"{i} = row + {tile.down} * {y} + {number}")
            add(f"{j} = column + {x}")
            return i, j
        add(f"line = {number}")
        add(f"half = {tile.rows // 2} * floordiv(line, 8)")
        add(f"{i} = row + 4 * {y} + half + floordiv(mod(line, 8), 2)")
        add(f"{j} = column + {x} + {tile.columns // 2} * mod(line, 2)")
        return i, j

    def _inside(self, i: str, j: str) -> str:
        inside = []
        if self.gemm.m % self.tile.rows:
            inside.append(f"({i} < {self.gemm.m})")
        if self.gemm.n % self.tile.columns:
            inside.append(f"({j} < {self.gemm.n})")
        return " & ".join(inside)

    def _four(self, loop: For, number: str, place: str) -> None:
        """The epilogue of four neighbours of this thread."""
        words, lines = self.nest.words, self.lines
        state = words.state()
        condition = self._inside(*self._places_of(number, "y", "4 * x"))

        def body() -> None:
            acc = [words.names.new(self.gemm.acc.name) for _ in range(4)]
            lines.add(f"{', '.join(acc)} = load4(results, {place})")
            Four(self.nest, loop, self.memory.aligned, each={self.gemm.acc: acc}).write()

        self._where(condition, body)
        words.reset(state)

    def _one(self, number: str) -> None:
        """The epilogue of one element, whose it may be."""
        words, lines = self.nest.words, self.lines
        state = words.state()
        wide = 4 * self.tile.across
        places = self._places_of(number, f"floordiv(other, {wide})", f"mod(other, {wide})")

        def body() -> None:
            lines.add(f"{words.define(self.gemm.acc)} = load(results, element)")
            self.nest.body(self.gemm.epilogue)

        self._where(self._inside(*places), body)
        words.reset(state)

    def _where(self, condition: str, body: Callable[[], None]) -> None:
        if not condition:
            body()
            return
        with self.lines.block(f"if {condition}"):
            body()
