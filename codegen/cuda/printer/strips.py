"""Products in the body of a grid loop: a block makes a strip of rows of one product, works on them,
and multiplies them by another matrix, all in its own memory (``passes.lower.strips``).

The strip lies in shared memory, row by row. A product takes one rectangle of columns after the
other, with slices on their way as everywhere (``slices``). A left factor that is the strip is read
where it lies: four neighbours of each of a thread's rows serve four steps of k. Rows between the
products are taken by groups of sixteen threads (``rows``).

Where the epilogue keeps nothing of a product in a whole rectangle, because a comparison of rows
with columns is false all over it (a causal mask), the product is not computed there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from gradc.codegen.cuda.printer.blocks import Shape
from gradc.codegen.cuda.printer.conflicts import Access
from gradc.codegen.cuda.printer.nest import Nest, PrintError
from gradc.codegen.cuda.printer.row_plans import GROUP
from gradc.codegen.cuda.printer.rows import RowNest
from gradc.codegen.cuda.printer.slices import Side
from gradc.codegen.cuda.printer.squares import Memory, ProductWriter
from gradc.codegen.cuda.printer.tiles import Tile, levels_of
from gradc.codegen.cuda.verbs import MEMORY_BYTES, MOST_SHARED
from gradc.ir.loop.kernel import (
    Affine,
    Const,
    For,
    Gemm,
    Index,
    Let,
    Load,
    Scalar,
    Stmt,
    Store,
    Var,
)
from gradc.ir.loop.registers import accesses
from gradc.ir.tensor.core import DType

_COLUMNS = (64, 32)
_NARROW = 32  # columns of a product that fill no wider tile
_DEPTHS = ((16, 4), (16, 2), (8, 2))  # steps of k of a slice, slices on their way
BESIDE_STRIP = 14 << 10  # bytes of a block: slices of factors, results of a tile, folds of rows
_THREADS = 128  # of a processor, under which some of its units have none
_LEAST_THREADS = 64  # those of the order of a sum in f32


def products(statements: Sequence[Stmt]) -> list[Gemm]:
    """The products in the body of a grid loop."""
    only = statements[0] if len(statements) == 1 else None
    body = only.body if isinstance(only, For) and only.kind == "grid" else ()
    return [s for s in body if isinstance(s, Gemm)]


def tile_for(found: Sequence[Gemm], beside: int, block_bytes: int, strips: int) -> Tile:
    """The tile of all products of a block, beside so many bytes of its strip and of folds of rows;
    a processor has so many ``strips``. Raises PrintError where none has room.
    """
    rows = found[0].m
    if any(gemm.m != rows or levels_of(gemm.k) > 1 for gemm in found) or rows % 4:
        raise PrintError("products of one loop that are no strips")
    room = MOST_SHARED if beside + BESIDE_STRIP <= MOST_SHARED else block_bytes
    is_narrow = min(gemm.n for gemm in found) <= _NARROW
    for columns in sorted(_COLUMNS, reverse=not is_narrow):
        for depth, stages in _DEPTHS:
            tile = Tile(rows, columns, 4, depth, stages)
            used = sum(size for _, size in tile.rooms(0)) * MEMORY_BYTES[tile.dtype]
            at_once = min(strips, max(1, block_bytes // (beside + used)))
            if at_once * tile.threads < _THREADS:  # half the rows a thread: twice as many
                tile = replace(tile, tall=2)
            if tile.threads >= _LEAST_THREADS and beside + used <= room:
                return tile
    raise PrintError("a strip that leaves no room for a tile")


class StripNest(RowNest):
    """A block's statements, products among them."""

    def multiplies(self, tile: Tile) -> None:
        """How: memory for slices and results, which all products share."""
        self.tile = tile
        names = ("left", "right", "results")
        for name, (dtype, size) in zip(names, tile.rooms(0), strict=True):
            self.shared.append((name, dtype, size))
        self.lines.add("row = 0")
        self.lines.add(f"y = floordiv(t, {tile.across})")
        self.lines.add(f"x = mod(t, {tile.across})")

    def body(self, statements: Sequence[Stmt]) -> None:
        for statement in statements:
            if isinstance(statement, Gemm):
                self._product(statement)
            else:
                super().body((statement,))

    def _product(self, gemm: Gemm) -> None:
        """A product of the strip; what it touches is known to others after a barrier."""
        memory = Memory(self.aligned, self.pending.overlaps)
        touched = [touched.statement for touched in accesses((gemm,))]
        others = [Access(s.buffer, isinstance(s, Store), "tiles") for s in touched]
        others += [Access(factor.buffer, False, "tiles") for factor in (gemm.left, gemm.right)]
        # The first slice arrives with a barrier; a product that is left out has none.
        if gemm.n <= self.tile.columns:
            slices = [Access("slices", True, "copies")]
            self._before(slices + (others if kept_where(gemm) else []))
        _Writer(self._single(), gemm, self.tile, memory).write()
        self.pending.found = {*others, Access("slices", False, "tiles")}

    @property
    def rows_at_once(self) -> int:
        """How many rows groups of threads take."""
        return self.tile.threads // GROUP

    @property
    def shape(self) -> Shape:
        return Shape(self.tile.threads)


