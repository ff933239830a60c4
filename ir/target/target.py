"""``Target``: what a program is compiled for, known from the start of the pipeline.

It steers schedules only: what is fused, what runs in parallel and in how many pieces, where rows
are kept. Bits never depend on it: the order of every sum follows from shapes (``ir.loop.kernel``,
``passes.lower.space``, ``passes.recompute.tile``), and ``tests/passes/test_target.py`` compiles for
several made-up targets and compares results.

A backend makes the Target of its machine (``codegen.llvm`` from the instruction set). ``GENERIC``
is for programs that are looked at, not run.
"""

from __future__ import annotations

from dataclasses import dataclass

from gradc.ir.target.costs import CPU, Costs


@dataclass(frozen=True, slots=True)
class Limits:
    """How large one kernel may grow by fusion, and how much it may compute again."""

    ops: int = 160
    buffers: int = 28
    epilogue: int = 40  # ops after a matrix product
    # Verbs per element that one op of a group may compute again at other indices, so as not to
    # store what it reads there.
    again: int = 6
    # An op is computed again in at most so many groups, with at most ``moved`` ops along with it,
    # and at most ``times`` times for one element of what a group makes.
    copies: int = 4
    moved: int = 16
    times: int = 4
    # Verbs in a value, computed from what is in memory anyway, that is not stored.
    verbs: int = 6
    # Views that put several parts together, of parts put together themselves, double what one
    # element reads at every link: from so many reads on, what they make is stored.
    reads: int = 16


@dataclass(frozen=True, slots=True)
class Processors:
    """The multiprocessors of a graphics processor: how many there are, what one of them has for the
    blocks that it runs at once, and how much of its memory one block may have.
    """

    count: int = 1
    shared_bytes: int = 0
    registers: int = 0  # of 32 bits
    threads: int = 1
    block_bytes: int = 48 << 10


@dataclass(frozen=True, slots=True)
class Target:
    """A machine, as far as schedules ask for it.

    ``isa`` names what code is made for: an instruction set or a compute capability. ``threads`` is
    how many may run one launch together.
    """

    name: str
    isa: str = ""
    threads: int = 1
    lane_bytes: int = 64  # of a vector register
    registers: int = 32  # vector registers
    caches: tuple[int, ...] = (32 << 10, 256 << 10)  # bytes, the nearest first
    processors: Processors = Processors()
    row_bytes: int = 16 << 10  # rows that one thread keeps between the stages of a kernel
    chunks: int = 32  # iterations that a grid loop over independent rows is cut into
    # Nodes of leaves of rows from which on one iteration sums a node; fewer, and it sums a leaf.
    nodes: int = 4
    accumulators: int = 24  # vectors of sums that one loop of a kernel keeps at once
    # Bytes of a block's own memory that hold rows of a matrix between two products, so that both
    # are one launch; 0 where blocks have none.
    strip_bytes: int = 0
    # Rows of large products that are cut into tiles, over several heads, that go together; with 0
    # as many as make a tile of the usual size.
    rows_together: int = 0
    block: int = 4  # neighbours computed together from what one nest reads once
    columns: int = 64  # columns of a table that one iteration of a scatter owns
    table_bytes: int = 1 << 20  # and of its rows: at least so many bytes
    leaves_out: bool = False  # whether products leave out terms that a mask makes 0
    copies: bool = True  # whether a thread copies what it reads often into memory of its own
    limits: Limits = Limits()
    costs: Costs = CPU


GENERIC = Target("generic")
