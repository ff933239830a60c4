"""Textual LLVM IR: modules, functions, blocks, loops. Text costs a tenth of building objects and
printing them.

Invariants: a ``Value`` is an LLVM operand with its type; every pure instruction is numbered once
per scope (``Function.op`` returns the earlier value when the same text was emitted where it
dominates), so callers may repeat themselves freely and common subexpressions cost nothing. Scopes
follow the structured control flow (``loop``, ``branch``): what is emitted inside is forgotten
outside.

Non-goals: checking types (LLVM's parser and verifier do) and any control flow that is not
structured.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from gradc.codegen.maths.floats import round_f32


class Value(NamedTuple):
    """An LLVM operand; ``str`` gives ``type name`` as instructions want it."""

    type: str
    name: str

    def __str__(self) -> str:
        return f"{self.type} {self.name}"


def vector(element: str, lanes: int) -> str:
    """The type of ``lanes`` elements; the element itself for 0 lanes (a scalar)."""
    return f"<{lanes} x {element}>" if lanes else element


def element_of(type_: str) -> str:
    """The element type of a vector type, or the type itself."""
    return type_[type_.index(" x ") + 3 : -1] if type_[0] == "<" else type_


def lanes_of(type_: str) -> int:
    """How many lanes a type has; 0 for a scalar."""
    return int(type_[1 : type_.index(" ")]) if type_[0] == "<" else 0


def with_element(type_: str, element: str) -> str:
    """A type of the same lanes with another element."""
    return vector(element, lanes_of(type_))


def literal(element: str, value: float | bool) -> str:
    """The text of a constant of a scalar type, exact to the bit."""
    if element == "double":
        return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"
    if element == "float":
        return f"0x{struct.unpack('<Q', struct.pack('<d', round_f32(float(value))))[0]:016X}"
    if element == "i1":
        return "true" if value else "false"
    bits = int(element[1:])
    wrapped = int(value) & ((1 << bits) - 1)
    return str(wrapped - (1 << bits) if wrapped >> (bits - 1) else wrapped)


def constant(type_: str, value: float | bool) -> Value:
    """A scalar constant or the splat of one."""
    element = element_of(type_)
    text = literal(element, value)
    return Value(type_, text if element == type_ else f"splat ({element} {text})")


def literal_vector(element: str, numbers: Sequence[int]) -> Value:
    """A constant vector of integers."""
    text = ", ".join(f"{element} {n}" for n in numbers)
    return Value(vector(element, len(numbers)), f"<{text}>")


def bits_suffix(type_: str) -> str:
    """The overload suffix of an intrinsic: ``f32``, ``v16f32``, ``v8i64``."""
    element = {"float": "f32", "double": "f64", "half": "f16", "bfloat": "bf16", "ptr": "p0"}.get(
        element_of(type_), element_of(type_)
    )
    lanes = lanes_of(type_)
    return f"v{lanes}{element}" if lanes else element


def _bare(parameter: str) -> str:
    """The type of a parameter without its attributes."""
    if parameter[0] == "<":
        return parameter[: parameter.index(">") + 1]
    return parameter.split(" ", 1)[0]


class Module:
    """Globals, declarations and functions, in the order of first mention."""

    def __init__(self, triple: str = "", layout: str = "", attributes: str = "nounwind") -> None:
        self.triple = triple
        self.layout = layout
        self.attributes = attributes
        self.functions: dict[str, Function] = {}
        self.globals: dict[str, str] = {}
        self._declarations: dict[str, str] = {}
        self._metadata: list[str] = []
        self._fence = ""

    def declare(self, name: str, result: str, parameters: Sequence[str], tail: str = "") -> str:
        """Declares an outside function once; returns ``name``."""
        if name not in self._declarations:
            text = f"declare {result} @{name}({', '.join(parameters)}) {tail}".rstrip()
            self._declarations[name] = text
        return name

    def add_global(self, name: str, definition: str) -> Value:
        """A global ``@name = definition``, once; returns its address."""
        self.globals.setdefault(name, definition)
        return Value("ptr", f"@{name}")

    def function(
        self,
        name: str,
        result: str,
        parameters: Sequence[tuple[str, str]],
        linkage: str = "internal",
        attributes: str = "",
    ) -> Function:
        """Starts a function; ``parameters`` are (type with attributes, name without %)."""
        if name in self.functions:
            raise ValueError(f"function {name} is defined twice")
        function = Function(self, name, result, parameters, linkage, attributes)
        self.functions[name] = function
        return function

    def metadata(self, body: str, distinct: bool = False) -> str:
        """A metadata node; ``{self}`` in ``body`` is its own number. Returns ``!n``."""
        number = len(self._metadata)
        text = body.replace("{self}", f"!{number}")
        self._metadata.append(f"!{number} = {'distinct ' if distinct else ''}!{{{text}}}")
        return f"!{number}"

    def fence(self) -> str:
        """A line over which LLVM's scheduler moves nothing: a label in the code, without a byte."""
        name = self.declare("llvm.codeview.annotation", "void", ["metadata"])
        if not self._fence:
            self._fence = self.metadata('!"order"')
        return f"call void @{name}(metadata {self._fence})"

    def text(self) -> str:
        """The whole module."""
        out: list[str] = []
        if self.layout:
            out.append(f'target datalayout = "{self.layout}"')
        if self.triple:
            out.append(f'target triple = "{self.triple}"')
        out += [f"@{name} = {definition}" for name, definition in self.globals.items()]
        out += self._declarations.values()
        out += [function.text() for function in self.functions.values()]
        out.append(f"attributes #0 = {{ {self.attributes} }}")
        out += self._metadata
        return "\n".join(out) + "\n"


