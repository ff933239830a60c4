"""Launches that follow each other strip by strip: a product, rows of what it makes or nothing, a
product whose left factor that is. What ``strips`` makes one launch of.

A chain is found by what its launches read and write: the matrix between them is dense, a row of it
is one row of the first product, and it is the left factor of the last (or its right one, turned).
Whatever else one member writes and another reads must be a value per row.

Invariants: the members can run together where ``place`` is, and each launch is in one chain only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod

from gradc.ir.loop.kernel import (
    Affine,
    Buffer,
    Factor,
    For,
    Gemm,
    Index,
    Kernel,
    Let,
    Load,
    Stmt,
    Store,
    Var,
    dense_strides,
)
from gradc.ir.plan.plan import Argument, Launch, Plan, Step
from gradc.ir.tensor.core import DType
from gradc.passes.lower.piece import statements


@dataclass(slots=True)
class Chain:
    """``launches`` at ``positions`` of their steps, to be made one at ``place``. ``rows`` is the
    loop between the two products. ``buffers`` are those of the launch that is made, for each member
    and buffer of its kernel; ``on_chip`` are the members' buffers of the matrix between them.
    """

    positions: tuple[int, ...]
    launches: tuple[Launch, ...]
    kernels: tuple[Kernel, ...]
    first: Gemm
    rows: For | None
    last: Gemm
    place: int = 0
    on_chip: set[tuple[int, Buffer]] = field(default_factory=set)
    buffers: dict[tuple[int, Buffer], Buffer] = field(default_factory=dict)
    bound: tuple[Buffer, ...] = ()
    arguments: tuple[Argument, ...] = ()
    key: tuple[object, ...] = ()


def chains(plan: Plan, steps: Sequence[Step], fits: Callable[[Chain], bool]) -> Iterator[Chain]:
    """The chains among ``steps``, which are a Plan's or a Repeat's, as far as they are to be."""
    found = _Finder(plan, steps)
    taken: set[int] = set()
    for position, step in enumerate(steps):
        if step.launch is None or position in taken:
            continue
        for chain in found.from_product(position, step.launch):
            is_free = not taken & set(chain.positions)
            if is_free and fits(chain) and found.complete(chain):
                taken |= set(chain.positions)
                yield chain
                break


class _Finder:
    def __init__(self, plan: Plan, steps: Sequence[Step]) -> None:
        self.plan, self.steps = plan, steps
        self.reads = [_roots(plan, step, False) for step in steps]
        self.writes = [_roots(plan, step, True) for step in steps]
        self.ports = {plan.root(port.tensor) for port in plan.ports}
        self.writers: dict[int, int] = {}
        self.readers: dict[int, int] = {}
        for launch in plan.launches:
            for counts, is_write in ((self.writers, True), (self.readers, False)):
                for root in _roots(plan, launch, is_write):
                    counts[root] = counts.get(root, 0) + 1

    # ---- members

    def from_product(self, position: int, launch: Launch) -> Iterator[Chain]:
        """The chains that begin with a product, unfinished."""
        kernel = self.plan.kernels[launch.kernel]
        first = _product(kernel)
        if first is None:
            return
        for buffer, argument in self._whole(launch):
            if not _stored_dense(first, buffer):
                continue
            root = self.plan.root(argument.tensor)
            after = [p for p in range(position + 1, len(self.steps)) if root in self.reads[p]]
            if self.readers.get(root) == 1 and len(after) == 1:
                yield from self._over_rows((position, after[0]), first, buffer, root)
            for other in after:
                yield from self._ending((position, other), first, None, root, {(0, buffer)})

    def _over_rows(
        self, positions: tuple[int, int], first: Gemm, made: Buffer, root: int
    ) -> Iterator[Chain]:
        """Chains through the rows of a kernel that alone reads the matrix ``made``."""
        launch = self.steps[positions[1]].launch
        if launch is None:
            return
        kernel = self.plan.kernels[launch.kernel]
        grid = _rows(kernel, prod(first.batch) * first.m)
        read = self._bound(launch, root)
        if grid is None or len(read) != 1 or not _by_column(grid, read[0], first.n, Load):
            return
        for buffer, argument in self._whole(launch):
            if not _by_column(grid, buffer, first.n, Store) or not _in_place(grid, read[0], buffer):
                continue
            target = self.plan.root(argument.tensor)
            for other in range(positions[1] + 1, len(self.steps)):
                if target in self.reads[other]:
                    chip = {(0, made), (1, read[0]), (1, buffer)}
                    yield from self._ending((*positions, other), first, grid, target, chip)

    def _ending(
        self,
        positions: tuple[int, ...],
        first: Gemm,
        rows: For | None,
        root: int,
        on_chip: set[tuple[int, Buffer]],
    ) -> Iterator[Chain]:
        """The chain that ends with the product at the last position, if it takes the matrix."""
        launches = tuple(launch for p in positions if (launch := self.steps[p].launch) is not None)
        if len(launches) != len(positions):
            return
        kernels = tuple(self.plan.kernels[launch.kernel] for launch in launches)
        last, read = _product(kernels[-1]), self._bound(launches[-1], root)
        if last is None or len(read) != 1:
            return
        last = _left_first(last, read[0])
        left = Factor(read[0], dense_strides((*last.batch, last.m * last.k))[:-1], last.k, 1)
        same = (last.batch, last.m, last.k) == (first.batch, first.m, first.n)
        used = {s.buffer for s in last.epilogue if isinstance(s, (Load, Store))}
        if not same or not _is_at(last.left, left) or read[0] in {*used, last.right.buffer}:
            return
        chip = {*on_chip, (len(positions) - 1, read[0])}
        yield Chain(positions, launches, kernels, first, rows, last, on_chip=chip)

    def _whole(self, launch: Launch) -> Iterator[tuple[Buffer, Argument]]:
        """Matrices that a launch alone makes, whole, in memory of the program's own."""
        kernel = self.plan.kernels[launch.kernel]
        for buffer, argument in zip(kernel.bound, launch.arguments, strict=True):
            root = self.plan.root(argument.tensor)
            tensor = self.plan.tensors[argument.tensor]
            moves = any((*argument.strides, *argument.parity, argument.offset))
            is_own = tensor.space == "arena" and root == argument.tensor and not moves
            is_whole = tensor.size == buffer.size and self.writers.get(root) == 1
            if buffer.access == "write" and buffer.dtype is DType.F32 and is_own and is_whole:
                yield buffer, argument

    def _bound(self, launch: Launch, root: int) -> list[Buffer]:
        """The buffers of a launch in one piece of memory."""
        bound = self.plan.kernels[launch.kernel].bound
        pairs = zip(bound, launch.arguments, strict=True)
        return [buffer for buffer, a in pairs if self.plan.root(a.tensor) == root]

    # ---- together

    def complete(self, chain: Chain) -> bool:
        """Fills in what the members do as one launch; False if they cannot be one."""
        return self._place(chain) and self._bind(chain)

    def _place(self, chain: Chain) -> bool:
        """Where all members can run: where the last of them does, or else the first."""
        begin, end = chain.positions[0], chain.positions[-1]
        between = [p for p in range(begin + 1, end) if p not in chain.positions]
        reads = set().union(*(self.reads[p] for p in chain.positions))
        writes = set().union(*(self.writes[p] for p in chain.positions))
        if any(self.writers[root] != 1 for root in writes):
            return False
        if any(self.writes[p] & (reads | writes) for p in between):
            return False
        is_read = any(self.reads[p] & writes for p in between)
        chain.place = begin if is_read else end
        return True

    def _bind(self, chain: Chain) -> bool:
        """The buffers and arguments of the launch that is made."""
        written: dict[int, int] = {}  # by which member
        known: dict[tuple[Argument, DType, int], Buffer] = {}
        key: list[object] = [launch.kernel for launch in chain.launches]
        last = len(chain.launches) - 1
        for member, launch in enumerate(chain.launches):
            kernel = chain.kernels[member]
            for buffer, argument in zip(kernel.bound, launch.arguments, strict=True):
                root = self.plan.root(argument.tensor)
                if buffer.access == "update":
                    return False
                is_chip = (member, buffer) in chain.on_chip
                if is_chip and (buffer.access == "read" or not self._is_kept(chain, root, member)):
                    key.append(None)
                    continue
                if buffer.access == "write":
                    written[root] = member
                    made = Buffer(f"r{len(known)}", buffer.dtype, buffer.size, "write")
                    chain.buffers[member, buffer] = made
                    known[argument, buffer.dtype, buffer.size] = made
                    key.append(len(known))
                    continue
                place = argument, buffer.dtype, buffer.size
                if root in written and (place not in known or member != last):
                    return False
                if root in written and not _row_values(chain, written[root], known[place], buffer):
                    return False
                if place not in known:
                    known[place] = Buffer(f"a{len(known)}", buffer.dtype, buffer.size, "read")
                chain.buffers[member, buffer] = known[place]
                key.append(list(known.values()).index(known[place]))
        read_later = {
            self.plan.root(a.tensor)
            for (a, _, _), buffer in known.items()
            if buffer.access == "read"
        }
        if read_later & written.keys():
            return False
        chain.bound = tuple(known.values())
        chain.arguments = tuple(argument for argument, _, _ in known)
        chain.key = tuple(key)
        return True

    def _is_kept(self, chain: Chain, root: int, member: int) -> bool:
        """Whether a matrix that a member makes is read by others than the chain."""
        own = 1 if member < len(chain.launches) - 1 else 0
        return root in self.ports or self.readers.get(root, 0) > own


