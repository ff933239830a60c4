"""Building loop IR: scopes, value numbering, hoisting, symbolic index arithmetic.

``LoopBuilder`` emits statements into nested loops. A pure statement lands in the outermost loop in
which its operands are known (never above a grid or block loop), and equal statements are emitted
once, so a kernel written naively comes out hoisted and without repetition. ``IndexAlgebra`` is the
algebra in which ops state scalar meanings and element maps; ``NestContext`` (``ir/loop/nest.py``)
is what an op with a nest of its own writes its kernel with.

Index arithmetic is lazy: ``divmod`` of an index by a constant makes virtual variables that are
emitted only when an address needs them, and an address that needs both ``m // n`` and ``m % n`` in
the right proportion is put together to ``m`` again. This is how flattened loops and reshapes cost
nothing where memory is dense.

Non-goals: parallelisation and fusion decisions (``passes``); instruction selection (``codegen``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from gradc.ir.loop.kernel import (
    Access,
    Affine,
    Buffer,
    Const,
    Exchange,
    Fold,
    For,
    Gemm,
    Index,
    Let,
    Load,
    LoopKind,
    Memory,
    Scalar,
    Stmt,
    Store,
    Var,
)
from gradc.ir.tensor.algebra import VERBS
from gradc.ir.tensor.core import DType

Combine: TypeAlias = Literal["add", "max", "min", "mul"]
_Key: TypeAlias = tuple[object, ...]
# Verbs whose operands may change places without changing a bit.
_COMMUTATIVE = frozenset(
    ("add", "mul", "max", "min", "logical_and", "logical_or", "bitand", "bitor")
)


@dataclass(eq=False)
class OpenLoop:
    """An open loop. ``at`` is its index; ``fold`` registers a reduction whose result is visible
    after the loop."""

    index: Var
    extent: int
    builder: LoopBuilder
    folds: list[Fold] = field(default_factory=list)

    @property
    def at(self) -> Affine:
        return Affine.of(self.index)

    def fold(self, combine: str, value: Scalar) -> Var:
        """Folds ``value`` over the iterations; use the result only after the loop is closed."""
        return self.builder.add_fold(self, combine, value)


@dataclass(eq=False)
class _Scope:
    """The statements of one open loop (or of the kernel), with what is known there."""

    is_floor: bool
    is_vector: bool = False
    statements: list[Stmt] = field(default_factory=list)
    known: dict[_Key, Var] = field(default_factory=dict)
    memo: dict[_Key, Scalar] = field(default_factory=dict)


@dataclass(frozen=True)
class _Virtual:
    """A variable not emitted yet: the affine ``base`` itself, or its quotient or remainder by
    ``divisor``."""

    kind: Literal["index", "quotient", "remainder"]
    base: Affine
    divisor: int = 1


class LoopBuilder:
    """Emits the body of one kernel (or of a Gemm epilogue)."""

    def __init__(self, used: int = 0) -> None:
        """``used`` names of variables are taken already, by another builder of the kernel."""
        self._scopes = [_Scope(is_floor=True)]
        self._levels: dict[Var, int] = {}
        self._ranges: dict[Var, tuple[int, int]] = {}
        self._virtual: dict[Var, _Virtual] = {}
        self._splits: dict[tuple[Var, int], tuple[Var, Var]] = {}
        self._joined: dict[_Key, Var] = {}
        self._versions: dict[Buffer, int] = {}
        self._guards: list[Var] = []
        self._count = used
        self.buffers: list[Buffer] = []

    # ---- structure

    @property
    def depth(self) -> int:
        """Number of open loops."""
        return len(self._scopes) - 1

    @property
    def names(self) -> int:
        """How many names are taken."""
        return self._count

    @property
    def guard(self) -> Var | None:
        """The condition under which loads happen now."""
        return self._guards[-1] if self._guards else None

    @property
    def vector_is_free(self) -> bool:
        """Whether no vector loop is open."""
        return not any(scope.is_vector for scope in self._scopes)

    @property
    def memo(self) -> dict[_Key, Scalar]:
        """A table for the users of the builder; what it holds is visible exactly as long as the
        open loop."""
        return self._scopes[-1].memo

    def index_key(self, index: Sequence[Affine]) -> _Key:
        """Equal for equal multi-indices; an index that can have one value only is that value."""
        return tuple(_affine_key(self._narrowed(self._join(position))) for position in index)

    def _narrowed(self, index: Affine) -> Affine:
        fixed = [(v, c) for v, c in index.terms if self._ranges.get(v, (0, 1)) == (0, 0)]
        return index + Affine(0, tuple((v, -c) for v, c in fixed)) if fixed else index

    def body(self) -> tuple[Stmt, ...]:
        """The finished statements. Raises ValueError while a loop is open."""
        if len(self._scopes) != 1:
            raise ValueError("a loop is still open")
        return tuple(self._scopes[0].statements)

    def buffer(
        self, name: str, dtype: DType, size: int, access: Access, memory: Memory = "argument"
    ) -> Buffer:
        """Declares a buffer of the kernel."""
        buffer = Buffer(name, dtype, size, access, memory)
        self.buffers.append(buffer)
        return buffer

    def var(self, dtype: DType, extent: int | None = None) -> Var:
        """A new variable at the current depth, for loop indices and the like; ``extent`` bounds
        it."""
        self._count += 1
        var = Var(f"v{self._count}", dtype)
        self._levels[var] = len(self._scopes) - 1
        if extent is not None:
            self._ranges[var] = (0, extent - 1)
        return var

    @contextmanager
    def loop(self, extent: int, kind: LoopKind, limit: Affine | None = None) -> Iterator[OpenLoop]:
        """Opens ``for index in range(extent)``; ``limit`` cuts it short."""
        bound = None if limit is None else self.resolve(limit)
        # Nothing is hoisted out of a loop that never runs: its addresses may not exist.
        is_floor = kind in ("grid", "block") or extent <= 0
        self._scopes.append(_Scope(is_floor=is_floor, is_vector=kind == "vector"))
        opened = OpenLoop(self.var(DType.I64, extent), extent, self)
        try:
            yield opened
        finally:
            scope = self._scopes.pop()
        body, folds = tuple(scope.statements), tuple(opened.folds)
        self._scopes[-1].statements.append(For(opened.index, extent, kind, body, folds, bound))

    def add_fold(self, loop: OpenLoop, combine: str, value: Scalar) -> Var:
        """See ``Loop.fold``."""
        if isinstance(value, Const) or self._levels[value] < len(self._scopes) - 1:
            value = self._append(Let(self.var(value.dtype), "copy", (value,)))
        self._count += 1
        result = Var(f"v{self._count}", value.dtype)
        self._levels[result] = len(self._scopes) - 2
        loop.folds.append(Fold(result, _combine(combine), value))
        return result

    def gemm(self, statement: Gemm) -> None:
        """Appends a matrix product."""
        self._scopes[-1].statements.append(statement)

    def exchange(self, statement: Exchange) -> None:
        """Appends an exchange between ranks; what was known of its buffer no longer holds."""
        self._scopes[-1].statements.append(statement)
        self._versions[statement.buffer] = self._versions.get(statement.buffer, 0) + 1

    def _append(self, statement: Let | Load | Index) -> Var:
        self._scopes[-1].statements.append(statement)
        return statement.var

    def _place(self, key: _Key, operands: Sequence[Var], dtype: DType) -> tuple[Var, int | None]:
        """The variable for ``key``: known already (level None), or new, to be emitted at the
        returned level."""
        top = len(self._scopes) - 1
        floor = max(n for n, scope in enumerate(self._scopes) if scope.is_floor)
        level = max((self._levels[v] for v in operands), default=0)
        level = max(level, floor)
        for n in range(level, top + 1):
            known = self._scopes[n].known.get(key)
            if known is not None:
                return known, None
        self._count += 1
        var = Var(f"v{self._count}", dtype)
        self._levels[var] = level
        self._scopes[level].known[key] = var
        return var, level

    # ---- statements

    def let(self, verb: str, operands: Sequence[Scalar], dtype: DType) -> Var:
        """``verb(operands)``, once per distinct set of operands."""
        keys = [_scalar_key(x) for x in operands]
        if verb in _COMMUTATIVE:
            keys.sort(key=str)
        key = ("let", verb, dtype, *keys)
        var, level = self._place(key, [x for x in operands if isinstance(x, Var)], dtype)
        if level is not None:
            self._scopes[level].statements.append(Let(var, verb, tuple(operands)))
        return var

    def load(self, buffer: Buffer, offset: Affine) -> Var:
        """``buffer[offset]`` under the current guard."""
        address, guard = self.resolve(offset), self.guard
        variables = [v for v, _ in address.terms] + ([guard] if guard is not None else [])
        key = ("load", buffer, self._versions.get(buffer, 0), _affine_key(address), guard)
        if buffer.access != "read":
            known = self._scopes[-1].known.get(key)
            if known is None:
                known = self._append(Load(self.var(buffer.dtype), buffer, address, guard))
                self._scopes[-1].known[key] = known
            return known
        var, level = self._place(key, variables, buffer.dtype)
        if level is not None:
            self._scopes[level].statements.append(Load(var, buffer, address, guard))
        return var

    def store(
        self,
        buffer: Buffer,
        offset: Affine,
        value: Scalar,
        combine: Literal["", "add", "max", "min", "mul"] = "",
        guard: Var | None = None,
    ) -> None:
        """``buffer[offset] = value`` (or combined with what is there) at the current place."""
        self._versions[buffer] = self._versions.get(buffer, 0) + 1
        statement = Store(buffer, self.resolve(offset), value, combine, guard)
        self._scopes[-1].statements.append(statement)

    @contextmanager
    def guarded(self, condition: Var) -> Iterator[None]:
        """Loads inside happen only where ``condition`` (and every outer guard) holds."""
        outer = self.guard
        both = condition
        if outer is not None:
            both = self.let("logical_and", (outer, condition), DType.BOOL)
        self._guards.append(both)
        try:
            yield
        finally:
            self._guards.pop()

    # ---- index arithmetic

    def bounds(self, index: Affine) -> tuple[int, int] | None:
        """Least and greatest value of ``index``, if every variable in it is bounded."""
        low = high = index.constant
        for var, coefficient in index.terms:
            limits = self._ranges.get(var)
            if limits is None:
                return None
            ends = (limits[0] * coefficient, limits[1] * coefficient)
            low, high = low + min(ends), high + max(ends)
        return low, high

    def divmod(self, index: Affine, divisor: int) -> tuple[Affine, Affine]:
        """``(index // divisor, index % divisor)``, exact where provable, else through virtual
        variables."""
        index = self._join(index)
        quotient = Affine(
            index.constant // divisor,
            tuple((v, c // divisor) for v, c in index.terms if c % divisor == 0),
        )
        rest = Affine(
            index.constant % divisor, tuple((v, c) for v, c in index.terms if c % divisor)
        )
        limits = self.bounds(rest)
        if limits is not None and 0 <= limits[0] and limits[1] < divisor:
            return quotient, rest
        high, low = self._split(self._as_var(rest), divisor)
        return quotient + Affine.of(high), Affine.of(low)

    def unflatten(self, index: Affine, shape: Sequence[int]) -> list[Affine]:
        """The multi-index of flat position ``index`` in a row-major array of ``shape``."""
        found: list[Affine] = [Affine()] * len(shape)
        wide = [position for position, extent in enumerate(shape) if extent != 1]
        for position in reversed(wide[1:]):
            index, found[position] = self.divmod(index, max(shape[position], 1))
        if wide:
            found[wide[0]] = index
        return found

    def _as_var(self, index: Affine) -> Var:
        if index.constant == 0 and len(index.terms) == 1 and index.terms[0][1] == 1:
            return index.terms[0][0]
        key = _affine_key(index)
        if key not in self._joined:
            self._joined[key] = self._new_virtual(_Virtual("index", index), self.bounds(index))
        return self._joined[key]

    def _split(self, var: Var, divisor: int) -> tuple[Var, Var]:
        pair = self._splits.get((var, divisor))
        if pair is None:
            limits = self._ranges.get(var)
            top = None if limits is None else (limits[0] // divisor, limits[1] // divisor)
            base = Affine.of(var)
            pair = (
                self._new_virtual(_Virtual("quotient", base, divisor), top),
                self._new_virtual(_Virtual("remainder", base, divisor), (0, divisor - 1)),
            )
            self._splits[(var, divisor)] = pair
        return pair

    def _new_virtual(self, definition: _Virtual, limits: tuple[int, int] | None) -> Var:
        self._count += 1
        var = Var(f"v{self._count}", DType.I64)
        self._virtual[var] = definition
        if limits is not None:
            self._ranges[var] = limits
        return var

    def _join(self, index: Affine) -> Affine:
        """``index`` with every matching pair ``m // n``, ``m % n`` put together to ``m``."""
        changed = True
        while changed:
            changed = False
            for var, coefficient in index.terms:
                definition = self._virtual.get(var)
                if definition is None or definition.kind != "remainder":
                    continue
                high, _ = self._splits[(definition.base.terms[0][0], definition.divisor)]
                if index.coefficient(high) == coefficient * definition.divisor:
                    part = Affine.of(high) * (coefficient * definition.divisor)
                    part = part + Affine.of(var) * coefficient
                    index = index + part * -1 + definition.base * coefficient
                    changed = True
                    break
        return index

    def resolve(self, index: Affine) -> Affine:
        """``index`` in emitted variables only."""
        index = self._join(index)
        while any(v in self._virtual and self._virtual[v].kind == "index" for v, _ in index.terms):
            total = Affine(index.constant)
            for var, coefficient in index.terms:
                definition = self._virtual.get(var)
                is_index = definition is not None and definition.kind == "index"
                part = definition.base if definition and is_index else Affine.of(var)
                total = total + part * coefficient
            index = self._join(total)
        total = Affine(index.constant)
        for var, coefficient in index.terms:
            total = total + Affine.of(self._real(var)) * coefficient
        return total

    def _real(self, var: Var) -> Var:
        """The emitted variable for ``var``."""
        definition = self._virtual.get(var)
        if definition is None:
            return var
        base = self.number(definition.base)
        verb = "floordiv" if definition.kind == "quotient" else "mod"
        real = self.let(verb, (base, Const(definition.divisor, DType.I64)), DType.I64)
        if var in self._ranges:
            self._ranges.setdefault(real, self._ranges[var])
        return real

    def number(self, index: Affine) -> Scalar:
        """``index`` as an i64 scalar."""
        index = self.resolve(index)
        if not index.terms:
            return Const(index.constant, DType.I64)
        if index.constant == 0 and len(index.terms) == 1 and index.terms[0][1] == 1:
            return index.terms[0][0]
        variables = [v for v, _ in index.terms]
        var, level = self._place(("index", _affine_key(index)), variables, DType.I64)
        if level is not None:
            self._scopes[level].statements.append(Index(var, index))
            limits = self.bounds(index)
            if limits is not None:
                self._ranges[var] = limits
        return var


def _scalar_key(value: Scalar) -> _Key:
    # repr keeps -0.0 apart from 0.0 and true apart from 1.
    return (value.name,) if isinstance(value, Var) else (repr(value.value), value.dtype)


def _affine_key(index: Affine) -> _Key:
    return (index.constant, *sorted(((v.name, c) for v, c in index.terms)))


def _combine(text: str) -> Combine:
    match text:
        case "add" | "max" | "min" | "mul":
            return text
    raise ValueError(f"no such combination: {text}")


class IndexAlgebra:
    """The algebra over loop IR scalars, with indices. ``dtype`` is the element type of the op at
    hand."""

    def __init__(self, builder: LoopBuilder, dtype: DType) -> None:
        self.builder = builder
        self.dtype = dtype

    def const(self, value: float | bool, dtype: DType | None = None) -> Const:
        """A literal of the op's element type, unless ``dtype`` says otherwise."""
        dtype = dtype or self.dtype
        if dtype is DType.BOOL:
            return Const(bool(value), dtype)
        return Const(float(value) if dtype.is_float else int(value), dtype)

    def cast(self, x: Scalar, dtype: DType) -> Scalar:
        if x.dtype is dtype:
            return x
        if isinstance(x, Const) and not dtype.is_float and not x.dtype.is_float:
            return self.const(x.value, dtype)
        return self.builder.let("cast", (x,), dtype)

    def __getattr__(self, verb: str) -> Callable[..., Scalar]:
        if verb not in VERBS:
            raise AttributeError(verb)
        builder = self.builder

        def emit(*operands: Scalar) -> Scalar:
            return _apply(builder, verb, operands)

        return emit

    def stop_gradient(self, x: Scalar) -> Scalar:
        """The identity: derivatives have been taken by now."""
        return x

    # ---- indices

    def divmod(self, index: Affine, divisor: int) -> tuple[Affine, Affine]:
        """``(index // divisor, index % divisor)``."""
        return self.builder.divmod(index, divisor)

    def unflatten(self, index: Affine, shape: Sequence[int]) -> list[Affine]:
        """The multi-index of flat position ``index`` in a row-major array of ``shape``."""
        return self.builder.unflatten(index, shape)

    def number(self, index: Affine, dtype: DType | None = None) -> Scalar:
        """An index as a scalar of ``dtype`` (the op's if not given): what ``iota`` is."""
        return self.cast(self.builder.number(index), dtype or self.dtype)

    def affine(self, x: Scalar) -> Affine:
        """A computed integer as an index: what ``take`` reads at."""
        x = self.cast(x, DType.I64)
        return Affine(int(x.value)) if isinstance(x, Const) else Affine.of(x)

    def inside(self, index: Affine, extent: int) -> Scalar:
        """``0 <= index < extent`` as a boolean; a literal where it can be decided now."""
        limits = self.builder.bounds(index)
        low = high = None
        if limits is not None:
            if limits[1] < 0 or limits[0] >= extent:
                return Const(False, DType.BOOL)
            low, high = limits
        x = self.builder.number(index)
        tests: list[Scalar] = []
        if low is None or low < 0:
            tests.append(self.builder.let("ge", (x, Const(0, DType.I64)), DType.BOOL))
        if high is None or high >= extent:
            tests.append(self.builder.let("lt", (x, Const(extent, DType.I64)), DType.BOOL))
        return self.both(*tests)

    def both(self, *conditions: Scalar) -> Scalar:
        """All ``conditions``; literals drop out."""
        found: Scalar = Const(True, DType.BOOL)
        for condition in conditions:
            if isinstance(condition, Const):
                if not condition.value:
                    return condition
            elif isinstance(found, Const):
                found = condition
            else:
                found = self.builder.let("logical_and", (found, condition), DType.BOOL)
        return found

    @contextmanager
    def guard(self, condition: Scalar) -> Iterator[None]:
        """Loads inside happen only where ``condition`` (and every outer guard) holds; elsewhere
        they give 0."""
        if isinstance(condition, Const) and condition.value:
            yield
            return
        if isinstance(condition, Const):
            condition = self.builder.let("copy", (condition,), DType.BOOL)
        with self.builder.guarded(condition):
            yield

    def guarded(
        self, condition: Scalar, read: Callable[[], Scalar], otherwise: Scalar | None = None
    ) -> Scalar:
        """``read()`` where ``condition`` holds, else ``otherwise`` (0); no load of ``read`` happens
        elsewhere."""
        if isinstance(condition, Const):
            if condition.value:
                return read()
            return self.const(0) if otherwise is None else otherwise
        with self.builder.guarded(condition):
            value = read()
        default = self.const(0, value.dtype) if otherwise is None else otherwise
        return self.builder.let("select", (condition, value, default), value.dtype)


def _apply(builder: LoopBuilder, verb: str, operands: tuple[Scalar, ...]) -> Scalar:
    if VERBS[verb].result == "bool":
        return builder.let(verb, operands, DType.BOOL)
    return builder.let(verb, operands, operands[1 if VERBS[verb].is_condition else 0].dtype)