_COMMUTATIVE = frozenset(("fadd", "fmul", "add", "mul", "and", "or", "xor"))


def _rank(value: Value) -> tuple[bool, int, str]:
    """Older values first, literals last."""
    return value.name[0] != "%", len(value.name), value.name


class CountedLoop:
    """An open counting loop: ``index``, the carried values inside, and after the end
    ``results``.
    """

    def __init__(self, index: Value, carried: list[Value]) -> None:
        self.index = index
        self.carried = carried
        self.next: list[Value] = []
        self.results: list[Value] = []


class Function:
    """A function under construction. Instructions go to the block that is open."""

    def __init__(
        self,
        module: Module,
        name: str,
        result: str,
        parameters: Sequence[tuple[str, str]],
        linkage: str,
        attributes: str,
    ) -> None:
        self.module = module
        self.name = name
        self.parameters = tuple(Value(_bare(t), f"%{n}") for t, n in parameters)
        signature = ", ".join(f"{t} %{n}" for t, n in parameters)
        head = f"define {linkage} {result} @{name}({signature}) #0 {attributes}".rstrip()
        self._head = head + " {"
        self.lines: list[str] = ["entry:"]
        self._allocas: list[str] = []
        self.label = "entry"
        self._count = 0
        self._scopes: list[dict[str, Value]] = [{}]
        self._pace = self._since = 0

    def text(self) -> str:
        entry, *rest = self.lines
        return "\n".join([self._head, entry, *self._allocas, *rest, "}"])

    # ---- instructions -----------------------------------------------------------------------

    def fresh(self) -> str:
        """A new local name."""
        self._count += 1
        return f"%v{self._count}"

    def op(self, text: str, type_: str) -> Value:
        """A pure instruction: the value it gave before, where that dominates, or a new one."""
        for scope in reversed(self._scopes):
            known = scope.get(text)
            if known is not None:
                return known
        value = self.effect(text, type_)
        self._scopes[-1][text] = value
        if self._pace:
            self._since += 1
            if self._since % self._pace == 0:
                self.line(self.module.fence())
        return value

    @contextmanager
    def in_order(self, pace: int = 4) -> Iterator[None]:
        """Pure instructions emitted inside stay where they are, but for a few that follow each
        other.

        LLVM's scheduler moves the instructions of a long block by their estimated latency, and then
        its registers do not suffice: what was interleaved when it was emitted is spilled.
        """
        before, self._pace = self._pace, pace
        try:
            yield
        finally:
            self._pace = before

    def effect(self, text: str, type_: str) -> Value:
        """An instruction with a result that must not be shared (loads, phis, calls with
        effects).
        """
        value = Value(type_, self.fresh())
        self.lines.append(f"  {value.name} = {text}")
        return value

    def line(self, text: str) -> None:
        """An instruction without a result."""
        self.lines.append(f"  {text}")

    def binary(self, opcode: str, a: Value, b: Value) -> Value:
        """``opcode type a, b``; operands of commutative ones in one order, so that both orders are
        one value.
        """
        if opcode in _COMMUTATIVE and _rank(b) < _rank(a):
            a, b = b, a
        return self.op(f"{opcode} {a}, {b.name}", a.type)

    def compare(self, predicate: str, a: Value, b: Value) -> Value:
        """``icmp``/``fcmp`` by the name of the predicate, such as ``icmp slt`` or ``fcmp olt``."""
        return self.op(f"{predicate} {a}, {b.name}", with_element(a.type, "i1"))

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        return self.op(f"select {condition}, {a}, {b}", a.type)

    def convert(self, opcode: str, a: Value, type_: str) -> Value:
        """``opcode a to type``; nothing if the type is that already."""
        return a if a.type == type_ else self.op(f"{opcode} {a} to {type_}", type_)

    def intrinsic(self, name: str, *operands: Value) -> Value:
        """A pure intrinsic overloaded on its one type, such as ``llvm.fma``."""
        type_ = operands[0].type
        full = f"{name}.{bits_suffix(type_)}"
        self.module.declare(full, type_, [v.type for v in operands])
        return self.op(f"call {type_} @{full}({', '.join(map(str, operands))})", type_)

    def call(self, name: str, result: str, *operands: Value, pure: bool = False) -> Value:
        """A call with a result; declare outside functions first."""
        text = f"call {result} @{name}({', '.join(map(str, operands))})"
        return self.op(text, result) if pure else self.effect(text, result)

    def splat(self, a: Value, lanes: int) -> Value:
        """``a`` in every lane; ``a`` itself if it is a vector already or ``lanes`` is 0.

        A condition is spread as a number: where a vector of conditions is wider than a register,
        LLVM 22 on AVX2 lets masks that join one condition with different constants read each
        other's lanes.
        """
        if not lanes or a.type[0] == "<":
            return a
        type_ = vector(a.type, lanes)
        if not a.name.startswith("%"):
            return Value(type_, f"splat ({a})")
        if a.type == "i1":
            wide = self.splat(self.convert("sext", a, "i32"), lanes)
            return self.compare("icmp ne", wide, constant(wide.type, 0))
        one = self.op(f"insertelement {type_} poison, {a}, i64 0", type_)
        return self.op(
            f"shufflevector {one}, {type_} poison, <{lanes} x i32> zeroinitializer", type_
        )

    def shuffle(self, a: Value, b: Value | None, indices: Sequence[int]) -> Value:
        """Lanes of ``a`` (0..n-1) and ``b`` (n..) in the order of ``indices``."""
        second = f"{a.type} poison" if b is None else str(b)
        picks = ", ".join(f"i32 {i}" for i in indices)
        type_ = vector(element_of(a.type), len(indices))
        return self.op(f"shufflevector {a}, {second}, <{len(indices)} x i32> <{picks}>", type_)

    def extract(self, a: Value, lane: int) -> Value:
        """One lane as a scalar."""
        return self.op(f"extractelement {a}, i64 {lane}", element_of(a.type))

    def address(self, base: Value, element: str, index: Value) -> Value:
        """``base + index`` elements; ``index`` may be a vector of i64."""
        type_ = vector("ptr", lanes_of(index.type))
        return self.op(f"getelementptr {element}, {base}, {index}", type_)

    def load(self, pointer: Value, type_: str, align: int) -> Value:
        return self.effect(f"load {type_}, {pointer}, align {align}", type_)

    def store(self, value: Value, pointer: Value, align: int) -> None:
        self.line(f"store {value}, {pointer}, align {align}")

    def alloca(self, type_: str, count: int = 1, align: int = 64) -> Value:
        """Stack storage, made once in the entry block wherever it is asked for."""
        value = Value("ptr", self.fresh())
        self._allocas.append(f"  {value.name} = alloca {type_}, i64 {count}, align {align}")
        return value

    def ret(self, value: Value | None = None) -> None:
        self.line("ret void" if value is None else f"ret {value}")

    # ---- structured control flow --------------------------------------------------------------

    def begin_block(self, label: str) -> None:
        """Opens a block; the one before must have ended in a terminator."""
        self.lines.append(f"{label}:")
        self.label = label

    def new_label(self, hint: str) -> str:
        self._count += 1
        return f"{hint}{self._count}"

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Values numbered inside are forgotten at the end."""
        self._scopes.append({})
        try:
            yield
        finally:
            self._scopes.pop()

    @contextmanager
    def loop(
        self,
        begin: Value,
        end: Value,
        step: int,
        carried: Sequence[Value] = (),
        nonempty: bool = False,
        metadata: str = "",
    ) -> Iterator[CountedLoop]:
        """``for index = begin; index < end; index += step``; the body sets ``next`` to the new
        carried values.

        ``nonempty`` promises a first trip. ``metadata`` is a ``!llvm.loop`` node.
        """
        before, body, after = self.label, self.new_label("loop"), self.new_label("done")
        if nonempty:
            self.line(f"br label %{body}")
        else:
            enter = self.op(f"icmp slt {begin}, {end.name}", "i1")
            self.line(f"br {enter}, label %{body}, label %{after}")
        self.begin_block(body)
        phis = [Value(v.type, self.fresh()) for v in (begin, *carried)]
        slot = len(self.lines)
        self.lines += [""] * len(phis)
        loop = CountedLoop(phis[0], phis[1:])
        with self.scope():
            yield loop
            bump = self.effect(f"add nsw {loop.index}, {step}", loop.index.type)
            again = self.effect(f"icmp slt {bump}, {end.name}", "i1")
        latch = self.label
        tail = f", !llvm.loop {metadata}" if metadata else ""
        self.line(f"br {again}, label %{body}, label %{after}{tail}")
        for n, (phi, first, new) in enumerate(
            zip(phis, (begin, *carried), (bump, *loop.next), strict=True)
        ):
            self.lines[slot + n] = (
                f"  {phi.name} = phi {phi.type} [ {first.name}, %{before} ], [ {new.name}, "
                f"%{latch} ]"
            )
        self.begin_block(after)
        if nonempty:
            loop.results = list(loop.next)
        else:
            loop.results = [
                self.effect(
                    f"phi {v.type} [ {first.name}, %{before} ], [ {v.name}, %{latch} ]", v.type
                )
                for first, v in zip(carried, loop.next, strict=True)
            ]

    @contextmanager
    def branch(self, condition: Value, otherwise: Sequence[Value] = ()) -> Iterator[CountedLoop]:
        """Runs the body only if ``condition``; ``results`` are its ``next``, or else
        ``otherwise``.
        """
        before, body, after = self.label, self.new_label("then"), self.new_label("join")
        self.line(f"br {condition}, label %{body}, label %{after}")
        self.begin_block(body)
        arm = CountedLoop(condition, [])
        with self.scope():
            yield arm
        end = self.label
        self.line(f"br label %{after}")
        self.begin_block(after)
        arm.results = [
            self.effect(f"phi {v.type} [ {v.name}, %{end} ], [ {w.name}, %{before} ]", v.type)
            for v, w in zip(arm.next, otherwise, strict=True)
        ]
