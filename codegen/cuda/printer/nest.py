"""Statements that one thread runs for itself: the body of a vector loop's iteration, the epilogue
of a product, and serial loops with their folds there.

Folds of serial loops are trees of leaves and nodes (``ir.loop.order``): nested loops, each level
with a total of its own that starts at -0, so that its first step gives the first value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from gradc.codegen.cuda.printer.lines import Lines
from gradc.codegen.cuda.printer.words import Words, from_element, literal, to_element, zero
from gradc.ir.loop.execute import neutral
from gradc.ir.loop.kernel import (
    Affine,
    Buffer,
    Fold,
    For,
    Index,
    Let,
    Load,
    Stmt,
    Store,
)
from gradc.ir.loop.order import node_spans


class PrintError(ValueError):
    """A kernel that has no text."""


def start_of(fold: Fold) -> str:
    """What a serial fold starts with so that its first step gives the first value, -0 included."""
    dtype = fold.result.dtype
    if fold.combine == "add" and dtype.is_float:
        return literal(-0.0, dtype)
    return identity(fold)


def identity(fold: Fold) -> str:
    """The neutral element: what a fold over nothing gives."""
    return literal(neutral(fold.combine, fold.result.dtype), fold.result.dtype)


class Nest:
    """Writes statements. ``bases`` are what is added to the addresses of buffers that have several
    owners in one memory.
    """

    def __init__(self, lines: Lines, words: Words, buffers: Mapping[Buffer, str]) -> None:
        self.lines = lines
        self.words = words
        self.buffers = buffers
        self.bases: dict[Buffer, str] = {}

    def body(self, statements: Sequence[Stmt]) -> None:
        """Statements in order, by this thread alone."""
        for statement in statements:
            if isinstance(statement, For):
                self.loop(statement)
            else:
                self.plain(statement)

    def plain(self, statement: Stmt) -> None:
        """A statement that is no loop."""
        if isinstance(statement, Let):
            operands, dtype = statement.operands, statement.var.dtype
            text = self.words.let(statement.verb, operands, dtype)
            self.lines.add(f"{self.words.define(statement.var)} = {text}")
        elif isinstance(statement, Index):
            text = self.words.affine(statement.value)
            self.lines.add(f"{self.words.define(statement.var)} = {text}")
        elif isinstance(statement, Load):
            self.load(statement)
        elif isinstance(statement, Store):
            self.store(statement)
        else:
            raise PrintError(f"a {type(statement).__name__} stands inside of a loop")

    def at(self, buffer: Buffer, offset: Affine) -> str:
        """The address of an element."""
        text, base = self.words.affine(offset), self.bases.get(buffer)
        return text if base is None else f"{base} + {text}" if text != "0" else base

    def load(self, load: Load, condition: str = "") -> None:
        """A load, where ``condition`` holds besides its guard; else 0."""
        guard = "" if load.guard is None else self.words.scalar(load.guard)
        if guard and condition:
            condition = f"{condition} & {guard}"
        condition = condition or guard
        buffer, name = load.buffer, self.words.define(load.var)
        at = self.at(buffer, load.offset)
        text = from_element(f"load({self.buffers[buffer]}, {at})", buffer.dtype)
        if not condition:
            self.lines.add(f"{name} = {text}")
            return
        self.lines.add(f"{name} = {zero(buffer.dtype)}")
        with self.lines.block(f"if {condition}"):
            self.lines.add(f"{name} = {text}")

    def store(self, store: Store, condition: str = "") -> None:
        """A store, where ``condition`` holds besides its guard."""
        guard = "" if store.guard is None else self.words.scalar(store.guard)
        if guard and condition:
            condition = f"({condition}) & {guard}"
        condition = condition or guard
        if not condition:
            self._store(store)
            return
        with self.lines.block(f"if {condition}"):
            self._store(store)

    def _store(self, store: Store) -> None:
        buffer, pointer = store.buffer, self.buffers[store.buffer]
        dtype, at = buffer.dtype, self.at(store.buffer, store.offset)
        value = self.words.scalar(store.value)
        if store.combine:
            place, old = self.words.names.new("at"), self.words.names.new("old")
            self.lines.add(f"{place} = {at}")
            there = from_element(f"load({pointer}, {place})", dtype)
            self.lines.add(f"{old} = {there}")
            value = self.words.combine(store.combine, [old, value], dtype, dtype)
            at = place
        self.lines.add(f"store({pointer}, {at}, {to_element(value, dtype)})")

    # ---- loops

    def loop(self, loop: For) -> None:
        """A loop in order, its folds from the left."""
        self.serial(loop, lambda: self.body(loop.body))

    def serial(self, loop: For, body: Callable[[], None]) -> None:
        """Iterations in order, each as ``body`` writes it."""
        index = self.words.define(loop.index)
        results = [self.words.define(fold.result) for fold in loop.folds]
        ordered = any(fold.is_tree for fold in loop.folds)
        spans = node_spans(loop.extent) if ordered else ()
        end = self.end(loop)
        for fold, name in zip(loop.folds, results, strict=True):
            self.lines.add(f"{name} = {start_of(fold)}")
        self._level(loop, index, "0", end, results, spans, body)
        self._nothing(loop, end, results)

    def end(self, loop: For) -> str:
        """The trip count, as an expression."""
        if loop.limit is None:
            return str(loop.extent)
        name = self.words.names.new("end")
        limit = self.words.affine(loop.limit)
        self.lines.add(f"{name} = max(min({limit}, {loop.extent}), 0)")
        return name

    def _nothing(self, loop: For, end: str, results: Sequence[str]) -> None:
        """A sum over nothing is +0."""
        for fold, name in zip(loop.folds, results, strict=True):
            if start_of(fold) == identity(fold) or (end == str(loop.extent) and loop.extent):
                continue
            with self.lines.block(f"if {end} == 0"):
                self.lines.add(f"{name} = {identity(fold)}")

    def _level(
        self,
        loop: For,
        index: str,
        start: str,
        end: str,
        totals: Sequence[str],
        spans: Sequence[int],
        body: Callable[[], None],
    ) -> None:
        """Iterations [start, end) of one level of the tree, added to ``totals``."""
        lines = self.lines
        if not spans:
            head = f"range({end})" if start == "0" else f"range({start}, {end})"
            with lines.block(f"for {index} in {head}"):
                body()
                for fold, total in zip(loop.folds, totals, strict=True):
                    value = self.words.scalar(fold.value)
                    lines.add(f"{total} = {self._step(fold, total, value)}")
            return
        step = spans[0]
        first = self.words.names.new("first")
        with lines.block(f"for {first} in range({start}, {end}, {step})"):
            is_even = loop.limit is None and loop.extent % step == 0
            stop = f"{first} + {step}" if is_even else f"min({first} + {step}, {end})"
            with self._parts(loop.folds, totals, start_of) as parts:
                self._level(loop, index, first, self._stop(stop), parts, spans[1:], body)

    def _step(self, fold: Fold, total: str, value: str) -> str:
        dtype = fold.result.dtype
        return self.words.combine(fold.combine, [total, value], dtype, dtype)

    @contextmanager
    def _parts(
        self, folds: Sequence[Fold], totals: Sequence[str], start: Callable[[Fold], str]
    ) -> Iterator[list[str]]:
        """What folds add to inside: a part of a tree, which begins with ``start`` and is added to
        its total afterwards; other folds go on with their totals.
        """
        parts = [
            self.words.names.new("part") if fold.is_tree else total
            for fold, total in zip(folds, totals, strict=True)
        ]
        trees = [
            (fold, part, total)
            for fold, part, total in zip(folds, parts, totals, strict=True)
            if fold.is_tree
        ]
        for fold, part, _ in trees:
            self.lines.add(f"{part} = {start(fold)}")
        yield parts
        for fold, part, total in trees:
            self.lines.add(f"{total} = {self._step(fold, total, part)}")

    def _stop(self, text: str) -> str:
        name = self.words.names.new("stop")
        self.lines.add(f"{name} = {text}")
        return name
