"""The gradient as formulas: every cotangent that the program names, and every parameter's gradient, in matrix notation.

The formulas are read off the adjoint program and simplified there (``codegen.symbolic``); nothing is looked up. A
cotangent that is used once is written where it is used, unless the line would get too long; one that comes back along
several ways is also given way by way: direct, through a mean, through a variance.

They hold for all sizes: the program is elaborated at sizes that are distinct primes, so that every number in a formula
tells which dimension it is. Sizes that the program fixes stay numbers.

If the loss is a mean, the same formulas are also given for its sum (``scale``), as textbooks write them.

Non-goals: values (``whiteboard``), proofs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from gradc.codegen.symbolic import index_terms as it
from gradc.codegen.symbolic.index_expand import Reader
from gradc.codegen.symbolic.index_fold import Definition, Folder
from gradc.codegen.symbolic.index_print import Writer
from gradc.codegen.symbolic.notation import COTANGENT, Notation, to_text
from gradc.frontend.models import ModelIR
from gradc.ir.core import Function, Op, Role, Span, Value
from gradc.ir.diagnostics import DiagnosticError
from gradc.ir.dims import symbols
from gradc.passes.differentiate_trace import Traced, traced_gradient
from gradc.runtime.whiteboard import Steps, cut, is_made_up, own_place, without_checkpoints

if TYPE_CHECKING:
    from gradc.runtime.model import Model

PRIMES = (53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103)
_LONG = 26
_MOST_NAMES = 240


@dataclass(frozen=True, slots=True)
class Way:
    """One summand of a cotangent and what it comes back through."""

    label: str
    equation: Notation


@dataclass(frozen=True, slots=True)
class Formula:
    """``equation`` says what the cotangent of ``of`` is; ``scaled`` the same for the sum instead of the mean."""

    of: str
    equation: Notation
    scaled: Notation | None
    ways: tuple[Way, ...]
    place: Span | None
    is_parameter: bool

    def __str__(self) -> str:
        return to_text(self.equation)


@dataclass(frozen=True, slots=True)
class Formulas:
    """The gradient of one model. ``definitions`` are its own lines; ``scale`` is the count the loss is divided by."""

    model: str
    definitions: tuple[Notation, ...]
    gradients: tuple[Formula, ...]
    scale: str
    assumptions: tuple[str, ...]

    def of(self, name: str) -> Formula:
        """The formula of the cotangent of ``name``. Raises KeyError."""
        for formula in self.gradients:
            if formula.of == name:
                return formula
        raise KeyError(name)


def gradient_formulas(model: Model, wrt: Sequence[str] | None = None) -> Formulas:
    """The formulas of ``model``; by default for its parameters, or the inputs of a model without any."""
    ir, names = _generic(model)
    chosen = tuple(wrt) if wrt is not None else model.select("params") or model.select("inputs")
    return _Finder(ir, names, chosen).formulas()


def _generic(model: Model) -> tuple[ModelIR, dict[int, str]]:
    """The model at sizes that tell dimensions apart, as far as it allows them to be chosen."""
    shapes = [t.shape for t in (*model.inputs.values(), *model.params.values())]
    free = dict.fromkeys(name for shape in shapes for d in shape for name in symbols(d))
    signature = model.signature.dims
    every = dict.fromkeys(
        (*free, *(n for n, d in signature.items() if d is None or n in _shaping(model)))
    )
    given = {n: d for n, d in {**signature, **model.dims}.items() if d is not None}
    open_ones = [n for n in every if n not in given]
    for names in (list(every), open_ones):
        sizes = dict(zip(names, PRIMES, strict=False))
        try:
            # The dimensions chosen here win over those the model was loaded with.
            ir = model.program.lower(model.name, {**given, **sizes}, model.precision)
        except DiagnosticError:
            continue
        return ir, {size: name for name, size in sizes.items()}
    return model.lower(dict.fromkeys(open_ones, PRIMES[0])), {}


def _shaping(model: Model) -> dict[str, None]:
    """Dimensions that occur in the shape of an input or parameter as such."""
    specs = (*model.signature.inputs, *model.signature.parameters)
    return dict.fromkeys(n for spec in specs for d in spec.type.shape for n in symbols(d))


class _Finder:
    """Finds the formulas of one model."""

    def __init__(self, ir: ModelIR, dims: Mapping[int, str], wrt: Sequence[str]) -> None:
        self.ir = ir
        self.function, named = without_checkpoints(ir)
        self.wrt = wrt
        self.traced: Traced = traced_gradient(self.function, wrt)
        self.writer = Writer(dims)
        self.dims = dims
        block = self.traced.function.block
        self.producers = {r: op for op in block.body for r in op.results}
        self.parameters = dict(
            zip(self.function.block.parameters, self.function.parameters, strict=True)
        )
        self.names: dict[Value, str] = {v: s.name for v, s in self.parameters.items()}
        steps = cut(self.function, named)
        for value, op in steps.results:
            name = steps.names[value]
            if len(self.names) < _MOST_NAMES + len(self.parameters) and (
                not is_made_up(name) or _is_layer(op, steps, self.function)
            ):
                self.names[value] = name
        self.pullbacks = self._pullbacks()
        self.assumptions: dict[str, None] = {}
        self.definitions = [
            Definition(self.names[v], *Reader(self.producers, self.names).formula(v, through=True))
            for v in self.names
            if v in self.producers
        ]
        self.targets = [
            s.name
            for v, s in self.parameters.items()
            if s.role is Role.INPUT and v.type.dtype.is_float
        ]

    def _pullbacks(self) -> dict[Value, str]:
        """Contributions of ops that the index algebra has no words for, as applications of their pullbacks."""
        makers = {r: op for op in self.function.block.body for r in op.results}
        found = {}
        for parts in self.traced.parts.values():
            for part in parts:
                op = makers.get(part.through[0]) if part.through else None
                if op is not None and op.name in _WORDLESS:
                    of = self.names.get(op.results[0], "...")
                    found[part.value] = f"pullback_{op.name}(d{of})"
        return found

    # --- which cotangents get a line of their own

    def _atoms(self, inlined: Sequence[Value] = ()) -> dict[Value, str]:
        """Names, and the cotangents that have a line of their own."""
        atoms = {**self.pullbacks, **self.names}
        loss = self.function.block.outputs[0]
        for value, name in self.names.items():
            ct = self.traced.of.get(value)
            if value in self.parameters or ct is None or ct not in self.producers:
                continue
            if value not in inlined and ct is not self.traced.of.get(loss):
                atoms.setdefault(ct, COTANGENT + name)
        return atoms

    def _polys(self, atoms: Mapping[Value, str]) -> dict[Value, tuple[tuple[int, ...], it.Poly]]:
        found = {}
        for value, name in self.names.items():
            ct = self.traced.of.get(value)
            is_wanted = value not in self.parameters or name in self.wrt
            if ct is not None and is_wanted and (value in self.parameters or ct in atoms):
                own = atoms.get(ct) == COTANGENT + name
                if value not in self.parameters and not own:
                    continue
                found[value] = self._short(ct, atoms, through=own)
        return found

    def _short(
        self, ct: Value, atoms: Mapping[Value, str], through: bool
    ) -> tuple[tuple[int, ...], it.Poly]:
        reader = Reader(self.producers, atoms)
        at, poly = reader.formula(ct, through=through)
        folder = Folder(self.definitions, self.targets)
        short = folder.shortest(poly)
        self.assumptions.update(reader.assumptions)
        self.assumptions.update(folder.assumptions)
        return at, short

    def _inlined(self) -> list[Value]:
        """Values whose cotangent is used once, in a line that stays short."""
        inlined: list[Value] = []
        atoms = self._atoms()
        polys = self._polys(atoms)
        texts = {value: repr(poly) for value, (_, poly) in polys.items()}
        uses = {
            name: sum(text.count(f"Ref(name={name!r}") for text in texts.values())
            for name in atoms.values()
            if name.startswith(COTANGENT)
        }
        for value in list(polys):
            name = COTANGENT + self.names[value]
            if value in self.parameters or uses.get(name) != 1:
                continue
            trial = self._atoms([*inlined, value])
            changed = [
                self._short(
                    self.traced.of[v],
                    trial,
                    trial.get(self.traced.of[v]) == COTANGENT + self.names[v],
                )
                for v, text in texts.items()
                if f"Ref(name={name!r}" in text and v is not value and v not in inlined
            ]
            if all(it.size_of(poly) <= _LONG for _, poly in changed):
                inlined.append(value)
        return inlined

    # --- what is shown

    def formulas(self) -> Formulas:
        """All lines, last cotangent first, then the parameters."""
        atoms = self._atoms(self._inlined())
        self.assumptions.clear()
        polys = self._polys(atoms)
        scale = self._scale()
        inner = [v for v in reversed(list(polys)) if v not in self.parameters]
        outer = [v for v in polys if v in self.parameters]
        found = tuple(self._formula(v, *polys[v], atoms, scale) for v in (*inner, *outer))
        definitions = tuple(self._definition(d) for d in self.definitions)
        return Formulas(
            self.ir.name, definitions, found, scale[1] if scale else "", tuple(self.assumptions)
        )

    def _definition(self, definition: Definition) -> Notation:
        short = Folder(()).shortest(definition.poly)
        at = tuple(i for i in definition.at if isinstance(i, int))
        return self.writer.equation(definition.name, at, short, self._sizes(definition.name))

    def _sizes(self, name: str) -> tuple[int, ...]:
        for value, known in self.names.items():
            if known == name:
                return value.type.static_shape
        return ()

    def _scale(self) -> tuple[int, str] | None:
        """The count that the loss is the mean over."""
        loss = self.function.block.outputs[0]
        op = self.producers.get(loss)
        divisor = (
            self.producers.get(op.operands[1]) if op is not None and op.name == "div" else None
        )
        if divisor is None or divisor.name != "constant":
            return None
        count = divisor.attributes["value"]
        if not isinstance(count, float) or not count.is_integer() or count < 2:
            return None
        number = self.writer.notate((), it.number(Fraction(int(count))))
        return int(count), to_text(number)

    def _formula(
        self,
        value: Value,
        at: tuple[int, ...],
        poly: it.Poly,
        atoms: Mapping[Value, str],
        scale: tuple[int, str] | None,
    ) -> Formula:
        name = COTANGENT + self.names[value]
        sizes = value.type.static_shape
        scaled = None
        if scale is not None:
            # Cotangents on the way are those of the sum; a parameter's gradient stays that of the mean.
            own = Fraction(1) if value in self.parameters else Fraction(scale[0])
            changed = it.plus(
                *(it.scaled((t,), own / Fraction(scale[0]) ** _cotangents(t)) for t in poly)
            )
            scaled = self.writer.equation(name, at, changed, sizes)
        return Formula(
            self.names[value],
            self.writer.equation(name, at, poly, sizes),
            scaled,
            self._ways(value, at, atoms),
            self._place(value),
            value in self.parameters,
        )

    def _place(self, value: Value) -> Span | None:
        op = self.producers.get(value)
        return own_place(op.span) if op is not None else self.parameters[value].span

    def _ways(
        self, value: Value, at: tuple[int, ...], atoms: Mapping[Value, str]
    ) -> tuple[Way, ...]:
        """The summands by the named value that they come back through."""
        parts = self.traced.parts.get(value, ())
        by_name: dict[Value, list[Value]] = {}
        for part in parts:
            target = self._named_after(part.through)
            if target is not None:
                by_name.setdefault(target, []).append(part.value)
        if len(by_name) < 2:
            return ()
        ways = []
        inner = {
            v: n
            for v, n in atoms.items()
            if not n.startswith(COTANGENT) or v not in self._all(by_name)
        }
        for target, values in by_name.items():
            reader = Reader(self.producers, inner)
            poly = it.plus(*(reader.read(v, at) for v in values))
            short = Folder(self.definitions, self.targets).shortest(poly)
            label = self._label(target, by_name)
            equation = self.writer.equation(label, at, short, value.type.static_shape)
            ways.append(Way(label, equation))
        return tuple(sorted(ways, key=lambda way: way.label != "direct"))

    def _all(self, by_name: Mapping[Value, Sequence[Value]]) -> set[Value]:
        return {v for values in by_name.values() for v in values}

    def _named_after(self, through: Sequence[Value]) -> Value | None:
        """The first named value on the way forward from ``through``."""
        readers: dict[Value, list[Value]] = {}
        for op in self.function.block.body:
            for operand in op.operands:
                readers.setdefault(operand, []).append(op.results[0])
        frontier, seen = list(through), set[Value]()
        while frontier:
            value = frontier.pop(0)
            if value in self.names and value not in self.parameters:
                return value
            if value in self.function.block.outputs:
                return value
            if value not in seen:
                seen.add(value)
                frontier += readers.get(value, [])
        return None

    def _label(self, target: Value, others: Mapping[Value, object]) -> str:
        """``direct`` for the value that all others lead to, else mean, variance or the name."""
        name = self.names.get(target, "the loss")
        rest = [v for v in others if v is not target]
        if all(self._reaches(v, target) for v in rest):
            return "direct"
        definition = next((d for d in self.definitions if d.name == name), None)
        kind = _statistic(definition.poly) if definition is not None else ""
        return f"through the {kind} {name}" if kind else f"through {name}"

    def _reaches(self, value: Value, target: Value) -> bool:
        pending, seen = [target], set[Value]()
        while pending:
            here = pending.pop()
            if here is value:
                return True
            op = self.producers.get(here)
            if op is not None and here not in seen:
                seen.add(here)
                pending += op.operands
        return False


# Ops whose derivative is named, not written out.
_WORDLESS = ("max_pool", "avg_pool", "scan", "cumsum", "custom", "prod", "reduce_max", "reduce_min")


def _is_layer(op: Op, steps: Steps, function: Function) -> bool:
    """Whether a value without a name is worth one: what matrices are multiplied to or with."""
    step = steps.step_of.get(op)
    mine = {r for o in function.block.body if steps.step_of.get(o) == step for r in o.results}
    for other in function.block.body:
        if other.name in _MATRIX and (
            steps.step_of.get(other) == step or any(v in mine for v in other.operands)
        ):
            return op.results[0].type.rank > 0
    return False


_MATRIX = ("contract", "conv2d", "take", "max_pool", "avg_pool", "scan")


def _cotangents(term: it.Term) -> int:
    """How many cotangents a term is a product of: 1, or 0 where the chain starts."""
    return 1 if f"name='{COTANGENT}" in repr(term) else 0


def _statistic(poly: it.Poly) -> str:
    """``mean`` or ``variance`` if that is what a definition computes."""
    if len(poly) != 1 or len(poly[0].factors) != 1:
        return ""
    base, exponent = poly[0].factors[0]
    if not isinstance(base, it.Sigma) or exponent != 1 or len(base.factors) != 1:
        return ""
    count = 1
    for size in base.sizes:
        count *= size
    inner, power = base.factors[0]
    if poly[0].coefficient != Fraction(1, count):
        return ""
    if isinstance(inner, it.Ref) and power == 1:
        return "mean"
    return "variance" if isinstance(inner, it.Group) and power == 2 else ""