def _roots(plan: Plan, step: Step, is_write: bool) -> set[int]:
    """The memory that a step reads or writes."""
    found = set(map(plan.root, step.cells())) if is_write else set()
    wanted = ("write", "update") if is_write else ("read", "update")
    for launch, _ in step.walk():
        bound = plan.kernels[launch.kernel].bound
        for buffer, argument in zip(bound, launch.arguments, strict=True):
            if buffer.access in wanted:
                found.add(plan.root(argument.tensor))
    return found


# ---- products


def _product(kernel: Kernel) -> Gemm | None:
    """The product in f32 that is all of a kernel."""
    gemm = kernel.body[0] if len(kernel.body) == 1 else None
    if not isinstance(gemm, Gemm) or 0 in (gemm.m, gemm.n, gemm.k, *gemm.batch):
        return None
    factors = (gemm.left, gemm.right)
    if any(f.patch is not None or f.buffer.dtype is not DType.F32 for f in factors):
        return None
    plain = all(not isinstance(s, Store) or not s.combine for s in gemm.epilogue)
    return gemm if plain else None


def _left_first(gemm: Gemm, buffer: Buffer) -> Gemm:
    """``gemm`` with its right factor as the left one, turned, where that is ``buffer``."""
    return gemm.turned() if gemm.right.buffer is buffer else gemm


