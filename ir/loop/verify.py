"""The verifier of the loop stage. This list is the specification of what a valid ``Kernel`` is.

Scalars
  L1  Every Var is defined once, before its uses, in a scope that encloses them: indices and body
  Vars inside their
      loop, fold results after it. Names are unique.
  L2  A Let's verb is a row of VERBS (or ``cast``, ``copy``) with as many operands as it takes, of
      one element type except for ``select`` and ``cast``; its Var has the type that follows.
  L3  Indices, Index Vars and the Vars of every Affine are i64; guards are bool.
Memory
  L4  Every buffer used is declared; ``read`` buffers are not stored to, private ones are
      ``update``, and sizes are not negative.
  L5  A Load's Var and a Store's value have the buffer's element type.
  L6  An unguarded offset whose Vars are all loop indices stays inside its buffer. Loops with a
  limit, and
      loops that never run, are not judged.
Loops
  L7  Extents are not negative; a ``grid`` loop is outermost; a ``block`` loop stands in no block
      and no vector loop; neither has folds; vector loops do not nest.
  L8  A fold's value is defined in the loop's body and has the type of its result.
  L9  A Gemm's epilogue is straight-line, its ``acc`` is f32 (f64 for f64 factors), and its factors
      have as many batch strides as there are batch extents and stay inside their buffers; a patch
      has as many rows and columns as its product wants; a turned one is a right factor of one tap.
      A Gemm stands outside of loops or in the body of a grid loop, there without a batch; only
      there its factors are moved, and may be ``block`` memory.
Private memory
  L10 All accesses of a buffer stand in the loop whose iterations it belongs to: ``block`` memory in
      one grid loop, ``thread`` and ``register`` memory in one innermost grid or block loop.
  L11 ``register`` memory is accessed as ``ir.loop.registers`` says.
Ranks
  L12 An Exchange stands outside of loops, on an argument that the kernel writes, of equal parts;
      one that ends another on an argument that it updates.

Non-goals: independence of parallel iterations and aliasing, which the executor's tests and the plan
checker cover.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from gradc.ir.loop.kernel import (
    Affine,
    Buffer,
    Const,
    Exchange,
    Factor,
    For,
    Gemm,
    Index,
    Kernel,
    Let,
    Load,
    Patch,
    Scalar,
    Stmt,
    Store,
    Var,
    Within,
)
from gradc.ir.loop.registers import Touched, accesses, owner, rows
from gradc.ir.tensor.algebra import VERBS
from gradc.ir.tensor.core import DType
from gradc.ir.tensor.violation import VerificationError, Violation


def verify_kernel(kernel: Kernel) -> None:
    """Raises VerificationError if ``kernel`` breaks an invariant."""
    violations = check_kernel(kernel)
    if violations:
        raise VerificationError(f"kernel {kernel.name}", violations)


def check_kernel(kernel: Kernel) -> tuple[Violation, ...]:
    """Every violation of L1-L12, in order."""
    return tuple(_Checker(kernel).check())


class _Checker:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.found: list[Violation] = []
        self.defined: set[Var] = set()  # ever
        self.visible: set[Var] = set()  # here
        self.names: set[str] = set()
        self.ranges: dict[Var, int] = {}  # extents of open loops without a limit
        self.kinds: list[str] = []
        self.declared = set(kernel.buffers)
        self.is_dead = 0  # how many open loops never run

    def report(self, number: str, message: str) -> None:
        span = self.kernel.spans[0] if self.kernel.spans else None
        self.found.append(Violation(number, message, "", span))

    def check(self) -> list[Violation]:
        for buffer in self.kernel.buffers:
            if buffer.size < 0:
                self.report("L4", f"buffer {buffer.name} has size {buffer.size}")
            if buffer.is_private and buffer.access != "update":
                self.report("L4", f"buffer {buffer.name} is {buffer.memory} memory, not `update`")
        self.statements(self.kernel.body)
        self.private()
        return self.found

    def private(self) -> None:
        """L10 and L11."""
        touched: dict[Buffer, list[Touched]] = {}
        for access in accesses(self.kernel.body):
            touched.setdefault(access.statement.buffer, []).append(access)
        for buffer in self.kernel.private:
            found = touched.get(buffer, [])
            if len({owner(buffer, access.parallel) for access in found}) > 1:
                what = f"{buffer.memory} memory {buffer.name} is used in several loops' iterations"
                self.report("L10", what)
            if buffer.memory == "register" and rows(found) is None:
                what = f"register {buffer.name} is accessed elsewhere than at each lane's own place"
                self.report("L11", what)

    def statements(self, body: tuple[Stmt, ...]) -> None:
        """Checks in order; what is defined here is forgotten by the caller when its scope
        closes.
        """
        for statement in body:
            match statement:
                case Let():
                    self.let(statement)
                case Index():
                    self.affine(statement.value)
                    self.expect_i64(statement.var)
                    self.define(statement.var)
                case Load():
                    self.load(statement)
                case Store():
                    self.store(statement)
                case For():
                    self.loop(statement)
                case Gemm():
                    self.gemm(statement)
                case Exchange():
                    self.exchange(statement)

    # ---- scalars

    def define(self, var: Var) -> None:
        """L1."""
        if var in self.defined or var.name in self.names:
            self.report("L1", f"{var.name} is defined twice")
        self.defined.add(var)
        self.names.add(var.name)
        self.visible.add(var)

    def use(self, scalar: Scalar) -> None:
        """L1."""
        if isinstance(scalar, Var) and scalar not in self.visible:
            self.report("L1", f"{scalar.name} is not defined here")

    def expect_i64(self, var: Var) -> None:
        """L3."""
        if var.dtype is not DType.I64:
            self.report("L3", f"{var.name} is {var.dtype}, and indices are i64")

    def affine(self, value: Affine) -> None:
        """L1 and L3 of an address."""
        for var, _ in value.terms:
            self.use(var)
            self.expect_i64(var)

    def guard(self, guard: Var | None) -> None:
        """L3."""
        if guard is not None:
            self.use(guard)
            if guard.dtype is not DType.BOOL:
                self.report("L3", f"guard {guard.name} is {guard.dtype}")

    def let(self, statement: Let) -> None:
        """L2."""
        for operand in statement.operands:
            self.use(operand)
        expected = _result_of(statement)
        if isinstance(expected, str):
            self.report("L2", f"{statement.var.name} = {statement.verb}: {expected}")
        elif expected is not statement.var.dtype:
            what = f"is {statement.var.dtype}, should be {expected}"
            self.report("L2", f"{statement.var.name} = {statement.verb}: {what}")
        self.define(statement.var)

    # ---- memory

    def buffer(self, buffer: Buffer) -> None:
        """L4."""
        if buffer not in self.declared:
            self.report("L4", f"buffer {buffer.name} is not declared")

    def load(self, statement: Load) -> None:
        """L4, L5 and L6."""
        self.buffer(statement.buffer)
        self.affine(statement.offset)
        self.guard(statement.guard)
        if statement.var.dtype is not statement.buffer.dtype:
            what = f"{statement.var.name} is {statement.var.dtype}"
            self.report("L5", f"{what}, {statement.buffer.name} holds {statement.buffer.dtype}")
        if statement.guard is None:
            self.inside(statement.buffer, statement.offset)
        self.define(statement.var)

    def store(self, statement: Store) -> None:
        """L4, L5 and L6."""
        self.buffer(statement.buffer)
        self.affine(statement.offset)
        self.guard(statement.guard)
        self.use(statement.value)
        if statement.buffer.access == "read":
            self.report("L4", f"buffer {statement.buffer.name} is read-only")
        if statement.value.dtype is not statement.buffer.dtype:
            what = f"stores {statement.value.dtype} into {statement.buffer.name}"
            self.report("L5", f"{what}, which holds {statement.buffer.dtype}")
        if statement.guard is None:
            self.inside(statement.buffer, statement.offset)

    def inside(self, buffer: Buffer, offset: Affine) -> None:
        """L6."""
        low = high = offset.constant
        for var, coefficient in offset.terms:
            if var not in self.ranges:
                return
            last = coefficient * (self.ranges[var] - 1)
            low, high = low + min(last, 0), high + max(last, 0)
        if not self.is_dead and not (0 <= low and high < buffer.size):
            self.report("L6", f"{buffer.name}[{low}..{high}] is outside its {buffer.size} elements")

    # ---- loops

    def loop(self, statement: For) -> None:
        """L1 and L7 of a loop, then its body and folds."""
        if statement.extent < 0:
            self.report("L7", f"a loop of extent {statement.extent}")
        if statement.is_parallel and statement.folds:
            self.report("L7", f"a {statement.kind} loop has no folds")
        if statement.kind == "grid" and self.kinds:
            self.report("L7", "a grid loop is outermost")
        if statement.kind == "block" and {"block", "vector"} & set(self.kinds):
            self.report("L7", "a block loop inside a block or vector loop")
        if statement.kind == "vector" and "vector" in self.kinds:
            self.report("L7", "a vector loop inside a vector loop")
        if statement.limit is not None:
            self.affine(statement.limit)
        outer = set(self.visible)
        self.expect_i64(statement.index)
        self.define(statement.index)
        self.enter(statement)
        self.statements(statement.body)
        self.folds(statement, outer)
        self.leave(statement)
        self.visible = outer
        for fold in statement.folds:
            self.define(fold.result)

    def enter(self, statement: For) -> None:
        self.kinds.append(statement.kind)
        self.is_dead += statement.extent <= 0
        if statement.limit is None:
            self.ranges[statement.index] = statement.extent

    def leave(self, statement: For) -> None:
        self.kinds.pop()
        self.is_dead -= statement.extent <= 0
        self.ranges.pop(statement.index, None)

    def folds(self, statement: For, outer: set[Var]) -> None:
        """L8."""
        for fold in statement.folds:
            self.use(fold.value)
            if isinstance(fold.value, Const) or fold.value in outer:
                self.report("L8", f"{fold.result.name} folds what its loop does not define")
            if fold.value.dtype is not fold.result.dtype:
                what = f"{fold.result.name} is {fold.result.dtype}"
                self.report("L8", f"{what}, its value {fold.value.dtype}")

    def gemm(self, statement: Gemm) -> None:
        """L9, then the epilogue."""
        sizes = (*statement.batch, statement.m, statement.n, statement.k)
        if min(sizes) < 0 or len(statement.batch) != len(statement.batch_index):
            self.report("L9", "extents are negative or batch indices do not match")
        self.factor(statement.left, statement, statement.m, statement.k)
        self.factor(statement.right, statement, statement.k, statement.n)
        expected = statement.left.buffer.dtype.accumulator
        if statement.acc.dtype is not expected:
            self.report("L9", f"{statement.acc.name} is {statement.acc.dtype}, not {expected}")
        if any(isinstance(inner, (For, Gemm)) for inner in statement.epilogue):
            self.report("L9", "an epilogue is straight-line")
        if self.kinds and (self.kinds != ["grid"] or statement.batch):
            self.report("L9", "a product in a loop is one of each iteration of a grid loop")
        outer = set(self.visible)
        indices = (*statement.batch_index, statement.i, statement.j)
        for var, extent in zip(indices, (*statement.batch, statement.m, statement.n), strict=False):
            self.expect_i64(var)
            self.define(var)
            self.ranges[var] = extent
        self.define(statement.acc)
        if statement.within is not None:
            self.within(statement.within, {*self.ranges})
        self.is_dead += min(sizes[:-1]) <= 0
        self.statements(statement.epilogue)
        self.is_dead -= min(sizes[:-1]) <= 0
        for var in indices:
            self.ranges.pop(var, None)
        self.visible = outer

    def within(self, within: Within, indices: set[Var]) -> None:
        """L9 of what counts."""
        bounds = (*within.terms, *within.results)
        if within.origin is not None:
            buffer, place = within.origin
            self.buffer(buffer)
            if buffer.dtype is not DType.I32 or not 0 <= place < buffer.size:
                self.report("L9", f"positions count from {buffer.name}[{place}], {buffer.dtype}")
        elif any(bound.data for bound in bounds):
            self.report("L9", "positions count from nothing")
        for bound in within.terms:
            if bound.value.coefficient(within.step) not in (-1, 1):
                self.report("L9", "a bound of terms does not follow k step by step")
        for bound in bounds:
            inside = {*indices, within.step} if bound in within.terms else indices
            if any(var not in inside for var, _ in bound.value.terms):
                self.report("L9", "a bound counts in what is no index of its product")

    def exchange(self, statement: Exchange) -> None:
        """L12."""
        buffer, ranks = statement.buffer, statement.ranks
        self.buffer(buffer)
        if self.kinds:
            self.report("L12", f"ranks exchange {buffer.name} inside a loop")
        wrong = buffer.access != "update" if statement.ends else buffer.access == "read"
        if buffer.is_private or wrong:
            what = buffer.memory if buffer.is_private else buffer.access
            verb = "await" if statement.ends else "exchange"
            self.report("L12", f"ranks {verb} {buffer.name}, which is {what}")
        if ranks < 1 or buffer.size % max(ranks, 1):
            self.report("L12", f"{buffer.name} has {buffer.size} elements for {ranks} ranks")

    def factor(self, factor: Factor, gemm: Gemm, rows: int, columns: int) -> None:
        """L4 and L9 of one matrix operand."""
        self.buffer(factor.buffer)
        if len(factor.batch_strides) != len(gemm.batch):
            self.report("L9", f"{factor.buffer.name} has {len(factor.batch_strides)} batch strides")
            return
        self.affine(factor.at)
        if not self.kinds and (factor.at.terms or factor.buffer.is_private):
            self.report("L9", f"{factor.buffer.name} belongs to an iteration, and there is none")
        if factor.at.constant or factor.buffer.memory in ("thread", "register"):
            self.report("L9", f"{factor.buffer.name} is no factor of an iteration's product")
        extents = (*gemm.batch, rows, columns)
        if min(extents) <= 0:
            return
        strides = (*factor.batch_strides, factor.row, factor.column)
        if factor.patch is not None:
            if factor.patch.shape != (rows, columns) or factor.row or factor.column:
                self.report("L9", f"the patch of {factor.buffer.name} is not {rows} by {columns}")
            ranks = {len(x) for x in patch_axes(factor.patch)}
            if len(ranks) != 1 or min(*factor.patch.stride, *factor.patch.size) < 1:
                self.report("L9", f"the patch of {factor.buffer.name} contradicts itself")
            if factor.patch.is_turned and (factor is gemm.left or prod(factor.patch.taps) != 1):
                self.report("L9", f"{factor.buffer.name} is turned: a left factor, or of many taps")
            extents = (*gemm.batch, *(extent for extent, _ in factor.patch.reach))
            strides = (*factor.batch_strides, *(stride for _, stride in factor.patch.reach))
        if any(var not in self.ranges for var, _ in factor.at.terms):
            return
        strides = (*strides, *(step for _, step in factor.at.terms))
        extents = (*extents, *(self.ranges[var] for var, _ in factor.at.terms))
        lasts = [s * (n - 1) for s, n in zip(strides, extents, strict=True)]
        low = factor.offset + sum(min(last, 0) for last in lasts)
        high = factor.offset + sum(max(last, 0) for last in lasts)
        if low < 0 or high >= factor.buffer.size:
            size = factor.buffer.size
            self.report("L9", f"{factor.buffer.name}[{low}..{high}] is outside its {size} elements")


def patch_axes(patch: Patch) -> tuple[tuple[int, ...], ...]:
    """What a patch says of each spatial axis."""
    return (patch.size, patch.taps, patch.places, patch.stride, patch.step, patch.before)


def _result_of(statement: Let) -> DType | str:
    """The element type that follows from verb and operands, or what is wrong with them."""
    types = [operand.dtype for operand in statement.operands]
    if statement.verb in ("cast", "copy"):
        if len(types) != 1:
            return f"takes 1 operand, got {len(types)}"
        return statement.var.dtype if statement.verb == "cast" else types[0]
    verb = VERBS.get(statement.verb)
    if verb is None:
        return "there is no such verb"
    if len(types) != verb.arity:
        return f"takes {verb.arity} operands, got {len(types)}"
    if verb.is_condition:
        if types[0] is not DType.BOOL:
            return f"the condition is {types[0]}"
        types = types[1:]
    if any(dtype is not types[0] for dtype in types):
        return "operand types differ, " + " and ".join(str(dtype) for dtype in types)
    return DType.BOOL if verb.result == "bool" else types[0]


def violations_of(kernels: tuple[Kernel, ...]) -> Iterator[Violation]:
    """The violations of several kernels, each naming its kernel."""
    for kernel in kernels:
        for violation in check_kernel(kernel):
            yield Violation(
                violation.number, f"kernel {kernel.name}: {violation.message}", "", violation.span
            )
