"""The text form of the tensor IR: ``parse(print_function(f))`` equals ``f``, spans and attributes
included.

    function "mlp" (
      %x: f32[8, 4] input "x" @ "mlp.grad":3:11-3:16,
      %w: f32[4, 2] param "fc.w"
    ) -> (loss "loss") {
      %h = contract %x, %w {batch = (), contract = ((1, 0),)} : f32[8, 2] @ "mlp.grad":4:9-4:14 in
      "fc" %s = sum %h {axes = (0, 1)} : f32[] return %s
    }

Regions follow attributes: ``region (%p: f32[]) { ... yield %q }``. Result types are written and
checked against nothing here (``ir/ops/verify.py`` does). Names of values are hints made unique;
printing what was parsed gives the same text.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradc.ir.tensor.core import Block, Function, Op, Role, Slot, Value
from gradc.ir.tensor.text_tokens import Cursor, Names, attrs_text, place_text, quote

TERMINATORS = ("return", "yield")
_ROLES = {role.value: role for role in Role}


# --- writing --------------------------------------------------------------------------------------


class _Printer:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names = Names()

    def value(self, value: Value) -> str:
        return f"%{self.names.name(value, value.hint)}"

    def declared(self, value: Value) -> str:
        return f"{self.value(value)}: {value.type}"

    def block(self, block: Block, indent: str) -> None:
        for op in block.ops:
            self.op(op, indent)

    def op(self, op: Op, indent: str) -> None:
        operands = ", ".join(self.value(v) for v in op.operands)
        head = f"{op.name} {operands}".rstrip() + attrs_text(op.attributes)
        place = place_text(op.span, op.scope, op.replica)
        types = ", ".join(str(v.type) for v in op.results)
        tail = f" : {types}{place}" if op.results else place
        results = ", ".join(self.value(v) for v in op.results)
        if results:
            head = f"{results} = {head}"
        for region in op.regions:
            self.begin(region)
            parameters = ", ".join(self.declared(v) for v in region.parameters)
            self.lines.append(f"{indent}{head} region ({parameters}) {{")
            self.block(region, indent + "  ")
            head = "}"
        self.lines.append(f"{indent}{head}{tail}")

    def begin(self, region: Block) -> None:
        """What a region defines has names of its own, in every op that shares it."""
        for value in (*region.parameters, *(v for op in region.ops for v in op.results)):
            self.names.forget(value)

    def function(self, function: Function) -> None:
        self.lines.append(f"function {quote(function.name)} (")
        rows = zip(function.block.parameters, function.parameters, strict=True)
        for value, slot in rows:
            self.lines.append(f"  {self.declared(value)} {_slot_text(slot)},")
        results = [f"  {_slot_text(slot)}," for slot in function.results]
        self.lines += [") -> (", *results, ") {"]
        self.block(function.block, "  ")
        self.lines.append("}")


def _slot_text(slot: Slot) -> str:
    return f"{slot.role.value} {quote(slot.name)}{place_text(slot.span)}"


def print_function(function: Function) -> str:
    """The text of ``function``, ending in a newline."""
    return print_functions([function])


def print_functions(functions: Sequence[Function]) -> str:
    """The texts of several functions, one after another."""
    texts = []
    for function in functions:
        printer = _Printer()
        printer.function(function)
        texts.append("\n".join(printer.lines) + "\n")
    return "\n".join(texts)


def print_op(op: Op) -> str:
    """One op (with its regions) as it looks in a function; operands are named by their hints."""
    printer = _Printer()
    printer.op(op, "")
    return "\n".join(printer.lines)


# --- reading --------------------------------------------------------------------------------------


class _Parser:
    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self.values: dict[str, Value] = {}

    def function(self) -> Function:
        cursor = self.cursor
        cursor.expect("function")
        name = cursor.string()
        self.values = {}
        cursor.expect("(")
        declared = cursor.separated(self.parameter, ")")
        cursor.expect("->")
        cursor.expect("(")
        results = cursor.separated(self.slot, ")")
        ops = self.ops()
        block = Block(tuple(value for value, _ in declared), ops)
        slots = tuple(slot for _, slot in declared)
        return Function(name, block, slots, tuple(results))

    def parameter(self) -> tuple[Value, Slot]:
        return self.declaration(), self.slot()

    def slot(self) -> Slot:
        word = self.cursor.take("word")
        if word not in _ROLES:
            raise self.cursor.error(f"`{word}` is not a role")
        name = self.cursor.string()
        span = self.cursor.span() if self.cursor.accept("@") else None
        return Slot(name, _ROLES[word], span)

    def declaration(self) -> Value:
        token = self.cursor.take("value")
        self.cursor.expect(":")
        return self.define(token, Value(self.cursor.type(), _hint(token)))

    def define(self, token: str, value: Value) -> Value:
        if token in self.values:
            raise self.cursor.error(f"{token} is defined twice")
        self.values[token] = value
        return value

    def use(self) -> Value:
        token = self.cursor.take("value")
        if token not in self.values:
            raise self.cursor.error(f"{token} is not defined here")
        return self.values[token]

    def ops(self) -> tuple[Op, ...]:
        """Ops between braces."""
        self.cursor.expect("{")
        ops: list[Op] = []
        while not self.cursor.accept("}"):
            ops.append(self.op())
        return tuple(ops)

    def op(self) -> Op:
        cursor = self.cursor
        tokens: list[str] = []
        if cursor.kind == "value":
            tokens.append(cursor.next())
            while cursor.accept(","):
                tokens.append(cursor.take("value"))
            cursor.expect("=")
        name = cursor.take("word")
        operands: list[Value] = []
        if cursor.kind == "value":
            operands.append(self.use())
            while cursor.accept(","):
                operands.append(self.use())
        attributes = cursor.attrs()
        regions: list[Block] = []
        while cursor.accept("region"):
            regions.append(self.region())
        results = self.results(tokens)
        span, scope, replica = cursor.place()
        return Op(name, tuple(operands), results, attributes, tuple(regions), span, scope, replica)

    def results(self, tokens: list[str]) -> tuple[Value, ...]:
        """The types after the colon, given to the values named before the equals sign."""
        if not tokens:
            return ()
        self.cursor.expect(":")
        types = [self.cursor.type()]
        while self.cursor.accept(","):
            types.append(self.cursor.type())
        if len(types) != len(tokens):
            raise self.cursor.error(f"{len(tokens)} results have {len(types)} types")
        pairs = zip(tokens, types, strict=True)
        return tuple(self.define(token, Value(type_, _hint(token))) for token, type_ in pairs)

    def region(self) -> Block:
        """A region sees only its own parameters."""
        outer, self.values = self.values, {}
        self.cursor.enter()
        self.cursor.expect("(")
        parameters = self.cursor.separated(self.declaration, ")")
        block = Block(tuple(parameters), self.ops())
        self.cursor.leave()
        self.values = outer
        return block


def _hint(token: str) -> str:
    name = token[1:]
    return "" if name.isdigit() else name


def parse_functions(text: str) -> list[Function]:
    """Every function of ``text``. Raises TextError."""
    cursor = Cursor(text)
    found: list[Function] = []
    while cursor.kind != "end":
        found.append(_Parser(cursor).function())
    return found


def parse_function(text: str) -> Function:
    """The only function of ``text``. Raises TextError."""
    cursor = Cursor(text)
    found = _Parser(cursor).function()
    if cursor.kind != "end":
        raise cursor.error("text after the function")
    return found