class _Writer(ProductWriter):
    """Writes one product of a strip."""

    def __init__(self, nest: Nest, gemm: Gemm, tile: Tile, memory: Memory) -> None:
        super().__init__(nest, gemm, tile, memory, None)
        self.on_chip = gemm.left.buffer.is_private

    def write(self) -> None:
        """The rectangles of columns, one after the other."""
        gemm, tile, lines = self.gemm, self.tile, self.lines
        across = -(-gemm.n // tile.columns)
        says = "the strip" if self.on_chip else f"{gemm.k} steps"
        lines.add(f"# {gemm.m} x {gemm.n} from {says}")
        if self.on_chip:
            self._strip = self.nest.words.names.new("lines")
            at = self.nest.words.affine(gemm.left.at + gemm.left.offset)
            here = f"{tile.down * gemm.left.row} * y"
            lines.add(f"{self._strip} = {here}" + (f" + {at}" if at != "0" else ""))
        left = Side("left", "row", tile.rows, gemm.m, gemm.k, tile)
        right = Side("right", "column", tile.columns, gemm.n, gemm.k, tile)
        if across == 1:
            lines.add("column = 0")
            self._rectangle(left, right)
            return
        with lines.block(f"for across in range({across})"):
            lines.add(f"column = {tile.columns} * across")
            lines.add("barrier()")
            self._rectangle(left, right)

    def _rectangle(self, left: Side, right: Side) -> None:
        self.sides = [] if self.on_chip else [self._slices(self.gemm.left, left)]
        self.sides.append(self._slices(self.gemm.right, right))
        with self._where_kept():
            for one in self.sides:
                one.base(())
            self._first()
            self._sum()
        self._results()

    @contextmanager
    def _where_kept(self) -> Iterator[None]:
        """The sum, where something of it is kept."""
        kept = kept_where(self.gemm)
        if not kept or self.levels:
            yield
            return
        self.lines.add(f"acc = zeros({self.tile.dtype}, {self.tile.values})")
        conditions = [f"({self._most(form)} >= 0)" for form in kept]
        self.lines.add("# what follows keeps nothing of the product elsewhere")
        with self.lines.block(f"if {' & '.join(conditions)}"):
            yield

    def _most(self, form: Affine) -> str:
        """The most that a form of rows and columns takes in a rectangle."""
        gemm, tile = self.gemm, self.tile
        i, j = form.coefficient(gemm.i), form.coefficient(gemm.j)
        constant = form.constant + max(0, i * (gemm.m - 1)) + max(0, j * (tile.columns - 1))
        terms = tuple((v, n) for v, n in form.terms if v not in (gemm.i, gemm.j))
        text = self.nest.words.affine(Affine(constant, terms))
        return f"{text} + {j} * column" if j else text

    # ---- the strip as a factor

    def _places(self) -> None:
        """Where this thread's rows and columns lie in the current slice."""
        if not self.on_chip:
            super()._places()
            return
        self._place("right", "x", self.sides[0].side)

    def _step(self, n: str) -> None:
        if not self.on_chip:
            super()._step(n)
            return
        stride, down = self.gemm.left.row, self.tile.down
        if not n.isdigit():  # the last steps, one by one
            at = f"{self._strip} + {self.gemm.k - self.gemm.k % self.tile.depth} + {n}"
            loads = [f"load({self._name}, {at} + {stride * r})" for r in range(down)]
            rows = ", ".join(loads)
            self.lines.add(f"rows = ({rows})")
        else:
            if int(n) % 4 == 0:
                for r in range(down):
                    at = f"{self._strip} + k + {int(n) + stride * r}"
                    self.lines.add(f"line_{r} = load4({self._name}, {at})")
            rows = ", ".join(f"line_{r}[{int(n) % 4}]" for r in range(down))
            self.lines.add(f"rows = ({rows})")
        self._load_side("right", "columns", self.sides[0].side, n)
        self.lines.add("acc = outer(acc, rows, columns)")

    @property
    def _name(self) -> str:
        return self.nest.buffers[self.gemm.left.buffer]


# ---- masks


def kept_where(gemm: Gemm) -> list[Affine]:
    """Forms of rows and columns that must be 0 or more somewhere in a rectangle, each of them, or
    else the epilogue keeps nothing of the product there.
    """
    forms = _Forms(gemm)
    found = []
    for s in gemm.epilogue:
        if isinstance(s, Let) and s.var.dtype is DType.BOOL:
            needs = forms.needed(s)
            if needs and _is_dropped(gemm, s.var):
                found += [form for form in needs if form not in found]
    return found


def _is_dropped(gemm: Gemm, condition: Var) -> bool:
    """Whether no store depends on the product where ``condition`` is false."""
    kept: set[Scalar] = {gemm.acc}
    for s in gemm.epilogue:
        if isinstance(s, Let):
            given = s.operands[2:] if s.verb == "select" and s.operands[0] is condition else None
            if any(x in kept for x in (s.operands if given is None else given)):
                kept.add(s.var)
        elif isinstance(s, Load):
            used: list[Scalar | None] = [s.guard, *(v for v, _ in s.offset.terms)]
            if any(x in kept for x in used):
                kept.add(s.var)
        elif isinstance(s, Index):
            if any(v in kept for v, _ in s.value.terms):
                kept.add(s.var)
        elif isinstance(s, Store):
            used = [s.value, s.guard, *(v for v, _ in s.offset.terms)]
            if any(x in kept for x in used):
                return False
    return True


@dataclass
class _Forms:
    """What integers of an epilogue are, as forms of rows, columns and indices around the product;
    they are small, so that no type rounds or wraps them.
    """

    gemm: Gemm

    def __post_init__(self) -> None:
        self.known: dict[Scalar, Affine] = {}
        self.conditions: dict[Scalar, list[Affine]] = {}
        for var in (self.gemm.i, self.gemm.j):
            self.known[var] = Affine.of(var)
        for s in self.gemm.epilogue:
            if isinstance(s, Index):
                self.known[s.var] = _expanded(s.value, self.known)
            elif isinstance(s, Let) and s.verb == "cast" and s.var.dtype in (DType.I32, DType.I64):
                form = self._of(s.operands[0])
                if form is not None:
                    self.known[s.var] = form
            elif isinstance(s, Let) and s.verb in ("add", "sub"):
                one, other = map(self._of, s.operands)
                if one is not None and other is not None and not s.var.dtype.is_float:
                    self.known[s.var] = one + other * (1 if s.verb == "add" else -1)

    def _of(self, x: Scalar) -> Affine | None:
        if isinstance(x, Const):
            is_index = x.dtype in (DType.I32, DType.I64)
            return Affine(int(x.value)) if is_index else None
        return self.known.get(x)

    def needed(self, let: Let) -> list[Affine]:
        """Forms that must be 0 or more, each somewhere, for a condition to hold somewhere."""
        if let.verb in ("logical_and", "bitand", "min", "mul"):
            parts = [self.conditions.get(x, []) for x in let.operands]
            self.conditions[let.var] = [form for part in parts for form in part]
        elif let.verb in _DIFFERENCES:
            one, other = map(self._of, let.operands)
            if one is not None and other is not None:
                sign, less = _DIFFERENCES[let.verb]
                self.conditions[let.var] = [(one + other * -1) * sign + less]
        return self.conditions.get(let.var, [])


# a - b times this plus that is 0 or more
_DIFFERENCES: Mapping[str, tuple[int, int]] = {
    "ge": (1, 0),
    "gt": (1, -1),
    "le": (-1, 0),
    "lt": (-1, -1),
}


def _expanded(value: Affine, known: Mapping[Scalar, Affine]) -> Affine:
    total = Affine(value.constant)
    for var, n in value.terms:
        total = total + known.get(var, Affine.of(var)) * n
    return total
