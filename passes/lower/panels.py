"""Factors of products that stay the same through a loop, laid out once before it. Plan to Plan,
before places are chosen.

    from  a product in a Repeat whose factor no trip changes (weights of a recurrent step)
    to    a launch before the Repeat that copies the factor into panels, as many columns beside each
          other as a register tile has; and the product over panels, a batch axis of its own

A step of a recurrent network has few rows for many columns: reading the columns where they lie, or
packing them again every trip, takes as long as the arithmetic. The panels are a tensor of the Plan
like any other. Sums are those of the product as it was, in the order of ``ir.loop.order``, so no
bit changes.

Non-goals: products that have many rows, which pack for themselves and are not slower for it;
factors that change; graphics processors, where a block packs its tiles for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from gradc.ir.loop.kernel import (
    Affine,
    Bound,
    Buffer,
    Factor,
    For,
    Gemm,
    Index,
    Kernel,
    Let,
    Load,
    LoopKind,
    Scalar,
    Stmt,
    Store,
    Var,
    Within,
)
from gradc.ir.loop.traffic import traffic
from gradc.ir.plan.plan import Argument, Launch, Plan, Repeat, Step, Tensor
from gradc.ir.target.target import Target
from gradc.ir.tensor.core import DType, Span

# A product of more rows packs for itself; fewer trips do not pay for a copy.
MOST_ROWS = 128
LEAST_TRIPS = 4
# Registers from which on four vectors of columns make a tile; two with fewer.
MANY_REGISTERS = 32
_TYPES = (DType.F32, DType.F64)


def lay_out(plan: Plan, target: Target) -> Plan:
    """``plan`` with unchanging factors of its loops in panels; the same object if there are
    none.
    """
    if target.processors.count > 1 or not any(step.depth for step in plan.steps):
        return plan
    work = _LayOut(plan, target)
    steps = work.steps(plan.steps, 0)
    if len(work.tensors) == len(plan.tensors):
        return plan
    return replace(plan, steps=steps, tensors=tuple(work.tensors), kernels=tuple(work.kernels))


@dataclass(frozen=True, slots=True)
class _Panels:
    """A product over panels, and the kernel that makes them."""

    product: Kernel
    copy: Kernel
    position: int  # of the factor among the arguments
    shape: tuple[int, ...]
    dtype: DType


class _LayOut:
    def __init__(self, plan: Plan, target: Target) -> None:
        self.plan = plan
        self.target = target
        self.tensors = list(plan.tensors)
        self.kernels = list(plan.kernels)
        self._numbers = {kernel: number for number, kernel in enumerate(plan.kernels)}
        self._known: dict[int, tuple[_Panels, ...]] = {}

    def steps(self, steps: Sequence[Step], depth: int) -> tuple[Step, ...]:
        """``steps``, which ``depth`` Repeats are around, with copies before the Repeats."""
        found: list[Step] = []
        for step in steps:
            if step.launch is not None:
                found.append(step)
                continue
            assert isinstance(step, Repeat), "a step is a launch or a Repeat"
            before: list[Launch] = []
            made = self._hoisted(step, depth, before)
            found += (*before, replace(made, body=self.steps(made.body, depth + 1)))
        return tuple(found)

    def _hoisted(self, step: Repeat, depth: int, before: list[Launch]) -> Repeat:
        """``step`` with products over panels that the launches ``before`` make."""
        written = self._written(step)
        trips = iter([prod(trips) for _, trips in step.walk()])
        copies: dict[tuple[Argument, int], int] = {}

        def stays(argument: Argument) -> bool:
            moves = any((*argument.strides[depth:], *argument.parity[depth:]))
            return not moves and self.plan.root(argument.tensor) not in written

        def change(launch: Launch) -> Launch:
            ways = self._ways(launch.kernel) if next(trips) >= LEAST_TRIPS else ()
            panels = next((way for way in ways if stays(launch.arguments[way.position])), None)
            if panels is None:
                return launch
            argument = launch.arguments[panels.position]
            source = replace(
                argument, strides=argument.strides[:depth], parity=argument.parity[:depth]
            )
            copy = self._number(panels.copy)
            tensor = copies.get((source, copy))
            if tensor is None:
                tensor = copies[source, copy] = self._tensor(panels, launch, source)
                to = Argument(tensor, 0, (0,) * depth, (0,) * depth)
                before.append(Launch(copy, (source, to), launch.span, launch.scope, launch.replica))
            still = (0,) * len(argument.strides)
            arguments = list(launch.arguments)
            arguments[panels.position] = Argument(tensor, 0, still, still)
            number = self._number(panels.product)
            return replace(launch, kernel=number, arguments=tuple(arguments))

        made = step.map(change)
        assert made is not None, "every launch stays"
        return made

    def _written(self, step: Repeat) -> set[int]:
        """The roots of tensors that some trip writes."""
        found = set(map(self.plan.root, step.cells()))
        for launch, _ in step.walk():
            kernel = self.kernels[launch.kernel]
            for buffer, argument in zip(kernel.bound, launch.arguments, strict=True):
                if buffer.access != "read" and argument.tensor < len(self.plan.tensors):
                    found.add(self.plan.root(argument.tensor))
        return found

    def _ways(self, number: int) -> tuple[_Panels, ...]:
        if number not in self._known:
            self._known[number] = _ways(self.kernels[number], self.target)
        return self._known[number]

    def _number(self, kernel: Kernel) -> int:
        if kernel not in self._numbers:
            self._numbers[kernel] = len(self.kernels)
            self.kernels.append(kernel)
        return self._numbers[kernel]

    def _tensor(self, panels: _Panels, launch: Launch, source: Argument) -> int:
        name = f"panels of {self.tensors[source.tensor].name}"
        tensor = Tensor(
            name, panels.shape, panels.dtype, "arena", span=launch.span, scope=launch.scope
        )
        self.tensors.append(tensor)
        return len(self.tensors) - 1


def _ways(kernel: Kernel, target: Target) -> tuple[_Panels, ...]:
    """``kernel`` with its right or its left factor laid out, if it is one product of few rows and
    that changes how the factor is read.
    """
    if len(kernel.body) != 1 or not isinstance(kernel.body[0], Gemm):
        return ()
    gemm = kernel.body[0]
    sides = (gemm.left, gemm.right)
    if 0 in (gemm.m, gemm.n, gemm.k, *gemm.batch) or sides[0].buffer is sides[1].buffer:
        return ()
    near = {s.buffer for s in gemm.epilogue if isinstance(s, (Load, Store))}
    left, right = (
        x.patch is None and x.buffer.dtype in _TYPES and x.buffer not in near for x in sides
    )
    lanes = max(1, target.lane_bytes // gemm.right.buffer.dtype.itemsize)
    width = lanes * (4 if target.registers >= MANY_REGISTERS else 2)
    writer = _Writer(kernel, gemm, width)
    found = []
    right = right and not _follows_columns(gemm)
    if right and left and gemm.m <= MOST_ROWS and (gemm.n >= 2 * width or gemm.right.column != 1):
        found.append(writer.right())
    if left and gemm.n <= MOST_ROWS and gemm.left.column != 1 and gemm.k > 1:
        found.append(writer.left())
    return tuple(found)


def _follows_columns(gemm: Gemm) -> bool:
    """Whether the terms that count depend on the column, and so would on where panels begin."""
    terms = () if gemm.within is None else gemm.within.terms
    return any(bound.value.coefficient(gemm.j) for bound in terms)


class _Writer:
    """Writes a product over panels ``width`` columns wide, the last one as wide as it is."""

    def __init__(self, kernel: Kernel, gemm: Gemm, width: int) -> None:
        self.kernel, self.gemm, self.width = kernel, gemm, width

    def right(self) -> _Panels:
        """With the right factor in panels of columns."""
        gemm, names = self.gemm, _Names()
        right, k = gemm.right, gemm.k
        whole, rest = divmod(gemm.n, self.width)
        room = _Room(gemm, right, k * gemm.n)
        blocks = [(whole, self.width), (1, rest)]
        parts: list[_Part] = []
        body: list[Stmt] = []
        first = 0
        for count, width in blocks:
            if not count * width:
                continue
            where = Factor(room.buffer, room.strides, width, 1, first * k)
            if count == 1:
                made = _at_column(gemm, names, Affine(first))
                body.append(replace(made, n=width, right=where))
            else:
                panel = names.var(DType.I64)
                made = _at_column(gemm, names, Affine(first, ((panel, width),)))
                body.append(_over(made, panel, (count, width), where))
            axes = ((count, width * right.column, k * width), (k, right.row, width))
            start = (right.offset + first * right.column, first * k)
            parts.append(_Part(start, (*axes, (width, right.column, 1))))
            first += count * width
        return self._made(right, room, parts, tuple(body))

    def left(self) -> _Panels:
        """With the left factor so that its rows are contiguous."""
        gemm = self.gemm
        left, m, k = gemm.left, gemm.m, gemm.k
        room = _Room(gemm, left, m * k)
        part = _Part((left.offset, 0), ((m, left.row, k), (k, left.column, 1)))
        body = (replace(gemm, left=Factor(room.buffer, room.strides, k, 1)),)
        return self._made(left, room, [part], body)

    def _made(
        self, old: Factor, room: _Room, parts: Sequence[_Part], body: tuple[Stmt, ...]
    ) -> _Panels:
        kernel = self.kernel
        position = kernel.bound.index(old.buffer)
        buffers = tuple(room.buffer if b is old.buffer else b for b in kernel.buffers)
        figures = (kernel.flops, kernel.bytes, kernel.spans)
        made = Kernel(f"{kernel.name}_panels", buffers, body, *figures)
        copy = _copy(f"{kernel.name}_lay_out", old, room, parts, kernel.spans)
        return _Panels(made, copy, position, (room.buffer.size,), old.buffer.dtype)


class _Room:
    """A buffer for a factor in another order, ``size`` elements for each batch element that has
    one of its own.
    """

    def __init__(self, gemm: Gemm, factor: Factor, size: int) -> None:
        strides: list[int] = []
        self.axes: list[tuple[int, int, int]] = []  # extent, strides of the factor and here
        for extent, stride in zip(gemm.batch[::-1], factor.batch_strides[::-1], strict=True):
            strides.append(size if stride else 0)
            if stride:
                self.axes.append((extent, stride, size))
                size *= extent
        self.axes.reverse()
        self.strides = tuple(strides[::-1])
        self.buffer = Buffer(f"{factor.buffer.name}_panels", factor.buffer.dtype, size, "read")


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a copy: where it starts in both, and extents with the strides of both, outer
    first.
    """

    start: tuple[int, int]
    axes: tuple[tuple[int, int, int], ...]


