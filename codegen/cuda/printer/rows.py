"""Loops over rows by groups of sixteen threads: a block takes several rows at a time, each group
one of them, and a thread four neighbouring columns of every sixty-four, by 16-byte accesses.

Thread x of a group so holds accumulators 4 x to 4 x + 3 of the 64 of a sum over the columns
(``ir.loop.order``) and meets their terms in order. Then accumulators are combined as the order
says: ways are threads that differ in bits 2 and 3, lanes those that differ in bits 1 and 0, and the
last two steps are (s0 + s2) + (s1 + s3) within a thread.

Sums over the rows, per column, take rows in order: the values of a step of columns go to shared
memory, and one thread a column adds those of all rows. So do sums of what rows give. What a row
keeps between its loops lies in shared memory, a row's part for each group; only the thread that
wrote an element reads it.

``row_plans`` says which loops may be written so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from gradc.codegen.cuda.printer.blocks import BlockNest
from gradc.codegen.cuda.printer.conflicts import Access
from gradc.codegen.cuda.printer.maps import FOUR, Four
from gradc.codegen.cuda.printer.nest import identity, start_of
from gradc.codegen.cuda.printer.row_plans import GROUP, STEP, RowPlan
from gradc.codegen.cuda.verbs import MEMORY_TYPES
from gradc.ir.loop.kernel import Fold, For, Load, Stmt, Store
from gradc.ir.loop.order import node_spans
from gradc.ir.loop.registers import accesses
from gradc.ir.tensor.core import DType


class RowNest(BlockNest):
    """A block's statements, of which loops over rows are taken by groups. ``rows`` are those of a
    step; a ``flat`` loop is the grid's whole iteration, and its rows are counted with the grid's.
    """

    def groups(self, plans: Mapping[For, RowPlan], rows: int) -> None:
        """Which loops, and how many rows at a time."""
        kept = {b for plan in plans.values() for b in plan.kept}
        self.plans, self.rows = plans, rows
        self.here = ""  # the condition that a group has a row, where it may have none
        self.active = str(rows)
        self._slots = ""
        if not plans:
            return
        self.group, self.lane = self.words.names.new("group"), self.words.names.new("lane")
        self.lines.add(f"{self.group} = shr(t, 4)")
        self.lines.add(f"{self.lane} = bitand(t, {GROUP - 1})")
        for buffer in kept:
            self.bases[buffer] = f"{buffer.size} * {self.group}"
        size = 2 * rows * max(plan.slot for plan in plans.values())
        if size:
            self._slots = self.words.names.new("values")
            self.shared.append((self._slots, "f32", size))

    def flat(self, grid: For, plan: RowPlan) -> None:
        """A grid of which every iteration walks rows that have nothing to do with each other."""
        loop, total = plan.loop, grid.extent * plan.loop.extent
        outer, index = self.words.define(grid.index), self.words.define(loop.index)
        row = outer if loop.extent == 1 else self.words.names.new("flat")
        self.lines.add(f"{row} = b * {self.rows} + {self.group}")
        conditions = [f"({row} < {total})"] if total % self.rows else []
        if loop.extent == 1:
            self.lines.add(f"{index} = 0")
        else:
            self.lines.add(f"{outer} = floordiv({row}, {loop.extent})")
            self.lines.add(f"{index} = mod({row}, {loop.extent})")
        if loop.limit is not None:
            conditions.append(f"({index} < {self.end(loop)})")
        self._set_here(" & ".join(conditions))
        self._row(plan)
        self.here = ""

    def _for(self, loop: For) -> None:
        plan = self.plans.get(loop)
        if plan is None:
            super()._for(loop)
            return
        self._before([a for s in loop.body for a in self._touched(s, plan)])
        self._steps_of(plan)

    def _touched(self, statement: Stmt, plan: RowPlan) -> Iterator[Access]:
        """What a statement of a row touches besides what rows keep, and sums over them."""
        for touched in accesses((statement,)):
            s = touched.statement
            if s.buffer in plan.kept or s in plan.sums:
                continue
            terms = dict(s.offset.terms)
            row, at = terms.pop(plan.loop.index, 0), None
            if touched.loop is not None:
                terms.pop(touched.loop.index, 0)
            others = [abs(n) for v, n in terms.items() if v is not self.grid]
            # Other trips of the loops around touch other elements.
            if row and all(n >= abs(row) * plan.loop.extent for n in others):
                at = (s.offset.constant, row)
            yield Access(s.buffer, isinstance(s, Store), f"rows of {self.rows}", at)

    def _set_here(self, condition: str) -> None:
        if condition:
            self.here = self.words.names.new("here")
            self.lines.add(f"{self.here} = {condition}")

    # ---- the rows of a block, some at a time

    def _steps_of(self, plan: RowPlan) -> None:
        loop = plan.loop
        totals = [self.words.define(fold.result) for fold in loop.folds]
        index, end = self.words.define(loop.index), self.end(loop)
        for fold, name in zip(loop.folds, totals, strict=True):
            self.lines.add(f"{name} = {start_of(fold)}")
        spans = node_spans(loop.extent) if any(f.is_tree for f in loop.folds) else ()
        rooms = []
        for fold in loop.folds:
            rooms.append(self.words.names.new("of_rows"))
            self.shared.append((rooms[-1], MEMORY_TYPES[fold.result.dtype], self.rows))

        def step(first: str, totals: Sequence[str]) -> None:
            self.lines.add(f"{index} = {first} + {self.group}")
            if loop.limit is not None or loop.extent % self.rows:
                self._set_here(f"{index} < {end}")
                self.active = self.words.names.new("active")
                self.lines.add(f"{self.active} = min({self.rows}, {end} - {first})")
            self._row(plan)
            self._fold_rows(loop.folds, totals, rooms)
            self.here, self.active = "", str(self.rows)

        self._step_level(loop, "0", end, totals, spans, step)
        self._nothing(loop, end, totals)

    def _step_level(
        self,
        loop: For,
        start: str,
        end: str,
        totals: Sequence[str],
        spans: Sequence[int],
        step: Callable[[str, Sequence[str]], None],
    ) -> None:
        """Rows [start, end) of one level of the tree of sums over rows."""
        first = self.words.names.new("first")
        if not spans:
            head = f"range({start}, {end}, {self.rows})"
            if start == "0" and loop.limit is None and loop.extent <= self.rows:
                self.lines.add(f"{first} = 0")
                step(first, totals)
                return

            def steps() -> None:
                with self.lines.block(f"for {first} in {head}"):
                    step(first, totals)

            self._settled(steps, loop.extent > self.rows, loop.limit is not None)
            return

        def parts_of() -> None:
            loop_over = self.lines.block(f"for {first} in range({start}, {end}, {spans[0]})")
            with loop_over, self._parts(loop.folds, totals, start_of) as parts:
                stop = self._stop(f"min({first} + {spans[0]}, {end})")
                self._step_level(loop, first, stop, parts, spans[1:], step)

        self._settled(parts_of, True, loop.limit is not None)

    def _fold_rows(
        self, folds: Sequence[Fold], totals: Sequence[str], rooms: Sequence[str]
    ) -> None:
        """What the rows of a step give, added in their order by every thread."""
        if not folds:
            return
        self._before([Access(room, True, "groups") for room in rooms])
        with self.lines.block(f"if {self._where(f'{self.lane} == 0')}"):
            for fold, room in zip(folds, rooms, strict=True):
                self.lines.add(f"store({room}, {self.group}, {self.words.scalar(fold.value)})")
        self._before([Access(room, False, "other") for room in rooms])
        for fold, total, room in zip(folds, totals, rooms, strict=True):
            row = self.words.names.new("n")
            with self.lines.block(f"for {row} in range({self.active})"):
                value = f"load({room}, {row})"
                self.lines.add(f"{total} = {self._step(fold, total, value)}")

    # ---- one row

    def _where(self, condition: str) -> str:
        return f"({condition}) & {self.here}" if self.here else condition

    def _row(self, plan: RowPlan) -> None:
        """What a group does with its row."""
        for statement in plan.loop.body:
            if isinstance(statement, For):
                self._columns(statement, plan)
            elif isinstance(statement, Load):
                self.load(statement, self.here)
            elif isinstance(statement, Store):
                self.store(statement, self._where(f"{self.lane} == 0"))
            else:
                self.plain(statement)
            self.pending.found.update(self._touched(statement, plan))

    def _columns(self, loop: For, plan: RowPlan) -> None:
        """A loop over the columns of a row."""
        end = self.end(loop)
        totals = []
        for fold in loop.folds:
            totals.append([self.words.names.new(f"{fold.result.name}_sum") for _ in range(FOUR)])
            for name in totals[-1]:
                self.lines.add(f"{name} = {identity(fold)}")
        sums = [s for s in plan.sums if s in loop.body]
        trees = any(fold.is_tree for fold in loop.folds)
        spans = node_spans(-(-loop.extent // STEP)) if trees else ()
        if not sums and self.here:
            end = self._stop(f"select({self.here}, {end}, 0)")
        self._level_of(loop, "0", end, totals, [n * STEP for n in spans], sums)
        for fold, four in zip(loop.folds, totals, strict=True):
            self._join(fold, four)

    def _level_of(
        self,
        loop: For,
        start: str,
        end: str,
        totals: Sequence[Sequence[str]],
        spans: Sequence[int],
        sums: Sequence[Store],
    ) -> None:
        """Columns [start, end) of one level of the tree of every accumulator."""
        lines, names = self.lines, self.words.names
        if spans:
            first, stop, step = names.new("first"), names.new("stop"), spans[0]
            with lines.block(f"for {first} in range({start}, {end}, {step})"):
                parts = [
                    [names.new("part") for _ in four] if fold.is_tree else four
                    for fold, four in zip(loop.folds, totals, strict=True)
                ]
                pairs = list(zip(loop.folds, parts, totals, strict=True))
                for fold, four, _ in pairs:
                    for name in four if fold.is_tree else ():
                        lines.add(f"{name} = {identity(fold)}")
                lines.add(f"{stop} = min({first} + {step}, {end})")
                self._level_of(loop, first, stop, parts, spans[1:], sums)
                for fold, four, whole in pairs:
                    for part, total in zip(four, whole, strict=True) if fold.is_tree else ():
                        lines.add(f"{total} = {self._step(fold, total, part)}")
            return
        index = self.words.define(loop.index)
        if not sums:
            own = f"{FOUR} * {self.lane}"
            first = own if start == "0" else f"{start} + {own}"
            with lines.block(f"for {index} in range({first}, {end}, {STEP})"):
                self._four(loop, totals, {})
            return
        self._summing(loop, index, totals, sums)

    def _four(self, loop: For, totals: Sequence[Sequence[str]], slots: Mapping[Store, str]) -> None:
        """Four neighbours, and their terms; values for sums over rows go to ``slots``."""
        writer = Four(self, loop, self.aligned, slots)
        writer.write()
        for fold, four in zip(loop.folds, totals, strict=True):
            for total, value in zip(four, writer.values(fold.value), strict=True):
                self.lines.add(f"{total} = {self._step(fold, total, value)}")

    def _summing(
        self, loop: For, index: str, totals: Sequence[Sequence[str]], sums: Sequence[Store]
    ) -> None:
        """Columns of which the rows' values are added up: a step of them is in shared memory while
        the next one is computed into the other half.
        """
        lines, names = self.lines, self.words.names
        at, half = names.new("column_step"), names.new("half")
        size = len(sums) * self.rows * STEP
        self._before([Access(self._slots, True, "groups")])
        with lines.block(f"for {at} in range(0, {loop.extent}, {STEP})"):
            lines.add(f"{half} = {size} * bitand(shr({at}, 6), 1)")
            lines.add(f"{index} = {at} + {FOUR} * {self.lane}")
            conditions = [self.here] if self.here else []
            conditions += [f"({index} < {loop.extent})"] if loop.extent % STEP else []
            own = f"{half} + {STEP} * {self.group} + {FOUR} * {self.lane}"
            slots = {
                s: f"{self._slots}, {own}" + (f" + {n * self.rows * STEP}" if n else "")
                for n, s in enumerate(sums)
            }
            if conditions:
                with lines.block(f"if {' & '.join(conditions)}"):
                    self._four(loop, totals, slots)
            else:
                self._four(loop, totals, slots)
            self._barrier()
            for n, s in enumerate(sums):
                self._before([Access(s.buffer, True, f"columns of {n}", (n, self.threads))])
                self._add_rows(s, loop, at, f"{half} + {n * self.rows * STEP}", n)
        self.pending.found = {a for a in self.pending.found if a.what != self._slots}
        if -(-loop.extent // STEP) % 2:  # what was read last is what is written next
            self.pending.found.add(Access(self._slots, False, "columns"))

    def _add_rows(self, store: Store, loop: For, at: str, slot: str, number: int) -> None:
        """The rows' values of one step of columns, added by a thread per column."""
        lines, words = self.lines, self.words
        first = number * STEP % self.threads
        column, row, total = (words.names.new(n) for n in ("column", "n", store.buffer.name))

        def one() -> None:
            words.variables[loop.index] = f"({at} + {column})"
            where, pointer = words.names.new("at"), self.buffers[store.buffer]
            lines.add(f"{where} = {self.at(store.buffer, store.offset)}")
            lines.add(f"{total} = load({pointer}, {where})")
            with lines.block(f"for {row} in range({self.active})"):
                value = f"load({self._slots}, {slot} + {STEP} * {row} + {column})"
                text = words.combine(store.combine, [total, value], DType.F32, DType.F32)
                lines.add(f"{total} = {text}")
            lines.add(f"store({pointer}, {where}, {total})")

        inside = f"{at} + {column} < {loop.extent}" if loop.extent % STEP else ""
        if self.threads < STEP:
            with lines.block(f"for {column} in range(t, {STEP}, {self.threads})"):
                if inside:
                    with lines.block(f"if {inside}"):
                        one()
                else:
                    one()
            return
        lines.add(f"{column} = t - {first}" if first else f"{column} = t")
        conditions = [f"({column} >= 0)"] if first else []
        conditions += [f"({column} < {STEP})"] if first + STEP < self.threads else []
        conditions += [f"({inside})"] if inside else []
        if conditions:
            with lines.block(f"if {' & '.join(conditions)}"):
                one()
        else:
            one()

    def _join(self, fold: Fold, four: Sequence[str]) -> None:
        """The accumulators of a row's threads into one, which all of them have."""
        lines, result = self.lines, self.words.define(fold.result)
        if fold.is_tree:
            lines.add(f"# {result}: accumulators of sixteen threads, in the sum's order")
            for step in (s // FOUR for s in fold.lane_order.steps if s >= FOUR):
                for name in four:
                    lines.add(
                        f"{name} = {self._step(fold, name, self._shuffled(fold, name, step))}"
                    )
        left, right = (self._step(fold, four[n], four[n + 2]) for n in (0, 1))
        names = [self.words.names.new(f"{result}_half") for _ in range(2)]
        lines.add(f"{names[0]} = {left}")
        lines.add(f"{names[1]} = {right}")
        lines.add(f"{result} = {self._step(fold, names[0], names[1])}")
        if not fold.is_tree:
            lines.add(f"# {result} of sixteen threads")
            for step in (8, 4, 2, 1):
                other = self._shuffled(fold, result, step)
                lines.add(f"{result} = {self._step(fold, result, other)}")
