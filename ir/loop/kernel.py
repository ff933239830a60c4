"""The loop IR: kernels as loop nests over flat buffers, in A-normal form. Stage ``loop``; backends
accept only this.

A kernel is a closed function of its buffers. Scalars are ``Var``s, each defined once, by ``Let``,
``Load``, a loop index, or the result of a ``Fold``. Addresses are ``Affine`` in loop indices (and
in i64 scalars, for gathers), counted in elements from the buffer's start.

Meaning of loops, fixed so that every backend gives the same bits:
* ``grid``: iterations are independent (no folds; stores of different iterations never overlap).
  Outermost only: a backend spreads them over threads, or over the blocks of a graphics processor.
* ``block``: the second level, inside a grid loop's iteration or a serial loop there: again
  independent iterations, the threads of one block. What one of them wrote is seen by all others
  after the loop, and by none before its end. Processors with one level run it in order.
* ``serial``: in order. Folds accumulate from the left, starting at the first value (identity if
  there is none); sums are trees of such runs.
* ``vector``: iterations are independent but for folds, which go to lanes and ways. Which hardware
  runs them is the backend's choice: vector registers, the threads of a block, one after another.
A fold's ``value`` is combined as ``acc = combine(acc, value)`` in the order of ``ir.loop.order``,
which follows from the loop's kind, its extent and the element type. Sums of bf16/f16 values are
folds over f32 Vars: the kernel casts before folding.

Memory of a buffer, apart from how it is accessed:
* ``argument``: a value that the launch names, wherever the Plan has put it.
* ``arena``: room of the launch's own in the arena, which all iterations share.
* ``block``: private to one iteration of the grid loop, shared by the block loops in it.
* ``thread``: private to one iteration of the innermost grid or block loop around it.
* ``register``: as ``thread``, but no address is ever computed: each access is at a constant plus
  the index of the vector loop it stands in (``ir.loop.registers``), so that lanes hold what is
  theirs. A backend keeps as much of it in registers as it has.
Private memory is uninitialised when the iteration it belongs to begins.

Non-goals: bounds proofs at this level (the verifier checks static offsets), aliasing: two buffers
of one call may be the same memory only if the Plan says so and each iteration reads an element
before it writes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Literal, TypeAlias

from gradc.ir.loop.order import FoldOrder, lane_order
from gradc.ir.tensor.core import DType, Span


@dataclass(frozen=True, slots=True, eq=False)
class Var:
    """A scalar of a kernel: loop index (i64) or computed value. ``name`` is unique within the
    kernel.
    """

    name: str
    dtype: DType


@dataclass(frozen=True, slots=True)
class Const:
    """A literal operand."""

    value: float | int | bool
    dtype: DType


Scalar: TypeAlias = Var | Const


@dataclass(frozen=True, slots=True)
class Affine:
    """``constant + sum(coefficient * var)``; vars are loop indices or i64 scalars; no zero
    coefficients.
    """

    constant: int = 0
    terms: tuple[tuple[Var, int], ...] = ()

    @staticmethod
    def of(var: Var) -> Affine:
        return Affine(0, ((var, 1),))

    def __add__(self, other: Affine | int) -> Affine:
        if isinstance(other, int):
            return Affine(self.constant + other, self.terms)
        total = dict(self.terms)
        for var, coefficient in other.terms:
            total[var] = total.get(var, 0) + coefficient
        kept = tuple((v, c) for v, c in total.items() if c)
        return Affine(self.constant + other.constant, kept)

    def __mul__(self, factor: int) -> Affine:
        if factor == 0:
            return Affine()
        return Affine(self.constant * factor, tuple((v, c * factor) for v, c in self.terms))

    def coefficient(self, var: Var) -> int:
        """The factor of ``var``; 0 if absent."""
        return dict(self.terms).get(var, 0)


Access: TypeAlias = Literal["read", "write", "update"]
Memory: TypeAlias = Literal["argument", "arena", "block", "thread", "register"]
ExchangeKind: TypeAlias = Literal["deal", "share", "deal_across", "share_across"]
LoopKind: TypeAlias = Literal["grid", "block", "serial", "vector"]


@dataclass(frozen=True, slots=True, eq=False)
class Buffer:
    """A flat array of ``size`` elements. Private memory is always ``update``: read and written."""

    name: str
    dtype: DType
    size: int
    access: Access
    memory: Memory = "argument"

    @property
    def is_private(self) -> bool:
        """Whether it belongs to an iteration, so that no launch names it."""
        return self.memory in ("block", "thread", "register")


@dataclass(frozen=True, slots=True, eq=False)
class Let:
    """``var = verb(operands)``; ``verb`` is a row of VERBS, or ``cast`` (to ``var.dtype``), or
    ``copy``.
    """

    var: Var
    verb: str
    operands: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """``var = affine``: an address or a loop index turned into an i64 scalar."""

    var: Var
    value: Affine


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """``var = buffer[offset]``; where ``guard`` is false nothing is read and ``var`` is 0."""

    var: Var
    buffer: Buffer
    offset: Affine
    guard: Var | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Store:
    """``buffer[offset] = value``, or ``combine(buffer[offset], value)``; skipped where ``guard`` is
    false.
    """

    buffer: Buffer
    offset: Affine
    value: Scalar
    combine: Literal["", "add", "max", "min", "mul"] = ""
    guard: Var | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """The loop's ``value`` (defined in its body) folded over all iterations; ``result`` is visible
    after the loop.
    """

    result: Var
    combine: Literal["add", "max", "min", "mul"]
    value: Scalar

    @property
    def is_tree(self) -> bool:
        """Whether the order matters, so that it is a tree of leaves and nodes: sums and products of
        floats.
        """
        return self.combine in ("add", "mul") and self.result.dtype.is_float

    @property
    def lane_order(self) -> FoldOrder:
        """Its order over a vector loop."""
        return lane_order(self.result.dtype.itemsize, self.is_tree)


@dataclass(frozen=True, slots=True, eq=False)
class For:
    """``for index in range(min(extent, limit))``; ``limit`` None means ``extent``."""

    index: Var
    extent: int
    kind: LoopKind
    body: tuple[Stmt, ...]
    folds: tuple[Fold, ...] = ()
    limit: Affine | None = None

    @property
    def is_parallel(self) -> bool:
        """Whether its iterations have no order and no folds: a grid or a block loop."""
        return self.kind in ("grid", "block")


@dataclass(frozen=True, slots=True)
class Patch:
    """The windows of some images as a matrix: rows count (channel, tap...), columns (image,
    place...), the last axes fastest.

    Images are dense, ``size`` along each spatial axis; along it place ``y`` and tap ``p`` meet at
    ``y * stride + p * step - before``. Where they meet outside the image, the element is 0 and
    nothing is read. ``is_turned`` (right factors of one tap): rows count (image, place...) and
    columns channels.
    """

    images: int
    image_stride: int
    channels: int
    channel_stride: int
    size: tuple[int, ...]
    taps: tuple[int, ...]
    places: tuple[int, ...]
    stride: tuple[int, ...]
    step: tuple[int, ...]
    before: tuple[int, ...]
    is_turned: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.channels * prod(self.taps), self.images * prod(self.places)
        return (columns, rows) if self.is_turned else (rows, columns)

    @property
    def reach(self) -> tuple[tuple[int, int], ...]:
        """Extents and strides that no element read lies beyond."""
        inside = (prod(self.size), 1)
        return ((self.images, self.image_stride), (self.channels, self.channel_stride), inside)


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """One matrix operand: element (batch..., i, j) lies at ``offset + sum(batch * batch_strides) +
    i*row + j*column``; of a ``patch``, where that says (``row`` and ``column`` are then 0). In a
    grid loop ``at`` is added, what the iteration moves it by; its constant is 0.
    """

    buffer: Buffer
    batch_strides: tuple[int, ...]
    row: int
    column: int
    offset: int = 0
    patch: Patch | None = None
    at: Affine = Affine()


@dataclass(frozen=True, slots=True)
class Bound:
    """``value + data * origin >= 0``; ``value`` counts in the indices of a Gemm."""

    value: Affine
    data: int = 0


@dataclass(frozen=True, slots=True)
class Within:
    """What of a Gemm counts. ``origin`` is an i32 element of a buffer that no bound needs where
    there is none.

    ``terms``: step ``step`` of k belongs to the sum of an element if each bound holds for some
    element of its ``ROWS_AT_ONCE`` rows and ``COLUMNS_AT_ONCE`` columns (``ir.loop.order``). What
    is left out is exactly 0 times something.
    ``results``: nothing that the epilogue stores depends on ``acc`` where one of these does not
    hold; it is 0 there, or what it would be.
    """

    step: Var
    terms: tuple[Bound, ...] = ()
    results: tuple[Bound, ...] = ()
    origin: tuple[Buffer, int] | None = None

    def rebound(self, buffers: Mapping[Buffer, Buffer]) -> Within:
        """The same with other buffers."""
        if self.origin is None:
            return self
        return replace(self, origin=(buffers[self.origin[0]], self.origin[1]))


@dataclass(frozen=True, slots=True, eq=False)
class Gemm:
    """``acc[b, i, j] = sum_k left[b, i, k] * right[b, k, j]``, then ``epilogue`` once per (b, i,
    j).

    The sum is a tree of leaves of ``K_LEAF`` steps of k (``ir.loop.order``; of ``K_LEAF`` pairs
    where the processor multiplies bf16 in pairs).

    ``batch`` holds the batch extents and ``batch_index`` their loop vars; ``i``, ``j`` are the
    index vars and ``acc`` the Var the epilogue reads. The epilogue is straight-line (Let, Index,
    Load, Store), treated as a ``vector`` body in ``j``; its stores are the kernel's results.
    ``acc`` is f32 for f32/bf16/f16 factors, f64 for f64.

    It stands at the top of a kernel, or in the body of a grid loop, where an iteration makes its
    own product (without a batch): what is private to the iteration as ``block`` memory may be a
    factor or take results, which all that follows in the iteration sees.
    """

    batch: tuple[int, ...]
    batch_index: tuple[Var, ...]
    m: int
    n: int
    k: int
    left: Factor
    right: Factor
    i: Var
    j: Var
    acc: Var
    epilogue: tuple[Stmt, ...]
    within: Within | None = None

    def turned(self) -> Gemm:
        """Its transpose: the same sums and the same epilogue of each element."""
        right, left = (replace(f, row=f.column, column=f.row) for f in (self.left, self.right))
        return replace(self, m=self.n, n=self.m, left=left, right=right, i=self.j, j=self.i)

    @property
    def read(self) -> tuple[Buffer, ...]:
        """The buffers that it reads before its epilogue."""
        origin = None if self.within is None else self.within.origin
        return (self.left.buffer, self.right.buffer, *(() if origin is None else origin[:1]))


@dataclass(frozen=True, slots=True, eq=False)
class Exchange:
    """Every rank's ``buffer``, in ``ranks`` equal parts, becomes what the ranks have for it: from
    here on it is on its way, and nobody may touch it until the exchange that ``ends`` this one,
    in a kernel of its own over the same bytes.

    ``deal``: part j goes to rank j, and part i becomes what rank i had for this one.
    ``share``: part 0 goes to every rank, and part i becomes what rank i had in its part 0. Where
    there are more ranks, those that follow each other exchange, from rank 0 on, or ``_across``
    those that are as far apart as they can be.
    Stands at the top of its kernel, which all ranks run in the same order.
    """

    kind: ExchangeKind
    buffer: Buffer
    ranks: int
    ends: bool = False

    @property
    def sent(self) -> int:
        """Bytes that one rank sends to others."""
        if self.ends:
            return 0
        return (self.ranks - 1) * (self.buffer.size // self.ranks) * self.buffer.dtype.itemsize


Stmt: TypeAlias = Let | Index | Load | Store | For | Gemm | Exchange


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """A closed loop nest. ``flops`` are those of the ops it computes, ``bytes`` what it must move
    (``ir.loop.traffic``), each per launch; ``spans`` are the user's lines.
    """

    name: str
    buffers: tuple[Buffer, ...]
    body: tuple[Stmt, ...]
    flops: int = 0
    bytes: int = 0
    spans: tuple[Span, ...] = field(default=())
    # The buffers that a launch gives storage to, in order.
    bound: tuple[Buffer, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        bound = tuple(b for b in self.buffers if not b.is_private)
        object.__setattr__(self, "bound", bound)

    @property
    def private(self) -> tuple[Buffer, ...]:
        """The buffers that belong to iterations, in order."""
        return tuple(b for b in self.buffers if b.is_private)

    @property
    def flights(self) -> tuple[Exchange, ...]:
        """The exchanges of several ranks that it begins or ends."""
        return tuple(s for s in self.body if isinstance(s, Exchange) and s.ranks > 1)


def dense_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides in elements."""
    strides: list[int] = []
    step = 1
    for extent in reversed(shape):
        strides.append(step)
        step *= max(extent, 1)
    return tuple(reversed(strides))


def row_major_offset(index: Sequence[Affine], shape: Sequence[int]) -> Affine:
    """The element offset of ``index`` in a dense row-major array of ``shape``."""
    offset = Affine()
    for position, extent in zip(index, shape, strict=True):
        offset = offset * extent + position
    return offset