def _copy(
    name: str, factor: Factor, room: _Room, parts: Sequence[_Part], spans: tuple[Span, ...]
) -> Kernel:
    """From where ``factor`` lies to ``room``."""
    dtype = factor.buffer.dtype
    source = Buffer("a0", dtype, factor.buffer.size, "read")
    target = Buffer("r0", dtype, room.buffer.size, "write")
    names = _Names()
    body: list[Stmt] = []
    for part in parts:
        axes = (*room.axes, *part.axes)
        index = [names.var(DType.I64) for _ in axes]
        value = names.var(dtype)
        read, put = (
            _affine(part.start[side], [(v, a[1 + side]) for v, a in zip(index, axes, strict=True)])
            for side in (0, 1)
        )
        inner: tuple[Stmt, ...] = (Load(value, source, read), Store(target, put, value))
        # What lies in one place of the grid is a panel, or all there is.
        first: LoopKind = "grid" if len(parts) == 1 and len(axes) > 2 else "serial"
        for n, (var, (extent, _, _)) in reversed(list(enumerate(zip(index, axes, strict=True)))):
            kind: LoopKind = "vector" if n == len(axes) - 1 else "serial" if n else first
            inner = (For(var, extent, kind, inner),)
        body += inner
    return Kernel(name, (source, target), tuple(body), 0, traffic(body), spans)


