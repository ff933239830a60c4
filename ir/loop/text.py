"""The text form of kernels: ``parse_kernel(print_kernel(k))`` equals ``k``.

    kernel "rows" flops 128 bytes 96 (read %x: f32[32], write %y: f32[8]) {
      for grid %i: i64 < 8 {
        for vector %j: i64 < 4 {
          %a: f32 = load %x[%i*4 + %j]
        } fold (%s: f32 = add %a)
        store %y[%i] = %s
      }
    }

Memory is named where it is not an argument's: ``write arena %t: f32[8]``; private memory, which is
read and written, by itself: ``thread %s: f32[8]``, ``block``, ``register``. Literals carry their
type, ``f32(0.5)``. A guard follows ``if``, the combination of a Store
``with``. A Gemm lists its index variables with their extents, its depth, its accumulator and its
factors, then its epilogue. An exchange, or what awaits it, names its kind, its buffer and the
number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradc.ir.loop.kernel import (
    Access,
    Affine,
    Bound,
    Buffer,
    Const,
    Exchange,
    Factor,
    Fold,
    For,
    Gemm,
    Index,
    Kernel,
    Let,
    Load,
    Memory,
    Patch,
    Scalar,
    Stmt,
    Store,
    Var,
    Within,
)
from gradc.ir.tensor.core import Span
from gradc.ir.tensor.text_tokens import Cursor, Names, number_text, quote, span_text

# --- writing --------------------------------------------------------------------------------------


_PATCH_AXES = ("size", "taps", "places", "stride", "step", "before")


class _Printer:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names = Names()

    def name(self, item: Var | Buffer) -> str:
        return f"%{self.names.name(item, item.name)}"

    def declared(self, var: Var) -> str:
        return f"{self.name(var)}: {var.dtype}"

    def scalar(self, value: Scalar) -> str:
        if isinstance(value, Const):
            return f"{value.dtype}({number_text(value.value)})"
        return self.name(value)

    def affine(self, value: Affine) -> str:
        parts = [self.name(v) if c == 1 else f"{self.name(v)}*{c}" for v, c in value.terms]
        if value.constant or not parts:
            parts.append(str(value.constant))
        return " + ".join(parts)

    def place(self, buffer: Buffer, offset: Affine) -> str:
        return f"{self.name(buffer)}[{self.affine(offset)}]"

    def guard(self, guard: Var | None) -> str:
        return "" if guard is None else f" if {self.name(guard)}"

    def kernel(self, kernel: Kernel) -> None:
        buffers = [f"{_memory_text(b)} {self.name(b)}: {b.dtype}[{b.size}]" for b in kernel.buffers]
        spans = "".join(f" @ {span_text(span)}" for span in kernel.spans)
        counts = f"flops {kernel.flops} bytes {kernel.bytes}"
        self.lines.append(f"kernel {quote(kernel.name)} {counts} ({', '.join(buffers)}){spans} {{")
        self.body(kernel.body, "  ")
        self.lines.append("}")

    def body(self, body: Sequence[Stmt], indent: str) -> None:
        for statement in body:
            match statement:
                case For():
                    self.loop(statement, indent)
                case Gemm():
                    self.gemm(statement, indent)
                case Exchange(kind, buffer, ranks, ends):
                    word = "await" if ends else "exchange"
                    shown = f"{word} {kind} {self.name(buffer)} of {ranks}"
                    self.lines.append(indent + shown)
                case _:
                    self.lines.append(indent + self.simple(statement))

    def simple(self, statement: Let | Index | Load | Store) -> str:
        match statement:
            case Let(var, verb, operands):
                shown = ", ".join(self.scalar(x) for x in operands)
                return f"{self.declared(var)} = {verb} {shown}"
            case Index(var, value):
                return f"{self.declared(var)} = index {self.affine(value)}"
            case Load(var, buffer, offset, guard):
                place = self.place(buffer, offset)
                return f"{self.declared(var)} = load {place}{self.guard(guard)}"
            case Store(buffer, offset, value, combine, guard):
                how = f" with {combine}" if combine else ""
                tail = f"{self.scalar(value)}{how}{self.guard(guard)}"
                return f"store {self.place(buffer, offset)} = {tail}"

    def loop(self, statement: For, indent: str) -> None:
        head = f"for {statement.kind} {self.declared(statement.index)} < {statement.extent}"
        if statement.limit is not None:
            head += f" limit {self.affine(statement.limit)}"
        self.lines.append(f"{indent}{head} {{")
        self.body(statement.body, indent + "  ")
        folds = [
            f"{self.declared(f.result)} = {f.combine} {self.scalar(f.value)}"
            for f in statement.folds
        ]
        self.lines.append(f"{indent}}} fold ({', '.join(folds)})" if folds else f"{indent}}}")

    def gemm(self, statement: Gemm, indent: str) -> None:
        pairs = zip(statement.batch_index, statement.batch, strict=True)
        batch = ", ".join(f"{self.declared(v)} < {n}" for v, n in pairs)
        rows = f"{self.declared(statement.i)} < {statement.m}"
        columns = f"{self.declared(statement.j)} < {statement.n}"
        self.lines += [
            f"{indent}gemm ({batch}) {rows}, {columns}, depth {statement.k}",
            f"{indent}  left {self.factor(statement.left)}",
            f"{indent}  right {self.factor(statement.right)}",
        ]
        if statement.within is not None:
            self.lines.append(f"{indent}  within {self.within(statement.within)}")
        self.lines.append(f"{indent}  into {self.declared(statement.acc)} {{")
        self.body(statement.epilogue, indent + "  ")
        self.lines.append(f"{indent}}}")

    def within(self, within: Within) -> str:
        text = self.declared(within.step)
        for name, bounds in (("terms", within.terms), ("results", within.results)):
            each = (f"{self.affine(b.value)} data {b.data}" for b in bounds)
            text += f" {name} ({', '.join(each)})"
        if within.origin is not None:
            buffer, place = within.origin
            text += f" origin {self.name(buffer)} offset {place}"
        return text

    def factor(self, factor: Factor) -> str:
        batch = ", ".join(str(n) for n in factor.batch_strides)
        strides = f"({batch}) row {factor.row} column {factor.column} offset {factor.offset}"
        if factor.at.terms:
            strides += f" at {self.affine(factor.at)}"
        if factor.patch is None:
            return f"{self.name(factor.buffer)} {strides}"
        patch = factor.patch
        images = f"{patch.images}*{patch.image_stride}, {patch.channels}*{patch.channel_stride}"
        axes = " ".join(
            f"{name} ({', '.join(map(str, getattr(patch, name)))})" for name in _PATCH_AXES
        )
        turned = " turned" if patch.is_turned else ""
        return f"{self.name(factor.buffer)} {strides} patch ({images}) {axes}{turned}"


def _memory_text(buffer: Buffer) -> str:
    if buffer.is_private:
        return buffer.memory
    return buffer.access if buffer.memory == "argument" else f"{buffer.access} {buffer.memory}"


def print_kernel(kernel: Kernel) -> str:
    """The text of ``kernel``, ending in a newline."""
    printer = _Printer()
    printer.kernel(kernel)
    return "\n".join(printer.lines) + "\n"


# --- reading --------------------------------------------------------------------------------------


class KernelParser:
    """Reads one kernel at the cursor."""

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self.vars: dict[str, Var] = {}
        self.buffers: dict[str, Buffer] = {}

    def kernel(self) -> Kernel:
        """``kernel ...`` up to its closing brace. Raises TextError."""
        cursor = self.cursor
        cursor.expect("kernel")
        name = cursor.string()
        cursor.expect("flops")
        flops = cursor.integer()
        cursor.expect("bytes")
        count = cursor.integer()
        cursor.expect("(")
        buffers = cursor.separated(self.buffer, ")")
        spans: list[Span] = []
        while cursor.accept("@"):
            spans.append(cursor.span())
        return Kernel(name, tuple(buffers), self.body(), flops, count, tuple(spans))

    def buffer(self) -> Buffer:
        access, memory = self.storage()
        token = self.cursor.take("value")
        self.cursor.expect(":")
        dtype = self.cursor.dtype()
        self.cursor.expect("[")
        size = self.cursor.integer()
        self.cursor.expect("]")
        if token in self.buffers:
            raise self.cursor.error(f"{token} is declared twice")
        self.buffers[token] = Buffer(token[1:], dtype, size, access, memory)
        return self.buffers[token]

    def storage(self) -> tuple[Access, Memory]:
        """``read``, ``write arena``, ``thread`` ..."""
        word = self.cursor.take("word")
        match word:
            case "read" | "write" | "update":
                return word, "arena" if self.cursor.accept("arena") else "argument"
            case "block" | "thread" | "register":
                return "update", word
        raise self.cursor.error(f"`{word}` is neither an access nor private memory")

    def body(self) -> tuple[Stmt, ...]:
        """Statements between braces."""
        cursor = self.cursor
        cursor.expect("{")
        cursor.enter()
        found: list[Stmt] = []
        while not cursor.accept("}"):
            if cursor.accept("for"):
                found.append(self.loop())
            elif cursor.accept("gemm"):
                found.append(self.gemm())
            elif cursor.accept("exchange"):
                found.append(self.exchange(ends=False))
            elif cursor.accept("await"):
                found.append(self.exchange(ends=True))
            elif cursor.accept("store"):
                found.append(self.store())
            else:
                found.append(self.definition())
        cursor.leave()
        return tuple(found)

    # ---- scalars

    def declare(self) -> Var:
        """``%name: type``, whose name must be new."""
        token = self.cursor.take("value")
        self.cursor.expect(":")
        if token in self.vars:
            raise self.cursor.error(f"{token} is defined twice")
        self.vars[token] = Var(token[1:], self.cursor.dtype())
        return self.vars[token]

    def use(self) -> Var:
        token = self.cursor.take("value")
        if token not in self.vars:
            raise self.cursor.error(f"{token} is not defined here")
        return self.vars[token]

    def scalar(self) -> Scalar:
        if self.cursor.kind == "value":
            return self.use()
        dtype = self.cursor.dtype()
        self.cursor.expect("(")
        value: float | bool
        if self.cursor.kind == "word":
            value = self.cursor.next() == "true"
        else:
            value = self.cursor.number()
        self.cursor.expect(")")
        return Const(value, dtype)

    def affine(self) -> Affine:
        constant = 0
        terms: list[tuple[Var, int]] = []
        while True:
            if self.cursor.kind == "value":
                var = self.use()
                terms.append((var, self.cursor.integer() if self.cursor.accept("*") else 1))
            else:
                constant = self.cursor.integer()
            if not self.cursor.accept("+"):
                return Affine(constant, tuple(terms))

    def place(self) -> tuple[Buffer, Affine]:
        token = self.cursor.take("value")
        if token not in self.buffers:
            raise self.cursor.error(f"buffer {token} is not declared")
        self.cursor.expect("[")
        offset = self.affine()
        self.cursor.expect("]")
        return self.buffers[token], offset

    def guard(self) -> Var | None:
        return self.use() if self.cursor.accept("if") else None

    # ---- statements

    def definition(self) -> Stmt:
        """``%name: type = verb ...``; operands are read before the name is known."""
        cursor = self.cursor
        var = self.declare()
        cursor.expect("=")
        verb = cursor.take("word")
        if verb == "index":
            return Index(var, self.affine())
        if verb == "load":
            buffer, offset = self.place()
            return Load(var, buffer, offset, self.guard())
        operands = [self.scalar()]
        while cursor.accept(","):
            operands.append(self.scalar())
        return Let(var, verb, tuple(operands))

    def store(self) -> Store:
        buffer, offset = self.place()
        self.cursor.expect("=")
        value = self.scalar()
        combine = self.cursor.take("word") if self.cursor.accept("with") else ""
        match combine:
            case "" | "add" | "max" | "min" | "mul":
                return Store(buffer, offset, value, combine, self.guard())
        raise self.cursor.error(f"`{combine}` is not a combination")

    def extent(self) -> int:
        self.cursor.expect("<")
        return self.cursor.integer()

    def loop(self) -> For:
        kind = self.cursor.take("word")
        index = self.declare()
        extent = self.extent()
        limit = self.affine() if self.cursor.accept("limit") else None
        body = self.body()
        folds: list[Fold] = []
        if self.cursor.accept("fold"):
            self.cursor.expect("(")
            folds = self.cursor.separated(self.fold, ")")
        match kind:
            case "grid" | "block" | "serial" | "vector":
                return For(index, extent, kind, body, tuple(folds), limit)
        raise self.cursor.error(f"`{kind}` is not a kind of loop")

    def fold(self) -> Fold:
        result = self.declare()
        self.cursor.expect("=")
        combine = self.cursor.take("word")
        match combine:
            case "add" | "max" | "min" | "mul":
                return Fold(result, combine, self.scalar())
        raise self.cursor.error(f"`{combine}` is not a combination")

    def indexed(self) -> tuple[Var, int]:
        return self.declare(), self.extent()

    def exchange(self, *, ends: bool) -> Exchange:
        kind = self.cursor.take("word")
        token = self.cursor.take("value")
        if token not in self.buffers:
            raise self.cursor.error(f"buffer {token} is not declared")
        self.cursor.expect("of")
        ranks = self.cursor.integer()
        match kind:
            case "deal" | "share" | "deal_across" | "share_across":
                return Exchange(kind, self.buffers[token], ranks, ends)
        raise self.cursor.error(f"`{kind}` is not a kind of exchange")

    def gemm(self) -> Gemm:
        cursor = self.cursor
        cursor.expect("(")
        batch = cursor.separated(self.indexed, ")")
        i, m = self.indexed()
        cursor.expect(",")
        j, n = self.indexed()
        cursor.expect(",")
        cursor.expect("depth")
        k = cursor.integer()
        cursor.expect("left")
        left = self.factor()
        cursor.expect("right")
        right = self.factor()
        within = self.within() if cursor.accept("within") else None
        cursor.expect("into")
        acc = self.declare()
        extents, indices = tuple(n for _, n in batch), tuple(v for v, _ in batch)
        return Gemm(extents, indices, m, n, k, left, right, i, j, acc, self.body(), within)

    def within(self) -> Within:
        cursor = self.cursor
        step = self.declare()
        found: list[tuple[Bound, ...]] = []
        for name in ("terms", "results"):
            cursor.expect(name)
            cursor.expect("(")
            found.append(tuple(cursor.separated(self.bound, ")")))
        origin = None
        if cursor.accept("origin"):
            token = cursor.take("value")
            if token not in self.buffers:
                raise cursor.error(f"buffer {token} is not declared")
            cursor.expect("offset")
            origin = self.buffers[token], cursor.integer()
        return Within(step, found[0], found[1], origin)

    def bound(self) -> Bound:
        value = self.affine()
        self.cursor.expect("data")
        return Bound(value, self.cursor.integer())

    def factor(self) -> Factor:
        cursor = self.cursor
        token = cursor.take("value")
        if token not in self.buffers:
            raise cursor.error(f"buffer {token} is not declared")
        cursor.expect("(")
        strides = tuple(cursor.separated(cursor.integer, ")"))
        numbers: list[int] = []
        for word in ("row", "column", "offset"):
            cursor.expect(word)
            numbers.append(cursor.integer())
        at = self.affine() if cursor.accept("at") else Affine()
        patch = self.patch() if cursor.accept("patch") else None
        row, column, offset = numbers
        return Factor(self.buffers[token], strides, row, column, offset, patch, at)

    def patch(self) -> Patch:
        cursor = self.cursor
        numbers: list[int] = []
        cursor.expect("(")
        for end in ("*", ",", "*", ")"):
            numbers.append(cursor.integer())
            cursor.expect(end)
        axes: list[tuple[int, ...]] = []
        for name in _PATCH_AXES:
            cursor.expect(name)
            cursor.expect("(")
            axes.append(tuple(cursor.separated(cursor.integer, ")")))
        images, image_stride, channels, channel_stride = numbers
        size, taps, places, stride, step, before = axes
        is_turned = cursor.accept("turned")
        counted = (images, image_stride, channels, channel_stride)
        return Patch(*counted, size, taps, places, stride, step, before, is_turned)


def parse_kernel(text: str) -> Kernel:
    """The only kernel of ``text``. Raises TextError."""
    cursor = Cursor(text)
    found = KernelParser(cursor).kernel()
    if cursor.kind != "end":
        raise cursor.error("text after the kernel")
    return found