def _is_at(a: Factor, b: Factor) -> bool:
    """Whether two factors are one."""
    places = [(f.batch_strides, f.row, f.column, f.offset) for f in (a, b)]
    return a.buffer is b.buffer and places[0] == places[1]


def _stored_dense(gemm: Gemm, buffer: Buffer) -> bool:
    """Whether a product stores every element of the dense matrix ``buffer`` at its place."""
    stores = [s for s in gemm.epilogue if isinstance(s, Store) and s.buffer is buffer]
    if len(stores) != 1 or stores[0].guard is not None:
        return False
    shape = (*gemm.batch, gemm.m, gemm.n)
    index = (*gemm.batch_index, gemm.i, gemm.j)
    pairs = [
        (var, step)
        for var, extent, step in zip(index, shape, dense_strides(shape), strict=True)
        if extent > 1
    ]
    offset = stores[0].offset
    moving = (
        {v: n for v, n in offset.terms if shape[index.index(v)] > 1}
        if (all(v in index for v, _ in offset.terms))
        else {}
    )
    return offset.constant == 0 and moving == dict(pairs) and prod(shape) == buffer.size


# ---- rows


def _rows(kernel: Kernel, count: int) -> For | None:
    """The grid loop over ``count`` rows that is all of a kernel, each for itself."""
    grid = kernel.body[0] if len(kernel.body) == 1 else None
    if not isinstance(grid, For) or grid.kind != "grid" or grid.limit or len(grid.body) != 1:
        return None
    serial = grid.body[0]
    if not isinstance(serial, For) or serial.kind != "serial" or serial.limit or serial.folds:
        return None
    if grid.extent * serial.extent != count or kernel.private:
        return None
    found = list(statements(serial.body))
    stored = {s.buffer for s in found if isinstance(s, Store)}
    for s in found:
        if isinstance(s, Load) and s.buffer in stored:
            return None
        if isinstance(s, Store) and (s.combine or not row_step(s.offset, grid)):
            return None
        if any(not _is_row(value, grid, serial) for value in _addresses(s)):
            return None
        if {grid.index, serial.index} & set(_scalars(s)):
            return None
        if not isinstance(s, (Let, Index, Load, Store, For)):
            return None
    return grid