def _over(gemm: Gemm, panel: Var, shape: tuple[int, int], right: Factor) -> Gemm:
    """``gemm`` with a last batch axis over panels of ``right``: so many, so wide."""
    count, width = shape
    along = (*right.batch_strides, gemm.k * width)
    return replace(
        gemm,
        batch=(*gemm.batch, count),
        batch_index=(*gemm.batch_index, panel),
        n=width,
        left=replace(gemm.left, batch_strides=(*gemm.left.batch_strides, 0)),
        right=replace(right, batch_strides=along),
    )


def _affine(constant: int, terms: Sequence[tuple[Var, int]]) -> Affine:
    return Affine(constant, tuple((var, factor) for var, factor in terms if factor))


class _Names:
    """Variables with names of their own."""

    def __init__(self) -> None:
        self._count = 0

    def var(self, dtype: DType) -> Var:
        self._count += 1
        return Var(f"v{self._count}", dtype)


def _at_column(gemm: Gemm, names: _Names, start: Affine) -> Gemm:
    """``gemm`` with variables of its own and columns counted from ``start`` on."""
    own: dict[Var, Var] = {}

    def fresh(var: Var) -> Var:
        own[var] = names.var(var.dtype)
        return own[var]

    batch_index = tuple(map(fresh, gemm.batch_index))
    i, j, acc = (names.var(var.dtype) for var in (gemm.i, gemm.j, gemm.acc))
    own |= {gemm.i: i, gemm.acc: acc}
    column = names.var(DType.I64)
    own[gemm.j] = column
    at = Affine.of(j) + start

    def place(value: Affine) -> Affine:
        total = Affine(value.constant)
        for var, factor in value.terms:
            total = total + (at if var is gemm.j else Affine.of(own[var])) * factor
        return total

    body = [_moved(statement, own, fresh, place) for statement in gemm.epilogue]
    uses = {x for s in body if isinstance(s, Let) for x in s.operands}
    if column in uses:
        body.insert(0, Index(column, at))
    within = gemm.within
    if within is not None:
        step = fresh(within.step)

        def moved(bounds: tuple[Bound, ...]) -> tuple[Bound, ...]:
            return tuple(replace(bound, value=place(bound.value)) for bound in bounds)

        within = Within(step, moved(within.terms), moved(within.results), within.origin)
    return replace(
        gemm, batch_index=batch_index, i=i, j=j, acc=acc, epilogue=tuple(body), within=within
    )


def _moved(
    statement: Stmt,
    own: Mapping[Var, Var],
    fresh: Callable[[Var], Var],
    place: Callable[[Affine], Affine],
) -> Stmt:
    """A statement of an epilogue with other variables (``own``, which ``fresh`` adds to), at other
    places.
    """

    def scalar(x: Scalar) -> Scalar:
        return own[x] if isinstance(x, Var) else x

    match statement:
        case Let(var, verb, operands):
            given = tuple(map(scalar, operands))
            return Let(fresh(var), verb, given)
        case Index(var, value):
            return Index(fresh(var), place(value))
        case Load(var, buffer, offset, guard):
            guard = None if guard is None else own[guard]
            return Load(fresh(var), buffer, place(offset), guard)
        case Store(buffer, offset, value, combine, guard):
            guard = None if guard is None else own[guard]
            return Store(buffer, place(offset), scalar(value), combine, guard)
    raise ValueError("an epilogue is straight-line")