def _addresses(s: Stmt) -> Iterator[Affine]:
    if isinstance(s, (Load, Store)):
        yield s.offset
    elif isinstance(s, Index):
        yield s.value
    elif isinstance(s, For) and s.limit is not None:
        yield s.limit


def _scalars(s: Stmt) -> Iterator[object]:
    if isinstance(s, Let):
        yield from s.operands
    elif isinstance(s, Store):
        yield s.value
    elif isinstance(s, For):
        yield from (fold.value for fold in s.folds)


def row_step(value: Affine, grid: For) -> int:
    """What a row adds to an address of rows that ``grid`` and a serial loop in it count."""
    (serial,) = grid.body
    assert isinstance(serial, For)
    return value.coefficient(serial.index if serial.extent > 1 else grid.index)


def _is_row(value: Affine, grid: For, serial: For) -> bool:
    """Whether an address counts rows through both loops."""
    outer = value.coefficient(grid.index)
    return grid.extent == 1 or outer == row_step(value, grid) * serial.extent


def _by_column(grid: For, buffer: Buffer, columns: int, kind: type[Load | Store]) -> bool:
    """Whether rows touch ``buffer`` at their columns only, a store at all of them."""
    (serial,) = grid.body
    assert isinstance(serial, For)
    found = 0
    for loop in serial.body:
        inside = loop.body if isinstance(loop, For) and loop.kind == "vector" else ()
        for s in statements((loop,)):
            if not isinstance(s, (Load, Store)) or s.buffer is not buffer:
                continue
            if s not in inside or not isinstance(loop, For) or s.guard is not None:
                return False
            row = row_step(s.offset, grid)
            others = [t for t in s.offset.terms if t[0] not in (grid.index, serial.index)]
            if row != columns or others != [(loop.index, 1)] or s.offset.constant:
                return False
            if loop.extent > columns or (kind is Store and (loop.extent < columns or loop.limit)):
                return False
            found += 1
    return found == 1 if kind is Store else found > 0


def _in_place(grid: For, read: Buffer, made: Buffer) -> bool:
    """Whether what rows make may take the place of what they read."""
    (serial,) = grid.body
    assert isinstance(serial, For)
    is_stored = False
    for s in statements(serial.body):
        if isinstance(s, Load) and s.buffer is read and is_stored:
            return False
        is_stored |= isinstance(s, Store) and s.buffer is made
    return True


def _row_values(chain: Chain, maker: int, made: Buffer, read: Buffer) -> bool:
    """Whether the last product reads of ``made`` nothing but what its own rows have stored."""
    if maker != 1 or chain.rows is None:
        return False
    own = {b for (member, b), to in chain.buffers.items() if member == maker and to is made}
    grid = chain.rows
    (serial,) = grid.body
    assert isinstance(serial, For)
    stores = [s for s in statements(serial.body) if isinstance(s, Store) and s.buffer in own]
    loads = [s for s in chain.last.epilogue if isinstance(s, Load) and s.buffer is read]
    gemm = chain.last
    if len(stores) != 1 or stores[0] not in serial.body or stores[0].guard is not None:
        return False
    row = row_step(stores[0].offset, grid)
    known: set[Var] = {grid.index, serial.index}
    if any(v not in known for v, _ in stores[0].offset.terms) or read is gemm.right.buffer:
        return False
    for load in loads:
        step = load.offset.coefficient(gemm.i)
        inside = {*gemm.batch_index, gemm.i}
        if step != row or load.offset.constant != stores[0].offset.constant:
            return False
        if any(v not in inside for v, _ in load.offset.terms) or not is_flat(load.offset, gemm):
            return False
    return True


def is_flat(value: Affine, gemm: Gemm) -> bool:
    """Whether rows of the whole batch are one axis of an address."""
    step = value.coefficient(gemm.i) * gemm.m
    for var, extent in reversed(list(zip(gemm.batch_index, gemm.batch, strict=True))):
        if extent > 1 and value.coefficient(var) != step:
            return False
        step *= extent
    return True
